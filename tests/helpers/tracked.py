"""MLflow in tests."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import mlflow


@contextmanager
def no_trace() -> Iterator[None]:
    """Lightning's logger names its server to the whole process and its children; take that back."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    yield
    mlflow.set_tracking_uri(before)
    if before is None:
        os.environ.pop("MLFLOW_TRACKING_URI", None)
