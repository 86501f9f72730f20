"""Intervals of the sweep's scores: how often they cover the truth, with eight pairs."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binom
from scipy.stats import t as student
from torch import Tensor

from es_lightning.analysis.sigma_sweep import interval, judge, score, smoothed
from tests.helpers.quadratics import World, world

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
    return torch.stack([score(table, PROMPTS) for table in tables], dim=-1)


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


def of_correlation(correlation: float, pairs: int = 400) -> Tensor:
    """Members whose pairs have this correlation, on prompts that are alike: the score is its negative."""
    normal = np.random.default_rng(0).normal(size=(2, pairs))
    normal -= normal.mean(1, keepdims=True)
    first = normal[0] / normal[0].std()
    rest = normal[1] - first * (first @ normal[1]) / pairs
    second = correlation * first + (1 - correlation**2) ** 0.5 * rest / rest.std()
    return interleaved(*(each[:, None].repeat(2, 1) for each in (first, second)))


@pytest.mark.parametrize("wanted", [[0.235, 0.361, 0.297], [0.2, 0.5, 0.4, 0.45]])
def test_few_sigmas_are_chosen_by_their_own_scores(wanted: list[float]) -> None:
    verdict = judge([of_correlation(-each) for each in wanted], 2)
    assert verdict.scores == pytest.approx(wanted, abs=0.01)  # the odd part has its mean in it
    assert (verdict.best, verdict.smooth) == (1, ())
    assert verdict.best_score == verdict.scores[1]
    smooth = np.convolve(wanted, [1, 2, 1], "same") / np.convolve(np.ones(len(wanted)), [1, 2, 1], "same")
    assert smooth.argmax() != 1, "the smoothed scores have their peak elsewhere"


def test_many_sigmas_are_chosen_by_smoothed_scores_beside_their_own() -> None:
    wanted = [0.1, 0.6, 0.1, 0.4, 0.45, 0.4]
    verdict = judge([of_correlation(-each) for each in wanted], 2)
    smooth = np.convolve(wanted, [1, 2, 1], "same") / np.convolve(np.ones(6), [1, 2, 1], "same")
    assert verdict.scores == pytest.approx(wanted, abs=0.01)
    assert verdict.smooth == pytest.approx(smooth, abs=0.01)
    assert verdict.best == smooth.argmax() == 4
    assert verdict.best_score == verdict.smooth[4]
    assert all(
        low < own < high for low, own, high in zip(verdict.low, verdict.scores, verdict.high, strict=True)
    )


def true_scores(truth: World, sigmas: tuple[float, ...]) -> list[float]:
    """(o - e) / Var(R) of a quadratic, from its slope and its curvature."""
    return [
        float(s**2 * truth.slope @ truth.slope - 0.5 * s**4 * (truth.curvature**2).sum()) / truth.variance(s)
        for s in sigmas
    ]


def test_the_interval_of_the_place_holds_the_best_of_three_sigmas() -> None:
    sigmas, held, probes = (0.1, 0.2, 0.4), 0, 60
    for seed in range(probes):
        truth = world(seed, dimension=60, own=0.3, white=2.0)
        tables = map(torch.from_numpy, truth.probe(sigmas, PAIRS, seed).rewards)
        first, last = judge(list(tables), truth.prompts, seed=seed).between
        held += first <= int(np.argmax(true_scores(truth, sigmas))) <= last
    assert held >= binom.ppf(1e-3, probes, 0.9)


def test_the_own_scores_of_three_sigmas_choose_no_worse_than_smoothed_ones() -> None:
    """In the gain of the best step at the chosen sigma, of which smoothing loses some."""
    more, probes = [], 150
    for seed in range(probes):
        truth, sigmas = world(seed, dimension=60, own=0.3, white=1.0), (0.1, 0.2, 0.4)
        tables = map(torch.from_numpy, truth.probe(sigmas, 24, seed).rewards)
        own = torch.stack([score(table, truth.prompts) for table in tables])
        gains = np.array([truth.first_order(s) * truth.best_lr(s, 16) for s in sigmas])
        more.append(gains[int(own.argmax())] - gains[int(smoothed(own).argmax())])
    assert np.mean(more) > 2 * np.std(more) / probes**0.5
