"""``es-lightning baseline``: reinforcement learning on the task, prompts and rewards of a fit."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import yaml

from es_lightning.baselines.child import require_trl
from es_lightning.baselines.files import POLICY, UPDATES
from es_lightning.baselines.settings import BaselineSettings
from es_lightning.baselines.training import PolicyTraining
from es_lightning.cli.opened import opened_with
from es_lightning.cli.run_folder import (
    CONFIG,
    Stamps,
    check_base_stays,
    holds_run,
    remove_unchanged,
    stamps,
)
from es_lightning.cli.run_loggers import loggers_for, logging_to
from es_lightning.errors import UsageError
from es_lightning.journal.evaluations import EVALUATIONS
from es_lightning.system.files import replacing
from es_lightning.system.folders import check_writable
from es_lightning.system.hardware import free_memory
from es_lightning.system.lock import hold
from es_lightning.tracking.artifacts import log_artifact

log = logging.getLogger(__name__)


def baseline(output: Path | None, overwrite: bool, arguments: Sequence[str]) -> None:
    """Train a policy, evaluate it before and after, and export it.

    Args:
        output: folder of the run; None takes runs/NAME, after the config.
        overwrite: whether a run in that folder is replaced.
        arguments: options of ``fit`` and of the section ``baseline``.
    """
    if warning := require_trl():
        log.warning("%s", warning)
    parts, sections = opened_with(arguments, {"baseline": BaselineSettings})
    settings: BaselineSettings = sections["baseline"]
    files = parts.config.get("config") or ["baseline"]
    folder = output or Path("runs") / "-".join(Path(file).stem for file in files)
    check_writable(folder, "--output")
    if parts.ranks.world > 1:
        raise UsageError("a baseline runs on one device: give --trainer.devices 1.")
    with ExitStack() as until_end:
        until_end.enter_context(parts)
        until_end.callback(hold(folder, "--output"))
        older = _older(folder, overwrite, parts.base.name)
        loggers = loggers_for(parts.config["trainer"].get("logger"), folder, "baseline", resumes=False)
        training = PolicyTraining(parts, settings, folder, loggers)
        training.prepare()
        _check_memory(training)
        training.start()
        remove_unchanged(folder, older)  # not before this one has passed its checks, as in a fit
        with replacing(folder / CONFIG) as file:
            file.write(yaml.safe_dump(parts.config, sort_keys=False).encode())
        made_with = {f"baseline.{name}": value for name, value in vars(training.settings).items()}
        with logging_to(loggers, made_with):
            summary = training.run()
            _write(training, folder, summary)
            for name in (CONFIG, UPDATES, EVALUATIONS, "summary.json"):
                log_artifact(loggers, folder / name)
    log.info(
        "%s: %s %.4g -> %.4g, %d updates in %.0f s; %s holds the model.",
        *(settings.method, "held-out reward", summary["held_out_before"], summary["held_out_after"]),
        *(settings.updates, summary["training_seconds"], folder / "model"),
    )


def _older(folder: Path, overwrite: bool, base: str) -> Stamps:
    """Return the files of a run that is replaced.

    Raises:
        UsageError: the folder holds a run that is not to be replaced, or the base model of this one.
    """
    if not holds_run(folder):
        return {}
    if not overwrite:
        raise UsageError(
            f"{folder} already holds a run: replace it with --overwrite true, or choose another folder with "
            "--output."
        )
    check_base_stays(base, folder, "--output")
    return stamps(folder)


def _check_memory(training: PolicyTraining) -> None:
    """Refuse a training that cannot fit beside the engine."""
    parts, settings, needed = training.parts, training.settings, training.needed
    free = free_memory(parts.device)
    if needed.total > free:
        parameters = sum(each.numel() for each in parts.base.blueprint.parameters())
        lower = ", or lower baseline.minibatch" if needed.always < free else ""
        raise UsageError(
            f"training takes at least {needed.total / 1e9:.1f} GB ({parameters:,} parameters in float32 with "
            f"gradients and AdamW, {settings.minibatch:,} completions in a backward pass), but "
            f"{free / 1e9:.1f} GB are free: take a smaller model{lower}."
        )


def _write(training: PolicyTraining, folder: Path, summary: dict[str, Any]) -> None:
    with replacing(folder / "summary.json") as file:
        file.write((json.dumps(summary, indent=2) + "\n").encode())
    rewards = (
        f"Held-out reward {summary['held_out_before']:.6g} before, {summary['held_out_after']:.6g} after."
    )
    card = (
        f"# {summary['task']} by {training.settings.method}\n\nTrained from {summary['base']} by "
        f"reinforcement learning, {summary['updates']} updates. {rewards}\n"
    )
    with torch.no_grad():
        # What learns is what the engine computes with: unrounded, a policy can be a much worse one.
        precision = training.parts.rollouts.engine.dtype
        training.parts.base.export(training.centre, folder / "model", card, dtype=precision)
    (folder / POLICY).unlink()
