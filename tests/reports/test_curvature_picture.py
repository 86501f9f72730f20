"""Pictures of curvature: what is drawn of sampling noise, and what is left out where no gradient is known."""

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from pandas import read_csv

from es_lightning.reports import curvature_picture


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved."""
    figures: list[Figure] = []
    monkeypatch.setattr(curvature_picture, "save", lambda figure, _: figures.append(figure))
    return figures


def eigenvalue(kind: str, rank: int, value: float, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "rank": rank, "value": value, "converged": True, **more}


def test_the_edge_of_sampling_noise_is_drawn_for_each_sign(tmp_path: Path, drawn: list[Figure]) -> None:
    rows = [
        eigenvalue("autograd", 1, -30.0),
        eigenvalue("common seeds", 1, -40.0, edge_low=-21.0, edge_high=19.0, seen=True),
        eigenvalue("common seeds", 2, 15.0, edge_low=-21.0, edge_high=19.0, seen=False),
    ]
    curvature_picture.spectra(tmp_path / "spectra.png", rows, "title", "reward")
    [axes] = drawn[0].axes
    lines = {line.get_label(): line.get_ydata()[0] for line in axes.lines if "edge" in str(line.get_label())}
    assert lines == {"edge of sampling noise ▲": 19.0, "edge of sampling noise ▼": 21.0}
    assert axes.get_ylabel() == "|eigenvalue| (reward / weight²)"
    assert read_csv(tmp_path / "spectra.csv")["edge_low"].tolist()[1:] == [-21.0, -21.0]
    curvature_picture.spectra(tmp_path / "spectra.png", rows[:1], "title")
    assert not any("edge" in str(line.get_label()) for line in drawn[1].axes[0].lines)


@pytest.mark.parametrize(("ratio", "label"), [(1.1, "Var(odd part) / ||g||²"), (None, "||g||² from Var")])
def test_without_a_known_gradient_its_square_is_drawn(
    tmp_path: Path, drawn: list[Figure], ratio: float | None, label: str
) -> None:
    row: dict[str, Any] = {"sigma": 0.1, "pairs": 8}
    for name in ("trace", "participation", "gradient_square"):
        row |= {name: 2.0, f"{name}_low": 1.0, f"{name}_high": 3.0}
    row |= {"odd_ratio": ratio, "odd_ratio_low": ratio, "odd_ratio_high": ratio}
    curvature_picture.budgets(tmp_path / "budget.png", [row], "title", [row])
    assert drawn[0].axes[0].get_ylabel().startswith(label)
