"""From weights to rewards: generate completions, grade them, and gather the results of all ranks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from es_lightning.algorithm.noise import Noise
from es_lightning.analysis.divergence import whole_vocabulary
from es_lightning.distributed.ranks import Ranks
from es_lightning.errors import DivergenceError, RewardError, RolloutError
from es_lightning.evaluation.gather import (
    Outcome,
    Shard,
    digest,
    join,
    join_evaluations,
    pack_evaluation,
    sums,
)
from es_lightning.evaluation.kl_penalty import KLMeter, Scored
from es_lightning.evaluation.progress import Progress
from es_lightning.evaluation.rollouts import Rollouts
from es_lightning.grading.scorer import Pending, Scorer
from es_lightning.records import Completion, Evaluation, Member, Prompt
from es_lightning.rollout import Sampling
from es_lightning.system.signals import interruptible
from es_lightning.system.stopwatch import Stopwatch


class Evaluator:
    """Generates completions, grades them and gathers the results.

    Several ranks have to call the same method at the same time, and all of them get the same results.

    Args:
        rollouts: holds the engine, which has to be started.
        scorer: grades completions with the run's task.
        ranks: the ranks that share the work; None for a single process.
        generation: number of updates that the centre has seen; it seeds samplers and is named in errors.
        kl: measures how far completions are from the base model, and takes its price from the rewards of
            members; None takes nothing.

    Example::

        evaluator = Evaluator(rollouts, Scorer(task))
        outcome = evaluator.members(centre, members, GaussianNoise(), 0.001, prompts)
        outcome.rewards  # float64 [members, prompts]
    """

    def __init__(
        self,
        rollouts: Rollouts,
        scorer: Scorer,
        ranks: Ranks | None = None,
        generation: int = 0,
        kl: KLMeter | None = None,
    ) -> None:
        self.rollouts, self.scorer, self.generation = rollouts, scorer, generation
        self.ranks, self.kl = ranks or Ranks(), kl

    # Members --------------------------------------------------------------------------------------

    def members(
        self,
        centre: nn.Module,
        members: Sequence[Member],
        noise: Noise,
        sigma: float,
        prompts: Sequence[Prompt],
        checksum: str = "",
        watch: Stopwatch | None = None,
    ) -> Outcome:
        """Evaluate this lane's members, then gather the results of the other lanes.

        Args:
            centre: theta, float32 parameters under Hugging Face names; not changed.
            members: the population, N members.
            noise: kind of noise.
            sigma: noise scale in units of the weights.
            prompts: the batch, P encoded prompts, the same on every rank.
            checksum: checksum of the centre, which has to be the same on every rank.
            watch: records the seconds of the phases perturb, load, generate, kl, reward and gather.

        Raises:
            RewardError: the task returned no finite reward.
            RolloutError: the engine failed.
            DivergenceError: a member's log-probabilities are not finite.
            RankError: another rank is missing, has failed, or holds another centre.
        """
        watch, mine = watch or Stopwatch(), self.ranks.lane.share(members)
        evaluations: dict[int, Evaluation] = {}
        failure: RewardError | RolloutError | DivergenceError | None = None
        try:
            evaluations = self._graded(centre, mine, noise, sigma, prompts, watch)
        except (RewardError, RolloutError, DivergenceError) as error:
            failure = error  # raised after the exchange: the other ranks wait for this one
        shard = self._shard(evaluations, prompts, checksum, watch, failure)
        with watch.phase("gather"):
            packed = self.ranks.exchange(shard.pack())
        if failure is not None:
            raise failure
        shards = [Shard.unpack(part) for part in packed]
        outcome = join(shards, len(members), self.generation, self.ranks.lane_size)
        return replace(outcome, evaluations=evaluations)

    def _graded(
        self,
        centre: nn.Module,
        members: Sequence[Member],
        noise: Noise,
        sigma: float,
        prompts: Sequence[Prompt],
        watch: Stopwatch,
    ) -> dict[int, Evaluation]:
        """Generate and grade; the graders work on a member while the engine generates for the next one."""
        size = len(members) * len(prompts) * self.rollouts.sampling.n
        grading = self.scorer.round(size)
        pending: dict[int, tuple[Sequence[Completion], Pending]] = {}
        lanes, tell = self.ranks.lane.count, self.rollouts.announcer.tell
        scored: dict[int, Scored] = {}

        def score(member: Member, completions: Sequence[Completion]) -> None:
            if self.kl is not None:
                with watch.phase("kl"):
                    scored[member.index] = self.kl.own(self.rollouts, prompts, completions)

        tell(Progress(0, len(members), 0, size, lanes))
        batch = (prompts, self.generation, watch, score)
        rolled_out = self.rollouts.population(centre, members, noise, sigma, *batch)
        for member, completions in rolled_out:
            whose = f"member {member.index} of generation {self.generation}"
            with watch.phase("reward"):  # returns at once, unless grading has no workers
                pending[member.index] = completions, grading.add(prompts, completions, whose)
            tell(Progress(len(pending), len(members), grading.graded, size, lanes))
        nats: dict[int, list[float]] = {}
        if self.kl is not None:
            with watch.phase("kl"):  # meanwhile the last members' completions are graded
                nats = self.kl.measure(self.rollouts, centre, scored)
        evaluations = {}
        with watch.phase("reward"), interruptible():
            for index, (texts, waiting) in pending.items():
                scores = waiting.scores()
                if self.kl is not None:
                    scores = self.kl.charge(scores, nats[index])
                evaluations[index] = self._evaluation(prompts, texts, scores)
                tell(Progress(len(pending), len(members), grading.graded, size, lanes))
        return evaluations

    def _shard(
        self,
        evaluations: dict[int, Evaluation],
        prompts: Sequence[Prompt],
        checksum: str,
        watch: Stopwatch,
        failure: Exception | None,
    ) -> Shard:
        if not self.ranks.lane.leads:
            evaluations = {}  # only the first rank of the lane reports its members
        rewards = torch.tensor([each.rewards for each in evaluations.values()], dtype=torch.float64)
        return Shard(
            rank=self.ranks.rank,
            centre=checksum,
            prompts=digest(prompts),
            rewards=rewards.view(len(evaluations), len(prompts)),
            sums=sums(evaluations.values()),
            tokens=sum(each.tokens for each in evaluations.values()),
            seconds=watch.seconds,
            error="" if failure is None else str(failure),
        )

    # The weights that the engine holds --------------------------------------------------------------

    def evaluate(
        self,
        prompts: Sequence[Prompt],
        scorer: Scorer | None = None,
        max_tokens: int | None = None,
        penalise: nn.Module | None = None,
    ) -> Evaluation:
        """Generate and grade with the weights that the engine holds; the lanes divide the prompts.

        Args:
            prompts: P encoded prompts.
            scorer: grades the completions; None takes the scorer of the run's task.
            max_tokens: most new tokens of a completion; None takes the run's own limit.
            penalise: the centre, if the rewards are to be compared with members' and so have to pay the run's
                KL penalty, too, if there is one; None leaves them as the task gives them.
        """
        sampling = self.rollouts.sampling
        sampling = replace(sampling, max_tokens=max_tokens or sampling.max_tokens)
        mine = self.ranks.lane.share(prompts)
        completions = self._complete(mine, sampling)
        scores: tuple[dict[str, float], ...] = ()
        if mine:
            with interruptible():
                graded = (scorer or self.scorer).round(len(completions)).add(mine, completions)
                if self.kl is not None and penalise is not None:
                    own = {0: self.kl.own(self.rollouts, mine, completions)}
                    nats = self.kl.measure(self.rollouts, penalise, own)[0]
                    scores = self.kl.charge(graded.scores(), nats)
                else:
                    scores = graded.scores()
        return self._joined(self._evaluation(mine, completions, scores), prompts)

    def sample(self, prompts: Sequence[Prompt], max_tokens: int, temperature: float, seed: int) -> Evaluation:
        """Generate one completion per prompt, without grading; the lanes divide the prompts.

        Args:
            prompts: P encoded prompts.
            max_tokens: most new tokens of a completion.
            temperature: 0 for greedy decoding.
            seed: seed of the sampler, to which the generation's index is added.

        Returns:
            The completions, with empty scores.
        """
        mine = self.ranks.lane.share(prompts)
        completions = self._complete(
            mine, Sampling(max_tokens=max_tokens, temperature=temperature, seed=seed)
        )
        scores: tuple[dict[str, float], ...] = tuple({} for _ in completions)
        return self._joined(Evaluation(tuple(mine), tuple(completions), scores), prompts)

    def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
        """Compute the log-probability of each token given those before it; the lanes divide the sequences.

        Args:
            sequences: token ids, at least 2 in each sequence.

        Returns:
            Per sequence of length L a float32 tensor [L - 1], in nats; the first token has no value.
        """
        mine = self.ranks.lane.share(sequences)
        with interruptible():
            rows = [row.tolist() for row in self.rollouts.engine.logprobs(mine)] if mine else []
        return [torch.tensor(row, dtype=torch.float32) for row in self._of_all(rows, len(sequences))]

    def distributions(
        self, sequences: Sequence[Sequence[int]], positions: Sequence[Sequence[int]]
    ) -> list[Tensor]:
        """Compute the distributions of the next token over the whole vocabulary, for ``divergences``.

        Args:
            sequences: token ids.
            positions: per sequence K indices of tokens, from 1 on.

        Returns:
            For each sequence of this lane float32 [K, V], in nats. They are too large to be sent around.

        Raises:
            UsageError: the engine does not tell them.
        """
        lane = self.ranks.lane
        with interruptible():
            return list(self.rollouts.engine.distributions(lane.share(sequences), lane.share(positions)))

    def divergences(
        self,
        sampled: Sequence[Tensor],
        sequences: Sequence[Sequence[int]],
        positions: Sequence[Sequence[int]],
    ) -> list[Tensor]:
        """Compute KL(p||q) at some positions, with q of the weights that the engine holds now.

        Args:
            sampled: what ``distributions`` returned for p, with the same sequences and positions.
            sequences: token ids.
            positions: per sequence K indices of tokens.

        Returns:
            For each sequence, of all lanes, float64 [K], in nats.
        """
        lane = self.ranks.lane
        with interruptible():
            now = self.rollouts.engine.distributions(lane.share(sequences), lane.share(positions))
            rows = [whole_vocabulary(p, q).tolist() for p, q in zip(sampled, now, strict=True)]
        return [torch.tensor(row, dtype=torch.float64) for row in self._of_all(rows, len(sequences))]

    def _of_all(self, rows: Sequence[Sequence[float]], count: int) -> list[Sequence[float]]:
        """Gather the lanes' rows of numbers: lane l of L had sequences l, l + L, l + 2 L, ..."""
        lanes = [json.loads(part) for part in self.ranks.from_lanes(json.dumps(rows).encode())]
        return [lanes[i % len(lanes)][i // len(lanes)] for i in range(count)]

    def _evaluation(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[Completion],
        scores: tuple[dict[str, float], ...],
    ) -> Evaluation:
        return Evaluation(tuple(prompts), tuple(completions), scores, self.rollouts.sampling.pass_k)

    def _complete(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        return self.rollouts.complete(prompts, sampling, self.generation) if prompts else []

    def _joined(self, part: Evaluation, prompts: Sequence[Prompt]) -> Evaluation:
        if self.ranks.lane.count == 1:
            return part
        return join_evaluations(self.ranks.from_lanes(pack_evaluation(part)), prompts, part.pass_k)
