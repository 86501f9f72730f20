"""The picture of accuracy shows what was measured."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure
from scipy.stats import binomtest

from es_lightning.analysis.accuracy import Accuracy
from es_lightning.reports import accuracy_picture

ROWS = [{"generation": float(g), "accuracy": 0.3 + g / 20, "accuracy_best": 0.5 + g / 20} for g in range(4)]
POINTS = [(0.0, Accuracy(50, 160)), (4.0, Accuracy(110, 160))]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    figures: list[Figure] = []
    save = accuracy_picture.save

    def keep(figure: Figure, path: Path) -> None:
        figures.append(figure)
        save(figure, path)

    monkeypatch.setattr(accuracy_picture, "save", keep)
    return figures


def labels(figure: Figure) -> list[str]:
    legend: Any = figure.axes[0].get_legend()
    return [text.get_text() for text in legend.get_texts()]


def test_held_out_points_stand_in_their_intervals(drawn: list[Figure], tmp_path: Path) -> None:
    accuracy_picture.accuracy_curve(tmp_path / "plots" / "a.png", ROWS, POINTS[1:], POINTS, "a $title$")
    (axes,) = drawn[0].axes
    held_out = next(each for each in axes.containers if "held out" in each.get_label())
    ends = [segment[:, 1].tolist() for segment in held_out.lines[2][0].get_segments()]
    assert ends == [pytest.approx(list(point.interval())) for _, point in POINTS]
    assert {"31%", "69%"} <= {text.get_text() for text in axes.texts}
    assert axes.get_ylim()[0] == 0
    assert any("160 problems" in label for label in labels(drawn[0]))
    assert (tmp_path / "plots" / "a.png").stat().st_size > 5000
    told = pd.read_csv(tmp_path / "plots" / "a.csv")
    assert told.to_dict("records") == ROWS
    centre = pd.read_csv(tmp_path / "plots" / "a_centre.csv")
    assert centre.split.tolist() == ["validation", "held out", "held out"]
    wilson = binomtest(50, 160).proportion_ci(method="wilson")
    assert centre.loc[1, ["generation", "problems", "accuracy"]].tolist() == [0.0, 160, 50 / 160]
    assert centre.loc[1, ["low", "high"]].tolist() == pytest.approx([wilson.low, wilson.high])


def test_a_run_without_held_out_points_or_best_member_has_its_picture(
    drawn: list[Figure], tmp_path: Path
) -> None:
    rows = [{"generation": row["generation"], "accuracy": row["accuracy"]} for row in ROWS[:1]]
    accuracy_picture.accuracy_curve(tmp_path / "a.png", rows, [], [], "title")
    assert labels(drawn[0]) == ["population, mean"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.png"]
