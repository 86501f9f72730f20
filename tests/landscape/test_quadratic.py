"""The quadratic model against its simulation, its formulas against brute force."""

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from es_lightning.analysis.two_mode_curve import peak_of_two_modes
from es_lightning.errors import UsageError
from es_lightning.landscape.quadratic import Quadratic, two_groups

TOY = two_groups((8, 1.0, 0.3), (8, 0.05, 0.0))


STEPS = np.arange(401, dtype=np.float64)


def test_simulated_rewards_average_to_the_closed_form() -> None:
    runs = 2000
    rewards = TOY.simulate(400, runs, seed=0)
    error = rewards.std(axis=0) / np.sqrt(runs)
    apart = np.abs(rewards.mean(axis=0) - TOY.rewards(STEPS))
    assert apart[0] < 1e-12
    assert (apart[1:] < 4.5 * error[1:]).all()


def test_simulated_rewards_vary_as_the_closed_form_says() -> None:
    runs = 4000
    rewards = TOY.simulate(60, runs, seed=5)
    variances = TOY.reward_variances(STEPS[:61])
    assert variances[0] == 0
    assert rewards.var(axis=0)[1:] == pytest.approx(variances[1:], rel=0.12)


def test_measuring_adds_its_own_noise() -> None:
    exact, noisy = (TOY.simulate(50, 400, 3, evaluation_noise=noise) for noise in (0.0, 0.2))
    assert np.std(noisy - exact) == pytest.approx(0.2, rel=0.03)


def test_means_and_variances_are_those_of_the_recursion() -> None:
    model = Quadratic(np.array([1.0, 0.05, 0.0]), np.array([0.5, -1.0, 2.0]), 0.3, 0.7, 12)
    mean, variance = model.start.copy(), np.zeros(3)
    for t in range(60):
        at = np.array([float(t)])
        assert model.means(at)[0] == pytest.approx(mean, rel=1e-12)
        assert model.variances(at)[0] == pytest.approx(variance, rel=1e-10)
        mean = (1 - 0.3 * model.curvatures) * mean
        variance = (1 - 0.3 * model.curvatures) ** 2 * variance + 0.3**2 * 0.7**2 / 12
    late = model.variances(np.array([1e5]))[0]
    assert late[:2] == pytest.approx(model.steady_variances[:2], rel=1e-9)
    assert np.isinf(model.steady_variances[2])


def test_the_reward_is_a_sum_of_exponentials() -> None:
    curve = TOY.steady_reward + np.exp(-TOY.rates * STEPS[:, None]) @ TOY.amplitudes
    assert curve == pytest.approx(TOY.rewards(STEPS), rel=1e-12)
    assert (TOY.amplitudes[:8] < 0).all()
    assert (TOY.amplitudes[8:16] > 0).all()


@pytest.mark.slow
def test_the_peak_is_where_a_fine_grid_is_highest() -> None:
    amplitudes, rates = TOY.amplitudes, TOY.rates
    peak = peak_of_two_modes((amplitudes[:8].sum(), rates[0]), (amplitudes[8:16].sum(), rates[8]))
    fine = np.linspace(0, 400, 400_001)
    assert peak == pytest.approx(fine[TOY.rewards(fine).argmax()], abs=2e-3)


@pytest.mark.parametrize(("active", "alpha"), [(4, 0.1), (16, 0.1), (64, 0.5)])
def test_the_steady_gap_against_kappa_tells_the_effective_dimension(active: int, alpha: float) -> None:
    gaps, kappas = [], []
    for population in (10, 20, 40, 80):
        half = active // 2
        toy = two_groups((half, 1.0, 0.0), (half, 0.05, 0.0), alpha=alpha, sigma=0.2, population=population)
        gaps.append(1 - toy.rewards(np.array([20_000.0]))[0])
        kappas.append(0.2**2 / population)
    slope = np.polyfit(kappas, gaps, 1)[0]
    assert 4 / alpha * slope == pytest.approx(toy.effective_dimension, rel=1e-6)
    by_hand = 2 * half * (1 / (2 - alpha) + 1 / (2 - 0.05 * alpha))
    assert toy.effective_dimension == pytest.approx(by_hand, rel=1e-12)


def test_the_effective_dimension_is_the_rank_for_small_steps() -> None:
    toy = two_groups((8, 1.0, 0.3), (8, 0.05, 0.0), alpha=1e-6)
    assert toy.effective_dimension == pytest.approx(16, rel=1e-5)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"alpha": 2.0}, "no steady state"),
        ({"alpha": 5.0}, "no steady state"),
        ({"alpha": -0.1}, "alpha is -0.1"),
        ({"alpha": np.nan}, "alpha is nan"),
        ({"alpha": 0.0}, "alpha is 0"),
        ({"sigma": -1.0}, "sigma is -1"),
        ({"sigma": np.inf}, "sigma is inf"),
        ({"population": 0}, "population is 0"),
        ({"curvatures": np.array([1.0, -0.5])}, "a curvature is -0.5"),
        ({"curvatures": np.array([1.0, np.nan])}, "a curvature is nan"),
        ({"curvatures": np.ones(3)}, "3 curvatures and 2 starting points"),
        ({"start": np.array([0.0, np.inf])}, "a starting point is not finite"),
    ],
)
def test_what_has_no_steady_state_is_refused_in_one_sentence(changed: dict[str, object], words: str) -> None:
    settings = {
        "curvatures": np.array([1.0, 0.5]),
        "start": np.zeros(2),
        "alpha": 0.1,
        "sigma": 1.0,
        "population": 8,
    }
    with pytest.raises(UsageError, match=words):
        Quadratic(**(settings | changed))  # type: ignore[arg-type]


def test_a_direction_that_is_at_rest_after_one_step_has_no_rate() -> None:
    model = Quadratic(np.array([10.0, 0.5]), np.ones(2), 0.1, 1.0, 8)
    assert np.isfinite(model.rewards(STEPS)).all()
    assert np.isfinite(model.steady_reward)
    for name in ("rates", "peak"):
        with pytest.raises(UsageError, match="at rest after one step"):
            getattr(model, name)


def test_more_directions_than_dimensions() -> None:
    with pytest.raises(UsageError, match="do not fit into 10 dimensions"):
        two_groups((8, 1.0, 0.3), (8, 0.05, 0.0), dimension=10)


@given(
    st.lists(st.tuples(st.just(0.0) | st.floats(1e-4, 4), st.floats(-2, 2)), min_size=1, max_size=5),
    st.floats(0.01, 0.45),
    st.floats(0, 3),
)
@example([(1.0, 0.0), (2.0, 1.0)], 0.25, 4.3958482844627204e-94)
def test_the_peak_is_higher_than_all_whole_steps(
    modes: list[tuple[float, float]], alpha: float, sigma: float
) -> None:
    curvatures, start = np.array(modes).T
    assume((np.abs(1 - alpha * curvatures) > 1e-9).all())
    model = Quadratic(curvatures, start, alpha, sigma, 10)
    steps = np.arange(5000.0)
    highest, peak = float(model.rewards(steps).max()), model.peak
    if peak is None:
        ends = max(float(model.rewards(steps[:1])[0]), model.steady_reward)
        assert highest <= ends + 1e-9 * max(1, abs(ends))
    else:
        amplitudes, rates = model.amplitudes, model.rates
        top = model.steady_reward + float(amplitudes @ np.exp(-rates * peak))
        assert top >= highest - 1e-9 * max(1, abs(top))


def test_ascents_have_the_rewards_of_the_closed_form_and_the_distance_of_a_random_walk() -> None:
    ascents = TOY.ascents(60, 400, seed=1)
    rewards = np.array([ascent.rewards for ascent in ascents])
    error = rewards[:, 1:].std(axis=0) / np.sqrt(400)
    assert (np.abs(rewards.mean(axis=0) - TOY.rewards(STEPS[:61]))[1:] < 4.5 * error).all()
    flat = Quadratic(np.zeros(200), np.zeros(200), 0.1, 3.0, 30)
    farthest = [ascent.farthest for ascent in flat.ascents(50, 40, seed=2)]
    assert np.mean(farthest) == pytest.approx(flat.step_noise * np.sqrt(50 * 200), rel=0.02)
