"""What the report says: which numbers can be trusted, and whether few directions are curved."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from es_lightning.cli.curvature_report import _low, _of_seeds
from es_lightning.landscape.curvature.budget import SampledHessian
from es_lightning.landscape.curvature.lanczos import lanczos

SEEDS, STEPS = 48, 12
NOISE = np.random.default_rng(0).standard_normal((SEEDS, SEEDS))
ROTATION = np.linalg.qr(np.random.default_rng(1).standard_normal((SEEDS, SEEDS)))[0]
FEW = ROTATION[:, :4] @ np.diag([-9.0, 5.0, -3.0, 2.0]) @ ROTATION[:, :4].T


def sampled(matrix: np.ndarray[Any, Any], steps: int) -> SampledHessian:
    whole = torch.from_numpy(matrix)
    krylov = lanczos(lambda v: whole @ v, torch.from_numpy(ROTATION.sum(axis=1)), steps)
    return SampledHessian(krylov, SEEDS, 2 * steps * SEEDS)


def said(own: np.ndarray[Any, Any], control: np.ndarray[Any, Any] | None = None, steps: int = STEPS) -> str:
    found = {"seeds": own} | ({} if control is None else {"control": control})
    measured: Any = SimpleNamespace(
        sampled={kind: sampled(matrix, steps) for kind, matrix in found.items()},
        truth=SimpleNamespace(top=(np.array([-10.0, 4.0]), np.array([True, True]))),
        settings=SimpleNamespace(pairs=64),
    )
    return _of_seeds(measured).split("\n\n")[-1]


def test_eigenvalues_of_a_symmetric_operator_are_trusted() -> None:
    assert said(FEW) == (  # the four, and 0
        "At this budget the 5 that have converged are eigenvalues of H as 48 seeds sample it; the pairs took "
        "129 evaluations."
    )


def test_an_operator_that_is_not_symmetric_is_not_trusted() -> None:
    assert "the spectrum cannot be trusted" in said(NOISE)


def test_a_symmetric_operator_of_which_nothing_has_converged_is_not_trusted() -> None:
    assert "the spectrum cannot be trusted" in said(NOISE + NOISE.T, steps=4)


@pytest.mark.parametrize(("control", "same"), [(NOISE, True), (ROTATION[:, :1] @ ROTATION[:, :1].T, False)])
def test_a_participation_that_the_control_has_as_well_says_nothing(
    control: np.ndarray[Any, Any], same: bool
) -> None:
    assert ("since permuted rewards have it as well" in said(FEW, control)) == same


def low(eigenvalues: list[float], ratio_high: float, square_high: float) -> str:
    values = np.array(eigenvalues)
    found: Any = SimpleNamespace(
        participation=SimpleNamespace(high=ratio_high), trace_square=SimpleNamespace(high=square_high)
    )
    measured: Any = SimpleNamespace(dimension=10_000, truth=SimpleNamespace(sure=(values, np.zeros(0))))
    return _low(found, measured)


def test_a_signed_ratio_that_cancels_is_not_taken_for_few_directions() -> None:
    # 500 eigenvalues of 1 and 500 of -1: trace and ratio are 0, and 1000 directions are curved. With one of
    # each known, there may be any number.
    assert "is not seen: at most 1e+04 directions" in low([1.0, -1.0], ratio_high=0.1, square_high=1000.0)
    assert "is seen: at most 2 directions" in low([1.0, -1.0], ratio_high=0.1, square_high=2.0)


def test_a_signed_ratio_counts_directions_where_all_bend_alike() -> None:
    assert "is seen: the interval ends at 4" in low([-1.0, -0.9], ratio_high=4.0, square_high=9.0)
    assert "is not seen: the interval ends at 400" in low([-1.0, -0.9], ratio_high=400.0, square_high=9.0)
    assert "only eigenvalues can tell" in low([], ratio_high=4.0, square_high=9.0)
    assert "not known" in low([], ratio_high=float("inf"), square_high=9.0)
