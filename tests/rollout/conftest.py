"""Fixtures of tests that start an engine."""

import os
from collections.abc import Iterator

import pytest


@pytest.fixture
def environment() -> Iterator[None]:
    """What vLLM sets while it starts is gone afterwards."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
