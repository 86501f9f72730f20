"""A centre with a population around it, whose members the ranks share out among themselves."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from es_lightning.algorithm.noise import Noise
from es_lightning.algorithm.population import Population
from es_lightning.errors import RewardError, RolloutError, UsageError
from es_lightning.evaluation.gather import Outcome, Shard, compare_centres, digest, join, sums
from es_lightning.evaluation_module import EvaluationModule
from es_lightning.grading.scorer import Pending
from es_lightning.journal.run import RunJournal
from es_lightning.records import Completion, Evaluation, Member, Prompt
from es_lightning.rollout import RolloutEngine, Sampling
from es_lightning.system.files import to_json
from es_lightning.system.signals import interruptible
from es_lightning.system.stopwatch import Stopwatch

log = logging.getLogger(__name__)


class PopulationModule(EvaluationModule):
    """Evaluates members theta + sign * sigma * eps; what follows from their rewards is a subclass's.

    Args:
        base: model to start from: ``embedded``, ``tiny``, a Hugging Face folder, or a hub id.
        sampling: how completions are decoded.
        engine: what generates.
        trust_remote_code: run Python code that comes with the model.
        population: which members there are.
        sigma: noise scale in units of the weights.
        noise: kind of noise.
        retry_member: whether a member is tried once more if the engine fails on it.

    Raises:
        UsageError: a value is outside its range.
    """

    def __init__(
        self,
        base: str,
        sampling: Sampling,
        engine: RolloutEngine,
        trust_remote_code: bool,
        population: Population,
        sigma: float,
        noise: Noise,
        retry_member: bool,
    ) -> None:
        if not sigma > 0:
            raise UsageError(f"sigma is {sigma}: give a noise scale above 0, for example 0.001.")
        if retry_member and engine.tensor_parallel_size > 1:
            raise UsageError(
                "retry_member needs tensor_parallel_size 1: the other ranks of a lane could not follow."
            )
        super().__init__(base, sampling, engine, trust_remote_code)
        self.population, self.sigma, self.noise = population, sigma, noise
        self.retry_member = retry_member
        self.centre_checksum = ""
        self.run_journal = RunJournal()
        self.saved_journal: list[str] | None = None
        """Lines that came with a checkpoint; set it to [] to resume a run from its journal alone."""

    def check_ranks(self) -> None:
        """Refuse ranks that could not work together, or would have nothing to do."""
        super().check_ranks()
        if self.lane.count > self.population.size:
            raise UsageError(
                f"population is {self.population.size}, but there are {self.lane.count} lanes of ranks, of "
                "which some would have nothing to do: raise model.population or lower trainer.devices."
            )

    @property
    def replays(self) -> bool:
        """Whether the generation to come is taken from the journal, without rollouts."""
        return self.run_journal.knows(self.generation)

    @torch.no_grad()
    def perturbed(self, member: Member, sigma: float | None = None) -> Iterator[tuple[str, Tensor]]:
        """Stream (name, theta + sign * sigma * eps) in the engine's dtype, one tensor at a time.

        Args:
            member: of a population.
            sigma: noise scale in units of the weights; None takes the run's.
        """
        scale, dtype = member.sign * (self.sigma if sigma is None else sigma), self.engine.dtype
        for name, parameter in self.centre.named_parameters():
            yield name, self.noise.perturbed(member.seed, name, parameter, scale, dtype)

    def evaluate_population(
        self,
        members: Sequence[Member],
        prompts: Sequence[Prompt],
        watch: Stopwatch,
        sigma: float | None = None,
    ) -> tuple[dict[int, Evaluation], Outcome]:
        """Evaluate this lane's members, then learn from the others how theirs did.

        Args:
            members: the population, N members.
            prompts: the batch, P encoded prompts, the same on every rank.
            watch: gets the seconds of perturb, generate, reward and gather.
            sigma: noise scale in units of the weights; None takes the run's.

        Returns:
            This lane's evaluations by member index, and the whole population's outcome.

        Raises:
            RewardError: the task returned no finite reward.
            RolloutError: the engine failed.
            RankError: another rank is missing, has failed, or holds another centre.
        """
        evaluations: dict[int, Evaluation] = {}
        error: Exception | None = None
        try:
            evaluations = self._evaluate_members(self.lane.share(members), prompts, watch, sigma)
        except (RewardError, RolloutError) as failure:
            error = failure  # the others are told before this rank stops
        shard = self._shard(evaluations, prompts, watch, error)
        with watch.phase("gather"):
            packed = self.exchange(shard.pack())
        if error is not None:
            raise error
        shards = [Shard.unpack(part) for part in packed]
        return evaluations, join(
            shards, len(members), self.generation, lane_size=self.engine.tensor_parallel_size
        )

    def _shard(
        self,
        evaluations: dict[int, Evaluation],
        prompts: Sequence[Prompt],
        watch: Stopwatch,
        error: Exception | None,
    ) -> Shard:
        if not self.lane.leads:
            evaluations = {}  # the first rank of the lane tells of them
        rewards = torch.tensor([e.rewards for e in evaluations.values()], dtype=torch.float64)
        return Shard(
            rank=self.trainer.global_rank,
            centre=self.centre_checksum,
            prompts=digest(prompts),
            rewards=rewards.view(len(evaluations), len(prompts)),
            sums=sums(evaluations.values()),
            tokens=sum(evaluation.tokens for evaluation in evaluations.values()),
            seconds=watch.seconds,
            error="" if error is None else str(error),
        )

    def _evaluate_members(
        self, members: Sequence[Member], prompts: Sequence[Prompt], watch: Stopwatch, sigma: float | None
    ) -> dict[int, Evaluation]:
        """Generate member by member; what one has generated is graded while the next one generates."""
        grading = self.data.scorer.round(len(members) * len(prompts) * self.sampling.n)
        pending: dict[int, tuple[Sequence[Completion], Pending]] = {}
        for member in members:
            completions = self._complete(member, prompts, watch, sigma)
            with watch.phase("reward"):  # returns at once, unless grading has no workers
                graded = grading.add(prompts, completions, self._called(member))
            pending[member.index] = completions, graded
        with watch.phase("reward"), interruptible():
            return {
                index: Evaluation(tuple(prompts), tuple(completions), graded.scores())
                for index, (completions, graded) in pending.items()
            }

    def _complete(
        self, member: Member, prompts: Sequence[Prompt], watch: Stopwatch, sigma: float | None
    ) -> list[Completion]:
        where = self._called(member)
        try:
            return self._roll_out(member, prompts, watch, sigma)
        except Exception as error:
            if not self.retry_member:
                raise RolloutError(_failed(where, error)) from error
            log.warning("The engine failed on %s, which is tried once more.", where, exc_info=True)
        try:
            return self._roll_out(member, prompts, watch, sigma)
        except Exception as error:
            raise RolloutError(_failed(f"{where} twice", error)) from error

    def _called(self, member: Member) -> str:
        return f"member {member.index} of generation {self.generation}"

    def _roll_out(
        self, member: Member, prompts: Sequence[Prompt], watch: Stopwatch, sigma: float | None
    ) -> list[Completion]:
        with interruptible():
            with watch.phase("perturb"):
                self.load(self.perturbed(member, sigma))
            with watch.phase("generate"):
                return self.complete(prompts)

    # The journal ----------------------------------------------------------------------------------

    def on_train_start(self) -> None:
        """Start the journal, or go on with it."""
        self.centre_checksum = self.checksum()
        if self.trainer.fast_dev_run:  # type: ignore[attr-defined]  # leaves no files
            self.run_journal.lines = list(self.saved_journal or [to_json(self.header())])
            return
        self.run_journal.open(
            folder=Path(self.trainer.default_root_dir),
            header=self.header() if self.trainer.is_global_zero else {},
            generation=self.generation,
            saved=self.saved_journal,
            writes=self.trainer.is_global_zero,
            share=lambda payload: self.exchange(payload)[0],
        )

    def on_train_end(self) -> None:
        """Compare the final centres, as the start of a generation does with those before it."""
        compare_centres(self.exchange(self.centre_checksum.encode()), self.generation)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the journal so far into the checkpoint."""
        checkpoint["journal"] = list(self.run_journal.lines)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the journal so far from the checkpoint.

        Raises:
            UsageError: there is none in it.
        """
        if "journal" not in checkpoint:
            raise UsageError(
                "the checkpoint holds no journal, so it is none of this library's: give another --ckpt_path."
            )
        self.saved_journal = list(checkpoint["journal"])
        self.centre_has_changed()

    @abstractmethod
    def header(self) -> dict[str, Any]:
        """The first line of the run's journal."""


def _failed(where: str, error: Exception) -> str:
    return (
        f"the engine failed on {where} ({type(error).__name__}: {error}). The centre is untouched: resume "
        "with --ckpt_path last, and with --model.retry_member true if it fails now and then."
    )
