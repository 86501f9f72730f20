"""What ``es-lightning sweep`` does: check every value, run the trials, and write what came of them."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from es_lightning.cli.configs import with_packaged
from es_lightning.cli.planned import FitSettings
from es_lightning.cli.run_loggers import logging_to
from es_lightning.cli.short_names import read_short_names, with_full_names
from es_lightning.cli.sweep_logging import SweepLog
from es_lightning.errors import UsageError
from es_lightning.reports.csv_file import write_csv
from es_lightning.reports.sweep_picture import sweep_picture
from es_lightning.reports.toy_table import show
from es_lightning.sweeps.results import Rows, best_row
from es_lightning.sweeps.settings import SweepSettings
from es_lightning.sweeps.space import Value
from es_lightning.sweeps.sweep import Sweep
from es_lightning.sweeps.trial import words_of
from es_lightning.system.files import replacing
from es_lightning.system.folders import check_writable
from es_lightning.system.lock import hold
from es_lightning.tracking.secrets import masked

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

DECIDES = "sweep.json"
REPORT = "report."
EARLY_PEAK = "EarlyPeak"


def run(settings: SweepSettings) -> None:
    """Run a sweep, or go on with one.

    Raises:
        UsageError: a value is refused by the fit, the folder holds another sweep, or every trial failed.
    """
    read_short_names()
    fit = checked(settings)
    added = added_options(settings, fit)
    check_writable(settings.output, "output")
    with ExitStack() as until_end:
        until_end.callback(hold(settings.output))
        keep_what_decides(settings, plain(fit))
        told = SweepLog(plain(fit)["trainer"].get("logger"), settings)
        until_end.enter_context(logging_to(told.loggers, told.parameters))
        write = writer(settings, added, told)
        sweep = Sweep(settings, added, told.environment, write)
        rows = sweep.run()
        write(rows)
        conclude(settings, rows)


def checked(settings: SweepSettings) -> FitSettings:
    """Let the fit's own parser, module and data refuse values, each of them once; returns the first point's.

    Raises:
        UsageError: one is refused, or no run would be validated.
    """
    first = {key: each.examples()[0] for key, each in settings.space.items()}
    fit = fit_settings(settings, first)
    _check_validations(settings, fit)
    if settings.at_once > 1 and fit.asked.trainer.accelerator != "cpu" and torch.cuda.is_available():
        raise UsageError(
            "at_once divides CPU cores and no GPUs, which trials would fight for: give at_once: 1, or "
            "overrides: trainer.accelerator: cpu."
        )
    for key, each in settings.space.items():
        for value in each.examples()[1:]:
            fit_settings(settings, {**first, key: value})
    return fit


def fit_settings(
    settings: SweepSettings, params: Mapping[str, Value], added: Sequence[str] = ()
) -> FitSettings:
    """Parse what a trial's fit would parse, and make its module and data.

    Args:
        settings: of the sweep.
        params: a point.
        added: options behind them.

    Raises:
        UsageError: the fit would refuse it.
    """
    return FitSettings(with_full_names(with_packaged([*words_of(settings, params), *added])))


def plain(fit: FitSettings) -> dict[str, Any]:
    """Return a fit's config as JSON; secrets are masked."""
    config: dict[str, Any] = json.loads(masked(fit.parser.dump(fit.asked, format="json")))
    return config


def keep_what_decides(settings: SweepSettings, fit: Mapping[str, Any]) -> None:
    """Write what decides the trials into the folder, or compare it with what is there.

    Args:
        settings: of the sweep.
        fit: config of the first point, which shows a change in the files that it came from.

    Raises:
        UsageError: the folder holds a sweep of other settings.
    """
    path = settings.output / DECIDES
    now = json.loads(json.dumps({**settings.plain(), "fit": fit}))
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        changed = [key for key in now if now[key] != before.get(key)]
        if changed:
            raise UsageError(
                f"{settings.output} holds a sweep with another {' and another '.join(changed)}: give another "
                "output, or the settings of before."
            )
        log.info("going on with the sweep in %s", settings.output)
    with replacing(path) as file:
        file.write(json.dumps(now, indent=1).encode())


def added_options(settings: SweepSettings, fit: FitSettings) -> list[str]:
    """Return the options that a trial's fit gets behind its own."""
    if settings.prune == "early_peak" and EARLY_PEAK not in fit.callbacks:
        return [f"--trainer.callbacks+={EARLY_PEAK}"]
    return []


def writer(settings: SweepSettings, added: Sequence[str], told: SweepLog) -> Callable[[Rows], None]:
    """Return what writes the results of the trials so far."""

    def write(rows: Rows) -> None:
        if not rows:
            return
        best = best_row(rows)
        write_csv(settings.output / "trials.csv", rows)
        sweep_picture(settings.output / "sweep.png", rows, list(settings.space), settings.objective, best)
        if best is not None:
            with replacing(settings.output / "best.yaml") as file:
                file.write(best_yaml(settings, best, added).encode())
        told.tell(rows, best)

    return write


def best_yaml(settings: SweepSettings, best: Mapping[str, Any], added: Sequence[str] = ()) -> str:
    """Return the whole config of the best point, which ``fit -c`` takes.

    What ``overrides`` say of ``report`` is left out: trials are not tested and not exported, the winner is.

    Args:
        settings: of the sweep.
        best: row of the best trial.
        added: options behind those of the trials.
    """
    overrides = {key: value for key, value in settings.overrides.items() if not key.startswith(REPORT)}
    point = {key: best[key] for key in settings.space}
    fit = fit_settings(replace(settings, overrides=overrides), point, added)
    seeds = f"seed{'s' if len(settings.seeds) > 1 else ''} {', '.join(map(str, settings.seeds))}"
    return (
        f"# Trial {best['trial']} of the sweep in {settings.output}: {settings.take} {settings.objective} "
        f"{best['objective']:.6g} ({seeds}).\n{masked(fit.parser.dump(fit.asked))}"
    )


def conclude(settings: SweepSettings, rows: Rows) -> None:
    """Show the trials, best first, and say which failed.

    Raises:
        UsageError: none is complete.
    """
    failed = [row for row in rows if row["state"] == "failed"]
    below = [f"trial {row['trial']} failed: {row['error']}" for row in failed]
    best = best_row(rows)
    if best is None:
        raise UsageError(f"no trial of {settings.output} is complete. {_last(below)}")
    chosen = ", ".join(f"{key} {best[key]}" for key in settings.space)
    below.append(f"best: trial {best['trial']}, {chosen}")
    below.append(f"es-lightning fit -c {settings.output / 'best.yaml'}")
    names = [name for name in rows[0] if name != "error" and not name.startswith("seed ")]
    ranked = sorted(rows, key=lambda row: -_number(row["objective"]))
    table = [{name: "-" if row[name] is None else row[name] for name in names} for row in ranked]
    show(f"{settings.output}: {settings.take} {settings.objective}, {len(rows)} trials", table, below)


def _last(below: Sequence[str]) -> str:
    return f"The last one: {below[-1]}" if below else "All were pruned: give a larger prune_after."


def _number(value: float | None) -> float:
    return float("-inf") if value is None else value


def _check_validations(settings: SweepSettings, fit: FitSettings) -> None:
    trainer = fit.asked.trainer
    interval, steps = trainer.val_check_interval, trainer.max_steps
    if isinstance(interval, int) and 0 < steps < interval:
        raise UsageError(
            f"trainer.val_check_interval is {interval} and trainer.max_steps {steps}, so that no trial would "
            "be validated: give a smaller interval in overrides."
        )
    if trainer.limit_val_batches == 0:
        raise UsageError("trainer.limit_val_batches is 0, so that no trial would be validated: leave it out.")
