"""Which Ritz values are eigenvalues, and how many directions share the squared curvature."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from es_lightning.landscape.arrays import Array
from es_lightning.landscape.curvature.lanczos import CONVERGED, Krylov, lanczos
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


def test_coordinates_are_along_converged_vectors_first() -> None:
    # Weakly tied values; only the last one is far from converged: its vector is where the rest leaves.
    krylov = Krylov(np.diag([2.0, -1.0, 5.0]), 100, rest=4.0)
    table = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    truth = Truth(1.0, np.zeros(2), np.zeros(0), krylov, table)
    assert truth.top[0].tolist() == [5.0, 2.0, -1.0]
    along, converged = truth.along_top(2)
    assert np.abs(along).tolist() == [[1.0, 2.0], [4.0, 5.0]], "2 and -1, and 5 has not converged"
    assert converged == 2
    along, converged = truth.along_top(9)
    assert np.abs(along).tolist() == table.tolist()
    assert converged == 2
    assert Truth(1.0, np.zeros(2), np.zeros(0), None, table).along_top(2)[0].shape == (2, 0)


class Known(Truth):
    """Of five values, 3 has not converged."""

    @property
    def top(self) -> tuple[Array, NDArray[np.bool_]]:
        values = super().top[0]
        return values, values != 3.0


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 8), st.integers(1, 8))
def test_the_bounds_hold_whatever_lies_inside(seed: int, above: int, below: int) -> None:
    eigenvalues = np.sort(np.random.default_rng(seed).standard_normal(300) ** 3)
    square, fourth = (eigenvalues**2).sum(), (eigenvalues**4).sum()
    outermost = np.concatenate([eigenvalues[:below], eigenvalues[-above:]])
    low, high = squares_shared(outermost, float(square))
    assert low * (1 - 1e-9) <= square**2 / fourth <= high * (1 + 1e-9)


def test_what_is_known_beyond_a_gap_bounds_nothing() -> None:
    """-4 and 2 were found beside 5 and -6, and 3 between them was not: others may be as large as 5."""
    krylov = Krylov(np.diag([5.0, -6.0, 3.0, -4.0, 2.0]), 5)
    truth = Known(1.0, np.zeros(1), np.zeros(1), krylov, np.zeros((1, 5)))
    outermost, inside = truth.sure
    assert outermost.tolist() == [-6.0, 5.0, -4.0]
    assert inside.tolist() == [2.0]
    low, high = squares_shared(outermost, 90.0, inside)
    fourth = 6**4 + 5**4 + 4**4 + 2**4
    assert high == pytest.approx(90**2 / fourth)
    assert low == pytest.approx(90**2 / (fourth + 5**2 * (90 - 81)))
    assert low < 90**2 / (fourth + 3**4) < high, "the truth, with 3"


def test_equal_eigenvalues_share_alike() -> None:
    assert squares_shared(np.array([3.0, -3.0, 3.0, -3.0]), 36.0) == pytest.approx((4, 4))
    assert squares_shared(np.array([3.0, -3.0]), 900.0) == pytest.approx((100, 5000))
