"""What the report says: which numbers can be trusted, and whether few directions are curved."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from es_lightning.analysis.intervals import Estimate
from es_lightning.cli.curvature_measured import Measured
from es_lightning.cli.curvature_pairs_words import _cost, _low
from es_lightning.cli.curvature_verdict import _of_needed_seeds, _of_seeds
from es_lightning.landscape.arrays import Array
from es_lightning.landscape.curvature.budget import SampledHessian
from es_lightning.landscape.curvature.edge import needed_seeds
from es_lightning.landscape.curvature.lanczos import lanczos
from es_lightning.landscape.curvature.settings import CurvatureSettings

SEEDS, STEPS = 48, 12
NOISE = np.random.default_rng(0).standard_normal((SEEDS, SEEDS))
ROTATION = np.linalg.qr(np.random.default_rng(1).standard_normal((SEEDS, SEEDS)))[0]
LARGE = np.array([-9.0, 5.0, -3.0, 2.0])
FEW = ROTATION[:, :4] @ np.diag(LARGE) @ ROTATION[:, :4].T


class Known(Measured):
    """Pairs that have found tr H and tr H^2."""

    @property
    def at_largest(self) -> Any:
        trace, square, high = self.results  # type: ignore[misc]
        return SimpleNamespace(trace=Estimate(trace, 0, 0), trace_square=Estimate(square, square / 2, high))


def sampled(matrix: Array, steps: int) -> SampledHessian:
    whole = torch.from_numpy(matrix)
    krylov = lanczos(lambda v: whole @ v, torch.from_numpy(ROTATION.sum(axis=1)), steps)
    return SampledHessian(krylov, SEEDS, 2 * steps * SEEDS)


def known(
    own: Array,
    control: Array | None = None,
    steps: int = STEPS,
    pairs: tuple[float, float, float] = (-5.0, 119.0, 150.0),
) -> Known:
    found = {"seeds": own} | ({} if control is None else {"control": control})
    truth: Any = SimpleNamespace(top=(np.array([-10.0, 4.0]), np.array([True, True])))
    operators = {kind: sampled(matrix, steps) for kind, matrix in found.items()}
    return Known("", "", CurvatureSettings(seeds=SEEDS), pairs, truth, operators)  # type: ignore[arg-type]


def test_eigenvalues_outside_the_edge_of_sampling_noise_are_seen() -> None:
    text = _of_seeds(known(FEW))
    assert "At this budget 2 of 5 are seen as eigenvalues of H, and 2 if tr H^2 is" in text
    assert "- -9: outside; corrected for a bias of" in text
    assert "- 5: outside; corrected" in text
    assert "- 2: inside, and not to be told from noise" in text
    assert "The largest that autograd knows is -10." in text
    assert "and 1 if tr H^2 is" in _of_seeds(known(FEW, pairs=(-5.0, 119.0, 300.0)))


def test_a_symmetric_operator_of_sampling_noise_is_not_trusted() -> None:
    # 3,000 eigenvalues of 1 and -1: what 48 seeds see is symmetric, and reaches to 16.
    bulk = np.where(np.arange(3000) % 2, 1.0, -1.0)
    eps = np.random.default_rng(4).standard_normal((3000, SEEDS))
    whole = eps.T * bulk @ eps / SEEDS
    measured = known(whole, steps=SEEDS - 1, pairs=(0.0, 3000.0, 4000.0))
    assert np.abs(measured.sampled["seeds"].krylov.ritz[0]).max() > 13
    assert measured.sampled["seeds"].krylov.asymmetry < 1e-6
    text = _of_seeds(measured)
    need = needed_seeds(-10.0, 3000.0)
    assert (
        f"is seen: 48 seeds are too few. The largest eigenvalue that autograd knows, -10, takes {need}."
        in text
    )


def test_an_operator_that_is_not_symmetric_is_not_trusted() -> None:
    assert "the spectrum cannot be trusted" in _of_seeds(known(NOISE))


def test_a_symmetric_operator_of_which_nothing_has_converged_is_not_trusted() -> None:
    assert "the spectrum cannot be trusted" in _of_seeds(known(NOISE + NOISE.T, steps=4))


def test_a_tr_h2_that_is_no_more_than_noise_gives_no_edge() -> None:
    text = _of_seeds(known(FEW, pairs=(-5.0, -3.0, float("nan"))))
    assert "the noise of the seeds is not known" in text
    assert "seen" not in text


def test_a_participation_is_told_of_all_eigenvalues_or_not_at_all() -> None:
    ratio = 25 / 119
    assert f"Signed participation ratio {ratio:.3g}, {1 / (1 / ratio - 1 / SEEDS):.3g} without" in _of_seeds(
        known(FEW)
    )
    whole = ROTATION @ np.diag(np.linspace(-9, 9, SEEDS)) @ ROTATION.T
    assert "12 steps have not found all of its eigenvalues" in _of_seeds(known(whole))


def test_permuted_rewards_are_said_to_know_nothing_of_sampling_noise() -> None:
    assert "nothing of sampling noise" in _of_seeds(known(FEW, NOISE))


def test_the_seeds_that_known_eigenvalues_need_are_named() -> None:
    need = needed_seeds(4.0, 119.0)
    assert f"4: {need} seeds, {2 * need} evaluations a step" in _of_needed_seeds(known(FEW))


def test_what_steps_cost_has_an_interval_whose_end_may_be_infinite() -> None:
    text = _cost(Estimate(0.5, 0.25, 0.8))
    assert "explains 25% (6% to 64%)" in text
    assert "takes 4 times as many members (1.56 to 16)" in text
    assert "(1.56 to infinitely)" in _cost(Estimate(0.5, -0.1, 0.8))
    assert _cost(Estimate(float("nan"), 0, 0)) == ""


def low(eigenvalues: list[float], ratio_high: float, square_high: float) -> str:
    values = np.array(eigenvalues)
    found: Any = SimpleNamespace(
        participation=SimpleNamespace(high=ratio_high), trace_square=SimpleNamespace(high=square_high)
    )
    measured: Any = SimpleNamespace(dimension=10_000, truth=SimpleNamespace(sure=(values, np.zeros(0))))
    return _low(found, measured)


def test_a_signed_ratio_that_cancels_is_not_taken_for_few_directions() -> None:
    # 500 eigenvalues of 1 and 500 of -1: trace and ratio are 0, and 1000 directions are curved. With one of
    # each known, there may be any number.
    assert "is not seen: at most 1e+04 directions" in low([1.0, -1.0], ratio_high=0.1, square_high=1000.0)
    assert "is seen: at most 2 directions" in low([1.0, -1.0], ratio_high=0.1, square_high=2.0)


def test_a_signed_ratio_counts_directions_where_all_bend_alike() -> None:
    assert "is seen: the interval ends at 4" in low([-1.0, -0.9], ratio_high=4.0, square_high=9.0)
    assert "is not seen: the interval ends at 400" in low([-1.0, -0.9], ratio_high=400.0, square_high=9.0)
    assert "only eigenvalues can tell" in low([], ratio_high=4.0, square_high=9.0)
    assert "not known" in low([], ratio_high=float("inf"), square_high=9.0)
