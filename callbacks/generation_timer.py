"""Where the seconds of every generation go, and how much memory the run takes."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from math import fsum
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_only

from es_lightning.callbacks.monitor import Monitor, tuning
from es_lightning.records import Generation
from es_lightning.reports import plots
from es_lightning.system.memory import peak_of_accelerator, peak_of_process

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)

PARTS = ("generate", "perturb", "load", "reward", "gather", "update", "other")
WORDS = {
    "generate": "generating",
    "perturb": "making noise",
    "load": "loading members",
    "reward": "waiting for rewards",
    "gather": "waiting for other ranks",
    "update": "updating",
    "other": "between generations",
}
BARS = 60  # most generations that get a bar each; more are drawn as areas
TALL = 2.0  # a first generation that takes this many times as long as any other is cut off in the picture
GIB = 2.0**30


class GenerationTimer(Monitor):
    """Splits the wall time of every generation into parts, and draws ``plots/generation_timer.png``.

    - ``time/wall_s`` is the time from the end of the previous generation to the end of this one.
    - ``time/other_s`` is the part outside the generation itself: validation, callbacks and checkpoints.
    - ``time/idle_fraction`` is the share of wall time in which the lanes' engines, on average, do not
      generate.
    - ``time/waiting_fraction`` is the share of the slowest lane's time for which the lanes, on average, wait
      for it.

    Memory peaks are those of the rank that used most, since its start. Grading goes on while the engine
    generates for the next member, so the part called reward is only the time spent waiting for grades.

    Args:
        memory: whether to log memory peaks, for which the ranks exchange a few bytes per generation.
    """

    picture = "generation_timer.png"

    def __init__(self, memory: bool = True) -> None:
        super().__init__()
        self.memory = memory
        self.parts: list[dict[str, float]] = []
        self._mark = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        super().on_train_start(trainer, pl_module)
        self._mark = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Split the time since the previous generation, unless this one was repeated from a journal."""
        record: Generation = outputs["generation"]
        now = time.perf_counter()
        wall, self._mark = now - self._mark, now
        if not record.lane_seconds:
            return
        self.parts.append({"generation": float(record.index), **parts(record, wall)})
        metrics = fractions(record, wall)
        if self.memory:
            told = tuning(pl_module).ranks.exchange(json.dumps(peaks()).encode())
            metrics |= largest([json.loads(each) for each in told])
        self.keep(trainer, metrics, step=record.index)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the whole run, and log in one line where its time went."""
        super().on_train_end(trainer, pl_module)
        self._tell()

    @rank_zero_only
    def _tell(self) -> None:
        if self.rows:
            log.info("%s", closing_line(self.parts, self.rows))

    def figure(self, trainer: pl.Trainer) -> Figure:
        """Draw seconds per generation, stacked, and tokens per second."""
        figure, [left, right] = plots.sheet(self.title(trainer), columns=2, width=9.0, height=3.9)
        _stack(left, self.parts)
        right.plot(
            *self.column("time/tokens_per_s_wall"),
            color=plots.ACCENT,
            lw=1.5,
            marker="o" if len(self.rows) <= BARS else None,
            ms=3,
        )
        right.set_ylim(bottom=0)
        right.set_xlabel("generation")
        right.set_ylabel("tokens per second of wall time")
        figure.legend(loc="outside lower center", ncols=(len(PARTS) + 1) // 2)  # two rows: one is too wide
        return figure

    def numbers(self) -> dict[str, Sequence[Mapping[str, Any]]]:
        """Return the rows, with the seconds of each part."""
        split = {row["generation"]: {f"time/{name}_s": row[name] for name in PARTS} for row in self.parts}
        return {"": [{**row, **split.get(row["generation"], {})} for row in self.rows]}

    def state_dict(self) -> dict[str, Any]:
        """The rows so far, for a resumed run."""
        return {**super().state_dict(), "parts": self.parts}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        super().load_state_dict(state_dict)
        # Version 0.1.0 counted making noise and loading as one.
        self.parts = [{**row, "load": row.get("load", 0.0)} for row in state_dict["parts"]]


def parts(record: Generation, wall: float) -> dict[str, float]:
    """Split a generation's wall time into the seconds of its parts.

    Perturb, load, generate and reward are the slowest rank's seconds; total and update are this rank's. What
    is left of the total is the slowest rank's gathering. The parts add up to the wall time, or to a little
    more where different ranks are slowest in different phases.

    Args:
        record: the generation's record.
        wall: seconds since the end of the previous generation.
    """
    seconds = record.seconds
    own = {name: seconds[name] for name in ("generate", "perturb", "load", "reward", "update")}
    gather = max(0.0, seconds["total"] - sum(own.values()))
    return {**own, "gather": gather, "other": max(0.0, wall - seconds["total"])}


def fractions(record: Generation, wall: float) -> dict[str, float]:
    """Compute wall time, tokens per second and unused shares of the time, by the names they are logged under.

    Args:
        record: the generation's record.
        wall: seconds since the end of the previous generation.
    """
    lanes, wall = record.lane_seconds, max(wall, 1e-9)
    # The seconds of generate are the slowest lane's. The mean lane's follow from ``balance``, as if all lanes
    # spent the same share of their time on it.
    balance = sum(lanes) / len(lanes) / max(*lanes, 1e-9)
    return {
        "time/wall_s": wall,
        "time/other_s": max(0.0, wall - record.seconds["total"]),
        "time/tokens_per_s_wall": record.tokens / wall,
        "time/idle_fraction": min(1.0, max(0.0, 1 - record.seconds["generate"] * balance / wall)),
        "time/waiting_fraction": max(0.0, 1 - balance),
    }


def peaks() -> dict[str, float]:
    """Measure this process's peak memory so far, in GiB, by the names it is logged under."""
    memory = {"time/peak_memory_gib": peak_of_process() / GIB}
    on_accelerator = peak_of_accelerator()
    return memory | (
        {} if on_accelerator is None else {"time/peak_accelerator_memory_gib": on_accelerator / GIB}
    )


def largest(told: Sequence[dict[str, float]]) -> dict[str, float]:
    """Take the largest of each number over the ranks."""
    names = dict.fromkeys(name for each in told for name in each)
    return {name: max(each[name] for each in told if name in each) for name in names}


def closing_line(split: Sequence[dict[str, float]], rows: Sequence[dict[str, float]]) -> str:
    """Say in one line where the time of a run went.

    Args:
        split: the seconds of each part, per generation.
        rows: the metrics, per generation.
    """
    sums = {name: sum(row[name] for row in split) for name in PARTS}
    wall = max(sum(row["time/wall_s"] for row in rows), 1e-9)
    tokens = sum(row["time/tokens_per_s_wall"] * row["time/wall_s"] for row in rows)
    named = sorted(PARTS, key=lambda name: -sums[name])
    shares = [f"{100 * sums[name] / wall:.0f} % {WORDS[name]}" for name in named if sums[name] / wall > 0.005]
    memory = [row["time/peak_memory_gib"] for row in rows if "time/peak_memory_gib" in row]
    peak = f"; peak memory {max(memory):.1f} GiB" if memory else ""
    return f"Of {wall:.0f} s, {', '.join(shares)}; {tokens / wall:.0f} tokens/s{peak}."


def _stack(axes: Axes, split: Sequence[dict[str, float]]) -> None:
    generations = [row["generation"] for row in split]
    columns = [[row[name] for row in split] for name in PARTS]
    colors = [*plots.PALETTE[: len(PARTS) - 1], plots.QUIET]
    if len(generations) > BARS:
        axes.stackplot(generations, columns, labels=[WORDS[name] for name in PARTS], colors=colors, lw=0)
    else:
        below = [0.0] * len(generations)
        for name, column, color in zip(PARTS, columns, colors, strict=True):
            axes.bar(generations, column, bottom=below, width=0.85, color=color, label=WORDS[name])
            below = [low + high for low, high in zip(below, column, strict=True)]
    axes.margins(x=0.01)
    _cut_first(axes, generations[:1], [fsum(row[name] for name in PARTS) for row in split])
    axes.set_axisbelow(True)
    axes.set_xlabel("generation")
    axes.set_ylabel("seconds")


def _cut_first(axes: Axes, first: Sequence[float], seconds: Sequence[float]) -> None:
    """Leave the other generations room where the first one also sweeps sigma or compiles."""
    others = max(seconds[1:], default=0.0)
    if 0 < TALL * others < seconds[0]:
        axes.set_ylim(0, 1.25 * others)
        place: dict[str, Any] = {"xytext": (0, -3), "textcoords": "offset points", "ha": "left", "va": "top"}
        axes.annotate(f" cut off: {seconds[0]:.0f} s", (first[0] + 0.5, 1.25 * others), fontsize=8, **place)
