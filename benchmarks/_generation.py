"""One rank of benchmarks/bench.py: an engine, and generations through this project's own parts.

Run by benchmarks/bench.py with --order and a JSON object, see ``Order``. The result is written to a file.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from _jobs import LR, SEED, SIGMA, Job, prompts_for, seconds, straggling, task, whole
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.accelerators import CPUAccelerator
from torch import nn

from es_lightning.algorithm.noise import GaussianNoise, LowRankNoise, Noise, RademacherNoise
from es_lightning.algorithm.population import Population
from es_lightning.algorithm.shaping import z_score
from es_lightning.algorithm.tensors import checksum
from es_lightning.algorithm.update import apply_update
from es_lightning.distributed.ranks import Ranks
from es_lightning.distributed.strategy import PopulationStrategy
from es_lightning.evaluation import Evaluator, Rollouts
from es_lightning.grading.scorer import Scorer
from es_lightning.models import BaseModel
from es_lightning.records import Member, Prompt
from es_lightning.rollout import Sampling, VLLMAdapterEngine, VLLMEngine
from es_lightning.system.memory import return_freed_tensors, trim_heap
from es_lightning.system.stopwatch import Stopwatch

KINDS = {"gaussian": GaussianNoise, "rademacher": RademacherNoise, "low_rank": LowRankNoise}
PHASES = ("perturb", "load", "generate", "reward", "gather", "update", "rest")


class Forcing:
    """Makes an engine of vLLM generate all tokens of every completion, if asked to."""

    forced = False

    def _decoding(self, prompts: Any, sampling: Any) -> list[Any]:
        found: list[Any] = super()._decoding(prompts, sampling)  # type: ignore[misc]
        for params in found if self.forced else []:
            params.ignore_eos, params.min_tokens = True, sampling.max_tokens
        return found


class ForcingEngine(Forcing, VLLMEngine):
    """Whole weights."""


class ForcingAdapterEngine(Forcing, VLLMAdapterEngine):
    """Adapters."""


@dataclass(frozen=True)
class Order:
    """What a rank is asked for.

    Args:
        base: the base model.
        dtype: of the engine.
        variants: kinds of noise, by their names in ``KINDS``, or ``adapters`` alone.
        jobs: by name, the arguments of ``Job``.
        raw: how many prompts generate at once with static weights, for each measurement of that.
        tokens: of each completion with static weights, and the most that the engine has room for.
        generations: measured after one to warm up.
        output: where the first rank writes what it has measured.
        options: more arguments of the engine.
        world: number of ranks.
    """

    base: str
    dtype: str
    variants: list[str]
    jobs: dict[str, dict[str, Any]]
    raw: list[int]
    tokens: int
    generations: int
    output: str
    options: dict[str, Any]
    world: int = 1


class Bench:
    """An engine with a centre, and generations of both.

    Args:
        order: what is asked for.
        ranks: the ranks that share the work.
    """

    def __init__(self, order: Order, ranks: Ranks) -> None:
        self.order, self.ranks = order, ranks
        self.adapters = order.variants == ["adapters"]
        self.base = BaseModel(order.base)
        self.centre: nn.Module = self.base.load()
        self.jobs = {name: Job(**job) for name, job in order.jobs.items()}
        kind = ForcingAdapterEngine if self.adapters else ForcingEngine
        self.engine = kind(dtype=order.dtype, **({"enforce_eager": True} | order.options))  # type: ignore[arg-type]
        self.rollouts = Rollouts(self.engine, Sampling(max_tokens=order.tokens))
        self.noises: dict[str, Noise] = {name: KINDS[name]() for name in order.variants if name in KINDS}
        if self.adapters:
            most = max(job.members for job in self.jobs.values())
            lane = -(-most // ranks.world)
            noise = LowRankNoise(1, "frozen")
            self.noises = {"adapters": self.rollouts.limited(noise, self.base, self.centre, lane)}
        most = max([*order.raw, *(job.prompts for job in self.jobs.values())])
        self.prompts = prompts_for(self.base, min(most, 96))
        self.rollouts.reserve(self.base, self.prompts)
        self.start_seconds = seconds(lambda: self.rollouts.start(self.base))
        self.scorer = Scorer(task())
        self.optimizer = torch.optim.SGD(self.centre.parameters(), lr=LR)

    # Static weights -------------------------------------------------------------------------------

    def raw(self, count: int) -> float:
        """Return tokens per second of as many requests at once, with the centre's weights alone."""
        self.rollouts.hold_centre(self.centre)
        prompts = [self.prompts[i % len(self.prompts)] for i in range(count)]
        self.engine.forced = True
        sampling = Sampling(max_tokens=self.order.tokens)
        self.engine.generate(prompts, Sampling(max_tokens=2))

        def work() -> None:
            self.engine.generate(prompts, sampling)

        spent = median(seconds(work) for _ in range(self.order.generations))
        return count * self.order.tokens / spent

    # Generations ----------------------------------------------------------------------------------

    def measured(self, variant: str, job: Job) -> dict[str, Any]:
        """Return the median seconds of a whole generation by phase, and what it generated."""
        few = self.ranks.world * 2  # members, to compile and to warm up
        self.generation(variant, Job(few, 2, 2, True, few), 0)
        found = [self.generation(variant, job, 1 + index) for index in range(self.order.generations)]
        return whole(found, job)

    @torch.no_grad()
    def generation(self, variant: str, job: Job, index: int) -> dict[str, Any]:
        """Run a generation as ``EvolutionStrategies.training_step`` does; returns all members' seconds."""
        noise, self.engine.forced = self.noises[variant], job.forced
        members = Population(job.members, SEED).members(index)
        evaluated, prompts = self._part(members, job)
        self.rollouts.sampling = Sampling(max_tokens=job.tokens)
        evaluator = Evaluator(self.rollouts, self.scorer, self.ranks, index)
        watch, begun = Stopwatch(), time.perf_counter()
        digits = checksum(self.centre.named_parameters())
        outcome = evaluator.members(self.centre, evaluated, noise, SIGMA, prompts, digits, watch)
        weights = z_score(outcome.rewards).repeat(-(-job.members // len(evaluated)))[: job.members]
        with watch.phase("update"):
            step = (self.optimizer, self.centre.named_parameters(), members, weights, noise)
            apply_update(*step, self.base.weights, shards=self.ranks.shards)
        self.rollouts.forget()
        trim_heap()
        spent = {**dict.fromkeys(PHASES, 0.0), **watch.seconds}
        spent["rest"] = time.perf_counter() - begun - sum(spent.values())
        # Adapters are all made and loaded, and only prompts are left out. Ranks wait longer for more members.
        scaled = ["generate", "reward"] if self.adapters else ["perturb", "load", "generate", "reward"]
        for phase in [*scaled, "gather"] if self.ranks.world > 1 else scaled:
            spent[phase] *= job.scale
        lengths = [[len(c.token_ids) for c in each.completions] for each in outcome.evaluations.values()]
        batches = [sum(lengths, [])] if self.adapters else lengths
        return {
            "seconds": spent,
            "tokens": outcome.tokens * job.scale,
            "straggling": straggling(batches),
        }

    def _part(self, members: tuple[Member, ...], job: Job) -> tuple[tuple[Member, ...], list[Prompt]]:
        """Return what is evaluated: some members, or with adapters all of them on some of the prompts."""
        if self.adapters:
            return members, self.prompts[: max(1, round(job.prompts / job.scale))]
        return members[: job.sample], self.prompts[: job.prompts]

    def close(self) -> None:
        """End the graders and the engine."""
        self.scorer.close()
        self.engine.close()


def joined(world: int) -> Ranks:
    """Join the other ranks, which have been started with the variables that Lightning's launcher sets."""
    if world == 1:
        return Ranks()
    strategy = PopulationStrategy(
        accelerator=CPUAccelerator(),
        parallel_devices=[torch.device("cpu")] * world,
        cluster_environment=LightningEnvironment(),
        share_update=True,
    )
    strategy.setup_environment()
    return Ranks(strategy)


def main() -> None:
    """Do what is asked for, and write it down."""
    order = Order(**json.loads(sys.argv[2]))
    return_freed_tensors()
    ranks = joined(order.world)
    bench = Bench(order, ranks)
    found: dict[str, Any] = {"start_seconds": bench.start_seconds, "threads": torch.get_num_threads()}
    found["raw"] = {str(count): bench.raw(count) for count in order.raw}
    found["variants"] = {
        variant: {name: bench.measured(variant, job) for name, job in bench.jobs.items()}
        for variant in order.variants
    }
    found["dtype"] = str(bench.engine.dtype).removeprefix("torch.")
    bench.close()
    if ranks.rank == 0:
        Path(order.output).write_text(json.dumps(found), encoding="utf-8")
    sys.stdout.flush()
    os._exit(0)  # what vLLM and gloo leave behind would otherwise be waited for


if __name__ == "__main__":
    main()
