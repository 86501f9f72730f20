"""Completions of a population's members: one member after the other, or several in one batch as adapters."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import nn

from es_lightning.algorithm.noise import Noise
from es_lightning.algorithm.tensors import device_of
from es_lightning.errors import DivergenceError, RolloutError
from es_lightning.records import Completion, Member, Prompt
from es_lightning.rollout import AdapterEngine, Sampling, complete, complete_each
from es_lightning.rollout.adapters import AdapterDivergence, Factors
from es_lightning.system.going_on import how_to_go_on
from es_lightning.system.signals import interruptible
from es_lightning.system.stopwatch import Stopwatch

if TYPE_CHECKING:
    from es_lightning.evaluation.rollouts import Rollouts

log = logging.getLogger(__name__)

Way = Callable[["Rollouts", Sequence[Member], "Asked"], list[list[Completion]]]
"""Completes what is asked with each of some members' weights."""


@dataclass(frozen=True)
class Asked:
    """What every member is asked for; the same as the arguments of ``Rollouts.population``."""

    centre: nn.Module
    noise: Noise
    sigma: float
    prompts: Sequence[Prompt]
    sampling: Sampling
    watch: Stopwatch
    score: Callable[[Member, list[Completion]], None] | None


def alone(rollouts: Rollouts, members: Sequence[Member], asked: Asked) -> list[list[Completion]]:
    """Load the whole weights of each member, and complete the prompts with them."""
    completed = []
    for member in members:
        perturbed = rollouts.perturbed(asked.centre, member, asked.noise, asked.sigma)
        with asked.watch.phase("load"):
            rollouts.load(asked.watch.each("perturb", perturbed))
        with asked.watch.phase("generate"):
            completed.append(complete(rollouts.engine, asked.prompts, asked.sampling))
        if asked.score is not None:
            asked.score(member, completed[-1])
    return completed


def together(rollouts: Rollouts, members: Sequence[Member], asked: Asked) -> list[list[Completion]]:
    """Hand the members over as adapters beside the centre, and complete the prompts in one batch."""
    engine = rollouts.engine
    assert isinstance(engine, AdapterEngine)
    factors = adapters(asked.centre, members, asked.noise, asked.sigma, rollouts.shards.device)
    with asked.watch.phase("load"):
        rollouts.hold_centre(asked.centre)
        engine.load_adapters([asked.watch.each("perturb", of_one) for of_one in factors])
    with asked.watch.phase("generate"):
        completed = complete_each(engine, asked.prompts, asked.sampling)
    if asked.score is not None:
        for index, member in enumerate(members):
            with engine.using(index):
                asked.score(member, completed[index])
    return completed


def adapters(
    centre: nn.Module,
    members: Sequence[Member],
    noise: Noise,
    sigma: float,
    device: torch.device | None = None,
) -> list[Iterator[Factors]]:
    """Return sign * sigma * eps of each matrix that the noise perturbs, as a product of two thin ones.

    Args:
        centre: float32 parameters under Hugging Face names.
        members: perturbations of the centre.
        noise: of low rank.
        sigma: noise scale in units of the weights.
        device: where they are drawn; None takes the centre's.

    Returns:
        Per member its matrices, which are drawn when they are asked for.
    """
    root = sigma**0.5  # half of the scale for each: in float16 the whole would make one of them too small

    @lru_cache(maxsize=1)  # the two of an antithetic pair come one after the other
    def drawn(seed: int) -> list[Factors]:
        shapes = {
            name: theta.shape
            for name, theta in centre.named_parameters()
            if noise.perturbs(name, theta.shape)
        }
        place = device or device_of(centre)
        return [(name, *pair) for name, pair in noise.all_factors(seed, shapes, place).items()]

    def scaled(member: Member) -> Iterator[Factors]:
        for name, left, right in drawn(member.seed):
            yield name, left * (member.sign * root), right * root

    return [scaled(member) for member in members]


def tried(
    rollouts: Rollouts, way: Way, members: Sequence[Member], asked: Asked, generation: int
) -> Iterator[tuple[Member, list[Completion]]]:
    """Complete what is asked with some members, once more if the engine fails and that is allowed.

    Raises:
        RolloutError: the engine failed.
        DivergenceError: a member's log-probabilities are not finite.
    """

    def attempt() -> list[list[Completion]]:
        with interruptible():
            return way(rollouts, members, asked)

    where = f"{_named(members)} of generation {generation}"
    try:
        completed = attempt()
    except DivergenceError as error:
        if isinstance(error, AdapterDivergence):
            where = f"{_named(members[error.index : error.index + 1])} of generation {generation}"
        raise DivergenceError(_diverged(error, where, asked.sigma)) from error
    except Exception as error:
        if not rollouts.retry_member:
            raise RolloutError(_failed(where, error)) from error
        log.warning("The engine failed on %s, which is tried once more.", where, exc_info=True)
        rollouts.forget()  # it may have lost a part of what it held
        try:
            completed = attempt()
        except Exception as again:
            raise RolloutError(_failed(f"{where} twice", again)) from again
    yield from zip(members, completed, strict=True)


def _named(members: Sequence[Member]) -> str:
    first, *others = (str(member.index) for member in members)
    return f"members {', '.join([first, *others])}" if others else f"member {first}"


def _diverged(error: DivergenceError, where: str, sigma: float) -> str:
    return (
        f"{error} for {where}: its weights are too large. Lower model.sigma ({sigma:g} now), or the learning "
        "rate if earlier generations went well, and begin a new run. The centre is untouched."
    )


def _failed(where: str, error: Exception) -> str:
    return (
        f"the engine failed on {where} ({type(error).__name__}: {error}). The centre is untouched: "
        f"{how_to_go_on()}, and with --model.retry_member true if it fails now and then."
    )
