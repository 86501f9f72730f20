"""A run's curve, read from journals of populations on a quadratic."""

from dataclasses import replace

import numpy as np
import pytest

from es_lightning.landscape.theory.fitted_run import cost_of_a_dimension, fitted_run
from tests.helpers.ascent_journal import HEADER, entries_of

ENTRIES = entries_of(0, 400)
"""Of a run with 40 soft directions."""


def curve(noise: float, decay: float = 0.4) -> list:
    """The same generations with rewards of a known curve, and a spread of 0.005."""
    generator = np.random.default_rng(1)
    times = np.arange(len(ENTRIES))
    rewards = 0.5 - 0.8 * np.exp(-times / 12) + decay * np.exp(-times / 80)
    rewards += noise * generator.standard_normal(len(times))
    return [
        replace(entry, reward={**entry.reward, "mean": float(reward), "std": 0.005})
        for entry, reward in zip(ENTRIES, rewards, strict=True)
    ]


def test_the_amplitude_of_the_decay_becomes_a_dimension() -> None:
    run = fitted_run(HEADER, curve(0.02))
    assert not run.reason
    assert run.judged.modes is not None
    true = np.log((0.8 / 12) / (0.4 / 80)) / (1 / 12 - 1 / 80)
    assert run.judged.modes.interval[0] <= true <= run.judged.modes.interval[1]
    # lr std(R) / (4 sigma N), with the unbiased std and E std of 8 normal numbers, by quadrature: 0.9027.
    cost = 0.15 * 0.005 * np.sqrt(8 / 7) / (4 * 0.05 * 8) / 0.9027
    assert cost_of_a_dimension(curve(0.0)) == pytest.approx(cost, rel=1e-3)
    assert run.interval[0] <= 0.4 / cost <= run.interval[1]
    assert run.dimension == pytest.approx(0.4 / cost, rel=0.2)


def test_a_run_whose_own_wandering_hides_the_dimension_fails() -> None:
    few = [replace(entry, reward={**entry.reward, "std": 0.5}) for entry in curve(0.02)]
    run = fitted_run(HEADER, few)
    assert run.judged.modes is not None
    assert "own wandering" in run.reason
    assert np.isnan(run.dimension)


def test_pairs_share_their_noise() -> None:
    """With pure noise as reward, the weights of a pair are independent: its noise is that of two members."""
    costs = []
    for antithetic in (True, False):
        entries = entries_of(1, 2000, antithetic=antithetic, noise=50.0)
        same = [replace(entry, reward={**entry.reward, "std": 0.5}) for entry in entries]
        costs.append(cost_of_a_dimension(same))
    # Weights with mean 0 and variance 1 correlate by -1 / (N - 1), which makes differences larger.
    assert costs[0] / costs[1] == pytest.approx(8 / 7, rel=0.04)


def test_validation_rewards_are_read_in_the_same_way() -> None:
    points = [(float(entry.generation), entry.reward["mean"]) for entry in curve(0.02)[::5]]
    run = fitted_run(HEADER, ENTRIES, points)
    assert len(run.times) == 80
    assert run.judged.modes is not None


@pytest.mark.parametrize(
    ("header", "changed", "words"),
    [
        ({"settings": {"shaping": "centered_rank"}}, {}, "shaping is centered_rank"),
        ({"optimizer": {"class": "torch.optim.adam.Adam", "settings": {}}}, {}, "SGD without momentum"),
        (
            {"optimizer": {"class": "torch.optim.sgd.SGD", "settings": {"momentum": 0.9}}},
            {},
            "SGD without momentum",
        ),
        ({"regularisers": [{"class": "AnchoredDecay"}]}, {}, "without regularisers"),
        ({}, {"skipped": True}, "made no update"),
    ],
)
def test_a_dimension_needs_plain_steps(header: dict, changed: dict, words: str) -> None:
    entries = curve(0.02)
    entries[100:140] = [replace(entry, **changed) for entry in entries[100:140]]
    run = fitted_run(HEADER | header, entries)
    assert run.judged.modes is not None
    assert words in run.reason
    assert np.isnan(run.dimension)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"parent": 20}, "went back to an earlier centre before generation 100"),
        ({"sigma": 0.01}, "sigma changed"),
        ({"hyper": {"lr": 0.01}}, "lr changed"),
    ],
)
def test_the_model_needs_one_ascent_with_constant_settings(changed: dict, words: str) -> None:
    entries = curve(0.02)
    entries[100] = replace(entries[100], **changed)
    run = fitted_run(HEADER, entries)
    assert run.judged.modes is None
    assert words in run.reason


def test_a_run_without_generations_has_no_peak() -> None:
    assert "0 points" in fitted_run(HEADER, []).reason
