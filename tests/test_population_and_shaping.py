"""Who is in a generation, who evaluates whom, and what their rewards weigh."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from es_lightning.algorithm.population import Population
from es_lightning.algorithm.shaping import all_alike, none, z_score
from es_lightning.distributed.ranks import lane_of
from es_lightning.errors import UsageError


@given(st.integers(), st.integers(0, 10**6), st.integers(2, 64))
def test_members_are_a_function_of_run_seed_and_generation(run_seed: int, generation: int, size: int) -> None:
    members = Population(size, run_seed).members(generation)
    assert members == Population(size, run_seed).members(generation)
    assert [member.index for member in members] == list(range(size))
    assert len({member.seed for member in members}) == size


def test_no_seed_comes_twice_in_neighbouring_runs_and_generations() -> None:
    seeds = [m.seed for run in (0, 1, 2, 42, 43) for g in range(50) for m in Population(30, run).members(g)]
    assert len(set(seeds)) == len(seeds)


def test_a_smaller_population_is_the_beginning_of_a_larger_one() -> None:
    assert Population(30).members(3)[:16] == Population(16).members(3)


def test_antithetic_members_come_in_pairs_of_opposite_signs() -> None:
    members = Population(8, 1, antithetic=True).members(2)
    for plus, minus in zip(members[::2], members[1::2], strict=True):
        assert plus.seed == minus.seed
        assert (plus.sign, minus.sign) == (1, -1)
    assert len({member.seed for member in members}) == 4


@pytest.mark.parametrize("size", [1, 0, -3])
def test_a_population_below_two_is_refused(size: int) -> None:
    with pytest.raises(UsageError, match="at least 2"):
        Population(size)


def test_an_odd_number_of_antithetic_members_is_refused() -> None:
    with pytest.raises(UsageError, match="even"):
        Population(7, antithetic=True)


@given(st.integers(2, 100), st.integers(1, 12))
def test_ranks_share_all_members_evenly(size: int, world: int) -> None:
    members = Population(size).members(0)
    shards = [lane_of(rank, world).share(members) for rank in range(world)]
    assert sorted((m for part in shards for m in part), key=lambda m: m.index) == list(members)
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


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
