"""The predicted gain of a step against simulated updates, and the predicted optimum against closed forms."""

import re
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from es_lightning.analysis.sigma_sweep import score
from es_lightning.errors import UsageError
from es_lightning.landscape.steps.gain import (
    Estimate,
    _climbed,
    critical_population,
    expected_gain,
    gain_curve,
    shrinkage,
)
from es_lightning.landscape.steps.pair_moments import Moments, moments
from es_lightning.landscape.steps.pair_rewards import PairRewards
from es_lightning.landscape.steps.step_rows import population_rows
from es_lightning.landscape.steps.step_size import _advised, advise
from tests.helpers.quadratics import World, world

SIGMAS = (0.05, 0.1, 0.2, 0.4)


def exact(truth: World, sigma: float, sigmas: tuple[float, ...] = (0.05, 0.1, 0.2, 100.0)) -> Moments:
    """The moments of a quadratic without any error; row 1 stands for the resamples."""
    scales, one = np.array(sigmas), np.ones((2, 1))
    variance = truth.variance(sigma)
    linear = sigma**2 * truth.slope @ truth.slope / variance
    noise = (sigma**2 * truth.own**2 / 1 + truth.white**2 / 2) / truth.prompts
    return Moments(
        sigmas=scales,
        sigma=sigma,
        offset=np.zeros(2),
        drop=one * truth.trace * scales**2 / 2,
        slope=one * (truth.slope @ truth.slope) * np.ones(len(scales)),
        slope_errors=(0.0, 0.0),
        variance=one[:, 0] * variance,
        bend=one[:, 0] * truth.bend(sigma),
        odd_share=one[:, 0] * (sigma**2 * truth.slope @ truth.slope + noise) / variance,
        score=one * np.full(len(scales), linear),
    )


def simulated_gains(
    truth: World, sigma: float, lr: float, population: int, runs: int, antithetic: bool
) -> npt.NDArray[np.float64]:
    """Gain in F of updates as the module makes them, [runs]."""
    generator = np.random.default_rng(population)
    shape = (runs, population, len(truth.slope))
    if antithetic:
        half = generator.standard_normal((runs, population // 2, shape[2]))
        eps = np.stack([half, -half], axis=2).reshape(shape)
    else:
        eps = generator.standard_normal(shape)
    rewards = truth.value(sigma * eps)
    rewards += truth.white / truth.prompts**0.5 * generator.standard_normal(rewards.shape)
    z = (rewards - rewards.mean(axis=1, keepdims=True)) / rewards.std(axis=1, keepdims=True)
    return truth.value(lr / population * np.einsum("rn,rnd->rd", z, eps))


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize(("population", "factor"), [(8, 1.0), (16, 0.5), (16, 2.0), (64, 1.0)])
def test_updates_gain_what_is_predicted(population: int, factor: float, antithetic: bool) -> None:
    truth, sigma = world(1, dimension=60, rank=12, white=0.2), 0.05
    lr, runs = factor * truth.best_lr(sigma, population), 4000
    gains = simulated_gains(truth, sigma, lr, population, runs, antithetic)
    found = exact(truth, sigma)
    predicted = float(expected_gain(found, np.array([lr]), population, antithetic)[0, 0])
    scale = truth.first_order(sigma) * lr  # the first-order gain, beside which both costs stand
    assert abs(gains.mean() - predicted) < 4 * gains.std() / runs**0.5 + 0.02 * scale
    assert 4 * gains.std() / runs**0.5 < 0.1 * scale  # so that the line above can fail


def simulated_run(
    truth: World, sigma: float, lr: float, population: int, updates: int, runs: int
) -> npt.NDArray[np.float64]:
    """F after some updates, each from members around the centre of its time, [runs]."""
    generator = np.random.default_rng(updates)
    centre = np.zeros((runs, len(truth.slope)))
    for _ in range(updates):
        eps = generator.standard_normal((runs, population, centre.shape[1]))
        rewards = truth.value(centre[:, None] + sigma * eps)
        rewards += truth.white / truth.prompts**0.5 * generator.standard_normal(rewards.shape)
        z = (rewards - rewards.mean(axis=1, keepdims=True)) / rewards.std(axis=1, keepdims=True)
        centre += lr / population * np.einsum("rn,rnd->rd", z, eps)
    return truth.value(centre)


@pytest.mark.parametrize(("updates", "factor"), [(1, 1.0), (4, 0.5), (4, 1.0), (16, 0.25), (16, 0.5)])
def test_runs_gain_what_is_predicted_while_their_noise_stays(updates: int, factor: float) -> None:
    truth, sigma, runs = world(2, rank=100, white=0.5), 0.05, 400  # flat beside the noise of a step
    found = exact(truth, sigma, (0.05, 0.1, 0.2, 0.5, 1.0))
    lr = factor * gain_curve(found, 8, updates=updates).best_lr.value
    gains = simulated_run(truth, sigma, lr, 8, updates, runs)
    predicted = float(expected_gain(found, np.array([lr]), 8, updates=updates)[0, 0])
    assert abs(gains.mean() - predicted) < 4 * gains.std() / runs**0.5 + 0.03 * predicted
    assert 4 * gains.std() / runs**0.5 < 0.5 * predicted


@pytest.mark.parametrize("updates", [4, 16])
def test_runs_whose_noise_is_taken_back_gain_more_than_predicted(updates: int) -> None:
    truth, sigma, runs = world(1, dimension=60, rank=12, white=0.2), 0.05, 200
    found = exact(truth, sigma, (0.05, 0.1, 0.2, 0.5, 1.0, 2.0))
    curve = gain_curve(found, 8, updates=updates)
    lr = curve.best_lr.value
    mean = {factor: simulated_run(truth, sigma, factor * lr, 8, updates, runs).mean() for factor in (1, 2, 4)}
    assert mean[1] > 1.2 * curve.best_gain.value
    assert mean[1] > 0.6 * max(mean.values())  # what caution costs


def test_a_run_of_few_members_has_the_noise_and_the_signal_of_one_with_many() -> None:
    # The slope is straight, and what bends lies beside it.
    flat = World(np.append(0.0, np.ones(40)), np.append(1.0, np.zeros(40)))
    found = exact(flat, 0.05, (0.05, 0.1, 0.2, 0.5, 1.0))
    few, many = gain_curve(found, 64, updates=32), gain_curve(found, 2048)
    assert few.best_lr.value == pytest.approx(many.best_lr.value / 32, rel=0.03)
    assert few.best_gain.value == pytest.approx(many.best_gain.value, rel=0.03)


@settings(max_examples=100, deadline=None)
@given(
    slope=st.floats(0.01, 5),
    bend=st.one_of(st.just(0.0), st.floats(1e-9, 5)),
    lr=st.floats(1e-4, 2),
    updates=st.integers(1, 40),
)
def test_what_the_signal_gains_is_that_of_a_loop(slope: float, bend: float, lr: float, updates: int) -> None:
    gone = 0.0
    for _ in range(updates):
        gone += lr * (1 - bend * gone / slope)
    looped = slope * gone - bend * gone**2 / 2
    found = _climbed(np.array([lr]), np.array([[slope]]), np.array([[bend]]), updates)[0, 0]
    if looped > -1e15:  # it is capped where it diverges
        assert found == pytest.approx(looped, rel=1e-6, abs=1e-9)
    else:
        assert found < -1e12


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    population=st.sampled_from([4, 8, 16, 30, 64, 256]),
    slope=st.floats(0.3, 3),
    sigma=st.sampled_from([0.05, 0.1, 0.2]),
)
def test_the_optimum_is_that_of_the_closed_form(
    seed: int, population: int, slope: float, sigma: float
) -> None:
    truth = world(seed, slope=slope)
    best, cost = truth.best_lr(sigma, population), shrinkage(population) * truth.first_order(sigma)
    curve = gain_curve(exact(truth, sigma, (0.05, 0.1, 0.2, 5 * best / population**0.5 + 0.2)), population)
    assert curve.best_lr.value == pytest.approx(best, rel=0.03)
    assert curve.largest_lr.value == pytest.approx(2 * best, rel=0.03)
    assert curve.best_gain.value == pytest.approx(best * cost / 2, rel=1e-3)
    assert not curve.at_edge
    assert not curve.gains_at_edge
    twice = truth.best_lr(sigma, 2 * population) * shrinkage(2 * population) / shrinkage(population)
    assert curve.doubling.value == pytest.approx(twice / best, rel=1e-2)


def test_z_scores_of_few_members_are_shorter() -> None:
    for population in (4, 16, 100):
        normal = np.random.default_rng(0).standard_normal((40_000, population))
        assert shrinkage(population) == pytest.approx(normal.std(axis=1).mean(), rel=0.005)
        pairs = normal[:, : population // 2]
        assert shrinkage(population, antithetic=True) == pytest.approx(
            np.sqrt((pairs**2).mean(axis=1)).mean(), rel=0.01
        )


def test_the_critical_population_is_where_half_of_the_gain_is_reached() -> None:
    truth, sigma = world(3), 0.1
    found = exact(truth, sigma, (0.05, 0.1, 0.2, 5.0))
    critical = critical_population(found)[0]
    assert critical == pytest.approx(truth.trace / truth.bend(sigma), rel=1e-9)
    limit = truth.first_order(sigma) ** 2 / (2 * truth.bend(sigma))
    many = round(100 * critical)
    assert gain_curve(found, many).best_gain.value == pytest.approx(limit / (1 + critical / many), rel=0.01)


def test_many_pairs_find_the_true_optimum() -> None:
    truth = world(4, prompts=16, own=0.2, white=0.2)
    advice = advise(truth.probe(SIGMAS, 300, seed=2), 16, 16, resamples=60)
    curve = next(curve for curve in advice.curves if curve.population == 16)
    assert not advice.doubt
    best = truth.best_lr(advice.sigma, 16)
    assert 1 - (1 - curve.best_lr.value / best) ** 2 > 0.9  # of the gain of the best step


@pytest.mark.slow
@pytest.mark.parametrize(("pairs", "probes"), [(24, 300), (300, 60)])
def test_intervals_hold_the_true_optimum(pairs: int, probes: int) -> None:
    held, kept = 0, []
    for seed in range(probes):
        truth = world(seed, prompts=16, own=0.3, white=0.1)
        probe = truth.probe(SIGMAS, pairs, seed)
        chosen = int(np.argmax([float(score(torch.from_numpy(table), 16)) for table in probe.rewards]))
        curve = gain_curve(moments(probe, chosen, 16, resamples=100, seed=seed), 16)
        best = truth.best_lr(SIGMAS[chosen], 16)
        held += curve.best_lr.low <= best <= curve.best_lr.high
        kept.append(1 - (1 - curve.best_lr.value / best) ** 2)  # of the gain of the best step
    # Fewer come once in 1,000 at 0.9; of 300 at 0.8, as many come once in 30.
    assert held >= binom.ppf(1e-3, probes, 0.9)
    assert np.median(kept) > 0.85


@pytest.mark.slow
def test_pure_noise_gives_no_advice() -> None:
    generator, found = np.random.default_rng(5), 0
    for _ in range(24):
        rewards = generator.standard_normal((3, 16, 8))
        found += not advise(PairRewards(SIGMAS[:3], np.zeros(8), rewards), 16, 8, resamples=50).doubt
    assert found <= 5  # of 24 at 0.05: more than 5 once in 1,000


def test_a_plane_has_no_largest_step() -> None:
    plane = World(np.zeros(30), np.full(30, 0.2), white=1e-6)
    advice = advise(plane.probe(SIGMAS, 16, seed=0), 16, 16, resamples=50)
    assert advice.curve.at_edge
    assert advice.curve.gains_at_edge
    assert advice.population == 16
    assert np.isnan(advice.curve.doubling.value)


def test_steep_curvature_does_not_pay_for_members() -> None:
    curvature, slope = np.zeros(50), np.zeros(50)
    curvature[0], slope[0] = 4.0, 1.0  # one curved direction, and the slope lies in it: N_c is about 1
    advice = advise(World(curvature, slope, white=0.01).probe((0.05, 0.1, 0.2), 200, 0), 16, 16, resamples=50)
    assert advice.critical.value < 3
    assert advice.population <= 8


@pytest.mark.parametrize(
    ("doublings", "advised"),
    [
        ({8: (1.48, 1.10, 1.82), 16: (1.31, 1.00, 1.61)}, 16),  # no interval leaves 1.5 out
        ({8: (1.30, 1.10, 1.49), 16: (1.20, 1.00, 1.40)}, 8),
        ({4: (1.40, 1.20, 1.45), 8: (1.30, 1.10, 1.49), 16: (1.2, 1.0, 1.4)}, 4),
        ({4: (1.40, 1.20, 1.45), 8: (1.48, 1.10, 1.82), 16: (1.2, 1.0, 1.4)}, 16),  # not past what is unknown
        ({8: (1.90, 1.80, 1.95), 16: (1.80, 1.51, 1.90), 32: (1.7, 1.4, 1.9)}, 32),
        ({8: (1.90, 1.80, 1.95), 16: (1.80, 1.45, 1.90)}, 16),
        ({8: (np.nan, np.nan, np.nan), 16: (np.nan, np.nan, np.nan)}, 16),
    ],
)
def test_the_population_stays_unless_the_interval_of_doubling_leaves_the_rule_out(
    doublings: dict[int, tuple[float, float, float]], advised: int
) -> None:
    unknown = (1.5, 1.0, 2.0)
    curves = [
        SimpleNamespace(population=size, doubling=Estimate(*doublings.get(size, unknown)))
        for size in (4, 8, 16, 32, 64)
    ]
    assert _advised(curves, 16) == advised  # type: ignore[arg-type]


def test_runs_of_as_many_rollouts_are_compared_in_the_same_resamples() -> None:
    advice = advise(world(4, prompts=16, white=0.1).probe(SIGMAS, 24, 0), 16, 16, updates=6, resamples=60)
    ratios = {run.population: ratio for run, ratio in zip(advice.runs, advice.run_ratios, strict=True)}
    assert [size for size, ratio in ratios.items() if np.isfinite(ratio.value)] == [4, 8, 16, 32]
    assert ratios[16] == Estimate(1.0, 1.0, 1.0)
    gains = {run.population: run.best_gain for run in advice.runs}
    for size in (4, 8, 32):
        assert ratios[size].value == pytest.approx(gains[size].value / gains[16].value)
        assert ratios[size].low <= ratios[size].value <= ratios[size].high
    alone = (gains[8].low / gains[16].high, gains[8].high / gains[16].low)
    assert ratios[8].high - ratios[8].low < 0.5 * (alone[1] - alone[0]), "the same luck is in both"


def test_tables_say_where_a_learning_rate_is_a_lower_bound() -> None:
    advice = advise(World(np.zeros(30), np.full(30, 0.2), white=1e-6).probe(SIGMAS, 16, seed=0), 16, 16)
    plane = population_rows(advice)
    assert all(row["best_lr_at_least"] and row["largest_lr_at_least"] for row in plane)
    truth = world(4, prompts=16, white=0.1)
    most = 1.5 * truth.best_lr(0.1, 16) / 16**0.5  # between where the gain is largest and where it ends
    rows = population_rows(advise(truth.probe((0.05, 0.1, most), 60, 0), 16, 16, resamples=30))
    row = next(row for row in rows if row["population"] == 16)
    assert (row["best_lr_at_least"], row["largest_lr_at_least"]) == (False, True)
    assert row["largest_lr"] == pytest.approx(most * 16**0.5)


def test_sigma_and_lr_scale_together() -> None:
    truth = world(6)
    probe = truth.probe(SIGMAS, 16, seed=0)
    wider = PairRewards(tuple(10 * sigma for sigma in SIGMAS), probe.centre, probe.rewards)
    first, second = (advise(each, 16, 16, resamples=30) for each in (probe, wider))
    assert second.sigma == pytest.approx(10 * first.sigma)
    assert second.curve.best_lr.value == pytest.approx(10 * first.curve.best_lr.value)
    assert second.curve.best_gain.value == pytest.approx(first.curve.best_gain.value)


def test_two_sigmas_are_too_few() -> None:
    probe = world(0).probe(SIGMAS[:2], 8, seed=0)
    with pytest.raises(UsageError, match="give 3 or more"):
        advise(probe, 16, 16)


@pytest.mark.parametrize(
    ("settings", "pairs", "size", "words"),
    [
        ({"slope": 0.3, "own": 1.5, "white": 0.1}, 60, 6, "on 6 prompts, .* take more prompts, such as "),
        ({"slope": 0.2, "own": 1.0, "white": 0.3}, 40, 6, "40 pairs on .* take more pairs, such as "),
    ],
)
def test_the_scarcer_of_pairs_and_prompts_is_asked_for(
    settings: dict[str, float], pairs: int, size: int, words: str
) -> None:
    truth = world(1, prompts=size, **settings)  # type: ignore[arg-type]
    advice = advise(truth.probe(SIGMAS, pairs, seed=2), 16, size, resamples=60)
    assert re.search(words, advice.doubt)
    of_pairs, of_prompts = advice.estimates.slope_errors
    assert (of_prompts > of_pairs) == ("more prompts" in words)


def test_noise_that_costs_more_than_it_tells_is_no_matter_of_chance() -> None:
    truth = world(1, slope=0.3, prompts=32, white=0.1)
    advice = advise(truth.probe((0.4, 0.8, 1.6), 12, seed=0), 16, 32, resamples=60)
    assert advice.sweep.p_value < 0.05
    assert "noise costs more than its directions tell at every sigma" in advice.doubt
    assert "smaller sigmas" in advice.doubt


def test_the_configured_sigma_stays_where_no_other_is_told_from_it() -> None:
    sigmas = (0.07, 0.1, 0.14)
    probe = world(1, prompts=16, white=0.3).probe(sigmas, 24, seed=0)
    sweep = advise(probe, 16, 16, resamples=30).sweep
    assert (sweep.best, sweep.between) == (1, (0, 1))
    told = {sigma: advise(probe, 16, 16, sigma=sigma, resamples=30).sigma for sigma in (*sigmas, 0.123)}
    assert told == {0.07: 0.07, 0.1: 0.1, 0.14: 0.1, 0.123: 0.1}, "0.123 was not probed"
