"""What a run tells of its progress while it works: to a progress bar, or to whoever listens."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """How far the evaluation of a population has come on this rank.

    Args:
        members: members whose completions are generated.
        total: members that this rank evaluates; with several lanes, its lane's share of the population.
        graded: completions that have been graded.
        completions: completions that these members will have in all.
        lanes: number of lanes among which the population is divided.
    """

    members: int
    total: int
    graded: int
    completions: int
    lanes: int = 1


@dataclass(frozen=True)
class Stage:
    """Something slow that has begun or ended, such as the start of the engine.

    Args:
        name: what is being done, as in "starting the engine".
        seconds: how long it took; None if it has only begun.
    """

    name: str
    seconds: float | None = None


Listener = Callable[[Progress | Stage], None]


class Announcer:
    """Passes progress on to listeners, in the thread that makes it; without listeners it costs nothing.

    Example::

        module.rollouts.announcer.listen(print)
    """

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    def __reduce__(self) -> tuple[type[Announcer], tuple[()]]:
        """A copy has no listeners: these belong to the original, such as the progress bar to its run."""
        return Announcer, ()

    def listen(self, listener: Listener) -> None:
        """Add a listener, unless it listens already."""
        if listener not in self._listeners:
            self._listeners.append(listener)

    def leave(self, listener: Listener) -> None:
        """Remove a listener, if it listens."""
        if listener in self._listeners:
            self._listeners.remove(listener)

    def tell(self, event: Progress | Stage) -> None:
        """Pass an event on."""
        for listener in self._listeners:
            listener(event)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Tell when a ``with`` block begins, and when it has ended well and how long it took."""
        start = time.perf_counter()
        self.tell(Stage(name))
        yield
        self.tell(Stage(name, time.perf_counter() - start))
