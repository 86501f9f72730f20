"""``es-lightning probe``: random perturbations of a model, and what they say about the landscape."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from time import monotonic
from typing import Any

from es_lightning.cli.opened import opened_with
from es_lightning.cli.probe_log import finalized, loggers_for
from es_lightning.cli.probe_report import report
from es_lightning.evaluation.parts import Parts
from es_lightning.journal.identity import described, digest
from es_lightning.landscape.landscape import ModelLandscape, members_at_once
from es_lightning.landscape.probe import Probe, ProbeSettings
from es_lightning.records import Prompt
from es_lightning.system.folders import check_writable
from es_lightning.system.lock import hold

log = logging.getLogger(__name__)
EVERY = 20.0  # seconds between two lines about progress


def probe(output: Path | None, arguments: Sequence[str]) -> None:
    """Run a probe, or go on with one, and write its report.

    Args:
        output: folder of the probe; None takes runs/probe-NAME, after the config.
        arguments: options of ``fit`` and of the section ``probe``.
    """
    parts, sections = opened_with(arguments, {"probe": ProbeSettings})
    settings: ProbeSettings = sections["probe"]
    folder = output or Path("runs") / f"probe-{config_name(parts)}"
    check_writable(folder, "--output")
    writes = parts.ranks.rank == 0
    with ExitStack() as until_end:
        until_end.enter_context(parts)
        if writes:
            until_end.callback(hold(folder))
        problems = settings.choose(parts.data.prompts(settings.split))
        prompts = parts.rollouts.reserve(parts.base, problems, None, parts.data.drop_long_prompts)
        members = min(settings.members, members_at_once(parts))
        centre = parts.start(members)
        landscape = ModelLandscape(parts, centre, prompts)
        told = about(parts, prompts, sum(each.numel() for each in centre.parameters()))
        Probe(landscape, settings, folder, told, writes).run(teller() if writes else None)
        if writes:
            loggers = loggers_for(parts.config["trainer"].get("logger"), folder)
            report([folder], settings.largest, loggers)
            finalized(loggers)


def config_name(parts: Parts) -> str:
    """Return the names of the config's files, joined; ``model`` without one."""
    files = parts.config.get("config") or []
    return "-".join(Path(str(file)).stem for file in files) or "model"


def about(parts: Parts, prompts: Sequence[Prompt], parameters: int) -> dict[str, Any]:
    """Return what decides the rewards beside the settings of the probe."""
    sampling, engine = parts.rollouts.sampling, parts.rollouts.engine
    return {
        "model": parts.base.name,
        "base": parts.config["model"]["base"],
        "parameters": parameters,
        "engine": type(engine).__name__,
        "dtype": str(engine.dtype).removeprefix("torch."),
        "noise": parts.noise.identity,
        "task": parts.task.name,
        "task_settings": described("data.task", parts.task, parts.task.name),
        "objective": parts.data.objective,
        "sampling": asdict(sampling),
        "prompt_ids": [prompt.id for prompt in prompts],
        "prompt_digest": digest(prompts),
    }


def teller() -> Any:
    """Return what logs how far a probe has come, and how long the rest will take."""
    begun, first, last = monotonic(), [-1], [0.0]

    def tell(done: int, total: int) -> None:
        now = monotonic()
        if first[0] < 0:  # the first chunk of this process gives the pace
            first[0] = done
            return
        if done < total and now - last[0] < EVERY:
            return
        last[0] = now
        pace = (now - begun) / max(done - first[0], 1)
        log.info("%d of %d candidates, %.0f s left", done, total, pace * (total - done))

    return tell
