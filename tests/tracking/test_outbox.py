"""What is shown and saved of an address: never its password."""

import pytest

from es_lightning.tracking.secrets import is_masked, masked, without_password


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("http://user:secret@host:5000/path", "http://host:5000/path"),
        ("http://user:s@cr@t@host", "http://host"),
        ("postgresql://user:secret@host/base\n is   away", "postgresql://host/base is away"),
        ("http://host/of@somebody", "http://host/of@somebody"),
        ("sqlite:///mlflow.db", "sqlite:///mlflow.db"),
        ("postgresql://user:se/cr@et@host/base", "postgresql://host/base"),
        ("http://host:5000/of@somebody", "http://host:5000/of@somebody"),
        ("http://host/x?token=abc&a=1&api_key=d", "http://host/x?token=***&a=1&api_key=***"),
        ("git+ssh://git@host/x", "git+ssh://git@host/x"),
        ("two: http://a:b@c and http://d:e@f", "two: http://c and http://f"),
    ],
)
def test_a_password_is_not_shown(message: str, shown: str) -> None:
    assert without_password(message) == shown


@pytest.mark.parametrize(
    ("text", "saved"),
    [
        ("uri: http://user:secret@host:5000/path\nnext: 1\n", "uri: http://***@host:5000/path\nnext: 1\n"),
        ("{'uri': 'postgresql://u:s/e@c@host/b'}", "{'uri': 'postgresql://***@host/b'}"),
        ('{"uri": "https://token@host?a=1&password=x"}', '{"uri": "https://***@host?a=1&password=***"}'),
        (
            "base: org/model@main\nuri: sqlite:///dir:x/a@b.db",
            "base: org/model@main\nuri: sqlite:///dir:x/a@b.db",
        ),
        ("a: 'http://host:80'\nb: x@y", "a: 'http://host:80'\nb: x@y"),
    ],
)
def test_a_text_is_saved_without_secrets(text: str, saved: str) -> None:
    assert masked(text) == saved
    assert is_masked(saved) == (text != saved)
