"""Beside every picture of a monitor lie the numbers that it is drawn from."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from es_lightning.callbacks import EarlyPeak, PopulationHealth, UpdateGeometry
from es_lightning.callbacks.monitor import Monitor
from es_lightning.reports import plots
from tests.contracts.test_callbacks import CASES, fit

MONITORS = [name for name, case in CASES.items() if isinstance(case.make(), Monitor)]


class Watching(Monitor):
    """Draws nothing, and has a second table."""

    picture = "watching.png"

    def figure(self, trainer: Any) -> Figure:
        return plots.sheet("title")[0]

    def numbers(self) -> dict[str, Any]:
        return super().numbers() | {"_more": [{"x": 0.1}], "_none": []}


def test_tables_lie_beside_the_picture_and_go_to_mlflow_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []
    monkeypatch.setattr("es_lightning.callbacks.monitor.log_artifact", lambda *each: sent.append(each[1:]))
    monitor = Watching()
    monitor.rows = [{"generation": 0.0, "a": 1 / 3}, {"generation": 1.0, "b": 2.0}]
    monitor.draw(SimpleNamespace(default_root_dir=tmp_path, loggers=[]), now=True)
    names = ["watching.png", "watching.csv", "watching_more.csv"]
    assert sent == [(tmp_path / "plots" / name, "plots") for name in names]
    assert {path.name for path in (tmp_path / "plots").iterdir()} == set(names)
    assert (tmp_path / "plots" / "watching.csv").read_text() == (
        "generation,a,b\n0.0,0.3333333333333333,\n1.0,,2.0\n"
    )


@pytest.mark.slow
@pytest.mark.callbacks
@pytest.mark.parametrize("name", MONITORS)
def test_every_monitors_picture_has_its_rows_as_csv(name: str, tmp_path: Path) -> None:
    watched = CASES[name].make()
    assert isinstance(watched, Monitor)
    fit(tmp_path, watched)
    table = pd.read_csv((tmp_path / "plots" / watched.picture).with_suffix(".csv"))
    assert len(table) >= len(watched.rows) > 0
    for column in watched.rows[-1]:
        kept = [row.get(column, np.nan) for row in watched.rows]
        assert table[column].tail(len(kept)).tolist() == pytest.approx(kept, nan_ok=True)


def fallen() -> EarlyPeak:
    """A callback that has seen a rise and a fall, and has raised an alarm."""
    watch = EarlyPeak(min_points=6, predict=False, action="mark", horizon=32)
    for at, level in enumerate([*np.linspace(0, 1, 8), *np.linspace(0.9, 0.2, 8)]):
        rewards = (level + np.linspace(0, 0.1, 16)).tolist()
        numbers, alarm = watch.watch.add(at, float(np.mean(rewards)), rewards)
        watch.rows.append({"generation": float(at), **numbers})
        if alarm is not None and not watch.watch.alarms:
            watch.watch.alarms.append(alarm | {"action": "mark"})
    return watch


def test_both_panels_of_early_peak_can_be_drawn_again_from_its_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EarlyPeak, "title", lambda *_: "title")
    watch, run = fallen(), SimpleNamespace(default_root_dir=tmp_path, loggers=[])
    watch.save(run, tmp_path / "early_peak.png")  # type: ignore[arg-type]
    above, below = watch.figure(run).axes  # type: ignore[arg-type]
    table = pd.read_csv(tmp_path / "early_peak.csv")
    assert table.value.tolist() == above.lines[0].get_ydata().tolist()
    assert table.smoothed.dropna().tolist() == above.lines[1].get_ydata().tolist()
    shares = (table["health/peak_statistic"] / table["health/peak_critical"]).dropna()
    assert shares.tolist() == pytest.approx(below.lines[0].get_ydata().tolist())
    [alarm] = pd.read_csv(tmp_path / "early_peak_alarms.csv").to_dict("records")
    assert alarm == watch.watch.alarms[0]
    monkeypatch.setattr(
        "es_lightning.callbacks.early_peak.tuning",
        lambda _: SimpleNamespace(data=SimpleNamespace(prompts=lambda _: [SimpleNamespace(id="a")] * 16)),
    )
    watch._write(run, None)  # type: ignore[arg-type]
    point = json.loads((tmp_path / "tables" / "early_peak.json").read_text())["points"][-1]
    assert point["prompts"] == watch.watch.prompts[-1]
    assert point["health/peak_statistic"] == watch.rows[-1]["health/peak_statistic"]
    assert point["health/peak_critical"] == watch.rows[-1]["health/peak_critical"]


def test_what_is_drawn_beyond_the_rows_is_in_the_tables() -> None:
    health = PopulationHealth(patience=2)
    health.rows = [
        {
            "generation": float(at),
            "health/agreement": value,
            "health/agreement_null": 0.0,
            "health/agreement_null_sd": 0.1,
        }
        for at, value in enumerate([0.1, 0.3, 0.5])
    ]
    [rows] = health.numbers().values()
    assert [row["health/agreement_mean"] for row in rows] == pytest.approx([0.1, 0.2, 0.4])
    assert [row["health/agreement_bound"] for row in rows] == health._chance()[1]
    moved = UpdateGeometry()
    moved.rows = [{"generation": 2.0, "geometry/norm": 3.0, "geometry/norm_ratio": 1.5}]
    groups = {"q": {"norm_relative": 0.1}}
    moved.latest = {"layers": {"10": {"groups": groups}, "9": {"groups": groups}}, "groups": groups}
    tables = moved.numbers()
    assert tables[""][0]["geometry/random_walk"] == 2.0
    assert [row["layer"] for row in tables["_layers"]] == ["", "9", "10"]
    assert tables["_layers"][1] == {"layer": "9", "group": "q", "norm_relative": 0.1}
