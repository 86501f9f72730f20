"""The ES update, one tensor at a time: theta <- theta + alpha * (1/N) * sum_n w_n * sign_n * eps_n.

Source: arXiv 2509.24372, the decomposed form, with 1/sigma digested into alpha. The minus sign turns the
ascent direction into a gradient, so that any ``torch.optim`` optimizer can take the step.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from es_lightning.algorithm.noise import Noise
from es_lightning.algorithm.tensors import StoredWeights, distance_squared, sample
from es_lightning.records import Member


@dataclass(frozen=True)
class StepSize:
    """How far an update moved, in Euclidean norms over all parameters.

    Args:
        update_norm: length of this step. Of a tensor above 2^20 elements every fourth 2^18 are measured and
            scaled up, since a copy of all of it would cost as much memory as the gradient.
        drift: distance of the centre from the base model after the step; nan where the base cannot be read.
    """

    update_norm: float
    drift: float


def gradient(
    name: str, parameter: Tensor, members: Sequence[Member], weights: Tensor, noise: Noise
) -> Tensor:
    """grad = -(1/N) * sum_n w_n * sign_n * eps_n for one tensor.

    Terms are added in member order by one fixed operation, so that a replay gives the same bits.

    Args:
        name: Hugging Face name of the parameter, the key of its noise.
        parameter: float32 tensor whose shape and device the gradient takes.
        members: all N members.
        weights: float64 [N].
        noise: the kind of noise the members were made with.

    Returns:
        float32, the parameter's shape.
    """
    total = torch.zeros_like(parameter)
    for member, weight in zip(members, weights.tolist(), strict=True):
        noise.accumulate_(member.seed, name, total, -weight * member.sign / len(members))
    return total


@torch.no_grad()
def apply_update(
    optimizer: Optimizer,
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    members: Sequence[Member],
    weights: Tensor,
    noise: Noise,
    base: StoredWeights | None = None,
) -> StepSize:
    """Step every parameter, one after the other: only one of them has a gradient at any time.

    Args:
        optimizer: a ``torch.optim`` optimizer over these parameters; it leaves those without gradient alone.
        named_parameters: the centre.
        members: all N members.
        weights: float64 [N].
        noise: the kind of noise the members were made with.
        base: the base model's weights, to measure the drift from.
    """
    update_squared = drift_squared = 0.0
    for name, parameter in named_parameters:
        before = sample(parameter)
        parameter.grad = gradient(name, parameter, members, weights, noise)
        optimizer.step()
        parameter.grad = None
        scale = parameter.numel() / before.numel()
        update_squared += scale * distance_squared(sample(parameter), before)
        has_base = base is not None and name in base
        drift_squared += distance_squared(parameter, base.read(name)) if base and has_base else float("nan")
    return StepSize(update_squared**0.5, drift_squared**0.5)
