"""From rewards to weights, against SciPy and the papers' formulas."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from es_lightning.algorithm.shaping import all_alike, none, z_score


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
