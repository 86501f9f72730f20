"""A bound on a library's work."""

import sys
import threading

import pytest

from es_lightning.system.steps import OutOfStepsError, Steps


def endless() -> None:
    while True:
        try:
            len("")
        except Exception:  # libraries do so, too
            continue


def count_to(number: int) -> int:
    return sum(1 for _ in range(number))


def test_what_never_ends_is_ended_and_what_ends_is_not():
    with pytest.raises(OutOfStepsError), Steps(1_000):
        endless()
    with Steps(1_000):
        assert count_to(10) == 10
    assert sys.getprofile() is None


def test_blocks_share_the_steps():
    steps = Steps(1_000)
    for _ in range(4):
        with steps:
            count_to(20)
    assert steps.left < 1_000 - 4 * 20
    with pytest.raises(OutOfStepsError), steps:
        count_to(1_000)
    with pytest.raises(OutOfStepsError), steps:
        pytest.fail("there were none left")


def test_it_works_in_other_threads_and_counts_the_same():
    left = []

    def work() -> None:
        steps = Steps(10_000)
        with steps:
            count_to(100)
        left.append(steps.left)

    for _ in range(2):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert left[0] == left[1] < 10_000


def test_an_outer_profiler_goes_on():
    seen = []
    sys.setprofile(lambda frame, event, argument: seen.append(event))
    try:
        with Steps(1_000):
            pass
        before = len(seen)
        count_to(3)
    finally:
        sys.setprofile(None)
    assert len(seen) > before
