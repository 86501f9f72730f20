"""Evolution strategies as a LightningModule: one training step is one generation.

The centre theta is ``self.centre``: a Hugging Face model in float32, the only place where it lives. The engine borrows
perturbed copies of it; there is nothing to restore, because theta is never touched between updates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torchmetrics.aggregation import MeanMetric

from es_lightning import model_io
from es_lightning.errors import RewardError, UsageError
from es_lightning.centre import BaseWeights, checksum
from es_lightning.data import TaskDataModule
from es_lightning.generation import Evaluation, Generation, Member, Prompt
from es_lightning.metrics import MeanByKey, PopulationReward, measured, record_metrics
from es_lightning.noise import GaussianNoise, Noise
from es_lightning.population import Population
from es_lightning.rollout import RolloutEngine, Sampling, VLLMEngine, encode
from es_lightning.scoring import score
from es_lightning.shaping import all_alike, z_score
from es_lightning.stopwatch import Stopwatch
from es_lightning.update import StepSize, apply_update


class EvolutionStrategies(pl.LightningModule):
    """Full-parameter fine-tuning by evolution strategies (arXiv 2509.24372).

    Args:
        base: model to start from: ``embedded``, ``tiny``, a Hugging Face folder, or a hub id.
        population: number of members N of a generation.
        sigma: noise scale in units of the weights; a member is theta + sigma * eps.
        optimizer: any ``torch.optim`` optimizer; SGD with lr = alpha is the paper's update.
        lr_scheduler: any scheduler over that optimizer, stepped once per generation.
        sampling: how completions are decoded.
        engine: what generates; None takes vLLM with its defaults.
        noise: kind of noise; None takes independent Gaussian noise.
        shaping: from rewards [N, P] to weights [N], for example ``es_lightning.shaping.z_score``.
        antithetic: pairs of members with the same noise and opposite signs.
        seed: the run seed, which keys all noise; any integer.
        trust_remote_code: run Python code that comes with the model.

    Raises:
        UsageError: a value is outside its range.
    """

    def __init__(
        self,
        base: str = "embedded",
        population: int = 30,
        sigma: float = 0.001,
        optimizer: OptimizerCallable = lambda p: torch.optim.SGD(p, lr=0.0005),
        lr_scheduler: LRSchedulerCallable | None = None,
        sampling: Sampling | None = None,
        engine: RolloutEngine | None = None,
        noise: Noise | None = None,
        shaping: Callable[[Tensor], Tensor] = z_score,
        antithetic: bool = False,
        seed: int = 0,
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__()
        if not sigma > 0:
            raise UsageError(f"sigma is {sigma}: give a noise scale above 0, for example 0.001.")
        self.automatic_optimization = False
        self.base = base
        self.sigma = sigma
        self.population = Population(population, seed, antithetic)
        self.sampling = sampling or Sampling()
        self.engine = engine or VLLMEngine(trust_remote_code=trust_remote_code)
        self.noise = noise or GaussianNoise()
        self.shaping = shaping
        self.trust_remote_code = trust_remote_code
        self._make_optimizer, self._make_scheduler = optimizer, lr_scheduler
        self._drift = 0.0
        self._engine_started = False
        self.population_reward = PopulationReward()
        self.tokens_per_second = MeanMetric()
        self.val_means, self.test_means = MeanByKey(), MeanByKey()

    # Setting up -----------------------------------------------------------------------------------------------------

    @property
    def data(self) -> TaskDataModule:
        """The data module of this run, which knows the task."""
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, TaskDataModule):
            raise UsageError("EvolutionStrategies needs a TaskDataModule: pass datamodule=TaskDataModule(task).")
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
                f"{self.sampling.max_tokens} that is {length}, but the model ends at {limit}: lower max_tokens."
            )
        return length

    def configure_optimizers(self) -> Any:
        """The optimizer over the centre, with the scheduler if there is one."""
        optimizer = self._make_optimizer(self.centre.parameters())
        if self._make_scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": self._make_scheduler(optimizer)}

    # One generation -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def training_step(self, prompts: list[Prompt], batch_idx: int) -> dict[str, Generation]:
        """Perturb, generate, score, shape, update: one generation.

        Args:
            prompts: the batch, P encoded prompts, the same for every member.
            batch_idx: not used; the generation's index decides everything.

        Returns:
            The record of the generation, for callbacks.
        """
        watch = Stopwatch()
        members = self.population.members(self.generation)
        lr = self.lr
        evaluations = [self._evaluate_member(member, prompts, watch) for member in members]
        rewards = torch.tensor([evaluation.rewards for evaluation in evaluations], dtype=torch.float64)  # [N, P]
        skipped = all_alike(rewards)
        weights = torch.zeros(len(members), dtype=torch.float64) if skipped else self.shaping(rewards)  # [N]
        with watch.phase("update"):
            size = self._update(members, weights, skipped)
        record = Generation(
            index=self.generation - 1,  # the optimizer's step has counted this one already
            members=members,
            prompts=tuple(prompts),
            rewards=rewards,
            weights=weights,
            sigma=self.sigma,
            lr=lr,
            skipped=skipped,
            update_norm=size.update_norm,
            drift=size.drift,
            seconds=watch.seconds,
            evaluations=tuple(evaluations),
        )
        self._log_generation(record)
        return {"generation": record}

    def _evaluate_member(self, member: Member, prompts: Sequence[Prompt], watch: Stopwatch) -> Evaluation:
        with watch.phase("perturb"):
            self.engine.load_weights(self.perturbed(member))
        try:
            return self._evaluate(prompts, watch)
        except RewardError as error:
            raise RewardError(f"{error} (member {member.index} of generation {self.generation})") from error

    def _evaluate(self, prompts: Sequence[Prompt], watch: Stopwatch) -> Evaluation:
        sampling = replace(self.sampling, seed=self.sampling.seed + self.generation)
        with watch.phase("generate"):
            completions = self.engine.generate(prompts, sampling)
        with watch.phase("reward"):
            scores = score(self.data.task, prompts, completions)
        return Evaluation(tuple(prompts), tuple(completions), tuple(scores))

    def _update(self, members: Sequence[Member], weights: Tensor, skipped: bool) -> StepSize:
        size = StepSize(0.0, self._drift)
        if not skipped:
            named = self.centre.named_parameters()
            size = apply_update(self._optimizer, named, members, weights, self.noise, self.base_weights)
        self._drift = size.drift
        # No parameter has a gradient any more, so this step changes nothing: it makes Lightning count the generation.
        self.optimizers().step()  # type: ignore[union-attr]
        schedulers = self.lr_schedulers()
        for scheduler in [schedulers] if not isinstance(schedulers, list) else schedulers:
            if scheduler is not None:
                scheduler.step()  # type: ignore[call-arg]
        return size

    @property
    def lr(self) -> float:
        """Learning rate of the next update; alpha in the papers."""
        return float(self._optimizer.param_groups[0]["lr"])

    @property
    def _optimizer(self) -> torch.optim.Optimizer:
        return self.optimizers().optimizer  # type: ignore[union-attr, no-any-return]

    # Weights --------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def perturbed(self, member: Member) -> Iterator[tuple[str, Tensor]]:
        """Stream (name, theta + sign * sigma * eps) in the engine's dtype, one tensor at a time."""
        for name, parameter in self.centre.named_parameters():
            scale = member.sign * self.sigma
            yield name, self.noise.perturbed(member.seed, name, parameter, scale, self.engine.dtype)

    @torch.no_grad()
    def unperturbed(self) -> Iterator[tuple[str, Tensor]]:
        """Stream the centre itself in the engine's dtype, one tensor at a time."""
        for name, parameter in self.centre.named_parameters():
            yield name, parameter.to(self.engine.dtype)

    def settings(self) -> dict[str, Any]:
        """The hyper-parameters that decide a run, as plain values to be written beside its results."""
        return {
            "population": self.population.size,
            "sigma": self.sigma,
            "lr": self.lr,
            "optimizer": type(self._optimizer).__name__,
            "noise": type(self.noise).__name__,
            "shaping": getattr(self.shaping, "__name__", str(self.shaping)),
            "antithetic": self.population.antithetic,
            "prompts_per_generation": self.data.batch_size,
            "max_tokens": self.sampling.max_tokens,
            "temperature": self.sampling.temperature,
            "engine": f"{type(self.engine).__name__}, {str(self.engine.dtype).removeprefix('torch.')}",
            "seed": self.population.run_seed,
        }

    def checksum(self) -> str:
        """Sixteen hexadecimal digits of the centre; it changes in updates alone."""
        return checksum(self.centre.named_parameters())

    def export(self, folder: Path, card: str) -> None:
        """Write the centre as a Hugging Face folder in the base model's dtype."""
        dtype = model_io.load_config(self.folder, self.trust_remote_code).dtype or torch.float32
        model_io.export(self.centre, self.folder, folder, dtype, card)

    # Evaluating the centre ------------------------------------------------------------------------------------------

    @torch.no_grad()
    def evaluate(self, split: str) -> Evaluation:
        """Generate and score the problems of a split with the centre.

        Args:
            split: ``train``, ``val`` or ``test``.
        """
        prompts = self.data.encode(split, self._encode)
        self.engine.load_weights(self.unperturbed())
        return self._evaluate(prompts, Stopwatch())

    def on_validation_epoch_start(self) -> None:
        """Give the engine the centre."""
        self.engine.load_weights(self.unperturbed())

    on_test_epoch_start = on_validation_epoch_start

    @torch.no_grad()
    def validation_step(self, prompts: list[Prompt], batch_idx: int) -> None:
        """Score the centre on validation prompts."""
        self.val_means.update(measured(self._evaluate(prompts, Stopwatch())))

    @torch.no_grad()
    def test_step(self, prompts: list[Prompt], batch_idx: int) -> None:
        """Score the centre on test prompts."""
        self.test_means.update(measured(self._evaluate(prompts, Stopwatch())))

    def on_validation_epoch_end(self) -> None:
        """Log the means over the validation prompts."""
        self.log_dict(self.val_means.compute_and_reset("val"))

    def on_test_epoch_end(self) -> None:
        """Log the means over the test prompts."""
        self.log_dict(self.test_means.compute_and_reset("test"))

    def _log_generation(self, record: Generation) -> None:
        self.population_reward.update(record.rewards)
        self.tokens_per_second.update(record.tokens / record.seconds["generate"], weight=record.seconds["generate"])
        reward = self.population_reward.compute()
        bar = {name: reward.pop(name) for name in ("reward/mean", "reward/max")}
        self.log_dict(bar | {"tokens/s": self.tokens_per_second.compute()}, prog_bar=True)
        self.log_dict(reward | record_metrics(record))
