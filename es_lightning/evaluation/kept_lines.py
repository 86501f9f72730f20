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
        path: the file; it is made.
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
        self.path, self.key, self._is_row = path, key, is_row
        header, lines, refusal = to_json({key: FORMAT, **settings}), list[str](), ""
        if ranks.rank == 0:
            try:
                lines = self._restored(header)
            except UsageError as error:
                refusal = str(error)  # raised after the exchange: the other ranks wait for this one
        told = json.loads(ranks.exchange(json.dumps([lines, refusal]).encode())[0])
        if told[1]:
            raise UsageError(told[1])
        self.rows: list[dict[str, Any]] = [json.loads(line) for line in told[0]]
        self._file = Lines(path, [header, *lines]) if ranks.rank == 0 else None

    def _restored(self, header: str) -> list[str]:
        """Return the lines of the results that the file has."""
        what = self.key.removeprefix("es_lightning_")
        if reason := unreadable(self.path):
            raise UsageError(f"{self.path} {reason}, and holds no {what}: give another --output.")
        before, *lines = read_lines(self.path) or [header]
        was, now = _read(before), json.loads(header)
        if not isinstance(was, dict) or was.get(self.key) != FORMAT:
            raise UsageError(f"{self.path} holds no {what}: give another --output.")
        for name in dict.fromkeys([*was, *now]):
            if was.get(name) != now.get(name):
                raise UsageError(
                    f"{self.path} holds {_article(what)} {what} with other settings: {name} was "
                    f"{_short(was.get(name))} and is {_short(now.get(name))}. Give another --output, or the "
                    "old value."
                )
        for number, line in enumerate(lines, start=2):
            if not self._is_row(_read(line)):
                raise UsageError(
                    f"{self.path} is damaged in line {number}: remove that line, or give another --output."
                )
        return lines

    def add(self, row: Mapping[str, Any]) -> None:
        """Keep a result; it is on disk before this returns.

        Raises:
            StorageError: the disk is full or the file cannot be written.
        """
        self.rows.append(dict(row))
        if self._file is not None:
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
