"""Parts that change an update, tensor by tensor; a list of them is applied in its order.

    g = -(1/N) sum_n w_n sign_n eps_n     the estimate, of all tensors before any of them is changed
    g <- part(g)                          each part in turn, see ``Regulariser.change``
    theta <- optimizer(theta, g)          for SGD: theta - lr * g
    theta <- part(theta)                  each part in turn, see ``Regulariser.settle``

A part keeps nothing from one generation to the next, so that a replay needs the journal's header alone to
repeat it.
"""

import math
from abc import ABC
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor

from es_lightning.errors import UsageError


class Regulariser(ABC):  # noqa: B024
    """Changes the estimate before the optimizer's step, or the centre after it.

    A part of one's own overrides ``change`` or ``settle``, and ``settings`` if its constructor has any.
    """

    looks_first = False
    """Whether ``look`` has to see the estimates of all tensors first, which costs a pass over the noise."""

    needs_base = False
    """Whether ``settle`` is given the base model's tensors."""

    def settings(self) -> dict[str, Any]:
        """Return the constructor's arguments, in types that JSON has."""
        return {}

    def check_lr(self, lr: float) -> None:  # noqa: B027
        """Refuse a learning rate that this part cannot work with.

        Raises:
            UsageError: the message says which one it can.
        """

    def look(self, estimates: Iterable[tuple[str, Tensor]]) -> None:  # noqa: B027
        """See the estimates of all tensors, as the parts before this one have changed them.

        Args:
            estimates: pairs of a parameter's name and float32 g, one at a time and in a fixed order.
        """

    def change(self, name: str, estimate: Tensor) -> Tensor:
        """Return what the optimizer gets in place of the estimate of one tensor.

        Args:
            name: Hugging Face name of the parameter.
            estimate: float32 g, which may be changed in place.
        """
        return estimate

    def settle(  # noqa: B027
        self, name: str, theta: Tensor, base: Tensor | None, lr: float
    ) -> None:
        """Change one tensor of the centre in place, after the optimizer's step.

        Args:
            name: Hugging Face name of the parameter.
            theta: float32.
            base: the base model's tensor, float32; None unless ``needs_base``.
            lr: learning rate of the step; alpha in the papers.
        """


class AnchoredDecay(Regulariser):
    """Weight decay towards the base model theta_0 instead of towards 0 (arXiv 2605.30148).

        delta = theta - theta_0
        L2:  delta <- (1 - lr * l2) * delta
        L1:  delta <- sign(delta) * max(|delta| - lr * l1, 0)

    The paper recommends l2 = 10, or l1 = 0.01, for lr = 5e-4; half precision loses some of it there. In a
    random walk of T steps of norm s, L2 alone leads to the norm a * s * sqrt((1 - a^(2T)) / (1 - a^2)) with
    a = 1 - lr * l2, instead of s * sqrt(T); the newest step is shortened as well.

    Args:
        l1: strength of the L1 decay, 0 or more.
        l2: strength of the L2 decay, 0 or more; lr * l2 has to be below 1.

    Raises:
        UsageError: a value is outside its range, or both are 0.
    """

    needs_base = True

    def __init__(self, l1: float = 0.0, l2: float = 0.0) -> None:
        if not (0 <= l1 < math.inf and 0 <= l2 < math.inf and l1 + l2 > 0):
            raise UsageError(
                f"AnchoredDecay has l1 {l1} and l2 {l2}: give one of them above 0, for example l2: 10 at a "
                "learning rate of 0.0005."
            )
        self.l1, self.l2 = l1, l2

    def settings(self) -> dict[str, Any]:
        """Return both strengths."""
        return {"l1": self.l1, "l2": self.l2}

    def check_lr(self, lr: float) -> None:
        """Refuse a decay that would take the centre past the base model.

        Raises:
            UsageError: lr * l2 is 1 or more.
        """
        if lr * self.l2 >= 1:
            raise UsageError(
                f"AnchoredDecay.l2 is {self.l2:g} at a learning rate of {lr:g}, and a step would undo all "
                f"that was learned: keep their product below 1, at best near 0.005 (l2: {0.005 / lr:.3g})."
            )

    def settle(self, name: str, theta: Tensor, base: Tensor | None, lr: float) -> None:
        """Shrink what has been learned."""
        if base is None:
            raise TypeError("AnchoredDecay needs the base model's tensors")
        delta = theta - base
        if self.l2:
            delta.mul_(1 - lr * self.l2)
        if self.l1:
            delta = delta.sign() * (delta.abs() - lr * self.l1).clamp_(min=0)
        theta.copy_(delta.add_(base))


class ClipNorm(Regulariser):
    """Scale the estimate so that its Euclidean norm over all parameters is at most a bound.

        g <- g * min(1, max_norm / ||g||)

    The norm is summed from counts of sizes that differ by one part in 2048, so that every device and any
    number of threads finds the same factor; it is right to one part in 4,000 or better.
    With z-scores, N members and d perturbed parameters the norm is near sqrt(d / N) in every generation, be
    there signal or not; clipping matters for weights whose size varies, such as those of ``none``.

    Args:
        max_norm: above 0; with SGD the step is then at most lr * max_norm long.

    Raises:
        UsageError: the bound is not above 0.
    """

    looks_first = True

    def __init__(self, max_norm: float) -> None:
        if not 0 < max_norm < math.inf:
            raise UsageError(f"ClipNorm.max_norm is {max_norm}: give a number above 0.")
        self.max_norm = max_norm
        self._factor = 1.0

    def settings(self) -> dict[str, Any]:
        """Return the bound."""
        return {"max_norm": self.max_norm}

    def look(self, estimates: Iterable[tuple[str, Tensor]]) -> None:
        """Measure the norm."""
        norm = _norm(_counts(estimate for _, estimate in estimates))
        self._factor = min(1.0, self.max_norm / norm) if norm else 1.0

    def change(self, name: str, estimate: Tensor) -> Tensor:
        """Scale the estimate, unless it is short enough."""
        return estimate if self._factor == 1.0 else estimate.mul_(self._factor)


class RoundedCentre(Regulariser):
    """Round the centre to half precision after every update: a control, and nothing to train with.

    Trainers that perturb the engine's own weights in place keep their centre in the engine's precision. A
    bfloat16 has 8 significant bits, so a step of less than 2^-9 of a weight is lost, whatever was learned.
    This part does the same to a float32 centre, and so measures what that costs. The error that is left by
    adding noise and subtracting it again is not a part of it.

    Args:
        dtype: ``bfloat16`` or ``float16``.

    Raises:
        UsageError: it is another type.
    """

    def __init__(self, dtype: Literal["bfloat16", "float16"] = "bfloat16") -> None:
        if dtype not in ("bfloat16", "float16"):
            raise UsageError(f"RoundedCentre.dtype is {dtype}: give bfloat16 or float16.")
        self.dtype = dtype

    def settings(self) -> dict[str, Any]:
        """Return the type."""
        return {"dtype": self.dtype}

    def settle(self, name: str, theta: Tensor, base: Tensor | None, lr: float) -> None:
        """Round one tensor."""
        theta.copy_(theta.to(getattr(torch, self.dtype)))


class SparseUpdate(Regulariser):
    """Keep the entries of the estimate that are largest in size, and set the others to 0.

    Fine-tuning by gradients changes few entries, ES changes all of them and forgets more (arXiv 2601.20861).
    The threshold is found by counting sizes in bins that differ by one part in 2048, so that slightly more
    than the wanted share is kept, the same entries on any device. With z-scores the estimate of 10 % of the
    entries keeps 44 % of its squared norm if it is Gaussian. Optimizers with momentum spread a step over
    other entries again; SGD without it does not.

    Args:
        keep: share of entries to keep, above 0 and below 1.
        scope: ``tensor`` keeps that share of every tensor; ``model`` finds one threshold for all of them,
            which costs one more pass over the noise.

    Raises:
        UsageError: a value is outside its range.
    """

    def __init__(self, keep: float, scope: Literal["tensor", "model"] = "tensor") -> None:
        if not 0 < keep < 1:
            raise UsageError(f"SparseUpdate.keep is {keep}: give a share above 0 and below 1.")
        if scope not in ("tensor", "model"):
            raise UsageError(f"SparseUpdate.scope is {scope}: give tensor or model.")
        self.keep, self.scope = keep, scope
        self.looks_first = scope == "model"
        self._threshold = 0

    def settings(self) -> dict[str, Any]:
        """Return share and scope."""
        return {"keep": self.keep, "scope": self.scope}

    def look(self, estimates: Iterable[tuple[str, Tensor]]) -> None:
        """Find the threshold of the whole model."""
        self._threshold = _threshold(_counts(estimate for _, estimate in estimates), self.keep)

    def change(self, name: str, estimate: Tensor) -> Tensor:
        """Set the small entries to 0."""
        model = self.scope == "model"
        threshold = self._threshold if model else _threshold(_counts([estimate]), self.keep)
        for chunk in estimate.view(-1).split(_CHUNK):
            chunk.masked_fill_(_bins(chunk) < threshold, 0.0)
        return estimate


# Sizes are counted in bins. The bits of |g|, read as an integer, are in the order of |g|; the last 12 of 31
# are left out. Sums of integers are exact, so the counts are the same however they are summed.
_DROPPED = 12
_BINS = 1 << (31 - _DROPPED)
_CHUNK = 1 << 22


def _bins(estimate: Tensor) -> Tensor:
    return (estimate.view(torch.int32) & 0x7FFFFFFF) >> _DROPPED


def _counts(estimates: Iterable[Tensor]) -> Tensor:
    """Count the entries of contiguous float32 tensors per bin of size, int64 [2^19] on the CPU."""
    total = torch.zeros(_BINS, dtype=torch.int64)
    for estimate in estimates:
        for chunk in estimate.view(-1).split(_CHUNK):
            total += torch.bincount(_bins(chunk), minlength=_BINS).cpu()
    return total


def _threshold(counts: Tensor, keep: float) -> int:
    """Return the highest bin from which on at least the wanted share of entries lies."""
    from_here_on = counts.flip(0).cumsum(0).flip(0)
    wanted = math.ceil(keep * int(from_here_on[0]))
    return int((from_here_on >= wanted).nonzero().max())


def _norm(counts: Tensor) -> float:
    """Return the Euclidean norm of the entries that were counted, each taken in the middle of its bin."""
    bins = counts.nonzero().flatten()
    bits = (bins << _DROPPED) + (1 << (_DROPPED - 1)) * (bins > 0)
    sizes = bits.to(torch.int32).view(torch.float32).double().tolist()
    pairs = zip(counts[bins].tolist(), sizes, strict=True)
    return math.sqrt(math.fsum(count * size**2 for count, size in pairs))
