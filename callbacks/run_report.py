"""The results of a run: held-out results before and after, the exported model, a summary and pictures."""

import json
import time
from collections.abc import Mapping
from math import fsum
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from es_lightning.algorithm.shaping import reward_statistics
from es_lightning.analysis.accuracy import Accuracy, population_accuracy
from es_lightning.callbacks.monitor import REDRAW_SECONDS, Evolving, evolving, title
from es_lightning.errors import StorageError
from es_lightning.evaluation.costs import seconds_of
from es_lightning.evaluation.metrics import evaluation_means
from es_lightning.journal.entry import JOURNAL
from es_lightning.journal.evaluations import EVALUATIONS
from es_lightning.models.card import model_card
from es_lightning.records import Generation
from es_lightning.reports import held_out
from es_lightning.reports.accuracy_picture import accuracy_curve
from es_lightning.reports.csv_file import write_csv
from es_lightning.reports.plots import reward_curve
from es_lightning.system.files import replacing
from es_lightning.system.memory import peak_bytes
from es_lightning.tracking.artifacts import log_artifact
from es_lightning.tracking.logger import DurableMLFlowLogger

ACCURACY_PICTURE = "accuracy.png"
TRAINED = {"reward": "", "log_likelihood": "log-likelihood in nats per token"}
"""By ``data.objective``, what training makes larger if that is not the task's reward."""


class RunReport(Callback):
    """Evaluates the centre before and after a fit, then writes ``model/``, ``plots/`` and ``summary.json``.

    The summary's ``training_seconds`` are those of all generations by the journal, as ``compare`` counts
    them; ``seconds_with_validation`` passed until the last one, validations and callbacks included.

    Held out means the test split, or the validation split if the task has no test split. If the task says
    what is right, by a component ``accuracy`` or by rewards of 0 and 1, there is a picture of accuracy too.

    Args:
        held_out: whether to evaluate before and after; if not, the summary's two numbers are null.
        export: whether to write the Hugging Face model.
        log_model: whether MLflow gets a copy of the model, with a signature, to load and to serve.
    """

    def __init__(self, held_out: bool = True, export: bool = True, log_model: bool = True) -> None:
        self.held_out, self.export, self.log_model = held_out, export, log_model
        self.before: dict[str, Any] | None = None
        self.after: dict[str, Any] | None = None
        self.history: list[dict[str, float]] = []
        self.curve: list[tuple[float, float]] = []
        self.solved: list[tuple[float, int, int]] = []
        self.seconds = 0.0
        self._since: float | None = None
        self._drawn = 0.0
        self.summary: dict[str, Any] | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Evaluate the base model; a resumed run has the result from its checkpoint, if at all."""
        if self.before is None and trainer.global_step == 0:
            self.before = self._evaluate(trainer, pl_module)
        self._since = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the generation's numbers for the summary and the picture."""
        record: Generation = outputs["generation"]
        row = reward_statistics(record.rewards)
        row |= {"tokens": float(record.tokens), "generate_seconds": record.seconds["generate"]}
        row |= population_accuracy(record)
        self.history.append({"generation": float(record.index), **row})

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the centre's validation reward and accuracy, and redraw the pictures."""
        metrics, step = trainer.callback_metrics, float(trainer.global_step)
        if not trainer.sanity_checking and "val/reward" in metrics:
            self.curve.append((step, float(metrics["val/reward"])))
            # Where the task names no accuracy, but all rewards are 0 or 1, the mean reward is the accuracy.
            rate = float(metrics.get("val/accuracy", metrics["val/reward"]))
            if self._says_what_is_right and 0 <= rate <= 1:
                of = len(evolving(pl_module).data.prompts("val"))
                self.solved.append((step, round(rate * of), of))
        in_a_fit = trainer.state.fn == "fit"  # its stage is a validation now
        if in_a_fit and self.history and time.monotonic() - self._drawn > REDRAW_SECONDS:
            self._draw(trainer, evolving(pl_module))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Evaluate the tuned model, and write all results."""
        self.seconds, self._since = self._elapsed(), None
        self.after = self._evaluate(trainer, pl_module)
        module = evolving(pl_module)
        self.summary = self._summary(module)
        values = module.ranks.for_export(module.centre, module.base_model.dtype) if self.export else {}
        self._write(trainer, module, self.summary, values)

    @rank_zero_only
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Print the closing summary, below the finished progress bar."""
        if stage == "fit" and self.summary is not None:
            _show(Path(trainer.default_root_dir), self.summary)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs to report on the whole."""
        state = {"before": self.before, "history": self.history, "curve": self.curve}
        return {**state, "solved": self.solved, "seconds": self._elapsed()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.before, self.history = state_dict["before"], state_dict["history"]
        self.curve, self.seconds = [tuple(point) for point in state_dict["curve"]], state_dict["seconds"]
        self.solved = [tuple(point) for point in state_dict.get("solved", [])]  # 0.1.0 kept none

    @property
    def _says_what_is_right(self) -> bool:
        return bool(self.history) and all("accuracy" in row for row in self.history)

    def _elapsed(self) -> float:
        return self.seconds + (0.0 if self._since is None else time.perf_counter() - self._since)

    def _evaluate(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any] | None:
        module = evolving(pl_module)
        split = next((split for split in ("test", "val") if module.data.has(split)), None)
        if not self.held_out or split is None:
            return None
        module.rollouts.forget()  # an average may have been put in the centre's place, or taken out of it
        module.rollouts.hold_centre(module.centre)
        prompts = module.data.prompts(split)
        with module.rollouts.announcer.stage(f"evaluating {len(prompts)} held-out prompts"):
            evaluation = module.evaluator.evaluate(prompts)
        module.rollouts.forget()
        module.record_evaluation(split, evaluation)
        told = evaluation_means(evaluation, "held_out")
        wanted = {"held_out/reward", "held_out/accuracy"}
        metrics = {name: value for name, value in told.items() if name in wanted}
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=trainer.global_step)
        return held_out.result(evaluation) | {"split": split, "step": trainer.global_step}

    def _summary(self, module: Evolving) -> dict[str, Any]:
        generate = sum(row["generate_seconds"] for row in self.history)
        measured = self.after or self.before or {}
        return {
            "task": module.data.task.name,
            "base": module.base_model.name,
            "held_out_split": measured.get("split"),
            "held_out_before": self.before and self.before["reward"],
            "held_out_after": self.after and self.after["reward"],
            **held_out.comparison(self.before, self.after),
            "generations": module.generation,
            "skipped_generations": sum(entry.skipped for entry in module.history.entries),
            **({"dropped_problems": module.data.dropped} if module.data.dropped else {}),
            "centre_of_generation": _seen(module),
            "training_seconds": round(fsum(map(seconds_of, module.history.entries)), 3),
            "seconds_with_validation": round(self.seconds, 3),
            "peak_bytes": peak_bytes(),
            "tokens_per_second": round(sum(row["tokens"] for row in self.history) / max(generate, 1e-9), 1),
            "centre_checksum": module.checksum(),
            "settings": module.settings(),
        }

    @rank_zero_only
    def _draw(self, trainer: pl.Trainer, module: Evolving) -> None:
        points = [(point["step"], point["reward"]) for point in (self.before, self.after) if point]
        curves = {f"centre, held out ({self.before['split']})": points} if self.before else {}
        curves |= {"centre, validation": self.curve} if self.curve else {}
        path = Path(trainer.default_root_dir) / "plots" / "reward.png"
        reward_curve(path, self.history, curves, title(module), TRAINED[module.data.objective])
        if self.history:
            write_csv(path.with_suffix(".csv"), self.history)
        rows = [
            {"curve": name, "generation": at, "reward": each} for name in curves for at, each in curves[name]
        ]
        if rows:
            write_csv(path.with_name("reward_centre.csv"), rows)
        self._log_picture(trainer, path)
        if self._says_what_is_right:
            validation = [(step, Accuracy(right, of)) for step, right, of in self.solved]
            rates = held_out.accuracies_of(self.before, self.after).values()
            ends = zip((self.before, self.after), rates, strict=True)
            tested = [(end["step"], rate) for end, rate in ends if end and rate]
            path = path.with_name(ACCURACY_PICTURE)
            accuracy_curve(path, self.history, validation, tested, title(module))
            self._log_picture(trainer, path)
        self._drawn = time.monotonic()

    def _log_picture(self, trainer: pl.Trainer, path: Path) -> None:
        """Put a picture into MLflow's run, with the tables beside it."""
        tables = (path.with_suffix(".csv"), path.with_name(f"{path.stem}_centre.csv"))
        for each in (path, *(table for table in tables if table.exists())):
            log_artifact(trainer.loggers, each, "plots")

    @rank_zero_only
    def _write(
        self,
        trainer: pl.Trainer,
        module: Evolving,
        summary: dict[str, Any],
        values: Mapping[str, Tensor],
    ) -> None:
        root = Path(trainer.default_root_dir)
        card = model_card(summary)
        with replacing(root / "summary.json") as file:
            file.write((json.dumps(summary, indent=2, ensure_ascii=False) + "\n").encode())
        for name in ("summary.json", JOURNAL, EVALUATIONS):
            if (root / name).exists():  # a trial run has neither journal nor evaluations
                log_artifact(trainer.loggers, root / name)
        if self.export:
            _export(module, root, card, values)
        self._draw(trainer, module)
        for logger in trainer.loggers:
            if isinstance(logger, DurableMLFlowLogger):
                logger.log_tags({"mlflow.note.content": card.partition("---\n\n")[2]})
                if self.export and self.log_model:
                    chat = any(prompt.chat for prompt in module.data.prompts("train"))
                    tags = {"base_model": module.base_model.name, "checksum": summary["centre_checksum"]}
                    tags |= {"held_out_reward": str(summary["held_out_after"])}
                    name, settings = module.data.task.name, summary["settings"]
                    rewards = {
                        f"held_out/{when}": summary[f"held_out_{when}"] for when in ("before", "after")
                    }
                    known = {key: reward for key, reward in rewards.items() if reward is not None}
                    logger.log_model(root / "model", name, chat, module.generation, tags, settings, known)


def _export(module: Evolving, root: Path, card: str, values: Mapping[str, Tensor]) -> None:
    from safetensors import SafetensorError

    try:
        with module.rollouts.announcer.stage(f"writing the model to {root / 'model'}"):
            module.base_model.export(module.centre, root / "model", card, values)
    except (OSError, SafetensorError) as error:
        raise StorageError(
            f"{root / 'model'} could not be written ({error}); the journal is safe. Free space or mend the "
            f"folder's permissions, then: es-lightning replay --journal {root / JOURNAL} --generation "
            f"{_seen(module) - 1} --output {root / 'model'}"
        ) from error


def _seen(module: Evolving) -> int:
    """Count the generations that the centre has seen; a callback may have put an earlier centre back."""
    parent = module.history.parent
    return module.generation if parent is None else parent + 1


def _show(root: Path, summary: dict[str, Any]) -> None:
    """Print the closing summary."""
    from rich.console import Console
    from rich.panel import Panel
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    before, after = summary["held_out_before"], summary["held_out_after"]
    if before is not None and after is not None:
        table.add_row("held-out reward", f"{before:.3f}  ->  [bold]{after:.3f}[/bold]")
        for label, text in held_out.lines(summary):
            table.add_row(label, _printable_line(text))
    if skipped := summary["skipped_generations"]:
        unchanged = skipped == summary["generations"]
        what = "the model is still the base model" if unchanged else "they changed nothing"
        table.add_row("skipped", f"{skipped} generations: all members earned the same, and {what}")
    if dropped := summary.get("dropped_problems"):
        counts = ", ".join(f"{count} of {split}" for split, count in dropped.items())
        table.add_row("too long", f"problems that were left out: {counts}")
    seconds = f"{summary['seconds_with_validation']:.0f} s, validations included"  # for which the user waited
    table.add_row("training", f"{summary['generations']} generations in {seconds}")
    table.add_row("engine", f"{summary['tokens_per_second']:.0f} tokens/s while generating")
    table.add_row("model", str(root / "model") if (root / "model").is_dir() else "not exported")
    pictures = (root / "plots" / name for name in (ACCURACY_PICTURE, "reward.png"))
    table.add_row("curve", str(next(path for path in pictures if path.is_file())))
    table.add_row("look at it", "make ui   (or: es-lightning ui)")
    Console().print(Panel(table, title=f"{summary['task']} on {summary['base']}", title_align="left"))


def _printable_line(text: str, width: int = 200) -> str:
    from rich.markup import escape

    # A model may write characters that control the terminal, or reverse the direction of the line.
    line = "".join(c if c.isprintable() else "\ufffd" for c in " ".join(text.split()))
    return escape(line if len(line) <= width else line[: width - 3] + "...")
