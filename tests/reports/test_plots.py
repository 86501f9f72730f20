"""Pictures: what is on disk is a whole picture, whatever happens."""

import logging
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from es_lightning.callbacks.monitor import Monitor
from es_lightning.errors import StorageError
from es_lightning.reports import plots

# What a user may have set in a notebook; each line is the style's to decide.
LOUD = {
    "figure.dpi": 40,
    "figure.titlesize": 30,
    "figure.autolayout": True,
    "axes.spines.top": True,
    "axes.titlelocation": "right",
    "axes.grid": True,
    "axes.grid.axis": "both",
    "grid.linewidth": 5.0,
    "legend.frameon": True,
    "legend.fontsize": 30,
    "xtick.labelsize": 30,
}
PNG = b"\x89PNG\r\n\x1a\n"


def test_a_picture_replaces_the_one_before_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "plots" / "one.png"
    for title in ("before", "after"):
        figure, (axes,) = plots.sheet(title)
        axes.plot([0, 1])
        plots.save(figure, path)
        written = path.read_bytes()
        assert written.startswith(PNG)
        assert written.rstrip().endswith(b"IEND\xaeB`\x82")
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "plots").write_text("a file in the way")
    with pytest.raises(StorageError, match=r"plots.*could not be written"):
        plots.save(plots.sheet("title")[0], tmp_path / "plots" / "one.png")


def draw(path: Path) -> None:
    rows = [{"generation": float(g), "mean": g / 9, "min": g / 18, "max": 1.0} for g in range(10)]
    plots.reward_curve(path, rows, {"centre": [(0, 0.1), (9, 0.9)]}, "Task on base")


@pytest.mark.parametrize("trained", ["", "log-likelihood in nats per token"])
def test_what_is_trained_and_what_is_evaluated_share_axes_if_they_are_the_same(
    trained: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(plots, "save", lambda figure, path: drawn.append(figure))
    rows = [{"generation": 0.0, "mean": -2.0, "min": -3.0, "max": -1.0}]
    plots.reward_curve(tmp_path / "a.png", rows, {"centre": [(0, 0.1), (9, 0.9)]}, "Task on base", trained)
    seen = [(axes.get_ylabel(), len(axes.lines)) for axes in drawn[0].axes]
    one, two = "reward (higher is better)", f"{trained} (higher is better)"
    assert seen == ([(two, 1), (one, 1)] if trained else [(one, 2)])


def test_a_picture_leaves_the_global_settings_alone_and_does_not_depend_on_them(tmp_path: Path) -> None:
    before = matplotlib.rcParams.copy()
    draw(tmp_path / "plain.png")
    assert matplotlib.rcParams == before
    with matplotlib.rc_context(LOUD):
        loud = matplotlib.rcParams.copy()
        draw(tmp_path / "loud.png")
        assert matplotlib.rcParams == loud
    assert (tmp_path / "loud.png").read_bytes() == (tmp_path / "plain.png").read_bytes()


def test_a_drawing_that_fails_leaves_the_global_settings_alone() -> None:
    @plots.style()
    def fails() -> None:
        assert matplotlib.rcParams != before
        raise ZeroDivisionError

    before = matplotlib.rcParams.copy()
    with pytest.raises(ZeroDivisionError):
        fails()
    assert matplotlib.rcParams == before


def test_axes_of_a_sheet_keep_the_style_for_whoever_draws_on_them_later() -> None:
    figure, (axes,) = plots.sheet("title")
    assert figure.dpi == 150
    assert not axes.spines["top"].get_visible()
    assert axes.spines["left"].get_visible()
    assert [to_hex(axes.plot([0, 1])[0].get_color()) for _ in plots.PALETTE] == list(plots.PALETTE)


def test_the_style_file_holds_what_matplotlib_knows_and_the_colours_of_plots(
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = resources.files("es_lightning.reports").joinpath("es_lightning.mplstyle")
    with caplog.at_level(logging.WARNING):
        settings = matplotlib.rc_params_from_file(str(path), use_default_template=False)
    assert caplog.records == []
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if ":" in line.split("#")[0]]
    assert len(settings) == len(lines)
    assert [to_hex(color) for color in settings["axes.prop_cycle"].by_key()["color"]] == list(plots.PALETTE)
    assert to_hex(settings["axes.titlecolor"]) == plots.INK
    assert to_hex(settings["grid.color"]) == plots.QUIET


class Watching(Monitor):
    """Draws with matplotlib's own defaults."""

    picture = "watching.png"

    def figure(self, trainer: Any) -> Figure:
        self.drawn, (axes,) = plots.sheet("title")
        axes.plot([0, 1], label="a")
        axes.set_title("above")
        axes.legend()
        return self.drawn


def test_a_monitor_draws_in_the_style_without_naming_it(tmp_path: Path) -> None:
    before = matplotlib.rcParams.copy()
    monitor = Watching()
    monitor.rows = [{"generation": 0.0}]
    monitor.draw(SimpleNamespace(default_root_dir=tmp_path, loggers=[]), now=True)
    (axes,) = monitor.drawn.axes
    legend = axes.get_legend()
    assert not legend.get_frame_on()
    assert legend.get_texts()[0].get_fontsize() == 8
    assert axes.get_title(loc="left") == "above"
    assert (tmp_path / "plots" / "watching.png").is_file()
    assert matplotlib.rcParams == before
