"""The progress of a run: a bar in a terminal, and a line per generation where there is none."""

from __future__ import annotations

import logging
import sys
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ProgressBar

from es_lightning.callbacks.monitor import history_of, record_of, tuning
from es_lightning.errors import UsageError
from es_lightning.evaluation.progress import Progress, Stage
from es_lightning.system.stopwatch import Pace

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

SHOWN = {"reward/mean": "reward {}", "reward/max": "max {}", "time/tokens_per_s": "{} tokens/s"}
WORTH_TELLING = 1.0  # seconds; a stage that took less gets no second line


class GenerationBar(ProgressBar):
    """Shows generations, members, grades, the time left, and the metrics that are logged with ``prog_bar``.

    Slow steps around the generations, such as the start of the engine, have lines of their own. Only rank 0
    shows anything; with several lanes it counts the members of its own lane.

    Args:
        refresh_rate: times per second that the bar is drawn; 0 shows nothing.
        leave: whether the finished bar stays in the terminal.

    Raises:
        UsageError: the rate is below 0.
    """

    def __init__(self, refresh_rate: float = 2, leave: bool = True) -> None:
        super().__init__()
        if not refresh_rate >= 0:
            raise UsageError(f"GenerationBar.refresh_rate is {refresh_rate}: give 0 (no bar) or more.")
        self.refresh_rate, self.leave = refresh_rate, leave
        self.pace, self.done = Pace(), 0
        self.skipped: int | None = None
        self._enabled, self._status = True, ""
        self._metrics: dict[str, float] = {}
        self._console: Console | None = None
        self._live: Live | None = None
        self._undo: list[tuple[Any, Any]] = []
        self._began = 0.0

    # Lightning's switches ---------------------------------------------------------------------------

    def disable(self) -> None:
        """Show nothing."""
        self._enabled = False

    def enable(self) -> None:
        """Show what there is again."""
        self._enabled = True

    @property
    def is_enabled(self) -> bool:
        """Whether anything is shown."""
        return self._enabled and self.refresh_rate > 0

    @property
    def total_train_batches(self) -> int | float:
        """Generations of the whole run; Lightning would count only those that a resumed run has left."""
        return self.trainer.num_training_batches

    def print(self, *args: Any, **options: Any) -> None:
        """Print above the bar."""
        self._say(" ".join(map(str, args)))

    # The run ----------------------------------------------------------------------------------------

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Listen to what the rollouts tell."""
        from rich.console import Console

        super().setup(trainer, pl_module, stage)
        self._console, self.pace, self.skipped = Console(highlight=False), Pace(), None
        tuning(pl_module).rollouts.announcer.listen(self._hear)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin a generation."""
        self.done, self._status = trainer.global_step, ""
        if self.skipped is None:  # the journal is not open before the first generation
            history = history_of(tuning(pl_module))
            self.skipped = sum(entry.skipped for entry in history.entries) if history else 0
        self.pace.begin(time.perf_counter())
        self._start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show what the generation has brought; without a terminal, in a line of its own."""
        now, record = time.perf_counter(), record_of(outputs)
        recalled = record is not None and not record.lane_seconds
        self.skipped = (self.skipped or 0) + int(record is not None and record.skipped)
        seconds = self.pace.end(now, counts=not recalled)
        self.done, self._metrics = trainer.global_step, self._numbers(trainer, pl_module)
        if not self._is_terminal:
            how = "skipped, since all members earned the same" if record and record.skipped else ""
            took = "from the journal" if recalled else f"{seconds:.1f} s"
            facts = ", ".join(filter(None, [_line(self._metrics), how, took, self._left(now)]))
            self._say(f"generation {self._count(self.done)}: {facts}")
        if self._live is not None:
            self._live.refresh()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Finish the bar: what follows has lines of its own."""
        self._stop()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say so."""
        self._began, self._status = time.perf_counter(), "validating"
        if trainer.state.fn != "fit":
            self._say("validating ...")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give the centre's reward a line of its own."""
        self._status, reward = "", trainer.callback_metrics.get("val/reward")
        if trainer.state.fn == "fit" and reward is not None and not trainer.sanity_checking:
            seconds = time.perf_counter() - self._began
            when = f"validation after generation {self._count(self.done)}"
            self._say(f"{when}: reward {float(reward):.4g}, {seconds:.1f} s")

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say so."""
        self._say("testing ...")

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Leave the terminal as it was."""
        self._stop()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Listen no longer."""
        self._stop()
        tuning(pl_module).rollouts.announcer.leave(self._hear)

    # What is shown ----------------------------------------------------------------------------------

    def _hear(self, event: Progress | Stage) -> None:
        if isinstance(event, Stage):
            self._status = event.name if event.seconds is None else ""
            if event.seconds is None:
                self._say(f"{event.name} ...")
            elif event.seconds >= WORTH_TELLING:
                self._say(f"{event.name} took {event.seconds:.1f} s")
            return
        self.pace.share = event.members / max(event.total, 1)
        if event.members == event.total and event.graded == event.completions:
            self._status = "updating the centre" if event.lanes == 1 else "waiting for other ranks, updating"
            return
        whose = f"rank {self.trainer.global_rank}: " if event.lanes > 1 else ""
        graded = 100 * event.graded // max(event.completions, 1)
        self._status = f"{whose}member {event.members}/{event.total}, graded {graded:3d} %"

    def _say(self, text: str) -> None:
        if self.is_enabled and self._console is not None:
            self._console.print(text, markup=False, soft_wrap=True)  # no line breaks of rich's own

    def _count(self, done: int) -> str:
        total = self.total_train_batches
        return f"{done}/{total}" if total != float("inf") else str(done)

    def _numbers(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, float]:
        """Return the metrics that are logged with ``prog_bar``, without the version of the logger."""
        metrics: dict[str, Any] = self.get_metrics(trainer, pl_module)
        return {name: float(value) for name, value in metrics.items() if name != "v_num"}

    def _left(self, now: float) -> str:
        seconds = self.pace.left(self.total_train_batches - self.done, now)
        known = seconds is not None and seconds != float("inf")
        return f"{timedelta(seconds=round(seconds or 0.0))} left" if known else "-:--:-- left"

    def _render(self) -> RenderableType:
        """Draw two lines, whose parts keep their places."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar as Bar
        from rich.table import Table

        now, total = time.perf_counter(), self.total_train_batches
        each = self.pace.per_generation(now)
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        present = self._count(int(min(self.done + 1, total)))
        above, below = (Table.grid(expand=True, padding=(0, 1, 0, 0)) for _ in "ab")
        above.add_column(no_wrap=True)
        above.add_column(ratio=1)
        above.add_column(no_wrap=True, justify="right")
        above.add_row(
            f"generation {present}{skipped}",
            Bar(total=total, completed=min(total, self.done + self.pace.share), pulse=total == float("inf")),
            f"{'-' if each is None else f'{each:.1f}':>6} s each, {self._left(now)}",
        )
        below.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        below.add_column(no_wrap=True, overflow="ellipsis", justify="right")
        below.add_row(self._status, _line(self._metrics, width=6))
        return Group(above, below)

    @property
    def _is_terminal(self) -> bool:
        console = self._console
        if console is None:
            return False
        return console.is_jupyter or (console.is_terminal and not console.is_dumb_terminal)

    def _start(self) -> None:
        from rich.live import Live

        if self._live is not None or not self.is_enabled or not self._is_terminal:
            return
        self._live = Live(
            get_renderable=self._render,
            console=self._console,
            refresh_per_second=self.refresh_rate,
            transient=not self.leave,
        )
        self._live.start()
        # Log lines would be written across the bar: their handlers hold the stderr from before.
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is sys.__stderr__:
                self._undo.append((handler, handler.setStream(sys.stderr)))

    def _stop(self) -> None:
        for handler, stream in self._undo:
            handler.setStream(stream)
        self._undo = []
        if self._live is not None:
            self._status = ""
            self._live.stop()
            self._live = None


def _line(metrics: dict[str, float], width: int = 0) -> str:
    """Join metrics by their short names; the numbers take at least ``width`` places, so that none jumps."""
    texts = {name: text for name, text in SHOWN.items() if name in metrics}
    texts |= {name: f"{name} {{}}" for name in metrics if name not in SHOWN}
    return ", ".join(text.format(f"{metrics[name]:{width}.4g}") for name, text in texts.items())
