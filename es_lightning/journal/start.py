"""Checks of the checkpoint that a run is to start from, before Lightning reads it and an engine starts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from es_lightning.errors import UsageError
from es_lightning.journal.entry import parse
from es_lightning.system.checkpoint import check_checkpoint


def check_start(path: Path, centre: nn.Module, resumes: bool) -> None:
    """Make sure that a run can start from a checkpoint.

    Args:
        path: the checkpoint.
        centre: the model that takes its weights.
        resumes: whether a fit goes on from it.

    Raises:
        UsageError: it is none, it is damaged, or it holds another model.
    """
    content = check_checkpoint(path, resumes)
    _, entries = parse(content["journal"], f"the journal in {path}")
    parent = content.get("steered", {}).get("after")
    if parent is not None and parent >= len(entries):
        raise UsageError(
            f"{path} is damaged: its centre is that after generation {parent}, which its journal does not "
            "have. Give another --ckpt_path."
        )
    if wrong := _other_model(content["state_dict"], centre):
        raise UsageError(
            f"{path} holds another model than model.base: {wrong}. Give the run's own base model, or start a "
            "new run in another folder with --trainer.default_root_dir."
        )


def _other_model(state: Mapping[str, Any], centre: nn.Module) -> str:
    """Say which tensor a checkpoint has not, or has in another shape; empty if there is none."""
    for name, parameter in centre.named_parameters():
        key = f"centre.{name}"
        if key not in state:
            return f"it has no {key}"
        if state[key].shape != parameter.shape:
            shapes = [" x ".join(map(str, tensor.shape)) for tensor in (state[key], parameter)]
            return f"its {key} is {shapes[0]}, and the model's is {shapes[1]}"
    return ""
