"""What the report says of Lanczos on common seeds: which of its numbers can be trusted."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from es_lightning.cli.curvature_report import _of_seeds
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
