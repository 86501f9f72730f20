"""Tasks whose problems are rows of a data set: read once, and divided so that no problem is in two splits."""

import hashlib
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from es_lightning.errors import UsageError
from es_lightning.records import Prompt
from es_lightning.task import Task
from es_lightning.tasks.datasets.sources import SPLITS, UNKNOWN, Row, Source, read_rows


class RowTask(Task):
    """Base class of the tasks whose problems are rows of a data set.

    A subclass defines ``key`` (the text that identifies a problem), ``prompt`` (how a row becomes a prompt)
    and the reward.

    Some rows name no split, and some data sets have no val split. Then a hash of the row's ``family``
    decides, so a row stays in its split when other rows come or go, and rows of one family stay together. A
    tenth of the rows that could be train is val. Of the rows without any split, another tenth is test. A
    problem that occurs twice is kept once: in test rather than val, and in val rather than train. A limit
    (``n_train`` and so on) takes rows from all over the data and keeps their order; a larger limit takes the
    same rows and more.

    Args:
        data: where the rows are; see ``es_lightning.tasks.datasets.sources.read_rows``.
        source: the data set that the task knows by name, if any.
        n_train: training problems used; None takes all.
        n_val: the same for validation.
        n_test: the same for the test.
    """

    def __init__(
        self,
        data: str | None,
        source: Source | None = None,
        n_train: int | None = None,
        n_val: int | None = None,
        n_test: int | None = None,
    ) -> None:
        self.data, self.source = data, source
        self.limits = {"train": n_train, "val": n_val, "test": n_test}
        for split, limit in self.limits.items():
            if limit is not None and limit < 0:
                raise UsageError(f"n_{split} is {limit}: give 0 or more, or null for all.")
        self._prompts: dict[str, list[Prompt]] | None = None

    @abstractmethod
    def key(self, row: Row) -> str:
        """Return the text that identifies a problem: rows with the same text are the same problem."""

    def family(self, row: Row) -> str:
        """Return a text whose rows all go to the same split, where the data leaves a choice."""
        return self.key(row)

    @abstractmethod
    def prompt(self, row: Row, name: str) -> Prompt:
        """Make the prompt of a row.

        Args:
            row: the row as it was read.
            name: the prompt's id.
        """

    def keep(self, row: Row, split: str) -> bool:
        """Whether a row is used in a split."""
        return True

    def problems(self, split: str) -> list[Prompt]:
        """Return the problems of ``train``, ``val`` or ``test``, in the order of the data.

        Raises:
            UsageError: the split is none of the three, or the data cannot be read.
        """
        if split not in SPLITS:
            raise UsageError(f"split must be train, val or test, not {split!r}.")
        if self._prompts is None:
            rows = self._divided(read_rows(self.data, self.source))
            self._prompts = {part: self._made(self._limited(rows[part], part), part) for part in SPLITS}
        return self._prompts[split]

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the problems: a grading process is sent each prompt that it grades."""
        return {**vars(self), "_prompts": None}

    def _divided(self, by_split: Mapping[str, list[Row]]) -> dict[str, list[Row]]:
        """Assign the rows to splits, each problem once."""
        divided: dict[str, list[Row]] = {split: [] for split in SPLITS}
        # In this order, since the first of equal rows is kept.
        rows = [
            (split, row) for split in ("test", "val", "train", UNKNOWN) for row in by_split.get(split, [])
        ]
        seen: set[str] = set()
        for split, row in rows:
            key = _folded(self._read(self.key, row))
            if key not in seen:
                seen.add(key)
                place = _place(split, _folded(self._read(self.family, row)), has_val="val" in by_split)
                if self._read(self.keep, row, place):
                    divided[place].append(row)
        return divided

    def _limited(self, rows: list[Row], split: str) -> list[Row]:
        """Choose as many rows as asked for, by a hash: in a sorted data set, the first are of one kind."""
        limit = self.limits[split]
        if limit is None or limit >= len(rows):
            return rows
        # "chosen" makes this hash independent of the one that decides the split.
        order = sorted(range(len(rows)), key=lambda i: _digest(f"chosen {_folded(self.key(rows[i]))}"))
        return [rows[i] for i in sorted(order[:limit])]

    def _made(self, rows: list[Row], split: str) -> list[Prompt]:
        name = self.name.lower()
        return [self._read(self.prompt, row, f"{name}/{split}/{i}") for i, row in enumerate(rows)]

    def _read(self, reader: Any, row: Row, *more: str) -> Any:
        """Apply a method to a row; if the row has another format, raise a UsageError that shows it."""
        try:
            return reader(row, *more)
        except UsageError:
            raise
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            shown = str(row) if len(str(row)) <= 200 else f"{str(row)[:200]}..."
            raise UsageError(
                f"task {self.name} cannot read the row {shown} ({type(error).__name__}: {error}); compare it "
                "with the row format in the task's docstring."
            ) from None


def _folded(text: str) -> str:
    """Remove differences in case and white space."""
    return " ".join(text.casefold().split())


def _digest(text: str) -> bytes:
    # Text from JSON may hold lone surrogates, which UTF-8 cannot encode.
    return hashlib.sha256(text.encode(errors="replace")).digest()


def _place(split: str, family: str, has_val: bool) -> str:
    """Return the split that a problem belongs to, whatever other rows there are."""
    tenth = _digest(family)[0] % 10
    if split == UNKNOWN:
        return {0: "val", 1: "test"}.get(tenth, "train")
    return "val" if split == "train" and not has_val and tenth == 0 else split
