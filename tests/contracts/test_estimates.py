"""Every kind of noise, shaping and recipe: the direction that it finds, and the optimum that it reaches."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import special, stats
from torch import Tensor
from torch.optim import SGD

from es_lightning.algorithm import shaping
from es_lightning.algorithm.noise import (
    CorrelatedNoise,
    GaussianNoise,
    LowRankNoise,
    Noise,
    RademacherNoise,
)
from es_lightning.algorithm.population import Population
from es_lightning.algorithm.regularisers import AnchoredDecay, ClipNorm, Regulariser, SparseUpdate
from tests.helpers.ascent import DIMENSION, SHAPE, Ascent, epsilon
from tests.helpers.recipes import NAMES, recipe

Array = NDArray[np.float64]
N, DRAWS = 24, 100
SLOPE = torch.from_numpy(np.random.default_rng(3).standard_normal(DIMENSION))
SLOPE /= SLOPE.norm()


@cache
def draws(kind: str) -> Tensor:
    """eps of 100 populations, float64 [100, N, 50]."""
    return torch.stack([epsilon(KINDS[kind], Population(N, draw).members(0)) for draw in range(DRAWS)])


def estimates(steps: Tensor, shape: Callable[[Tensor], Tensor], offset: float = 0.0) -> Tensor:
    """(1/N) sum_n w_n eps_n on a linear reward, float64 [100, 50]; tests of the update hold it to be this."""
    rewards = offset + steps @ SLOPE
    return torch.stack([shape(row[:, None]) @ eps / N for row, eps in zip(rewards, steps, strict=True)])


def cosines(steps: Tensor, shape: Callable[[Tensor], Tensor], offset: float = 0.0) -> Array:
    """Cosines of 100 estimates with the gradient."""
    directions = estimates(steps, shape, offset)
    return np.asarray((directions @ SLOPE / directions.norm(dim=1)).numpy())


def in_pairs(steps: Tensor) -> Tensor:
    """The same with members 2k and 2k + 1 of opposite signs."""
    return torch.stack([steps[:, : N // 2], -steps[:, : N // 2]], dim=2).flatten(1, 2)


def agrees(found: Array, expected: float) -> bool:
    """Whether the mean is within three standard errors."""
    return bool(abs(found.mean() - expected) < 3 * found.std(ddof=1) / np.sqrt(len(found)))


def mean_cosine(degrees: int) -> float:
    """E cos for cos^2 ~ Beta(k / 2, (d - 1) / 2), with k degrees of freedom of the weights.

    The component along the gradient is a sum of k squares over N, those across it are k numbers as large
    times independent normals, so this law is exact; for large k it is sqrt(k / (k + d - 1)).
    """
    a, b = degrees / 2, (DIMENSION - 1) / 2
    return float(np.exp(special.betaln(a + 0.5, b) - special.betaln(a, b)))


def simulated_cosine(weigh: Callable[[Array], Array]) -> float:
    """E cos for weights that are any function of the projections, from 20,000 populations of NumPy's."""
    generator = np.random.default_rng(8)
    projections = generator.standard_normal((20_000, N))
    weights = np.apply_along_axis(weigh, 1, projections)
    along = (weights * projections).mean(1)
    across = (weights**2).sum(1) / N**2 * generator.chisquare(DIMENSION - 1, len(weights))
    return float((along / np.sqrt(along**2 + across)).mean())


# Shaping


def ranks(rewards: Array) -> Array:
    """SciPy's ranks, from -1/2 to 1/2."""
    return np.asarray((stats.rankdata(rewards) - 1) / (len(rewards) - 1) - 0.5)


LAWS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "z_score": (shaping.z_score, mean_cosine(N - 1)),
    "none": (shaping.none, mean_cosine(N)),
    "leave_one_out": (shaping.leave_one_out, mean_cosine(N - 1)),
    "prompt_centred": (shaping.prompt_centred, mean_cosine(N - 1)),
    "prompt_z_score": (shaping.prompt_z_score, mean_cosine(N - 1)),
    "FixedScale": (shaping.FixedScale(0.3), mean_cosine(N - 1)),
    "centered_rank": (shaping.centered_rank, simulated_cosine(ranks)),
    "best_of_n": (shaping.best_of_n, simulated_cosine(lambda rewards: rewards == rewards.max())),
    "Shuffled": (shaping.Shuffled(), 0.0),
}


def test_every_shaping_has_its_law() -> None:
    helpers = {"weigh", "comparable", "all_alike", "reward_statistics", "check_shaping"}
    public = {
        name
        for name, value in vars(shaping).items()
        if getattr(value, "__module__", "") == shaping.__name__ and not name.startswith("_")
    }
    assert public - helpers == LAWS.keys()


@pytest.mark.parametrize("name", LAWS)
def test_the_direction_is_as_good_as_the_law_of_its_shaping_says(name: str) -> None:
    shape, expected = LAWS[name]
    assert agrees(cosines(draws("gaussian"), shape), expected)


@pytest.mark.parametrize("name", [name for name in LAWS if name != "none"])
def test_a_constant_added_to_all_rewards_changes_no_direction(name: str) -> None:
    shape, expected = LAWS[name]
    assert agrees(cosines(draws("gaussian"), shape, offset=1000.0), expected)


def test_the_law_of_the_papers_is_the_limit() -> None:
    """sqrt(N / (N + d)) differs from the exact law by what centring and curvature of the root cost."""
    assert mean_cosine(N - 1) == pytest.approx(np.sqrt(N / (N + DIMENSION)), abs=0.02)


# Noise

KINDS: dict[str, Noise] = {
    "gaussian": GaussianNoise(compile=False),
    "correlated": CorrelatedNoise(compile=False),
    "rademacher": RademacherNoise(compile=False),
    "rank 1": LowRankNoise(1, compile=False),
    "rank 3": LowRankNoise(3, compile=False),
}


def fourth_moment(kind: str) -> float:
    """E (slope . eps)^2 |eps|^2 for a slope of unit length; d + 2 for independent normals.

    For A B^T / sqrt(r) of m x n it is mn + 2 + 2 (m + n + 1) / r: a sum over columns, of which each has
    E (a . Gb)^2 |a|^2 |b|^2 = (m + 2)(n + 2) |G|^2, and two that differ have mn + 2 between them.
    """
    if kind == "rademacher":
        return DIMENSION  # |eps|^2 is d
    surplus = 2 * (sum(SHAPE) + 1) / KINDS[kind].rank if isinstance(KINDS[kind], LowRankNoise) else 0.0
    return DIMENSION + 2 + surplus


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("kind", [*list(KINDS)[:4], pytest.param("rank 3", marks=pytest.mark.slow)])
def test_estimates_are_unbiased_and_vary_as_the_law_of_their_noise_says(kind: str, antithetic: bool) -> None:
    """E g = slope and E |g|^2 = 1 + (E u^2 |eps|^2 - 1) / K for K independent draws: N, or N / 2 pairs."""
    found = estimates(in_pairs(draws(kind)) if antithetic else draws(kind), shaping.none)
    independent = N // 2 if antithetic else N
    assert agrees((found @ SLOPE).numpy(), 1.0)
    assert agrees(found.square().sum(1).numpy(), 1 + (fourth_moment(kind) - 1) / independent)


@pytest.mark.parametrize("kind", ["gaussian", "correlated", "rademacher"])
def test_the_direction_is_as_good_as_the_law_of_normal_noise_says(kind: str) -> None:
    assert agrees(cosines(draws(kind), shaping.z_score), mean_cosine(N - 1))


def test_pairs_are_as_good_as_half_of_the_members() -> None:
    assert agrees(cosines(in_pairs(draws("gaussian")), shaping.none, offset=1000.0), mean_cosine(N // 2))


# Optima

CURVATURES = torch.from_numpy(np.linspace(0.5, 1.0, DIMENSION))
OPTIMUM = torch.from_numpy(np.random.default_rng(5).standard_normal(DIMENSION))


def reward(points: Tensor) -> Tensor:
    """J(x) = -1/2 sum_i c_i (x_i - x*_i)^2."""
    return -0.5 * ((points - OPTIMUM).square() * CURVATURES).sum(-1)


@dataclass(frozen=True)
class Case:
    """What a recipe is given on the quadratic, and how near to the optimum it has to come.

    Args:
        generations: number of updates.
        sigma: noise scale; the quadratic is as large as 1.
        lr: learning rate; steps are as long as those that its own lr makes on a model, in proportion.
        tolerance: of the distance that there was, in the norm of the curvature.
        options: more options in place of the recipe's, so that schedules end with the ascent.
    """

    generations: int = 120
    sigma: float = 0.02
    lr: float = 0.2
    tolerance: float = 0.3
    population: int = 16
    options: dict[str, Any] | None = None


def sgd(lr: float) -> dict[str, Any]:
    """The optimizer in YAML."""
    return {"class_path": "torch.optim.SGD", "init_args": {"lr": lr}}


RECIPES = {
    "paper_es": Case(),
    "paper_es_correlated": Case(),
    "openai_es": Case(options={"optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.1}}}),
    "eggroll": Case(),
    "mezo": Case(1200, lr=0.4, population=2),
    "anchored": Case(options={"regularisers": [{"class_path": "AnchoredDecay", "init_args": {"l2": 0.01}}]}),
    "sparse": Case(),
    "annealed": Case(
        tolerance=0.1,
        options={
            "lr_scheduler": {
                "class_path": "torch.optim.lr_scheduler.CosineAnnealingLR",
                "init_args": {"T_max": 120, "eta_min": 0.01},
            },
            "sigma_schedule": {"class_path": "CosineSchedule", "init_args": {"generations": 120, "end": 0.1}},
            "population_schedule": {
                "class_path": "LinearSchedule",
                "init_args": {"generations": 120, "end": 2.0},
            },
        },
    ),
    "shuffled": Case(),
    # A step of a fixed length ends where it is as long as the distance.
    "random_search": Case(200, lr=0.02, sigma=0.02, tolerance=0.3),
}


def ascent_of(name: str, case: Case) -> Ascent:
    """The parts of a recipe, with numbers that fit the quadratic."""
    options = {"population": case.population, "sigma": case.sigma, "optimizer": sgd(case.lr)}
    made = recipe(name, **(options | (case.options or {})))
    return Ascent(
        population=case.population,
        sigma=case.sigma,
        optimizer=made._make_optimizer,
        noise=made.noise,
        shaping=made.shaping,
        antithetic=made.antithetic,
        sigma_schedule=made.steering.sigma.schedule,
        population_schedule=made.steering.size.schedule,
        regularisers=made.regularisers,
        make_scheduler=made._make_scheduler,
        keep_centre=made.steering.keep_centre,
    )


def test_every_recipe_is_tried() -> None:
    assert RECIPES.keys() == set(NAMES)


EVERY_DAY = ("eggroll", "openai_es")
SELDOM = [pytest.mark.slow, pytest.mark.tasks]
LEARNERS = [name for name in NAMES if name != "shuffled"]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in EVERY_DAY else SELDOM) for name in LEARNERS]
)
@pytest.mark.slow
def test_every_recipe_reaches_the_optimum_of_a_quadratic(name: str) -> None:
    case = RECIPES[name]
    path = ascent_of(name, case).run(reward, case.generations, torch.zeros(DIMENSION))
    distances = [float(torch.sqrt(-2 * reward(point))) for point in (path[0], path[-1])]
    assert distances[1] < case.tolerance * distances[0]


def test_the_control_walks_as_far_as_the_method_that_it_shuffles_and_learns_nothing() -> None:
    start = torch.zeros(DIMENSION)
    learnt, shuffled = (
        ascent_of(name, RECIPES[name]).run(reward, 40, start) for name in ("paper_es", "shuffled")
    )
    steps = [torch.stack(list(path)).diff(dim=0).norm(dim=1).mean() for path in (learnt, shuffled)]
    # The signal makes a step longer by sqrt(1 + (N - 1) / d), which is 1 for a model.
    assert float(steps[1] / steps[0]) == pytest.approx((1 + 15 / DIMENSION) ** -0.5, rel=0.1)
    assert float(reward(shuffled[-1])) < float(reward(start)) < float(reward(learnt[-1]))


def test_random_search_goes_to_its_best_member_and_never_down() -> None:
    """(1 + N): every point is the one before or a member of its generation, the best on the same prompts."""
    path = ascent_of("random_search", RECIPES["random_search"]).run(reward, 12, torch.zeros(DIMENSION))
    case, noise = RECIPES["random_search"], GaussianNoise(compile=False)
    for generation, (before, after) in enumerate(pairwise(path)):
        members = Population(case.population, 0, keep_centre=True).members(generation)
        points = before + case.sigma * epsilon(noise, members)
        best = points[reward(points).argmax()]
        assert torch.allclose(after, best, rtol=0, atol=1e-7)
    rewards = [float(reward(point)) for point in path]
    assert rewards == sorted(rewards)
    assert len(set(rewards)) > 6, "it moves"


@pytest.mark.parametrize("pairs", [1, 3])
def test_the_recipe_mezo_makes_the_step_of_spsa(pairs: int) -> None:
    """theta + lr_MeZO * (1/n) sum_k (R(theta + sigma z_k) - R(theta - sigma z_k)) / (2 sigma) * z_k, float64.

    One pair is algorithm 1 of arXiv 2305.17333, and n of them are its n-SPSA, at the same learning rate.
    """
    lr_of_mezo, sigma = 3e-3, 0.02
    case = Case(population=2 * pairs, sigma=sigma, lr=lr_of_mezo / sigma)
    ascent = ascent_of("mezo", case)
    before, after = ascent.run(reward, 1, torch.full((DIMENSION,), 0.1))
    z = epsilon(ascent.noise, Population(2 * pairs, 0, antithetic=True).members(0))[::2]
    slopes = (reward(before + sigma * z) - reward(before - sigma * z)) / (2 * sigma)
    expected = before + lr_of_mezo * (slopes[:, None] * z).mean(0)
    assert torch.allclose(after, expected, rtol=0, atol=1e-6), "the offset cancels up to rounding"
    assert float((after - before).norm()) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in LAWS if name not in ("none", "Shuffled")])
def test_every_shaping_comes_nearer(name: str) -> None:
    lr = {"best_of_n": 0.03, "centered_rank": 0.5, "leave_one_out": 1.0, "FixedScale": 0.3}.get(name, 0.2)
    ascent = Ascent(16, 0.02, lambda p: SGD(p, lr=lr), shaping=LAWS[name][0])
    path = ascent.run(reward, 80, torch.zeros(DIMENSION))
    assert float(reward(path[-1])) > 0.3 * float(reward(path[0]))


REGULARISERS: dict[str, Regulariser] = {
    "AnchoredDecay, l2": AnchoredDecay(l2=0.01),
    "AnchoredDecay, l1": AnchoredDecay(l1=0.005),
    "ClipNorm": ClipNorm(1.0),
    "SparseUpdate, tensor": SparseUpdate(0.2),
    "SparseUpdate, model": SparseUpdate(0.2, "model"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REGULARISERS)
def test_every_regulariser_lets_the_ascent_come_near(name: str) -> None:
    ascent = Ascent(16, 0.02, lambda p: SGD(p, lr=0.2), regularisers=[REGULARISERS[name]])
    path = ascent.run(reward, 80, torch.zeros(DIMENSION))
    assert float(torch.sqrt(reward(path[-1]) / reward(path[0]))) < 0.4
