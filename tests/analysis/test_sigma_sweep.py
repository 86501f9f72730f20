"""Intervals of the sweep's scores: how often they cover the truth, with eight pairs."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import t as student
from torch import Tensor

from es_lightning.analysis.sigma_sweep import interval, judge, score, smoothed

PAIRS, PROMPTS = 8, 16
SLOPES = np.array([0.2, 0.6, 0.9])  # share of the odd part in the variance of the members' true rewards
Make = Callable[[Any, int, int], list[Tensor]]


def interleaved(plus: Any, minus: Any) -> Tensor:
    """Members 2k and 2k+1 of tables [..., 2 K, P]."""
    both = np.stack([plus, minus], axis=-2)
    return torch.from_numpy(both.reshape(*both.shape[:-3], -1, both.shape[-1]))


def members(rng: Any, sweeps: int, pairs: int) -> list[list[Any]]:
    """True rewards of both members of each pair at three sigmas, Gaussian with variance 1."""
    odd, even = rng.normal(size=(2, sweeps, pairs, 1))
    return [[sign * odd * s**0.5 + even * (1 - s) ** 0.5 for sign in (1, -1)] for s in SLOPES]


def gaussian(rng: Any, sweeps: int, pairs: int) -> list[Tensor]:
    """A Gaussian reward per member and prompt."""
    cells = (sweeps, pairs, PROMPTS)
    return [
        interleaved(*(each + rng.normal(size=cells) for each in both)) for both in members(rng, sweeps, pairs)
    ]


def binomial(rng: Any, sweeps: int, pairs: int) -> list[Tensor]:
    """A reward of 0 or 1 per member and prompt; the prompts are not equally hard."""
    ease = rng.normal(size=(sweeps, 1, PROMPTS))
    chance = [[1 / (1 + np.exp(-each - ease)) for each in both] for both in members(rng, sweeps, pairs)]
    return [interleaved(*((rng.random(each.shape) < each) * 1.0 for each in both)) for both in chance]


def curved(rng: Any, sweeps: int, pairs: int) -> list[Tensor]:
    """A slope, and three curved directions whose squares are far from Gaussian."""
    odd, even = rng.normal(size=(sweeps, pairs, 1)), rng.chisquare(3, size=(sweeps, pairs, 1)) / 6**0.5
    cells = (sweeps, pairs, PROMPTS)
    both = [[sign * odd * s**0.5 - even * (1 - s) ** 0.5 for sign in (1, -1)] for s in SLOPES]
    return [interleaved(*(each + rng.normal(size=cells) for each in pair)) for pair in both]


def scores(tables: list[Tensor]) -> Tensor:
    return smoothed(torch.stack([score(table, PROMPTS) for table in tables], dim=-1))


@pytest.mark.parametrize(("make", "least"), [(gaussian, 0.88), (binomial, 0.88), (curved, 0.85)])
def test_a_score_s_interval_of_90_percent_covers_what_the_docs_say_with_eight_pairs(
    make: Make, least: float
) -> None:
    rng = np.random.default_rng(3)
    truth = scores(make(rng, 40, 2000)).mean(0)
    tables = make(rng, 4000, PAIRS)
    kept = [[n for n in range(2 * PAIRS) if n // 2 != left_out] for left_out in range(PAIRS)]
    low, high = interval(scores(tables), torch.stack([scores([t[:, k] for t in tables]) for k in kept]))
    covered = ((low <= truth) & (truth <= high)).double().mean(0)
    assert covered.min() > least
    assert covered.max() < 0.93


def test_a_verdict_holds_the_intervals_of_the_jackknife() -> None:
    tables = [each[0] for each in gaussian(np.random.default_rng(1), 1, PAIRS)]
    verdict = judge(tables, PROMPTS)
    lacking = []
    for k in range(PAIRS):
        lacking.append(scores([torch.cat([each[: 2 * k], each[2 * k + 2 :]]) for each in tables]).numpy())
    z, middle = np.arctanh(lacking), np.arctanh(verdict.scores)
    reach = student.ppf(0.95, PAIRS - 1) * np.sqrt((PAIRS - 1) ** 2 / PAIRS * z.var(axis=0, ddof=1))
    assert verdict.low == pytest.approx(np.tanh(middle - reach), abs=1e-9)
    assert verdict.high == pytest.approx(np.tanh(middle + reach), abs=1e-9)


def test_a_reward_without_noise_has_an_interval_of_no_width() -> None:
    slope = torch.arange(1.0, 9.0, dtype=torch.float64)[:, None].expand(8, 4).numpy()
    verdict = judge([interleaved(slope, -slope)] * 3, 4)
    assert verdict.scores == pytest.approx((1.0,) * 3)
    assert (verdict.low, verdict.high) == (pytest.approx((1.0,) * 3), pytest.approx((1.0,) * 3))
    assert judge([torch.ones(8, 4)] * 3, 4).high == (0.0,) * 3
