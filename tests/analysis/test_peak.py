"""The test for a fallen reward: its false alarms, its delay, and curves that are hard on it."""

import time

import numpy as np
import pytest
from scipy import stats

from es_lightning.analysis.curve_noise import running_correlation, running_noise
from es_lightning.analysis.peak import (
    PeakTest,
    critical_values,
    running_medians,
    smoothed,
    statistics,
    windows,
)
from es_lightning.landscape.quadratic import two_groups

POINTS, RUNS = 96, 1500
RISE = 10 * (1 - np.exp(-np.arange(POINTS) / 12))


def autoregressive(shape: tuple[int, int], correlation: float, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(shape)
    for t in range(1, shape[1]):
        noise[:, t] = correlation * noise[:, t - 1] + np.sqrt(1 - correlation**2) * noise[:, t]
    return noise


def alarmed(curves: np.ndarray, rate: float, correlation: float | None = 0.0) -> np.ndarray:
    test = PeakTest(rate, curves.shape[1], correlation=correlation)
    return statistics(curves, 3) > test.critical(curves)


@pytest.mark.parametrize("rate", [0.02, 0.05, 0.2])
def test_false_alarms_on_a_plateau_come_as_often_as_stated(rate: float) -> None:
    curves = np.random.default_rng(8).standard_normal((RUNS, POINTS))
    alarms = int(alarmed(curves, rate).any(axis=1).sum())
    assert stats.binomtest(alarms, RUNS, rate).pvalue > 0.001


@pytest.mark.parametrize("kind", ["rising", "heavy tails", "correlated"])
def test_false_alarms_stay_below_what_is_stated(kind: str) -> None:
    generator = np.random.default_rng(9)
    curves = {
        "rising": RISE + generator.standard_normal((RUNS, POINTS)),
        "heavy tails": generator.standard_t(3, (RUNS, POINTS)),
        "correlated": autoregressive((RUNS, POINTS), 0.5, 10),
    }[kind]
    alarms = int(alarmed(curves, 0.05, 0.5 if kind == "correlated" else 0.0).any(axis=1).sum())
    assert stats.binomtest(alarms, RUNS, 0.05, alternative="greater").pvalue > 0.001


@pytest.mark.parametrize(
    ("points", "rho"), [(96, 0.0), (96, 0.3), (96, 0.5), (96, 0.75), (32, 0.75), (300, 0.6)]
)
def test_with_an_estimated_correlation_false_alarms_stay_below_what_is_stated(
    points: int, rho: float
) -> None:
    curves = autoregressive((RUNS, points), rho, 11)
    alarms = int(alarmed(curves, 0.05, None).any(axis=1).sum())
    assert stats.binomtest(alarms, RUNS, 0.05, alternative="greater").pvalue > 0.001


@pytest.mark.parametrize("rho", [0.75, 0.9, 0.95])
def test_a_wandering_centre_that_is_measured_with_jitter_raises_no_more_alarms_than_stated(
    rho: float,
) -> None:
    """Half of the variance AR(1), half white: with critical values of AR(1) alone it was 0.12 to 0.40."""
    jitter = np.random.default_rng(21).standard_normal((RUNS, POINTS))
    curves = np.sqrt(0.5) * (autoregressive((RUNS, POINTS), rho, 20) + jitter)
    alarms = int(alarmed(curves, 0.05, None).any(axis=1).sum())
    assert stats.binomtest(alarms, RUNS, 0.05, alternative="greater").pvalue > 0.001


def test_a_steep_start_does_not_hide_how_correlated_the_noise_is() -> None:
    curves = autoregressive((RUNS, POINTS), 0.75, 12) + np.where(np.arange(POINTS) < 6, -100.0, 0.0)
    alarms = int(alarmed(curves, 0.05, None).any(axis=1).sum())
    assert stats.binomtest(alarms, RUNS, 0.05, alternative="greater").pvalue > 0.001


@pytest.mark.parametrize(("collapse", "share"), [(16, 0.5), (40, 0.95)])
def test_a_collapse_is_noticed_before_it_looks_like_correlation(collapse: int, share: float) -> None:
    curves = np.random.default_rng(19).standard_normal((200, POINTS))
    curves[:, collapse:] -= 15
    alarms = alarmed(curves, 0.05, None)[:, : collapse + 8]
    assert alarms.any(axis=1).mean() > share


@pytest.mark.slow
def test_a_decaying_toy_is_noticed_and_its_peak_found() -> None:
    toy = two_groups((100, 1.0, 0.1), (400, 0.02, 0.0), dimension=1000, sigma=0.4, population=10)
    true = toy.simulate(480, 100, 4)[:, 5::5]
    curves = true + 0.005 * np.random.default_rng(5).standard_normal(true.shape)
    test, late, lost = PeakTest(0.05, POINTS), [], []
    for row, exact in zip(curves, true, strict=True):
        verdicts = (test(row[:n].tolist()) for n in range(9, POINTS + 1))
        n, verdict = next((n, v) for n, v in enumerate(verdicts, 9) if v.alarm)
        late.append(n)
        lost.append(exact.max() - exact[verdict.peak])
    assert np.median(late) < 40  # the expected reward is highest after 24 generations, the 5th point
    assert np.mean(lost) < 0.015  # of a decay by 0.128


def test_every_prefix_of_a_curve_has_the_statistic_of_the_whole() -> None:
    curve = RISE + np.random.default_rng(2).standard_normal(POINTS)
    together = statistics(curve[None], 3)[0]
    test = PeakTest(correlation=0.0)
    alone = [test(curve[: n + 1].tolist()).statistic for n in range(POINTS)]
    assert alone[6:] == pytest.approx(together[6:], rel=1e-9)


def test_the_statistic_is_what_two_loops_find() -> None:
    curve = np.random.default_rng(3).standard_normal(20)
    medians = [curve[0], curve[:2].mean(), *(np.median(curve[i - 2 : i + 1]) for i in range(2, 20))]
    bends = [curve[i] - (curve[i - 1] + curve[i + 1]) / 2 for i in range(1, 19)]
    noise, found = np.sqrt(np.mean(np.square(bends[2:])) / 1.5), []  # 2 of 20 points are left out
    for window in (3, 5, 9):
        means = [np.mean(medians[i : i + window]) for i in range(21 - window)]
        found += [(each - means[-1]) / noise / np.sqrt(2 / window) for each in means[:-window]]
    verdict = PeakTest()(curve.tolist())
    assert verdict.statistic == pytest.approx(max(found), rel=1e-12)
    assert windows(20, 3) == [3, 5, 9]


def test_noise_is_measured_beside_slopes() -> None:
    slope = 5.0 * np.arange(400)
    curve = slope + 0.3 * np.random.default_rng(6).standard_normal(400)
    assert running_noise(curve[None])[0, -1] == pytest.approx(0.3, rel=0.15)
    assert running_noise(slope[None])[0, -1] < 1e-9


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.5])
def test_the_correlation_of_noise_is_estimated_with_caution(rho: float) -> None:
    curves = autoregressive((400, 400), rho, 12) + 5.0 * np.arange(400)
    found = running_correlation(curves)
    assert rho < found[:, -1].mean() < rho + 0.1
    assert (found[:, :10] == 0.7).all()
    assert found[:, 20].mean() > found[:, -1].mean()


@pytest.mark.parametrize("value", [0.0, 0.1, 0.7, -3e8])
def test_a_constant_curve_raises_no_alarm(value: float) -> None:
    test = PeakTest(min_points=6)
    verdicts = [test([value] * n) for n in range(1, 80)]
    assert not any(verdict.alarm for verdict in verdicts)
    assert all(np.isfinite(verdict.statistic) for verdict in verdicts)


def test_rounding_is_no_fall() -> None:
    test = PeakTest(min_points=6, correlation=0.0)
    assert not any(test([0.3] * n + [0.1 + 0.2 - 1e-16] * n).alarm for n in range(3, 40))


def test_one_count_less_is_no_fall_until_it_has_lasted() -> None:
    test = PeakTest(correlation=0.0)
    lasted = [n for n in range(1, 40) if test([32 / 64] * 20 + [31 / 64] * n).alarm]
    assert lasted
    assert lasted[0] >= 9


def test_coarse_accuracies_raise_no_more_alarms_than_stated() -> None:
    curves = np.random.default_rng(13).binomial(64, 0.3, (RUNS, POINTS)) / 64
    alarms = int(alarmed(curves, 0.05).any(axis=1).sum())
    assert stats.binomtest(alarms, RUNS, 0.05, alternative="greater").pvalue > 0.001


def test_a_single_odd_point_makes_no_peak() -> None:
    curve = np.random.default_rng(14).standard_normal(60)
    curve[20] += 40
    verdict = PeakTest()(curve.tolist())
    assert not verdict.alarm
    assert verdict.level < 3


def test_the_peak_is_the_middle_of_the_best_stretch() -> None:
    curve = -np.abs(np.arange(60.0) - 22)
    verdict = PeakTest(correlation=0.0)(
        (curve + 0.1 * np.random.default_rng(15).standard_normal(60)).tolist()
    )
    assert verdict.alarm
    assert abs(verdict.peak - 22) <= 1
    assert verdict.level == pytest.approx(smoothed(curve, verdict.window).max(), abs=0.3)


def test_a_fall_not_worth_an_alarm_raises_none() -> None:
    noise = 0.01 * np.random.default_rng(16).standard_normal(80)
    curve = (np.where(np.arange(80) < 40, 0.5, 0.4) + noise).tolist()
    assert PeakTest()(curve).alarm
    assert not PeakTest(min_drop=0.15)(curve).alarm


def test_running_medians_look_back() -> None:
    assert running_medians(np.array([[3.0, 1.0, 2.0, 9.0, 4.0]])).tolist() == [[3.0, 2.0, 2.0, 2.0, 4.0]]


def test_beyond_the_horizon_the_last_critical_value_stays() -> None:
    table = critical_values(0.05, 64, 3, 9)
    curve = np.random.default_rng(17).standard_normal(90).tolist()
    assert PeakTest(horizon=64, correlation=0.0)(curve).critical == table[-1]
    assert np.isinf(table[:8]).all()
    assert np.isfinite(table[8:]).all()


def test_a_long_run_costs_milliseconds_a_point() -> None:
    curve, test = np.random.default_rng(18).standard_normal(500).tolist(), PeakTest(horizon=500)
    test(curve)
    started = time.process_time()
    for n in range(450, 500):
        test(curve[:n])
    assert time.process_time() - started < 5.0  # all tables of critical values that it asks for included
