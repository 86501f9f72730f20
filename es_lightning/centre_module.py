"""A LightningModule around a centre: it sets model and engine up, evaluates the centre, and exports it.

The centre theta is ``self.centre``, a Hugging Face model in float32, and lives nowhere else. The engine
borrows copies of it, so there is nothing to restore: theta is never touched between updates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import lightning.pytorch as pl
import torch
from torch import Tensor

from es_lightning import model_io
from es_lightning.centre import BaseWeights, checksum
from es_lightning.data import TaskDataModule
from es_lightning.errors import UsageError
from es_lightning.generation import Evaluation, Prompt
from es_lightning.memory import trim_heap
from es_lightning.metrics import MeanByKey, measured
from es_lightning.rollout import RolloutEngine, Sampling, encode
from es_lightning.scoring import score
from es_lightning.stopwatch import Stopwatch


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
        self._engine_started = False
        self.val_means, self.test_means = MeanByKey(), MeanByKey()

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

    def setup(self, stage: str) -> None:
        """Check everything that costs nothing to check, then load the centre, then start the engine."""
        self.folder = model_io.resolve(self.base)
        self.tokenizer = model_io.load_tokenizer(self.folder, self.trust_remote_code)
        length = self._longest_sequence(self.data.splits_for(stage))
        if not hasattr(self, "centre"):
            self.centre = model_io.load_centre(self.folder, self.trust_remote_code)
            self.base_weights = BaseWeights(self.folder)
        if not self._engine_started:
            self.engine.start(self.folder, length)
            self._engine_started = True

    def _encode(self, prompts: list[Prompt]) -> list[Prompt]:
        return encode(prompts, self.tokenizer)

    def _longest_sequence(self, splits: Sequence[str]) -> int:
        """Tokens of the longest prompt plus completion, checked against the model's length."""
        limit = model_io.max_length(model_io.load_config(self.folder, self.trust_remote_code))
        prompts = [prompt for split in splits for prompt in self.data.encode(split, self._encode)]
        longest = max(prompts, key=lambda prompt: len(prompt.token_ids))
        length = len(longest.token_ids) + self.sampling.max_tokens
        if limit is not None and length > limit:
            raise UsageError(
                f"prompt {longest.id} has {len(longest.token_ids)} tokens; with sampling.max_tokens "
                f"{self.sampling.max_tokens} that is {length}, but the model ends at {limit}: "
                "lower max_tokens."
            )
        return length

    # The centre -----------------------------------------------------------------------------------

    @torch.no_grad()
    def unperturbed(self) -> Iterator[tuple[str, Tensor]]:
        """Stream (Hugging Face name, theta) in the engine's dtype, one tensor at a time."""
        for name, parameter in self.centre.named_parameters():
            yield name, parameter.to(self.engine.dtype)

    def load(self, named_tensors: Iterator[tuple[str, Tensor]]) -> None:
        """Stream weights into the engine."""
        self.engine.load_weights(named_tensors)
        trim_heap()

    def checksum(self) -> str:
        """Sixteen hexadecimal digits of the centre; they change in updates alone."""
        return checksum(self.centre.named_parameters())

    def export(self, folder: Path, card: str) -> None:
        """Write the centre as a Hugging Face folder in the base model's dtype."""
        dtype = model_io.load_config(self.folder, self.trust_remote_code).dtype or torch.float32
        model_io.export(self.centre, self.folder, folder, dtype, card)

    # Evaluation -----------------------------------------------------------------------------------

    def rollout(self, prompts: Sequence[Prompt], watch: Stopwatch) -> Evaluation:
        """Generate and score with the weights that the engine holds."""
        sampling = replace(self.sampling, seed=self.sampling.seed + self.generation)
        with watch.phase("generate"):
            completions = self.engine.generate(prompts, sampling)
        with watch.phase("reward"):
            scores = score(self.data.task, prompts, completions)
        return Evaluation(tuple(prompts), tuple(completions), tuple(scores))

    def evaluate(self, split: str) -> Evaluation:
        """Generate and score the problems of a split with the centre.

        Args:
            split: ``train``, ``val`` or ``test``.
        """
        prompts = self.data.encode(split, self._encode)
        self.load(self.unperturbed())
        return self.rollout(prompts, Stopwatch())

    def on_validation_epoch_start(self) -> None:
        """Give the engine the centre."""
        self.load(self.unperturbed())

    def on_test_epoch_start(self) -> None:
        """Give the engine the centre."""
        self.load(self.unperturbed())

    def validation_step(self, prompts: list[Prompt], batch_idx: int) -> None:
        """Score the centre on validation prompts."""
        self.val_means.update(measured(self.rollout(prompts, Stopwatch())))

    def test_step(self, prompts: list[Prompt], batch_idx: int) -> None:
        """Score the centre on test prompts."""
        self.test_means.update(measured(self.rollout(prompts, Stopwatch())))

    def on_validation_epoch_end(self) -> None:
        """Log the means over the validation prompts."""
        self.log_dict(self.val_means.compute_and_reset("val"))

    def on_test_epoch_end(self) -> None:
        """Log the means over the test prompts."""
        self.log_dict(self.test_means.compute_and_reset("test"))
