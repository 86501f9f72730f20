"""Evolution strategies as a LightningModule: one training step is one generation.

The centre theta is ``self.centre``, a Hugging Face model in float32, and exists nowhere else. The work is
done by parts that need no Trainer:

    base_model   where the run starts from          population   which members there are
    rollouts     the engine and the weights in it   evaluator    generating, grading, gathering
    ranks        this process among the others      history      journal, lineage, restoring a centre
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, WeightAveraging
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torchmetrics.aggregation import MeanMetric

from es_lightning.algorithm.bounds import check_centre, check_optimizer, checked_sigma, made_optimizer
from es_lightning.algorithm.noise import GaussianNoise, Noise
from es_lightning.algorithm.population import Population
from es_lightning.algorithm.regularisers import Regulariser
from es_lightning.algorithm.schedules import Schedule, Scheduled
from es_lightning.algorithm.shaping import check_shaping, comparable, reward_statistics, weigh, z_score
from es_lightning.algorithm.steering import Steering
from es_lightning.algorithm.tensors import checksum, drift
from es_lightning.algorithm.update import StepSize, apply_update
from es_lightning.analysis.measured import state_per_parameter
from es_lightning.analysis.placement import Where
from es_lightning.analysis.skipped import why_skipped
from es_lightning.datamodule import TaskDataModule
from es_lightning.distributed.folder import FolderHold
from es_lightning.distributed.ranks import Ranks
from es_lightning.errors import UsageError
from es_lightning.evaluation import Evaluator, Rollouts
from es_lightning.evaluation.centre_place import CentrePlace, case_of
from es_lightning.evaluation.costs import CostMeter
from es_lightning.evaluation.engine_check import EngineCheck
from es_lightning.evaluation.kl_penalty import KLMeter, KLPenalty
from es_lightning.evaluation.metrics import evaluation_means, record_metrics
from es_lightning.evaluation.reach import require_thin
from es_lightning.evaluation.recorded import recorded
from es_lightning.journal.history import History
from es_lightning.journal.hyper import hyper_parameters, scale_lr, set_hyper_parameters
from es_lightning.journal.identity import described
from es_lightning.journal.run import Past
from es_lightning.journal.start import check_content_for
from es_lightning.models import BaseModel
from es_lightning.records import Evaluation, Generation, Prompt
from es_lightning.rollout import RolloutEngine, Sampling, VLLMEngine
from es_lightning.settings import header_of, settings_of
from es_lightning.system.cores import use_one_thread_if_tiny
from es_lightning.system.memory import peak_bytes, trim_heap
from es_lightning.system.moved import refuse_old_attribute
from es_lightning.system.signals import interruptible
from es_lightning.system.stopwatch import Stopwatch
from es_lightning.system.trainer_options import check_trainer

log = logging.getLogger(__name__)


class EvolutionStrategies(pl.LightningModule):
    """Full-parameter fine-tuning by evolution strategies (arXiv 2509.24372).

    Args:
        base: model to start from: ``embedded``, ``tiny``, a Hugging Face folder, or a hub id.
        population: number of members N of a generation.
        sigma: noise scale in units of the weights; a member is theta + sigma * eps.
        optimizer: any ``torch.optim`` optimizer; SGD with lr = alpha is the paper's update.
        lr_scheduler: any scheduler over that optimizer, stepped once per generation; ``ReduceLROnPlateau``
            sees the population's mean reward, so give it ``mode: max``.
        sampling: how completions are decoded; None decodes greedily, up to 256 tokens.
        engine: generates completions; None takes vLLM with its defaults.
        noise: kind of noise; None takes independent Gaussian noise.
        shaping: from rewards [N, P] to weights [N]: a function such as ``z_score``, or an object with such a
            ``__call__``, as ``FixedScale`` is.
        antithetic: whether members come in pairs with the same noise and opposite signs.
        sigma_schedule: how sigma changes from one generation to the next; None keeps it constant.
        population_schedule: how the number of members changes, rounded to what ``antithetic`` allows.
        regularisers: parts that change the update, in this order, such as ``AnchoredDecay``.
        seed: the run seed, which keys all noise; any integer.
        retry_member: try a member once more if the engine fails on it, instead of stopping at once.
        trust_remote_code: run Python code that comes with the model.
        chat_template_kwargs: options of the model's chat template, such as ``enable_thinking``.
        check_engine: compare the engine with transformers before the first generation, and stop if it
            computes with other weights than it was given.
        kl_penalty: takes from members' rewards for completions that are unlike the base model's; None takes
            nothing.
        centre_device: where the float32 centre is: ``device``, on the accelerator; ``cpu``, in host memory,
            from where its tensors pass through the accelerator one at a time; or ``auto``, on the accelerator
            if it fits there beside the engine. On a machine without an accelerator they mean the same.
        drift_every: measure the distance from the base model once in so many generations, and before every
            validation; each time the base is read from its files, 14 GB for 7 billion parameters.
        keep_centre: make member 0 the centre itself, evaluated like the others: with the shaping
            ``best_of_n`` the centre then moves only if a member is better. Not with ``antithetic``.

    Raises:
        UsageError: a value is outside its range.
    """

    drift: Tensor
    """Float64 scalar: Euclidean norm of (centre - base); nan if not measured since the last update."""

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
        # Any stands for Tensor: of Callable[.., Tensor] the parser would take a class to be one of Tensors.
        shaping: Callable[[Tensor], Any] = z_score,
        antithetic: bool = False,
        sigma_schedule: Schedule | None = None,
        population_schedule: Schedule | None = None,
        regularisers: list[Regulariser] | None = None,
        seed: int = 0,
        retry_member: bool = False,
        trust_remote_code: bool = False,
        chat_template_kwargs: dict[str, Any] | None = None,
        check_engine: bool = True,
        kl_penalty: KLPenalty | None = None,
        drift_every: int = 1,
        centre_device: Where = "auto",
        keep_centre: bool = False,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        schedules = (sigma_schedule, population_schedule)
        self.steering = Steering(population, sigma, seed, antithetic, *schedules, keep_centre)
        self.noise, self.shaping = noise or GaussianNoise(), shaping
        self.regularisers = tuple(regularisers or ())
        self.base_model = BaseModel(base, trust_remote_code)
        engine = engine or VLLMEngine(trust_remote_code=trust_remote_code)
        require_thin(engine, self.noise)
        self.rollouts = Rollouts(engine, sampling, retry_member, chat_template_kwargs)
        self.kl = None if kl_penalty is None else KLMeter(kl_penalty, self.base_model)
        self.history = History()
        self.check_engine, self._engine_check = check_engine, dict[str, Any]()
        self._make_optimizer, self._make_scheduler = optimizer, lr_scheduler
        self.scheduler_identity: dict[str, Any] = {}
        self._has_skipped = False
        if drift_every < 1:
            raise UsageError(f"model.drift_every is {drift_every}: give at least 1.")
        self.drift_every = drift_every
        self.centre_place = CentrePlace(centre_device)
        self.register_buffer("drift", torch.zeros((), dtype=torch.float64))  # so that checkpoints keep it
        self.tokens_per_second = MeanMetric(sync_on_compute=False)
        self.tokens_per_second.persistent(True)  # so that a resumed run averages over all of its generations

    def __getattr__(self, name: str) -> Tensor | nn.Module:
        """Say where an attribute of version 0.1.0 is now; all others are PyTorch's to find."""
        refuse_old_attribute(name)
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse to set what nothing would read."""
        refuse_old_attribute(name)
        super().__setattr__(name, value)

    # The parts, as of now -------------------------------------------------------------------------

    @property
    def data(self) -> TaskDataModule:
        """The data module of this run, which knows the task."""
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, TaskDataModule):
            raise UsageError("the module needs a TaskDataModule: pass datamodule=TaskDataModule(task).")
        return data

    @property
    def generation(self) -> int:
        """Index of the present generation, from 0; the number of generations that the centre has seen."""
        return int(self.trainer.global_step)

    @property
    def ranks(self) -> Ranks:
        """This process among the ranks of the run."""
        lane_size = self.rollouts.engine.tensor_parallel_size
        return Ranks(self.trainer.strategy, lane_size, self.centre_place.device)

    @property
    def evaluator(self) -> Evaluator:
        """Turns weights and prompts into rewards, for the present generation."""
        return Evaluator(self.rollouts, self.data.scorer, self.ranks, self.generation, self.kl)

    @property
    def sigma(self) -> float:
        """Noise scale of the present generation, in units of the weights."""
        return self.steering.sigma.at(self._now(self.steering.sigma))

    @property
    def antithetic(self) -> bool:
        """Whether members come in pairs with opposite signs."""
        return self.steering.antithetic

    @property
    def population(self) -> Population:
        """Members of the present generation."""
        return self.population_at(self._now(self.steering.size))

    def population_at(self, generation: int) -> Population:
        """Return the members of a generation as far as schedules tell beforehand.

        Args:
            generation: its index, from 0.
        """
        return self.steering.population_at(generation)

    def _now(self, scheduled: Scheduled) -> int:
        # Without a schedule, sigma and population are known before there is a Trainer.
        return 0 if scheduled.schedule is None else self.generation

    @property
    def lr(self) -> float:
        """Learning rate of the next update; alpha in the papers."""
        return float(self._optimizer.param_groups[0]["lr"])

    @property
    def centre_checksum(self) -> str:
        """Checksum of the present centre, as in the journal; empty before the run begins."""
        return self.history.checksum

    # Setting up -----------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Check everything that costs nothing to check, then load the centre, then start the engine."""
        check_trainer(self.trainer)
        self.ranks.check(self.population.size)
        self.base_model.check()
        self.base_model.check_heads(self.rollouts.engine.tensor_parallel_size)
        self.rollouts.engine.check(self.base_model.folder)
        if self.kl is not None and stage == "fit":
            self.kl.check(self.data.prompts("train"))
            if self.ranks.rank == 0:
                self.kl.warn_of_greedy(self.rollouts.sampling.temperature)
        for split in self.data.splits_for(stage):
            self.data.encode(split, self.reserve)
        if stage == "fit":
            check_shaping(self.shaping, self.population.size, self.data.batch_size)
            self._warn_of_long_schedules()
        self.data.scorer.start()  # loads the task in other processes while the model is loaded here
        self.configure_model()
        self.centre_place.put(self.centre, self.trainer.strategy.root_device)
        mine = len(self.ranks.lane.share(range(self.population.size)))
        # Before the header is made, which has to show what the updates use.
        self.noise = self.rollouts.limited(self.noise, self.base_model, self.centre, mine)
        self.noise.check({name: parameter.shape for name, parameter in self.centre.named_parameters()})
        self.rollouts.start(self.base_model)  # last, since an engine takes its share of what memory is left
        self.ranks.check_precision(self.rollouts.engine.dtype)
        use_one_thread_if_tiny(self.centre)  # after the engine, which may choose its own number of threads
        parameters = sum(parameter.numel() for parameter in self.centre.parameters())
        self.costs = CostMeter(parameters, self.data.batch, self.rollouts.sampling.n)
        if self.check_engine and not self._engine_check:
            with self.rollouts.announcer.stage("checking the engine"):
                self._engine_check = EngineCheck(self.rollouts, self.noise, self.ranks).run(self.centre)

    def _warn_of_long_schedules(self) -> None:
        for name, generations in self.steering.longer_than(self.trainer.max_steps):
            if self.ranks.rank == 0:
                log.warning(
                    "model.%s_schedule takes %d generations, but trainer.max_steps is %d: it is cut short.",
                    *(name, generations, self.trainer.max_steps),
                )

    def configure_model(self) -> None:
        """Load the centre, once; callbacks that copy the module, such as WeightAveraging, call this first."""
        if not hasattr(self, "centre"):
            self._decide_place()
            with self.rollouts.announcer.stage(f"loading {self.base_model.name} as the first centre"):
                shards = self.ranks.divide(self.base_model.blueprint)
                self.centre = self.base_model.load(shards.holds if shards.divided else None)
        self.rollouts.shards = shards = self.ranks.divide(self.centre)
        if any(each.is_meta == shards.holds(name) for name, each in self.centre.named_parameters()):
            raise UsageError("this module's centre is divided among ranks in another way: make a new module.")

    def _decide_place(self) -> None:
        """Decide where the centre is, and let the engine leave room for it, if there are two memories."""
        device = self.trainer.strategy.root_device
        if device.type in ("cpu", "mps"):
            return
        if not self.rollouts.longest:  # a callback has asked for the model before ``setup`` came so far
            self.data.encode("train", self.reserve)
        matrix = nn.Parameter(torch.zeros(256, 256))
        state = state_per_parameter(made_optimizer(self._make_optimizer, [matrix]))
        mine = len(self.ranks.lane.share(range(self.population.size)))
        asked = (self.noise, state, self.data.batch_size, mine, device, self.ranks.centre_shards)
        case = case_of(self.rollouts, self.base_model, *asked)
        self.rollouts.engine.leave_free(self.centre_place.decide(case, device, self.ranks))

    def to(self, *args: Any, **options: Any) -> Self:
        """Move the module as Lightning does before a run, except for a centre that is in host memory."""
        if self.centre_place.device is None or not hasattr(self, "centre"):
            return super().to(*args, **options)
        centre = self.centre
        del self.centre
        try:
            return super().to(*args, **options)
        finally:
            self.centre = centre

    def teardown(self, stage: str) -> None:
        """Unlock the memory of a centre that is in host memory."""
        self.centre_place.release()

    def reserve(self, prompts: Sequence[Prompt], max_tokens: int | None = None) -> list[Prompt]:
        """Encode prompts, and reserve room for them and their completions in the engine.

        Prompts that are too long are left out if the data module's ``drop_long_prompts`` says so.

        A callback calls this for its own prompts in ``setup``, which runs before the engine starts.

        Args:
            prompts: the prompts that will be evaluated or sampled.
            max_tokens: most new tokens for each; None takes the limit of ``sampling``.

        Raises:
            UsageError: a prompt with its completion is longer than the model can take.
        """
        if max_tokens is None and self.kl is not None:
            max_tokens = (
                self.rollouts.sampling.max_tokens + 1
            )  # vLLM scores a text by generating one token more
        return self.rollouts.reserve(self.base_model, prompts, max_tokens, self.data.drop_long_prompts)

    def configure_optimizers(self) -> Any:
        """Make the optimizer of the centre's parameters, and its scheduler if there is one.

        Raises:
            UsageError: a setting is outside its range, or the optimizer evaluates a loss of its own, as LBFGS
                does.
        """
        held = self.rollouts.shards.held(self.centre.named_parameters())
        optimizer = made_optimizer(self._make_optimizer, iter(held.values()))
        for part in self.regularisers:
            part.check_lr(float(optimizer.param_groups[0]["lr"]))
        scheduler = None if self._make_scheduler is None else self._make_scheduler(optimizer)
        # Now, since a checkpoint overwrites the scheduler's settings with those that it had then.
        self.scheduler_identity = described("model.lr_scheduler", scheduler)
        return optimizer if scheduler is None else {"optimizer": optimizer, "lr_scheduler": scheduler}

    def configure_callbacks(self) -> list[Callback]:
        """Hold the run's folder while a fit lasts."""
        return [FolderHold()]

    def on_train_start(self) -> None:
        """Start or continue the journal, and make sure that the centre is the one that it leads to.

        Raises:
            UsageError: a new run would begin with a centre that is not the base model, or the checkpoint is
                ahead of its journal.
            RankError: another rank holds another centre.
        """
        if self.generation == 0 and self.drift != 0:
            raise UsageError(
                "this module's centre has been tuned already, and a run begins at the base model: make a new "
                "module, or give the ckpt_path of the run that is to go on."
            )
        if self.centre_place.device is not None:
            # Lightning's own strategies put a resumed state on the device: this puts it beside the centre.
            self._optimizer.load_state_dict(self._optimizer.state_dict())
        self.history.checksum = self.checksum()
        if self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            self.history.open_without_files(self.header, self.generation)
        else:
            folder = Path(self.trainer.default_root_dir)
            self.history.open(folder, self.header, self.generation, self.ranks)
        self.ranks.check_centre(self.centre_checksum, self.generation)
        path = self.history.lineage()
        if path and path[-1].checksum != self.centre_checksum:
            # The checkpoint was written in the middle of an update, or while WeightAveraging had its average
            # in the centre's place: during a validation, or after the end of a fit.
            log.warning(
                "The checkpoint's centre %s is not the journal's %s, which is made again.",
                self.centre_checksum,
                path[-1].checksum,
            )
            self.restore(path[-1].generation + 1)

    # One generation -------------------------------------------------------------------------------

    @torch.no_grad()
    def training_step(self, prompts: list[Prompt], batch_idx: int) -> dict[str, Generation]:
        """Perturb, generate, score, gather, shape, update: one generation.

        A generation that an earlier process finished is repeated from the journal, without rollouts. One in
        which all members earned the same is skipped: there is no update, and the centre stays.

        Args:
            prompts: the batch, P encoded prompts, the same for every member and rank.
            batch_idx: not used; the generation's index decides everything.

        Returns:
            The record of the generation, for callbacks.
        """
        watch, past = Stopwatch(), self.history.past(self.generation)
        with watch.phase("total"):
            record = self._evaluate(prompts, watch) if past is None else self._recall(past, prompts)
            hyper = hyper_parameters(self._optimizer)  # before the scheduler's step changes them
            with watch.phase("update"):
                step = StepSize(0.0, float(self.drift)) if record.skipped else self._update(record)
                self._observe(record)
                self._count_generation(record.rewards)
                centre = self.checksum()
        if record.skipped and past is None:
            self._warn_of_skipping(record)
        seconds = {**watch.seconds, **record.seconds}
        record = replace(record, update_norm=step.update_norm, drift=step.drift, seconds=seconds)
        self.history.add(record, hyper, centre, past)
        self._log_generation(record)
        return {"generation": record}

    def _evaluate(self, prompts: Sequence[Prompt], watch: Stopwatch) -> Generation:
        """Evaluate the members; returns the generation's record as it is before the update.

        Raises:
            UsageError: a scheduler has made a setting of the optimizer infinite or NaN.
        """
        check_optimizer(self._optimizer)
        population, sigma = self.population, checked_sigma(self.sigma)
        self.ranks.check(population.size)  # a schedule may have made it too small for them
        members = population.members(self.generation)
        outcome = self.evaluator.members(
            self.centre, members, self.noise, sigma, prompts, self.centre_checksum, watch
        )
        groups = [prompt.group for prompt in prompts]
        weights, skipped = weigh(outcome.rewards, self.shaping, groups, self.data.task.group_weights())
        return Generation(
            index=self.generation,
            members=members,
            prompts=tuple(prompts),
            rewards=outcome.rewards,
            weights=weights,
            sigma=sigma,
            lr=self.lr,
            skipped=skipped,
            update_norm=0.0,
            drift=float(self.drift),
            scores=outcome.scores,
            tokens=outcome.tokens,
            seconds=outcome.seconds,
            lane_seconds=outcome.lane_seconds,
            evaluations=outcome.evaluations,
            samples=self.rollouts.sampling.n,
        )

    def _recall(self, past: Past, prompts: Sequence[Prompt]) -> Generation:
        """Take the generation's record, and the optimizer's settings in it, from the journal.

        If a callback put an earlier centre back before this generation, and has not done so in this process,
        that is done here.
        """
        if past.entry.parent not in (None, self.history.parent):
            self.restore(past.entry.parent + 1)
        set_hyper_parameters(self._optimizer, past.entry.hyper)
        return past.record(prompts, self.rollouts.sampling.n)

    def _update(self, record: Generation) -> StepSize:
        """Let the optimizer step: theta <- theta + alpha * (1/N) * sum_n w_n * sign_n * eps_n for SGD.

        Raises:
            DivergenceError: the step has ruined the centre.
        """
        named, base = self.centre.named_parameters(), self.base_model.weights
        members, weights = record.members, record.weights
        measured = record.index % self.drift_every == 0
        step = apply_update(
            self._optimizer,
            named,
            members,
            weights,
            self.noise,
            base,
            self.regularisers,
            measured,
            self.rollouts.shards,
        )
        self.drift.fill_(step.drift)
        self.rollouts.forget()
        check_centre(self.centre.named_parameters(), record.index, self.lr, self.rollouts.shards)
        trim_heap()
        return step

    def _observe(self, record: Generation) -> None:
        """Show the rewards to the schedules that adapt to them."""
        groups, scales = [prompt.group for prompt in record.prompts], self.data.task.group_weights()
        rewards = comparable(record.rewards, groups, scales) if scales else record.rewards
        pairs = any(member.sign < 0 for member in record.members)
        self.steering.observe(rewards, groups if scales else (), pairs)

    def _warn_of_skipping(self, record: Generation) -> None:
        """Say at the first generation without an update why there is none; later ones are only counted."""
        if self.ranks.rank == 0 and not self._has_skipped:
            log.warning("%s", why_skipped(record, self.rollouts.sampling.max_tokens))
        self._has_skipped = True

    def _count_generation(self, rewards: Tensor) -> None:
        # No parameter has a gradient any more: this step only lets Lightning count a generation.
        self._lightning_optimizer.step()
        scheduler = self.lr_schedulers()
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(float(rewards.mean()))
        elif isinstance(scheduler, LRScheduler):
            scheduler.step()

    def checksum(self) -> str:
        """Hash the centre into sixteen hexadecimal digits, which change with any bit of any weight."""
        digits = checksum(self.centre.named_parameters(), self.rollouts.shards)
        trim_heap()
        return digits

    @property
    def _lightning_optimizer(self) -> LightningOptimizer:
        return cast(LightningOptimizer, self.optimizers())

    @property
    def _optimizer(self) -> Optimizer:
        return self._lightning_optimizer.optimizer

    # The centre, validated and tested --------------------------------------------------------------

    def evaluate(self, split: str) -> Evaluation:
        """Evaluate the centre on the problems of a split; all ranks have to call this, and get all of it.

        Args:
            split: ``train``, ``val`` or ``test``.
        """
        with interruptible():
            # Whatever the engine holds: WeightAveraging may have put its average in the centre's place since.
            self.rollouts.load(self.rollouts.unperturbed(self.centre))
            return self.evaluator.evaluate(self.data.encode(split, self.reserve))

    def on_validation_epoch_start(self) -> None:
        """Load the centre into the engine."""
        self.rollouts.forget()  # WeightAveraging may have put the average in its place
        self.rollouts.hold_centre(self.centre)
        # Lightning counts the batch only after this validation, but the centre has its update already.
        self._lightnings_count = self._logged_step(self.generation)

    def validation_step(self, prompts: list[Prompt], batch_idx: int) -> dict[str, Evaluation]:
        """Score the centre on the validation prompts, which come as one batch, and log the means.

        Returns:
            The evaluation, for callbacks, the same on every rank.
        """
        if self.drift.isnan():
            self.drift.fill_(drift(self.base_model.weights, self.centre, self.rollouts.shards))
            self.log("geometry/drift", self.drift, batch_size=len(prompts))
        if self.data.test_with_val and self._records:
            self._log_means("test", self.data.prompts("test"))
        return self._log_means("val", prompts)

    def on_validation_epoch_end(self) -> None:
        """Make the engine load the centre again if an average was validated, which now leaves its place."""
        callbacks = self.trainer.callbacks  # type: ignore[attr-defined]
        if any(isinstance(callback, WeightAveraging) for callback in callbacks):
            self.rollouts.forget()

    def on_validation_end(self) -> None:
        """Give Lightning its own step count back."""
        self._logged_step(self._lightnings_count)

    def on_test_epoch_start(self) -> None:
        """Load the centre into the engine."""
        self.rollouts.forget()  # after a fit with WeightAveraging, the average is in the centre's place
        self.rollouts.hold_centre(self.centre)

    def test_step(self, prompts: list[Prompt], batch_idx: int) -> dict[str, Evaluation]:
        """Score the centre on the test prompts, as a validation does on its own."""
        return self._log_means("test", prompts)

    def _log_means(self, prefix: str, prompts: Sequence[Prompt]) -> dict[str, Evaluation]:
        evaluation = self.evaluator.evaluate(prompts)
        self.log_dict(evaluation_means(evaluation, prefix), batch_size=len(prompts))
        self.record_evaluation(prefix, evaluation)
        return {"evaluation": evaluation}

    def record_evaluation(self, split: str, evaluation: Evaluation) -> None:
        """Add an evaluation of the centre, made in a fit, to evaluations.jsonl; all ranks have to call it.

        Args:
            split: ``val`` or ``test``.
            evaluation: of the centre as it is now.
        """
        if self._records:
            step, costs = self.generation, self.costs.up_to(self.history.lines)
            self.history.evaluations.add(recorded(evaluation, split, step, self.checksum(), costs))

    @property
    def _records(self) -> bool:
        """Whether evaluations belong to a fit."""
        return self.trainer.state.fn == "fit" and not self.trainer.sanity_checking

    # Steering -------------------------------------------------------------------------------------

    def restore(self, generation: int) -> None:
        """Put centre and optimizer back in their state before a generation; settings stay as they are.

        This loads the nearest checkpoint, or the base model, and repeats the journal's updates since. All
        ranks have to call it.

        Args:
            generation: number of generations that the wanted centre has seen; 0 is the base model.

        Raises:
            UsageError: the journal does not lead to that centre.
        """
        folders = {
            Path(each.dirpath)
            for each in self.trainer.checkpoint_callbacks
            if isinstance(each, ModelCheckpoint) and each.dirpath
        }
        base = self.base_model.weights
        place = (self.centre, self._optimizer, self.noise, base, folders, self.ranks, self.regularisers)
        self.history.restore(generation, *place)
        self.drift.fill_(drift(base, self.centre, self.rollouts.shards))
        self.rollouts.forget()
        trim_heap()

    def adjust(
        self, sigma: float | None = None, population: int | None = None, lr_factor: float | None = None
    ) -> None:
        """Change settings from the next generation on; all ranks have to make the same call.

        Checkpoints keep the new settings.

        Args:
            sigma: new noise scale of the present generation, from which a schedule goes on.
            population: new number of members; the same holds for it.
            lr_factor: factor on the learning rate, and on the rates that a scheduler computes with.

        Raises:
            UsageError: a value is outside its range.
        """
        steering = self.steering
        if sigma is not None:
            steering.adjust_sigma(sigma, self._now(steering.sigma))
        if population is not None:
            steering.adjust_population(population, self._now(steering.size))
        if lr_factor is not None:  # which checkpoints keep in the states of the optimizer and the scheduler
            scale_lr(self._optimizer, self.lr_schedulers(), lr_factor)

    # The end, and checkpoints ---------------------------------------------------------------------

    def on_train_end(self) -> None:
        """Check that all ranks have the same final centre; generations check the centres they start from."""
        self.ranks.check_centre(self.centre_checksum, self.generation)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the journal so far into the checkpoint, and the settings that callbacks have changed."""
        checkpoint["journal"] = list(self.history.lines)
        checkpoint["evaluations"] = self.history.evaluations.lines
        checkpoint["steered"] = {"after": self.history.parent, **self.steering.adjusted}
        checkpoint["schedules"] = self.steering.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the journal and the changed settings from the checkpoint.

        Raises:
            UsageError: it is no checkpoint of a run, it is damaged, or it holds another model.
        """
        path = Path(self.trainer.ckpt_path or "the checkpoint")
        check_content_for(self.centre, checkpoint, path, resumes=self.trainer.training)
        self.history.saved = list(checkpoint["journal"])
        self.history.evaluations.saved = list(checkpoint.get("evaluations", []))
        self.rollouts.forget()
        steered = dict(checkpoint.get("steered", {}))
        self.history.parent = steered.pop("after", None)
        self.steering.take_adjusted(steered)
        states = checkpoint.get("schedules", {})
        for name, schedule in self.steering.schedules.items():
            try:
                schedule.load_state_dict(states.get(name) or {})
            except (KeyError, TypeError, ValueError) as error:
                raise UsageError(
                    f"{path} holds no state that model.{name}_schedule can go on from: give the schedule "
                    "that the run began with, or another --ckpt_path if the file is damaged."
                ) from error

    # Reports --------------------------------------------------------------------------------------

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Set the loggers' step to the generation, which Lightning loses count of in resumed runs.

        Callbacks log at the start of a batch, so the step has to be right by then.
        """
        if self.trainer.training:
            self._logged_step(self.generation)
        return batch

    def _logged_step(self, step: int) -> int:
        """Set the step that loggers use from now on; returns the step before."""
        # Lightning's private attribute. The public way, a logged metric named ``step``, does not work here:
        # LearningRateMonitor does not read it, and ModelCheckpoint puts it into file names as ``{step}``.
        loop = self.trainer.fit_loop.epoch_loop
        before, loop._batches_that_stepped = loop._batches_that_stepped, step
        return before

    def _log_generation(self, record: Generation) -> None:
        seconds = max(record.seconds.get("generate", 0.0), 1e-3)  # the journal keeps milliseconds
        self.tokens_per_second.update(record.tokens / seconds, weight=seconds)
        rewards = {
            f"reward/{name}": torch.tensor(value, dtype=torch.float64)
            for name, value in reward_statistics(record.rewards).items()
        }
        bar = {name: rewards.pop(name) for name in ("reward/mean", "reward/max")}
        self.log_dict(bar | {"time/tokens_per_s": self.tokens_per_second.compute()}, prog_bar=True)
        costs = self.costs.up_to(self.history.lines).metrics() | {"cost/peak_bytes": float(peak_bytes())}
        exact = {name: torch.tensor(value, dtype=torch.float64) for name, value in costs.items()}
        self.log_dict({**rewards, **record_metrics(record, record.update_norm), **exact})

    def header(self) -> dict[str, Any]:
        """Make the first line of the run's journal."""
        return header_of(self, self._optimizer, self._engine_check)

    def settings(self) -> dict[str, Any]:
        """Return the hyper-parameters that decide a run, as plain values to be written beside its results."""
        return settings_of(self, self._optimizer)
