"""The report of the grid of single updates: its bars, its legend, and what it reads of a map."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

from benchmarks import step_grid

LRS = (0.01, 0.02)


@pytest.fixture
def frame() -> pd.DataFrame:
    """Four generations at two learning rates."""
    gains = np.random.default_rng(0).normal([0.1, 0.2], 0.05, (4, 2))
    rows = [
        {"seed": seed, "lr": lr, "n": 16, "sigma": 0.004, "reward": gains[seed, at], "nats": 0.0}
        for seed in range(4)
        for at, lr in enumerate(LRS)
    ]
    return pd.DataFrame(rows)


def test_bars_are_student_s_and_the_legend_names_them(
    frame: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gains = pd.DataFrame({"population": 16, "lr": [0.005, 0.015, 0.03], "gain": [0.1, 0.3, 0.2]})
    gains.assign(gain_low=0.0, gain_high=0.4).to_csv(tmp_path / "gains.csv", index=False)
    figures = []
    monkeypatch.setattr(step_grid, "save", lambda figure, _: figures.append(figure))
    step_grid.compared(frame, {"reward": tmp_path / "gains.csv"}, tmp_path)
    [axes] = figures[0].axes
    [bars] = [each for each in axes.containers if each.get_label().startswith("measured")]
    reached = np.array([segment[:, 1] for segment in bars.lines[2][0].get_segments()])
    each = frame.pivot(index="seed", columns="lr", values="reward").to_numpy()
    low, high = t.interval(0.95, 3, each.mean(0), each.std(0, ddof=1) / 2)
    assert reached == pytest.approx(np.stack([low, high], axis=1))
    told = [text.get_text() for text in axes.get_legend().get_texts()]
    assert "measured, 4 generations, 95 % interval (Student's t)" in told
    assert "best lr expected, 0.015" in told


def test_gains_are_those_of_one_update_of_the_population(tmp_path: Path) -> None:
    rows = [
        {"population": size, "updates": updates, "lr": 0.1, "gain": size + updates / 10}
        for size in (8, 16)
        for updates in (1, 6)
    ]
    (tmp_path / "report").mkdir()
    pd.DataFrame(rows).to_csv(tmp_path / "report" / "gain.csv", index=False)
    for source in (tmp_path, tmp_path / "report" / "gain.csv"):
        found = step_grid.predicted(source, 16)
        assert found is not None
        assert found["gain"].tolist() == [16.1]
