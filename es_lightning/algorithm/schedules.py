"""How sigma and the population's size change from one generation to the next: factors on their first values.

Some schedules are functions of the generation's index. Others adapt to the rewards of the generations so far;
their state is kept in checkpoints, and repeated generations are shown to them again, so that a resumed run
goes on as if it had never stopped.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from es_lightning.algorithm.signal import signal
from es_lightning.errors import UsageError


class Schedule(ABC):
    """A factor per generation. A schedule of one's own defines ``factor``."""

    @abstractmethod
    def factor(self, generation: int) -> float:
        """Return what the first value is multiplied by in a generation; above 0.

        Args:
            generation: index of the generation, from 0; all earlier ones have been observed.
        """

    def observe(  # noqa: B027
        self, rewards: Tensor, groups: Sequence[str] = (), pairs: bool = False
    ) -> None:
        """See the rewards of a generation, each generation once and in order.

        Args:
            rewards: float64 [N, P], the same on every rank; those of a mixture on one scale.
            groups: P names, the task of each prompt; empty if there is only one task.
            pairs: whether members come in antithetic pairs.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return what has been learned from rewards, in types that JSON has."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Go on from what ``state_dict`` returned.

        Raises:
            KeyError, TypeError, ValueError: it is no such state.
        """


class ConstantSchedule(Schedule):
    """The same value in every generation, which is what no schedule means."""

    def factor(self, generation: int) -> float:
        """Return 1."""
        return 1.0


class LinearSchedule(Schedule):
    """f_t = 1 + (end - 1) * min(t / T, 1): straight to ``end`` in T generations, and then constant.

    Args:
        generations: T, at least 1.
        end: the last factor, above 0.

    Raises:
        UsageError: a value is outside its range.
    """

    def __init__(self, generations: int, end: float = 0.1) -> None:
        self.generations, self.end = _checked(type(self).__name__, generations, end)

    def factor(self, generation: int) -> float:
        """Return f_t."""
        return 1 + (self.end - 1) * min(generation / self.generations, 1.0)


class CosineSchedule(Schedule):
    """f_t = end + (1 - end) * (1 + cos(pi * min(t / T, 1))) / 2 (arXiv 1608.03983, SGDR).

    Args:
        generations: T, at least 1.
        end: the last factor, above 0.

    Raises:
        UsageError: a value is outside its range.
    """

    def __init__(self, generations: int, end: float = 0.1) -> None:
        self.generations, self.end = _checked(type(self).__name__, generations, end)

    def factor(self, generation: int) -> float:
        """Return f_t."""
        share = min(generation / self.generations, 1.0)
        return self.end + (1 - self.end) * (1 + math.cos(math.pi * share)) / 2


class ListedSchedule(Schedule):
    """One factor per generation, as listed; the last of them stays.

    Args:
        factors: at least one, each above 0.

    Raises:
        UsageError: there are none, or one is not above 0.
    """

    def __init__(self, factors: list[float]) -> None:
        if not factors or not all(0 < factor < math.inf for factor in factors):
            raise UsageError(f"ListedSchedule.factors is {factors}: give at least one number above 0.")
        self.factors = list(factors)

    def factor(self, generation: int) -> float:
        """Return the factor listed for a generation."""
        return self.factors[min(generation, len(self.factors) - 1)]


class AdaptiveSchedule(Schedule):
    """A factor that is multiplied by exp(step) after every generation, within bounds.

    A rule of one's own defines ``step``.

    Args:
        low: smallest factor, above 0 and at most 1.
        high: largest factor, at least 1.

    Raises:
        UsageError: a bound is outside its range.
    """

    def __init__(self, low: float = 0.1, high: float = 10.0) -> None:
        if not 0 < low <= 1 <= high < math.inf:
            raise UsageError(
                f"{type(self).__name__} has the bounds low {low} and high {high}: give a low above 0 and at "
                "most 1, and a high of at least 1."
            )
        self.low, self.high = low, high
        self._log = 0.0

    @abstractmethod
    def step(self, rewards: Tensor, groups: Sequence[str], pairs: bool) -> float:
        """Return the change of log(factor) after a generation; see ``observe`` for the arguments."""

    def factor(self, generation: int) -> float:
        """Return the present factor."""
        return math.exp(self._log)

    def observe(self, rewards: Tensor, groups: Sequence[str] = (), pairs: bool = False) -> None:
        """Adapt to the rewards of a generation."""
        changed = self._log + self.step(rewards, groups, pairs)
        self._log = min(max(changed, math.log(self.low)), math.log(self.high))

    def state_dict(self) -> dict[str, Any]:
        """Return the logarithm of the factor."""
        return {"log": self._log}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Set the logarithm of the factor."""
        log = float(state["log"])
        if not math.log(self.low) <= log <= math.log(self.high):
            raise ValueError(f"the factor exp({log}) is outside its bounds")
        self._log = log


class SuccessRule(AdaptiveSchedule):
    """Raise sigma while members do better than those before them, and lower it else, as the 1/5 rule does.

    Rechenberg's rule (1973) counts offspring that beat their parent. Here the parent, the centre, is not
    evaluated, so the members R'_n of a generation are compared with the members R_m of the one before, as in
    the population success rule (Loshchilov 2014, arXiv 1404.5520):

        z = 2 * mean over n, m of [R'_n > R_m] - 1 - target, where ties count half
        s <- (1 - rate) * s + rate * z,   log(sigma) <- log(sigma) + s / damping

    Prompts that change from one generation to the next add noise to z.

    Args:
        target: success at which sigma stays, between -1 and 1; 0.25 in the paper.
        rate: weight of the newest generation in s, above 0 and at most 1; 0.3 in the paper.
        damping: above 0; 1 in the paper.
        low: see ``AdaptiveSchedule``.
        high: see ``AdaptiveSchedule``.

    Raises:
        UsageError: a value is outside its range.
    """

    def __init__(
        self,
        target: float = 0.25,
        rate: float = 0.3,
        damping: float = 1.0,
        low: float = 0.1,
        high: float = 10.0,
    ) -> None:
        super().__init__(low, high)
        if not (-1 < target < 1 and 0 < rate <= 1 and 0 < damping < math.inf):
            raise UsageError(
                f"SuccessRule has target {target}, rate {rate} and damping {damping}: give a target between "
                "-1 and 1, a rate above 0 and at most 1, and a damping above 0."
            )
        self.target, self.rate, self.damping = target, rate, damping
        self._before: list[float] = []
        self._smoothed = 0.0

    def step(self, rewards: Tensor, groups: Sequence[str], pairs: bool) -> float:
        """Return s / damping; 0 after the first generation, which has none before it."""
        now = rewards.double().mean(dim=1)
        before, self._before = torch.tensor(self._before, dtype=torch.float64), now.tolist()
        if not len(before):
            return 0.0
        success = float((now[:, None] - before[None, :]).sign().mean()) - self.target
        self._smoothed += self.rate * (success - self._smoothed)
        return self._smoothed / self.damping

    def state_dict(self) -> dict[str, Any]:
        """Return the factor, s, and the last generation's rewards."""
        return {**super().state_dict(), "smoothed": self._smoothed, "before": self._before}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from that state."""
        super().load_state_dict(state)
        smoothed, *before = (float(number) for number in (state["smoothed"], *state["before"]))
        if not all(map(math.isfinite, (smoothed, *before))):
            raise ValueError("a number is not finite")
        self._smoothed, self._before = smoothed, before


class SignalRule(AdaptiveSchedule):
    """Raise sigma while the rewards' differences are noise, and lower it while they are all signal.

        log(sigma) <- log(sigma) + rate * (target - reliability)

    The reliability is the share of Var(R_n) that other prompts would show as well (Cronbach's alpha), as
    ``PopulationHealth`` reports it; it counts as 0 where it is negative. A larger sigma gives larger
    differences, a smaller one an estimate of the gradient with less bias. The rule is this project's own.

    Args:
        target: reliability at which sigma stays, between 0 and 1.
        rate: above 0.
        low: see ``AdaptiveSchedule``.
        high: see ``AdaptiveSchedule``.

    Raises:
        UsageError: a value is outside its range.
    """

    def __init__(
        self,
        target: float = 0.5,
        rate: float = 0.2,
        low: float = 0.1,
        high: float = 10.0,
    ) -> None:
        super().__init__(low, high)
        if not (0 < target < 1 and 0 < rate < math.inf):
            raise UsageError(
                f"SignalRule has target {target} and rate {rate}: give a target between 0 and 1, and a rate "
                "above 0."
            )
        self.target, self.rate = target, rate

    def step(self, rewards: Tensor, groups: Sequence[str], pairs: bool) -> float:
        """Return rate * (target - reliability); 0 if there is one prompt alone, or no difference at all."""
        measured = signal(rewards, groups, pairs)
        return 0.0 if measured is None else self.rate * (self.target - max(0.0, measured.reliability))


class Scheduled:
    """A number that a schedule may change: its first value times the schedule's factor.

    Args:
        first: the value at factor 1.
        schedule: None leaves it constant.
    """

    def __init__(self, first: float, schedule: Schedule | None = None) -> None:
        self.first, self.schedule = first, schedule

    def at(self, generation: int) -> float:
        """Return the value in a generation, see ``Schedule.factor``."""
        return self.first if self.schedule is None else self.first * self.schedule.factor(generation)

    def steer(self, value: float, generation: int) -> None:
        """Set the value in a generation; the schedule goes on from there."""
        self.first = value if self.schedule is None else value / self.schedule.factor(generation)


def _checked(kind: str, generations: int, end: float) -> tuple[int, float]:
    if generations < 1 or not 0 < end < math.inf:
        raise UsageError(
            f"{kind} has generations {generations} and end {end}: give at least 1 generation, and a last "
            "factor above 0."
        )
    return generations, end
