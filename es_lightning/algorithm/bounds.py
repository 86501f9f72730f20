"""Bounds of the numbers that a run goes on with: sigma, the optimizer's settings, rewards and weights.

A model of garbage is a legitimate result. A number that is not finite is not, nor one so large that the next
computation with it overflows: it would spoil the centre, and the journal could not hold it.
"""

import math
import re
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from es_lightning.algorithm.shares import Shards
from es_lightning.errors import DivergenceError, RewardError, UsageError
from es_lightning.records import LARGEST_REWARD

LARGEST_SIGMA = 1e3
"""In units of the weights, which are of the order of 0.01 to 1 in any language model."""
LARGEST_WEIGHT = 1e6
"""Far above any weight of a language model; its square is far below the largest float32."""


def checked_sigma(sigma: float) -> float:
    """Return the noise scale.

    Raises:
        UsageError: it is not a number above 0, or is far beyond the size of any weight.
    """
    if not sigma > 0:
        raise UsageError(f"sigma is {sigma}: give a noise scale above 0, for example 0.001.")
    if sigma > LARGEST_SIGMA:
        raise UsageError(
            f"sigma is {sigma:g}, but weights are of the order of 0.01 to 1: give a noise scale of at most "
            f"{LARGEST_SIGMA:g}, for example 0.001."
        )
    return sigma


def made_optimizer(
    make: Callable[[Iterable[nn.Parameter]], Optimizer], parameters: Iterable[nn.Parameter]
) -> Optimizer:
    """Make the optimizer of the centre's parameters.

    Raises:
        UsageError: a setting is outside its range, or the optimizer evaluates a loss of its own, as LBFGS
            does.
    """
    try:
        optimizer = make(parameters)
    except ValueError as error:  # of torch, which names the setting: "Invalid learning rate: -1.0"
        advice = "mend model.optimizer"
        if re.search(r"\b2D\b", str(error)):  # of Muon, for biases and norms, which are no matrices
            advice = "it takes matrices alone, and ES tunes all parameters: choose SGD, Adam or AdamW"
        raise UsageError(f"the optimizer was refused ({error}): {advice}.") from error
    check_optimizer(optimizer)
    if isinstance(optimizer, torch.optim.LBFGS):
        raise UsageError(
            "LBFGS searches along a loss, and ES has none: choose another torch.optim optimizer."
        )
    return optimizer


def check_optimizer(optimizer: Optimizer) -> None:
    """Refuse settings of an optimizer that are not finite, as given or as a scheduler has made them.

    Raises:
        UsageError: the message names the setting.
    """
    for group in optimizer.param_groups:
        for name, value in group.items():
            numbers = value if isinstance(value, tuple | list) else [value]
            for number in numbers if name != "params" else ():
                if isinstance(number, float | Tensor) and not math.isfinite(number):
                    raise UsageError(
                        f"the optimizer's {name} is {float(number)}: give a finite number in "
                        f"model.optimizer.init_args.{name}, and look at model.lr_scheduler if there is one."
                    )


def check_rewards(rewards: Tensor) -> None:
    """Refuse rewards whose mean and spread would overflow.

    Args:
        rewards: [N, P].

    Raises:
        RewardError: a reward is not finite, or too large.
    """
    largest = float(rewards.abs().max())
    if not largest <= LARGEST_REWARD:
        raise RewardError(
            f"a reward of the population has the size {largest:g}, and rewards are averaged and squared: "
            f"give rewards of at most {LARGEST_REWARD:g}, at best of the order of 1."
        )


def check_weights(weights: Tensor, members: int, shaping: Callable[[Tensor], Tensor]) -> None:
    """Refuse what a shaping function returned, unless it is one finite weight per member.

    Raises:
        UsageError: the message names the function.
    """
    name = getattr(shaping, "__name__", type(shaping).__name__)
    if not isinstance(weights, Tensor) or weights.shape != (members,):
        what = f"the shape {list(weights.shape)}" if isinstance(weights, Tensor) else repr(weights)
        raise UsageError(f"model.shaping {name} returned {what}: return a tensor of {members} weights.")
    wrong = [index for index, weight in enumerate(weights.tolist()) if not math.isfinite(weight)]
    if wrong:
        raise UsageError(
            f"model.shaping {name} returned {weights.tolist()[wrong[0]]} for member {wrong[0]}: return a "
            "finite weight for each member."
        )


def check_centre(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    generation: int,
    lr: float,
    shards: Shards | None = None,
) -> None:
    """Refuse a centre that the update of a generation has ruined.

    Args:
        named_parameters: the centre, after the update; each tensor is read once.
        generation: index of the generation.
        lr: learning rate of the update.
        shards: which tensors are here; all ranks that hold the others learn of a ruined one.

    Raises:
        DivergenceError: a weight is not finite, or far too large.
    """
    shards = shards or Shards()
    held = {
        name: _largest(shards.here(each.detach())) for name, each in shards.held(named_parameters).items()
    }
    for name, largest in shards.gathered(held).items():
        if not largest <= LARGEST_WEIGHT:
            raise DivergenceError(
                f"the update of generation {generation} has ruined the centre: {name} has a weight of size "
                f"{largest:g}. The learning rate is too large ({lr:g} now): lower "
                "model.optimizer.init_args.lr and begin a new run. The centre before this generation is safe "
                "in checkpoints and journal."
            )


def _largest(parameter: Tensor) -> float:
    """Return the size of the largest entry; nan if one is no number."""
    low, high = (float(bound) for bound in torch.aminmax(parameter))
    return math.nan if math.isnan(low + high) else max(-low, high)
