"""``es-lightning probe``: random perturbations of a model, and what they say about the landscape."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from time import monotonic
from typing import Any

from es_lightning.cli.opened import opened_with
from es_lightning.cli.probe_report import report
from es_lightning.cli.run_loggers import loggers_for, logging_to
from es_lightning.errors import UsageError
from es_lightning.evaluation.parts import Parts
from es_lightning.journal.identity import described, digest
from es_lightning.landscape.landscape import ModelLandscape, members_expected
from es_lightning.landscape.probing.probe import Probe, ProbeSettings
from es_lightning.landscape.probing.results import ProbeResults
from es_lightning.records import Prompt
from es_lightning.system.folders import check_writable
from es_lightning.system.lock import hold
from es_lightning.task import Task

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
    loggers = loggers_for(parts.config["trainer"].get("logger"), folder, "probe") if writes else []
    with ExitStack() as until_end:
        until_end.enter_context(parts)
        if writes:
            until_end.callback(hold(folder, "--output"))
        problems = settings.choose(parts.data.prompts(settings.split))
        settings.check_begun(folder)
        prompts = parts.rollouts.reserve(parts.base, problems, None, parts.data.drop_long_prompts)
        if len(prompts) < len(problems):
            raise UsageError(
                f"{len(problems) - len(prompts)} of the {len(problems)} prompts are too long for the model, "
                "and models are compared on the same ones: lower model.sampling.max_tokens, or take another "
                "probe.pool_seed."
            )
        centre = parts.start(members_expected(parts, settings.members))
        landscape = ModelLandscape(parts, centre, prompts)
        about = about_probe(parts, prompts, sum(each.numel() for each in centre.parameters()))
        about["largest_reward"] = largest_reward(parts.task, prompts)
        results = Probe(landscape, settings, folder, about, writes).run(teller() if writes else None)
        if writes:
            with logging_to(loggers, _logged(results)):
                report([folder], settings.largest, loggers)


def config_name(parts: Parts) -> str:
    """Return the names of the config's files, joined; ``model`` without one."""
    files = parts.config.get("config") or []
    return "-".join(Path(str(file)).stem for file in files) or "model"


def about_probe(parts: Parts, prompts: Sequence[Prompt], parameters: int) -> dict[str, Any]:
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


def largest_reward(task: Task, prompts: Sequence[Prompt]) -> float | None:
    """Return the most that a prompt can earn; None if it is not known.

    Args:
        task: of the probe.
        prompts: those of the probe. One choice is the right answer, whose log-likelihood is the reward.
    """
    return 0.0 if all(len(prompt.choices) == 1 for prompt in prompts) else task.largest_reward


def teller() -> Callable[[int, int], None]:
    """Return what logs how far a probe has come, and how long the rest will take."""
    begun = last = 0.0
    first = -1

    def tell(done: int, total: int) -> None:
        nonlocal begun, first, last
        now = monotonic()
        if first < 0:  # the pace is that of this process, without its start and its first chunk
            first, begun = done, now
        elif done == total or now - last >= EVERY:
            last = now
            left = (now - begun) / (done - first) * (total - done)
            log.info("%d of %d candidates, %.0f s left", done, total, left)

    return tell


def _logged(results: ProbeResults) -> dict[str, Any]:
    """What MLflow shows as parameters: the settings that are plain values."""
    return {f"probe.{name}": value for name, value in results.header.items() if not isinstance(value, dict)}
