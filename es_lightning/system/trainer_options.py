"""Options of Lightning's Trainer that mean nothing to an evolution strategy, or that end a run later."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from es_lightning.errors import UsageError

_DTYPE = (
    "the centre is float32, and the members take the engine's precision: leave it out, and set dtype under "
    "model.engine"
)
_CLIP = "there is no gradient to clip: leave it out, and lower the optimizer's lr for smaller updates"
_DURATION = r"\d+:\d+:\d+:\d+"

WITHOUT_MEANING: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "precision": ((None, 32, "32", "32-true"), _DTYPE),
    "accumulate_grad_batches": ((1, None), "a generation is one update: raise model.population instead"),
    "gradient_clip_val": ((None, 0), _CLIP),
    "gradient_clip_algorithm": ((None,), _CLIP),
    "barebones": ((False, None), "a run needs its log and its checkpoints: leave it out"),
    "overfit_batches": ((0, None), "it would not repeat a batch: use fewer problems instead, in data"),
    "detect_anomaly": ((False, None), "nothing is computed backwards: leave it out"),
    "sync_batchnorm": ((False, None), "ranks evaluate members of their own: leave it out"),
}
"""For each option the values that can stay, and what to do instead of any other value."""


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse values that would end a run later, or do nothing.

    Args:
        options: of the Trainer, by name; those that are left out are not checked.

    Raises:
        UsageError: the message names the option as in YAML, and says what to do.
    """
    for name, (harmless, advice) in WITHOUT_MEANING.items():
        if name in options and options[name] not in harmless:
            raise UsageError(f"trainer.{name} is {options[name]}, but {advice}.")
    for name, wrong in _RANGES.items():
        if options.get(name) is not None and (what_to_do := wrong(options[name])):
            raise UsageError(f"trainer.{name} is {options[name]}: {what_to_do}.")
    interval = options.get("val_check_interval")
    if isinstance(interval, float) and options.get("check_val_every_n_epoch", 1) is None:
        raise UsageError(
            f"trainer.val_check_interval is {interval}: give a whole number of generations, at least 1, or a "
            "time such as 00:00:10:00 (days, hours, minutes, seconds)."
        )


def check_trainer(trainer: object) -> None:
    """Refuse a Trainer made by hand with values that would end a run later, or do nothing.

    Args:
        trainer: the ``lightning.pytorch.Trainer``.

    Raises:
        UsageError: the message names the option, and says what to do.
    """
    names = (*WITHOUT_MEANING, "limit_val_batches", "val_check_interval", "check_val_every_n_epoch")
    check_options({name: getattr(trainer, name) for name in names if hasattr(trainer, name)})


def _least(least: int, advice: str) -> Callable[[Any], str | None]:
    """Refuse numbers below the least one."""
    return lambda value: advice if value < least else None


def _of_train(value: float) -> str | None:
    if value == 0:
        return "there would be no generation: give a number of generations, or leave it out"
    return _share(value)


def _of_evaluation(value: float) -> str | None:
    if 0 < value < 1:
        return "a split is evaluated as one batch: give 0 for none, or use fewer problems, in data"
    return _share(value)


def _share(value: float) -> str | None:
    whole = value >= 0 and value == int(value)
    return None if whole or 0 < value < 1 else "give a whole number of batches, or a share between 0 and 1"


def _interval(value: Any) -> str | None:
    if not isinstance(value, int | float):
        return _duration(value)
    whole_or_share = 0 < value < 1 or (value >= 1 and value == int(value))
    return None if whole_or_share else "give a whole number of generations, at least 1"


def _duration(value: Any) -> str | None:
    try:
        seconds = _seconds(value)
    except (TypeError, ValueError, OverflowError):
        seconds = 0.0
    advice = "give a time above 0 such as 00:00:10:00 (days, hours, minutes, seconds)"
    return None if seconds > 0 else advice


def _seconds(value: Any) -> float:
    if isinstance(value, str):
        if not re.fullmatch(_DURATION, value.strip()):
            raise ValueError(value)
        value = dict(zip(("days", "hours", "minutes", "seconds"), map(int, value.split(":")), strict=True))
    length = value if isinstance(value, timedelta) else timedelta(**dict(value))
    return length.total_seconds()


def _devices(value: Any) -> str | None:
    if isinstance(value, str):
        number_or_indices = r"-1|[1-9]\d*|\d+(,\d+)+|\d+,"
        fine = value == "auto" or re.fullmatch(number_or_indices, value.replace(" ", "")) is not None
    elif isinstance(value, list | tuple):
        fine = bool(value) and all(isinstance(index, int) and index >= 0 for index in value)
    else:
        fine = isinstance(value, int) and (value == -1 or value >= 1)
    return None if fine else "give the number of ranks on this machine, such as 2, or auto"


def _strategy(value: Any) -> str | None:
    if not isinstance(value, str) or value in {"auto", "population"}:
        return None
    return "give population, which spreads the members over all ranks"


_RANGES: Mapping[str, Callable[[Any], str | None]] = {
    "max_steps": _least(-1, "give the number of generations, or leave it out for one pass over the problems"),
    "max_epochs": _least(-1, "give the number of passes over the problems, or set max_steps instead"),
    "min_steps": _least(0, "give a number of generations"),
    "min_epochs": _least(0, "give a number of passes over the problems"),
    "max_time": _duration,
    "devices": _devices,
    "num_nodes": _least(1, "give the number of machines"),
    "strategy": _strategy,
    "limit_train_batches": _of_train,
    "limit_val_batches": _of_evaluation,
    "limit_test_batches": _of_evaluation,
    "val_check_interval": _interval,
    "check_val_every_n_epoch": _least(1, "give null and set val_check_interval, or give at least 1"),
    "num_sanity_val_steps": _least(-1, "give 0, or leave it out"),
    "log_every_n_steps": _least(0, "give 1 to log every generation"),
    "reload_dataloaders_every_n_epochs": _least(0, "leave it out: batches are made anew for each generation"),
    "fast_dev_run": _least(0, "give the number of generations to try"),
}
