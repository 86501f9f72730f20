"""Export the centre as Hugging Face folders with a card and a journal, on disk and on the hub."""

from __future__ import annotations

import logging
import math
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from es_lightning.callbacks.monitor import Tuning, averages, history_of, tuning
from es_lightning.callbacks.periodic import Periodic
from es_lightning.errors import UsageError
from es_lightning.journal.entry import JOURNAL
from es_lightning.models.card import Export, export_card
from es_lightning.system.folders import replace_folder

log = logging.getLogger(__name__)

RESULTS = ("val/", "reward/", "prior/")  # groups of metrics that a model card lists


class ExportHF(Periodic):
    """Writes the centre to ``exported/step=<generations done>`` at the end of a run, and in between if asked.

    Each folder holds safetensors in the base model's precision, config, tokenizer, a model card, and the
    journal so far, from which anyone can rebuild the weights. If a folder cannot be written, there is a
    warning, and the run goes on.

    Args:
        folder: where to write; None takes ``exported`` in the run's folder.
        every: generations from one export to the next; None exports only at the end.
        keep: how many exports to keep; older ones are removed.
        push_to_hub: hub id, such as ``me/my-model``, that gets the last export when the run ends.
        private: whether the repository is private, if it has to be created.

    Raises:
        UsageError: a number is below 1, or the hub id is not valid.
    """

    at_start = False  # the base model is where the run has it from

    def __init__(
        self,
        folder: str | None = None,
        every: int | None = None,
        keep: int = 1,
        push_to_hub: str | None = None,
        private: bool = True,
    ) -> None:
        super().__init__(every)
        if keep < 1:
            raise UsageError(f"ExportHF.keep is {keep}: give at least 1.")
        if push_to_hub is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", push_to_hub):
            raise UsageError(f"push_to_hub is {push_to_hub!r}: give a hub id such as me/my-model.")
        self.folder, self.keep = folder, keep
        self.push_to_hub, self.private = push_to_hub, private
        self.steps: list[int] = []
        self._last: tuple[int, str] | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Make sure that the hub will accept the model, before hours are spent on it.

        Raises:
            UsageError: there is no valid token, or WeightAveraging would put its average in place too late.
        """
        if stage != "fit":
            return
        if averages(_behind(self, trainer)):
            raise UsageError(
                "ExportHF has to come after WeightAveraging in trainer.callbacks: before it, the last export "
                "would not be the average."
            )
        if self.push_to_hub is not None:
            told = tuning(pl_module).ranks.exchange(_refusal().encode() if trainer.is_global_zero else b"")[0]
            if told:
                raise UsageError(
                    "push_to_hub needs a token: run `hf auth login` or set HF_TOKEN, or leave push_to_hub "
                    f"out ({told.decode()})."
                )

    def acted(self, trainer: pl.Trainer) -> bool:
        """Whether the centre was exported after this number of updates."""
        return trainer.global_step in self.steps

    def is_known(self, module: Tuning) -> bool:
        """Never, at the end of a run: its export needs a folder of its own number of generations."""
        return False

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Export the final centre, unless that was done, and put it on the hub."""
        super().on_train_end(trainer, pl_module)
        self._push(self._folder(trainer, trainer.global_step))

    def _folder(self, trainer: pl.Trainer, step: int) -> Path:
        return Path(self.folder or Path(trainer.default_root_dir) / "exported") / f"step={step}"

    def act(self, trainer: pl.Trainer, module: Tuning) -> None:
        """Export the centre, unless that was done, and remove the oldest exports."""
        step = trainer.global_step
        present = step, module.checksum()
        if present != self._last:
            folder = self._folder(trainer, step)
            written = write_centre(trainer, module, folder, self.push_to_hub)
            if not trainer.strategy.broadcast(written):
                return  # earlier exports stay
            self._last = present
        self.steps = [*(other for other in self.steps if other != step), step]
        for old in self.steps[: -self.keep] if trainer.is_global_zero else ():
            shutil.rmtree(self._folder(trainer, old), ignore_errors=True)
        self.steps = self.steps[-self.keep :]

    @rank_zero_only
    def _push(self, folder: Path) -> None:
        if self.push_to_hub is None or not folder.is_dir():
            return
        from huggingface_hub import HfApi

        try:
            HfApi().create_repo(self.push_to_hub, private=self.private, exist_ok=True)
            HfApi().upload_folder(repo_id=self.push_to_hub, folder_path=folder, commit_message=folder.name)
        except Exception as error:  # network and hub raise errors of many kinds, and the model is on disk
            log.warning(
                "The model could not be put on the hub (%s). It is on disk; to send it: hf upload %s %s",
                _first_line(error),
                self.push_to_hub,
                folder.absolute(),
            )
        else:
            log.info("The model is on the hub: https://huggingface.co/%s", self.push_to_hub)

    def state_dict(self) -> dict[str, Any]:
        """The exports so far, so that a resumed run keeps the right number of them."""
        return {"steps": list(self.steps)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.steps = list(state_dict["steps"])


def write_centre(
    trainer: pl.Trainer,
    module: Tuning,
    folder: Path,
    hub_id: str | None = None,
    metric: str | None = None,
) -> bool:
    """Write a centre with its card and journal on rank 0; the folder is replaced as a whole.

    All ranks have to call it.

    Args:
        trainer: the run's trainer.
        module: holds the centre.
        folder: where to write.
        hub_id: where the model will be available, if not in the folder.
        metric: a metric to list in the card, besides those that always are.

    Returns:
        Whether this rank has written it; if rank 0 has not, what was there is untouched and a warning says
        why.
    """
    checksum = module.checksum()
    values = module.ranks.for_export(module.centre, module.base_model.dtype)
    if not trainer.is_global_zero:
        return False
    card = export_card(_facts(trainer, module, hub_id or folder.name, metric, checksum))
    return _write(module, folder, card, values)


def _write(module: Tuning, folder: Path, card: str, values: Mapping[str, Tensor]) -> bool:
    from safetensors import SafetensorError

    place = folder.with_name(f".{folder.name}")
    scratch = place / folder.name  # moved to its place when it is complete
    try:
        module.base_model.export(module.centre, scratch, card, values)
        if history := history_of(module):
            lines = "".join(f"{line}\n" for line in history.lines)
            (scratch / JOURNAL).write_text(lines, encoding="utf-8")
        replace_folder(folder, by=scratch)
    except (OSError, SafetensorError) as error:
        log.warning("%s could not be written (%s); the run goes on without it.", folder, _first_line(error))
        return False
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return True


def _facts(trainer: pl.Trainer, module: Tuning, place: str, metric: str | None, checksum: str) -> Export:
    history = history_of(module)
    entries = history.entries if history else []
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return Export(
        base=module.base_model.name,
        task=module.data.task.name,
        # Of a centre that was put back, those that led to it.
        updates=sum(not each.skipped for each in history.lineage()) if history else trainer.global_step,
        checksum=checksum,
        dtype=str(module.base_model.dtype).removeprefix("torch."),
        settings=module.settings(),
        metrics={
            name: metrics[name]
            for name in sorted(metrics)
            if math.isfinite(metrics[name]) and (name.startswith(RESULTS) or name == metric)
        },
        # Looked up by checksum: a callback may have put an earlier centre back, or an average in its place.
        journaled=next((e.generation for e in reversed(entries) if e.checksum == checksum), None),
        place=place,
    )


def _behind(callback: Callback, trainer: pl.Trainer) -> list[Callback]:
    """Return the callbacks whose hooks run after those of a given one."""
    others: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return others[others.index(callback) + 1 :]


def _refusal() -> str:
    """Say why the hub would not accept a model; empty if it would."""
    from huggingface_hub import HfApi

    try:
        HfApi().whoami()
    except Exception as error:  # no token, a wrong one, no network: the client has an exception for each
        return _first_line(error)
    return ""


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
