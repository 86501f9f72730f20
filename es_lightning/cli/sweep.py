"""The first steps of ``sweep``: its options and its file, before anything slow is imported."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from es_lightning.cli.configs import with_packaged
from es_lightning.cli.console import quiet
from es_lightning.cli.parsers import Parser
from es_lightning.errors import UsageError
from es_lightning.sweeps.settings import SweepSettings, read_settings
from es_lightning.sweeps.store import require_optuna
from es_lightning.system.affinity import allowed
from es_lightning.system.signals import ending_at_once

BELOW = """
the sweep's file, in YAML (defaults in brackets):
  config: [FILE, ...]      of the fit, as after -c
  space:                   KEY: [VALUE, ...] or KEY: {low: A, high: B, log: true} or with step: C
  overrides:               KEY: VALUE, the same in every trial
  sampler: NAME            grid, random or tpe (grid)
  trials: N                points that are tried (all of a grid)
  seed: INT                of the sampler (0)
  seeds: [INT, ...]        of the fits; each point is fitted with each of them ([0])
  objective: NAME          val/reward, or val/ and a component of the reward (val/reward)
  take: NAME               last or best of a run's validations (last)
  at_once: N               trials at the same time, each on cores of its own (1)
  cores: N                 most cores of a trial (its share)
  prune: NAME              none, median or early_peak (none)
  prune_after: N           complete trials before median ends the first (5)
  prune_warmup: N          generations before median ends a trial (0)
  output: FOLDER           of the sweep (runs/sweep-NAME, after the file)
A sweep that was stopped or killed goes on when its command is given again.
"""


def sweep(arguments: list[str]) -> None:
    """Try many settings of a fit, and write the best.

    Args:
        arguments: the command line's arguments after ``sweep``.
    """
    parser = sweep_parser()
    options = parser.read(arguments)
    require_optuna()
    settings = read_file(options.config)
    given = {name: getattr(options, name) for name in ("output", "at_once", "trials")}
    settings = replace(settings, **{name: value for name, value in given.items() if value is not None})
    check_machine(settings)
    parser.announce()
    with ending_at_once():  # it takes seconds
        from es_lightning.cli import sweep_run
    quiet()  # again, since Lightning sets the levels of its loggers when it is imported
    sweep_run.run(settings)


def sweep_parser() -> Parser:
    """Return the parser of the options of ``sweep``."""
    parser = Parser(
        "sweep",
        "Fit one config with many settings, through Optuna: a grid, random points or TPE, for several seeds. "
        "Writes trials.csv, pictures, and best.yaml, which fit takes.",
        BELOW,
    )
    parser.option("--config", short="-c", required=True, metavar="FILE", help="the sweep's file")
    parser.option("--output", type=Path, help="folder of the sweep, in place of the file's")
    parser.option("--at_once", type=int, help="trials at the same time, in place of the file's")
    parser.option("--trials", type=int, help="points that are tried, in place of the file's")
    return parser


def read_file(name: str) -> SweepSettings:
    """Read a sweep's file, which may be a packaged one.

    Args:
        name: its path, or the end of it, such as ``sweeps/demo.yaml``.

    Raises:
        UsageError: it cannot be read, or says what no sweep can be made of.
    """
    import yaml
    from jsonargparse import get_loader

    path = Path(with_packaged(["-c", name])[1])
    try:
        text = path.read_text(encoding="utf-8")
        return read_settings(get_loader("yaml")(text), name)  # to which 1e-3 is a number, as it is to fit
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no UTF-8"
        raise UsageError(f"{name} cannot be read ({reason}): give a sweep's file with -c.") from error
    except yaml.YAMLError as error:
        said = " ".join(str(error).split())
        raise UsageError(f"{name} is no YAML ({said}): mend that line.") from error


def check_machine(settings: SweepSettings) -> None:
    """Refuse a sweep that several ranks would make, or that needs more cores than there are.

    Raises:
        UsageError: it is started by a launcher of ranks, or at_once times cores is too much.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(
            "a sweep is one process, which starts the fits: start it without torchrun or srun, and give the "
            "fits' ranks by overrides: trainer.devices."
        )
    here = len(allowed())
    wanted = settings.at_once * (settings.cores or 1)
    if wanted > here:
        raise UsageError(
            f"at_once: {settings.at_once} with cores: {settings.cores or 1} takes {wanted} CPU cores, and "
            f"there are {here}: give less."
        )
