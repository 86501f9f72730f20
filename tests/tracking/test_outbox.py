"""What is shown of an address: never its password."""

import pytest

from es_lightning.tracking.outbox import without_password


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("http://user:secret@host:5000/path", "http://host:5000/path"),
        ("http://user:s@cr@t@host", "http://host"),
        ("postgresql://user:secret@host/base\n is   away", "postgresql://host/base is away"),
        ("http://host/of@somebody", "http://host/of@somebody"),
        ("sqlite:///mlflow.db", "sqlite:///mlflow.db"),
        ("two: http://a:b@c and http://d:e@f", "two: http://c and http://f"),
    ],
)
def test_a_password_is_not_shown(message: str, shown: str) -> None:
    assert without_password(message) == shown
