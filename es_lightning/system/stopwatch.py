"""Wall-clock seconds: of a generation by phase, and of the generations that are left."""

import time
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


class Stopwatch:
    """Adds up wall-clock seconds per named phase."""

    def __init__(self) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._open: list[str] = []  # the phases that are running, each within the one before

    @property
    def seconds(self) -> Mapping[str, float]:
        """Seconds so far, by phase."""
        return dict(self._seconds)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a ``with`` block and add its seconds to a phase."""
        start = time.perf_counter()
        self._open.append(name)
        try:
            yield
        finally:
            self._open.pop()
            self._seconds[name] += time.perf_counter() - start

    def each(self, name: str, items: Iterable[T]) -> Iterator[T]:
        """Yield items; the time that they take to be made goes to a phase, and not to the one around it.

        On accelerators that is the time to ask for the work, which the device may do later.
        """
        made = iter(items)
        while True:
            start = time.perf_counter()
            try:
                item = next(made)
            except StopIteration:
                return
            finally:
                spent = time.perf_counter() - start
                self._seconds[name] += spent
                if self._open:
                    self._seconds[self._open[-1]] -= spent
            yield item


class Pace:
    """Seconds per generation and the time that is left, from the first member on."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=10)  # of the latest generations, what is between included
        self._since: float | None = None
        self._ended = 0
        self.share = 0.0
        """Share of the present generation's members that are done."""

    def begin(self, now: float) -> None:
        """Begin a generation; the time since the end of the one before counts as a part of it."""
        self._since, self.share = now if self._since is None else self._since, 0.0

    def end(self, now: float, counts: bool = True) -> float:
        """End a generation; returns its seconds.

        Args:
            now: the time, in seconds.
            counts: false for a generation that was taken from the journal, which takes next to no time.
        """
        seconds = now - (now if self._since is None else self._since)
        if counts:
            if self._ended == 1:
                self._seconds.clear()  # the first generation of a process also compiles and warms up
            self._seconds.append(seconds)
            self._ended += 1
        self._since, self.share = now, 0.0
        return seconds

    def per_generation(self, now: float) -> float | None:
        """Mean seconds of the latest generations, or what the first one's members so far promise."""
        if self._seconds:
            return sum(self._seconds) / len(self._seconds)
        return (now - self._since) / self.share if self._since is not None and self.share else None

    def left(self, generations: float, now: float) -> float | None:
        """Seconds for a number of generations, of which the present one is the first."""
        each = self.per_generation(now)
        if each is None:
            return None
        spent = 0.0 if self._since is None else now - self._since
        return max(0.0, each * generations - min(spent, each))
