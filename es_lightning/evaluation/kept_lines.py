"""What a long measurement has found so far, line by line on disk, so that a run that was killed repeats none
of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from es_lightning.distributed.ranks import Ranks
from es_lightning.errors import UsageError
from es_lightning.system.files import Lines, read_lines, to_json, unreadable

FORMAT = 1


class KeptLines:
    """A file of JSON lines that grows result by result, below a header with the settings that they hold for.

    All ranks have to make one at the same time. The first of them reads and writes, and tells the others.

    Args:
        path: the file; it is made with the first result.
        key: first name of the header, ``es_lightning_`` and what the file is of: ``es_lightning_scan``.
        settings: what decides the results, in plain JSON.
        is_row: whether a line of JSON is a result.
        ranks: the ranks of the measurement.

    Raises:
        UsageError: the file has other settings, is damaged, or is another kind of file.
    """

    def __init__(
        self,
        path: Path,
        key: str,
        settings: Mapping[str, Any],
        is_row: Callable[[Any], bool],
        ranks: Ranks,
    ) -> None:
        self.key, self._is_row, self._ranks = key, is_row, ranks
        self._header = to_json({key: FORMAT, **settings})
        lines = self._on_all_ranks(lambda: self._checked(path, "--output") or [self._header])[1:]
        self.rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
        self._path, self._before = path, [self._header, *lines]
        self._file: Lines | None = None

    def borrowed(self, path: Path, option: str, free: str) -> list[dict[str, Any]]:
        """Return the results of another file, whose settings may differ in one of them; none is kept.

        All ranks have to call it.

        Args:
            path: the other file.
            option: of the command line that has named it.
            free: name of the setting that may differ.

        Raises:
            UsageError: it is not there, has other settings, is damaged, or is another kind of file.
        """

        def read() -> list[str]:
            lines = self._checked(path, option, free)
            if not lines:
                raise UsageError(f"{path} holds no {self._what}: give another {option}.")
            return lines

        return [json.loads(line) for line in self._on_all_ranks(read)[1:]]

    @property
    def _what(self) -> str:
        return self.key.removeprefix("es_lightning_")

    def _on_all_ranks(self, read: Callable[[], list[str]]) -> list[str]:
        """Return what the first rank reads, or raise its refusal."""
        lines, refusal = list[str](), ""
        if self._ranks.rank == 0:
            try:
                lines = read()
            except UsageError as error:
                refusal = str(error)  # raised after the exchange: the other ranks wait for this one
        told = json.loads(self._ranks.from_first(json.dumps([lines, refusal]).encode()))
        if told[1]:
            raise UsageError(told[1])
        found: list[str] = told[0]
        return found

    def _checked(self, path: Path, option: str, free: str = "") -> list[str]:
        """Return the lines of a file, its header among them; none if there is no file."""
        if reason := unreadable(path):
            raise UsageError(f"{path} {reason}, and holds no {self._what}: give another {option}.")
        lines = read_lines(path)
        if not lines:
            return []
        was, now = _read(lines[0]), json.loads(self._header)
        if not isinstance(was, dict) or was.get(self.key) != FORMAT:
            raise UsageError(f"{path} holds no {self._what}: give another {option}.")
        for name in dict.fromkeys([*was, *now]):
            if name != free and was.get(name) != now.get(name):
                raise UsageError(
                    f"{path} holds {_article(self._what)} {self._what} with other settings: {name} was "
                    f"{_short(was.get(name))} and is {_short(now.get(name))}. Give another {option}, or the "
                    "old value."
                )
        for number, line in enumerate(lines[1:], start=2):
            if not self._is_row(_read(line)):
                raise UsageError(
                    f"{path} is damaged in line {number}: remove that line, or give another {option}."
                )
        return lines

    def add(self, row: Mapping[str, Any]) -> None:
        """Keep a result; it is on disk before this returns.

        Raises:
            StorageError: the disk is full or the file cannot be written.
        """
        self.rows.append(dict(row))
        if self._ranks.rank == 0:
            self._file = self._file or Lines(self._path, self._before)
            self._file.append(to_json(row))


def _read(line: str) -> Any:
    """Read a line of JSON; None if it is none."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
