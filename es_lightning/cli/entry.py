"""The first steps of every command: help and small commands at once, Lightning only where it is needed."""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec

from es_lightning.cli import (
    analyze_command,
    baseline_command,
    commands,
    compare_command,
    curvature_commands,
    probe_command,
    scan,
    sweep,
    to_mlflow_command,
    tune_step,
    usage,
    vote_command,
)
from es_lightning.cli.console import quiet, stop
from es_lightning.cli.simulate import simulate
from es_lightning.cli.suggest import suggestion
from es_lightning.errors import DivergenceError, RankError, RewardError, StorageError, UsageError
from es_lightning.system.going_on import AGAIN, ANEW, RESUME, going_on_by
from es_lightning.system.signals import Interrupted, ending_at_once, interruptible_start

log = logging.getLogger(__name__)

LIGHT: dict[str, Callable[[list[str]], None]] = {
    "analyze": analyze_command.analyze,
    "baseline": baseline_command.baseline,
    "compare": compare_command.compare,
    "curvature": curvature_commands.curvature,
    "degenerate": curvature_commands.degenerate,
    "fetch": commands.fetch,
    "plan": commands.plan,
    "probe": probe_command.probe,
    "replay": commands.replay,
    "scan": scan.scan,
    "simulate": simulate,
    "sweep": sweep.sweep,
    "to-mlflow": to_mlflow_command.to_mlflow,
    "tune-step": tune_step.tune_step,
    "ui": commands.ui,
    "vote": vote_command.vote,
}
"""Commands that run nothing with Lightning's Trainer."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; errors that the user can fix end with one line and exit code 2.

    Args:
        arguments: what stands after ``es-lightning``; None takes the process's own.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    quiet()
    _draw_without_notebook()
    # So that class_path finds the user's own tasks and callbacks. Appended, so that they shadow nothing.
    sys.path.append(os.getcwd())
    try:
        run(arguments)
    except (UsageError, RewardError) as error:
        stop(str(error))
    except ValueError as error:
        if not isinstance(error.__cause__, UsageError):
            raise
        stop(str(error.__cause__))  # the constructor's own words, without what the parser adds
    except (DivergenceError, RankError, StorageError) as error:
        stop(str(error), exit_code=1)
    except Interrupted as interrupted:
        stop(str(interrupted), exit_code=interrupted.exit_code)


def run(arguments: list[str]) -> None:
    """Run a command, or show help or versions.

    Args:
        arguments: what stands after ``es-lightning``.

    Raises:
        UsageError: there is no such command.
    """
    first = arguments[0] if arguments else "--help"
    if first in ("-h", "--help"):
        usage.show(usage.HELP)
    elif first == "--version":
        usage.show(usage.versions())
    elif first in LIGHT:
        with interruptible_start(), going_on_by(ANEW if first == "baseline" else AGAIN):
            LIGHT[first](arguments[1:])
    elif first in usage.HEAVY or first.startswith("-"):
        _run_with_lightning(first, arguments)
    else:
        known = [*usage.HEAVY, *LIGHT]
        names = f"{', '.join(known[:-1])} and {known[-1]}"
        raise UsageError(f"there is no command {first}: the commands are {names}.{suggestion(first, known)}")


def _draw_without_notebook() -> None:
    """Draw into files where MPLBACKEND names a module that is not here.

    A notebook sets it for its kernel, and ``!es-lightning fit`` inherits it; matplotlib then fails when it is
    imported.
    """
    kind, _, module = os.environ.get("MPLBACKEND", "").partition("://")
    if kind == "module":
        with suppress(ImportError):  # also where the package around the module is missing
            if find_spec(module) is not None:
                return
        os.environ["MPLBACKEND"] = "agg"


def _run_with_lightning(command: str, arguments: list[str]) -> None:
    if arguments[-1] in ("-h", "--help"):
        usage.show(usage.help_of(command))
        return
    everything = arguments[1:] in (["--help", "all"], ["--help-all"])
    if not everything and os.environ.get("RANK", "0") == "0":
        log.info("starting es-lightning %s ...", " ".join(arguments))
    with ending_at_once(), _without_collection():  # it takes seconds
        from es_lightning.cli import command_line
    quiet()  # again, since Lightning sets the levels of its loggers when it is imported
    with interruptible_start(), going_on_by(AGAIN if command in ("validate", "test") else RESUME):
        command_line.run([command, "--help"] if everything else arguments)


@contextmanager
def _without_collection() -> Iterator[None]:
    """Import without the garbage collector, which takes a fifth of the time and finds next to nothing."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
