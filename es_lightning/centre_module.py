"""A LightningModule around a centre: it sets model and engine up, evaluates the centre, and exports it.

The centre theta is ``self.centre``, a Hugging Face model in float32, and lives nowhere else. The engine
borrows copies of it, so there is nothing to restore: theta is never touched between updates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import lightning.pytorch as pl
import torch
from torch import Tensor

from es_lightning.algorithm.tensors import checksum
from es_lightning.datamodule import TaskDataModule
from es_lightning.distributed.ranks import Lane, lane_of
from es_lightning.distributed.strategy import PopulationStrategy
from es_lightning.errors import UsageError
from es_lightning.models import base_model
from es_lightning.models.export import export
from es_lightning.models.weights import BaseWeights
from es_lightning.records import Prompt
from es_lightning.rollout import RolloutEngine, Sampling, encode
from es_lightning.system.memory import trim_heap

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class CentreModule(pl.LightningModule):
    """What every way of tuning the centre shares; a subclass adds ``training_step``.

    Args:
        base: model to start from: ``embedded``, ``tiny``, a Hugging Face folder, or a hub id.
        sampling: how completions are decoded.
        engine: what generates.
        trust_remote_code: run Python code that comes with the model.
    """

    def __init__(self, base: str, sampling: Sampling, engine: RolloutEngine, trust_remote_code: bool) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.base = base
        self.sampling = sampling
        self.engine = engine
        self.trust_remote_code = trust_remote_code
        self._room = 0
        self._reserved = 0
        self._held: str | None = None

    @property
    def data(self) -> TaskDataModule:
        """The data module of this run, which knows the task."""
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, TaskDataModule):
            raise UsageError("the module needs a TaskDataModule: pass datamodule=TaskDataModule(task).")
        return data

    @property
    def generation(self) -> int:
        """Index of the present generation, from 0."""
        return int(self.trainer.global_step)

    @property
    def lane(self) -> Lane:
        """Which members and prompts this rank evaluates."""
        size = self.engine.tensor_parallel_size
        return lane_of(self.trainer.global_rank, self.trainer.world_size, size)

    def exchange(self, payload: bytes) -> list[bytes]:
        """What the ranks have to tell one another, in rank order.

        Raises:
            RankError: a rank did not come within the time-out.
        """
        strategy = self.trainer.strategy
        return strategy.exchange(payload) if isinstance(strategy, PopulationStrategy) else [payload]

    def check_ranks(self) -> None:
        """Refuse ranks that could not work together."""
        spread = isinstance(self.trainer.strategy, PopulationStrategy)
        if self.trainer.world_size > 1 and not spread:
            raise UsageError(
                "more than one rank needs the strategy that spreads the population: "
                "set trainer.strategy to population."
            )
        if self.engine.tensor_parallel_size > 1 and not spread:
            raise UsageError("tensor_parallel_size above 1 needs trainer.strategy population.")
        _ = self.lane
        config = base_model.load_config(self.folder, self.trust_remote_code)
        base_model.check_heads(config, self.engine.tensor_parallel_size)

    @cached_property
    def folder(self) -> Path:
        """Where the base model's files are."""
        return base_model.resolve(self.base)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The base model's."""
        return base_model.load_tokenizer(self.folder, self.trust_remote_code)

    @cached_property
    def base_weights(self) -> BaseWeights:
        """The weights that the run started from, read from their files."""
        return BaseWeights(self.folder)

    def setup(self, stage: str) -> None:
        """Check everything that costs nothing to check, then load the centre, then start the engine."""
        self.check_ranks()
        length = max(self._longest_sequence(self.data.splits_for(stage)), self._reserved)
        self.data.scorer.start()  # loads the task while the model is loaded here
        # Before the engine, which takes its share of what is left.
        self.configure_model()
        if length > self._room:
            if self._room:
                self.engine.close()  # a stage before this one, validate say, needed less
            self.engine.start(self.folder, length)
            self._room = length
            self.centre_has_changed()

    def configure_model(self) -> None:
        """Load the centre, once; callbacks that copy the module, as WeightAveraging does, call it first."""
        if not hasattr(self, "centre"):
            self.centre = base_model.load_model(self.folder, self.trust_remote_code)
            self.centre.to(self.trainer.strategy.root_device)

    def encode(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """The prompts with their token ids."""
        return encode(prompts, self.tokenizer)

    def reserve(self, prompts: Sequence[Prompt], max_tokens: int | None = None) -> list[Prompt]:
        """Encode a callback's own prompts, and let the engine be started with room for them.

        Callbacks call it in ``setup``, which comes before the engine's start.

        Args:
            prompts: what will be evaluated or sampled.
            max_tokens: most new tokens for each; None takes those of ``sampling``.

        Raises:
            UsageError: a prompt with its completion is longer than the model can take.
        """
        encoded = self.encode(prompts)
        self._reserved = max(self._reserved, self._longest(encoded, max_tokens))
        return encoded

    def _longest_sequence(self, splits: Sequence[str]) -> int:
        """Tokens of the longest prompt plus completion, checked against the model's length."""
        return self._longest([prompt for split in splits for prompt in self.data.encode(split, self.encode)])

    def _longest(self, prompts: Sequence[Prompt], max_tokens: int | None = None) -> int:
        limit = base_model.max_length(base_model.load_config(self.folder, self.trust_remote_code))
        new = self.sampling.max_tokens if max_tokens is None else max_tokens
        longest = max(prompts, key=lambda prompt: _length(prompt, new))
        length = _length(longest, new)
        if limit is not None and length > limit:
            raise UsageError(
                f"prompt {longest.id} has {len(longest.token_ids)} tokens; with max_tokens {new} that is "
                f"{length}, but the model ends at {limit}: lower max_tokens."
            )
        return length

    # The centre -----------------------------------------------------------------------------------

    @torch.no_grad()
    def unperturbed(self) -> Iterator[tuple[str, Tensor]]:
        """Stream (Hugging Face name, theta) in the engine's dtype, one tensor at a time."""
        for name, parameter in self.centre.named_parameters():
            yield name, parameter.to(self.engine.dtype)

    def base_stream(self) -> Iterator[tuple[str, Tensor]]:
        """Stream (Hugging Face name, base weight) in the engine's dtype, tensor by tensor from the files.

        Raises:
            UsageError: the files name their tensors otherwise than transformers does.
        """
        for name, parameter in self.centre.named_parameters():
            yield name, self.base_weights.read(name).to(parameter.device, self.engine.dtype)

    def load(self, named_tensors: Iterator[tuple[str, Tensor]]) -> None:
        """Stream weights into the engine."""
        self._held = None
        self.engine.load_weights(named_tensors)
        trim_heap()

    def load_centre(self) -> None:
        """Let the engine hold the centre, as it was at the last validation if it still holds that one."""
        if self._held != "centre":
            self.load(self.unperturbed())
            self._held = "centre"

    def load_base(self) -> None:
        """Let the engine hold the base model, until other weights are loaded."""
        if self._held != "base":
            self.load(self.base_stream())
            self._held = "base"

    def centre_has_changed(self) -> None:
        """Tell that the centre's weights were changed, so that the engine's copy is out of date."""
        self._held = None

    def checksum(self) -> str:
        """Sixteen hexadecimal digits of the centre; they change in updates alone."""
        digits = checksum(self.centre.named_parameters())
        trim_heap()
        return digits

    def export(self, folder: Path, card: str) -> None:
        """Write the centre as a Hugging Face folder in the base model's dtype."""
        export(self.centre, self.folder, folder, self.export_dtype, card)

    @property
    def export_dtype(self) -> torch.dtype:
        """The base model's own dtype."""
        return base_model.load_config(self.folder, self.trust_remote_code).dtype or torch.float32


def _length(prompt: Prompt, max_tokens: int) -> int:
    """Tokens that a prompt may come to."""
    if prompt.choices:
        return max(len(choice.token_ids) for choice in prompt.choices) + 1  # vLLM generates one more
    return len(prompt.token_ids) + max_tokens
