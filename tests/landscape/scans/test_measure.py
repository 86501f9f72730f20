"""Points of weight space through the evaluator, on landscapes whose rewards are known."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from es_lightning.algorithm.noise import GaussianNoise
from es_lightning.algorithm.tensors import checksum
from es_lightning.errors import DivergenceError, UsageError
from es_lightning.evaluation import Evaluator, Rollouts
from es_lightning.grading.scorer import Grading, Scorer
from es_lightning.landscape.scans.directions import Drawn, Towards, inner_products, moved
from es_lightning.landscape.scans.measure import Measured, Point, measure
from es_lightning.landscape.scans.scan import barrier, grid, orthonormal
from tests.helpers.ascent import DIMENSION, NAME, SHAPE, Origin
from tests.helpers.ascent import Point as Centre
from tests.helpers.known import Heights, KnownEngine

NOISE = GaussianNoise(compile=False)
SETTINGS = {"kind": "line", "prompts": "abc"}
GENERATOR = torch.Generator().manual_seed(5)
START, TUNED, OTHER = (torch.randn(DIMENSION, generator=GENERATOR) for _ in range(3))


class Landscape:
    """A centre, an evaluator and directions on a landscape of one's own."""

    def __init__(self, height: Callable[[Tensor, int], float], prompts: int = 4) -> None:
        self.engine, task = KnownEngine(height), Heights(prompts)
        self.evaluator = Evaluator(Rollouts(self.engine), Scorer(task, Grading(workers=0)))
        self.prompts, self.centre = task.problems("val"), Centre(START)
        self.tuned = Towards("tuned", Origin(Centre(TUNED)))
        self.other = Towards("other", Origin(Centre(OTHER)))

    def measured(self, path: Path, settings: dict[str, str] = SETTINGS) -> Measured:
        return Measured(path, settings, len(self.prompts), self.evaluator.ranks)

    def line(self, times: np.ndarray, path: Path, settings: dict[str, str] = SETTINGS) -> np.ndarray:
        points = [Point({"t": float(t)}, (float(t),)) for t in times]
        measured = self.measured(path, settings)
        return measure(self.evaluator, self.centre, [self.tuned], points, self.prompts, measured)


def quadratic(weights: Tensor, prompt: int) -> float:
    return prompt - 0.5 * float(((weights - TUNED.double()) ** 2).sum())


def test_a_quadratic_is_a_parabola_along_the_line(tmp_path: Path) -> None:
    times = grid(-0.5, 2, 0.25, [0, 1])
    rewards = Landscape(quadratic).line(times, tmp_path / "line.jsonl")
    length = float(((TUNED.double() - START.double()) ** 2).sum())
    expected = -0.5 * length * (times[:, None] - 1) ** 2 + np.arange(4)
    assert rewards == pytest.approx(expected, rel=1e-6, abs=1e-5)
    assert rewards[times == 1][0].tolist() == [0, 1, 2, 3], (
        "at t = 1 the weights are the tuned model's, bit for bit"
    )


def test_a_double_well_keeps_its_barrier_on_the_way_through_weights(tmp_path: Path) -> None:
    axis = OTHER.double() - TUNED.double()

    def well(weights: Tensor, prompt: int) -> float:
        x = 2 * float((weights - TUNED.double()) @ axis / (axis @ axis)) - 1
        return prompt - (x * x - 1) ** 2

    land, times = Landscape(well), grid(0, 1, 0.125)
    points = [Point({"t": float(t)}, (1 - float(t), float(t))) for t in times]
    measured = land.measured(tmp_path / "between.jsonl")
    both = [land.tuned, land.other]
    rewards = measure(land.evaluator, land.centre, both, points, land.prompts, measured)
    found = barrier(times, rewards)
    assert (found.height, found.at) == pytest.approx((1, 0.5), abs=1e-6)
    assert found.low == pytest.approx(found.high, abs=1e-6)


def test_random_directions_have_the_length_they_are_given_and_their_seeds_give_them_again() -> None:
    centre, radius = Centre(START), 3.0
    for seed in (0, 1, 2**64 - 1):
        drawn = Drawn("random", NOISE, seed)
        length = float(np.sqrt(inner_products(centre, [drawn])[0, 0]))
        eps = NOISE.sample(seed, NAME, SHAPE).double()
        assert length == pytest.approx(float(eps.norm()), rel=1e-14)
        theta = centre.get_parameter(NAME).detach()
        point = moved(NAME, theta, [drawn], [radius / length])
        torch.testing.assert_close(
            point.double(), theta.double() + eps * (radius / length), rtol=1e-7, atol=1e-7
        )
        assert float((point.double() - theta.double()).norm()) == pytest.approx(radius, rel=1e-6)


def test_inner_products_are_those_of_whole_vectors() -> None:
    land = Landscape(quadratic)
    directions = [land.tuned, land.other, Drawn("random", NOISE, 7)]
    theta, eps = START.double(), NOISE.sample(7, NAME, SHAPE).double().flatten()
    whole = torch.stack([TUNED.double() - theta, OTHER.double() - theta, eps])
    found = inner_products(land.centre, directions)
    assert found == pytest.approx((whole @ whole.T).numpy(), rel=1e-12)
    axes = orthonormal(found, ["a", "b", "c"]) @ whole.numpy()
    assert axes @ axes.T == pytest.approx(np.eye(3), abs=1e-12)


def test_the_centre_stays_and_the_engine_holds_it_again(tmp_path: Path) -> None:
    land = Landscape(quadratic)
    before = checksum(land.centre.named_parameters())
    land.line(grid(0, 1, 0.5), tmp_path / "line.jsonl")
    assert checksum(land.centre.named_parameters()) == before
    assert torch.equal(land.engine.weights, START.double())


def test_a_scan_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    path, times = tmp_path / "line.jsonl", grid(0, 1, 0.25)
    whole = Landscape(quadratic).line(times, path)
    complete = path.read_bytes()
    for end in (len(complete), len(complete) - 3, len(complete) // 2, complete.index(b"\n") + 1, 0):
        path.write_bytes(complete[:end])
        left, land = complete[:end].count(b"\n"), Landscape(quadratic)
        rewards = land.line(times, path)
        assert np.array_equal(rewards, whole)
        assert path.read_bytes() == complete
        missing = len(times) + 1 - max(left, 1)
        assert land.engine.loads == (missing + 1 if missing else 0), "and the centre at the end"


def test_a_finer_grid_takes_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "line.jsonl"
    coarse = Landscape(quadratic).line(grid(0, 1, 0.5), path)
    land = Landscape(quadratic)
    fine = land.line(grid(0, 1, 0.25), path)
    assert np.array_equal(fine[::2], coarse)
    assert land.engine.loads == 2 + 1


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    path, land = tmp_path / "line.jsonl", Landscape(quadratic)
    land.line(grid(0, 1, 1), path)
    with pytest.raises(UsageError, match="prompts was abc and is abd"):
        land.line(grid(0, 1, 1), path, {**SETTINGS, "prompts": "abd"})


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"place":{"t":1}}',
        '{"place":{"t":1},"rewards":[1]}',
        '{"place":{"t":1},"rewards":[1,2,3,NaN]}',
    ],
)
def test_a_damaged_file_is_refused_with_its_line(tmp_path: Path, line: str) -> None:
    path, land = tmp_path / "line.jsonl", Landscape(quadratic)
    land.line(grid(0, 1, 1), path)
    with path.open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(UsageError, match="damaged in line 4"):
        land.measured(path)


def test_another_file_is_no_scan(tmp_path: Path) -> None:
    path = tmp_path / "line.jsonl"
    path.write_text(json.dumps({"es_lightning_journal": 1}) + "\n")
    with pytest.raises(UsageError, match="holds no scan"):
        Landscape(quadratic).measured(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(UsageError, match="is a folder, and holds no scan"):
        Landscape(quadratic).measured(path)


def test_a_point_that_diverges_is_named(tmp_path: Path) -> None:
    def height(weights: Tensor, prompt: int) -> float:
        if not torch.equal(weights, TUNED.double()):
            return 0.0
        raise DivergenceError("the log-probabilities of tokens are not finite")

    with pytest.raises(DivergenceError, match="at t 1 the model's log-probabilities"):
        Landscape(height).line(grid(0, 1, 1), tmp_path / "line.jsonl")
