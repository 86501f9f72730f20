"""From rewards to weights, against SciPy and the papers' formulas."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from es_lightning.algorithm.shaping import (
    FixedScale,
    Shuffled,
    all_alike,
    best_of_n,
    centered_rank,
    check_shaping,
    leave_one_out,
    none,
    prompt_centred,
    prompt_z_score,
    weigh,
    z_score,
)
from es_lightning.errors import RewardError, UsageError
from es_lightning.records import LARGEST_REWARD


def test_z_score_is_scipys() -> None:
    rewards = torch.from_numpy(np.random.default_rng(0).normal(3, 5, (30, 200)))
    expected = stats.zscore(rewards.mean(1).numpy(), ddof=0)
    np.testing.assert_allclose(z_score(rewards).numpy(), expected, rtol=1e-7)
    assert z_score(rewards).dtype == torch.float64


def test_z_score_adds_the_papers_constant_to_the_deviation() -> None:
    means = np.array([0.0, 1e-8])
    expected = (means - means.mean()) / (means.std() + 1e-8)
    np.testing.assert_allclose(z_score(torch.from_numpy(means)[:, None]).numpy(), expected, rtol=1e-9)


def test_none_is_the_mean_reward() -> None:
    rewards = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
    assert none(rewards).tolist() == [1.5, 4.0]


@given(st.floats(-1e6, 1e6), st.integers(2, 30), st.integers(1, 7))
def test_equal_rewards_are_all_alike_whatever_they_are(value: float, members: int, prompts: int) -> None:
    rewards = torch.full((members, prompts), value, dtype=torch.float64)
    assert all_alike(rewards)
    assert torch.isfinite(z_score(rewards)).all()


def test_the_same_rewards_in_another_order_are_alike_though_their_sums_round_differently() -> None:
    row = torch.tensor([0.1, 0.2, 0.3, 1e3, -7.7], dtype=torch.float64)
    assert all_alike(torch.stack([row, row.flip(0), row.roll(2)]))


def test_one_prompt_answered_better_is_not_alike() -> None:
    rewards = torch.full((30, 200), -40.0)
    rewards[3, 17] += 1
    assert not all_alike(rewards)


# The other shapings


def rewards_of(seed: int, members: int = 30, prompts: int = 7) -> NDArray[np.float64]:
    """Rewards with prompts of different means and spreads."""
    generator = np.random.default_rng(seed)
    return generator.normal(size=(members, prompts)) * generator.uniform(0.1, 5, prompts) + np.arange(prompts)


def centered_ranks(rewards: NDArray[np.float64]) -> Any:
    return (stats.rankdata(rewards.mean(1)) - 1) / (len(rewards) - 1) - 0.5


def centred(rewards: NDArray[np.float64]) -> Any:
    return (rewards - rewards.mean(0)).mean(1) / np.sqrt(rewards.var() + 1e-5)


def winner(rewards: NDArray[np.float64]) -> Any:
    means = rewards.mean(1)
    return np.where(np.arange(len(means)) == means.argmax(), len(means), 0.0)


def without_oneself(rewards: NDArray[np.float64]) -> Any:
    means = rewards.mean(1)
    return [mean - np.delete(means, index).mean() for index, mean in enumerate(means)]


FORMULAS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[NDArray[np.float64]], Any]]] = {
    "z_score": (z_score, lambda r: stats.zscore(r.mean(1))),
    "centered_rank": (centered_rank, centered_ranks),
    "prompt_centred": (prompt_centred, centred),
    "prompt_z_score": (prompt_z_score, lambda r: stats.zscore(r, axis=0).mean(1)),
    "leave_one_out": (leave_one_out, without_oneself),
    "best_of_n": (best_of_n, winner),
    "FixedScale": (FixedScale(0.25), lambda r: (r.mean(1) - r.mean()) / 0.25),
}
SHAPINGS = {"none": none} | {name: shape for name, (shape, _) in FORMULAS.items()}
every_shaping = pytest.mark.parametrize("shape", SHAPINGS.values(), ids=SHAPINGS)


@pytest.mark.parametrize(("members", "prompts"), [(30, 7), (2, 1), (3, 200), (5, 2)])
@pytest.mark.parametrize("name", FORMULAS)
def test_weights_are_numpys_and_scipys(name: str, members: int, prompts: int) -> None:
    shape, formula = FORMULAS[name]
    rewards = rewards_of(members, members, prompts)
    weights = shape(torch.from_numpy(rewards))
    assert weights.dtype == torch.float64
    np.testing.assert_allclose(weights.numpy(), formula(rewards), rtol=1e-6, atol=1e-12)


@given(st.lists(st.integers(-3, 3), min_size=2, max_size=20))
def test_ranks_of_ties_are_scipys_average(means: list[int]) -> None:
    rewards = np.array(means, dtype=np.float64)[:, None] / 2
    expected = centered_ranks(rewards)
    np.testing.assert_allclose(centered_rank(torch.from_numpy(rewards)).numpy(), expected, atol=1e-15)


@given(st.lists(st.integers(0, 3), min_size=2, max_size=20))
def test_of_several_winners_the_first_takes_all(means: list[int]) -> None:
    rewards = np.array(means, dtype=np.float64)[:, None]
    weights = best_of_n(torch.from_numpy(rewards))
    np.testing.assert_allclose(weights.numpy(), winner(rewards))
    assert float(weights.mean()) == 1


def test_members_are_tied_though_their_sums_round_differently() -> None:
    rows = [[0.1, 0.2, 0.3, 0.7], [0.7, 0.1, 0.3, 0.2], [0.3, 0.7, 0.2, 0.1], [0.2, 0.1, 0.3, 0.6]]
    rewards = torch.tensor(rows, dtype=torch.float64)
    assert len(set(rewards[:3].mean(dim=1).tolist())) > 1, "rounding differs"
    third = 1 / 6  # ranks 1, 2 and 3 of 0 to 3 have the mean 2
    assert centered_rank(rewards).tolist() == pytest.approx([third, third, third, -0.5], abs=1e-15)
    assert best_of_n(rewards).tolist() == best_of_n(rewards.flip(1)).tolist() == [4, 0, 0, 0]


@pytest.mark.parametrize("value", [0.1, 1234567.1, -1e12 / 3, 1e30])
def test_a_prompt_that_all_answered_alike_does_not_count_in_prompt_z_scores(value: float) -> None:
    rewards = torch.from_numpy(rewards_of(1, 7, 3))
    more = torch.cat([rewards, torch.full((7, 1), value, dtype=torch.float64)], dim=1)
    np.testing.assert_allclose(prompt_z_score(more).numpy() * 4, prompt_z_score(rewards).numpy() * 3)


extreme = st.one_of(
    st.floats(-LARGEST_REWARD, LARGEST_REWARD),
    st.sampled_from([0.0, -0.0, 5e-324, 1e-300, 1.0, LARGEST_REWARD, -LARGEST_REWARD]),
)


@given(st.data(), st.integers(2, 6), st.integers(1, 4))
def test_weights_of_extreme_rewards_are_finite(data: st.DataObject, members: int, prompts: int) -> None:
    row = st.lists(extreme, min_size=prompts, max_size=prompts)
    rows = data.draw(st.lists(row, min_size=members, max_size=members))
    for shape in SHAPINGS.values():
        weights, _ = weigh(torch.tensor(rows, dtype=torch.float64), shape)
        assert weights.shape == (members,)
        assert torch.isfinite(weights).all()


@given(st.permutations(range(9)))
def test_no_shaping_knows_members_by_their_place(order: list[int]) -> None:
    rewards = torch.from_numpy(rewards_of(2, 9, 4))
    for shape in SHAPINGS.values():
        torch.testing.assert_close(shape(rewards[order]), shape(rewards)[order])


@every_shaping
def test_rewards_are_left_as_they_are(shape: Callable[[Tensor], Tensor]) -> None:
    rewards = torch.from_numpy(rewards_of(4))
    before = rewards.clone()
    shape(rewards)
    assert torch.equal(rewards, before)


@pytest.mark.parametrize("scale", [0, -1.0, float("inf"), float("nan")])
def test_a_scale_that_is_none_is_refused(scale: float) -> None:
    with pytest.raises(UsageError, match=rf"^FixedScale\.scale is {scale}: give a number above 0"):
        FixedScale(scale)


# Refusals

REWARDS = torch.tensor([[0.0], [1.0], [2.0]])
WRONG: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "a shape": (lambda rewards: rewards, r"returned the shape \[3, 1\]: return a tensor of 3 weights"),
    "too few": (lambda rewards: rewards[1:, 0], r"returned the shape \[2\]"),
    "a list": (lambda rewards: [1.0, 2.0, 3.0], r"returned \[1.0, 2.0, 3.0\]: return a tensor"),
    "nothing": (lambda rewards: None, "returned None"),
    "nan": (lambda rewards: torch.tensor([0.0, float("nan"), 1.0]), "returned nan for member 1"),
    "inf": (lambda rewards: torch.tensor([0.0, 1.0, float("-inf")]), "returned -inf for member 2"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_shaping_that_returns_no_weights_is_refused(name: str) -> None:
    shape, words = WRONG[name]
    with pytest.raises(UsageError, match=words) as caught:
        weigh(REWARDS, shape)
    assert "model.shaping" in str(caught.value)


class Counting:
    """A shaping that learns."""

    calls = 0

    def __call__(self, rewards: Tensor) -> Tensor:
        self.calls += 1
        return rewards.mean(dim=1)


def fails(rewards: Tensor) -> Tensor:
    raise ValueError("of 2 lines\nof which one is shown")


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (torch.nn.Module(), r"Module fails on rewards of 4 members and 2 prompts \(NotImplementedError: "),
        (fails, r"fails fails on .* prompts \(ValueError: of 2 lines\): give a function"),
        (z_score(torch.eye(3)).view, r"view fails on rewards"),
        (lambda rewards: rewards, r"returned the shape \[4, 2\]"),
    ],
)
def test_a_shaping_is_tried_before_a_run(shape: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        check_shaping(shape, 4, 2)
    assert "\n" not in str(caught.value)


@every_shaping
def test_every_shaping_passes_the_trial(shape: Callable[[Tensor], Tensor]) -> None:
    check_shaping(shape, 4, 1)
    check_shaping(shape, 2, 3)


def test_a_trial_teaches_a_shaping_nothing_and_judges_no_values() -> None:
    counting = Counting()
    check_shaping(counting, 4, 2)
    assert counting.calls == 0
    check_shaping(lambda rewards: rewards.mean(dim=1).log(), 4, 2)  # of 0 here, of more in its own task


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e31])
def test_rewards_that_overflow_are_refused(value: float) -> None:
    with pytest.raises(RewardError, match="a reward of the population has the size"):
        weigh(torch.tensor([[0.0], [value]], dtype=torch.float64), z_score)


@every_shaping
def test_a_generation_that_agrees_is_skipped_whatever_the_shaping(shape: Callable[[Tensor], Tensor]) -> None:
    weights, skipped = weigh(torch.full((4, 3), 0.1), shape)
    assert skipped
    assert weights.tolist() == [0.0] * 4


def test_shuffled_weights_are_those_of_its_shaping_in_another_order_for_all_rewards() -> None:
    generator = np.random.default_rng(0)
    orders = []
    for _ in range(2000):
        rewards = torch.from_numpy(generator.normal(size=(5, 3)))
        shuffled, plain = Shuffled()(rewards), z_score(rewards)
        assert torch.equal(shuffled.sort().values, plain.sort().values)
        assert torch.equal(shuffled, Shuffled()(rewards.clone()))  # a resumed run repeats it
        orders.append([plain.tolist().index(weight) for weight in shuffled.tolist()])
    counts = np.stack([np.bincount(column, minlength=5) for column in np.array(orders).T])
    assert stats.chisquare(counts.ravel()).pvalue > 0.001  # every member gets every weight as often


def test_shuffled_weights_follow_their_seed_and_shaping() -> None:
    rewards = torch.arange(12.0).view(6, 2)
    assert not torch.equal(Shuffled(seed=1)(rewards), Shuffled(seed=2)(rewards))
    assert torch.equal(Shuffled(none)(rewards).sort().values, none(rewards))
