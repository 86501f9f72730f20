"""Both tests of degenerate improving updates: size under a null, power on quadratics."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from es_lightning.errors import UsageError
from es_lightning.landscape.arrays import Array
from es_lightning.landscape.curvature.degenerate import (
    explained,
    mean_direction,
    permuted,
    shared_direction,
)

NULLS = 200
MOST = int(binom.ppf(0.9995, NULLS, 0.05))  # of 200 nulls at 0.05; more happens once in 2000 times


class World:
    """R_p = g.x - x^T C x / 2 + noise of the prompts, in D dimensions of which the first are stiff."""

    def __init__(self, seed: int, members: int = 240, prompts: int = 16, noise: float = 1.0) -> None:
        generator = np.random.default_rng(seed)
        self.eps = generator.standard_normal((members, 2000))
        self.slope = np.zeros(2000)
        self.slope[:5] = 1.0
        self.stiff = np.array([1.0, 0.8, 0.6, 0.4, 0.2])
        self.sigma, self.noise, self.prompts, self.generator = 0.1, noise, prompts, generator
        self.rewards = self.at(self.sigma * self.eps)

    def at(self, places: Array) -> Array:
        """Rewards [M, P], less the centre's."""
        curved = places[..., :5]
        smooth = places @ self.slope - (curved**2 * self.stiff).sum(axis=-1) / 2
        size = self.noise * self.sigma * np.linalg.norm(self.slope)
        return smooth[..., None] + size * self.generator.standard_normal((*smooth.shape, self.prompts))

    def halves(self) -> tuple[Array, Array]:
        half = self.prompts // 2
        return self.rewards[:, :half].mean(axis=1), self.rewards[:, half:].mean(axis=1)

    def reward(self, weights: Array) -> float:
        return float(self.at(weights @ self.eps)[self.prompts // 2 :].mean())


# (b) ------------------------------------------------------------------------------------------------


def test_pure_noise_is_explained_at_the_rate_of_chance() -> None:
    hits = 0
    for seed in range(NULLS):
        generator = np.random.default_rng(seed)
        # Rewards in steps of 1/8 with many ties, as few prompts give.
        changes = np.round(generator.standard_normal(60) * 2) / 8
        hits += explained(changes, generator.standard_normal((60, 11)), seed).p_value <= 0.05
    assert hits <= MOST


def test_the_slope_of_a_quadratic_is_found_and_measured() -> None:
    world = World(0)
    unit = world.slope / np.linalg.norm(world.slope)
    found = explained(world.rewards.mean(axis=1), world.eps @ np.stack([unit, np.eye(2000)[9]], axis=1))
    assert found.p_value == 0.001
    assert found.share > 0.6
    truth = world.sigma * np.linalg.norm(world.slope)
    assert abs(found.coefficients[0] - truth) < 4 * found.errors[0]
    assert abs(found.coefficients[1]) < 4 * found.errors[1]


def test_the_regression_is_that_of_least_squares() -> None:
    generator = np.random.default_rng(3)
    coordinates, changes = generator.standard_normal((40, 4)), generator.standard_normal(40)
    found = explained(changes, coordinates)
    design = np.column_stack([coordinates, np.ones(40)])
    solution, [rest], *_ = np.linalg.lstsq(design, changes, rcond=None)
    assert found.coefficients == pytest.approx(solution[:4])
    assert found.share == pytest.approx(1 - rest / ((changes - changes.mean()) ** 2).sum())
    errors = np.sqrt(rest / 35 * np.diag(np.linalg.inv(design.T @ design))[:4])
    assert found.errors == pytest.approx(errors)
    assert found.null[0] == pytest.approx(4 / 39, abs=0.01)  # E R^2 = k / (M - 1)


def test_too_few_members_and_equal_changes_are_refused() -> None:
    with pytest.raises(UsageError, match="at least 8"):
        explained(np.arange(7.0), np.ones((7, 5)))
    with pytest.raises(UsageError, match="alike"):
        explained(np.full(40, 0.1), np.random.default_rng(0).standard_normal((40, 3)))


# (a) ------------------------------------------------------------------------------------------------


def test_improving_members_share_the_slope_of_a_quadratic_as_predicted() -> None:
    gains, expected = [], []
    for seed in range(8):
        world = World(seed, noise=2.0)
        found = shared_direction(*world.halves(), np.ones(240), world.sigma, world.reward)
        assert found.p_value == pytest.approx(1 / 21)
        low, high = found.interval
        assert 0 < low < found.deviations < high
        gains.append(found.gain - found.controls.mean())
        expected.append(found.expected)
    assert np.mean(gains) == pytest.approx(np.mean(expected), rel=0.2)


def test_pairs_share_the_slope_of_a_quadratic_as_predicted() -> None:
    gains, expected = [], []
    for seed in range(8):
        world = World(seed, members=120, noise=2.0)
        world.eps = np.repeat(world.eps, 2, axis=0)
        signs = np.tile([1.0, -1.0], 120)
        world.rewards = world.at(world.sigma * signs[:, None] * world.eps)
        halves = world.halves()
        found = shared_direction(*halves, signs, world.sigma, world.reward, seed=seed + NULLS, pairs=True)
        assert found.p_value == pytest.approx(1 / 21)
        gains.append(found.gain - found.controls.mean())
        expected.append(found.expected)
    assert np.mean(gains) == pytest.approx(np.mean(expected), rel=0.2)


def test_the_norm_is_that_of_one_member_whatever_signs_are_chosen() -> None:
    world = World(0)
    signs = np.where(np.arange(240) % 2, -1.0, 1.0)
    weights = mean_direction(np.arange(240) < 60, signs, world.sigma)
    assert np.linalg.norm(weights @ world.eps) == pytest.approx(world.sigma * np.sqrt(2000), rel=0.1)
    assert np.sign(weights[:2]).tolist() == [1, -1]
    assert not weights[60:].any()


def test_a_plateau_shares_nothing() -> None:
    hits = 0
    for seed in range(NULLS):
        generator = np.random.default_rng(seed)
        changes = np.round(generator.standard_normal((2, 40)) * 2) / 8
        found = shared_direction(
            *changes, np.ones(40), 0.1, lambda _, g=generator: float(g.standard_normal())
        )
        hits += found.p_value <= 0.05
    assert hits <= MOST


SIGNS = np.tile([1.0, -1.0], 40)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=3, max_size=40), st.integers(0, 99))
def test_every_control_of_pairs_has_as_many_of_each_kind_and_the_norm_of_one_member(
    choices: list[tuple[bool, bool]], seed: int
) -> None:
    chosen = np.array(choices).ravel()
    control = permuted(chosen, True, np.random.default_rng(seed))
    kinds = [sorted(each.reshape(-1, 2).sum(axis=1).tolist()) for each in (chosen, control)]
    assert kinds[0] == kinds[1]
    if 1 in kinds[0]:
        signs = SIGNS[: len(chosen)]
        for each in (chosen, control):
            net = mean_direction(each, signs, 0.1, pairs=True).reshape(-1, 2).sum(axis=1)
            assert np.linalg.norm(net) == pytest.approx(0.1)


def test_either_member_of_a_pair_is_as_likely_in_a_control() -> None:
    generator, chosen = np.random.default_rng(0), SIGNS > 0
    first = np.mean([permuted(chosen, True, generator)[::2].mean() for _ in range(500)])
    assert first == pytest.approx(0.5, abs=4 * np.sqrt(0.25 / (500 * 40)))


def test_pairs_of_which_one_improves_share_nothing_where_only_the_norm_counts() -> None:
    """A reward that rises with the distance finds a longer step; so all controls have to be as long."""
    hits = 0
    for seed in range(NULLS):
        generator = np.random.default_rng(seed)
        eps = generator.standard_normal((40, 400))
        of_pair = generator.standard_normal(40)
        on_choice = np.column_stack([of_pair, -of_pair]).ravel() + 0.1 * generator.standard_normal(80)

        def reward(weights: Array, eps: Array = eps) -> float:
            return float(np.linalg.norm(weights.reshape(-1, 2).sum(axis=1) @ eps))

        # Another seed than that of eps, with which the permutations would be linked.
        found = shared_direction(on_choice, on_choice, SIGNS, 0.1, reward, seed=seed + NULLS, pairs=True)
        hits += found.p_value <= 0.05
    assert hits <= MOST


def test_pairs_that_both_improve_cancel_and_are_no_direction() -> None:
    both = np.repeat([1.0, -1.0], [40, 40])
    with pytest.raises(UsageError, match="40 of 80 members improve .*, 0 of them without their opposite"):
        shared_direction(both, both, SIGNS, 0.1, lambda _: 0.0, pairs=True)


@pytest.mark.parametrize(
    ("on_choice", "controls", "words"), [(-1.0, 20, "0 of 8"), (1.0, 20, "8 of 8"), (1.0, 5, "5 controls")]
)
def test_what_cannot_be_tested_is_refused(on_choice: float, controls: int, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        shared_direction(np.full(8, on_choice), np.ones(8), np.ones(8), 0.1, lambda _: 0.0, controls)


@pytest.mark.filterwarnings("error")
def test_controls_that_all_earn_the_same_have_no_interval() -> None:
    on_choice = np.array([1.0, 1.0, 0.0, -1.0] * 5)
    gains = iter([0.5] + [0.0] * 20)
    found = shared_direction(on_choice, on_choice, np.ones(20), 0.1, lambda _: next(gains))
    assert found.deviations == pytest.approx(0.5 / on_choice.std(ddof=1))
    assert np.isnan(found.interval).all()
    assert found.p_value == pytest.approx(1 / 21)


@pytest.mark.filterwarnings("error")
def test_members_that_change_nothing_on_the_scoring_prompts_give_no_unit() -> None:
    on_choice = np.array([1.0, 1.0, 0.0, -1.0] * 5)
    found = shared_direction(on_choice, np.zeros(20), np.ones(20), 0.1, lambda weights: float(weights[0]))
    assert (found.member_deviation, found.expected) == (0, 0)
    assert np.isnan([found.deviations, *found.interval]).all()
    assert 1 / 21 <= found.p_value <= 1
