"""Curvature from pairs against quadratics whose Hessian is known, in closed form."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from es_lightning.errors import UsageError
from es_lightning.landscape.arrays import Array
from es_lightning.landscape.curvature.curvature import (
    Pairs,
    curvature,
    needed_pairs,
    offset_per_pair,
    repeat_variance,
)

SPECTRUM = np.array([-4.0, -3.0, -3.0, -2.0, -2.0, -1.0, -1.0, -1.0, *[-0.02] * 50])
TRACE, TRACE_SQUARE = SPECTRUM.sum(), (SPECTRUM**2).sum()
SLOPE = np.linspace(-1, 1, len(SPECTRUM))


def measured(
    pairs: int,
    seed: int,
    sigma: float = 0.3,
    spectrum: Array = SPECTRUM,
    slope: Array = SLOPE,
    noise: float = 0.0,
    prompts: int = 1,
    own: float = 0.0,
) -> Pairs:
    """Pairs on R = g.x + x^T diag(spectrum) x / 2; each prompt adds eigenvalues and slopes of its own."""
    generator = np.random.default_rng(seed)
    eps = generator.standard_normal((pairs, len(spectrum)))
    curves = spectrum + own * generator.standard_normal((prompts, len(spectrum)))
    slopes = slope + own * generator.standard_normal((prompts, len(spectrum)))
    bent, straight = sigma**2 / 2 * eps**2 @ curves.T, sigma * eps @ slopes.T
    wrong = noise * generator.standard_normal((2, pairs, prompts))
    return Pairs(bent + straight + wrong[0], bent - straight + wrong[1], np.zeros(prompts), sigma)


@pytest.mark.parametrize("sigma", [0.01, 3.0])
def test_many_pairs_find_the_hessian_of_a_quadratic_at_any_sigma(sigma: float) -> None:
    found = curvature(measured(20_000, 0, sigma), seed=1)
    assert found.trace.value == pytest.approx(TRACE, rel=0.01)
    assert found.trace_square.value == pytest.approx(TRACE_SQUARE, rel=0.03)
    assert found.participation.value == pytest.approx(TRACE**2 / TRACE_SQUARE, rel=0.04)
    assert found.gradient_square.value == pytest.approx(SLOPE @ SLOPE, rel=0.02)
    straight, bent = sigma**2 * SLOPE @ SLOPE, sigma**4 * TRACE_SQUARE / 2
    assert found.bend_share == pytest.approx(bent / (straight + bent), rel=0.04)
    assert found.odd_ratio(SLOPE @ SLOPE).value == pytest.approx(1, rel=0.02)


def test_four_pairs_by_hand() -> None:
    ones = np.ones((4, 1))
    pairs = Pairs(np.array([[2.0], [4.0], [0.0], [2.0]]), 0 * ones, np.zeros(1), 1.0)
    found = curvature(pairs)
    assert found.trace.value == 2.0  # q = 2, 4, 0, 2
    assert found.trace_square.value == pytest.approx(8 / 3 / 2)
    assert found.participation.value == pytest.approx(3.0)
    assert found.gradient_square.value == pytest.approx((1 + 4 + 0 + 1) / 4)


@pytest.mark.parametrize("pairs", [32, 128])
def test_intervals_hold_the_truth(pairs: int) -> None:
    truth = {
        "trace": TRACE,
        "trace_square": TRACE_SQUARE,
        "participation": TRACE**2 / TRACE_SQUARE,
        "gradient_square": SLOPE @ SLOPE,
    }
    held = dict.fromkeys(truth, 0)
    runs = 100
    for run in range(runs):
        found = curvature(measured(pairs, run), seed=run)
        for name, value in truth.items():
            estimate = getattr(found, name)
            held[name] += estimate.low <= value <= estimate.high
    assert min(held.values()) >= 86, held  # at 93 % coverage, below 86 of 100 once in 250
    assert min(held.values()) < runs, "an interval that always holds the truth is too wide"


def test_noise_of_the_measurement_is_taken_off() -> None:
    noise, sigma = 0.5, 0.3
    raw = measured(10_000, 0, sigma, noise=noise)
    assert curvature(raw).trace_square.value > 1.5 * TRACE_SQUARE
    found = curvature(raw, noise=noise**2)
    assert found.trace_square.value == pytest.approx(TRACE_SQUARE, rel=0.06)
    assert found.gradient_square.value == pytest.approx(SLOPE @ SLOPE, rel=0.05)


@pytest.mark.slow
def test_what_holds_for_single_prompts_is_taken_off() -> None:
    # The mean of 8 prompts has tr H^2 larger than that of all prompts by 58 own^2 / 8, and ||g||^2 likewise.
    own, extra = 2.0, len(SPECTRUM) * 4.0 / 8
    these, all_prompts = np.zeros((2, 200)), np.zeros((2, 200))
    for run in range(200):
        pairs = measured(200, run, prompts=8, own=own)
        for found, table in ((curvature(pairs), these), (curvature(pairs, of_prompts=True), all_prompts)):
            table[:, run] = found.trace_square.value, found.gradient_square.value
    for table, more in ((these, extra), (all_prompts, 0.0)):
        for values, truth in zip(table, (TRACE_SQUARE, SLOPE @ SLOPE), strict=True):
            assert abs(values.mean() - truth - more) < 4 * values.std() / np.sqrt(200)


def test_pure_noise_has_no_participation() -> None:
    generator = np.random.default_rng(0)
    plus, minus = generator.standard_normal((2, 64, 1))
    found = curvature(Pairs(plus, minus, np.zeros(1), 1.0), noise=1.5)
    assert np.isnan(found.participation.value)
    assert found.trace_square.how == "no more than noise"
    traces = [found.trace]
    assert traces[0].low < 0 < traces[0].high


def test_opposite_eigenvalues_leave_a_participation_that_begins_at_0() -> None:
    found = curvature(measured(64, 0, spectrum=np.array([2.0, -2.0, 1.0, -1.0]), slope=np.ones(4)))
    assert found.participation.low == 0
    assert found.participation.high < 2


@settings(max_examples=20, deadline=None)
@given(st.floats(-50, 50), st.floats(0.1, 10), st.integers(0, 1000))
def test_a_shift_changes_nothing_and_a_scale_only_units(shift: float, scale: float, seed: int) -> None:
    pairs = measured(12, seed, prompts=3, own=0.3)
    moved = Pairs(*(scale * each + shift for each in (pairs.plus, pairs.minus, pairs.centre)), pairs.sigma)
    for of_prompts in (False, True):
        one, other = (curvature(each, of_prompts=of_prompts) for each in (pairs, moved))
        assert other.trace.value == pytest.approx(scale * one.trace.value, rel=1e-6)
        assert other.trace_square.value == pytest.approx(scale**2 * one.trace_square.value, rel=1e-6)
        assert other.participation.value == pytest.approx(one.participation.value, rel=1e-6)
        assert other.gradient_square.value == pytest.approx(scale**2 * one.gradient_square.value, rel=1e-6)


def test_the_plan_of_pairs_gives_the_error_that_was_asked_for() -> None:
    count = needed_pairs(TRACE**2 / TRACE_SQUARE, 0.1)
    errors = [curvature(measured(count, run)).trace.value / TRACE - 1 for run in range(300)]
    assert np.std(errors) == pytest.approx(0.1, rel=0.15)


def lucky(luck: float, seed: int, size: float = 1.0, noise: float = 0.0) -> tuple[Pairs, Pairs]:
    """The same pairs at two sigmas, around a centre that is luckier than its neighbours."""
    both = []
    for sigma in (0.3, 0.6):
        pairs = measured(64, seed, sigma, size * SPECTRUM, noise=noise)
        both.append(replace(pairs, centre=pairs.centre + luck))
    near, far = both
    if noise:  # the noise of two measurements is not the same
        far = replace(far, plus=far.plus + noise * np.random.default_rng(seed).standard_normal((64, 1)))
    return near, far


def test_the_luck_of_the_centre_is_no_curvature_where_two_sigmas_tell_it() -> None:
    near, far = lucky(2.0, 0)
    offset = offset_per_pair(near, far)
    assert offset == pytest.approx(-2)
    without = curvature(measured(64, 0), seed=1)
    for pairs in (near, far):
        wrong = curvature(pairs, seed=1)
        assert not wrong.trace.low < TRACE < wrong.trace.high
        assert wrong.trace.value == pytest.approx(without.trace.value - 4 / pairs.sigma**2)
        found = curvature(replace(pairs, offset=offset), seed=1)
        for name in ("trace", "trace_square", "participation", "gradient_square"):
            one, other = getattr(found, name), getattr(without, name)
            assert (one.low, one.value, one.high) == pytest.approx((other.low, other.value, other.high))
    part = replace(near, offset=offset).first(16)
    assert curvature(part).trace.value == pytest.approx(curvature(measured(64, 0).first(16)).trace.value)


@pytest.mark.parametrize("size", [0.0, 1.0])
def test_the_interval_of_a_trace_holds_it_beside_luck_and_noise(size: float) -> None:
    held = []
    for run in range(100):
        near, far = lucky(0.5, run, size, noise=0.3)
        found = curvature(replace(near, offset=offset_per_pair(near, far)), seed=run).trace
        held.append(found.low <= size * TRACE <= found.high)
    assert 86 <= sum(held) < 100  # at 93 % coverage, below 86 of 100 once in 250


def test_one_sigma_tells_no_trace_of_a_reward_in_steps() -> None:
    found = curvature(replace(measured(16, 0), offset=np.full(16, np.nan)))
    assert np.isnan([found.trace.value, found.participation.value, found.participation.high]).all()
    assert found.trace_square == curvature(measured(16, 0)).trace_square


def test_repeats_tell_the_variance_of_a_measurement() -> None:
    generator = np.random.default_rng(0)
    repeats = generator.standard_normal((2000, 1)) * 9 + 0.5 * generator.standard_normal((2000, 3))
    assert repeat_variance(repeats) == pytest.approx(0.25, rel=0.05)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"plus": np.zeros((3, 2)), "minus": np.zeros((3, 2))}, "at least 4"),
        ({"minus": np.zeros((8, 3))}, "pairs, prompts"),
        ({"sigma": 0.0}, "above 0"),
        ({"centre": np.array([np.nan, 0.0])}, "not finite"),
    ],
)
def test_what_has_no_curvature_in_it_is_refused(change: dict[str, object], words: str) -> None:
    pairs = Pairs(np.zeros((8, 2)), np.zeros((8, 2)), np.zeros(2), 1.0)
    with pytest.raises(UsageError, match=words):
        replace(pairs, **change)


def test_one_prompt_cannot_speak_for_others() -> None:
    with pytest.raises(UsageError, match="at least 2 prompts"):
        curvature(measured(8, 0), of_prompts=True)
