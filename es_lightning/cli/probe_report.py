"""The report of a probe: statistics, pictures and tables, in its folder and in MLflow."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from es_lightning.cli.run_loggers import log_report_metrics, logged_before, logging_to
from es_lightning.errors import UsageError
from es_lightning.landscape.probing.input import probe_tables
from es_lightning.landscape.probing.protocols import SIZE, protocol_rows
from es_lightning.landscape.probing.results import ProbeResults
from es_lightning.landscape.probing.rows import (
    change_rows,
    comparison_rows,
    curve_rows,
    model_rows,
    sigma_rows,
)
from es_lightning.landscape.probing.summary import (
    ProbeTable,
    SigmaSummary,
    offset_of,
    offset_words,
    summarise,
)
from es_lightning.reports import probe_picture
from es_lightning.reports.csv_file import write_csv
from es_lightning.reports.probe_table import models_markdown, probe_markdown
from es_lightning.system.files import replacing

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

log = logging.getLogger(__name__)

FOLDER = "report"
"""Of the report, in the probe's folder."""
COMPARISON = "comparison"
"""Of the report of several probes, in the folder of the first."""
METRICS = (
    "improve",
    "zeros",
    "mean",
    "deviation",
    "q_0.95",
    "best",
    "null",
    "p_null",
    "n90",
    "held_out",
    "over_mean",
    "seen",
)
"""Columns of a sigma that MLflow gets as metrics, ``probe/improve/sigma_0.001``."""


def report(
    folders: Sequence[Path], largest: int | None = None, loggers: Sequence[Logger] | None = None
) -> None:
    """Write the report of every probe into its folder, and of several one that compares them.

    Args:
        folders: of probes that have ended; the comparison goes to the first.
        largest: N_max of best-of-N; None takes 50, or all candidates where there are fewer.
        loggers: get the report, for one folder. None are the loggers of the runs that the folders name: a
            probe that was logged goes on with its run.

    Raises:
        UsageError: a folder holds no probe that has ended, or no report can be made of it.
        StorageError: a folder cannot be written.
    """
    tables = probe_tables([ProbeResults.read(folder) for folder in folders])
    if len(tables) > 1:
        require_one_task(tables)
    if loggers is not None:
        _report(folders, tables, largest, [loggers for _ in folders])
        return
    with ExitStack() as until_end:
        logged = [until_end.enter_context(logging_to(logged_before(folder), {})) for folder in folders]
        _report(folders, tables, largest, logged)


def _report(
    folders: Sequence[Path],
    tables: Sequence[ProbeTable],
    largest: int | None,
    loggers: Sequence[Sequence[Logger]],
) -> None:
    """Write the reports, each logged by the loggers of its folder."""
    summaries = [
        write_report(table, folder / FOLDER, largest, own)
        for folder, table, own in zip(folders, tables, loggers, strict=True)
    ]
    if len(tables) > 1:
        write_comparison(tables, summaries, folders[0] / COMPARISON, loggers[0])


def write_report(
    table: ProbeTable, folder: Path, largest: int | None = None, loggers: Sequence[Logger] = ()
) -> list[SigmaSummary]:
    """Write the report of one probe, log it, and show its table.

    Args:
        table: the rewards.
        folder: where pictures, CSV files and ``report.md`` go; it is made.
        largest: N_max of best-of-N; None takes 50, or all candidates where there are fewer.
        loggers: get the files as artifacts and the numbers as metrics.

    Returns:
        The summary of every sigma.

    Raises:
        UsageError: fewer candidates than N_max, no headroom, or no candidate changed anything.
        StorageError: the folder cannot be written.
    """
    headroom = table.headroom()
    summaries = summarise(table, largest)
    if all(summary.is_constant for summary in summaries):
        raise UsageError(
            f"{table.name}: no candidate of any sigma earns anything else than the centre, so there is "
            "nothing to report: probe with a larger sigma, or on prompts whose rewards can change."
        )
    rows = sigma_rows(table, summaries, headroom)
    about = f"{table.name}, task {table.task}" if table.task else table.name
    probe_picture.best_of_n(
        folder / "best_of_n.png",
        curve_rows(summaries, headroom),
        _null_titles(summaries),
        f"Best of N, {about}",
    )
    shares = {row["sigma"]: f"sigma {row['sigma']:g}: {row['zeros']:.0%} the same" for row in rows}
    probe_picture.changes(
        folder / "changes.png", change_rows(summaries), shares, f"Changes of the reward, {about}"
    )
    probe_picture.improving(folder / "sigmas.png", rows, f"Which candidates improve, {about}")
    of_protocols = _protocols([table], [summaries]) if len(table.centre) > 1 else []
    if of_protocols:  # they need prompts to choose on, and others to judge on
        write_csv(folder / "protocols.csv", of_protocols)
    offset = offset_of(summaries, table.pairs)
    verdicts = {summary.sigma: list(summary.verdict()) for summary in summaries}
    text = probe_markdown(rows, verdicts, offset_words(offset), of_protocols)
    _write(folder, text, loggers, _metrics(rows) | ({} if offset is None else {"probe/offset": offset.value}))
    return summaries


def write_comparison(
    tables: Sequence[ProbeTable],
    summaries: Sequence[Sequence[SigmaSummary]],
    folder: Path,
    loggers: Sequence[Logger] = (),
) -> None:
    """Write what several models have beside one another: tables, two pictures and CSV files.

    They are p(improve) under both published protocols, and changes and best-of-N with its null by sigma.

    Args:
        tables: rewards of the models.
        summaries: of the sigmas of each.
        folder: where the files go; it is made.
        loggers: get the files as artifacts.

    Raises:
        UsageError: the probes are of several tasks, or have one prompt alone.
        StorageError: the folder cannot be written.
    """
    require_one_task(tables)
    rows = _protocols(tables, summaries)
    if not any(not row["chosen"] for row in rows):
        log.warning("No sigma was probed on all models: the protocol of a fixed sigma is left out.")
    about = f", task {tables[0].task}" if tables[0].task else ""
    title = f"p(improve) by model, sigma fixed and chosen{about}"
    probe_picture.protocols(folder / "protocols.png", rows, title)
    curves, sigmas = comparison_rows(tables, summaries)
    probe_picture.best_by_model(folder / "best_of_n.png", curves, f"Best of N by model{about}")
    write_csv(folder / "sigmas.csv", sigmas)
    _write(folder, models_markdown(rows, sigmas), loggers, {})


def require_one_task(tables: Sequence[ProbeTable]) -> None:
    """Refuse probes of several tasks.

    Args:
        tables: rewards of the models.

    Raises:
        UsageError: there are several tasks.
    """
    tasks = sorted({table.task for table in tables})
    if len(tasks) > 1:
        raise UsageError(
            f"the probes are of several tasks, {', '.join(tasks)}, whose p(improve) says nothing about the "
            "size of a model: report each task on its own."
        )


def _protocols(
    tables: Sequence[ProbeTable], summaries: Sequence[Sequence[SigmaSummary]]
) -> list[dict[str, Any]]:
    """Rows of both protocols, with the N that the tables of the report show."""
    largest = min(summary.curve.largest for each in summaries for summary in each)
    return model_rows(protocol_rows(tables, min(SIZE, largest)))


def _null_titles(summaries: Sequence[SigmaSummary]) -> Mapping[float, str]:
    """Lines above the panels: sigma, the share of exact zeros, and whether best-of-N is that of the null."""
    titles = {}
    for summary in summaries:
        p_null = summary.curve.p_null
        against = "" if p_null is None else f"; null: p = {p_null:.2g}"
        titles[summary.sigma] = f"sigma {summary.sigma:g}\n{summary.statistics.zeros:.0%} the same{against}"
    return titles


def _write(folder: Path, text: str, loggers: Sequence[Logger], metrics: Mapping[str, float]) -> None:
    """Write and show the text, and log everything in the folder."""
    from es_lightning.tracking.artifacts import log_artifact

    with replacing(folder / "report.md") as file:
        file.write(text.encode())
    log.info("%s\n%s has pictures and CSV files.", text, folder)
    log_report_metrics(loggers, metrics)
    log_artifact(loggers, folder, "probe")


def _metrics(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {
        f"probe/{name}/sigma_{row['sigma']:g}": float(row[name])
        for row in rows
        for name in METRICS
        if row[name] is not None
    }
