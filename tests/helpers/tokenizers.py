"""Tokenizers made on the spot, each with a habit of its own."""

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
WORDS = [
    "▁",
    "▁world",
    "▁w",
    "orld",
    "Hello",
    "▁Hello",
    "!",
    "▁you",
    "you",
    "[INST]",
    "▁[/INST]",
    "o",
    "r",
    "ld",
]


def like_llama_2(end: str = "</s>", special: bool = True, **options: str) -> PreTrainedTokenizerFast:
    """A tokenizer that writes spaces as a sign before words, and drops the first one when it decodes."""
    names = ["<unk>", "<s>", end, *BYTES, *WORDS]
    backend = Tokenizer(
        models.BPE(
            vocab={name: i for i, name in enumerate(names)},
            merges=[],
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_tokens([AddedToken(end, special=special, normalized=False)])
    known = {"bos_token": "<s>", "unk_token": "<unk>"} | options
    return PreTrainedTokenizerFast(tokenizer_object=backend, **known)
