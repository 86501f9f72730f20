"""The ES update, one tensor at a time: theta <- theta + alpha * (1/N) * sum_n w_n * sign_n * eps_n.

Source: arXiv 2509.24372, the decomposed form, with 1/sigma absorbed into alpha. ``gradient`` negates the
ascent direction, so that any ``torch.optim`` optimizer, which descends, can take the step.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from es_lightning.algorithm.noise import Noise
from es_lightning.algorithm.regularisers import Regulariser
from es_lightning.algorithm.shares import Shards
from es_lightning.algorithm.tensors import StoredWeights, distance_squared, norm, sample
from es_lightning.errors import UsageError
from es_lightning.records import Member


@dataclass(frozen=True)
class StepSize:
    """How far an update moved the centre, in Euclidean norms over all parameters.

    Args:
        update_norm: length of this step. A tensor above 2^20 elements is measured on every fourth chunk of
            2^18 elements and scaled up, since a full copy would cost as much memory as the gradient.
        drift: distance of the centre from the base model after the step; nan if it was not measured, or the
            base lacks a tensor.
    """

    update_norm: float
    drift: float


def gradient(
    name: str,
    parameter: Tensor,
    members: Sequence[Member],
    weights: Tensor,
    noise: Noise,
    device: torch.device | None = None,
) -> Tensor:
    """Return grad = -(1/N) * sum_n w_n * sign_n * eps_n for one tensor.

    The terms are added in member order by one fixed operation, so that a replay gives the same bits.

    Args:
        name: Hugging Face name of the parameter, which keys its noise.
        parameter: float32 tensor; the gradient takes its shape.
        members: all N members.
        weights: float64 [N].
        noise: the kind of noise that the members were made with.
        device: where it is made; None takes the parameter's. The bits are the same.

    Returns:
        float32, the parameter's shape.
    """
    total = torch.zeros_like(parameter, device=device)
    scales = [
        -weight * member.sign / len(members) for member, weight in zip(members, weights.tolist(), strict=True)
    ]
    noise.accumulate_all_([member.seed for member in members], name, total, scales)
    return total


@torch.no_grad()
def apply_update(
    optimizer: Optimizer,
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    members: Sequence[Member],
    weights: Tensor,
    noise: Noise,
    base: StoredWeights | None = None,
    regularisers: Sequence[Regulariser] = (),
    measure_drift: bool = True,
    shards: Shards | None = None,
) -> StepSize:
    """Update the parameters one after the other, so that only one of them has a gradient at any time.

    Parameters that the noise does not perturb stay as they are: no optimizer and no decay moves them.

    Args:
        optimizer: a ``torch.optim`` optimizer over these parameters; it skips those without a gradient.
        named_parameters: the centre.
        members: all N members.
        weights: float64 [N].
        noise: the kind of noise that the members were made with.
        base: the base model's weights, from which the drift is measured.
        regularisers: parts that change the update, in this order.
        measure_drift: False saves reading the base model, unless a regulariser needs it.
        shards: which tensors are here, and who makes their gradients, on which device; other ranks update
            the others. The optimizer steps where the parameters are.

    Raises:
        UsageError: a regulariser cannot work with this learning rate, or needs a base that has no such
            tensor.
    """
    named, lr = dict(named_parameters), float(optimizer.param_groups[0]["lr"])
    shards = shards or Shards()
    tuned = {name: parameter for name, parameter in named.items() if noise.perturbs(name, parameter.shape)}

    def make(name: str) -> Tensor:
        return gradient(name, tuned[name], members, weights, noise, shards.device)

    def changed(
        gradients: Iterable[tuple[str, Tensor]], parts: Sequence[Regulariser]
    ) -> Iterator[tuple[str, Tensor]]:
        for name, estimate in gradients:
            for part in parts:
                estimate = part.change(name, estimate)
            yield name, estimate

    for index, part in enumerate(regularisers):
        part.check_lr(lr)
        if part.looks_first:
            part.look(changed(shards.all_gradients(tuned, make), regularisers[:index]))
    moved, drifted = dict[str, Tensor](), dict[str, Tensor]()
    measured = measure_drift and base is not None and all(name in base for name in named)
    reads = measured or any(part.needs_base for part in regularisers)

    def origin_of(name: str) -> Tensor | None:
        return base.read(name) if reads and base is not None and name in base else None

    here = shards.held(named.items())
    for name, estimate in changed(shards.gradients(tuned, make), regularisers):
        parameter, origin = here.pop(name), origin_of(name)
        before = sample(parameter)
        parameter.grad = _beside(parameter, estimate)
        del estimate  # on an accelerator there may be no room for two
        optimizer.step()  # moves this parameter only: no other one has a gradient
        parameter.grad = None
        for part in regularisers:
            part.settle(name, parameter, _origin(part, name, origin, parameter), lr)
        scale = parameter.numel() / before.numel()
        moved[name] = scale * distance_squared(sample(parameter), before, shards.device)
        if measured and origin is not None:
            drifted[name] = distance_squared(parameter, origin, shards.device)
    for name, frozen in here.items():
        origin = origin_of(name)
        if measured and origin is not None:
            drifted[name] = distance_squared(frozen, origin, shards.device)
    return StepSize(norm(moved, shards), norm(drifted, shards) if measured else math.nan)


def _beside(parameter: Tensor, estimate: Tensor) -> Tensor:
    """Return a gradient on its parameter's device; from an accelerator it comes into page-locked memory."""
    if estimate.device == parameter.device:
        return estimate
    return torch.empty_like(parameter, pin_memory=parameter.is_pinned()).copy_(estimate)


def _origin(part: Regulariser, name: str, origin: Tensor | None, parameter: Tensor) -> Tensor | None:
    """Return the base model's tensor in float32, for a part that needs it."""
    if not part.needs_base:
        return None
    if origin is None:
        raise UsageError(
            f"{type(part).__name__} needs the base model's {name}, which its files do not hold: leave it out "
            "of model.regularisers."
        )
    return origin.to(parameter.device, torch.float32)
