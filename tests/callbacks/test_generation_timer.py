"""Seconds of hand-made generations against sums by hand; memory against the kernel's own count."""

import logging
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from es_lightning.callbacks.generation_timer import (
    GenerationTimer,
    closing_line,
    fractions,
    largest,
    parts,
    peaks,
)
from es_lightning.callbacks.monitor import title
from es_lightning.datamodule import TaskDataModule
from es_lightning.grading.scorer import Grading
from es_lightning.records import Generation
from es_lightning.reports import plots
from tests.helpers.fits import Letters, Records, fit, module, trainer

pytestmark = [pytest.mark.slow, pytest.mark.callbacks]  # many fits


def record(lanes: tuple[float, ...], tokens: int = 500, **seconds: float) -> Generation:
    phases = {"generate": 6.0, "perturb": 0.75, "load": 0.25, "reward": 0.5, "gather": 0.25}
    phases |= {"update": 0.75, "total": 8.75}
    nothing = torch.zeros(0)
    return Generation(
        0, (), (), nothing, nothing, 1.0, 1.0, False, 0.0, 0.0, {}, tokens, phases | seconds, lanes, {}
    )


class Sleeps(Callback):
    """Takes time between generations."""

    def on_train_batch_end(self, *_: Any) -> None:
        """Sleep."""
        time.sleep(0.15)


def test_the_parts_of_one_lane_add_up_to_wall_time() -> None:
    found = parts(record((7.5,)), 10.0)
    assert found == {
        "generate": 6.0,
        "perturb": 0.75,
        "load": 0.25,
        "reward": 0.5,
        "update": 0.75,
        "gather": 0.5,
        "other": 1.25,
    }
    assert sum(found.values()) == 10.0


def test_a_rank_that_waits_counts_the_slowest_ones_time_once() -> None:
    # This rank generated for 3 s and gathered for 4, while the slowest generated for 6.
    found = parts(record((7.5, 4.5), gather=4.0, total=8.5), 8.5)
    assert found["gather"] == pytest.approx(8.5 - 6.0 - 1.0 - 0.5 - 0.75)
    assert sum(found.values()) == pytest.approx(8.5)


@pytest.mark.parametrize(
    ("lanes", "idle", "waiting"),
    [((7.5,), 1 - 6 / 10, 0.0), ((7.5, 4.5), 1 - 6 * 0.8 / 10, 0.2), ((8.0, 4.0, 4.0, 4.0), 0.625, 0.375)],
)
def test_fractions_of_several_lanes(lanes: tuple[float, ...], idle: float, waiting: float) -> None:
    found = fractions(record(lanes), 10.0)
    assert found["time/idle_fraction"] == pytest.approx(idle)
    assert found["time/waiting_fraction"] == pytest.approx(waiting)
    assert found["time/tokens_per_s_wall"] == 50.0
    assert found["time/other_s"] == pytest.approx(1.25)


def test_the_memory_peak_is_the_kernels() -> None:
    status = Path("/proc/self/status").read_text()
    kib = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])  # type: ignore[index]
    assert peaks()["time/peak_memory_gib"] == pytest.approx(kib / 2**20, rel=0.02)


@pytest.mark.skipif(sys.platform != "linux", reason="getrusage inherits a peak on Linux alone")
def test_the_memory_peak_of_a_child_is_its_own() -> None:
    held = b"1" * (400 * 2**20)
    told = "from es_lightning.system.memory import peak_of_process; print(peak_of_process())"
    child = subprocess.run([sys.executable, "-c", told], check=True, capture_output=True, text=True)
    del held
    assert int(child.stdout) < 200 * 2**20


def test_an_accelerators_peak_is_told_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert "time/peak_accelerator_memory_gib" not in peaks()
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "max_memory_allocated", lambda: 3 * 2**29)
    assert peaks()["time/peak_accelerator_memory_gib"] == 1.5


def test_an_accelerator_that_does_not_count_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise RuntimeError("Allocator for mps is not a DeviceAllocator.")  # torch 2.10 on Apple silicon

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "max_memory_allocated", refuse)
    assert set(peaks()) == {"time/peak_memory_gib"}


def test_the_largest_peak_of_all_ranks_is_told() -> None:
    assert largest([{"a": 1.0}, {"a": 3.0, "b": 0.5}, {"a": 2.0}]) == {"a": 3.0, "b": 0.5}


def test_the_closing_line_names_shares_from_large_to_small() -> None:
    split = [
        {
            "generation": g,
            "generate": 6.0,
            "perturb": 1.0,
            "load": 0.0,
            "reward": 0.0,
            "gather": 0.0,
            "update": 1.0,
            "other": 2.0,
        }
        for g in (0.0, 1.0)
    ]
    rows = [
        {"time/wall_s": 10.0, "time/tokens_per_s_wall": r, "time/peak_memory_gib": r / 100}
        for r in (300, 320)
    ]
    assert closing_line(split, rows) == (
        "Of 20 s, 60 % generating, 20 % between generations, 10 % making noise, 10 % updating; "
        "310 tokens/s; peak memory 3.2 GiB."
    )


def test_time_between_generations_is_found_and_walls_add_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    timer = GenerationTimer()
    started = time.perf_counter()
    with caplog.at_level(logging.INFO, "es_lightning.callbacks.generation_timer"):
        _, records = fit(Letters(), tmp_path, steps=4, callbacks=[timer, Sleeps()])
    elapsed = time.perf_counter() - started
    generations, walls = timer.column("time/wall_s")
    _, others = timer.column("time/other_s")
    assert generations == [0, 1, 2, 3]
    assert all(other >= 0.15 for other in others[1:])
    assert sum(walls) < elapsed
    totals = [kept.seconds["total"] for kept in records.generations]
    assert [wall - other for wall, other in zip(walls, others, strict=True)] == pytest.approx(totals)
    assert all(
        sum(row.values()) - row["generation"] == pytest.approx(wall)
        for row, wall in zip(timer.parts, walls, strict=True)
    )
    assert "% generating" in caplog.text
    assert (tmp_path / "plots" / "generation_timer.png").stat().st_size > 10_000


def test_generations_from_a_journal_are_passed_over(tmp_path: Path) -> None:
    checkpoints = ModelCheckpoint(tmp_path / "checkpoints", "{step}", save_top_k=-1, every_n_train_steps=2)
    data = {"task": Letters(), "grading": Grading(workers=0)}
    options = {"enable_checkpointing": True, "limit_val_batches": 0}
    first = GenerationTimer()
    trainer(tmp_path, 4, [first, checkpoints], **options).fit(module(), TaskDataModule(**data))
    (tmp_path / "checkpoints" / "step=4.ckpt").unlink()
    timer, records = GenerationTimer(), Records()
    run = trainer(tmp_path, 6, [timer, records, checkpoints], **options)
    run.fit(module(), TaskDataModule(**data), ckpt_path=str(tmp_path / "checkpoints" / "step=2.ckpt"))
    assert [kept.index for kept in records.generations if not kept.lane_seconds] == [2, 3]
    assert timer.column("time/wall_s")[0] == [0, 1, 4, 5]
    assert timer.rows[:2] == first.rows[:2]


def test_memory_can_be_left_out(tmp_path: Path) -> None:
    timer = GenerationTimer(memory=False)
    fit(Letters(), tmp_path, steps=1, callbacks=[timer])
    assert not [name for name in timer.rows[0] if "memory" in name]


def test_a_title_with_dollars_is_no_formula(tmp_path: Path) -> None:
    settings = {"population": 4, "sigma": 0.1, "lr": 0.1, "seed": 0}
    named = SimpleNamespace(name="Dollars")
    tuned = SimpleNamespace(
        base_model=SimpleNamespace(name=r"/a$\x/b$"),
        data=SimpleNamespace(task=named),
        settings=lambda: settings,
    )
    figure, _ = plots.sheet(title(tuned))  # type: ignore[arg-type]
    plots.save(figure, tmp_path / "dollars.png")  # matplotlib refuses \x as a formula
    assert (tmp_path / "dollars.png").stat().st_size > 0


def test_many_generations_are_drawn_as_areas(tmp_path: Path) -> None:
    timer, tuned = GenerationTimer(), module()
    for g in range(100):
        timer.parts.append({"generation": float(g), **parts(record((7.5,)), 10.0)})
        timer.rows.append({"generation": float(g), **fractions(record((7.5,)), 10.0)})
    timer.title = lambda _: tuned.base_model.name  # type: ignore[method-assign]
    left, right = timer.figure(None).axes  # type: ignore[arg-type]
    assert left.dataLim.ymax == pytest.approx(10.0)
    assert len(left.collections) == 7
    assert right.lines[0].get_ydata()[0] == 50.0


def test_a_legend_fits_into_the_picture_and_a_long_first_generation_does_not_hide_the_others() -> None:
    timer, tuned = GenerationTimer(), module()
    for g, wall in enumerate((245.0, 50.0, 42.0)):
        timer.parts.append({"generation": float(g), **parts(record((7.5,)), wall)})
        timer.rows.append({"generation": float(g), **fractions(record((7.5,)), wall)})
    timer.title = lambda _: tuned.base_model.name  # type: ignore[method-assign]
    with plots.style():
        figure = timer.figure(None)  # type: ignore[arg-type]
        figure.draw_without_rendering()  # type: ignore[no-untyped-call]
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width
    assert figure.axes[0].get_ylim() == pytest.approx((0, 62.5))
    assert [each.get_text() for each in figure.axes[0].texts] == [" cut off: 245 s"]
