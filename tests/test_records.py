"""Rewards of a prompt with several samples: their mean, and the expected best of k of them."""

from fractions import Fraction
from itertools import combinations
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from es_lightning.records import Completion, Evaluation, Prompt, expected_best

REWARD = st.floats(-1e30, 1e30)


def brute_force(rewards: list[float], k: int) -> float:
    best = [Fraction(max(chosen)) for chosen in combinations(rewards, k)]
    return float(sum(best) / len(best))


@given(st.lists(REWARD, min_size=1, max_size=8), st.data())
def test_the_best_of_k_is_the_mean_over_all_choices_of_k(rewards: list[float], data: st.DataObject) -> None:
    k = data.draw(st.integers(2, len(rewards))) if len(rewards) > 1 else 1
    assert expected_best(rewards, k) == brute_force(rewards, k)
    assert expected_best(rewards[::-1], k) == expected_best(rewards, k) or k == 1


@given(st.integers(2, 200), st.data())
def test_for_zeros_and_ones_it_is_pass_at_k(n: int, data: st.DataObject) -> None:
    right, k = data.draw(st.integers(0, n)), data.draw(st.integers(2, n))
    chen = 1 - Fraction(comb(n - right, k), comb(n, k))  # Chen et al. 2021, equation 1
    assert expected_best([1.0] * right + [0.0] * (n - right), k) == float(chen)


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=8))
def test_it_goes_from_the_mean_to_the_best(rewards: list[float]) -> None:
    values = [expected_best(rewards, k) for k in range(1, len(rewards) + 1)]
    assert values[0] == sum(rewards) / len(rewards)
    assert values[-1] == max(rewards)
    assert all(low <= high + 1e-12 for low, high in zip(values, values[1:], strict=False))


@pytest.mark.parametrize(("pass_k", "rewards"), [(1, [1 / 3, 2.0]), (2, [2 / 3, 8 / 3]), (3, [1.0, 3.0])])
def test_an_evaluation_takes_it_per_prompt(pass_k: int, rewards: list[float]) -> None:
    prompts = (Prompt("a", "a"), Prompt("b", "b"))
    scores = tuple({"reward": float(value)} for value in (0, 1, 0, 3, 1, 2))
    evaluation = Evaluation(prompts, (Completion("", (1,), "stop"),) * 6, scores, pass_k)
    assert evaluation.rewards == rewards
    assert evaluation.reward == pytest.approx(sum(rewards) / 2)
