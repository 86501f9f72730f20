"""The double well: its simulation against the exact mean time, that against Kramers and against SciPy."""

import numpy as np
import pytest
from scipy.integrate import quad

from es_lightning.errors import UsageError
from es_lightning.landscape.theory.double_well import DoubleWell


def well(height: float, alpha: float = 0.01, stiffness: float = 1.3, a: float = 0.9) -> DoubleWell:
    """A double well whose barrier is so many temperatures high."""
    population = 20
    sigma = float(np.sqrt(2 * population * (stiffness * a**4 / 4) / (alpha * height)))
    return DoubleWell(stiffness, a, alpha, sigma, population)


def test_the_curvatures_are_those_of_the_loss() -> None:
    one, h = well(3.0), 1e-4
    a, stiffness = one.half_distance, one.stiffness

    def loss(x: float) -> float:
        return stiffness / 4 * (x**2 - a**2) ** 2

    bends = [(loss(x + h) - 2 * loss(x) + loss(x - h)) / h**2 for x in (a, 0.0)]
    assert bends == pytest.approx([one.well_curvature, -one.ridge_curvature], rel=1e-4)
    assert one.barrier == pytest.approx(loss(0.0))
    assert one.height == pytest.approx(3.0)
    by_hand = one.alpha * one.sigma**2 / (4 * one.population * stiffness * a**2)  # arXiv 2602.00170
    assert one.well_variance == pytest.approx(by_hand)


@pytest.mark.parametrize("height", [0.5, 3.0, 8.0])
def test_the_mean_time_is_the_integral_of_the_diffusion(height: float) -> None:
    one = well(height)
    a, heat = one.half_distance, one.temperature

    def raised(x: float) -> float:
        return one.stiffness / 4 * (x**2 - a**2) ** 2 / heat

    def inner(y: float) -> float:
        return float(np.exp(raised(y)) * quad(lambda z: np.exp(-raised(z)), -8, y, points=[-a], limit=200)[0])

    exact = quad(inner, -a, a, limit=200)[0] / (one.alpha * heat)
    assert one.mean_steps == pytest.approx(exact, rel=1e-3)


def test_kramers_law_is_the_limit_of_a_high_barrier() -> None:
    ratios = [well(height).kramers_steps / well(height).mean_steps for height in (5.0, 15.0, 60.0)]
    assert ratios == sorted(ratios)
    assert ratios[-1] == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("height", [0.5, 2.0])
def test_simulated_escapes_take_the_mean_time(height: float) -> None:
    one = well(height, alpha=0.004)
    first = one.escapes(200_000, 300, seed=1)
    assert np.isfinite(first).all()
    error = first.std() / np.sqrt(len(first))
    # Steps see the far well late, by some 0.6 of their own length: a few per cent of the way.
    assert first.mean() == pytest.approx(one.mean_steps, abs=4 * error + 0.06 * one.mean_steps)


def test_the_regimes() -> None:
    steps = 10_000  # ln 10,000 = 9.2
    assert [well(height).regime(steps) for height in (0.8, 5.0, 12.0)] == ["no memory", "hops", "stuck"]
    assert np.isinf(well(25.0).escapes(500, 20, seed=0)).all()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"stiffness": 0.0}, "stiffness"),
        ({"half_distance": np.nan}, "half_distance"),
        ({"sigma": 0.0}, "sigma"),
        ({"alpha": -0.1}, "alpha is -0.1"),
        ({"alpha": 0.5}, "jump over the wells"),
        ({"population": 0}, "population is 0"),
    ],
)
def test_what_is_no_double_well(changed: dict[str, float], words: str) -> None:
    settings = {"stiffness": 1.0, "half_distance": 1.0, "alpha": 0.1, "sigma": 1.0, "population": 10}
    with pytest.raises(UsageError, match=words):
        DoubleWell(**(settings | changed))  # type: ignore[arg-type]


def test_steps_that_leave_for_good_are_noticed() -> None:
    with pytest.raises(UsageError, match="left the double well"):
        DoubleWell(1.0, 1.0, 0.4, 60.0, 1).escapes(1000, 20, seed=0)
