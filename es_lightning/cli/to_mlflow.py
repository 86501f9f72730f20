"""Put runs into MLflow that were made without it, from what their folders hold."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from math import fsum
from pathlib import Path
from typing import Any

from es_lightning.analysis.comparison.folder import FILES, UPDATES, read_config, read_run
from es_lightning.analysis.comparison.runs import Run
from es_lightning.analysis.comparison.tables import ANALYSIS, SUMMARY, prior_metrics, read_mapping
from es_lightning.cli.compared import matching
from es_lightning.cli.run_loggers import logging_to
from es_lightning.errors import StorageError
from es_lightning.evaluation.metrics import record_metrics
from es_lightning.journal.entry import JOURNAL, read_journal
from es_lightning.journal.evaluations import EVALUATIONS, RecordedEvaluation, read_evaluations
from es_lightning.journal.schema import from_json, without_torn_end
from es_lightning.system.files import read_lines
from es_lightning.tracking.logger import DurableMLFlowLogger
from es_lightning.tracking.parameters import ALWAYS, DECIDING
from es_lightning.tracking.places import TRACKING_URI
from es_lightning.tracking.secrets import without_password

log = logging.getLogger(__name__)

DIGEST = "es.run_digest"
"""Tag with the SHA-256 of what a run has recorded, by which it is known again."""
PATIENCE_SECONDS = 300.0

Metrics = Mapping[str, float]


def put(words: Sequence[str], experiment: str) -> None:
    """Put runs into MLflow; those that are there already are left out.

    Args:
        words: folders, or patterns.
        experiment: name in MLflow.

    Raises:
        UsageError: a folder holds no run, or is damaged; or MLflow cannot be used. Then nothing is stored.
        StorageError: MLflow has not taken all of a run.
    """
    runs = {folder: read_run(folder) for word in words for folder in matching(word)}
    uri = os.environ.get("MLFLOW_TRACKING_URI") or TRACKING_URI
    known = _known(uri, experiment)
    for folder, run in runs.items():
        digest = _digest(folder)
        if digest in known:
            log.info("%s is there already.", folder)
        else:
            hardware = {"hardware": run.machine} if run.machine else {}
            logger = _logger(uri, experiment, folder, {DIGEST: digest, **hardware})
            _put_one(folder, run, logger)
    log.info("The experiment %s is in MLflow at %s.", experiment, without_password(uri))


def _digest(folder: Path) -> str:
    found = [folder / name for name in (EVALUATIONS, JOURNAL, UPDATES, ANALYSIS)]
    return hashlib.sha256(b"".join(path.read_bytes() for path in found if path.is_file())).hexdigest()


def _logger(uri: str, experiment: str, folder: Path, tags: Mapping[str, str]) -> DurableMLFlowLogger:
    kind = {"kind": "baseline"} if (folder / UPDATES).is_file() else {}
    return DurableMLFlowLogger(
        experiment,
        folder.resolve().name,
        uri,
        tags={**tags, **kind},
        patience_seconds=PATIENCE_SECONDS,
        system_metrics=False,
    )


def _known(uri: str, experiment: str) -> set[str]:
    """Return the digests of the runs that the experiment has whole.

    Raises:
        UsageError: MLflow cannot be used.
    """
    client = DurableMLFlowLogger(experiment, tracking_uri=uri, system_metrics=False).experiment
    found = client.get_experiment_by_name(experiment)
    known: set[str] = set()
    token = None
    while found is not None:
        query = f"attributes.status = 'FINISHED' and tags.`{DIGEST}` LIKE '%'"
        page = client.search_runs([found.experiment_id], query, page_token=token)
        known |= {run.data.tags[DIGEST] for run in page}
        token = page.token
        if not token:
            break
    return known


def _put_one(folder: Path, run: Run, logger: DurableMLFlowLogger) -> None:
    """Log all of a run, and make sure that MLflow has it."""
    with logging_to([logger], parameters(read_config(folder / "config.yaml"))):
        for step, metrics in logged(folder, run).items():
            logger.log_metrics(metrics, step)
        for name in FILES:
            if (folder / name).is_file():
                logger.log_artifact(folder / name, str(Path(name).parent).strip("."))
    run_id = logger.run_id
    status = None if run_id is None else logger.experiment.get_run(run_id).info.status
    if status != "FINISHED":
        raise StorageError(f"MLflow has not taken all of {folder}: give the command again.")
    log.info("%s is run %s.", folder, run_id)


def parameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that decide a run, section by section.

    Args:
        config: what config.yaml holds.
    """
    chosen = {name: config[name] for name in (*DECIDING, "baseline") if name in config}
    for path in ALWAYS:
        section, _, name = path.partition("/")
        if name in (config.get(section) or {}):
            chosen.setdefault(section, {})[name] = config[section][name]
    return chosen


def logged(folder: Path, run: Run) -> dict[int, dict[str, float]]:
    """Return what a run would have logged, by step: as far as its files tell.

    Args:
        folder: of a fit or a baseline.
        run: what was read of it.
    """
    known: dict[int, dict[str, float]] = defaultdict(dict)
    for step, metrics in _from_files(folder, run):
        known[step] |= metrics
    return dict(sorted(known.items()))


def _from_files(folder: Path, run: Run) -> Iterator[tuple[int, Metrics]]:
    is_fit = (folder / JOURNAL).is_file()
    yield from _of_generations(folder) if is_fit else _of_updates(folder)
    last, evaluated = 0, read_evaluations(folder)
    for row, groups in zip(evaluated, _groups(evaluated, _tests_along(folder)), strict=True):
        last = max(last, row.step)
        scores = {**row.scores, "reward": fsum(row.rewards) / len(row.rewards)}
        yield row.step, {f"{group}/{name}": value for group in groups for name, value in scores.items()}
        if is_fit and row.step:  # a generation's costs have its own number, which counts from 0
            yield row.step - 1, row.cost.metrics()
    for name, points in run.series.items():
        if name.startswith("kl_"):
            yield from ((step, {name: value}) for step, value in points)
    summary = read_mapping(folder / SUMMARY)
    ends = {f"held_out/{when}": summary.get(f"held_out_{when}") for when in ("before", "after")}
    yield last, {name: value for name, value in ends.items() if value is not None}
    yield last, {f"geometry/{name}": value for name, value in run.finals.items() if name != "peak_bytes"}
    yield last, prior_metrics(folder)


def _tests_along(folder: Path) -> bool:
    """Whether a run has evaluated the test problems along with every validation."""
    return bool((read_config(folder / "config.yaml").get("data") or {}).get("test_with_val"))


def _groups(rows: Sequence[RecordedEvaluation], along: bool) -> Iterator[list[str]]:
    """Name evaluations as runs do: the first and the last test are held out, those of validations tests."""
    tested = [row.step for row in rows if row.split == "test"]
    validated = {row.step for row in rows if row.split == "val"}
    for row in rows:
        if row.split != "test":
            yield [row.split]
            continue
        is_end = row.step in (tested[0], tested[-1])
        yield ["held_out"] * is_end + ["test"] * (along and row.step in validated)


def _of_generations(folder: Path) -> Iterator[tuple[int, Metrics]]:
    for entry in read_journal(folder / JOURNAL)[1]:
        rewards = {f"reward/{name}": value for name, value in entry.reward.items()}
        yield entry.generation, rewards | record_metrics(entry)


def _of_updates(folder: Path) -> Iterator[tuple[int, Metrics]]:
    path = folder / UPDATES
    for line in without_torn_end(read_lines(path), path)[1:]:
        row = from_json(line)
        yield int(row.pop("update")), row
