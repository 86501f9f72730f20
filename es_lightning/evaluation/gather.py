"""What the ranks send one another about a generation: N * P rewards and a few numbers."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from es_lightning.distributed.ranks import require_same
from es_lightning.errors import RankError
from es_lightning.evaluation.metrics import columns, longest, measured
from es_lightning.grading.grade import FAILED
from es_lightning.records import Completion, Evaluation, Prompt


@dataclass(frozen=True)
class Shard:
    """What one rank reports of a generation; only the first rank of a lane reports the lane's members.

    Args:
        rank: index of the rank.
        centre: checksum of its centre before the generation.
        prompts: digest of the batch that it evaluated.
        rewards: float64 [members of the lane, P]; [0, P] from a rank that is not its lane's first.
        sums: for every number that the task's reward returned, its sum as an exact fraction, and its count.
        tokens: tokens generated.
        seconds: wall-clock seconds per phase.
        error: what went wrong; empty if nothing did.
    """

    rank: int
    centre: str
    prompts: str
    rewards: Tensor
    sums: Mapping[str, tuple[str, int]]
    tokens: int
    seconds: Mapping[str, float]
    error: str = ""

    def pack(self) -> bytes:
        """Write the report as a line of JSON, followed by the raw bytes of the rewards."""
        values = {name: value for name, value in vars(self).items() if name != "rewards"}
        head = json.dumps({**values, "shape": list(self.rewards.shape)})
        return head.encode() + b"\n" + self.rewards.numpy().tobytes()

    @classmethod
    def unpack(cls, packed: bytes) -> "Shard":
        """Read a report that ``pack`` wrote."""
        head, _, body = packed.partition(b"\n")
        values: dict[str, Any] = json.loads(head)
        shape = values.pop("shape")
        rewards = torch.from_numpy(np.frombuffer(body, dtype=np.float64).copy()).view(shape)
        return cls(rewards=rewards, **values)


@dataclass(frozen=True)
class Outcome:
    """The results of the whole population, the same on every rank but for ``evaluations``.

    Args:
        rewards: float64 [N, P], in member order.
        scores: mean over all completions of each number that the task's reward returned.
        tokens: tokens generated.
        seconds: wall-clock seconds per phase, of the slowest rank in each phase.
        lane_seconds: seconds that each lane spent on its members, summed over the phases.
        evaluations: evaluations of the members that this rank evaluated, by member index.
    """

    rewards: Tensor
    scores: Mapping[str, float]
    tokens: int
    seconds: Mapping[str, float]
    lane_seconds: tuple[float, ...]
    evaluations: Mapping[int, Evaluation] = field(default_factory=dict)


def join(shards: Sequence[Shard], size: int, generation: int, lane_size: int = 1) -> Outcome:
    """Join the lanes' reports: lane l of L evaluated members l, l + L, l + 2 L, ...

    Args:
        shards: one per rank, in rank order.
        size: number of members N.
        generation: index of the generation, named in errors.
        lane_size: ranks per lane.

    Raises:
        RankError: a rank failed, or holds another centre or other prompts than rank 0.
    """
    first = shards[0]
    for shard in shards:
        if shard.error:
            raise RankError(f"rank {shard.rank} failed in generation {generation}: {shard.error}")
        require_same("centre", shard.rank, shard.centre, first.centre, generation)
        require_same("batch of prompts", shard.rank, shard.prompts, first.prompts, generation)
    lanes = shards[::lane_size]
    rewards = torch.empty(size, first.rewards.shape[1], dtype=torch.float64)
    for index, lane in enumerate(lanes):
        rewards[index :: len(lanes)] = lane.rewards
    keys = dict.fromkeys(key for lane in lanes for key in lane.sums)
    scores = {key: _mean(_sums_of(key, lanes)) for key in keys}
    seconds = {phase: max(shard.seconds.get(phase, 0.0) for shard in shards) for phase in first.seconds}
    tokens, spent = sum(lane.tokens for lane in lanes), tuple(sum(lane.seconds.values()) for lane in lanes)
    return Outcome(rewards, scores, tokens, seconds, spent)


def sums(evaluations: Iterable[Evaluation]) -> dict[str, tuple[str, int]]:
    """Sum and count every number that the task returned, and the completions' lengths.

    The sums are exact, so that means do not depend on how the members were divided among lanes.
    """
    scores = [
        score | most
        for evaluation in evaluations
        for most in [longest(evaluation)]
        for score in measured(evaluation)
    ]
    values = columns(scores)
    return {key: (str(sum(map(Fraction, column))), len(column)) for key, column in values.items()}


def digest(prompts: Iterable[Prompt]) -> str:
    """Hash the prompts' ids and token ids into sixteen hexadecimal digits."""
    text = "\n".join(f"{prompt.id} {prompt.token_ids}" for prompt in prompts)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def pack_evaluation(evaluation: Evaluation) -> bytes:
    """Write completions and scores as JSON, for the lanes that evaluated other prompts."""
    completions = [asdict(completion) for completion in evaluation.completions]
    return json.dumps([completions, [dict(score) for score in evaluation.scores]]).encode()


def join_evaluations(packed: Sequence[bytes], prompts: Sequence[Prompt], pass_k: int = 1) -> Evaluation:
    """Join the lanes' parts of an evaluation: lane l of L evaluated prompts l, l + L, l + 2 L, ...

    Args:
        packed: one per lane, in lane order.
        prompts: all prompts.
        pass_k: samples of a try, the same in all lanes.
    """
    parts = [json.loads(part) for part in packed]
    samples = sum(len(completions) for completions, _ in parts) // len(prompts)
    completions: list[Completion] = []
    scores: list[dict[str, float]] = []
    for index in range(len(prompts)):
        rows, numbers = parts[index % len(parts)]
        here = slice(index // len(parts) * samples, (index // len(parts) + 1) * samples)
        completions += [Completion(**{**row, "token_ids": tuple(row["token_ids"])}) for row in rows[here]]
        scores += numbers[here]
    return Evaluation(tuple(prompts), tuple(completions), tuple(scores), pass_k)


def _sums_of(key: str, lanes: Iterable[Shard]) -> Iterator[tuple[str, int]]:
    """Yield the sum and count of a number from each lane that has members.

    A lane without failures of some kind reports no number for it, which means a sum of 0.
    """
    for lane in lanes:
        if key in lane.sums:
            yield lane.sums[key]
        elif key.startswith(FAILED) and "reward" in lane.sums:
            yield "0", lane.sums["reward"][1]


def _mean(pairs: Iterable[tuple[str, int]]) -> float:
    totals, counts = zip(*pairs, strict=True)
    return float(sum(map(Fraction, totals)) / sum(counts))
