"""What the command ``analyze`` does: open the model, measure it beside its base, and write the table."""

from __future__ import annotations

import json
import logging
import re
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from math import isnan
from pathlib import Path
from shutil import rmtree
from typing import Any

from es_lightning.analysis.beside_base import (
    CHANGED,
    KL,
    WEIGHTS,
    Found,
    Row,
    named_metrics,
    rows,
    summary,
)
from es_lightning.analysis.comparison.tables import SUMMARY as RUN_SUMMARY
from es_lightning.analysis.comparison.tables import read_mapping
from es_lightning.analysis.geometry import metrics
from es_lightning.cli.opened import opened_with
from es_lightning.cli.run_folder import ANALYSIS
from es_lightning.cli.run_loggers import log_report_metrics, loggers_for, logging_to
from es_lightning.evaluation.analyze_settings import AnalyzeSettings
from es_lightning.evaluation.beside_base import BesideBase
from es_lightning.journal.entry import JOURNAL
from es_lightning.journal.opening import EXPORT, open_centres
from es_lightning.reports.csv_file import write_csv
from es_lightning.reports.toy_table import show
from es_lightning.system.files import replacing
from es_lightning.system.folders import check_writable
from es_lightning.system.lock import hold
from es_lightning.system.text import metric_name
from es_lightning.tracking.artifacts import log_artifact

log = logging.getLogger(__name__)
SUMMARY, TABLE, MEASURED = ANALYSIS
SHOWN = {"norm", "norm_relative", CHANGED, "max_change"}
"""What the terminal shows of all weights, beside the sparsities."""
OF_GROUPS = {"norm_relative", CHANGED}
"""What it shows of each kind of tensor."""


def analyze(options: Namespace, arguments: Sequence[str]) -> None:
    """Measure a tuned model beside its base, or go on with that, and write the table.

    Args:
        options: of this command.
        arguments: options of ``fit`` and of the section ``analyze``.
    """
    folder = options.output or Path("runs") / f"analysis-{short_name(options.tuned)}"
    check_writable(folder, "--output")
    with ExitStack() as until_end:
        parts, sections = opened_with(arguments, {"analyze": AnalyzeSettings})
        until_end.enter_context(parts)
        ranks, scratch = parts.ranks, folder / "rebuilt"
        if ranks.rank == 0:
            until_end.callback(hold(folder, "--output"))
            until_end.callback(rmtree, scratch, ignore_errors=True)
        [tuned] = open_centres([options.tuned], parts.base, scratch, ranks)
        known = options.base_from and options.base_from / MEASURED
        beside = BesideBase(parts, tuned, sections["analyze"], options.split, folder / MEASURED, known)
        found = beside.run(_tell if ranks.rank == 0 else None)
        if ranks.rank:
            return
        about = {
            "model": options.tuned,
            "digest": tuned.digest,
            "base": parts.base.name,
            "task": parts.task.name,
            "centre_checksum": _checksum_of_run(options.tuned, folder),
            "left_out": _left_out(found),
        }
        _write(folder, found, about)
        _log(parts.config["trainer"].get("logger"), found, about, folder)


def short_name(reference: str) -> str:
    """Return a name for a folder, after what a model was called: ``demo`` for ``runs/demo/model``."""
    path = Path(reference)
    name = path.parent.name if path.name == EXPORT else path.name
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.") or EXPORT


def _checksum_of_run(reference: str, folder: Path) -> str | None:
    """Return the final centre's checksum if a folder is that of the model's run; None otherwise.

    A comparison of runs reads an analysis in a run's folder if it is of the run's final model.
    """
    path = Path(reference).resolve()
    is_own = folder.resolve() in (path, path.parent if path.name == EXPORT else path)
    found = read_mapping(folder / RUN_SUMMARY).get("centre_checksum") if is_own else None
    return None if found is None else str(found)


def _log(asked: Any, found: Found, about: Mapping[str, Any], folder: Path) -> None:
    """Log the numbers and the files to the loggers that the config asks for."""
    settings = {f"analyze.{name}": about[name] for name in ("model", "base", "task")}
    loggers = loggers_for(asked, _logged_in(about["model"], folder), "analysis")
    with logging_to(loggers, settings):
        log_report_metrics(loggers, named_metrics(found, metric_name(about["task"])))
        for name in (TABLE, SUMMARY):
            log_artifact(loggers, folder / name, "analysis")


def _logged_in(reference: str, folder: Path) -> Path:
    """Return the folder whose MLflow run is that of the analysis: within the folder of a run another one."""
    is_run = any((folder / name).exists() for name in ("config.yaml", RUN_SUMMARY, JOURNAL))
    if not is_run:
        return folder
    own = folder / f"analysis-{short_name(reference)}"
    own.mkdir(exist_ok=True)
    return own


def _tell(done: int, of: int, what: str) -> None:
    log.info("%d of %d measurements: %s", done, of, what)


def _left_out(found: Found) -> list[str]:
    """Say what was not measured, and why."""
    reasons = []
    if not found.divergence_prompts:
        reasons.append("No divergence: the task's problems are choices, and nothing is generated for them.")
    elif not found.divergences:
        reasons.append("No divergence: neither model has generated a token.")
    if not found.prior:
        reasons.append("No forgetting: the config names no prior tasks under analyze.tasks.")
    return reasons


def _write(folder: Path, found: Found, about: dict[str, Any]) -> None:
    """Write the table as CSV and JSON, and show it."""
    table = rows(found)
    write_csv(folder / TABLE, [{name: _cell(value) for name, value in row.items()} for row in table])
    content = {
        **about,
        "geometry": {"metrics": metrics(found.geometry), **found.geometry},
        "divergence": {"prompts": found.divergence_prompts, **found.divergences},
        "reward": summary(found.task),
        "forgetting": {name: summary(pair) for name, pair in found.prior.items()},
    }
    with replacing(folder / SUMMARY) as file:
        file.write((json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
    below = [
        *about["left_out"],
        "+- is one standard error over problems; that of a difference is paired, problem by problem.",
        f"{folder} has all numbers.",
    ]
    show(
        f"{about['model']} beside its base {about['base']}, task {about['task']}",
        [_shown(row) for row in table if _is_shown(row)],
        below,
    )


def _is_shown(row: Row) -> bool:
    """Whether the terminal shows a row; the CSV has all of them."""
    name = row["quantity"]
    if row["part"] != WEIGHTS:
        return True
    if row["of"] != "all":
        return name in OF_GROUPS
    is_sparsity = name.startswith("sparsity_") and not name.endswith(("_tensors", "_ulp"))
    return name in SHOWN or is_sparsity


def _shown(row: Row) -> Row:
    signed = row["part"] not in (WEIGHTS, KL)
    return {
        "": f"{row['part']}, {row['of']}",
        "quantity": row["quantity"].replace("_", " "),
        "base": row["base"],
        "tuned": row["tuned"],
        "change": f"{row['change']:+.4g}" if signed else row["change"],
        "+-": row["se"],
        "problems": row["problems"],
    }


def _cell(value: Any) -> Any:
    return "" if isinstance(value, float) and isnan(value) else value
