"""Known landscapes through the probe, its pairs and Lanczos on its seeds, against their Hessians."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from es_lightning.landscape import known
from es_lightning.landscape.arrays import Array
from es_lightning.landscape.curvature.budget import SampledHessian
from es_lightning.landscape.curvature.curvature import Curvature, Pairs, curvature
from es_lightning.landscape.curvature.es_hessian import ESHessian, start_weights, without_sampling
from es_lightning.landscape.curvature.lanczos import lanczos
from es_lightning.landscape.curvature.measured_pairs import PAIRS, of_objective
from es_lightning.landscape.known import KnownLandscape
from es_lightning.landscape.probing.probe import Probe, ProbeSettings
from es_lightning.landscape.probing.results import ProbeResults
from es_lightning.records import Member

COUNT = 1000  # pairs, and seeds
PROMPTS = 4
SADDLE = np.array([-4.0, -3.0, -2.0, 1.0])
QUADRATICS = {
    "quadratic": (known.quadratic(5, curvature=2.0, start=0.7), np.full(5, -2.0), slice(5), 1.4),
    "ridge": (known.ridge(1.5, 2.0, 3), np.full(3, -2.0), slice(1, 4), 1.5),
    "saddle": (
        KnownLandscape(lambda x: np.repeat(x[:, :4] ** 2 @ SADDLE[:, None] / 2, 8, 1), np.zeros(30)),
        SADDLE,
        slice(4),
        0.0,
    ),
}
"""A landscape, the eigenvalues of its Hessian that are not 0, their coordinates, and the slope's length."""


def probed(landscape: KnownLandscape, sigma: float, folder: Path) -> ProbeResults:
    """The second half of 8 prompts, of a probe in pairs."""
    settings = ProbeSettings((sigma,), 2 * COUNT, 1, PROMPTS, antithetic=True)
    about = {"prompt_ids": [*"abcd", *"abcd"]}
    Probe(replace(landscape, at_once=2 * COUNT), settings, folder / PAIRS, about).run()
    return of_objective(ProbeResults.read(folder / PAIRS), "reward")


def of_pairs(results: ProbeResults) -> Curvature:
    [sigma], [rewards] = results.sigmas, results.rewards(results.sigmas[0])
    return curvature(Pairs(rewards[::2], rewards[1::2], results.centre, sigma))


@pytest.mark.parametrize("name", QUADRATICS)
def test_pairs_of_a_probe_tell_traces_participation_and_slope(name: str, tmp_path: Path) -> None:
    landscape, spectrum, _, slope = QUADRATICS[name]
    found = of_pairs(probed(landscape, 0.5, tmp_path))
    trace, square = spectrum.sum(), (spectrum**2).sum()
    # Of q = eps^T H eps, the variance is 2 tr H^2 and the fourth cumulant 48 tr H^4.
    errors = {
        "trace": (trace, np.sqrt(2 * square / COUNT)),
        "trace_square": (square, np.sqrt((12 * (spectrum**4).sum() + 2 * square**2) / COUNT)),
        "gradient_square": (slope**2, slope**2 * np.sqrt(2 / COUNT)),
    }
    for each, (truth, error) in errors.items():
        estimate = getattr(found, each)
        assert estimate.value == pytest.approx(truth, abs=4 * error + 1e-9), each
        if error:
            assert estimate.high - estimate.low == pytest.approx(2 * 1.96 * error, rel=0.35), each
    ratio, value = trace**2 / square, found.participation.value
    # Twice as wide, a 95 % interval is 4 standard errors.
    assert 2 * found.participation.low - value <= ratio <= 2 * found.participation.high - value
    assert found.participation.high - found.participation.low <= 0.5 * ratio


def test_pairs_in_a_double_well_tell_its_one_curvature(tmp_path: Path) -> None:
    found = of_pairs(probed(known.double_well(), 0.01, tmp_path))  # H = -8; other orders are sigma^2 of it
    assert found.trace.value == pytest.approx(-8, abs=4 * 8 * np.sqrt(2 / COUNT))
    assert found.trace_square.value == pytest.approx(64, abs=4 * 64 * np.sqrt(14 / COUNT))
    assert found.participation.value == pytest.approx(1, abs=0.4)  # sqrt(8 / K), 4 standard errors


def lanczos_on(landscape: KnownLandscape, seeds: list[int], sigma: float, steps: int) -> SampledHessian:
    """Lanczos on common seeds, every reward being one of the landscape's own members."""
    members = [Member(index, seed) for index, seed in enumerate(seeds)]
    noise = np.stack([landscape.noise(member) for member in members])

    def rewards(weights: Array) -> Array:
        moved = replace(landscape, start=landscape.start + weights @ noise)
        return moved.members(members, sigma).mean(axis=1)

    start = start_weights(len(seeds), np.random.default_rng(0))
    return SampledHessian(
        lanczos(ESHessian(rewards, sigma), start, steps), len(seeds), 2 * len(seeds) * steps
    )


@pytest.mark.parametrize("name", QUADRATICS)
def test_lanczos_on_the_seeds_of_a_probe_finds_the_known_spectrum(name: str, tmp_path: Path) -> None:
    landscape, spectrum, curved, _ = QUADRATICS[name]
    seeds = probed(landscape, 0.5, tmp_path).seeds
    rank = len(spectrum)
    found = lanczos_on(landscape, seeds, 0.5, rank + 1)
    noise = np.stack([landscape.noise(Member(0, seed))[curved] for seed in seeds])
    noise -= noise.mean(axis=0)
    # K = C E^T H E C / N has the eigenvalues of H (E C E^T) / N, and zeros.
    sample = np.sort(np.linalg.eigvals(noise.T @ noise * spectrum / COUNT).real)
    values = found.spectrum.values
    seen = np.sort(values[np.argsort(-np.abs(values))[:rank]])
    assert seen == pytest.approx(sample, rel=1e-6)
    assert found.krylov.asymmetry < 1e-6
    # Ostrowski: each is that of H times a squared singular value of C E^T / sqrt(N). By Davidson and Szarek
    # all of these are within (sqrt(rank) + 4) / sqrt(N) of 1 but for a chance of 2 exp(-8).
    scale = seen / np.sort(spectrum)
    assert np.abs(np.sqrt(scale) - 1).max() <= (np.sqrt(rank) + 4) / np.sqrt(COUNT)
    trace, square = spectrum.sum(), (spectrum**2).sum()
    assert found.spectrum.trace == pytest.approx(trace, abs=4 * np.sqrt(2 * square / COUNT))
    assert found.participation == pytest.approx(
        without_sampling(sample.sum() ** 2 / (sample**2).sum(), COUNT), rel=1e-6
    )
    # To first order only what differs between eigenvalues moves the ratio; the second is (rank + 1) / N.
    moves = 2 * spectrum / trace - 2 * spectrum**2 / square
    error = np.sqrt(2 / COUNT * (moves**2).sum())
    assert found.participation == pytest.approx(trace**2 / square, rel=4 * error + (rank + 1) / COUNT)
