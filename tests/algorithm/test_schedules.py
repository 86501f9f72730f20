"""How sigma and the population's size change: formulas, rules against SciPy, and their state."""

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from es_lightning.algorithm.population import Population
from es_lightning.algorithm.schedules import (
    AdaptiveSchedule,
    ConstantSchedule,
    CosineSchedule,
    LinearSchedule,
    ListedSchedule,
    Schedule,
    Scheduled,
    SignalRule,
    SuccessRule,
)
from es_lightning.errors import UsageError

# Functions of the generation


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (ConstantSchedule(), {0: 1.0, 7: 1.0, 10**6: 1.0}),
        (LinearSchedule(10, 0.1), {0: 1.0, 5: 0.55, 9: 0.19, 10: 0.1, 11: 0.1, 10**6: 0.1}),
        (LinearSchedule(4, 3.0), {0: 1.0, 1: 1.5, 2: 2.0, 4: 3.0, 9: 3.0}),
        (LinearSchedule(1, 0.5), {0: 1.0, 1: 0.5, 2: 0.5}),
        (CosineSchedule(10, 0.1), {0: 1.0, 5: 0.55, 10: 0.1, 11: 0.1, 10**6: 0.1}),
        (CosineSchedule(6, 0.0001), {2: 0.0001 + 0.9999 * 0.75, 3: 0.50005, 4: 0.0001 + 0.9999 * 0.25}),
        (ListedSchedule([1.0, 0.5, 2.0]), {0: 1.0, 1: 0.5, 2: 2.0, 3: 2.0, 10**6: 2.0}),
    ],
)
def test_factors_at_the_start_in_the_middle_at_the_end_and_beyond(
    schedule: Schedule, values: dict[int, float]
) -> None:
    for generation, factor in values.items():
        assert schedule.factor(generation) == pytest.approx(factor, rel=1e-12)
    schedule.observe(torch.rand(4, 3))
    assert schedule.state_dict() == {}
    schedule.load_state_dict({})
    for generation, factor in values.items():
        assert schedule.factor(generation) == pytest.approx(factor, rel=1e-12)


class Rule(AdaptiveSchedule):
    """Steps that are given."""

    def __init__(self, steps: Sequence[float] = (), low: float = 0.1, high: float = 10.0) -> None:
        super().__init__(low, high)
        self.steps = list(steps)

    def step(self, rewards: Tensor, groups: Sequence[str], pairs: bool) -> float:
        """The next of them."""
        return self.steps.pop(0)


nan, inf = math.nan, math.inf


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: LinearSchedule(0),
            "LinearSchedule has generations 0 and end 0.1: give at least 1 generation",
        ),
        (lambda: LinearSchedule(5, 0.0), "LinearSchedule has generations 5 and end 0.0: "),
        (lambda: CosineSchedule(-1), "CosineSchedule has generations -1 and end 0.1: "),
        (lambda: CosineSchedule(5, nan), "CosineSchedule has generations 5 and end nan: "),
        (lambda: CosineSchedule(5, inf), "and a last factor above 0."),
        (lambda: ListedSchedule([]), "ListedSchedule.factors is []: give at least one number above 0."),
        (lambda: ListedSchedule([1.0, 0.0]), "ListedSchedule.factors is [1.0, 0.0]: "),
        (lambda: ListedSchedule([nan]), "ListedSchedule.factors is [nan]: "),
        (lambda: Rule(low=0.0), "Rule has the bounds low 0.0 and high 10.0: give a low above 0"),
        (lambda: Rule(low=1.5), "Rule has the bounds low 1.5"),
        (lambda: SuccessRule(high=0.5), "SuccessRule has the bounds low 0.1 and high 0.5: "),
        (lambda: SignalRule(high=inf), "SignalRule has the bounds low 0.1 and high inf: "),
        (lambda: SuccessRule(target=1.0), "SuccessRule has target 1.0, rate 0.3 and damping 1.0: "),
        (lambda: SuccessRule(rate=0.0), "SuccessRule has target 0.25, rate 0.0 and damping 1.0: "),
        (lambda: SuccessRule(rate=nan), "rate nan"),
        (lambda: SuccessRule(damping=0.0), "and a damping above 0."),
        (lambda: SignalRule(target=0.0), "SignalRule has target 0.0 and rate 0.2: "),
        (lambda: SignalRule(rate=inf), "and a rate above 0."),
    ],
)
def test_values_out_of_range_are_refused(make: Callable[[], Schedule], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        make()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


# Rules that adapt


def rewards_of(generator: np.random.Generator, members: int = 8, prompts: int = 5) -> NDArray[np.float64]:
    """Rewards of right and wrong answers, with ties."""
    return generator.integers(0, 2, (members, prompts)) * 1.0


def success(now: NDArray[np.float64], before: NDArray[np.float64]) -> float:
    """2 P[now > before] - 1, by SciPy's statistic of Mann and Whitney."""
    statistic = stats.mannwhitneyu(now.mean(1), before.mean(1)).statistic
    return float(2 * statistic / (len(now) * len(before)) - 1)


def test_the_success_rule_is_its_formula() -> None:
    """Also where the population's size changes."""
    generator = np.random.default_rng(1)
    rewards = [rewards_of(generator, members) + 0.05 * t for t, members in enumerate([8, 8, 12, 6, 8, 8])]
    rule = SuccessRule(target=0.1, rate=0.4, damping=2.0)
    smoothed = log = 0.0
    for t, now in enumerate(rewards):
        assert rule.factor(t) == pytest.approx(math.exp(log), rel=1e-12)
        rule.observe(torch.from_numpy(now))
        if t:
            smoothed = 0.6 * smoothed + 0.4 * (success(now, rewards[t - 1]) - 0.1)
            log += smoothed / 2
    assert rule.factor(len(rewards)) == pytest.approx(math.exp(log), rel=1e-12)
    assert log != 0


@pytest.mark.parametrize(("gain", "direction"), [(1.0, 1), (-1.0, -1)])
def test_the_success_rule_raises_sigma_while_rewards_rise(gain: float, direction: int) -> None:
    rule = SuccessRule()
    for t in range(3):
        rule.observe(torch.rand(6, 2) + 2 * gain * t)
    assert (rule.factor(3) - 1) * direction > 0.1


def cronbach(rewards: NDArray[np.float64]) -> float:
    """alpha = P / (P - 1) * (1 - sum_p Var(r_p) / Var(sum_p r_p)), as Cronbach (1951) has it."""
    prompts = rewards.shape[1]
    spread = rewards.sum(1).var(ddof=1)
    return prompts / (prompts - 1) * (1 - rewards.var(axis=0, ddof=1).sum() / spread)


@pytest.mark.parametrize("signal", [0.0, 0.3, 1.0, 3.0])
def test_the_signal_rule_is_its_formula(signal: float) -> None:
    generator = np.random.default_rng(3)
    rewards = generator.normal(size=(12, 9)) + signal * generator.normal(size=(12, 1))
    rule = SignalRule(target=0.6, rate=0.5)
    rule.observe(torch.from_numpy(rewards))
    expected = 0.5 * (0.6 - max(0.0, cronbach(rewards)))
    assert math.log(rule.factor(1)) == pytest.approx(expected, rel=1e-9)


def test_the_signal_rule_looks_at_differences_within_pairs() -> None:
    """What both members of a pair share is no signal: alpha of the differences around 0."""
    generator = np.random.default_rng(4)
    odd = generator.normal(size=(6, 9)) + 0.7 * generator.normal(size=(6, 1))
    shared = 5 * generator.normal(size=(6, 1))
    rewards = np.stack([shared + odd, shared - odd], axis=1).reshape(12, 9)
    # Each difference and its opposite: the same mean squares, around a mean that is 0 by itself.
    expected = cronbach(np.concatenate([odd, -odd]))
    for pairs, alpha in [(True, expected), (False, cronbach(rewards))]:
        rule = SignalRule(target=0.5, rate=1.0)
        rule.observe(torch.from_numpy(rewards), (), pairs)
        assert math.log(rule.factor(1)) == pytest.approx(0.5 - alpha, rel=1e-9)


@pytest.mark.parametrize("rewards", [torch.rand(6, 1), torch.full((6, 4), 0.1)])
def test_the_signal_rule_stays_where_nothing_can_be_told(rewards: Tensor) -> None:
    rule = SignalRule()
    rule.observe(rewards)
    assert rule.factor(1) == 1.0


@given(st.lists(st.floats(-50, 50), max_size=20), st.floats(0.01, 1), st.floats(1, 100))
def test_factors_stay_within_their_bounds(steps: list[float], low: float, high: float) -> None:
    rule = Rule(steps, low, high)
    log = 0.0
    for t, step in enumerate(steps):
        rule.observe(torch.zeros(2, 1))
        log = min(max(log + step, math.log(low)), math.log(high))
        assert rule.factor(t + 1) == pytest.approx(math.exp(log), rel=1e-12)
        assert low * (1 - 1e-12) <= rule.factor(t + 1) <= high * (1 + 1e-12)


# Their state

RULES: dict[str, Callable[[], Schedule]] = {
    "linear": lambda: LinearSchedule(7),
    "cosine": lambda: CosineSchedule(7),
    "listed": lambda: ListedSchedule([1.0, 0.5]),
    "success": SuccessRule,
    "signal": SignalRule,
}


@pytest.mark.parametrize("name", RULES)
@given(seed=st.integers(0, 2**32 - 1), break_at=st.integers(0, 6))
def test_a_schedule_goes_on_from_its_state_as_if_it_had_never_stopped(
    name: str, seed: int, break_at: int
) -> None:
    generator = np.random.default_rng(seed)
    rewards = [torch.from_numpy(rewards_of(generator)) for _ in range(7)]
    whole, part = RULES[name](), RULES[name]()
    for t, now in enumerate(rewards):
        if t == break_at:
            state = json.loads(json.dumps(part.state_dict()))
            part = RULES[name]()
            part.load_state_dict(state)
        assert whole.factor(t) == part.factor(t)
        whole.observe(now)
        part.observe(now)
    assert whole.factor(7) == part.factor(7)
    assert whole.state_dict() == part.state_dict()


def test_a_state_is_not_changed_by_what_comes_after() -> None:
    rule = SuccessRule()
    rule.observe(torch.rand(4, 2))
    state = rule.state_dict()
    before = json.dumps(state)
    rule.observe(torch.rand(4, 2))
    assert json.dumps(state) == before
    rule.load_state_dict(state)
    rule.observe(torch.rand(4, 2))
    assert json.dumps(state) == before


@pytest.mark.parametrize(
    ("rule", "state"),
    [
        (SignalRule, {}),
        (SignalRule, {"log": "far"}),
        (SignalRule, {"log": None}),
        (SignalRule, {"log": nan}),
        (SignalRule, {"log": 1e9}),
        (SignalRule, {"log": -50.0}),
        (SuccessRule, {"log": 0.0}),
        (SuccessRule, {"log": 0.0, "smoothed": 0.0, "before": 5}),
        (SuccessRule, {"log": 0.0, "smoothed": nan, "before": []}),
        (SuccessRule, {"log": 0.0, "smoothed": 0.0, "before": ["a"]}),
        (SuccessRule, {"log": 0.0, "smoothed": 0.0, "before": [nan]}),
    ],
)
def test_a_damaged_state_is_refused(rule: type[AdaptiveSchedule], state: dict[str, Any]) -> None:
    """The module tells the user of it by the file that it is from."""
    with pytest.raises((KeyError, TypeError, ValueError)):
        rule().load_state_dict(state)


# Scheduled numbers


def test_a_number_without_a_schedule_is_constant_until_it_is_steered() -> None:
    number = Scheduled(0.01)
    assert number.at(0) == number.at(99) == 0.01
    number.steer(0.5, 3)
    assert number.at(0) == number.at(99) == 0.5


def test_a_schedule_goes_on_from_a_number_that_is_steered() -> None:
    number = Scheduled(0.01, LinearSchedule(10, 0.5))
    assert [number.at(t) for t in (0, 5, 20)] == pytest.approx([0.01, 0.0075, 0.005])
    number.steer(0.3, 5)
    assert [number.at(t) for t in (0, 5, 20)] == pytest.approx([0.4, 0.3, 0.2])


@pytest.mark.parametrize(
    ("antithetic", "sizes"), [(False, [16, 13, 9, 5, 2, 2]), (True, [16, 12, 8, 4, 2, 2])]
)
def test_a_scheduled_population_is_whole_and_at_least_two(antithetic: bool, sizes: list[int]) -> None:
    number, first = Scheduled(16, LinearSchedule(20, 0.01)), Population(16, 3, antithetic)
    found = [first.resized(number.at(t)) for t in (0, 4, 9, 14, 19, 99)]
    assert [population.size for population in found] == sizes
    assert {(each.run_seed, each.antithetic) for each in found} == {(3, antithetic)}
