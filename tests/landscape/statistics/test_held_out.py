"""The held-out gain against brute force; noise finds nothing, and what is there is found."""

from itertools import combinations

import numpy as np
import pytest

from es_lightning.errors import UsageError
from es_lightning.landscape.statistics.best_of import best_of
from es_lightning.landscape.statistics.held_out import Way, chosen_gain, gain_over, halvings


def flips(seed: int, shape: tuple[int, ...], rate: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    """Rewards of candidates that turn over answers at random, both ways alike, and those of the centre."""
    generator = np.random.default_rng(seed)
    centre = np.arange(shape[-1]) % 2.0
    return np.abs(centre - (generator.random(shape) < rate)), centre


def redrawn(seed: int, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Answers that are right by chance, the centre's as well: what is wrong with it shifts all candidates."""
    generator = np.random.default_rng(seed)
    chance = generator.random(shape[-1])
    return 1.0 * (generator.random(shape) < chance), 1.0 * (generator.random(shape[-1]) < chance)


def test_the_gain_is_the_mean_over_all_subsets_both_ways() -> None:
    rewards, centre = flips(0, (1, 6, 9), rate=0.4)
    changes = (rewards - centre)[0]
    one, other = np.arange(4), np.arange(4, 9)
    totals = []
    for chosen_on, measured_on in ((one, other), (other, one)):
        gains = []
        for subset in combinations(range(6), 3):
            means = changes[list(subset)][:, chosen_on].mean(axis=1)
            first = np.array(subset)[means == means.max()]
            gains.append(changes[first][:, measured_on].mean())
        totals.append(np.mean(gains) * len(measured_on) / 9)  # every prompt counts once
    found = gain_over([Way(rewards - centre, one, other), Way(rewards - centre, other, one)], [3])
    assert found.gain[0] == pytest.approx(sum(totals), abs=1e-12)
    assert found.over_mean[0] == pytest.approx(sum(totals) - changes.mean(), abs=1e-12)


def test_the_best_of_one_is_any_candidate() -> None:
    rewards, centre = flips(1, (2, 20, 11))
    found = chosen_gain(rewards, centre, [1])
    assert found.gain[0] == pytest.approx((rewards - centre).mean(), abs=1e-12)
    assert found.p_choice is not None
    assert found.p_choice[0] == 1
    ends = (found.over_mean[0], found.over_mean_low[0], found.over_mean_high[0])
    assert ends == pytest.approx((0, 0, 0), abs=1e-12)


@pytest.mark.parametrize("unit", [1, 2])
def test_the_gain_over_the_mean_candidate_is_free_of_the_luck_of_the_centre(unit: int) -> None:
    rewards, centre = flips(5, (2, 20, 16), rate=0.3)
    other = np.arange(16) % 4 == 0  # a centre that earns less, and on other prompts
    found, beside = (chosen_gain(rewards, each, [5], unit=unit) for each in (centre, other))
    assert abs(found.gain[0] - beside.gain[0]) > 0.01
    for name in ("over_mean", "over_mean_low", "over_mean_high"):
        assert getattr(beside, name) == pytest.approx(getattr(found, name), abs=1e-12)


def test_pairs_choose_among_members_of_one_sign() -> None:
    rewards, centre = flips(2, (1, 12, 10), rate=0.3)
    found = chosen_gain(rewards, centre, [4], splits=1, unit=2)
    signs = [chosen_gain(rewards[:, sign::2], centre, [4], splits=1).gain[0] for sign in (0, 1)]
    assert found.gain[0] == pytest.approx(np.mean(signs), abs=1e-12)


@pytest.mark.parametrize("noise", [flips, redrawn])
@pytest.mark.slow
def test_pure_noise_finds_nothing(noise: type(flips)) -> None:
    gains = over_mean = choices = 0
    for seed in range(200):
        found = chosen_gain(*noise(seed, (1, 40, 16)), [10], splits=1)
        assert found.p_choice is not None
        gains += found.low[0] > 0
        over_mean += found.over_mean_low[0] > 0
        choices += found.p_choice[0] <= 0.05
    assert gains <= 10  # a size of at most 0.05
    assert over_mean <= 10
    assert choices <= 19  # exact: 200 x 0.05 +- 3 standard deviations


@pytest.mark.slow
@pytest.mark.long
def test_pure_noise_finds_nothing_at_the_size_of_a_probe() -> None:
    runs = []
    for seed in range(200):
        _, centre = redrawn(seed, (1, 64))  # other prompts in each run, as the error over prompts supposes
        turned = np.random.default_rng(1000 + seed).random((3, 120, 64)) < 0.05
        runs.append(chosen_gain(np.abs(centre - turned), centre, [5, 30, 50]))
    assert (np.sum([found.low > 0 for found in runs], axis=0) <= 10).all()
    assert (np.sum([found.over_mean_low > 0 for found in runs], axis=0) <= 10).all()
    gains = np.array([found.gain for found in runs])
    assert (np.abs(gains.mean(axis=0)) < 4 * gains.std(axis=0) / np.sqrt(len(runs))).all()
    errors = np.mean([np.hypot(found.prompt_error, found.candidate_error) for found in runs], axis=0)
    assert errors == pytest.approx(gains.std(axis=0), rel=0.2)


def test_the_winners_curse_is_worth_points_and_is_not_held_out() -> None:
    """5 % of 320 answers turned over each way: +3.6 points at best of 30, where nothing has improved."""
    rewards, centre = flips(3, (2, 240, 320), rate=0.1)
    curse = best_of((rewards - centre).mean(axis=-1), [30]).mean()
    assert curse == pytest.approx(0.036, abs=0.004)
    found = chosen_gain(rewards, centre, [30])
    assert found.seen[0] > 0.04  # half of the prompts, so more
    assert abs(found.gain[0]) < 0.01
    assert found.low[0] < 0 < found.high[0]


def test_what_is_better_on_all_prompts_is_found() -> None:
    generator = np.random.default_rng(4)
    centre = (np.arange(64) % 4 == 0) * 1.0
    better = generator.random((2, 120, 1)) < 0.1  # a tenth of the candidates solves half of the rest
    solved = (generator.random((2, 120, 64)) < 0.5) & better
    found = chosen_gain(np.maximum(centre, solved), centre, [1, 30])
    assert found.low[1] > 0
    assert found.low[1] < 0.5 * 0.75 < found.high[1]
    assert found.p_choice is not None
    assert found.p_choice[1] == pytest.approx(0.001)


def test_halves_are_halves() -> None:
    for one, other in halvings(9, splits=3):
        assert sorted([*one, *other]) == list(range(9))
        assert abs(len(one) - len(other)) == 1
    assert len(halvings(9, splits=3)) == 6
    with pytest.raises(UsageError, match=r"at least 2 prompts\.$"):
        halvings(1)
