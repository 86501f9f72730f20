"""The centre's answers to the same few prompts in the course of a run, as a table and as a page to read."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_only

from es_lightning.callbacks.monitor import Tuning, tuning, write_table
from es_lightning.callbacks.periodic import Periodic
from es_lightning.errors import UsageError
from es_lightning.records import Completion, Evaluation, Prompt
from es_lightning.reports.rollout_page import Answer, rollout_page

KEPT_CHARACTERS = 20_000
FIRST, LATEST = 1, 50  # how many of the first and of the latest measurements are kept
COLUMNS = (
    "generations",
    "prompt_id",
    "sample",
    "prompt",
    "completion",
    "characters",
    "finish_reason",
    "tokens",
)


class RolloutTable(Periodic):
    """Writes ``tables/rollouts.json``, which MLflow shows as a table, and the page ``tables/rollouts.html``.

    Both hold the first measurement and the latest 50, and the first 20000 characters of a completion.

    Args:
        prompts: how many prompts to use, from the beginning of the split.
        split: ``train``, ``val`` or ``test``; if it has no problems, the training split is used.
        every: generations from one measurement to the next; the base model and the end are always measured.
        max_tokens: most new tokens of a completion; None takes the limit of ``sampling``.

    Raises:
        UsageError: a number is below 1, or there is no such split.
    """

    def __init__(
        self, prompts: int = 8, split: str = "val", every: int = 10, max_tokens: int | None = None
    ) -> None:
        super().__init__(every)
        for option, value in {"prompts": prompts, "max_tokens": max_tokens}.items():
            if value is not None and value < 1:
                raise UsageError(f"RolloutTable's {option} is {value}: give 1 or more.")
        if split not in {"train", "val", "test"}:
            raise UsageError(f"RolloutTable's split is {split!r}: give train, val or test.")
        self.prompts, self.split, self.max_tokens = prompts, split, max_tokens
        self.rows: list[dict[str, Any]] = []
        self._encoded: list[Prompt] = []
        self._asked = ""  # checksum of the weights that answered last: the centre's, or those of an average

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Choose the prompts, and reserve room for them in the engine."""
        if stage == "fit":
            tuned = tuning(pl_module)
            split = self.split if tuned.data.has(self.split) else "train"
            self._encoded = tuned.reserve(tuned.data.prompts(split)[: self.prompts], self.max_tokens)

    def acted(self, trainer: pl.Trainer) -> bool:
        """Whether there are rows for this number of generations already."""
        return any(row["generations"] == trainer.global_step for row in self.rows)

    def act(self, trainer: pl.Trainer, module: Tuning) -> None:
        """Ask the centre."""
        module.rollouts.hold_centre(module.centre)
        evaluation = module.evaluator.evaluate(self._encoded, max_tokens=self.max_tokens)
        self._asked = module.checksum()
        self.rows = bounded(self.rows + rows_of(evaluation, trainer.global_step))
        self._write(trainer, module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Ask the final centre, unless that was done."""
        module = tuning(pl_module)
        if self._asked != module.checksum():
            # Since then another callback has put an earlier centre back, or an average in the centre's place.
            module.rollouts.forget()
            self.rows = [row for row in self.rows if row["generations"] != trainer.global_step]
        if not self.acted(trainer):
            self._act(trainer, module)

    @rank_zero_only
    def _write(self, trainer: pl.Trainer, module: Tuning) -> None:
        title = f"{module.data.task.name} on {module.base_model.name}"
        write_table(trainer, "rollouts.json", table(self.rows), shown=True)
        write_table(trainer, "rollouts.html", rollout_page(title, module.settings(), answers(self.rows)))

    def state_dict(self) -> dict[str, Any]:
        """The rows so far, for a resumed run."""
        return {"rows": [dict(row) for row in self.rows]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint; one of version 0.1.0 has the column ``updates``."""
        names = {"updates": "generations"}
        self.rows = [{names.get(key, key): value for key, value in row.items()} for row in state_dict["rows"]]


def rows_of(evaluation: Evaluation, generations: int) -> list[dict[str, Any]]:
    """Make one row per completion, with prompt, answer and scores as plain values.

    Args:
        evaluation: P prompts with S completions each.
        generations: generations done before the centre answered.
    """
    samples = len(evaluation.completions) // len(evaluation.prompts)
    pairs = zip(evaluation.completions, evaluation.scores, strict=True)
    return [
        _row(evaluation.prompts[i // samples], completion, i % samples)
        | {"generations": generations, "scores": {key: _finite(value) for key, value in scores.items()}}
        for i, (completion, scores) in enumerate(pairs)
    ]


def _row(prompt: Prompt, completion: Completion, sample: int) -> dict[str, Any]:
    return {
        "prompt_id": _storable(prompt.id),
        "prompt": _storable(prompt.text[:KEPT_CHARACTERS]),
        "sample": sample,
        "completion": _storable(completion.text[:KEPT_CHARACTERS]),
        "characters": len(completion.text),
        "finish_reason": completion.finish_reason,
        "tokens": len(completion.token_ids),
    }


def bounded(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Keep only the rows of the first measurement and of the latest 50."""
    moments = sorted({row["generations"] for row in rows})
    kept = {*moments[:FIRST], *moments[-LATEST:]}
    return [row for row in rows if row["generations"] in kept]


def table(rows: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Put the rows into pandas' split form, which MLflow reads; each of the reward's numbers is a column."""
    scores = list(dict.fromkeys(key for row in rows for key in row["scores"]))
    return {
        "columns": [*COLUMNS, *(key if key not in COLUMNS else f"score {key}" for key in scores)],
        "data": [
            [*(row[column] for column in COLUMNS), *(row["scores"].get(key) for key in scores)]
            for row in rows
        ],
    }


def answers(rows: Sequence[dict[str, Any]]) -> dict[tuple[str, str], list[Answer]]:
    """Group the rows by prompt, for the page."""
    by_prompt: dict[tuple[str, str], list[Answer]] = {}
    for row in rows:
        fields = {name: value for name, value in row.items() if name not in {"prompt_id", "prompt"}}
        by_prompt.setdefault((row["prompt_id"], row["prompt"]), []).append(Answer(**fields))
    return by_prompt


def _storable(text: str) -> str:
    """Replace halves of surrogate pairs, which no file or database accepts."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
