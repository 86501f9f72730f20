"""What tuning on one task does to others: evaluate the centre on prior tasks during a run."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import asdict
from io import BytesIO
from statistics import mean
from typing import TYPE_CHECKING, Any, Literal

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_only

from es_lightning.analysis.accuracy import marks
from es_lightning.analysis.course import course
from es_lightning.analysis.forgetting import (
    NAMES,
    Look,
    measured,
    problem_table,
    sentence,
    solved_course,
    summary,
)
from es_lightning.callbacks.monitor import Monitor, Tuning, put_back, record_of, tuning, write_table
from es_lightning.callbacks.periodic import Periodic
from es_lightning.errors import UsageError
from es_lightning.evaluation.gather import digest
from es_lightning.evaluation.problems import check_names, check_prior, prior_problems
from es_lightning.grading.scorer import Grading, Scorer
from es_lightning.records import Evaluation, Prompt
from es_lightning.reports.forgetting_picture import picture
from es_lightning.task import Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)
SUFFIXES = tuple(f"{quantity}{name}" for quantity in ("", "_accuracy") for name in NAMES)
PROBLEMS = "forgetting_problems.parquet"
KNOWN = ("reward", "accuracy")  # of the new task


class Forgetting(Periodic, Monitor):
    """Evaluates prior tasks at generation 0, every ``every`` generations, and at the end.

    Forgetting is measured as in 2601.20861 and 2605.30148, but on the same problems, in the same form, at
    every look, so that differences can be taken problem by problem. The callback logs per task:

    - ``prior/<task>``, the mean reward, and ``prior/<task>_accuracy``, the share of the problems solved, if
      the task says what is right;
    - for both of them ``_change``, the change since the base model, and ``_change_se``, its standard error
      from the differences problem by problem, far smaller than that of two separate means;
    - ``_minimum``, the lowest value so far, which the last one may hide, and ``_minimum_p``, its p-value;
    - ``_null_minimum``, what the lowest would be on average by chance if nothing were forgotten, and
      ``_null_bound``, what it would be below in 5 of 100 such runs: the more looks, the lower.

    ``prior/accuracy`` and its companions are the mean over the tasks that say what is right. ``prior/mean``
    is the mean reward if there is one task, or if all rewards are 0 or 1; unlike units are not averaged.
    The callback writes ``plots/forgetting.png``, ``tables/forgetting.json`` and
    ``tables/forgetting_problems.parquet``, with what every problem earned at every look.

    Args:
        tasks: prior tasks, by the names that they get in metrics.
        sample: number of problems used of each task; None takes all.
        seed: seed of the choice of problems; None takes the first ones.
        split: where the problems come from; a task without ``test`` problems uses ``val``.
        every: generations from one measurement to the next.
        max_tokens: most new tokens of a completion; None takes the run's limit.
        grading: how completions are graded, in separate processes for each task; None takes the defaults.

    Raises:
        UsageError: a value is outside its range.
    """

    picture = "forgetting.png"

    def __init__(
        self,
        tasks: dict[str, Task] | None = None,
        sample: int | None = 200,
        seed: int | None = 0,
        split: Literal["test", "val"] = "test",
        every: int = 25,
        max_tokens: int | None = None,
        grading: Grading | None = None,
    ) -> None:
        super().__init__(every)
        check_prior("Forgetting", sample, max_tokens, split)
        self.tasks = dict(tasks or {})
        check_names("Forgetting", self.tasks, SUFFIXES, reserved=["mean", "accuracy"])
        self.sample, self.seed, self.split, self.max_tokens = sample, seed, split, max_tokens
        self.scorers = {name: Scorer(task, grading) for name, task in self.tasks.items()}
        self.base: dict[str, dict[str, Any]] = {}
        """Per task what the base model earned and solved of each problem, and a digest of the problems."""
        self.looks: dict[str, list[Look]] = {name: [] for name in self.tasks}
        """Per task what later centres earned and solved of each problem."""
        self._prompts: dict[str, list[Prompt]] = {}
        self._splits: dict[str, str] = {}
        self._earned: float | None = None  # mean reward of the latest population
        self._validated: tuple[int, str, dict[str, float]] = (0, "", {})
        """Updates, checksum and results of the centre validated last."""

    # The run --------------------------------------------------------------------------------------

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Reserve room for the prior tasks' problems in the engine, and start their graders.

        Raises:
            UsageError: there are no tasks, or one has no problems.
        """
        if stage != "fit":
            return
        if not self.tasks:
            raise UsageError("Forgetting has no tasks: name at least one prior task under tasks.")
        for name in self.tasks:
            self._splits[name], chosen = self._chosen(name)
            self._prompts[name] = tuning(pl_module).reserve(chosen, self.max_tokens)
            if trainer.is_global_zero:
                count = len(self._prompts[name])
                log.info("Prior task %s: %d of its %s problems.", name, count, self._splits[name])
            self.scorers[name].start()

    def _chosen(self, name: str) -> tuple[str, list[Prompt]]:
        return prior_problems("Forgetting", name, self.tasks[name], self.split, self.sample, self.seed)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure the base model, and validate it on the new task too.

        Lightning's first validation comes only later, and it skips one where a resumed run starts.

        Raises:
            UsageError: a resumed run has other problems than before.
        """
        if self.base and self._digests() != {name: base["problems"] for name, base in self.base.items()}:
            raise UsageError(
                "Forgetting has other problems than before the run was stopped: give the tasks, sample, seed "
                "and split that it began with."
            )
        super().on_train_start(trainer, pl_module)
        module, step = tuning(pl_module), trainer.global_step
        due = step % float(trainer.val_check_batch or math.inf) == 0 and trainer.limit_val_batches
        # If an earlier centre was put back, the last row is that of another centre.
        row = {} if put_back(module) or not self.rows else self.rows[-1]
        if due and row.get("generation") == step and "val/reward" not in row and module.data.has("val"):
            module.rollouts.forget()
            module.rollouts.hold_centre(module.centre)
            evaluation = module.evaluator.evaluate(module.data.prompts("val"))
            row["val/reward"], solved = evaluation.reward, marks(evaluation)
            if solved is not None:
                row["val/accuracy"] = mean(solved)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Remember the population's reward, and measure the centre if it is time to."""
        record = record_of(outputs)
        if record is not None:
            self._earned = float(record.rewards.mean())
            # This population was drawn around the centre that was measured last.
            if self.rows and self.rows[-1]["generation"] == record.index:
                self.rows[-1]["reward/mean"] = self._earned
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the centre's validation reward into the row with its rewards on the prior tasks."""
        told = trainer.callback_metrics
        if not trainer.sanity_checking and "val/reward" in told:
            centre = tuning(pl_module).centre_checksum
            results = {f"val/{name}": float(told[f"val/{name}"]) for name in KNOWN if f"val/{name}" in told}
            self._validated = trainer.global_step, centre, results
            self._complete()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure the last centre, write the table, and log how each task has changed."""
        super().on_train_end(trainer, pl_module)
        self._report(trainer)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """End the grading processes."""
        self._close()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """End the grading processes of a run that fails."""
        self._close()

    def state_dict(self) -> dict[str, Any]:
        """The rows so far, and what every problem earned."""
        looks = {name: [asdict(look) for look in each] for name, each in self.looks.items()}
        return {**super().state_dict(), "base": self.base, "looks": looks}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        super().load_state_dict(state_dict)
        self.base = {name: dict(base) for name, base in state_dict["base"].items()}
        self.looks |= {  # version 0.1.0 kept none
            name: [Look(**look) for look in looks] for name, looks in state_dict.get("looks", {}).items()
        }

    def _close(self) -> None:
        for scorer in self.scorers.values():
            scorer.close()

    # Measuring ------------------------------------------------------------------------------------

    def acted(self, trainer: pl.Trainer) -> bool:
        """Whether there is a row for this number of updates already."""
        return self.has_row(trainer.global_step)

    def act(self, trainer: pl.Trainer, module: Tuning) -> None:
        """Measure the centre."""
        self.keep(trainer, self._rewards(module))

    def _rewards(self, module: Tuning) -> dict[str, float]:
        """Compare the centre's results on the prior tasks with those of the base model."""
        evaluations: dict[str, Evaluation] = {}
        # Version 0.1.0 kept no more than the base model's rewards.
        if not self.base or any("solved" not in base for base in self.base.values()):
            module.rollouts.hold_base(module.base_model, module.centre)
            evaluations = self._evaluate(module)
            problems = self._digests()
            self.base = {
                name: {"problems": problems[name], **asdict(Look.of(0, each))}
                for name, each in evaluations.items()
            }
        if not evaluations or module.generation > 0:
            module.rollouts.hold_centre(module.centre)
            for name, evaluation in self._evaluate(module).items():
                self.looks[name].append(Look.of(module.generation, evaluation))
        return measured(self._before(), self.looks, self.rows)

    def _before(self) -> dict[str, Look]:
        return {
            name: Look(0, base["rewards"], base.get("solved"), base.get("named", False))
            for name, base in self.base.items()
        }

    def keep(self, trainer: pl.Trainer, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Keep a row, and add the rewards on the new task that are known already."""
        super().keep(trainer, metrics, step)
        again = put_back(tuning(trainer.lightning_module))
        if self._earned is not None and not again:
            # The reward of the population before, until that of the one around this centre is known.
            self.rows[-1]["reward/mean"] = self._earned
        self._complete()
        self._write_problems(trainer)

    def show(self, trainer: pl.Trainer, metrics: Mapping[str, float]) -> None:
        """Show only what is measured here: the new task's numbers in a row may be out of date."""
        super().show(trainer, {name: metrics[name] for name in metrics if name.startswith("prior/")})

    def _digests(self) -> dict[str, str]:
        return {name: digest(prompts) for name, prompts in self._prompts.items()}

    def _evaluate(self, module: Tuning) -> dict[str, Evaluation]:
        return {
            name: module.evaluator.evaluate(prompts, self.scorers[name], self.max_tokens)
            for name, prompts in self._prompts.items()
        }

    def _complete(self) -> None:
        """Put the validation reward into the last row if that is a row of the same centre."""
        step, centre, results = self._validated
        if self.rows and centre and (step, centre) == (self.rows[-1]["generation"], self._centre):
            self.rows[-1] |= results

    # Results --------------------------------------------------------------------------------------

    @rank_zero_only
    def _write_problems(self, trainer: pl.Trainer) -> None:
        """Write what every problem earned at every look, for paired comparisons afterwards."""
        import pyarrow
        import pyarrow.parquet

        ids = {name: [prompt.id for prompt in prompts] for name, prompts in self._prompts.items()}
        file = BytesIO()
        table = pyarrow.table(problem_table(ids, self._before(), self.looks))
        pyarrow.parquet.write_table(table, file)
        write_table(trainer, PROBLEMS, file.getvalue())

    @rank_zero_only
    def _report(self, trainer: pl.Trainer) -> None:
        table: dict[str, dict[str, Any]] = {}
        for name, before in self._before().items():
            looks, key = self.looks[name], f"prior/{name}"
            earned = course(before.rewards, [look.rewards for look in looks])
            table[name] = {"split": self._splits[name], "problems": len(before.rewards)}
            table[name] |= summary(key, earned, self.rows)
            log.info("%s", sentence(name, table[name]))
            solved = solved_course(before, looks)
            if solved is not None:
                table[name]["accuracy"] = summary(f"{key}_accuracy", solved, self.rows)
                log.info("%s", sentence(f"{name} (accuracy)", table[name]["accuracy"]))
        write_table(trainer, "forgetting.json", table)

    def figure(self, trainer: pl.Trainer) -> Figure:
        """Draw each task's change during the run, and the new task against the prior ones."""
        return picture(self.title(trainer), self.rows, list(self.base))
