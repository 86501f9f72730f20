"""Landscapes with known answers through the whole summary, and the choice of a sigma that costs nothing."""

import numpy as np
import pytest

from es_lightning.errors import UsageError
from es_lightning.landscape.probing.protocols import CHOSEN, FIXED, protocol_rows
from es_lightning.landscape.probing.rows import change_rows, curve_rows, model_rows, sigma_rows
from es_lightning.landscape.probing.summary import ProbeTable, offset_of, offset_words, summarise
from es_lightning.landscape.statistics.best_of import best_of

SHAPE = (2, 120, 32)  # batches, candidates, prompts


def table(**by_sigma: np.ndarray) -> ProbeTable:
    rewards = {number / 1000: values for number, values in enumerate(by_sigma.values(), start=1)}
    return ProbeTable("toy", np.zeros(rewards[0.001].shape[-1]), rewards, task="toy")


def linear(seed: int = 0, size: float = 1.0, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """Rewards that are linear in the noise, with the same change on every prompt."""
    slopes = size * np.random.default_rng(seed).standard_normal((*shape[:2], 1))
    return np.broadcast_to(slopes, shape)


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(SHAPE)


def test_a_linear_reward_improves_half_and_looks_like_the_null() -> None:
    (found,) = summarise(table(only=linear(shape=(8, 240, 4))))
    improve, curve = found.statistics.improve, found.curve
    assert improve.low < 0.5 < improve.high
    assert improve.high - improve.low < 0.05
    assert curve.null_n90 in (28, 29, 30)
    assert curve.n90_between is not None
    assert curve.n90_between[0] <= 29 <= curve.n90_between[1]
    assert curve.like_the_null
    assert curve.best == pytest.approx(curve.null, rel=0.06)
    assert found.held_out is not None
    assert found.held_out.gain == pytest.approx(found.held_out.seen)  # all prompts agree
    first, second, third = found.verdict()
    assert first.startswith("best-of-N looks like the Gaussian null (p = 0.")
    assert second.endswith(": a gain")
    assert third.startswith("over the mean candidate it gains +")
    assert third.endswith(" there: a gain")


def test_noise_is_no_gain() -> None:
    (found,) = summarise(table(only=noise(0)))
    assert found.curve.low[29] > 0, "on the prompts that chose it, the best of 30 gains"
    assert all(words.endswith(": no gain is shown") for words in list(found.verdict())[1:])


def test_a_centre_that_is_not_like_its_neighbours_is_told() -> None:
    tipped = [(np.random.default_rng(seed).random(SHAPE) < 0.1).astype(float) for seed in (5, 6)]
    offset = offset_of(summarise(table(small=tipped[0], large=tipped[1])), pairs=False)
    assert offset is not None
    assert offset.low < 0.1 < offset.high
    words = offset_words(offset)
    assert words.startswith("Extrapolated to sigma 0, candidates earn 0.1")
    assert " more than the centre (+0.0" in words
    assert words.endswith("The gain over the mean candidate is free of it, and so is d_eff.")
    smooth = summarise(table(small=linear(), large=2 * linear()))
    assert offset_words(offset_of(smooth, pairs=False)) == ""
    assert offset_of(smooth[:1], pairs=False) is None
    assert offset_words(None) == ""


def test_a_plateau_is_told() -> None:
    rewards = linear(size=0.1) * (np.random.default_rng(1).random((*SHAPE[:2], 1)) < 0.2)
    (found,) = summarise(table(only=rewards))
    assert found.statistics.zeros == pytest.approx(0.8, abs=0.08)
    assert not found.curve.like_the_null
    assert list(found.verdict())[-1].endswith("% of the candidates earn exactly what the centre earns")


def test_only_losses_have_no_n90_and_a_ridge_is_below_the_null() -> None:
    (found,) = summarise(table(only=-np.abs(linear())))  # on top of a ridge
    assert found.curve.n90 is None
    assert found.curve.n90_between is None
    assert found.statistics.improve.value == 0
    assert next(found.verdict()).startswith("best-of-N is below the Gaussian null")


def test_a_sigma_that_changes_nothing_says_so_and_others_go_on() -> None:
    small, large = summarise(table(small=np.zeros(SHAPE), large=linear()))
    assert list(small.verdict()) == [
        "no candidate changed the reward: sigma is too small, or the reward too coarse"
    ]
    assert small.curve.p_null is None
    assert len(list(large.verdict())) == 3


def test_pairs_of_a_quadratic_tell_its_dimension() -> None:
    noise_ = np.random.default_rng(2).standard_normal((2, 100, 12))
    slope, bend = noise_[..., 0], -0.5 * (noise_**2).sum(axis=-1)
    changes = np.stack([bend + slope, bend - slope], axis=-1).reshape(2, 200)
    rewards = np.broadcast_to(changes[..., None], (2, 200, 8))
    at = {0.001: rewards, 0.002: 2 * rewards + 2 * np.repeat(bend, 2, axis=1)[..., None]}
    for luck in (0.0, 3.0):
        for found in summarise(ProbeTable("toy", np.full(8, luck), at, pairs=True)):
            assert found.dimension is not None
            assert found.dimension.low < 12 < found.dimension.high
            assert found.curve.largest == 50
    (alone,) = summarise(ProbeTable("toy", np.zeros(8), {0.001: rewards}, pairs=True))
    assert alone.dimension is None, "one sigma cannot tell curvature from the centre's luck"


@pytest.mark.parametrize(
    ("candidates", "asked", "words"),
    [(120, 121, "N = 121 was asked for, and only M = 120"), (1, None, "at least 2"), (3, 5, "M = 3")],
)
def test_too_few_candidates_are_refused(candidates: int, asked: int | None, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        summarise(table(only=linear()[:, :candidates]), asked)


def test_a_reward_that_is_not_finite_is_refused() -> None:
    rewards = linear().copy()
    rewards[0, 0, 0] = np.nan
    with pytest.raises(UsageError, match=r"toy has rewards at sigma 0\.001 that are not finite"):
        summarise(table(only=rewards))


def test_few_candidates_end_the_curve_sooner() -> None:
    (found,) = summarise(table(only=linear()[:, :12]))
    assert found.curve.sizes == (5, 10, 12)
    assert np.isnan(found.curve.low[-1])  # the best of all has no jackknife
    (row,) = sigma_rows(table(only=linear()[:, :12]), [found], None)
    assert (row["n"], row["best_low"], row["best_of_headroom"]) == (12, None, None)


def test_the_largest_reward_is_known_from_the_task_or_from_rewards_between_0_and_1() -> None:
    binary = ProbeTable("toy", np.array([1.0, 0.0]), {0.1: np.ones((1, 4, 2))})
    assert binary.headroom() == 0.5
    assert table(only=linear()).headroom() is None
    assert ProbeTable("toy", np.array([-3.0, -1.0]), {0.1: -np.ones((1, 4, 2))}, most=0.0).headroom() == 2
    with pytest.raises(UsageError, match="no headroom"):
        ProbeTable("toy", np.ones(2), {0.1: np.zeros((1, 4, 2))}).headroom()


def test_rows_hold_the_numbers_of_the_summary() -> None:
    probed = table(only=linear())
    summaries = summarise(probed)
    rows = curve_rows(summaries, 2.0)
    assert [row["n"] for row in rows] == list(range(1, 51))
    assert rows[29]["best"] == summaries[0].curve.best[29]
    assert rows[29]["best_of_headroom"] == rows[29]["best"] / 2
    assert {row["n"] for row in rows if row["held_out"] is not None} == {
        1,
        2,
        3,
        5,
        7,
        10,
        15,
        20,
        30,
        40,
        50,
    }
    changes = change_rows(summaries)
    assert len(changes) == 240
    last = {"sigma": 0.001, "batch": 1, "candidate": 119, "change": summaries[0].changes[1, 119]}
    assert changes[-1] == last
    assert [row["over_mean"] for row in rows[:2]] == pytest.approx([0, summaries[0].held_out.over_mean[1]])
    (row,) = sigma_rows(probed, summaries, 2.0)
    assert row["over_mean"] == pytest.approx(row["held_out"] - row["mean"])
    assert row["step"] is None
    assert (row["prompts"], row["n90"], row["dimension"]) == (32, summaries[0].curve.n90, None)


def test_the_fixed_sigma_is_common_and_the_chosen_one_is_the_best() -> None:
    small = table(first=linear(1, 0.1), second=linear(2, 1.0))
    large = ProbeTable("large", small.centre, {0.002: linear(3, 1.0), 0.004: linear(4, 0.1) - 1})
    rows = protocol_rows([small, large])
    assert [(row.protocol, row.name, row.shown_sigma) for row in rows] == [
        (FIXED, "toy", "0.002"),
        (FIXED, "large", "0.002"),
        (CHOSEN, "toy", "0.002"),
        (CHOSEN, "large", "0.002"),
    ]
    assert rows[0].improve.value == (small.rewards[0.002][..., 0] > 0).mean()
    assert (rows[0].improve, rows[0].gain) == (rows[2].improve, rows[2].gain)
    assert [row["line"] for row in model_rows(rows)][::2] == ["sigma 0.002 for all", CHOSEN]


def test_the_null_of_coarse_rewards_has_their_steps() -> None:
    rewards = (np.random.default_rng(7).random(SHAPE) < 0.1).astype(float)
    probed = table(only=rewards)
    (found,) = summarise(probed)
    assert found.curve.step == pytest.approx(1 / 32)
    (row,) = sigma_rows(probed, [found], 1.0)
    assert row["step"] == pytest.approx(1 / 32)
    assert row["null"] == pytest.approx(found.curve.null[29])


def test_one_model_has_both_protocols_on_held_out_and_on_all_prompts() -> None:
    probed = table(small=noise(0), large=2 * noise(1))
    rows = protocol_rows([probed], size=20)
    assert [(row.protocol, row.sigma_all) for row in rows] == [
        (FIXED, 0.001),
        (FIXED, 0.002),
        (CHOSEN, 0.002),
    ]
    for row in rows:
        changes = probed.rewards[row.sigma_all].mean(axis=-1)
        assert row.improve_all.value == (changes > 0).mean()
        assert row.best_all == pytest.approx(best_of(changes, [20]).mean())
    assert rows[0].gain.value < 0.3 * rows[0].best_all, "on the prompts that chose it, noise gains"


@pytest.mark.slow
def test_choosing_among_sigmas_of_pure_noise_costs_nothing() -> None:
    gains, found = [], 0
    for seed in range(20):
        many = {number / 1000: noise(100 * seed + number)[:1, :40, :16] for number in range(1, 6)}
        row = protocol_rows([ProbeTable("toy", np.zeros(16), many)], size=10)[-1]
        assert row.protocol == CHOSEN
        gains.append(row.gain.value)
        found += row.gain.low > 0
    assert abs(np.mean(gains)) < 4 * np.std(gains) / np.sqrt(len(gains))
    assert found <= 3
