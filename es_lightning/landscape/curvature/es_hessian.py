"""The Hessian as evolution strategies see it, as an operator on weights over seeds.

With N seeds, g_ES(theta) = 1/(N sigma) sum_n R(theta + sigma eps_n) eps_n. The difference quotient
(g_ES(theta + h v) - g_ES(theta - h v)) / (2 h) with the same seeds on both sides and in all Lanczos steps
lies in the span of the eps_n, whatever v is. So v = sum_m a_m eps_m is written by its N weights a, and the
product is the weights

    b_n = (R(theta + h v + sigma eps_n) - R(theta - h v + sigma eps_n)) / (2 h N sigma),  less their mean.

The mean is the part g . v that the gradient adds to all of them; taking it off is the baseline of ES. For a
quadratic reward b = K a with the symmetric N x N matrix K = C E^T H E C / N, E = [eps_1 .. eps_N] and
C = 1 - 11^T / N. Its eigenvalues are those of H as N samples see it, right if N is well above H's effective
rank (``edge`` tells which of them stand out of the samples' noise), and

    tr K ~= tr H,    tr K^2 ~= tr H^2 + (tr H)^2 / N,    so    1 / PR(K) ~= 1 / PR(H) + 1 / N.

With fresh seeds in every step the operator is another one in every step: the relative noise of a product is
sqrt(D / N), and Lanczos finds the semicircle of that noise.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from es_lightning.landscape.arrays import Array

Rewards = Callable[[Array], Array]
"""From weights a over N seeds, [N], to the mean rewards of the N members around theta + sum_m a_m eps_m."""


class ESHessian:
    """The Hessian-vector product of ES with common seeds; it costs 2 N evaluations.

    Args:
        rewards: measures the N members around a point.
        sigma: noise scale of the members.
        step: h ||v|| as a multiple of a member's distance sigma ||eps||: how far the points are from theta.
        order: permutation of the N seeds by which rewards are dealt out, the same in every product. That is
            the control: sizes and seeds stay, and what links a reward to its seed is gone. None leaves them.
    """

    def __init__(
        self, rewards: Rewards, sigma: float, step: float = 1.0, order: npt.NDArray[np.intp] | None = None
    ) -> None:
        self.rewards, self.sigma, self.step = rewards, sigma, step
        self.order = order

    def __call__(self, weights: Tensor) -> Tensor:
        """Return the weights of the product, float64 [N]; see ``lanczos.Operator``."""
        direction = weights.double().numpy()
        direction = direction - direction.mean()  # C; of a vector that is all rounding, it would be left
        length = float(np.linalg.norm(direction))
        # Seeds are nearly orthogonal, so ||sum_m a_m eps_m|| = ||a|| sqrt(D): with ||a|| = sigma the point is
        # as far away as a member.
        moved = self.step * self.sigma / length * direction
        difference = self.rewards(moved) - self.rewards(-moved)
        if self.order is not None:
            difference = difference[self.order]
        product = difference / (2 * self.step * self.sigma / length * len(difference) * self.sigma)
        return torch.from_numpy(product - product.mean())


def start_weights(seeds: int, generator: np.random.Generator) -> Tensor:
    """Draw a start whose mean is 0, as that of all products, float64 [N]."""
    drawn = generator.standard_normal(seeds)
    return torch.from_numpy((drawn - drawn.mean()) / sqrt(seeds))


def without_sampling(participation: float, seeds: int) -> float:
    """Undo what N seeds do to a signed participation ratio: 1 / PR(H) = 1 / PR(K) - 1 / N.

    Args:
        participation: PR(K), signed.
        seeds: N.

    Returns:
        PR(H); infinite where PR(K) is N or more, which tells nothing but that N is too small.
    """
    rest = 1 / participation - 1 / seeds
    return 1 / rest if rest > 0 else float("inf")
