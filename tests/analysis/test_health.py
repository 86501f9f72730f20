"""How much of a population's rewards is signal: against brute force, closed forms and real noise."""

from itertools import combinations, product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from es_lightning.algorithm.noise import GaussianNoise
from es_lightning.algorithm.shaping import comparable, z_score
from es_lightning.algorithm.signal import mean_squares, signal
from es_lightning.analysis.diagnosis import symptoms
from es_lightning.analysis.health import (
    above,
    agreement_by_chance,
    informative,
    linear_share,
    variance_shares,
)

seeds = st.integers(0, 2**32 - 1)


def table(
    seed: int,
    members: int = 12,
    prompts: int = 6,
    member: float = 1.0,
    prompt: float = 1.0,
    rest: float = 1.0,
) -> Tensor:
    """Rewards with known standard deviations of members, prompts and residual."""
    rng = np.random.default_rng(seed)
    effects = member * rng.normal(size=(members, 1)) + prompt * rng.normal(size=(1, prompts))
    return torch.from_numpy(effects + rest * rng.normal(size=(members, prompts)))


def splits(groups: list[str]) -> list[tuple[list[int], list[int]]]:
    """All ways to cut the prompts in two, with half of each group on either side."""
    parts = [[i for i, each in enumerate(groups) if each == name] for name in sorted(set(groups))]
    halves = [list(combinations(part, len(part) // 2)) for part in parts]
    first = [sorted(i for part in chosen for i in part) for chosen in product(*halves)]
    return [(a, [i for i in range(len(groups)) if i not in a]) for a in first]


# Agreement and signal-to-noise


@given(seeds)
def test_mean_squares_are_those_of_a_two_way_analysis_of_variance(seed: int) -> None:
    rewards = table(seed).numpy()
    n, p = rewards.shape
    rows, columns, mean = rewards.mean(1), rewards.mean(0), rewards.mean()
    residual = sum((rewards[i, j] - rows[i] - columns[j] + mean) ** 2 for i in range(n) for j in range(p))
    member = p * sum((row - mean) ** 2 for row in rows) / (n - 1)
    found = mean_squares(torch.from_numpy(rewards))
    assert [float(each) for each in found] == pytest.approx([member, residual / (n - 1) / (p - 1)])


@pytest.mark.parametrize("groups", [["a"] * 6, ["a"] * 4 + ["b"] * 2, ["b", "a", "b", "a", "a", "a"]])
@pytest.mark.parametrize("pairs", [False, True])
@given(seed=seeds)
def test_agreement_is_the_mean_over_all_ways_to_halve_the_prompts(
    groups: list[str], pairs: bool, seed: int
) -> None:
    rewards = table(seed)
    found = signal(rewards, groups, pairs)
    values = (rewards[::2] - rewards[1::2]).numpy() / 2 if pairs else rewards.numpy()
    values = values if pairs else values - values.mean(0)
    covariances, variances = [], []
    for first, second in splits(groups):
        a, b = values[:, first].mean(1), values[:, second].mean(1)
        covariances.append((a * b).sum())
        variances.append((a * a).sum() / 2 + (b * b).sum() / 2)
    assert found is not None
    assert found.agreement == pytest.approx(sum(covariances) / sum(variances), rel=1e-9, abs=1e-12)


@given(seeds)
def test_reliability_is_cronbachs_alpha_and_follows_from_the_agreement(seed: int) -> None:
    rewards = table(seed, member=2.0)
    found = signal(rewards)
    assert found is not None
    values = rewards.numpy()
    p = values.shape[1]
    alpha = p / (p - 1) * (1 - values.var(0, ddof=1).sum() / values.sum(1).var(ddof=1))
    assert found.reliability == pytest.approx(alpha)
    assert found.reliability == pytest.approx(2 * found.agreement / (1 + found.agreement))
    assert found.snr == pytest.approx(found.reliability / (1 - found.reliability))


def test_the_signal_to_noise_ratio_is_that_of_the_simulation() -> None:
    found = [signal(table(seed, 30, 50, member=0.3, prompt=3.0, rest=1.5)) for seed in range(200)]
    member, residual = (np.mean([getattr(each, name) for each in found]) for name in ("member", "residual"))
    assert residual == pytest.approx(1.5**2, rel=0.01)
    assert member / residual - 1 == pytest.approx(0.3**2 / (1.5**2 / 50), rel=0.05)


def steps(seed: int, weights: list[Tensor], signs: Tensor, dimension: int = 100_000) -> list[Tensor]:
    """sum_n w_n eps_n in float64 for each vector of weights; pairs share their noise."""
    noise, totals = (
        GaussianNoise(compile=False),
        [torch.zeros(dimension, dtype=torch.float64) for _ in weights],
    )
    for n, sign in enumerate(signs.tolist()):
        pair = n // 2 if -1 in signs else n
        eps = noise.sample(1000 * seed + pair, "layer.weight", (dimension,)).double() * sign
        for total, weight in zip(totals, weights, strict=True):
            total += weight[n] * eps
    return totals


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / a.norm() / b.norm())


@pytest.mark.parametrize("member", [0.0, 0.5, 2.0])
def test_steps_of_prompt_halves_have_the_cosine_of_their_weights(member: float) -> None:
    rewards = table(3, 16, 20, member=member)
    weights = [z_score(rewards[:, ::2]), z_score(rewards[:, 1::2])]
    found = cosine(*steps(1, weights, torch.ones(16)))
    expected = np.corrcoef(weights[0].numpy(), weights[1].numpy())[0, 1]
    assert found == pytest.approx(expected, abs=4 / 100_000**0.5)


def test_steps_of_antithetic_halves_have_the_cosine_of_their_odd_parts() -> None:
    rewards = table(4, 16, 20, member=0.7)
    weights = [z_score(rewards[:, ::2]), z_score(rewards[:, 1::2])]
    found = cosine(*steps(2, weights, torch.tensor([1.0, -1.0] * 8)))
    odd = [(rewards[::2, i::2] - rewards[1::2, i::2]).mean(1) for i in (0, 1)]
    assert found == pytest.approx(cosine(*odd), abs=4 / 100_000**0.5)


def test_steps_of_member_halves_have_nothing_in_common_however_clear_the_signal() -> None:
    rewards = table(5, 16, 20, member=1.0, rest=0.01)
    halves = z_score(rewards[:8]), z_score(rewards[8:])
    zeros = torch.zeros(8, dtype=torch.float64)
    weights = [torch.cat([halves[0], zeros]), torch.cat([zeros, halves[1]])]
    assert abs(cosine(*steps(3, weights, torch.ones(16)))) < 5 / 100_000**0.5
    found = signal(rewards)
    assert found is not None
    assert found.agreement > 0.99


def test_no_task_of_a_mixture_drowns_another() -> None:
    rewards = torch.cat([table(6, 20, 8), table(7, 20, 4)], dim=1)
    groups, weights = ["a"] * 8 + ["b"] * 4, {"a": 1.0, "b": 2.0}
    larger = rewards * torch.tensor([1.0] * 8 + [1e4] * 4)
    found = [signal(comparable(each, groups, weights), groups) for each in (rewards, larger)]
    assert found[0] is not None
    assert found[1] is not None
    assert found[0].agreement == pytest.approx(found[1].agreement)


def test_what_tasks_disagree_about_is_no_noise() -> None:
    effect = torch.from_numpy(np.random.default_rng(0).normal(size=(20, 2)))
    rewards = effect.repeat_interleave(4, dim=1)
    apart, together = signal(rewards, ["a"] * 4 + ["b"] * 4), signal(rewards)
    assert apart is not None
    assert together is not None
    assert apart.agreement == 1
    assert together.agreement < 0.95


def test_a_task_with_one_prompt_is_measured_with_the_others() -> None:
    rewards = table(8)
    assert signal(rewards, ["a"] * 5 + ["b"]) == signal(rewards)


@pytest.mark.parametrize("pairs", [False, True])
def test_nothing_is_said_of_one_prompt_or_of_equal_members(pairs: bool) -> None:
    assert signal(table(1, prompts=1), pairs=pairs) is None
    assert signal(torch.full((6, 5), 0.1), pairs=pairs) is None
    assert signal(torch.rand(1, 5).expand(6, 5), pairs=pairs) is None


# Where the variance lies


@given(seeds, st.integers(2, 9), st.integers(2, 9))
def test_shares_of_variance_sum_to_one(seed: int, members: int, prompts: int) -> None:
    shares = variance_shares(table(seed, members, prompts))
    assert sum(shares.values()) == pytest.approx(1)
    assert min(shares.values()) >= 0


def test_shares_of_variance_are_those_of_the_simulation() -> None:
    shares = variance_shares(table(2, 400, 400, member=1.0, prompt=2.0, rest=3.0))
    assert [shares[name] for name in ("member", "prompt", "residual")] == pytest.approx(
        [1 / 14, 4 / 14, 9 / 14], rel=0.12
    )


@pytest.mark.parametrize("value", [0.0, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("shape", [(30, 40), (6, 5), (4, 3)])
def test_equal_rewards_have_no_shares(value: float, shape: tuple[int, int]) -> None:
    """Means of 0.1 and 0.3 are rounded, which is no difference."""
    alike = torch.full(shape, value, dtype=torch.float64)
    assert variance_shares(alike) == {}
    assert linear_share(alike) is None
    by_prompt = torch.linspace(0.1, 0.9, shape[1], dtype=torch.float64).expand(shape)
    assert linear_share(by_prompt) is None


def test_one_prompt_has_no_shares_and_one_pair_no_linear_share() -> None:
    assert variance_shares(torch.rand(4, 1)) == {}
    assert linear_share(torch.rand(2, 5)) is None


def test_the_linear_share_tells_slopes_from_curvature() -> None:
    half = torch.from_numpy(np.random.default_rng(1).normal(size=(2000, 4)))
    for rewards, share in (([half, -half], 1.0), ([half, half], 0.0), ([half, half.roll(1, 0)], 0.5)):
        paired = torch.stack(rewards, dim=1).flatten(0, 1)
        assert linear_share(paired) == pytest.approx(share, abs=0.03)
    assert linear_share(torch.ones(4, 3)) is None


def test_members_above_the_centre_are_counted_and_equals_count_half() -> None:
    rewards = torch.tensor([[0.1, 0.2], [0.2, 0.1], [0.0, 0.4], [0.0, 0.1]], dtype=torch.float64)
    assert above(rewards, torch.tensor([0.3, 0.0], dtype=torch.float64)) == (0.5 + 0.5 + 1 + 0) / 4


def test_informative_prompts_are_those_that_tell_members_apart() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.3, 1.0], [1.0, 1.0, 0.3, 1.0], [1.0, 1.0, 0.3, 0.9]])
    assert informative(rewards) == 0.5


# Agreement where members differ by chance alone


def by_chance(rng: np.random.Generator, kind: str, members: int, prompts: int) -> Tensor:
    """Rewards that say nothing of their members; the prompts are not equally hard."""
    ease = rng.random(prompts)
    if kind == "Gaussian":
        return torch.from_numpy(rng.normal(size=(members, prompts)) + ease)
    return torch.from_numpy((rng.random((members, prompts)) < 0.2 + 0.6 * ease) * 1.0)


@pytest.mark.parametrize("kind", ["Gaussian", "0 or 1"])
@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize(("members", "prompts"), [(30, 32), (8, 16)])
def test_agreement_by_chance_is_that_of_simulated_rewards(
    kind: str, pairs: bool, members: int, prompts: int
) -> None:
    rng = np.random.default_rng(members + pairs)
    found = [signal(by_chance(rng, kind, members, prompts), (), pairs) for _ in range(1000)]
    agreements = [each.agreement for each in found if each is not None]
    mean, deviation = agreement_by_chance(members, prompts, pairs)
    assert np.mean(agreements) == pytest.approx(mean, abs=4 * deviation / len(agreements) ** 0.5)
    assert np.std(agreements) == pytest.approx(deviation, rel=0.1)


def test_pairs_halve_the_degrees_of_freedom_of_an_agreement() -> None:
    assert agreement_by_chance(30, 32, True) == pytest.approx((-0.031, 0.184), abs=0.001)
    assert agreement_by_chance(30, 32, False) == pytest.approx((-0.016, 0.133), abs=0.001)
    assert agreement_by_chance(2, 2, True)[0] == pytest.approx(0, abs=1e-9), "F(1, 1) and 1 / F are alike"


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("members", [8, 30, 128])
def test_chance_passes_for_agreement_in_five_of_a_hundred_cases(members: int, pairs: bool) -> None:
    rng, prompts, seen = np.random.default_rng(1), 16, 0
    null, deviation = agreement_by_chance(members, prompts, pairs)
    freedom = members // 2 if pairs else members - 1
    for _ in range(800):
        ratios = rng.f(freedom, freedom * (prompts - 1), size=10)  # MS_m / MS_e of ten generations
        readings = [
            {"agreement": (x - 1) / (x + 1), "agreement_null": null, "agreement_null_sd": deviation}
            for x in ratios
        ]
        seen += symptoms(readings) == []
    assert 0.025 < seen / 800 < 0.08
