"""A mixture of tasks: every task counts by its weight, whatever its rewards' scale and its prompts."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from es_lightning.algorithm.shaping import comparable, z_score
from es_lightning.datamodule import TaskDataModule
from es_lightning.errors import UsageError
from es_lightning.records import Choice, Prompt
from es_lightning.task import Reward, Task
from es_lightning.tasks import Mixture


class Fixed(Task):
    """Earns what it is made with."""

    def __init__(self, name: str, size: int, reward: Reward = 1.0) -> None:
        self.called, self.size, self.value = name, size, reward
        self.prepared = 0

    @property
    def name(self) -> str:
        return self.called

    def problems(self, split: str) -> list[Prompt]:
        return [Prompt(f"{self.name}/{split}/{i}", f"{split} {i}") for i in range(self.size)]

    def reward(self, prompt: Prompt, completion: str) -> Reward:
        return self.value if completion else 0.0

    def choice_reward(self, prompt: Prompt, logprobs: Sequence[float]) -> Reward:
        return {"reward": max(logprobs), "accuracy": 1.0}

    def prepare(self) -> None:
        self.prepared += 1


def mixture(*sizes: int, weights: Sequence[float] | None = None) -> Mixture:
    return Mixture([Fixed("abcdef"[i], size) for i, size in enumerate(sizes)], weights)


# The task


def test_problems_of_all_tasks_keep_their_order_and_get_ids_of_their_own() -> None:
    parts = [Fixed("a", 2), Fixed("b", 3), Fixed("a", 2), Fixed("a", 1)]
    problems = Mixture(parts).problems("val")
    assert Counter(prompt.group for prompt in problems) == {"a": 2, "b": 3, "a-2": 2, "a-3": 1}
    assert len({prompt.id for prompt in problems}) == 8
    expected = [prompt for part in parts for prompt in part.problems("val")]
    assert [replace(prompt, id="", group="") for prompt in problems] == [replace(p, id="") for p in expected]


def test_a_number_that_a_name_has_already_is_not_given_again() -> None:
    named = Mixture([Fixed("a-2", 1), Fixed("a", 1), Fixed("a", 1)])
    assert len(named.tasks) == len({prompt.id for prompt in named.problems("val")}) == 3


def test_rewards_are_the_own_tasks_and_named_for_it() -> None:
    detailed = Fixed("a", 1, {"reward": 0.5, "accuracy": 1.0, "format": 0.25})
    task = Mixture([detailed, Fixed("a", 1, 3.0), Fixed("b", 1)])
    first, second, third = task.problems("train")
    assert task.reward(first, "x") == {
        **{"reward": 0.5, "accuracy": 1.0},
        **{"a/reward": 0.5, "a/accuracy": 1.0, "a/format": 0.25},
    }
    assert task.reward(second, "x") == {"reward": 3.0, "a-2/reward": 3.0}
    chosen = task.choice_reward(replace(third, choices=(Choice("x"), Choice("y"))), [-3.0, -2.0])
    assert chosen == {"reward": -2.0, "accuracy": 1.0, "b/reward": -2.0, "b/accuracy": 1.0}


def test_every_task_is_prepared_and_the_worst_failure_counts() -> None:
    parts = [Fixed("a", 1), Fixed("b", 1)]
    parts[1].failure_reward = -100.0
    task = Mixture(parts)
    task.prepare()
    assert [part.prepared for part in parts] == [1, 1]
    assert task.failure_reward == -100


@pytest.mark.parametrize("weights", [[1], [1, 2, 3], [1, 0], [1, -1], [1, float("nan")], [1, float("inf")]])
def test_weights_that_make_no_sense_are_refused(weights: list[float]) -> None:
    with pytest.raises(UsageError, match="give 2 numbers above 0, one per task"):
        mixture(1, 1, weights=weights)


@pytest.mark.parametrize("sizes", [(), (1,)])
def test_a_mixture_of_less_than_two_is_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=f"a mixture of {len(sizes)} tasks: give two or more"):
        mixture(*sizes)


def test_a_mixture_within_a_mixture_is_refused() -> None:
    with pytest.raises(UsageError, match="list the inner one's tasks in the outer one"):
        Mixture([mixture(1, 1), Fixed("c", 1)])


# Rewards on one scale


def standardised(rewards: np.ndarray, groups: Sequence[str], weights: Mapping[str, float]) -> np.ndarray:
    """[N]: the weighted mean of each task's z-scores, straight from the words."""
    there = sorted(set(groups))
    result = np.zeros(len(rewards))
    for name in there:
        mean = np.array(
            [[r for r, group in zip(row, groups, strict=True) if group == name] for row in rewards]
        )
        mean = mean.mean(axis=1)
        z = (mean - mean.mean()) / mean.std()
        result += weights[name] / sum(weights[other] for other in there) * z
    return result


@given(
    st.lists(st.sampled_from("abc"), min_size=1, max_size=9),
    st.integers(2, 12),
    st.tuples(*[st.floats(0.01, 100)] * 3),
    st.integers(0, 2**32 - 1),
)
def test_member_means_are_weighted_means_of_z_scores(
    groups: list[str], members: int, weights: tuple[float, ...], seed: int
) -> None:
    rewards = np.random.default_rng(seed).normal(size=(members, len(groups)))
    named = dict(zip("abc", weights, strict=True))
    result = comparable(torch.from_numpy(rewards), groups, named)
    assert result.dtype == torch.float64
    np.testing.assert_allclose(result.mean(1), standardised(rewards, groups, named), rtol=1e-9, atol=1e-9)


GROUPS = ["a", "b", "b", "a", "c", "b"]
WEIGHTS = {"a": 1.0, "b": 2.5, "c": 0.5}


def drawn(seed: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(8, len(GROUPS))))


@given(st.integers(0, 2**32 - 1), st.sampled_from("abc"), st.floats(-1000, 1000))
def test_no_task_counts_more_for_a_larger_scale_or_offset(seed: int, name: str, offset: float) -> None:
    rewards = drawn(seed)
    here = torch.tensor([group == name for group in GROUPS])
    scaled = torch.where(here, rewards * 1000 + offset, rewards)
    before, after = (z_score(comparable(r, GROUPS, WEIGHTS)) for r in (rewards, scaled))
    torch.testing.assert_close(after, before, rtol=1e-8, atol=1e-8)


@given(st.integers(0, 2**32 - 1), st.permutations(range(len(GROUPS))))
def test_the_order_of_prompts_does_not_matter(seed: int, order: list[int]) -> None:
    rewards = drawn(seed)
    moved = comparable(rewards[:, order], [GROUPS[i] for i in order], WEIGHTS)
    torch.testing.assert_close(moved, comparable(rewards, GROUPS, WEIGHTS)[:, order])


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, -1e6])
def test_a_task_on_which_all_did_alike_gives_zeros_and_the_others_stay(value: float) -> None:
    rewards = drawn(0)
    dead = torch.tensor([group == "b" for group in GROUPS])
    lame = comparable(torch.where(dead, value, rewards), GROUPS, WEIGHTS)
    assert not lame[:, dead].any()
    torch.testing.assert_close(lame[:, ~dead], comparable(rewards, GROUPS, WEIGHTS)[:, ~dead])
    assert not comparable(torch.full_like(rewards, value), GROUPS, WEIGHTS).any()


def test_tasks_that_a_batch_lacks_do_not_count() -> None:
    rewards = drawn(1)
    without = comparable(rewards, GROUPS, WEIGHTS)
    torch.testing.assert_close(comparable(rewards, GROUPS, WEIGHTS | {"absent": 1e6}), without)


def test_rewards_are_left_as_they_were() -> None:
    rewards = drawn(2).float()
    assert comparable(rewards, GROUPS, WEIGHTS).dtype == torch.float64
    assert torch.equal(rewards, drawn(2).float())


# Batches


@pytest.mark.parametrize(
    ("sizes", "weights", "prompts", "shares"),
    [
        ((20, 20), None, 10, [5, 5]),
        ((20, 20, 20), [1, 2, 2], 10, [2, 4, 4]),
        ((20, 20), [3, 1], 8, [6, 2]),
        ((20, 20), [1, 1000], 5, [1, 4]),  # at least one of every task
        ((20, 20, 20), [1, 1, 1000], 3, [1, 1, 1]),
        ((20, 20, 20), [5, 3, 2], 7, [4, 2, 1]),  # 3.5, 2.1, 1.4: the largest remainder gets the seventh
        ((6, 2, 3), [1, 1, 2], 11, [6, 2, 3]),  # all there are, in every generation
    ],
)
def test_prompts_are_shared_out_by_weight(sizes, weights, prompts, shares) -> None:
    data = TaskDataModule(mixture(*sizes, weights=weights), prompts_per_generation=prompts)
    for batch in map(data.batch, range(12)):
        assert Counter(prompt.group for prompt in batch) == dict(zip("abc", shares, strict=False))
        assert len({prompt.id for prompt in batch}) == prompts


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=6), st.integers(2, 40))
def test_no_share_is_further_than_one_prompt_from_its_weight(weights: list[float], prompts: int) -> None:
    sizes = [60] * len(weights)
    data = TaskDataModule(mixture(*sizes, weights=weights), prompts_per_generation=max(prompts, len(sizes)))
    shares = Counter(prompt.group for prompt in data.batch(0))
    exact = [len(data.batch(0)) * weight / sum(weights) for weight in weights]
    assert sum(shares.values()) == max(prompts, len(sizes))
    if min(exact) >= 1:
        assert all(abs(shares["abcdef"[i]] - share) < 1 for i, share in enumerate(exact))
    assert min(shares.values()) >= 1


def test_each_tasks_problems_are_all_used_once_within_a_pass() -> None:
    data = TaskDataModule(mixture(6, 12, weights=[1, 2]), prompts_per_generation=6)  # 2 of 6 and 4 of 12
    orders = set()
    for first in range(0, 9, 3):
        used = [prompt.id for generation in range(first, first + 3) for prompt in data.batch(generation)]
        assert sorted(used) == sorted(prompt.id for prompt in data.prompts("train"))
        orders.add(tuple(used))
    assert len(orders) == 3  # shuffled anew: 1 in 12! to be the same


def test_a_batch_depends_on_generation_and_seed_alone() -> None:
    first, second = (TaskDataModule(mixture(9, 9), 4, seed=3) for _ in range(2))
    drawn = [second.batch(generation) for generation in reversed(range(9))][::-1]
    assert [first.batch(generation) for generation in range(9)] == drawn
    other = TaskDataModule(mixture(9, 9), 4, seed=4)
    assert [other.batch(generation) for generation in range(9)] != drawn


@pytest.mark.parametrize(
    ("sizes", "prompts", "said"),
    [
        ((2, 50), 10, "is 10, of which 5 are the share of a, but that task has 2 training problems"),
        ((5, 5, 5), 2, "is 2, but the mixture has 3 tasks: raise it"),
        ((5, 5), 11, "is 11, but task Mixture has 10 training problems: lower it"),
    ],
)
def test_more_than_there_is_cannot_be_drawn(sizes: tuple[int, ...], prompts: int, said: str) -> None:
    with pytest.raises(UsageError, match=f"data.prompts_per_generation {said}"):
        TaskDataModule(mixture(*sizes), prompts_per_generation=prompts).batch(0)


class Together(Fixed):
    """Grades whole batches."""

    batched = True

    def rewards(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[Reward | Exception]:
        return [KeyError(text) if text == "bad" else float(len(completions)) for text in completions]


class Raises(Fixed):
    """Raises on one text."""

    def reward(self, prompt: Prompt, completion: str) -> Reward:
        return 1 / len(completion.replace("bad", ""))


def test_a_task_that_grades_batches_does_so_in_a_mixture() -> None:
    task = Mixture([Together("a", 3), Raises("b", 2)])
    prompts = task.problems("val")
    assert task.batched
    assert not mixture(1, 1).batched
    order = [0, 3, 1, 4, 2]
    rewards = task.rewards([prompts[i] for i in order], ["x", "xx", "bad", "bad", "x"])
    assert rewards[:2] == [{"reward": 3.0, "a/reward": 3.0}, {"reward": 0.5, "b/reward": 0.5}]
    assert [type(reward) for reward in rewards[2:]] == [KeyError, ZeroDivisionError, dict]


class Breaks(Together):
    """Raises for a whole batch, or returns too few rewards."""

    def rewards(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[Reward | Exception]:
        if "raise" in completions:
            raise RuntimeError("the whole batch")
        return [1.0]


@pytest.mark.parametrize(
    ("text", "said"), [("raise", "the whole batch"), ("x", "1 rewards for 2 completions")]
)
def test_a_batched_task_that_raises_fails_its_own_completions_alone(text: str, said: str) -> None:
    task = Mixture([Breaks("a", 2), Raises("b", 1)])
    failed, right, also_failed = task.rewards([task.problems("val")[i] for i in (0, 2, 1)], [text, "xx", "x"])
    assert right == {"reward": 0.5, "b/reward": 0.5}
    assert [said in str(error) for error in (failed, also_failed)] == [True, True]
