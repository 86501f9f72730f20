"""The optimizer's settings: what the journal keeps of them, and how a replay puts them back."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer


def describe_optimizer(optimizer: Optimizer) -> dict[str, Any]:
    """An optimizer's class, settings and number of parameter groups, as JSON can hold them."""
    kind = type(optimizer)
    settings = {name: _json_value(value) for name, value in _defaults(optimizer).items()}
    groups = len(optimizer.param_groups)
    return {"class": f"{kind.__module__}.{kind.__qualname__}", "settings": settings, "groups": groups}


def hyper_parameters(optimizer: Optimizer) -> dict[str, Any]:
    """lr, and whatever else of the first group a schedule has moved from where it started."""
    group = optimizer.param_groups[0]
    starts = _defaults(optimizer).items()
    moved = {name: _json_value(group[name]) for name, start in starts if group[name] != start}
    return {"lr": _json_value(group["lr"]), **moved}


def set_hyper_parameters(optimizer: Optimizer, hyper: Mapping[str, Any]) -> None:
    """The inverse of ``hyper_parameters``."""
    for name, start in _defaults(optimizer).items():
        value = hyper.get(name, start)
        optimizer.param_groups[0][name] = tuple(value) if isinstance(start, tuple) else value


def _defaults(optimizer: Optimizer) -> dict[str, Any]:
    """What the settings were at first; loading a state adds one to the defaults of optimizers without it."""
    return {name: start for name, start in optimizer.defaults.items() if name in optimizer.param_groups[0]}


def _json_value(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.item()
    return list(value) if isinstance(value, tuple) else value


# Learning rates that schedulers compute with, in parameter groups (OneCycleLR) and in themselves (CyclicLR).
_OF_GROUPS, _OF_SCHEDULERS = ("lr", "initial_lr", "max_lr", "min_lr"), ("base_lrs", "max_lrs")


def scale_lr(optimizer: Optimizer, scheduler: Any, factor: float) -> None:
    """Multiply an optimizer's learning rates, and those that its scheduler computes with.

    Args:
        optimizer: changed in place.
        scheduler: of that optimizer, also one that is made of others; None if there is none.
        factor: above 0.
    """
    for group in optimizer.param_groups:
        group |= {name: group[name] * factor for name in _OF_GROUPS if name in group}
    _scale(scheduler, factor)


def _scale(scheduler: Any, factor: float) -> None:
    for name in _OF_SCHEDULERS:
        if hasattr(scheduler, name):
            setattr(scheduler, name, [lr * factor for lr in getattr(scheduler, name)])
    for part in getattr(scheduler, "_schedulers", ()):
        _scale(part, factor)
