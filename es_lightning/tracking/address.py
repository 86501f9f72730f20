"""Where MLflow is: whether its address can be used at all, found out before MLflow tries for minutes."""

from __future__ import annotations

import difflib
import fcntl
import logging
import os
import re
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from es_lightning.errors import UsageError
from es_lightning.tracking.secrets import is_masked, root_cause, without_password

_SQLITE = re.compile(r"(sqlite(?:\+\w+)?:///)([^?]+)(.*)", re.DOTALL)
_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_SECONDS = 10  # for a database's server to answer

T = TypeVar("T")

log = logging.getLogger(__name__)


class Busy(OSError):
    """Another process has locked the database."""


def complete(address: str) -> str:
    """Return an address with its secrets, and with an absolute path if it is a database's file.

    A saved configuration has an address without its secrets; then MLFLOW_TRACKING_URI gives the whole of it.
    MLflow locks a new database under its address, so one address must not mean another file elsewhere.

    Args:
        address: what MLflow calls a tracking URI.

    Raises:
        UsageError: its secrets are hidden, and MLFLOW_TRACKING_URI is no such address.
    """
    if is_masked(address):
        whole = os.environ.get("MLFLOW_TRACKING_URI", "")
        if without_password(whole) != without_password(address):
            raise UsageError(
                f"tracking_uri is {address}, whose secrets were hidden when the configuration was saved: set "
                "MLFLOW_TRACKING_URI to the whole address, or give it by "
                "--trainer.logger.init_args.tracking_uri."
            )
        return whole
    found = _SQLITE.fullmatch(address)
    if found is None or _in_memory(found[2]):
        return address
    return f"{found[1]}{Path(found[2]).absolute()}{found[3]}"


def check(address: str) -> None:
    """Make sure that a database's file can be written, or that its server listens.

    MLflow itself tries again for a minute whatever is wrong. Other addresses are MLflow's to check.

    Args:
        address: what MLflow calls a tracking URI.

    Raises:
        Busy: another process has locked it.
        OSError: its server does not listen.
        sqlite3.Error: it is no database, or cannot be written.
    """
    found = _SQLITE.fullmatch(address)
    if found is None:
        return _check_server(address)
    if _in_memory(found[2]):
        return None
    with closing(sqlite3.connect(Path(found[2]), timeout=0.1, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
            [version] = connection.execute("PRAGMA user_version").fetchone()
            connection.execute(
                f"PRAGMA user_version = {version:d}"
            )  # begins to write: a full disk shows here
            connection.execute("ROLLBACK")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise Busy("another process has locked the database") from None
            raise
    return None


def _check_server(address: str) -> None:
    parts = urlsplit(address)
    port = _PORTS.get(parts.scheme.partition("+")[0])
    if port and parts.hostname:
        socket.create_connection((parts.hostname, parts.port or port), _SECONDS).close()


def when_free(open_: Callable[[], T], shown: str, seconds: float) -> T:
    """Open a database, and wait while another process has locked it.

    Args:
        open_: opens it, or raises ``Busy``.
        shown: its address in messages.
        seconds: how long to wait.

    Raises:
        Busy: it is still locked.
    """
    end, told = time.monotonic() + seconds, False
    while True:
        try:
            return open_()
        except Busy:
            if time.monotonic() >= end:
                raise
        if not told:
            log.info("Another process has locked %s: waiting for it, at most %.0f s.", shown, seconds)
            told = True
        time.sleep(0.2)


@contextmanager
def alone(address: str) -> Iterator[None]:
    """Let one process after the other open a database's file: MLflow would make a new one's tables twice.

    Args:
        address: what MLflow calls a tracking URI.
    """
    found = _SQLITE.fullmatch(address)
    if found is None or _in_memory(found[2]):
        yield
        return
    folder = Path(found[2]).parent
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system that has no locks for folders
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def refusal(address: str, error: Exception) -> str:
    """Say in one sentence why MLflow cannot be used, and what to do.

    Args:
        address: what MLflow calls a tracking URI.
        error: what MLflow, its database or its server said.
    """
    shown = without_password(address)
    cause, advice = _cause_and_advice(shown, error)
    return (
        f"MLflow at {shown} cannot be used ({cause}): {advice}, name another one with MLFLOW_TRACKING_URI or "
        "the logger's tracking_uri, or go without by --trainer.logger false."
    )


def deleted(receiver: str, name: str, experiment_id: str) -> UsageError:
    """Return the refusal of an experiment that was deleted, with what to do."""
    return UsageError(
        f"{receiver} has deleted the experiment {name}: choose another experiment_name for the logger, or "
        f"take it back by 'mlflow experiments restore --experiment-id {experiment_id}'."
    )


def _cause_and_advice(shown: str, error: Exception) -> tuple[str, str]:
    schemes = getattr(error, "supported_uri_schemes", None)
    if schemes is not None:
        return _unknown_scheme(shown, [scheme for scheme in schemes if scheme])
    cause = root_cause(error)
    versions = re.search(
        r"found version (\w+), but expected (\w+)|Can't locate revision .*?'(\w+)'", str(error)
    )
    if versions:
        cause = f"another version of MLflow made its tables, {versions[1] or versions[3]}"
        return cause, f"copy it and run 'mlflow db upgrade {shown}', or install the MLflow that made it"
    if isinstance(error, sqlite3.Error) and error.sqlite_errorcode & 0xFF in (
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_CORRUPT,
    ):
        return cause, "move that file away"
    if isinstance(error, sqlite3.Error | OSError) and shown.startswith("sqlite"):
        return cause, "free space or mend the permissions there"
    return cause, "start it"


def _unknown_scheme(shown: str, schemes: list[str]) -> tuple[str, str]:
    scheme, colon, rest = shown.partition(":")
    known = f"it knows {', '.join(schemes)}"
    nearest = difflib.get_close_matches(scheme, schemes, n=1)
    if nearest:
        return f"{scheme} is no kind of address; {known}", f"write {nearest[0]}:{rest}"
    if colon and rest.split("/")[0].isdigit():  # a host and its port
        return f"its address lacks http://; {known}", f"write http://{shown}"
    return f"{scheme} is no kind of address; {known}", "mend the address"


def _in_memory(path: str) -> bool:
    return path == ":memory:" or path.startswith("file:")
