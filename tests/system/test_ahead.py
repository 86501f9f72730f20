"""Items made ahead by a thread: in order, one ahead, with its errors, and to the end whoever stops early."""

import threading
import time
from collections.abc import Iterator

import pytest

from es_lightning.system.ahead import ahead


def test_items_come_in_order_and_one_is_made_while_another_is_in_use() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for index in range(5):
            made.append(index)
            yield index

    stream = ahead(items())
    assert made == [], "nothing is made before the first is asked for"
    assert next(stream) == 0
    wait_until(lambda: len(made) >= 2)
    time.sleep(0.05)
    assert len(made) <= 3, "one waits to be taken, and the next one stands behind it"
    assert list(stream) == [1, 2, 3, 4]


def test_an_error_of_the_thread_is_raised_where_the_item_would_be() -> None:
    def items() -> Iterator[int]:
        yield 0
        raise KeyError("gone")

    stream = ahead(items())
    assert next(stream) == 0
    with pytest.raises(KeyError, match="gone"):
        next(stream)


def test_all_items_are_made_though_nobody_takes_them() -> None:
    """Other ranks wait for them."""
    done = threading.Event()

    def items() -> Iterator[int]:
        yield from range(10)
        done.set()

    stream = ahead(items())
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert done.wait(5)


def wait_until(condition: object) -> None:
    deadline = time.monotonic() + 5
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.005)
