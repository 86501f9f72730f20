"""Pictures and tables of a probe: what is beside a picture is what was drawn."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pandas import read_csv

from es_lightning.reports.probe_picture import bar_edges, best_by_model, changes, improving, protocols
from es_lightning.reports.probe_table import markdown

PNG = b"\x89PNG\r\n\x1a\n"


def test_beside_each_picture_lie_its_rows(tmp_path: Path) -> None:
    rows = [{"sigma": 0.001, "batch": 0, "candidate": i, "change": (i - 3) / 7} for i in range(9)]
    changes(tmp_path / "changes.png", rows, {0.001: "sigma"}, "title")
    assert (tmp_path / "changes.png").read_bytes().startswith(PNG)
    assert read_csv(tmp_path / "changes.csv").to_dict("records") == rows


def test_one_sigma_makes_a_picture_too(tmp_path: Path) -> None:
    names = ("improve", "mean", "q_0.95")
    row = {f"{name}{end}": 0.5 for name in names for end in ("", "_low", "_high")}
    improving(tmp_path / "sigmas.png", [{"sigma": 0.001, "zeros": 0.0, **row}], "title")
    assert (tmp_path / "sigmas.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize("parameters", [135_000_000, None])
def test_models_stand_at_their_size_or_in_their_order(parameters: int | None, tmp_path: Path) -> None:
    numbers = {f"{name}{end}": 0.2 for name in ("improve", "gain") for end in ("", "_low", "_high")}
    rows = [
        {"name": name, "parameters": parameters, "line": line, "chosen": line == "b", **numbers}
        for line in "ab"
        for name in ("one", "two")
    ]
    protocols(tmp_path / "protocols.png", rows, "title")
    assert (tmp_path / "protocols.png").read_bytes().startswith(PNG)


def test_models_that_lack_a_sigma_are_drawn_beside_one_another(tmp_path: Path) -> None:
    rows = [
        {
            "name": name,
            "sigma": sigma,
            "n": size,
            "best": 0.1 * size,
            "null": 0.1,
            "best_low": low,
            "best_high": 1,
        }
        for name, sigma in (("one", 0.001), ("one", 0.002), ("two", 0.002))
        for size, low in ((1, 0.0), (2, None))
    ]
    best_by_model(tmp_path / "best.png", rows, "title")
    assert (tmp_path / "best.png").read_bytes().startswith(PNG)
    assert len(read_csv(tmp_path / "best.csv")) == 6


@given(st.lists(st.integers(-300, 300), min_size=1, max_size=60), st.integers(1, 320))
def test_no_bar_holds_gains_and_losses(steps: list[int], prompts: int) -> None:
    values = np.array(steps) / prompts
    edges = bar_edges(values)
    assert edges[0] <= values.min()
    assert values.max() <= edges[-1]
    middles = (edges[1:] + edges[:-1]) / 2
    assert np.abs(middles).min() == pytest.approx(0, abs=1e-9)
    assert len(edges) < 100


def test_bars_of_a_reward_in_steps_are_whole_steps_wide() -> None:
    values = np.arange(-300, 100) / 320
    width = np.diff(bar_edges(values))[0]
    assert width * 320 == pytest.approx(round(width * 320))


def test_a_table_is_markdown() -> None:
    text = markdown(["a", "b|c"], [["1", "long cell"], ["22", ""]])
    assert text.splitlines() == [
        "|   a |      b\\|c |",
        "| --: | --------: |",
        "|   1 | long cell |",
        "|  22 |           |",
    ]
