"""What a rollout engine is: it loads weights, generates completions and computes log-probabilities."""

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from es_lightning.errors import DivergenceError, UsageError
from es_lightning.records import Completion, Prompt
from es_lightning.system.hardware import computes_in_bfloat16, instructions

log = logging.getLogger(__name__)
DTypeName = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Sampling:
    """How completions are decoded. Greedy by default, so that rewards differ only through the weights.

    Args:
        max_tokens: largest number of new tokens of one completion.
        temperature: 0 for greedy decoding; above 0 samples.
        top_p: nucleus mass kept when sampling, in (0, 1].
        n: completions per prompt; more than one needs a temperature above 0.
        stop: strings that end a completion; they are not part of its text.
        seed: seed of the sampler; used only with a temperature above 0.
        pass_k: how many of a prompt's n completions count as one try, of which the best is rewarded: its
            reward is the mean best of k over all choices of k, which is pass@k. 1 takes the mean of all n.

    Raises:
        UsageError: a value is outside its range.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    n: int = 1
    stop: list[str] = field(default_factory=list)
    seed: int = 0
    pass_k: int = 1

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        if self.max_tokens < 1:
            raise UsageError(f"sampling.max_tokens is {self.max_tokens}: give at least 1.")
        if self.temperature < 0:
            raise UsageError(f"sampling.temperature is {self.temperature}: give 0 (greedy) or more.")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"sampling.top_p is {self.top_p}: give a number above 0 and at most 1.")
        if self.n < 1:
            raise UsageError(f"sampling.n is {self.n}: give at least 1.")
        if self.pass_k < 1:
            raise UsageError(f"sampling.pass_k is {self.pass_k}: give at least 1.")
        if self.pass_k > self.n:
            raise UsageError(
                f"sampling.pass_k is {self.pass_k} and sampling.n {self.n}: the best of {self.pass_k} needs "
                f"as many completions of a prompt, so set n: {self.pass_k} or more."
            )
        if not all(self.stop):
            raise UsageError(
                "sampling.stop holds an empty text, which would end every completion: remove it."
            )
        if self.n > 1 and self.temperature == 0:
            raise UsageError(
                f"sampling.n is {self.n} with temperature 0: greedy completions are all alike, "
                "so set n: 1 or a temperature above 0."
            )


class RolloutEngine(ABC):
    """Base class of all engines. The constructor does little; ``start`` loads the model.

    Args:
        dtype: precision of the engine's weights; ``auto``: the base model's own, but on CPUs without
            instructions for bfloat16 float32, which is faster there.
        trust_remote_code: run Python code that comes with the model folder.
    """

    tensor_parallel_size = 1
    """Number of consecutive ranks, together called a lane, that hold one copy of the model.

    An engine that can split a model sets it.
    """

    may_write_in_place = False
    """Whether the engine, once started, has a faster way to load weights, which has to be verified first."""

    gives_distributions = False
    """Whether ``distributions`` works."""

    in_place = False
    """Whether ``load_weights`` takes that way; a check of the engine decides."""

    def __init__(self, dtype: DTypeName = "auto", trust_remote_code: bool = False) -> None:
        self.dtype_name = dtype
        self.trust_remote_code = trust_remote_code

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """Precision in which the engine takes weights; known after ``start``."""

    def check(self, folder: Path) -> None:  # noqa: B027 (an engine may have nothing to refuse)
        """Refuse a model that the engine cannot run; nothing is loaded for that. By default all are fine.

        Args:
            folder: a Hugging Face model folder.

        Raises:
            UsageError: the message says why.
        """

    def leave_free(self, size: int) -> None:  # noqa: B027 (an engine may take no more than it needs)
        """Make the next start leave memory of the device to others. By default nothing is done.

        Args:
            size: bytes that loads and updates will take besides what is in use by then.
        """

    @abstractmethod
    def start(self, folder: Path, max_length: int) -> None:
        """Load the model.

        Args:
            folder: a Hugging Face model folder.
            max_length: largest length of a prompt together with its completion, in tokens.
        """

    @abstractmethod
    def load_weights(self, named_tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Replace all weights.

        Args:
            named_tensors: (Hugging Face name, tensor) for every parameter, tied ones once, in the engine's
                dtype, and for every persistent buffer in its own. The engine takes one tensor at a time, so a
                generator needs memory for only one.
        """

    def refuse_in_place(self, reason: str) -> None:
        """Go on with the way to load weights that is always right.

        Args:
            reason: what is wrong with the faster one.

        Raises:
            UsageError: the engine was told to take no other.
        """
        self.in_place = False
        if os.environ.get("RANK", "0") == "0":
            log.warning("New weights are loaded by the engine's own reload: %s.", reason)

    @abstractmethod
    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        """Complete every prompt with the weights loaded last.

        Args:
            prompts: P encoded prompts.
            sampling: how to decode.

        Returns:
            P * n completions in the order of the prompts, with the n samples of one prompt side by side.

        Raises:
            DivergenceError: the weights give log-probabilities that are not finite. An engine that does not
                see them while it generates asks ``require_finite``, once per load of weights.
        """

    @abstractmethod
    def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
        """Return the log-probability of each token given the tokens before it.

        Args:
            sequences: token ids, at least 2 in each sequence.

        Returns:
            One float32 CPU tensor [L - 1], in nats, per sequence of length L. The first token has no context
            and so no value.
        """

    def choice_logprobs(self, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
        """Return what ``logprobs`` does, for prompts with their answers.

        An engine may compute what they begin with once. The last bits then depend on which sequences are
        given together.

        Args:
            sequences: as in ``logprobs``.
        """
        return self.logprobs(sequences)

    def distributions(
        self, sequences: Sequence[Sequence[int]], positions: Sequence[Sequence[int]]
    ) -> Iterator[Tensor]:
        """Yield the log-probabilities of the whole vocabulary at some positions of each sequence.

        Args:
            sequences: token ids.
            positions: per sequence K indices of tokens, from 1 on: the distribution of token i is that of
                what follows the tokens before it.

        Returns:
            One float32 CPU tensor [K, V], in nats, per sequence.

        Raises:
            UsageError: the engine tells the log-probabilities of single tokens only.
        """
        raise UsageError(
            f"{type(self).__name__} does not tell the log-probabilities of the whole vocabulary: "
            "take HFEngine."
        )

    @abstractmethod
    def close(self) -> None:
        """Free the model's memory; a closed engine can be started again."""


def require_finite(logprobs: Iterable[Tensor]) -> None:
    """Refuse log-probabilities that are not finite.

    Raises:
        DivergenceError: one is NaN or infinite.
    """
    if not all(bool(row.isfinite().all()) for row in logprobs):
        raise DivergenceError("the log-probabilities of tokens are not finite")


def model_dtype(name: DTypeName, base: torch.dtype, device: torch.device, tell: bool = False) -> torch.dtype:
    """Return the torch dtype that an engine's option names.

    ``auto`` is the base model's own on an accelerator, but float16 for bfloat16 on GPUs that are too old for
    it, and float32 for float64, for which nobody has kernels. On a CPU it is the fastest that loses nothing:
    half precision is bfloat16 where the CPU computes in it, and float32 where that would be slower.

    Args:
        name: the option.
        base: precision of the base model's files.
        device: where the engine computes.
        tell: log what ``auto`` has found on a CPU; the engine that starts does, and nobody else.
    """
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name != "auto":
        return dtypes[name]
    if base == torch.float64:
        return torch.float32
    if device.type == "cuda" and base == torch.bfloat16 and torch.cuda.is_available():
        return base if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type != "cpu" or base == torch.float32:
        return base
    dtype = torch.bfloat16 if base == torch.bfloat16 and computes_in_bfloat16() else torch.float32
    if tell and os.environ.get("RANK", "0") == "0":
        precision, kinds = str(dtype).removeprefix("torch."), ", ".join(instructions()) or "no vectors"
        log.info("The engine computes in %s, the fastest on this CPU (%s).", precision, kinds)
    return dtype
