"""Read a run's folder, that of a fit or of a baseline, for a comparison."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from es_lightning.analysis.comparison.runs import Evaluated, Points, Run
from es_lightning.analysis.comparison.settings import deciding, flat_config, seed_of
from es_lightning.analysis.comparison.tables import (
    SUMMARY,
    TABLES,
    finals_of,
    forgotten_of,
    prior_of,
    read_mapping,
    series_of,
)
from es_lightning.errors import UsageError
from es_lightning.journal.entry import JOURNAL, Entry, read_journal
from es_lightning.journal.evaluations import EVALUATIONS, RecordedEvaluation, read_evaluations
from es_lightning.journal.identity import identity_of
from es_lightning.journal.schema import from_json, without_torn_end
from es_lightning.system.files import read_lines

UPDATES, CONFIG = "updates.jsonl", "config.yaml"
FILES = (EVALUATIONS, JOURNAL, UPDATES, CONFIG, SUMMARY, *TABLES)
"""What is read of a folder, if it is there; the first, and one of the next two, have to be."""

NAMES = {"grpo": "GRPO", "dr_grpo": "Dr. GRPO", "dapo": "DAPO", "rloo": "RLOO"}
EVOLUTION = "ES"
_SHAPES = ("completion_", "failed")  # scores that are no parts of a reward: lengths, and failures of graders


class _Training(NamedTuple):
    """What a run wrote while it trained."""

    method: str
    settings: Mapping[str, Any]
    series: Mapping[str, Points]
    finals: Mapping[str, float]
    task: str
    machine: str


def read_run(folder: Path, name: str | None = None) -> Run:
    """Read what a run has left; it need not be finished.

    Args:
        folder: of a fit or a baseline.
        name: what it is called; None takes its path.

    Raises:
        UsageError: it is no such folder, or a file in it is damaged.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder: give the folder of a run, such as runs/demo.")
    lacking = missing(folder)
    if lacking:
        raise UsageError(
            f"{folder} has no {lacking}: give the folder of a fit or a baseline of this version or a later "
            "one."
        )
    evaluations = _evaluated(read_evaluations(folder))
    if not evaluations:
        raise UsageError(f"{folder / EVALUATIONS} holds no evaluation yet: compare the run when it has one.")
    training = _fit(folder) if (folder / JOURNAL).is_file() else _baseline(folder / UPDATES)
    settings = flat_config(read_config(folder / CONFIG)) or dict(training.settings)
    summary = read_mapping(folder / SUMMARY)
    return Run(
        name=name or str(folder),
        method=training.method,
        seed=seed_of(settings),
        task=str(summary.get("task") or training.task),
        settings=deciding(settings),
        evaluations=evaluations,
        series={**series_of(folder, evaluations[-1].step), **training.series},
        finals={**training.finals, **_peak(summary), **finals_of(folder)},
        forgotten=forgotten_of(folder),
        prior=prior_of(folder),
        machine=training.machine,
        checksum=summary.get("centre_checksum"),
    )


def _evaluated(rows: Sequence[RecordedEvaluation]) -> tuple[Evaluated, ...]:
    """Return evaluations in the order of updates; of two of the same moment the later one counts."""
    known = {(row.step, row.split): row for row in rows}
    return tuple(
        Evaluated(
            row.step,
            row.split,
            dict(zip(row.prompts, row.rewards, strict=True)),
            row.scores,
            row.cost,
            row.samples,
            dict(zip(row.prompts, row.solved, strict=False)),  # which older files do not have
            row.centre,
        )
        for row in sorted(known.values(), key=lambda row: row.step)
    )


def _peak(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return the most memory that a fit has had; a baseline's record of updates tells that of each."""
    return {"peak_bytes": float(summary["peak_bytes"])} if "peak_bytes" in summary else {}


def missing(folder: Path) -> str:
    """Return the name of a file without which the folder cannot be compared; empty if it has all."""
    if not (folder / EVALUATIONS).is_file():
        return EVALUATIONS
    has_one = any((folder / name).is_file() for name in (JOURNAL, UPDATES))
    return "" if has_one else f"{JOURNAL} and no {UPDATES}"


def _fit(folder: Path) -> _Training:
    header, entries = read_journal(folder / JOURNAL)
    task, machine = str(header.get("task", "")), str(header.get("machine", ""))
    return _Training(EVOLUTION, identity_of(header), _of_journal(entries), {}, task, machine)


def _of_journal(entries: Sequence[Entry]) -> dict[str, Points]:
    """Rewards of each generation's population, and how far the centre was from the base after its update."""
    earned = columns(
        (entry.generation, {"reward": entry.reward["mean"], **_parts(entry.scores, "")}) for entry in entries
    )
    return earned | columns((entry.generation + 1, {"norm": entry.drift}) for entry in entries)


def _baseline(path: Path) -> _Training:
    try:
        begin, *rows = [from_json(line) for line in without_torn_end(read_lines(path), path)]
        updates = [row for row in rows if "reward/mean" in row]
        return _of_updates(begin["baseline"], updates, str(begin.get("machine", "")))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{path} is damaged: it is no record of a baseline's updates. Leave this run out."
        ) from error


def _of_updates(settings: Mapping[str, Any], updates: Sequence[Mapping[str, Any]], machine: str) -> _Training:
    series = columns(
        (
            int(row["update"]) - 1,  # as in a journal, the updates that the policy had seen when it sampled
            {"reward": row["reward/mean"], **_parts(row, "reward/"), **_divergence(row, settings)},
        )
        for row in updates
    )
    peaks = [row["cost/peak_bytes"] for row in updates if "cost/peak_bytes" in row]
    method = str(settings.get("method", "unnamed"))
    named = {f"baseline.{name}": value for name, value in settings.items()}
    finals = {"peak_bytes": float(max(peaks))} if peaks else {}
    return _Training(NAMES.get(method, method), named, series, finals, "", machine)


def _divergence(row: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, float]:
    """TRL measures the divergence of its own samples where it has a price, and writes 0 elsewhere."""
    return {"kl_tuned_base_k3/training": row["train/kl"]} if settings.get("beta") else {}


def _parts(scores: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """Return the parts of a reward by the names of their series."""
    names = {name.removeprefix(prefix): name for name in scores if name.startswith(prefix)}
    statistics = {"reward", "mean", "std", "min", "max"}
    return {
        f"reward/{short}": scores[name]
        for short, name in names.items()
        if short not in statistics and not short.startswith(_SHAPES)
    }


def columns(rows: Iterable[tuple[int, Mapping[str, float]]]) -> dict[str, Points]:
    """Turn rows of named numbers into series, without what is not finite.

    Args:
        rows: updates done, and numbers by name.
    """
    series: dict[str, list[tuple[int, float]]] = {}
    for step, row in rows:
        for name, value in row.items():
            if isfinite(value):
                series.setdefault(name, []).append((step, float(value)))
    return dict(series)


def read_config(path: Path) -> Mapping[str, Any]:
    """Read a configuration; empty if there is none.

    Raises:
        UsageError: it is no YAML.
    """
    if not path.is_file():
        return {}
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8", errors="replace"))
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is damaged: {' '.join(str(error).split())}. Move it away.") from error
    return values if isinstance(values, Mapping) else {}
