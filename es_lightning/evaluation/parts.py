"""The parts that evaluate models without a Trainer, started in their order and closed together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import torch
from lightning.pytorch.strategies import Strategy
from torch import nn

from es_lightning.algorithm.noise import Noise
from es_lightning.datamodule import TaskDataModule
from es_lightning.distributed.ranks import Ranks
from es_lightning.evaluation.centre_place import CentrePlace, case_of
from es_lightning.evaluation.engine_check import EngineCheck
from es_lightning.evaluation.evaluator import Evaluator
from es_lightning.evaluation.rollouts import Rollouts
from es_lightning.models import BaseModel
from es_lightning.records import Prompt
from es_lightning.system.cores import use_one_thread_if_tiny
from es_lightning.task import Task


@dataclass
class Parts:
    """A base model, an engine, a task and a kind of noise, as a fit's config names them.

    Ask for prompts first: the engine is started with room for the longest. A ``with`` block ends the grading
    processes, and the ranks.

    Args:
        base: the base model.
        rollouts: the engine, not started yet.
        data: the task, and how many of its problems are used.
        noise: kind of noise; after ``start`` what the engine can hold of it.
        sigma: noise scale of the config, in units of the weights.
        population: number of members of the config.
        antithetic: whether its members come in pairs with opposite signs.
        seed: run seed.
        strategy: spreads members over ranks; None is one rank.
        place: where the centre is.
        check_engine: whether ``start`` compares the engine's log-probabilities with the centre's.
        config: what the parts were made from, as plain JSON, for records.

    Example:
        >>> with opened(["-c", "configs/demo.yaml"]) as parts:       # of es_lightning.cli.opened
        ...     prompts = parts.prompts("val", 32)
        ...     centre = parts.start(members=4)
        ...     members = Population(4, run_seed=parts.seed).members(0)
        ...     outcome = parts.evaluator().members(centre, members, parts.noise, parts.sigma, prompts)
    """

    base: BaseModel
    rollouts: Rollouts
    data: TaskDataModule
    noise: Noise
    sigma: float
    population: int
    antithetic: bool = False
    seed: int = 0
    strategy: Strategy | None = None
    place: CentrePlace = field(default_factory=lambda: CentrePlace("auto"))
    check_engine: bool = True
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def task(self) -> Task:
        """Where problems and rewards come from."""
        return self.data.task

    @property
    def ranks(self) -> Ranks:
        """This process among the ranks."""
        return Ranks(self.strategy, self.rollouts.engine.tensor_parallel_size, self.place.device)

    @property
    def device(self) -> torch.device:
        """That this rank computes on."""
        return torch.device("cpu") if self.strategy is None else self.strategy.root_device

    def prompts(self, split: str, count: int | None = None, max_tokens: int | None = None) -> list[Prompt]:
        """Return a split's problems with their token ids, and reserve room for them in the engine.

        Args:
            split: ``train``, ``val`` or ``test``. Those of ``train`` have the objective of the config.
            count: how many, from the first on; None takes all that the config uses.
            max_tokens: most new tokens for each; None takes the limit of the sampling.

        Raises:
            UsageError: there are none, or one is longer than the model can take with its completion.
        """
        problems = self.data.prompts(split)[:count]
        return self.rollouts.reserve(self.base, problems, max_tokens, self.data.drop_long_prompts)

    def start(self, members: int = 1, beside: int = 0) -> nn.Module:
        """Check what costs nothing to check, load the centre, and start the engine.

        Args:
            members: how many will be evaluated at most in one call, on all ranks together.
            beside: bytes of an accelerator that another process will take, which the engine leaves free.

        Returns:
            The base model as the first centre: float32 parameters under Hugging Face names.

        Raises:
            UsageError: the model, the engine, the noise and the ranks do not go together.
        """
        ranks, engine = self.ranks, self.rollouts.engine
        ranks.check(members)
        self.base.check()
        self.base.check_heads(engine.tensor_parallel_size)
        engine.check(self.base.folder)
        self.data.scorer.start()  # loads the task in other processes while the model is loaded here
        mine = len(ranks.lane.share(range(members)))
        if self.device.type not in ("cpu", "mps"):
            prompts = self.rollouts.most_prompts  # not those of a generation: there may be no train split
            asked = (self.noise, 0, prompts, mine, self.device, ranks.centre_shards)
            case = case_of(self.rollouts, self.base, *asked)
            engine.leave_free(self.place.decide(case, self.device, ranks) + beside)
            ranks = self.ranks  # which now know where the centre is
        shards = ranks.divide(self.base.blueprint)
        centre: nn.Module = self.base.load(shards.holds if shards.divided else None)
        self.rollouts.shards = ranks.divide(centre)
        self.place.put(centre, self.device)
        self.noise = self.rollouts.limited(self.noise, self.base, centre, mine)
        self.noise.check({name: parameter.shape for name, parameter in centre.named_parameters()})
        self.rollouts.start(self.base)  # last, since an engine takes its share of what memory is left
        ranks.check_precision(engine.dtype)
        use_one_thread_if_tiny(centre)
        if self.check_engine:
            with self.rollouts.announcer.stage("checking the engine"):
                EngineCheck(self.rollouts, self.noise, ranks).run(centre)
        return centre

    def evaluator(self, generation: int = 0) -> Evaluator:
        """Return what turns weights and prompts into rewards, on all ranks.

        Args:
            generation: named in errors, and added to the sampler's seed where completions are sampled.
        """
        return Evaluator(self.rollouts, self.data.scorer, self.ranks, generation)

    def close(self) -> None:
        """End the grading processes, and leave the other ranks."""
        self.data.scorer.close()
        self.rollouts.engine.close()
        self.place.release()
        if self.strategy is not None:
            self.strategy.teardown()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close everything, whatever has happened."""
        self.close()
