"""Checks of the checkpoint that a run is to start from, and of the journal in it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from es_lightning.errors import UsageError
from es_lightning.journal.entry import parse
from es_lightning.system.checkpoint import check_checkpoint, check_content


def check_start(path: Path, resumes: bool) -> None:
    """Make sure that a run can start from a checkpoint, as far as that is known without a model.

    Args:
        path: the checkpoint.
        resumes: whether a fit goes on from it.

    Raises:
        UsageError: it is none, or it is damaged.
    """
    _check_journal(check_checkpoint(path, resumes), path)


def check_content_for(centre: nn.Module, content: Mapping[str, Any], path: Path, resumes: bool) -> None:
    """Make sure that a run with this model can start from what a checkpoint holds.

    Args:
        centre: the model that takes its weights.
        content: of the checkpoint.
        path: its file, for messages.
        resumes: whether a fit goes on from it.

    Raises:
        UsageError: it is no checkpoint of a run, it is damaged, or it holds another model.
    """
    check_content(content, path, resumes)
    _check_journal(content, path)
    if wrong := _other_model(content["state_dict"], centre):
        raise UsageError(
            f"{path} holds another model than model.base: {wrong}. Give the run's own base model, or start a "
            "new run in another folder with --trainer.default_root_dir."
        )


def _check_journal(content: Mapping[str, Any], path: Path) -> None:
    _, entries = parse(content["journal"], f"the journal in {path}")
    parent = content.get("steered", {}).get("after")
    if parent is not None and not -1 <= parent < len(entries):
        raise UsageError(
            f"{path} is damaged: its centre is that after generation {parent}, which its journal does not "
            "have. Give another --ckpt_path."
        )


def _other_model(state: Mapping[str, Any], centre: nn.Module) -> str:
    """Say which tensor of the model a checkpoint has not, or has in another shape; empty if there is none."""
    wanted = {f"centre.{name}": tensor for name, tensor in centre.state_dict().items()}
    for name, tensor in wanted.items():
        if name not in state:
            return f"it has no {name}"
        if state[name].shape != tensor.shape:
            shapes = [" x ".join(map(str, each.shape)) for each in (state[name], tensor)]
            return f"its {name} is {shapes[0]}, and the model's is {shapes[1]}"
    more = [name for name in state if name.startswith("centre.") and name not in wanted]
    return f"it has {more[0]}, which the model has not" if more else ""
