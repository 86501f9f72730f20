"""Files that survive a crash: replaced as a whole, or grown line by line."""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from es_lightning.errors import StorageError

log = logging.getLogger(__name__)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A binary file that takes the place of ``path`` once all of it is on disk; if anything fails, nothing
    has changed.

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
            _sync_folder(path.parent)
        finally:
            scratch.unlink(missing_ok=True)


def read_lines(path: Path) -> list[str]:
    """The complete lines of a file; a torn last one, left by a crash, is dropped with a warning."""
    if not path.exists():
        return []
    *lines, rest = path.read_text(encoding="utf-8", errors="replace").split("\n")
    if rest:
        log.warning("%s: the last line is torn, as a crash leaves it, and is dropped.", path)
    return lines


class Lines:
    """A file of JSON lines; each is on disk before ``append`` returns.

    Args:
        path: the file; what it held is replaced by ``lines``.
        lines: its first lines, without line ends.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """

    def __init__(self, path: Path, lines: list[str]) -> None:
        self.path = path
        with replacing(path) as file:
            file.write("".join(f"{line}\n" for line in lines).encode())

    def append(self, line: str) -> None:
        """Write one line and wait until it is on disk."""
        with _storage_errors(self.path, "what it held is safe"), self.path.open("ab") as file:
            file.write(f"{line}\n".encode())
            file.flush()
            os.fsync(file.fileno())


def to_json(values: Any) -> str:
    """One line of JSON, as short as it gets; floats keep every bit, and must be finite."""
    return json.dumps(values, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


@contextmanager
def _storage_errors(path: Path, comfort: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{path} could not be written ({error.strerror or error}); {comfort}. Free space or mend the "
            "folder's permissions, then resume with --ckpt_path last."
        ) from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
