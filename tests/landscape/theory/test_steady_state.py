"""The effective dimension from steady states: found where it is, refused where a rule is broken."""

import numpy as np
import pytest

from es_lightning.errors import UsageError
from es_lightning.landscape.quadratic import Quadratic, two_groups
from es_lightning.landscape.theory.steady_state import (
    Ascent,
    Rules,
    SteadyState,
    effective_dimension,
    gap_per_dimension,
    spread_of_population,
    z_scored_gap_per_dimension,
)

SIGMA, WINDOW = 2.0, 300
POPULATIONS = (10, 20, 40, 80)


def toy(population: int, alpha: float) -> Quadratic:
    return two_groups(
        (6, 1.0, 0.0), (6, 0.2, 0.0), dimension=30, alpha=alpha, sigma=SIGMA, population=population
    )


def measured(alpha: float, seed: int, steps: int = 700, ascents: int = 12, **rules: float) -> SteadyState:
    runs = {size: toy(size, alpha).ascents(steps, ascents, seed + size) for size in POPULATIONS}
    costs = {size: gap_per_dimension(alpha, SIGMA, size) for size in POPULATIONS}
    settings = {"window": WINDOW, "farthest": 1e3, **rules}
    return effective_dimension(runs, costs, Rules(**settings))  # type: ignore[arg-type]


def test_the_interval_holds_the_dimension_as_often_as_it_says() -> None:
    true = toy(10, 0.2).effective_dimension
    results = [measured(0.2, 1000 * seed, ascents=8) for seed in range(20)]
    found = [result for result in results if not result.reason]
    assert len(found) >= 18
    assert sum(result.interval[0] <= true <= result.interval[1] for result in found) >= 14
    assert np.mean([result.dimension for result in found]) == pytest.approx(true, rel=0.03)
    assert np.mean([result.top for result in found]) == pytest.approx(1, abs=0.003)


def test_the_interval_is_as_wide_as_few_ascents_need() -> None:
    """Twelve ascents of four populations: weights by each population's own spread hold the truth in 86 %."""
    rng, told, held = np.random.default_rng(0), 0, 0
    costs = {population: 1 / population for population in (20, 40, 80, 160)}
    for _ in range(600):
        ascents = {
            population: [
                Ascent(np.append(1.0, np.full(4, 1 - 10 * cost * (1 + 0.3 * rng.standard_normal()))), 0.0)
                for _ in range(12)
            ]
            for population, cost in costs.items()
        }
        found = effective_dimension(ascents, costs, Rules(window=2, farthest=1.0))
        told += not found.reason
        held += found.interval[0] <= 10 <= found.interval[1]
    assert told > 0.97 * 600  # a bent line is found in 1 % of straight ones
    assert abs(held / told - 0.9) < 2 * np.sqrt(0.9 * 0.1 / told)


@pytest.mark.parametrize("alpha", [0.1, 0.4, 0.8])
def test_every_alpha_has_its_own_dimension(alpha: float) -> None:
    result = measured(alpha, seed=1)
    assert not result.reason
    assert result.dimension == pytest.approx(toy(10, alpha).effective_dimension, rel=0.1)


def test_only_the_largest_populations_are_used() -> None:
    assert measured(0.2, seed=1, largest=3).used == (20, 40, 80)


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({"farthest": 1e-3}, "left the maximum"),
        ({"drift": 1e-6}, "were not stationary"),
        ({"seeds": 13}, "13 are needed"),
    ],
)
def test_a_broken_rule_is_a_reason(rules: dict[str, float], words: str) -> None:
    result = measured(0.2, seed=1, **rules)
    assert words in result.reason
    assert np.isnan(result.dimension)


def test_ascents_that_drift_together_do_not_count() -> None:
    result = measured(0.002, seed=1, drift=1e9)  # time constants of 250 and 1250 steps
    assert "drift together" in result.reason


def test_a_landscape_that_is_no_quadratic_is_no_line() -> None:
    generator = np.random.default_rng(0)
    gaps = dict(zip(POPULATIONS, (0.2, 0.15, 0.04, 0.03), strict=True))
    runs = {
        size: [
            Ascent(np.concatenate([[1.0], 1 - gap + 0.01 * generator.standard_normal(600)]), 1.0)
            for _ in range(8)
        ]
        for size, gap in gaps.items()
    }
    costs = {size: 1 / size for size in POPULATIONS}
    result = effective_dimension(runs, costs, Rules(window=WINDOW, farthest=2.0))
    assert "no straight line" in result.reason


def test_noise_alone_has_no_dimension() -> None:
    generator = np.random.default_rng(5)
    runs = {
        size: [
            Ascent(np.concatenate([[1.0], 0.5 + 0.1 * generator.standard_normal(600)]), 1.0) for _ in range(8)
        ]
        for size in POPULATIONS
    }
    costs = {size: 1 / size for size in POPULATIONS}
    results = effective_dimension(runs, costs, Rules(window=WINDOW, farthest=2.0))
    assert "from nothing" in results.reason


def test_runs_that_are_too_short() -> None:
    with pytest.raises(UsageError, match="two windows take 600"):
        measured(0.2, seed=1, steps=599)


@pytest.mark.parametrize(
    "changed", [{"window": 1}, {"farthest": 0}, {"drift": 0}, {"seeds": 2}, {"largest": 2}]
)
def test_rules_that_rule_nothing(changed: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="give|needs"):
        Rules(**({"window": 10, "farthest": 1.0} | changed))  # type: ignore[arg-type]


@pytest.mark.parametrize("members", [6, 20])
def test_z_scored_steps_cost_what_their_formula_says(members: int) -> None:
    """Populations on a quadratic with noisy rewards, as the code does it: lr / N * sum Z eps."""
    generator = np.random.default_rng(2)
    curvatures = np.repeat([1.0, 0.5], 5)
    lr, sigma, noise = 0.06, 0.05, 0.3
    place, rewards, spreads = np.zeros((200, 10)), [], []
    for t in range(1500):
        eps = generator.standard_normal((200, members, 10))
        scores = -0.5 * ((place[:, None] + sigma * eps) ** 2) @ curvatures
        scores += noise * generator.standard_normal(scores.shape)
        weights = scores - scores.mean(axis=1, keepdims=True)
        weights /= weights.std(axis=1, keepdims=True)
        place = place + lr / members * np.einsum("rn,rnd->rd", weights, eps)
        if t >= 500:
            rewards.append(-0.5 * place**2 @ curvatures)
            spreads.append(scores.var(axis=1, ddof=1))
    spread = float(np.sqrt(np.mean(spreads)))
    dimension = float(np.sum(2 / (2 - lr * sigma / spread * curvatures)))
    gap = z_scored_gap_per_dimension(lr, sigma, spread, members) * dimension
    assert -np.mean(rewards) == pytest.approx(gap, rel=0.07)


def test_the_two_forms_of_the_gap_agree_for_large_populations() -> None:
    lr, sigma, spread, members = 0.02, 0.05, 0.3, 10_000
    as_code = z_scored_gap_per_dimension(lr, sigma, spread, members)
    assert as_code == pytest.approx(lr * spread / (4 * sigma * members), rel=2e-4)
    assert as_code == pytest.approx(gap_per_dimension(lr * sigma / spread, spread / sigma, members), rel=2e-4)


def test_the_spread_of_a_population_is_smaller_than_that_of_its_rewards() -> None:
    populations = np.random.default_rng(0).standard_normal((100_000, 6))
    assert spread_of_population(6) == pytest.approx(populations.std(axis=1).mean(), rel=0.005)
