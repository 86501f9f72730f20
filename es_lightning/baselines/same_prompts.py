"""The texts that make TRL's tokenizer give exactly the tokens that the engine gets."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from es_lightning.errors import UsageError
from es_lightning.records import Prompt


def texts_of(prompts: Sequence[Prompt], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return a text for each prompt, chat template, system message and prefill included.

    Args:
        prompts: encoded.
        tokenizer: of the base model.

    Raises:
        UsageError: a prompt is scored and not answered, or no text leads to its tokens.
    """
    return [_text(prompt, tokenizer) for prompt in prompts]


def _text(prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> str:
    if prompt.choices:
        raise UsageError(
            f"problem {prompt.id} is scored by the likelihood of its choices: nothing is sampled, so there "
            "is nothing that a policy gradient could learn from. Take a task whose replies are graded."
        )
    wanted = list(prompt.token_ids)
    for without in (False, True):  # a tokenizer that adds its own first token would add it twice
        ids = wanted[1:] if without else wanted
        text = str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
        if list(tokenizer(text=text)["input_ids"]) == wanted:
            return text
    raise UsageError(
        "TRL would train on other tokens than ES: the tokenizer does not lead back from the text of problem "
        f"{prompt.id} to its tokens. Choose another task or model for the comparison."
    )
