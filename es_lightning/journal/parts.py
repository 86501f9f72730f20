"""The parts of an update that a journal's header describes, made again for a replay."""

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import LBFGS, Optimizer

from es_lightning.algorithm.regularisers import Regulariser
from es_lightning.errors import UsageError
from es_lightning.system.fields import fault, like


def optimizer_of(
    described: Mapping[str, Any], centre: nn.Module, trust_remote_code: bool = False
) -> Optimizer:
    """Make the optimizer that ``describe_optimizer`` described.

    Args:
        described: class, settings and number of parameter groups.
        centre: the model whose parameters it is to tune.
        trust_remote_code: import it from outside torch, too.

    Raises:
        UsageError: it is nowhere here, or may not be imported, or the description is damaged.
    """
    module, _, name = described["class"].rpartition(".")
    if not f"{module}.".startswith("torch.optim.") and not trust_remote_code:
        raise UsageError(
            f"the run's optimizer {described['class']} is not torch's own: look at its code, then give "
            "--trust_remote_code true to import it."
        )
    if described["groups"] != 1:
        raise UsageError("the run's optimizer has several parameter groups, which a journal does not hold.")
    kind = _imported("optimizer", described["class"])
    # Not every default is an argument: AdamW has decoupled_weight_decay from Adam and does not take it.
    known = inspect.signature(kind.__init__).parameters if inspect.isclass(kind) else {}
    settings = {key: value for key, value in described["settings"].items() if key in known}
    starts = {
        key: known[key].default for key in settings if known[key].default is not inspect.Parameter.empty
    }
    wrong = fault(settings, {key: like(start) for key, start in starts.items()})
    try:
        optimizer = kind(centre.parameters(), **settings)
    except (TypeError, ValueError, RuntimeError) as error:
        wrong = wrong or f"is refused by {name} ({str(error).splitlines()[0]})"
    if wrong or not isinstance(optimizer, Optimizer) or isinstance(optimizer, LBFGS):
        wrong = wrong or f"has the class {described['class']}, which is no optimizer of a run"
        raise UsageError(f"the journal's header is damaged: its optimizer {wrong}.")
    return optimizer


def describe_regulariser(part: Regulariser) -> dict[str, Any]:
    """Describe a regulariser in types that JSON has: its class and its settings."""
    kind = type(part)
    return {"class": f"{kind.__module__}.{kind.__qualname__}", "settings": part.settings()}


def regulariser_of(described: Mapping[str, Any], trust_remote_code: bool = False) -> Regulariser:
    """Make the regulariser that ``describe_regulariser`` described.

    Args:
        described: class and settings.
        trust_remote_code: import it from outside this library, too.

    Raises:
        UsageError: it is nowhere here, or may not be imported, or the description is damaged.
    """
    path = described["class"]
    if not path.startswith("es_lightning.") and not trust_remote_code:
        raise UsageError(
            f"the run's regulariser {path} is not this library's own: look at its code, then give "
            "--trust_remote_code true to import it."
        )
    kind = _imported("regulariser", path)
    if not (inspect.isclass(kind) and issubclass(kind, Regulariser)):
        raise UsageError(f"the journal's header is damaged: {path} is no regulariser.")
    try:
        return kind(**described["settings"])
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"the journal's header has settings that {path} does not take ({error}): use the version that "
            "the run was made with."
        ) from error


def _imported(what: str, path: str) -> Any:
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(
            f"the run's {what} {path} is nowhere here: install what the run was made with."
        ) from error
