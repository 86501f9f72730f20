"""Which Ritz values are eigenvalues, and how many directions share the squared curvature."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from es_lightning.landscape.curvature.lanczos import CONVERGED, lanczos
from es_lightning.landscape.curvature.truth import Truth, squares_shared


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 1000))
def test_a_converged_ritz_value_is_as_near_to_an_eigenvalue_as_it_says(seed: int) -> None:
    generator = np.random.default_rng(seed)
    eigenvalues = generator.standard_normal(60) ** 3
    rotation, _ = np.linalg.qr(generator.standard_normal((60, 60)))
    matrix = torch.from_numpy(rotation * eigenvalues @ rotation.T)
    krylov = lanczos(lambda vector: matrix @ vector, torch.from_numpy(generator.standard_normal(60)), 15)
    values, converged = Truth(1.0, np.zeros(1), np.zeros(1), krylov, np.zeros((1, 15))).top
    assert converged.any()
    assert np.abs(values).tolist() == sorted(np.abs(values), reverse=True)
    for value in values[converged]:
        assert np.abs(eigenvalues - value).min() <= CONVERGED * abs(value) + 1e-9


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 8), st.integers(1, 8))
def test_the_bounds_hold_whatever_lies_inside(seed: int, above: int, below: int) -> None:
    eigenvalues = np.sort(np.random.default_rng(seed).standard_normal(300) ** 3)
    square, fourth = (eigenvalues**2).sum(), (eigenvalues**4).sum()
    outermost = np.concatenate([eigenvalues[:below], eigenvalues[-above:]])
    low, high = squares_shared(outermost, float(square))
    assert low * (1 - 1e-9) <= square**2 / fourth <= high * (1 + 1e-9)


def test_equal_eigenvalues_share_alike() -> None:
    assert squares_shared(np.array([3.0, -3.0, 3.0, -3.0]), 36.0) == pytest.approx((4, 4))
    assert squares_shared(np.array([3.0, -3.0]), 900.0) == pytest.approx((100, 5000))
