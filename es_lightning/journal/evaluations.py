"""evaluations.jsonl: every evaluation of a run's centre, or of a baseline's policy, prompt by prompt.

It grows by one line per evaluation: validations, and the held-out evaluations before and after.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from es_lightning.errors import UsageError
from es_lightning.journal.schema import evaluation_fault, from_json, without_torn_end
from es_lightning.records import Costs
from es_lightning.system.files import Lines, read_lines, to_json, unreadable

EVALUATIONS = "evaluations.jsonl"

_MENDING = "Take a copy of it, such as MLflow keeps, or move it away: a resumed run then writes a new one."


@dataclass(frozen=True)
class Sample:
    """A prompt with what was made of it.

    Args:
        prompt: the user's message, or the raw text.
        completion: the new text.
        reward: of that completion.
    """

    prompt: str
    completion: str
    reward: float


@dataclass(frozen=True)
class RecordedEvaluation:
    """One line of evaluations.jsonl.

    Args:
        step: generations, or updates, that the run had done.
        split: ``val`` or ``test``.
        prompts: ids of P problems.
        rewards: P rewards; higher is better.
        scores: mean over the completions of each number that the task's reward returned, ``reward`` among
            them, and of the completions' lengths.
        tokens: tokens that this evaluation has generated.
        cost: what training had used until then; evaluations are not in it.
        samples: the first prompts with their first completions.
        centre: checksum of the weights that were evaluated; empty if the writer gave none.
        solved: of each problem the share of its samples that the task's ``accuracy`` calls right; empty if
            the task has none, or its marks are not 0 and 1.
    """

    step: int
    split: str
    prompts: tuple[str, ...]
    rewards: tuple[float, ...]
    scores: Mapping[str, float]
    tokens: int
    cost: Costs
    samples: tuple[Sample, ...]
    centre: str = ""
    solved: tuple[float, ...] = ()

    @property
    def key(self) -> tuple[int, str, str]:
        """What makes two evaluations the same: step, split and weights."""
        return self.step, self.split, self.centre

    def line(self) -> str:
        """Write the evaluation as one line of JSON."""
        return to_json(asdict(self))

    @classmethod
    def parse(cls, line: str) -> RecordedEvaluation:
        """Parse a line that ``line`` wrote.

        Raises:
            ValueError: the line is no evaluation.
        """
        values = from_json(line)
        if wrong := evaluation_fault(values):
            raise ValueError(f"it {wrong}")
        lists = ("prompts", "rewards", "solved")
        values |= {name: tuple(values[name]) for name in lists if name in values}
        values["cost"] = Costs(**values["cost"])
        values["samples"] = tuple(Sample(**sample) for sample in values["samples"])
        return cls(**{name: values[name] for name in cls.__dataclass_fields__ if name in values})


def read_evaluations(folder: Path) -> list[RecordedEvaluation]:
    """Read the evaluations of a fit or a baseline, in the order in which they were made.

    What a crash left at the file's end is dropped with a warning.

    Args:
        folder: of the run.

    Raises:
        UsageError: there is no such file, or it is damaged; the message names its line.
    """
    path = folder / EVALUATIONS
    if not path.exists():
        raise UsageError(
            f"there is no {EVALUATIONS} in {folder}: give the folder of a fit or a baseline. Runs of "
            "version 0.1.0 have none."
        )
    return _read(path)


class RunEvaluations:
    """The evaluations of a run in progress; each is on disk before the run goes on.

    An evaluation that is there already, of the same weights at the same step, is not added again: a resumed
    run repeats some. All ranks hold the rows, and rank 0 writes the file.
    """

    def __init__(self) -> None:
        self.rows: list[RecordedEvaluation] = []
        self.saved: Sequence[str] = ()
        """Lines from a checkpoint."""
        self._file: Lines | None = None

    @property
    def lines(self) -> list[str]:
        """The rows so far, as lines of JSON."""
        return [row.line() for row in self.rows]

    def open(self, folder: Path, steps: int, resumes: bool, writes: bool) -> None:
        """Begin the file, or go on with it; rows that were added before this call are in it.

        Args:
            folder: the run's.
            steps: generations that the journal holds. Later evaluations in the file are of centres that are
                lost, and are dropped.
            resumes: whether the run goes on; if not, an older file is replaced.
            writes: whether this rank writes the file.

        Raises:
            UsageError: the file is damaged.
            StorageError: the disk is full or the folder cannot be written.
        """
        path = folder / EVALUATIONS
        found = _read(path) if resumes and writes else []
        found += _parsed(self.saved, f"the checkpoint of {folder}")
        known: dict[tuple[int, str, str], RecordedEvaluation] = {}
        for row in [*found, *self.rows]:
            if row.step <= steps:
                known.setdefault(row.key, row)
        self.rows = sorted(known.values(), key=lambda row: row.step)
        if writes:
            self._file = Lines(path, self.lines)

    def add(self, row: RecordedEvaluation) -> None:
        """Add an evaluation, unless it is there; it is on disk when this returns.

        Raises:
            StorageError: the disk is full or the folder cannot be written.
        """
        if any(row.key == other.key for other in self.rows):
            return
        if self._file is not None:
            self._file.append(row.line())
        self.rows.append(row)


def _read(path: Path) -> list[RecordedEvaluation]:
    if reason := unreadable(path):
        raise UsageError(f"{path} {reason}, and no record of evaluations: {_MENDING}")
    return _parsed(without_torn_end(read_lines(path), path), path)


def _parsed(lines: Sequence[str], path: Path | str) -> list[RecordedEvaluation]:
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(RecordedEvaluation.parse(line))
        except ValueError as error:
            raise UsageError(f"{path} is damaged in line {number}: {error}. {_MENDING}") from error
    return rows
