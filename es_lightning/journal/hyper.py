"""The optimizer's settings: what the journal records of them, and how a replay restores them."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer


def describe_optimizer(optimizer: Optimizer) -> dict[str, Any]:
    """Describe an optimizer in types that JSON has: its class, settings and number of parameter groups."""
    kind = type(optimizer)
    settings = {name: _json_value(value) for name, value in _defaults(optimizer).items()}
    groups = len(optimizer.param_groups)
    return {"class": f"{kind.__module__}.{kind.__qualname__}", "settings": settings, "groups": groups}


def hyper_parameters(optimizer: Optimizer) -> dict[str, Any]:
    """Return lr, and the other settings of the first group that a schedule has changed."""
    group = optimizer.param_groups[0]
    starts = _defaults(optimizer).items()
    moved = {name: _json_value(group[name]) for name, start in starts if group[name] != start}
    return {"lr": _json_value(group["lr"]), **moved}


def set_hyper_parameters(optimizer: Optimizer, hyper: Mapping[str, Any]) -> None:
    """Apply what ``hyper_parameters`` returned; settings that it leaves out get their initial values."""
    for name, start in _defaults(optimizer).items():
        value = hyper.get(name, start)
        optimizer.param_groups[0][name] = tuple(value) if isinstance(start, tuple) else value


def _defaults(optimizer: Optimizer) -> dict[str, Any]:
    """Return the initial settings.

    Defaults without a value in the parameter groups are left out: when torch loads a state, it adds
    ``differentiable`` to the defaults of optimizers that do not have it.
    """
    return {name: start for name, start in optimizer.defaults.items() if name in optimizer.param_groups[0]}


def _json_value(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.item()
    return list(value) if isinstance(value, tuple) else value


# Learning rates that schedulers compute with, as keys of parameter groups (OneCycleLR) and as attributes of
# their own (CyclicLR).
_OF_GROUPS, _OF_SCHEDULERS = ("lr", "initial_lr", "max_lr", "min_lr"), ("base_lrs", "max_lrs")


def scale_lr(optimizer: Optimizer, scheduler: Any, factor: float) -> None:
    """Multiply an optimizer's learning rates, and those that its scheduler computes with, by a factor.

    Args:
        optimizer: changed in place.
        scheduler: the optimizer's scheduler, which may be made of others; None if there is none.
        factor: above 0.
    """
    for group in optimizer.param_groups:
        group |= {name: group[name] * factor for name in _OF_GROUPS if name in group}
    _scale(scheduler, factor)


def _scale(scheduler: Any, factor: float) -> None:
    for name in _OF_SCHEDULERS:
        if hasattr(scheduler, name):
            setattr(scheduler, name, [lr * factor for lr in getattr(scheduler, name)])
    for part in getattr(scheduler, "_schedulers", ()):  # of SequentialLR and ChainedScheduler
        _scale(part, factor)
