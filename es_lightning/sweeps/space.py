"""The space of a sweep: the values that a key of a fit's config may take."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from es_lightning.errors import UsageError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Value = None | bool | int | float | str
"""What a key may be set to; a list or a mapping is written as JSON, which the command line reads."""

MOST_POINTS = 100_000


@dataclass(frozen=True)
class Choices:
    """A key takes one of several values.

    Args:
        values: in the order of the file, all different.
    """

    values: tuple[Value, ...]

    def points(self) -> list[Value]:
        """Return all values."""
        return list(self.values)

    def examples(self) -> list[Value]:
        """Return the values that the fit's parser has to accept before a sweep begins."""
        return list(self.values)

    def distribution(self) -> BaseDistribution:
        """Return Optuna's word for it."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.values)


@dataclass(frozen=True)
class Range:
    """A key takes a number between two ends, which both belong to it.

    Args:
        low: lower end; whole numbers at both ends, and as the step, make it a range of whole numbers.
        high: upper end.
        log: whether samplers draw the logarithm.
        step: distance of neighbouring values, counted from ``low``; None allows every number.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None

    @property
    def whole(self) -> bool:
        """Whether its values are whole numbers."""
        return all(isinstance(each, int) for each in (self.low, self.high, self.step or 0))

    def points(self) -> list[Value]:
        """Return all values of a range with a step, without the rounding errors of repeated sums.

        Raises:
            UsageError: it has no step.
        """
        if self.step is None:
            raise UsageError("a range without a step has no list of values.")
        low, step = Decimal(str(self.low)), Decimal(str(self.step))
        count = int((Decimal(str(self.high)) - low) // step) + 1
        kind = int if self.whole else float
        return [kind(low + number * step) for number in range(min(count, MOST_POINTS + 1))]

    def examples(self) -> list[Value]:
        """Return the values that the fit's parser has to accept before a sweep begins: first and last."""
        return [self.low, self.high if self.step is None else self.points()[-1]]

    def distribution(self) -> BaseDistribution:
        """Return Optuna's word for it."""
        from optuna.distributions import FloatDistribution, IntDistribution

        high = self.high if self.step is None else self.points()[-1]
        assert isinstance(high, int | float)
        if self.whole:
            return IntDistribution(int(self.low), int(high), log=self.log, step=int(self.step or 1))
        return FloatDistribution(self.low, high, log=self.log, step=self.step)


Dimension = Choices | Range
Space = Mapping[str, Dimension]


def read_space(given: Any) -> dict[str, Dimension]:
    """Read the section ``space`` of a sweep's file.

    Args:
        given: dotted key -> list of values, or a mapping with ``low``, ``high`` and maybe ``log``, ``step``.

    Raises:
        UsageError: it is empty, or a key has neither.
    """
    if not isinstance(given, Mapping) or not given:
        raise UsageError(
            "space is empty: give keys of the fit's config with their values, such as model.sigma: "
            "[0.002, 0.004]."
        )
    return {str(key): _dimension(str(key), each) for key, each in given.items()}


def grid_points(space: Space) -> list[dict[str, Value]]:
    """Return every combination of values; the last key changes fastest.

    Raises:
        UsageError: a range has no step, or there are too many combinations.
    """
    for key, each in space.items():
        if isinstance(each, Range) and each.step is None:
            raise UsageError(
                f"space: {key} is a range without a step, of which there is no grid: give it a step or a "
                "list of values, or take sampler random or tpe."
            )
    columns = [each.points() for each in space.values()]
    if math.prod(map(len, columns)) > MOST_POINTS:
        raise UsageError(f"space: the grid has more than {MOST_POINTS} points: give fewer values.")
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*columns)]


def plain_value(key: str, given: Any) -> Value:
    """Return a value of a file as what a command line takes.

    Args:
        key: for the message.
        given: as YAML has it.

    Raises:
        UsageError: it is a number that is not finite.
    """
    if isinstance(given, float) and not math.isfinite(given):
        raise UsageError(f"{key} is {given}: give a finite number.")
    if given is None or isinstance(given, bool | int | float | str):
        return given
    return json.dumps(given, default=str)


def word(key: str, value: Value) -> str:
    """Return the word of a fit's command line that sets a key.

    Args:
        key: dotted; one that ends in ``+`` adds to a list.
        value: numbers keep every digit.
    """
    return f"--{key}={value if isinstance(value, str) else json.dumps(value)}"


def _dimension(key: str, given: Any) -> Dimension:
    if isinstance(given, list) and given:
        values = tuple(plain_value(f"space: {key}", each) for each in given)
        if any(one == other for one, other in itertools.combinations(values, 2)):
            raise UsageError(f"space: {key} has a value twice: give each of them once.")
        return Choices(values)
    if isinstance(given, Mapping):
        return _range(key, given)
    raise UsageError(
        f"space: {key} is {given!r}: give a list of values, or a range {{low: 0.001, high: 0.1, log: true}}."
    )


def _range(key: str, given: Mapping[str, Any]) -> Range:
    known = ("low", "high", "log", "step")
    wrong = [name for name in given if name not in known]
    if wrong or not {"low", "high"} <= set(given):
        what = f"has {wrong[0]!r}" if wrong else "lacks an end"
        raise UsageError(f"space: the range of {key} {what}: it takes low, high, and maybe log or step.")
    log = given.get("log", False)
    if not isinstance(log, bool):
        raise UsageError(f"space: log of {key} is {log!r}: give true or false.")
    for name in ("low", "high", "step"):
        value = given.get(name)
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not is_number and not (name == "step" and value is None):
            raise UsageError(f"space: {name} of {key} is {value!r}: give a finite number.")
    made = Range(given["low"], given["high"], log, given.get("step"))
    for why in _faults(made):
        raise UsageError(f"space: the range of {key} {why}")
    return made


def _faults(made: Range) -> list[str]:
    """Say what a range has that no range may have."""
    rules = [
        (made.low >= made.high, f"goes from {made.low} to {made.high}: give a high above low."),
        (made.log and made.low <= 0, f"has log and begins at {made.low}: begin above 0."),
        (made.log and made.step is not None, "has both log and a step: give one of them."),
        (made.step is not None and made.step <= 0, f"has the step {made.step}: give a step above 0."),
        (
            made.step is not None and made.step > made.high - made.low,
            f"has the step {made.step}, which leaves one value: give a smaller step.",
        ),
    ]
    return [why for broken, why in rules if broken]
