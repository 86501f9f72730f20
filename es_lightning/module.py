"""Evolution strategies as a LightningModule: one training step is one generation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torchmetrics.aggregation import MeanMetric

from es_lightning.centre_module import CentreModule
from es_lightning.errors import RewardError, UsageError
from es_lightning.generation import Evaluation, Generation, Member, Prompt
from es_lightning.memory import trim_heap
from es_lightning.metrics import PopulationReward, record_metrics
from es_lightning.noise import GaussianNoise, Noise
from es_lightning.population import Population
from es_lightning.rollout import RolloutEngine, Sampling, VLLMEngine
from es_lightning.shaping import all_alike, z_score
from es_lightning.stopwatch import Stopwatch
from es_lightning.update import StepSize, apply_update


class EvolutionStrategies(CentreModule):
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
        shaping: from rewards [N, P] to weights [N], for example ``es_lightning.shaping.z_score``.
        antithetic: pairs of members with the same noise and opposite signs.
        seed: the run seed, which keys all noise; any integer.
        trust_remote_code: run Python code that comes with the model.

    Raises:
        UsageError: a value is outside its range.
    """

    drift: Tensor

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
        if not sigma > 0:
            raise UsageError(f"sigma is {sigma}: give a noise scale above 0, for example 0.001.")
        engine = engine or VLLMEngine(trust_remote_code=trust_remote_code)
        super().__init__(base, sampling or Sampling(), engine, trust_remote_code)
        self.sigma = sigma
        self.population = Population(population, seed, antithetic)
        self.noise = noise or GaussianNoise()
        self.shaping = shaping
        self._make_optimizer, self._make_scheduler = optimizer, lr_scheduler
        self.register_buffer("drift", torch.zeros((), dtype=torch.float64))  # so that checkpoints keep it
        self.population_reward = PopulationReward()
        self.tokens_per_second = MeanMetric()

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
        """Perturb, generate, score, shape, update: one generation.

        Args:
            prompts: the batch, P encoded prompts, the same for every member.
            batch_idx: not used; the generation's index decides everything.

        Returns:
            The record of the generation, for callbacks.
        """
        watch, index, lr = Stopwatch(), self.generation, self.lr
        members = self.population.members(index)
        evaluations = [self._evaluate_member(member, prompts, watch) for member in members]
        rewards = torch.tensor(
            [evaluation.rewards for evaluation in evaluations], dtype=torch.float64
        )  # [N, P]
        skipped = all_alike(rewards)
        weights = torch.zeros(len(members), dtype=torch.float64) if skipped else self.shaping(rewards)  # [N]
        with watch.phase("update"):
            size = StepSize(0.0, float(self.drift)) if skipped else self._update(members, weights)
            self._count_generation(rewards)
        record = Generation(
            index=index,
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
            self.load(self.perturbed(member))
        try:
            return self.rollout(prompts, watch)
        except RewardError as error:
            raise RewardError(f"{error} (member {member.index} of generation {self.generation})") from error

    @torch.no_grad()
    def perturbed(self, member: Member) -> Iterator[tuple[str, Tensor]]:
        """Stream (name, theta + sign * sigma * eps) in the engine's dtype, one tensor at a time."""
        scale, dtype = member.sign * self.sigma, self.engine.dtype
        for name, parameter in self.centre.named_parameters():
            yield name, self.noise.perturbed(member.seed, name, parameter, scale, dtype)

    def _update(self, members: Sequence[Member], weights: Tensor) -> StepSize:
        named, optimizer = self.centre.named_parameters(), self._lightning_optimizer.optimizer
        size = apply_update(optimizer, named, members, weights, self.noise, self.base_weights)
        self.drift.fill_(size.drift)
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

    @property
    def _lightning_optimizer(self) -> LightningOptimizer:
        return cast(LightningOptimizer, self.optimizers())

    @property
    def lr(self) -> float:
        """Learning rate of the next update; alpha in the papers."""
        return float(self._lightning_optimizer.param_groups[0]["lr"])

    # Reports --------------------------------------------------------------------------------------

    def _log_generation(self, record: Generation) -> None:
        seconds = record.seconds["generate"]
        self.population_reward.update(record.rewards)
        self.tokens_per_second.update(record.tokens / seconds, weight=seconds)
        reward = self.population_reward.compute()
        bar = {name: reward.pop(name) for name in ("reward/mean", "reward/max")}
        self.log_dict(bar | {"tokens/s": self.tokens_per_second.compute()}, prog_bar=True)
        self.log_dict({**reward, **record_metrics(record)})

    def settings(self) -> dict[str, Any]:
        """The hyper-parameters that decide a run, as plain values to be written beside its results."""
        return {
            "population": self.population.size,
            "sigma": self.sigma,
            "lr": self.lr,
            "optimizer": type(self._lightning_optimizer.optimizer).__name__,
            "noise": type(self.noise).__name__,
            "shaping": getattr(self.shaping, "__name__", str(self.shaping)),
            "antithetic": self.population.antithetic,
            "prompts_per_generation": self.data.batch_size,
            "max_tokens": self.sampling.max_tokens,
            "temperature": self.sampling.temperature,
            "engine": f"{type(self.engine).__name__}, {str(self.engine.dtype).removeprefix('torch.')}",
            "seed": self.population.run_seed,
        }
