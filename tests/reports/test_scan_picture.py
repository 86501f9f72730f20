"""Pictures of scans, from plain arrays."""

from pathlib import Path

import numpy as np
import pytest

from es_lightning.reports.scan_picture import (
    Curve,
    barrier_picture,
    line_picture,
    plane_picture,
    radial_picture,
)

AT = np.linspace(-0.5, 2, 11)
TITLE = "Sums: from embedded to a$b$c"  # a folder's name is no formula


def curve(value: np.ndarray, label: str, reach: float = 0.1) -> Curve:
    return Curve(AT, value, value - reach, value + reach, label)


def draw(kind: str, path: Path) -> None:
    """Draw a kind of picture."""
    hill = curve(0.6 - 0.3 * (AT - 1) ** 2, "32 prompts, 95 % interval")
    if kind == "line":
        away = [curve(hill.value - hill.value[2], "minus base"), curve(hill.value - 0.6, "minus tuned")]
        line_picture(path, TITLE, hill, away, {"base": 0, "a$b$c": 1}, "t")
    elif kind == "between":
        barrier_picture(path, TITLE, hill, curve(0 * AT, "drop"), {"first": 0, "second": 1}, "no barrier")
    elif kind == "radial":
        drawn = np.stack([0.2 - 0.1 * AT**2 + 0.02 * k for k in range(5)])
        expected = curve(drawn.mean(axis=0), "their mean, and where one more would lie (95 %)")
        radial_picture(path, TITLE, hill, drawn, expected, 83.1)
    else:
        points = np.array([[x, y] for x in AT for y in AT])
        reward = -((points - [1, 0]) ** 2).sum(axis=1)
        marks = {"base": (0.0, 0.0), "a": (1.0, 0.0), "b": (0.1, 1.1)}
        plane_picture(path, TITLE, points, reward, marks, ("along a", "across"), 0.08)


@pytest.mark.parametrize("kind", ["line", "between", "radial", "plane"])
def test_each_kind_is_drawn(tmp_path: Path, kind: str) -> None:
    draw(kind, tmp_path / "scan.png")
    assert (tmp_path / "scan.png").read_bytes().startswith(b"\x89PNG")


def test_a_plateau_is_drawn(tmp_path: Path) -> None:
    points = np.array([[x, y] for x in AT for y in AT])
    marks = {"base": (0.0, 0.0)}
    plane_picture(tmp_path / "flat.png", TITLE, points, np.zeros(len(points)), marks, ("x", "y"), 0.0)
    assert (tmp_path / "flat.png").is_file()
