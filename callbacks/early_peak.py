"""Notice that the reward has passed its peak, go back to the peak, and stop or continue with less noise."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only

from es_lightning.analysis.peak_watch import PeakWatch
from es_lightning.callbacks.monitor import Monitor, averages, evaluation_of, evolving, tuning, write_table
from es_lightning.errors import UsageError
from es_lightning.evaluation.metrics import evaluation_means, prompt_means
from es_lightning.reports import plots
from es_lightning.reports.peak_picture import (
    draw_curve,
    draw_prediction,
    draw_test,
    explain,
    smoothed_parts,
    stack,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from es_lightning.records import Evaluation

log = logging.getLogger(__name__)

TRAINING = "reward/mean"  # of the population in each generation, drawn around the centre before its update


class EarlyPeak(Monitor):
    """Tests after every measurement whether the reward has fallen from its peak (arXiv 2602.00170), and acts.

    A metric of the validation, with 16 prompts or more, is compared prompt by prompt. An alarm then says that
    the present centre is worse than the one at the peak on this task, at ``false_alarm_rate``. Of any other
    metric the curve is tested, which takes longer and assumes more (``es_lightning.analysis.peak``). Values
    by prompt, what the test said of them, and alarms are written into tables/early_peak.json.

    Logs health/peak_generation and health/peak_reward (the best stretch so far), health/peak_statistic and
    health/peak_critical (there is an alarm where the first exceeds the second), and health/predicted_peak
    with its interval while a two-mode curve can be fitted.

    Args:
        monitor: any metric that exists when a validation ends, or ``reward/mean`` for the population's mean
            reward in each generation. List the callback that measures it above this one.
        mode: ``max`` if high values are good, ``min`` if low ones are.
        false_alarm_rate: chance of any alarm in a whole run whose reward never falls, 0.001 to 0.5: of its
            first alarm. Going back to a peak begins a new test, with the same rate.
        patience: generations that must lie between the peak and an action.
        smoothing: points of the shortest stretches that are compared; odd, at least 3.
        min_points: points before which there is no alarm.
        min_drop: fall that is not worth an alarm, in the metric's units.
        correlation: correlation of the noise of neighbouring points that the test of a curve allows for, 0 to
            0.9; None estimates it, 0 assumes white noise.
        horizon: points that the whole run is planned to have, for the test of a curve; None computes them
            from the trainer's settings.
        predict: whether to fit the two-mode curve, and log when its peak is due.
        action: ``stop`` the run, ``anneal`` it, or ``mark`` the peak and change nothing.
        lr_factor: factor on the learning rate when annealing.
        sigma_factor: factor on sigma when annealing.
        population_factor: factor on the population when annealing; pairs stay complete.
        max_anneals: how often to anneal; the next alarm stops the run.
        restore_best: whether to put centre and optimizer back to the peak before a stop or an anneal.
        paired: whether to compare prompt by prompt where that is possible; False tests the curve.

    Raises:
        UsageError: a value is outside its range, or nothing tells how long the run will be.
    """

    picture = "early_peak.png"

    def __init__(
        self,
        monitor: str = "val/reward",
        mode: Literal["max", "min"] = "max",
        false_alarm_rate: float = 0.05,
        patience: int = 0,
        smoothing: int = 3,
        min_points: int = 9,
        min_drop: float = 0.0,
        correlation: float | None = None,
        horizon: int | None = None,
        predict: bool = True,
        action: Literal["stop", "anneal", "mark"] = "stop",
        lr_factor: float = 0.5,
        sigma_factor: float = 1.0,
        population_factor: float = 1.0,
        max_anneals: int = 2,
        restore_best: bool = True,
        paired: bool = True,
    ) -> None:
        super().__init__()
        factors = {"lr": lr_factor, "sigma": sigma_factor, "population": population_factor}
        _check_settings(mode, action, patience, max_anneals, horizon, factors)
        settings: dict[str, Any] = {"smallest": smoothing, "min_points": min_points, "min_drop": min_drop}
        settings |= {"false_alarm_rate": false_alarm_rate, "correlation": correlation}
        self.watch = PeakWatch(1.0 if mode == "max" else -1.0, predict, **settings)
        self.watch.horizon = horizon
        self.monitor, self.patience, self.action = monitor, patience, action
        self.factors, self.max_anneals, self.restore_best = factors, max_anneals, restore_best
        self.paired = paired
        self._prompts: list[float] = []  # values of the prompts in the validation in progress
        self._again: int | None = None  # peak to go back to once more, after the generation in progress

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set the horizon; a resumed run keeps the old one, since another one has other critical values."""
        super().on_train_start(trainer, pl_module)
        self._start, self._seen = trainer.global_step, trainer.callback_metrics.get(self.monitor)
        goes_back = self.restore_best and self.action != "mark"
        if goes_back or self.action == "anneal":
            evolving(pl_module)
        if goes_back and averages(trainer.callbacks):  # type: ignore[attr-defined]
            raise UsageError("early_peak cannot go back beside WeightAveraging: set restore_best to false.")
        if self.monitor != TRAINING and not trainer.enable_validation:
            raise UsageError(
                f"early_peak watches {self.monitor}, and this run has no validation: give it a validation "
                f"split, or set monitor to {TRAINING}."
            )
        if self.watch.horizon is None:
            self.watch.horizon = self._planned(trainer)

    def _planned(self, trainer: pl.Trainer) -> int:
        """Plan the points of the whole run, rounded up to a power of two: a few more steps change nothing."""
        steps = trainer.estimated_stepping_batches
        if not math.isfinite(steps):
            raise UsageError("nothing tells how long this run will be: give early_peak a horizon, in points.")
        every = 1.0 if self.monitor == TRAINING else min(float(trainer.val_check_batch or 1), steps)
        return max(32, 1 << math.ceil(math.log2(max(1.0, steps / every))))

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Make up for the validation that Lightning skips if the checkpoint was written just before it."""
        module, generation = tuning(pl_module), trainer.global_step
        due = 0 < generation == self._start and generation % float(trainer.val_check_batch or math.inf) == 0
        if due and self.monitor.startswith("val/") and self.watch.lacks(generation):
            module.rollouts.forget()
            module.rollouts.hold_centre(module.centre)
            validated = module.evaluator.evaluate(module.data.prompts("val"))
            metrics, before = evaluation_means(validated, "val"), len(self.watch.alarms)
            if self.monitor in metrics:
                self._prompts = self._by_prompt(validated)
                self._add(trainer, pl_module, generation, metrics[self.monitor])
                new = self.watch.alarms[before:]
                self._again = new[0]["peak"] if new and new[0]["action"] == "stop" else None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Test the population's reward."""
        if self._again is not None and self.restore_best:
            # The run was stopped at the start of this generation, which Lightning still carried out.
            self._go_back(pl_module, self._again)
            self._again = None
        if self.monitor == TRAINING:
            record = outputs["generation"]
            self._add(trainer, pl_module, record.index, float(record.rewards.mean()))

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the metric's values by prompt until the validation ends."""
        evaluation = evaluation_of(outputs)
        self._prompts = [] if evaluation is None else self._by_prompt(evaluation)

    def _by_prompt(self, evaluation: Evaluation) -> list[float]:
        """Return the metric's value for each prompt; none if it is no metric of the validation's."""
        validated = self.paired and self.monitor.startswith("val/")
        return prompt_means(evaluation, self.monitor.removeprefix("val/")) if validated else []

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Test the centre's metric."""
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING or self.monitor == TRAINING:
            return
        if self.monitor not in trainer.callback_metrics:
            known = ", ".join(sorted(trainer.callback_metrics))
            raise UsageError(f"early_peak finds no metric {self.monitor} after a validation, but {known}.")
        value = trainer.callback_metrics[self.monitor]
        if value is not self._seen:  # else nobody has measured it since
            self._seen = value
            self._add(trainer, pl_module, trainer.global_step, float(value))

    def _add(self, trainer: pl.Trainer, pl_module: pl.LightningModule, generation: int, value: float) -> None:
        """Add a point, and act if it raises an alarm."""
        prompts, self._prompts = self._prompts, []
        if not math.isfinite(value) or not self.watch.lacks(generation):
            return
        # Lightning sums in float32, where further digits are noise.
        numbers, alarm = self.watch.add(generation, float(f"{value:.6g}"), prompts)
        self.keep(trainer, numbers, step=generation)
        action = self._action()
        if alarm is None or action is None or generation - alarm["peak"] < self.patience:
            return
        if action != "stop" or _may_stop(trainer):
            self._act(trainer, pl_module, alarm | {"action": action})
            self.draw(trainer, now=True)

    def _action(self) -> str | None:
        """Return the action that an alarm leads to now, if any; a peak is marked only once."""
        done = [alarm["action"] for alarm in self.watch.alarms]
        if self.action == "mark":
            return None if "mark" in done else "mark"
        return "stop" if done.count("anneal") >= self.max_anneals else self.action

    def _act(self, trainer: pl.Trainer, pl_module: pl.LightningModule, alarm: dict[str, Any]) -> None:
        meaning = self._meaning(alarm)  # before the next stretch begins
        self.watch.alarms.append(alarm)
        action, words = alarm["action"], []
        if action != "mark":
            self.watch.since = alarm["generation"]
            if self.restore_best:
                self._go_back(pl_module, alarm["peak"])
                words.append("goes back to the peak")
        if action == "anneal":
            words.append(f"goes on with {self._anneal(pl_module)}")
        if action == "stop":
            trainer.should_stop = True
            words.append("stops")
        if trainer.is_global_zero:
            log.info(
                "%s was best at generation %d with %.4g and has fallen to %.4g at generation %d: "
                "the run %s.%s",
                *(self.monitor, *(alarm[key] for key in ("peak", "level", "latest", "generation"))),
                " and ".join(words) or "goes on as it is",
                f" {meaning}" if meaning else "",
            )

    def _meaning(self, alarm: dict[str, Any]) -> str:
        """Say what an alarm claims; nothing where only the curve was tested."""
        if not self.watch.paired:
            return ""
        return (
            f"Prompt by prompt, the latest centres are worse on this task than those around generation "
            f"{alarm['peak']} ({len(self.watch.prompts[-1])} prompts, false-alarm rate "
            f"{self.watch.settings['false_alarm_rate']:g})."
        )

    def _go_back(self, pl_module: pl.LightningModule, peak: int) -> None:
        # A validation may run in inference mode, and optimizer state made in it could not be changed later.
        with torch.inference_mode(False):
            evolving(pl_module).restore(peak)

    def _anneal(self, pl_module: pl.LightningModule) -> str:
        module = evolving(pl_module)
        size = max(2, round(module.population.size * self.factors["population"]))
        size += size % 2 if module.population.antithetic else 0
        sigma = module.sigma * self.factors["sigma"]
        module.adjust(sigma=sigma, population=size, lr_factor=self.factors["lr"])
        return f"lr {module.lr:.3g}, sigma {sigma:.3g}, population {size}"

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the whole run, and write its table."""
        super().on_train_end(trainer, pl_module)
        self._write(trainer, pl_module)

    @rank_zero_only
    def _write(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        known = any(self.watch.prompts)
        names = [prompt.id for prompt in tuning(pl_module).data.prompts("val")] if known else []
        pairs = zip(self._judged(), self.watch.prompts, strict=True)
        rows = [{**point, "prompts": row} for point, row in pairs]
        content = {"monitor": self.monitor, "prompts": names, "points": rows, "alarms": self.watch.alarms}
        write_table(trainer, "early_peak.json", content)

    def _judged(self) -> list[dict[str, float]]:
        """Join each point with what test and fit said after it."""
        told = {row["generation"]: row for row in self.rows}
        return [{"generation": at, "value": value} | told.get(at, {}) for at, value in self.watch.points]

    def numbers(self) -> dict[str, Sequence[Mapping[str, Any]]]:
        """Return points with the smoothed curve and what test and fit say, and the alarms."""
        parts = smoothed_parts(self.watch.points, self.watch.alarms, self.watch.settings["smallest"])
        curve = {at: value for part in parts for at, value in part}
        rows = [{**row, "smoothed": curve.get(row["generation"])} for row in self._judged()]
        return {"": rows, "_alarms": self.watch.alarms}

    def state_dict(self) -> dict[str, Any]:
        """Points and decisions so far, for a resumed run."""
        return super().state_dict() | self.watch.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        super().load_state_dict(state_dict)
        self.watch.load_state_dict(state_dict)

    def figure(self, trainer: pl.Trainer) -> Figure:
        """Draw points, smoothed curve and peaks; below them the test's statistic and its critical value."""
        figure, [above, below] = plots.sheet(self.title(trainer), columns=2, height=5.2)
        stack(above, below)
        draw_curve(above, self.watch.points, self.watch.alarms, self.watch.settings["smallest"])
        draw_prediction(above, self.rows)
        draw_test(below, self.rows)
        above.set_ylabel(self.monitor)
        below.set_xlabel("generation" if self.monitor == TRAINING else "generations done")
        rate, points = self.watch.settings["false_alarm_rate"], self.watch.horizon
        explain(above, below, rate, None if self.watch.paired else points)
        return figure


def _may_stop(trainer: pl.Trainer) -> bool:
    """Whether Lightning would stop now: it trains on until min_steps and min_epochs are reached."""
    steps, epochs = trainer.min_steps or 0, trainer.min_epochs or 0
    return trainer.global_step >= steps and trainer.current_epoch >= epochs


def _check_settings(
    mode: str, action: str, patience: int, max_anneals: int, horizon: int | None, factors: dict[str, float]
) -> None:
    rules = {
        f"mode is {mode}: give max or min.": mode in ("max", "min"),
        f"action is {action}: give stop, anneal or mark.": action in ("stop", "anneal", "mark"),
        f"patience is {patience}: give at least 0 generations.": patience >= 0,
        f"max_anneals is {max_anneals}: give at least 1.": max_anneals >= 1,
        f"horizon is {horizon}: give the points that the whole run is to have.": horizon is None
        or horizon >= 1,
        f"the factors are {factors}: give numbers above 0.": all(0 < f < math.inf for f in factors.values()),
        "an anneal would change nothing: give a factor other than 1.": action != "anneal"
        or set(factors.values()) != {1.0},
    }
    for sentence, kept in rules.items():
        if not kept:
            raise UsageError(sentence)
