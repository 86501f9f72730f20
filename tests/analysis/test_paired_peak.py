"""The test that compares centres prompt by prompt: its false alarms, its delay, and its critical values."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from es_lightning.analysis import paired_peak
from es_lightning.analysis.paired_peak import PairedPeakTest
from es_lightning.analysis.peak import PeakTest
from es_lightning.analysis.peak_watch import PeakWatch
from es_lightning.errors import UsageError
from es_lightning.landscape.quadratic import two_groups
from es_lightning.landscape.theory.prompts import graded_rewards, solved

POINTS = 30
FLAT = np.full(POINTS, 0.5)


@pytest.fixture
def few_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fifth of the usual assignments, for tests of many runs."""
    monkeypatch.setattr(paired_peak, "ASSIGNMENTS", 2000)


def first_alarm(rewards: np.ndarray, **settings: float) -> int:
    """Index of the first alarm of a run [T, P]; T if there is none."""
    test = PairedPeakTest(rewards.shape[1], **settings)  # type: ignore[arg-type]
    return next((t for t, row in enumerate(rewards) if test.add(row.tolist()).alarm), len(rewards))


def skewed(seed: int) -> np.ndarray:
    """Most prompts gain a little and some lose much, around a constant mean."""
    steps = np.random.default_rng(seed).exponential(0.05, (POINTS, 64)) - 0.05
    return 0.5 - np.cumsum(steps, axis=0)


def trebled(seed: int) -> np.ndarray:
    """Jitter whose size triples half-way."""
    scale = np.where(np.arange(POINTS) < POINTS // 2, 1.0, 3.0)
    return scale[:, None] * np.random.default_rng(seed).standard_normal((POINTS, 32))


NEVER_WORSE: dict[str, Callable[[int], np.ndarray]] = {
    "a random walk of each prompt": lambda seed: graded_rewards(FLAT, 64, 0.2, 0.0, seed),
    "walks with jitter, 32 prompts": lambda seed: graded_rewards(FLAT, 32, 0.2, 0.2, seed),
    "0 and 1, 32 prompts, a half solved": lambda seed: solved(FLAT, 32, seed, correlation=0.95),
    "0 and 1, 32 prompts, 90 % solved": lambda seed: solved(FLAT + 0.4, 32, seed, correlation=0.9),
    "0 and 1, 64 prompts, 10 % solved": lambda seed: solved(FLAT - 0.4, 64, seed, jitter=0.2),
    "gains and losses of unlike size": skewed,
    "jitter that trebles": trebled,
    "a rise": lambda seed: graded_rewards(np.linspace(0, 1, POINTS), 32, 0.2, 0.1, seed),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", NEVER_WORSE)
def test_false_alarms_come_no_more_often_than_stated(kind: str, few_signs: None) -> None:
    runs, rate = 400, 0.2
    alarms = sum(first_alarm(NEVER_WORSE[kind](seed), false_alarm_rate=rate) < POINTS for seed in range(runs))
    assert stats.binomtest(alarms, runs, rate, alternative="greater").pvalue > 0.001


@pytest.mark.slow
@pytest.mark.parametrize("prompts", [16, 64])
def test_false_alarms_come_no_more_often_than_the_default_rate(
    prompts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paired_peak, "ASSIGNMENTS", 1000)
    runs, flat = 400, np.full(60, 0.5)
    kinds = (0.0, 0.2), (0.2, 0.1)  # jitter, and a walk of each prompt with jitter
    alarms = sum(
        first_alarm(graded_rewards(flat, prompts, *kinds[seed % 2], seed)) < len(flat) for seed in range(runs)
    )
    assert stats.binomtest(alarms, runs, 0.05, alternative="greater").pvalue > 0.001
    assert alarms > 0, "a test that never raises one keeps every rate"


def test_the_rate_is_spent_as_stated_where_all_looks_are_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    # Jitter alone: many nearly independent looks, so that what has been spent shows.
    monkeypatch.setattr(paired_peak, "ASSIGNMENTS", 1000)
    runs, points, rate = 250, 16, 0.5
    alarms = sum(
        first_alarm(graded_rewards(FLAT[:points], 20, 0.0, 1.0, seed), false_alarm_rate=rate) < points
        for seed in range(runs)
    )
    spent = rate * 8 / (8 + paired_peak.PACE)  # after eight looks
    assert stats.binomtest(alarms, runs, spent, alternative="greater").pvalue > 0.001
    assert stats.binomtest(alarms, runs, spent / 2, alternative="less").pvalue > 0.001


def test_one_look_at_rewards_of_0_and_1_is_mcnemars_test() -> None:
    rewards = np.vstack([np.ones((3, 24)), np.zeros((3, 24))])
    signs = paired_peak._Signs(np.random.default_rng(1), 12, 1.0)
    column = np.full((12, 1), 12**-0.5)
    # A ninth of 10001 assignments may exceed the first look's critical value: a quantile of 12 fair signs.
    critical = signs.critical(1, column, 0.0)
    least = next(k for k in range(13) if stats.binom.sf(k, 12, 0.5) < 1 / 9)
    assert critical == pytest.approx((2 * least - 12) / 12**0.5, abs=1e-4)
    test = PairedPeakTest(24, false_alarm_rate=0.5, min_points=6)
    verdicts = [test.add(row.tolist()) for row in rewards]
    assert verdicts[-1].alarm
    assert verdicts[-1].statistic == pytest.approx(24**0.5, abs=1e-4)
    assert not any(verdict.alarm for verdict in verdicts[:-1])


def test_the_statistic_is_students_t_in_another_scale() -> None:
    generator = np.random.default_rng(7)
    rewards = generator.standard_normal((6, 40))
    test = PairedPeakTest(40, min_points=6)
    for row in rewards:
        verdict = test.add(row.tolist())
    t = stats.ttest_rel(rewards[:3].mean(axis=0), rewards[3:].mean(axis=0)).statistic
    expected = t * np.sqrt(40 / (39 + t * t))  # t from sum d / sqrt(sum d^2), solved for the latter
    assert verdict.statistic == pytest.approx(expected, abs=1e-4)


def test_prompts_judge_what_the_others_chose() -> None:
    test = PairedPeakTest(21)
    for chooser, tester in test._halves:
        assert sorted([*chooser, *tester]) == list(range(21))
    for row in np.random.default_rng(3).standard_normal((9, 21)):
        test.add(row.tolist())
    stretches = paired_peak._means(np.stack(test._sums), 3)
    for chooser, tester in test._halves:
        best = np.argmax(stretches[:4, chooser].mean(axis=1))
        expected = stretches[best, tester] - stretches[-1, tester]
        assert test._falls(stretches)[tester] == pytest.approx(expected, abs=1e-12)


def test_a_fall_is_noticed_and_its_peak_found() -> None:
    rewards = graded_rewards(
        np.concatenate([np.linspace(0, 1, 12), np.linspace(1, 0.8, 18)]), 64, 0.1, 0.1, 1
    )
    test = PairedPeakTest(64)
    verdict = next(v for v in (test.add(row.tolist()) for row in rewards) if v.alarm)
    assert abs(verdict.peak - 12) <= 2
    assert verdict.level > verdict.latest
    assert verdict.nearness() > 1


def test_a_fall_not_worth_an_alarm_raises_none() -> None:
    rewards = graded_rewards(np.where(np.arange(POINTS) < 15, 0.5, 0.4), 64, 0.02, 0.02, 2)
    assert first_alarm(rewards) < POINTS
    assert first_alarm(rewards, min_drop=0.15) == POINTS


@pytest.mark.parametrize("prompts", [16, 17, 40])
def test_centres_that_earn_the_same_raise_no_alarm(prompts: int) -> None:
    assert first_alarm(np.full((POINTS, prompts), 0.1 + 0.2)) == POINTS
    assert first_alarm(solved(FLAT, prompts, 3, easy=1.0, jitter=0.0)) == POINTS


def test_bad_settings_are_refused() -> None:
    with pytest.raises(UsageError, match="false_alarm_rate is 0.9"):
        PairedPeakTest(64, false_alarm_rate=0.9)


def decaying(runs: int) -> np.ndarray:
    """Rewards of ascents that peak at generation 24, every 5 generations."""
    toy = two_groups((100, 1.0, 0.1), (400, 0.02, 0.0), dimension=1000, sigma=0.4, population=10)
    return toy.simulate(500, runs, 4)[:, 5::5]


def delays(prompts: int, jitter: float | None, runs: int) -> tuple[float, float]:
    """Median generations from the peak to the first alarm, by prompts and by the curve.

    A run without an alarm counts as one with an alarm after its end. Rewards without jitter are 0 and 1.
    """
    paired, curve = [], []
    for seed, true in enumerate(decaying(runs)):
        if jitter is None:
            rewards = solved(np.clip(true, 0, 1), prompts, seed)
        else:
            rewards = graded_rewards(true, prompts, 0.1, jitter, seed)
        paired.append(5 * (first_alarm(rewards) + 1) - 24)
        means, test = rewards.mean(axis=1).tolist(), PeakTest(0.05, len(true))
        alarm = next((n for n in range(9, len(true) + 1) if test(means[:n]).alarm), len(true) + 1)
        curve.append(5 * alarm - 24)
    return float(np.median(paired)), float(np.median(curve))


@pytest.mark.slow
@pytest.mark.parametrize(("jitter", "share"), [(0.04, 0.27), (0.08, 0.35), (0.16, 0.30)])
def test_the_median_delay_is_the_share_of_the_curve_tests_that_the_page_has(
    jitter: float, share: float, few_signs: None
) -> None:
    paired, curve = delays(64, jitter, 40)
    assert paired / curve == pytest.approx(share, abs=0.08)


@pytest.mark.slow
def test_64_prompts_of_0_and_1_miss_a_third_of_the_curve_tests_delay_and_256_come_near(
    few_signs: None,
) -> None:
    few, curve = delays(64, None, 60)
    assert few / curve > 0.5
    many, curve = delays(256, None, 60)
    assert many / curve == pytest.approx(0.38, abs=0.1)


def test_the_watch_goes_on_after_a_checkpoint_as_if_there_had_been_none() -> None:
    rewards = graded_rewards(decaying(1)[0, :20], 32, 0.1, 0.04, 1)
    settings = {
        "smallest": 3,
        "min_points": 9,
        "min_drop": 0.0,
        "false_alarm_rate": 0.05,
        "correlation": None,
    }
    whole, parts = PeakWatch(1.0, False, **settings), PeakWatch(1.0, False, **settings)
    for t, row in enumerate(rewards):
        found = whole.add(t, float(row.mean()), row.tolist())
        if t == 12:
            saved = parts.state_dict()
            parts = PeakWatch(1.0, False, **settings)
            parts.load_state_dict(saved)
        assert parts.add(t, float(row.mean()), row.tolist()) == found
    assert whole.paired


def test_a_stretch_goes_on_with_the_test_that_it_began_with() -> None:
    settings = {
        "smallest": 3,
        "min_points": 9,
        "min_drop": 0.0,
        "false_alarm_rate": 0.05,
        "correlation": None,
    }
    watch, row = PeakWatch(-1.0, False, **settings), [0.5] * 32
    old = {"points": [[0.0, 0.5], [1.0, 0.5]], "alarms": [], "since": -1, "horizon": 32}
    watch.load_state_dict(old)  # of version 0.1.0
    watch.add(2, 0.5, row)
    assert not watch.paired
    watch.since = 2
    watch.add(3, 0.5, row)
    assert watch.paired
    watch.add(4, 0.5, row[:16])
    assert not watch.paired


def test_a_prediction_that_fails_costs_the_prediction_and_not_the_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> None:
        raise np.linalg.LinAlgError("SVD did not converge")

    monkeypatch.setattr("es_lightning.analysis.peak_watch.fit_two_modes", fails)
    watch = PeakWatch(1.0, True)
    numbers, _ = watch.add(1, 0.5)
    assert numbers["health/peak_reward"] == 0.5
    assert "SVD did not converge. The run goes on" in caplog.text
