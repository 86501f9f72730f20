"""A bound on how long a library may work that has none: in any thread, and nearly alike on every machine."""

import sys
from types import FrameType, TracebackType
from typing import Any


class OutOfStepsError(BaseException):
    """There are no steps left. It is no Exception, which libraries catch."""


class Steps:
    """So many calls and returns of functions, of Python and of C, within all blocks ``with steps:`` together.

    A block is left with an ``OutOfStepsError`` when they are used up, and later ones at once. A signal would
    need the main thread, and a clock gives other verdicts on a slow machine. A single call that takes
    forever, such as a huge power, is not ended.

    Args:
        left: how many there are.
    """

    def __init__(self, left: int) -> None:
        self.left = left

    def __enter__(self) -> None:
        if self.left <= 0:
            raise OutOfStepsError
        self._before = sys.getprofile()
        sys.setprofile(self._count)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sys.setprofile(self._before)

    def _count(self, frame: FrameType, event: str, argument: Any) -> None:
        self.left -= 1
        if self.left <= 0:
            raise OutOfStepsError
