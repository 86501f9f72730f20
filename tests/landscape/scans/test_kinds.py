"""What each kind of scan looks at, and the tables, on landscapes whose rewards are known."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from es_lightning.algorithm.noise import GaussianNoise
from es_lightning.algorithm.noise.base import hash64
from es_lightning.landscape.scans import kinds
from es_lightning.landscape.scans.directions import inner_products
from es_lightning.landscape.scans.kinds import Scan
from es_lightning.landscape.scans.measure import measure
from es_lightning.landscape.scans.scan import barrier, grid
from tests.helpers.ascent import NAME, SHAPE
from tests.landscape.scans.test_measure import OTHER, START, TUNED, Landscape, quadratic

NOISE = GaussianNoise(compile=False)
BASE = START.double()
TOWARDS = TUNED.double() - BASE
LENGTH = float(TOWARDS.norm())


def rewards(land: Landscape, scan: Scan, path: Path) -> np.ndarray:
    measured = land.measured(path / "scan.jsonl")
    return measure(land.evaluator, land.centre, scan.directions, scan.points, land.prompts, measured)


def test_the_line_has_paired_differences_to_both_models(tmp_path: Path) -> None:
    land, times = (
        Landscape(lambda w, p: (p + 1) * float((w - BASE) @ TOWARDS) / LENGTH**2),
        grid(-0.5, 1.5, 0.5),
    )
    found = rewards(land, kinds.line(land.tuned, times), tmp_path)
    assert found == pytest.approx(times[:, None] * np.arange(1, 5), abs=1e-6)
    for row, t in zip(kinds.rows(kinds.line_table(times, found)), times, strict=True):
        slopes = np.arange(1.0, 5)
        for name, factor in (("reward", t), ("minus_t0", t), ("minus_t1", t - 1)):
            assert row[name] == pytest.approx(factor * 2.5, abs=1e-6)
            assert row[f"{name}_se"] == pytest.approx(abs(factor) * stats.sem(slopes), abs=1e-6)
            low, high = stats.t.interval(
                0.95, 3, loc=factor * 2.5, scale=max(abs(factor) * stats.sem(slopes), 1e-12)
            )
            assert (row[f"{name}_low"], row[f"{name}_high"]) == pytest.approx((low, high), abs=1e-5)


def test_two_models_of_a_bowl_have_no_barrier_but_a_hump(tmp_path: Path) -> None:
    land, times = Landscape(quadratic), grid(-0.25, 1.25, 0.25)
    found = rewards(land, kinds.between(land.tuned, land.other, times), tmp_path)
    assert found[times == 1][0] == pytest.approx(
        [quadratic(OTHER.double(), p) for p in range(4)], rel=1e-12
    ), "the second model's own weights"
    seen = barrier(times, found)
    assert (seen.height, seen.is_seen) == (0, False)
    table = kinds.rows(kinds.between_table(times, found, seen))
    apart = float(((OTHER - TUNED).double() ** 2).sum())
    for row, t in zip(table, times, strict=True):
        assert row["drop"] == pytest.approx(-0.5 * apart * t * (1 - t), rel=1e-5, abs=1e-5)
        assert np.isnan(row["drop_low"]) == (not 0 <= t <= 1)


def test_all_rays_have_the_distances_of_the_tuned_model(tmp_path: Path) -> None:
    far: list[float] = []

    def height(weights: Tensor, prompt: int) -> float:
        if prompt == 0:
            far.append(float((weights - BASE).norm()))
        return prompt - 0.5 * float(((weights - BASE) ** 2).sum())

    land, radii = Landscape(height), grid(0, 2, 0.5)
    drawn = kinds.random_directions(NOISE, 3, 4)
    lengths = [float(inner_products(land.centre, [each])[0, 0]) ** 0.5 for each in (land.tuned, *drawn)]
    scan = kinds.radial(land.tuned, drawn, radii, lengths)
    found = rewards(land, scan, tmp_path)
    assert far == pytest.approx([0, *list(radii[1:] * LENGTH) * 5], rel=1e-6)
    table = kinds.rows(kinds.radial_table(scan.points, found, lengths[0]))
    assert len(table) == 1 + 5 * 4
    for row in table:
        expected = 1.5 - 0.5 * float(row["distance"]) ** 2
        assert row["distance"] == pytest.approx(float(row["radius"]) * LENGTH, rel=1e-12)
        assert row["reward"] == pytest.approx(expected, rel=1e-5)
        ends = row["random_low"], row["random"], row["random_high"]
        assert ends == pytest.approx([expected] * 3, rel=1e-4), "a bowl is the same in all directions"


def test_random_directions_are_replayed_from_their_seeds() -> None:
    first, again, others = (kinds.random_directions(NOISE, seed, 2) for seed in (0, 0, 1))
    assert (
        [each.seed for each in first]
        == [each.seed for each in again]
        == [hash64(f"scan/0/{k}") for k in (0, 1)]
    )
    assert len({each.seed for each in first + others}) == 4
    theta = START.view(SHAPE)
    assert torch.equal(first[0].tensor(NAME, theta)[0], NOISE.sample(hash64("scan/0/0"), NAME, SHAPE))


@pytest.mark.parametrize("other", ["model", "random"])
def test_a_plane_has_orthonormal_coordinates_and_its_models(tmp_path: Path, other: str) -> None:
    places: list[Tensor] = []

    def height(weights: Tensor, prompt: int) -> float:
        if prompt == 0:
            places.append(weights.clone())
        return float(prompt)

    land = Landscape(height)
    second = land.other if other == "model" else kinds.random_directions(NOISE, 0, 1)[0]
    products = inner_products(land.centre, [land.tuned, second])
    found = kinds.plane(land.tuned, second, products, grid(-1, 1, 0.5), grid(0, 1, 0.5))
    table = kinds.rows(kinds.plane_table(found, rewards(land, found.scan, tmp_path)))
    end = (
        OTHER.double() - BASE
        if other == "model"
        else NOISE.sample(second.seed, NAME, SHAPE).double().flatten()
    )  # type: ignore[union-attr]
    q, r = torch.linalg.qr(torch.stack([TOWARDS, end], dim=1))
    axes = (q * r.diag().sign()).T
    for row, point in zip(table, places[: len(table)], strict=True):
        moved = (point - BASE) @ axes.T / LENGTH
        assert (row["x"], row["y"]) == pytest.approx(tuple(moved.tolist()), abs=1e-6)
        assert row["distance"] == pytest.approx(float((point - BASE).norm()), rel=1e-5, abs=1e-5)
    models = [row["model"] for row in table if row["model"]]
    assert models == ["base", "tuned", *(["other"] if other == "model" else [])]
    assert torch.equal(places[1], TUNED.double()), "bit for bit"
    if other == "model":
        assert torch.equal(places[2], OTHER.double())
    assert found.cosine == pytest.approx(float(TOWARDS @ end / TOWARDS.norm() / end.norm()), abs=1e-12)
