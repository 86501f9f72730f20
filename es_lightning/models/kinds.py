"""Folders that hold something else than a whole text model in plain numbers: one sentence for each kind."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

from es_lightning.errors import UsageError

ADAPTER = "adapter_config.json"
_OTHER_TASK = re.compile(
    r"For(\w*Classification|QuestionAnswering|MultipleChoice|MaskedLM)$|Reward(Model|Modeling)?$"
)
_SENSES = {"vision_config": "images", "visual": "images", "audio_config": "sound"}
_PLAIN = (
    "every member needs the weights as plain numbers: give the model's unquantised release, or "
    "dequantise it once with transformers, save it with save_pretrained, and give the new folder."
)
_PLAIN_TYPES = ("F64", "F32", "F16", "BF16")


def check_whole(folder: Path) -> None:
    """Refuse an adapter, which changes another model and is none itself.

    Raises:
        UsageError: the folder holds one.
    """
    if (folder / ADAPTER).is_file():
        raise UsageError(
            f"{folder} holds an adapter ({ADAPTER}), which is no whole model: merge it into its base with "
            "peft's merge_and_unload(), save that with save_pretrained and the tokenizer, and give the new "
            "folder."
        )


def check_kind(config: Mapping[str, Any], folder: Path) -> None:
    """Refuse a model that does not write text from text, or whose weights are no plain numbers.

    Args:
        config: what config.json holds.
        folder: of the model.

    Raises:
        UsageError: the message says which kind of model it is.
    """
    parts = [part for part in (config, config.get("text_config")) if isinstance(part, Mapping)]
    for part, key in product(parts, ("quantization_config", "compression_config")):
        if found := part.get(key):
            method = found.get("quant_method") if isinstance(found, Mapping) else None
            kind = f"{method} in " if method else ""
            raise UsageError(f"the model in {folder} is quantised ({kind}config.json's {key}), and {_PLAIN}")
    if sense := next((word for key, word in _SENSES.items() if config.get(key)), None):
        raise UsageError(
            f"the model in {folder} also takes {sense} ({config.get('model_type')}), and only models that "
            "take nothing but text can be tuned: give another model.base, such as a text model of the same "
            "family."
        )
    if config.get("is_encoder_decoder"):
        raise UsageError(
            f"the model in {folder} is an encoder with a decoder ({config.get('model_type')}), and a prompt "
            "has to be continued by one model: give another model.base, of a family for causal language "
            "modelling."
        )
    listed = config.get("architectures") or []
    for name in listed if isinstance(listed, list) else []:
        if _OTHER_TASK.search(str(name)):
            raise UsageError(
                f"the model in {folder} is a {name}, which has no head that writes text: give the model for "
                "causal language modelling that it was made from, or another model.base."
            )


def check_plain(dtypes: Mapping[str, str], folder: Path) -> None:
    """Refuse weights whose numbers are codes.

    Args:
        dtypes: the type of each tensor that the model is made of, by the names of safetensors.
        folder: of the model.

    Raises:
        UsageError: one is no plain floating-point type.
    """
    coded = [name for name, dtype in dtypes.items() if dtype not in _PLAIN_TYPES]
    if coded:
        raise UsageError(
            f"the model in {folder} holds {dtypes[coded[0]]} numbers ({coded[0]}), which are codes, and "
            f"{_PLAIN}"
        )
