"""Folders that hold something else than a whole text model in plain numbers: one sentence for each kind."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from es_lightning.errors import UsageError

ADAPTER = "adapter_config.json"
_OTHER_TASK = re.compile(
    r"For(\w*Classification|QuestionAnswering|MultipleChoice|MaskedLM)$|Reward(Model|Modeling)?$"
)
_SENSES = {
    "images": "vision_config visual vq_config mm_vision_tower img_processor image_token_id image_token_index",
    "sound": "audio_config audio_encoder_config codec_config audio_token_id audio_token_index",
    "images and sound": "thinker_config",
}
"""What a model takes beside text, by the keys of config.json that tell of it."""
_PLAIN = (
    "every member needs the weights as plain numbers: give the model's unquantised release, or "
    "dequantise it once with transformers, save it with save_pretrained, and give the new folder."
)
_LEFTOVERS = {
    r"\.lora_": (
        "of an adapter that is not merged, and without it the model is another one: merge it with peft's "
        "merge_and_unload(), save that with save_pretrained, and give the new folder."
    ),
    r"\.(weight_scale|scales|qweight|qzeros|g_idx|weight_packed|absmax|quant_state)\b|_scale_inv$": (
        f"which belongs to codes, so the model is quantised, and {_PLAIN}"
    ),
    r"^(score|classifier|qa_outputs)\.": (
        "a head that writes no text: give the model for causal language modelling that it was made from, or "
        "another model.base."
    ),
}
"""Tensors that say what a model is, and what they say."""
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
        if (found := part.get(key)) is not None:
            method = found.get("quant_method") if isinstance(found, Mapping) else None
            kind = f"{method} in " if method else ""
            raise UsageError(f"the model in {folder} is quantised ({kind}config.json's {key}), and {_PLAIN}")
    if sense := next((sense for sense, keys in _SENSES.items() if any(map(config.get, keys.split()))), None):
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
    if not config.get("is_decoder") and _looks_both_ways(str(config.get("model_type"))):
        raise UsageError(
            f"the model in {folder} is an encoder ({config.get('model_type')}), which reads a text from both "
            "sides and continues none: give a model for causal language modelling."
        )
    listed = config.get("architectures") or []
    for name in listed if isinstance(listed, list) else [listed]:
        if _OTHER_TASK.search(str(name)):
            raise UsageError(
                f"the model in {folder} is a {name}, which has no head that writes text: give the model for "
                "causal language modelling that it was made from, or another model.base."
            )


def _looks_both_ways(kind: str) -> bool:
    """Whether models of a kind are made to fill in masked words, unless config.json makes one a decoder."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    return kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def check_leftovers(names: Sequence[str], folder: Path) -> None:
    """Refuse a model whose files hold tensors that say it is another one than config.json describes.

    Args:
        names: of the tensors that the model has no place for.
        folder: of the model.

    Raises:
        UsageError: they are an adapter's, the scales of codes, or a head for another task.
    """
    for pattern, what in _LEFTOVERS.items():
        if name := next((name for name in names if re.search(pattern, name)), None):
            raise UsageError(f"the files in {folder} hold {name}, {what}")


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
