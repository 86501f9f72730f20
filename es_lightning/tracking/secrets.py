"""Passwords and tokens in addresses: nothing that a run writes or says shows them."""

from __future__ import annotations

import re

HIDDEN = "***"
# User and password of an address: up to the last @ before the path, since a password may hold one itself. A
# password may even hold a slash; a number behind the colon is a port, and what follows it is the path.
_USER = r"(?<=:)//(?!git@)(?:[^/\s]*@|[^/\s:]*:(?!\d+(?:[/?\s]|$))\S*@)"
_QUERY = (
    r"(?i)([?&;](?:sig|[\w.-]*(?:token|passw|pwd|secret|key|credential|signature|auth)[\w.-]*)=)[^&;#\s'\"]*"
)


def without_password(message: object) -> str:
    """Return the first 200 characters of a message on one line, without a secret in any address."""
    line = re.sub(_USER, "//", " ".join(str(message).split()))
    return re.sub(_QUERY, rf"\1{HIDDEN}", line)[:200]


def masked(text: str) -> str:
    """Return a text in which ``***`` stands for user and password, and for tokens, in every address."""
    return re.sub(_QUERY, rf"\1{HIDDEN}", re.sub(_USER, f"//{HIDDEN}@", text))


def is_masked(address: str) -> bool:
    """Tell whether an address has lost its secrets to ``masked``."""
    return f"//{HIDDEN}@" in address or f"={HIDDEN}" in address


def root_cause(error: BaseException) -> str:
    """Return the innermost cause of an error that libraries have wrapped, on one line."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return without_password(error) or type(error).__name__
