"""Seconds by phase: each second belongs to one phase, unless one was opened around it."""

import time
from collections.abc import Iterator

import pytest

from es_lightning.system.stopwatch import Stopwatch


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
    """A stopwatch whose clock moves only where ``passes`` is called."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    found = Stopwatch()
    found.passes = lambda seconds: now.__setitem__(0, now[0] + seconds)  # type: ignore[attr-defined]
    return found


def test_what_items_take_to_be_made_is_no_part_of_the_phase_around(watch: Stopwatch) -> None:
    def items() -> Iterator[int]:
        for item in range(3):
            watch.passes(2.0)  # type: ignore[attr-defined]
            yield item
        watch.passes(0.5)  # type: ignore[attr-defined]

    with watch.phase("total"), watch.phase("load"):
        for _ in watch.each("perturb", items()):
            watch.passes(1.0)  # type: ignore[attr-defined]
    assert watch.seconds == {"perturb": 6.5, "load": 3.0, "total": 9.5}


def test_items_that_fail_leave_their_seconds(watch: Stopwatch) -> None:
    def items() -> Iterator[int]:
        yield 0
        watch.passes(2.0)  # type: ignore[attr-defined]
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"), watch.phase("load"):
        list(watch.each("perturb", items()))
    assert watch.seconds == {"perturb": 2.0, "load": 0.0}
