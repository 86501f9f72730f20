"""Evolution strategies as a LightningModule: one training step is one generation."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torchmetrics.aggregation import MeanMetric

from es_lightning.algorithm.noise import GaussianNoise, Noise
from es_lightning.algorithm.population import Population
from es_lightning.algorithm.shaping import all_alike, comparable, z_score
from es_lightning.algorithm.update import StepSize, apply_update
from es_lightning.errors import UsageError
from es_lightning.evaluation.metrics import PopulationReward, record_metrics
from es_lightning.journal.entry import Entry
from es_lightning.journal.header import header
from es_lightning.journal.hyper import hyper_parameters, set_hyper_parameters
from es_lightning.records import Generation, Prompt
from es_lightning.rollout import RolloutEngine, Sampling, VLLMEngine
from es_lightning.steered_module import SteeredModule
from es_lightning.system.memory import trim_heap
from es_lightning.system.stopwatch import Stopwatch


class EvolutionStrategies(SteeredModule):
    """Full-parameter fine-tuning by evolution strategies (arXiv 2509.24372).

    Args:
        base: model to start from: ``embedded``, ``tiny``, a Hugging Face folder, or a hub id.
        population: number of members N of a generation.
        sigma: noise scale in units of the weights; a member is theta + sigma * eps.
        optimizer: any ``torch.optim`` optimizer; SGD with lr = alpha is the paper's update.
        lr_scheduler: any scheduler over that optimizer, stepped once per generation; ``ReduceLROnPlateau``
            sees the population's mean reward, so give it ``mode: max``.
        sampling: how completions are decoded; None is greedy, 256 tokens at the most.
        engine: what generates; None takes vLLM with its defaults.
        noise: kind of noise; None takes independent Gaussian noise.
        shaping: from rewards [N, P] to weights [N], for example ``es_lightning.algorithm.shaping.z_score``.
        antithetic: pairs of members with the same noise and opposite signs.
        seed: the run seed, which keys all noise; any integer.
        retry_member: try a member once more if the engine fails on it, instead of stopping at once.
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
        retry_member: bool = False,
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__(
            base=base,
            sampling=sampling or Sampling(),
            engine=engine or VLLMEngine(trust_remote_code=trust_remote_code),
            trust_remote_code=trust_remote_code,
            population=Population(population, seed, antithetic),
            sigma=sigma,
            noise=noise or GaussianNoise(),
            retry_member=retry_member,
        )
        self.shaping = shaping
        self._make_optimizer, self._make_scheduler = optimizer, lr_scheduler
        self.population_reward = PopulationReward()
        self.tokens_per_second = MeanMetric(sync_on_compute=False)
        self.tokens_per_second.persistent(True)  # a resumed run reports on the whole

    def configure_optimizers(self) -> Any:
        """The optimizer over the centre, with the scheduler if there is one.

        Raises:
            UsageError: the optimizer evaluates a loss of its own, as LBFGS does.
        """
        optimizer = self._make_optimizer(self.centre.parameters())
        if isinstance(optimizer, torch.optim.LBFGS):
            raise UsageError(
                "LBFGS searches along a loss, and ES has none: choose another torch.optim optimizer."
            )
        if self._make_scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": self._make_scheduler(optimizer)}

    # One generation -------------------------------------------------------------------------------

    @torch.no_grad()
    def training_step(self, prompts: list[Prompt], batch_idx: int) -> dict[str, Generation]:
        """Perturb, generate, score, gather, shape, update: one generation.

        A generation that an earlier process finished is taken from the journal, without rollouts.

        Args:
            prompts: the batch, P encoded prompts, the same for every member and rank.
            batch_idx: not used; the generation's index decides everything.

        Returns:
            The record of the generation, for callbacks.
        """
        watch, past = Stopwatch(), self.run_journal.past(self.generation)
        started = time.perf_counter()
        if past is not None:  # what callbacks did that this run may lack
            if past.entry.after not in (None, self.after):
                self.restore(past.entry.after + 1)
            set_hyper_parameters(self._optimizer, past.entry.hyper)
        found = self._found(prompts, watch) if past is None else past.record(prompts)
        hyper = hyper_parameters(self._optimizer)
        with watch.phase("update"):
            size = StepSize(0.0, float(self.drift)) if found.skipped else self._update(found)
            self._count_generation(found.rewards)
            self.centre_checksum = self.checksum()
        record = replace(
            found,
            update_norm=size.update_norm,
            drift=size.drift,
            seconds={**watch.seconds, "total": time.perf_counter() - started, **found.seconds},
        )
        if past is None:
            entry = Entry.of(record, hyper, self.centre_checksum, self.after)
            self.run_journal.keep(entry, record.rewards)
        else:
            self.run_journal.keep_past(past, self.centre_checksum)
        self.after = None
        self._log_generation(record)
        return {"generation": record}

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Put the loggers' step at the generation, which Lightning loses count of in resumed runs.

        Callbacks log at the start of a batch, so it has to be right by then.
        """
        if self.trainer.training:
            self._logged_step(self.generation)
        return batch

    def _found(self, prompts: Sequence[Prompt], watch: Stopwatch) -> Generation:
        """What is known of a generation before its update."""
        members = self.population.members(self.generation)
        evaluations, outcome = self.evaluate_population(members, prompts, watch)
        rewards, weights = outcome.rewards, self.data.task.group_weights()
        if weights:
            rewards = comparable(rewards, [prompt.group for prompt in prompts], weights)
        skipped = all_alike(rewards)
        nothing = torch.zeros(len(members), dtype=torch.float64)
        return Generation(
            index=self.generation,
            members=members,
            prompts=tuple(prompts),
            rewards=outcome.rewards,
            weights=nothing if skipped else self.shaping(rewards),
            sigma=self.sigma,
            lr=self.lr,
            skipped=skipped,
            update_norm=0.0,
            drift=float(self.drift),
            scores=outcome.scores,
            tokens=outcome.tokens,
            seconds=outcome.seconds,
            lane_seconds=outcome.lane_seconds,
            evaluations=evaluations,
        )

    def _update(self, found: Generation) -> StepSize:
        named = self.centre.named_parameters()
        size = apply_update(
            self._optimizer, named, found.members, found.weights, self.noise, self.base_weights
        )
        self.drift.fill_(size.drift)
        self.centre_has_changed()
        trim_heap()
        return size

    def _count_generation(self, rewards: Tensor) -> None:
        # No parameter has a gradient any more: this step moves nothing and lets Lightning count a generation.
        self._lightning_optimizer.step()
        scheduler = self.lr_schedulers()
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(float(rewards.mean()))
        elif isinstance(scheduler, LRScheduler):
            scheduler.step()

    # Reports --------------------------------------------------------------------------------------

    def _log_generation(self, record: Generation) -> None:
        seconds = max(record.seconds["generate"], 1e-3)  # the journal keeps milliseconds
        self.population_reward.update(record.rewards)
        self.tokens_per_second.update(record.tokens / seconds, weight=seconds)
        reward = dict(self.population_reward.compute())  # the metric keeps its own
        bar = {name: reward.pop(name) for name in ("reward/mean", "reward/max")}
        self.log_dict(bar | {"time/tokens_per_s": self.tokens_per_second.compute()}, prog_bar=True)
        self.log_dict({**reward, **record_metrics(record)})

    def header(self) -> dict[str, Any]:
        """The first line of the run's journal."""
        return header(
            self.base,
            self.folder,
            self.export_dtype,
            self.noise,
            self._optimizer,
            device=self.device.type,
            ranks=self.trainer.world_size,
            task=self.data.task.name,
            settings=self.settings(),
        )

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
