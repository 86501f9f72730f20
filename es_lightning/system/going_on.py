"""How the command that runs goes on after an error: errors from deep inside tell the user.

A fit is resumed, a baseline begins anew, and the other commands go on when they are given again. The layers
that fail know nothing of commands, so the command line says it once, for the whole process.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

RESUME = "resume with --ckpt_path last"
AGAIN = "give the command again"
ANEW = "give the command again, with --overwrite true"


class _Way:
    """What the user has to do; a plain attribute, since threads of the grading pool read it, too."""

    words = RESUME


def how_to_go_on() -> str:
    """Return what the user has to do once the cause of an error is gone: half a sentence, in lower case."""
    return _Way.words


@contextmanager
def going_on_by(words: str) -> Iterator[None]:
    """Let errors within a ``with`` block advise something else than to resume a fit.

    Args:
        words: half a sentence, in lower case, such as ``AGAIN``.
    """
    before, _Way.words = _Way.words, words
    try:
        yield
    finally:
        _Way.words = before
