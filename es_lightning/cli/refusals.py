"""What is refused before anything is made: settings that Lightning would fail on, in sentences of ours."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from es_lightning.errors import UsageError
from es_lightning.journal.start import check_start
from es_lightning.system.trainer_options import check_options

LARGEST_SEED = 2**32 - 1  # NumPy, which Lightning seeds as well, takes no larger one
OF_LIGHTNING = re.compile(r"best|hpc|registry(:.*)?")


def check_settings(settings: Mapping[str, Any], resumes: bool) -> None:
    """Refuse a seed, a checkpoint or options of the Trainer that no run can use.

    Args:
        settings: of ``fit``, ``validate`` or ``test``, as parsed.
        resumes: whether a fit would go on from the checkpoint.

    Raises:
        UsageError: the message names the option, and says what to do.
    """
    seed = settings["seed_everything"]
    if isinstance(seed, bool) or not 0 <= seed <= LARGEST_SEED:
        raise UsageError(
            f"seed_everything is {seed}: give an integer from 0 to {LARGEST_SEED}, which keys all noise."
        )
    trainer = settings["trainer"]
    if trainer["enable_checkpointing"] is False:
        raise UsageError(
            "trainer.enable_checkpointing is False, but a stopped run goes on from a checkpoint: leave it "
            "out, and write fewer with checkpoint.every_n_train_steps."
        )
    if trainer["accelerator"] in {"gpu", "cuda"} and not torch.accelerator.is_available():
        raise UsageError(
            f"trainer.accelerator is {trainer['accelerator']}, but torch finds none on this machine: give "
            "cpu or auto, or install a build of torch for it."
        )
    check_options(trainer)
    if settings["ckpt_path"] is not None:
        _check_checkpoint(settings["ckpt_path"], resumes)


def _check_checkpoint(given: str, resumes: bool) -> None:
    path = Path(given)
    if given == "last":
        return
    if OF_LIGHTNING.fullmatch(given) and not path.exists():
        raise UsageError(f"--ckpt_path is {given}: give a checkpoint's file, or `last` for the newest.")
    if path.is_dir():
        raise UsageError(
            f"--ckpt_path is {given or 'empty'}, which is no file: give a checkpoint's file, or `last` for "
            "the newest."
        )
    check_start(path, resumes)


@contextmanager
def trainer_made(options: Mapping[str, Any]) -> Iterator[None]:
    """Turn whatever Lightning refuses while a Trainer is made into a sentence that names the option.

    Args:
        options: of the Trainer, by name.

    Raises:
        UsageError: the block failed.
    """
    try:
        yield
    except UsageError:
        raise
    except (MisconfigurationException, ImportError, RuntimeError, TypeError, ValueError) as error:
        raise UsageError(_sentence(error, options)) from error


def refused_by_lightning(error: BaseException) -> str | None:
    """Return the sentence of an error that Lightning itself raised over a setting; None for any other."""
    if isinstance(error, MisconfigurationException):
        return _one_line(error)
    innermost = error.__traceback__
    while innermost is not None and innermost.tb_next is not None:
        innermost = innermost.tb_next
    module = innermost.tb_frame.f_globals.get("__name__", "") if innermost is not None else ""
    return _one_line(error) if isinstance(error, ValueError) and module.startswith("lightning.") else None


def _sentence(error: BaseException, options: Mapping[str, Any]) -> str:
    """Put the name and the value of the option before the message that speaks of it."""
    message = _one_line(error)
    defaults = inspect.signature(pl.Trainer).parameters
    given = [name for name in defaults if name in options and options[name] != defaults[name].default]
    named = [name for name in given if re.search(rf"\b{name}\b", message)]
    if not named:
        return f"the trainer's options do not go together: {message}"
    name = min(named, key=message.index)
    return f"trainer.{name} is {options[name]}: {message}"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
