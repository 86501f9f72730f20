"""Pictures of scans, from the tables that scans make."""

from pathlib import Path

import numpy as np
import pytest

from es_lightning.landscape.scans import kinds
from es_lightning.landscape.scans.scan import barrier, grid
from es_lightning.reports.scan_picture import barrier_picture, line_picture, plane_picture, radial_picture
from tests.landscape.scans.test_measure import Landscape

TIMES = grid(-0.5, 1.5, 0.25)
TITLE = "Sums: from embedded to a$b$c"  # a folder's name is no formula
SPREAD = np.random.default_rng(0).normal(0, 0.4, 32)


def draw(kind: str, path: Path, height: float = 1.0) -> None:
    """Draw a kind of picture of a hill around t = 1."""
    land = Landscape(lambda weights, prompt: 0.0)
    hill = height * (0.6 - 0.3 * (TIMES - 1) ** 2)[:, None] + height * SPREAD
    marks = {"base": 0.0, "a$b$c": 1.0}
    if kind == "line":
        line_picture(path, TITLE, kinds.line_table(TIMES, hill), marks, "t")
    elif kind == "between":
        found = barrier(TIMES, hill)
        barrier_picture(path, TITLE, kinds.between_table(TIMES, hill, found), marks, "no barrier")
    elif kind == "radial":
        drawn = kinds.random_directions(None, 0, 4)  # type: ignore[arg-type]
        scan = kinds.radial(land.tuned, drawn, TIMES[TIMES >= 0], [2.0] * 5)
        rewards = np.array([[0.2 - 0.1 * float(p.place["radius"]) ** 2] for p in scan.points]) + SPREAD
        radial_picture(path, TITLE, kinds.radial_table(scan.points, rewards, 2.0), "tuned", 2.0)
    else:
        plane = kinds.plane(land.tuned, land.other, np.array([[4.0, 0.4], [0.4, 5.0]]), TIMES, TIMES)
        places = np.array([[p.place["x"], p.place["y"]] for p in plane.scan.points], dtype=np.float64)
        rewards = height * (SPREAD - ((places - [1, 0]) ** 2).sum(axis=1)[:, None])
        plane_picture(path, TITLE, kinds.plane_table(plane, rewards), plane.marks, ("along a", "across"))


@pytest.mark.parametrize("kind", ["line", "between", "radial", "plane"])
def test_each_kind_is_drawn(tmp_path: Path, kind: str) -> None:
    draw(kind, tmp_path / "scan.png")
    assert (tmp_path / "scan.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("kind", ["between", "plane"])
def test_a_plateau_is_drawn(tmp_path: Path, kind: str) -> None:
    draw(kind, tmp_path / "flat.png", height=0.0)
    assert (tmp_path / "flat.png").is_file()
