"""All ways to see curvature on a softmax regression, whose gradient and Hessian have closed forms; float64.

R(W) = 1/n sum_i ln p_i(y_i) with p_i = softmax(W x_i); g = 1/n sum_i (onehot(y_i) - p_i) (x) x_i and
H = -1/n sum_i (diag(p_i) - p_i p_i^T) (x) x_i x_i^T.
"""

from functools import cached_property

import numpy as np
import pytest
import torch

from es_lightning.landscape.arrays import Array
from es_lightning.landscape.curvature.curvature import Pairs, curvature
from es_lightning.landscape.curvature.es_hessian import ESHessian, start_weights, without_sampling
from es_lightning.landscape.curvature.gradients import HessianProduct
from es_lightning.landscape.curvature.lanczos import Spectrum, lanczos

CLASSES, FEATURES, EXAMPLES = 4, 10, 50
D = CLASSES * FEATURES


class Softmax:
    """A softmax regression on random examples, at random weights."""

    def __init__(self) -> None:
        generator = np.random.default_rng(0)
        self.x = generator.standard_normal((EXAMPLES, FEATURES)) * np.geomspace(2, 0.1, FEATURES)
        self.y = generator.integers(CLASSES, size=EXAMPLES)
        self.start = 0.5 * generator.standard_normal(D)

    def probabilities(self, places: Array) -> Array:
        """p, [..., n, C], at weights [..., D]."""
        logits = np.einsum("...cf,nf->...nc", places.reshape(*places.shape[:-1], CLASSES, FEATURES), self.x)
        powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=-1, keepdims=True))

    def rewards(self, places: Array) -> Array:
        """ln p(y) of each example, [..., n]."""
        return np.log(self.probabilities(places)[..., np.arange(EXAMPLES), self.y])

    def gradient(self, place: Array) -> Array:
        """g, [D]."""
        rest = np.eye(CLASSES)[self.y] - self.probabilities(place)
        return np.asarray(rest.T @ self.x / EXAMPLES).reshape(-1)

    @cached_property
    def hessian(self) -> Array:
        """H at the start, [D, D]."""
        p = self.probabilities(self.start)
        inner = np.einsum("nc,cd->ncd", p, np.eye(CLASSES)) - np.einsum("nc,nd->ncd", p, p)
        return np.asarray(-np.einsum("ncd,nf,ng->cfdg", inner, self.x, self.x).reshape(D, D) / EXAMPLES)


MODEL = Softmax()
EIGENVALUES = np.linalg.eigvalsh(MODEL.hessian)
TRACE, TRACE_SQUARE = EIGENVALUES.sum(), (EIGENVALUES**2).sum()


def pairs_at(sigma: float, count: int, seed: int = 1) -> Pairs:
    eps = np.random.default_rng(seed).standard_normal((count, D))
    sides = [MODEL.rewards(MODEL.start + sign * sigma * eps) for sign in (1, -1)]
    return Pairs(sides[0], sides[1], MODEL.rewards(MODEL.start), sigma)


def test_many_pairs_at_a_small_sigma_find_slope_and_curvature() -> None:
    gradient = MODEL.gradient(MODEL.start)
    found = curvature(pairs_at(1e-3, 4000))
    assert found.trace.value == pytest.approx(TRACE, rel=0.03)
    assert found.trace_square.value == pytest.approx(TRACE_SQUARE, rel=0.12)
    assert found.participation.value == pytest.approx(TRACE**2 / TRACE_SQUARE, rel=0.12)
    assert found.odd_ratio(gradient @ gradient).value == pytest.approx(1, rel=0.1)
    few = curvature(pairs_at(1e-3, 64, seed=2))
    assert few.trace.low < TRACE < few.trace.high
    assert few.participation.low < TRACE**2 / TRACE_SQUARE < few.participation.high


def test_a_large_sigma_sees_a_smoother_landscape_and_says_so() -> None:
    gradient = MODEL.gradient(MODEL.start)
    wide = curvature(pairs_at(2.0, 2000))
    assert abs(wide.trace.value) < 0.8 * abs(TRACE)
    assert wide.odd_ratio(gradient @ gradient).low > 1 or wide.odd_ratio(gradient @ gradient).high < 1


def test_products_and_lanczos_on_them_are_those_of_the_closed_form() -> None:
    def gradient_at(unit: torch.Tensor, distance: float) -> torch.Tensor:
        return torch.from_numpy(MODEL.gradient(MODEL.start + distance * unit.numpy()))

    product = HessianProduct(gradient_at, float(np.linalg.norm(MODEL.gradient(MODEL.start))))
    vector = np.random.default_rng(3).standard_normal(D)
    assert product(torch.from_numpy(vector)).numpy() == pytest.approx(
        MODEL.hessian @ vector, rel=0.01, abs=0.01
    )
    runs = [
        lanczos(product, torch.from_numpy(np.random.default_rng(seed).standard_normal(D)), 12)
        for seed in range(20)
    ]
    assert runs[0].ritz[0][0] == pytest.approx(EIGENVALUES[0], rel=0.01)
    assert runs[0].asymmetry < 0.01
    spectrum = Spectrum.of(runs)
    assert spectrum.trace == pytest.approx(TRACE, rel=0.2)
    assert spectrum.participation == pytest.approx(TRACE**2 / TRACE_SQUARE, rel=0.4)
    assert spectrum.size_participation >= spectrum.participation * (1 - 1e-9)


def test_common_seeds_see_the_hessian_of_the_regression() -> None:
    seeds, sigma = 200, 1e-2
    eps = np.random.default_rng(4).standard_normal((D, seeds))

    def rewards(weights: Array) -> Array:
        return MODEL.rewards(MODEL.start + weights @ eps.T + sigma * eps.T).mean(axis=-1)

    found = lanczos(ESHessian(rewards, sigma), start_weights(seeds, np.random.default_rng(5)), 20)
    centred = eps - eps.mean(axis=1, keepdims=True)
    sampled = np.linalg.eigvalsh(centred.T @ MODEL.hessian @ centred / seeds)
    assert found.ritz[0][:3] == pytest.approx(sampled[:3], rel=0.02)
    assert found.asymmetry < 0.05
    assert found.ritz[0][0] == pytest.approx(EIGENVALUES[0], rel=0.2)
    ratio = sampled.sum() ** 2 / (sampled**2).sum()
    assert without_sampling(ratio, seeds) == pytest.approx(TRACE**2 / TRACE_SQUARE, rel=0.15)
