"""Whether the files of a model hold all of it: what is missing would otherwise be drawn at random."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from es_lightning.errors import UsageError
from es_lightning.models.kinds import check_leftovers, check_plain
from es_lightning.models.layout import Layout, persistent_buffers, tensors_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from es_lightning.models.weights import BaseWeights, StoredTensors

log = logging.getLogger(__name__)

SHOWN = 3
COMPILED = "_orig_mod."
_ANEW = "Get the model's files anew, or give another model.base."


def matched(model: PreTrainedModel, stored: StoredTensors) -> Layout:
    """Return the layout of a model's files, after making sure that they hold all of the model.

    No tensor is read: it takes a moment for a model of any size.

    Args:
        model: as config.json describes it, on any device.
        stored: the tensors in the files.

    Raises:
        UsageError: a tensor is missing, has another shape, or is no plain numbers.
    """
    folder = stored.folder
    try:
        layout = Layout(model, stored.entries)
    except Exception as error:  # parts that do not fit together fail in many ways
        what = " ".join(str(error).split())[:150] or type(error).__name__
        raise UsageError(
            f"the weights in {folder} do not fit its config.json: transformers cannot join them ({what}). "
            f"{_ANEW}"
        ) from error
    wanted = tensors_of(model)
    missing = [name for name in wanted if name not in layout and not _may_lack(model, name)]
    if missing:
        raise UsageError(_missing(missing, len(wanted), sorted(layout.unused), folder))
    check_leftovers(sorted(layout.unused), folder)
    parts = (part for name, _ in model.named_parameters() for part in layout.piece(name).stored)
    check_plain({part: stored.entries[part].dtype for part in parts}, folder)
    for name in filter(layout.__contains__, wanted):
        if layout.shape(name) != tuple(wanted[name].shape):
            raise UsageError(
                f"the weights in {folder} do not fit its config.json: {name} is {list(layout.shape(name))} "
                f"in the file and {list(wanted[name].shape)} in the configuration. {_ANEW}"
            )
    _tell_of(sorted(layout.unused), model, folder)
    return layout


def _tell_of(unused: list[str], model: PreTrainedModel, folder: Path) -> None:
    """Log which stored tensors the model has no place for, unless transformers knows them as leftovers."""
    patterns = (*(model._keys_to_ignore_on_load_unexpected or ()), r"rotary_emb\.inv_freq", "position_ids$")
    unknown = [name for name in unused if not any(re.search(pattern, name) for pattern in patterns)]
    if unknown and os.environ.get("RANK", "0") == "0":
        log.warning(
            "%d tensors in %s have no place in the model that its config.json describes, the first is %s: "
            "they are not tuned, and exports do not have them.",
            len(unknown),
            folder,
            unknown[0],
        )


def check_tied(model: PreTrainedModel, weights: BaseWeights) -> None:
    """Refuse a head that config.json ties to the embedding and that the files hold with other values.

    transformers would not tie the two, and vLLM would: the run would tune neither model.

    Raises:
        UsageError: they differ.
    """
    for head, embedding in model.all_tied_weights_keys.items():
        both = head in weights and embedding in weights
        if both and not torch.equal(weights.read(head), weights.read(embedding)):
            raise UsageError(
                f"config.json in {weights.folder} says that {head} is {embedding} (tie_word_embeddings), and "
                "the files hold different values for the two: set tie_word_embeddings to false there, or "
                f"remove {head} from the files."
            )


def _may_lack(model: PreTrainedModel, name: str) -> bool:
    """Whether transformers takes a buffer's value from its constructor; a parameter's would be random."""
    patterns = model._keys_to_ignore_on_load_missing or ()  # as its own loader does
    return name in persistent_buffers(model) and any(re.search(pattern, name) for pattern in patterns)


def _missing(missing: list[str], count: int, unused: list[str], folder: Path) -> str:
    more = ", ".join(missing[1:SHOWN]) + (", ..." if len(missing) > SHOWN else "")
    shown = f"the first is {missing[0]}" + (f", then {more}" if more else "")
    tensors = f"{len(missing)} of the model's {count} tensors are missing in {folder}, {shown}"
    instead = f"; there are {len(unused)} others, such as {unused[0]}" if unused else ""
    if any(COMPILED in name for name in unused):
        advice = (
            "they were saved from a compiled model: save model._orig_mod with save_pretrained, or take "
            f"{COMPILED} out of the names."
        )
    elif any(".base_layer." in name for name in unused):
        advice = "they are of an adapter that is not merged: save what peft's merge_and_unload() gives."
    elif prefix := _wrapper(missing, unused):
        advice = (
            f"they were saved from a wrapper, which puts {prefix} before their names: save the model within "
            "it with save_pretrained, or take that out of the names."
        )
    elif all(name.startswith(("lm_head.", "embed_out.")) for name in missing):
        advice = (
            "without it no text can be written, and a random one would take its place: give the model for "
            "causal language modelling."
        )
    else:
        advice = "random ones would take their place. " + _ANEW
    return f"{tensors}{instead}: {advice}"


def _wrapper(missing: list[str], unused: list[str]) -> str:
    """Return what stands before the names of all missing tensors in the files; empty if nothing does."""
    prefixes = {name.removesuffix(missing[-1]) for name in unused if name.endswith(missing[-1])}
    names = set(unused)
    return next((each for each in prefixes if each and all(each + name in names for name in missing)), "")
