"""A database of MLflow, made once: its migrations take longer than most tests of a logger."""

import pytest
from mlflow.tracking import MlflowClient


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A database as MLflow makes it, with nothing in it yet."""
    path = tmp_path_factory.mktemp("whole") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}")
    return path.read_bytes()
