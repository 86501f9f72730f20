"""The text of a completion as it grows: token by token behind its prompt, as vLLM writes it.

A token's text can depend on what stands before it: some tokenizers drop the space before the first word that
they decode. Decoded alone, a completion would lose it, and engines would differ in rewards and stop strings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from es_lightning.records import Completion

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase

INCOMPLETE = "\ufffd"
"""Stands in for the first bytes of a character whose other bytes are still to come."""
CONTEXT = 5
"""Tokens of the prompt that are decoded with the completion, as in vLLM."""
TAIL = 16
"""Tokens at the end of a completion that are looked at for an incomplete character."""


class Completing:
    """A completion under way.

    Args:
        tokenizer: of the model.
        prompt: its token ids.
        end_ids: tokens that end a completion; they have no part in its text.
        stop: strings that end a completion; they have no part in its text either.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompt: Sequence[int],
        end_ids: Sequence[int],
        stop: Sequence[str],
    ) -> None:
        self._tokenizer, self._stream = tokenizer, _stream(tokenizer, prompt)
        self._unsaid: list[int] = []  # tokens that have added no text yet
        self._end_ids, self._stop = end_ids, stop
        self.tokens: list[int] = []
        self.text, self.has_ended = "", False

    def add(self, token: int) -> None:
        """Take the next token; whatever comes after the end is ignored."""
        if self.has_ended:
            return
        self.tokens.append(token)
        if token in self._end_ids:
            self.has_ended = True
            return
        new, known = self._stream.step(token), len(self.text)
        self._unsaid = [] if new else [*self._unsaid, token]
        self.text += new
        found = [(at + len(stop), at) for stop in self._stop if (at := self._first(stop, known)) >= 0]
        if found:
            self.text, self.has_ended = self.text[: min(found)[1]], True  # the first one to be complete

    def finish(self) -> None:
        """Add what the last tokens say where a character stays incomplete; there is no more to come."""
        said = [token for token in self.tokens if token not in self._end_ids]
        if self._unsaid and _is_cut(self._tokenizer, said):
            self.text += str(self._tokenizer.decode(self._unsaid, skip_special_tokens=True))
        self._unsaid = []

    def _first(self, stop: str, known: int) -> int:
        """Return where a stop string begins that the last token has completed; -1 if there is none."""
        return self.text.find(stop, max(0, known + 1 - len(stop)))


def end_ids(config: GenerationConfig | None, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return every token that ends a completion: the model's and the tokenizer's, as in vLLM.

    Args:
        config: generation_config.json of the model; None if it has none.
        tokenizer: of the model.
    """
    listed = config.eos_token_id if config is not None else None
    ids = listed if isinstance(listed, list) else [listed]
    return tuple(dict.fromkeys(int(i) for i in [*ids, tokenizer.eos_token_id] if i is not None))


def completed(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Sequence[int],
    tokens: Sequence[int],
    end_ids: Sequence[int],
    stop: Sequence[str] = (),
) -> Completion:
    """Return the completion that an engine would have made of tokens that something else has sampled.

    Args:
        tokenizer: of the model.
        prompt: its token ids.
        tokens: the new ones; what comes after the end is left out.
        end_ids: tokens that end a completion.
        stop: strings that end a completion.
    """
    under_way = Completing(tokenizer, prompt, end_ids, stop)
    for token in tokens:
        under_way.add(token)
    under_way.finish()
    reason = "stop" if under_way.has_ended else "length"
    return Completion(under_way.text, tuple(under_way.tokens), reason)


def with_its_end(
    text: str, tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], said: Sequence[int]
) -> str:
    """Return the text that vLLM has for a completion, with its end where the last character is incomplete.

    Args:
        text: of vLLM, which leaves that end out.
        tokenizer: of the model.
        prompt: its token ids.
        said: those of the completion, without an end token.
    """
    if not _is_cut(tokenizer, said):
        return text
    whole = Completing(tokenizer, prompt, (), ())
    for token in said:
        whole.add(token)
    whole.finish()
    return whole.text


def _is_cut(tokenizer: PreTrainedTokenizerBase, said: Sequence[int]) -> bool:
    """Whether the last character of a completion is incomplete."""
    return str(tokenizer.decode(list(said[-TAIL:]), skip_special_tokens=True)).endswith(INCOMPLETE)


class _Stream(Protocol):
    def step(self, token: int) -> str:
        """Return the text that a token adds; empty while a character is incomplete."""


def _stream(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int]) -> _Stream:
    return _Fast(tokenizer, prompt) if tokenizer.is_fast else _Slow(tokenizer, prompt)


class _Fast:
    """The stream of the tokenizers library, which vLLM uses too."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int]) -> None:
        from tokenizers.decoders import DecodeStream

        self._backend = tokenizer.backend_tokenizer
        self._stream = DecodeStream(ids=list(prompt), skip_special_tokens=True)

    def step(self, token: int) -> str:
        try:
            return self._stream.step(self._backend, token) or ""
        except Exception as error:
            if not str(error).startswith("Invalid prefix"):
                raise
        # Bytes that are no text can change what was decoded before them; vLLM then begins anew as well.
        from tokenizers.decoders import DecodeStream

        self._stream = DecodeStream(skip_special_tokens=True)
        return self._stream.step(self._backend, token) or ""


class _Slow:
    """For tokenizers in Python: what is decoded with the token, less what is decoded without it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int]) -> None:
        self._tokenizer, self._ids = tokenizer, list(prompt[-CONTEXT:])
        self._from, self._said = 0, len(self._ids)

    def step(self, token: int) -> str:
        self._ids.append(token)
        before, now = self._decoded(self._said), self._decoded(len(self._ids))
        if len(now) <= len(before) or now.endswith(INCOMPLETE):
            return ""
        self._from, self._said = self._said, len(self._ids)
        return now[len(before) :]

    def _decoded(self, end: int) -> str:
        return str(self._tokenizer.decode(self._ids[self._from : end], skip_special_tokens=True))
