"""Files that survive a crash: they are replaced as a whole, or grow line by line."""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from es_lightning.errors import StorageError
from es_lightning.system.going_on import how_to_go_on

log = logging.getLogger(__name__)

_JOURNAL_START = b'{"es_lightning_journal":'  # what ``to_json`` writes of a header
_ZIP_START = b"PK\x03\x04"  # torch saves archives


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a binary file that replaces ``path`` once all of it is on disk; a failure changes nothing.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    scratch = path.with_name(path.name + ".part")
    with _storage_errors(path, f"what {path.name} held before is intact"):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with scratch.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            scratch.replace(path)
            _sync_folder(path.parent)  # the new name, too, has to be on disk
        finally:
            scratch.unlink(missing_ok=True)


def read_lines(path: Path) -> list[str]:
    """Return the complete lines of a file; drop a torn last one, left by a crash, with a warning."""
    if not path.exists():
        return []
    *lines, rest = path.read_text(encoding="utf-8", errors="replace").split("\n")
    if rest:
        log.warning("%s: the last line is torn, as a crash leaves it, and is dropped.", path)
    return lines


def unreadable(path: Path) -> str:
    """Say why a path leads to no file of text, in words that follow its name; empty if it leads to one.

    A path that leads nowhere is no reason.
    """
    if path.is_dir():
        return "is a folder"
    if path.exists() and not path.is_file():  # reading a pipe could wait for ever
        return "is no file"
    try:
        return "is a checkpoint or an archive" if first_bytes(path, 4) == _ZIP_START else ""
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"is a file that cannot be read ({error.strerror})"


def is_journal(path: Path) -> bool:
    """Tell from its first bytes whether a file is a run's journal."""
    return first_bytes(path, len(_JOURNAL_START)) == _JOURNAL_START


def first_bytes(path: Path, count: int) -> bytes:
    """Return the first bytes of a file."""
    with path.open("rb") as file:
        return file.read(count)


class Lines:
    """A file of JSON lines; each is on disk before ``append`` returns.

    Args:
        path: the file; ``lines`` replace what it held.
        lines: its first lines, without line breaks.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """

    def __init__(self, path: Path, lines: list[str]) -> None:
        self.path = path
        with replacing(path) as file:
            file.write("".join(f"{line}\n" for line in lines).encode())

    def append(self, line: str) -> None:
        """Write one line and wait until it is on disk.

        Raises:
            StorageError: the disk is full or the file cannot be written.
        """
        with _storage_errors(self.path, "what it held is safe"), self.path.open("ab") as file:
            file.write(f"{line}\n".encode())
            file.flush()
            os.fsync(file.fileno())


def to_json(values: Any) -> str:
    """Return one compact line of JSON; floats keep every bit.

    Raises:
        ValueError: a float is not finite.
    """
    return json.dumps(values, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


@contextmanager
def _storage_errors(path: Path, comfort: str) -> Iterator[None]:
    """Turn an OSError into a ``StorageError``, whose message says in ``comfort`` what is still safe."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{path} could not be written ({error.strerror or error}); {comfort}. Free space or mend the "
            f"folder's permissions, then {how_to_go_on()}."
        ) from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
