"""What an engine of adapters is: it holds several thin changes of the loaded weights at once."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from math import ceil
from pathlib import Path

from torch import Tensor

from es_lightning.errors import DivergenceError
from es_lightning.records import Completion, Prompt
from es_lightning.rollout.engine import RolloutEngine, Sampling, require_finite

Factors = tuple[str, Tensor, Tensor]
"""A matrix's parameter name, and thin matrices [m, r] and [n, r]; the first times the second transposed is
added to it."""


class AdapterDivergence(DivergenceError):
    """An adapter gives log-probabilities that are not finite.

    Args:
        message: what is wrong.
        index: the adapter's place among those held.
    """

    def __init__(self, message: str, index: int) -> None:
        super().__init__(message)
        self.index = index


class AdapterEngine(RolloutEngine):
    """An engine that computes with several adapters in one batch.

    An adapter is a thin change of some matrices, beside the weights that were loaded last. All adapters are
    gone when weights are loaded. ``generate`` and ``logprobs`` compute with the weights as they are, unless
    an adapter has been chosen with ``using``.
    """

    @abstractmethod
    def reached(self, folder: Path) -> list[str]:
        """Name the parameters that an adapter can change, in the order of the model; nothing is loaded.

        Args:
            folder: a Hugging Face model folder.
        """

    @abstractmethod
    def expect(self, names: Sequence[str], rank: int, count: int) -> None:
        """Make the next start keep room for adapters; without this call there is none.

        Args:
            names: the parameters that they change, among those reached.
            rank: the most columns of their thin matrices.
            count: how many there will be, at least 1; ``at_once`` says how many of them a batch takes.

        Raises:
            UsageError: the engine cannot take so high a rank.
        """

    @property
    @abstractmethod
    def at_once(self) -> int:
        """The most adapters that are held together; 0 if none are expected."""

    @abstractmethod
    def load_adapters(self, adapters: Sequence[Iterable[Factors]]) -> None:
        """Take adapters in place of those before.

        Args:
            adapters: 1 to ``at_once`` of them; what they do not name is not changed.
        """

    @abstractmethod
    def generate_each(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """Complete every prompt with every adapter, in one batch.

        Returns:
            Per adapter what ``generate`` returns.

        Raises:
            AdapterDivergence: an adapter gives log-probabilities that are not finite.
        """

    @abstractmethod
    def logprobs_each(self, sequences: Sequence[Sequence[int]]) -> list[list[Tensor]]:
        """Compute log-probabilities with every adapter in one batch; each gets what ``logprobs`` gives."""

    @abstractmethod
    def using(self, index: int) -> AbstractContextManager[None]:
        """Let ``generate`` and ``logprobs`` compute with one of the adapters, by its place among them."""


def even_share(count: int, most: int) -> int:
    """Return how many of ``count`` a batch takes so that all batches are alike, and none has one left over.

    Args:
        count: how many there are, at least 0.
        most: the most of one batch, at least 1.
    """
    return ceil(count / max(1, ceil(count / most)))


def require_finite_each(logprobs: Sequence[Sequence[Tensor]]) -> None:
    """Refuse log-probabilities that are not finite, per adapter.

    Raises:
        AdapterDivergence: one is NaN or infinite.
    """
    for index, rows in enumerate(logprobs):
        try:
            require_finite(rows)
        except DivergenceError as error:
            raise AdapterDivergence(str(error), index) from error
