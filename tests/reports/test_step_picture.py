"""The scores of a picture: points with their intervals, and a smoothed line only where it chose."""

import numpy as np
import pytest

from es_lightning.reports.plots import INK, sheet
from es_lightning.reports.step_picture import draw_scores

ROWS = [
    {"sigma": 0.1, "score": 0.2, "score_low": 0.1, "score_high": 0.4},
    {"sigma": 0.2, "score": 0.5, "score_low": 0.3, "score_high": 0.6},
    {"sigma": 0.4, "score": 1.0, "score_low": 1.0 + 1e-9, "score_high": 1.0 - 1e-9},  # rounding
]


@pytest.mark.parametrize("smooth", [[], [0.3, 0.55, 0.8]])
def test_points_are_the_own_scores_with_their_intervals(smooth: list[float]) -> None:
    rows = [row | {"smoothed": value} for row, value in zip(ROWS, smooth, strict=True)] if smooth else ROWS
    _, [axes] = sheet("")
    draw_scores(axes, rows, INK)
    [bars] = axes.containers
    points, _, [ends] = bars.lines
    assert points.get_xydata() == pytest.approx(np.array([[0.1, 0.2], [0.2, 0.5], [0.4, 1.0]]))
    assert points.get_linestyle() == "None"
    reached = np.array([segment[:, 1] for segment in ends.get_segments()])
    assert reached == pytest.approx(np.array([[0.1, 0.4], [0.3, 0.6], [1.0, 1.0]]))
    lines = {
        line.get_label(): list(line.get_ydata()) for line in axes.lines if "smoothed" in line.get_label()
    }
    assert lines == ({"smoothed, 1 : 2 : 1": smooth} if smooth else {})
    assert bars.get_label() == "score, 90 % interval"
