"""``es-lightning degenerate``: do improving candidates share what makes them improve?"""

from __future__ import annotations

import logging
from argparse import Namespace
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from torch import nn

from es_lightning.cli.curvature import require_whole_centre
from es_lightning.cli.degenerate_report import write_report
from es_lightning.cli.opened import opened_with
from es_lightning.cli.run_loggers import loggers_for, logging_to
from es_lightning.errors import UsageError
from es_lightning.evaluation.parts import Parts
from es_lightning.landscape.curvature.degenerate import SharedDirection, shared_direction
from es_lightning.landscape.curvature.gradients import DenseObjective
from es_lightning.landscape.curvature.measured_pairs import (
    PAIRS,
    is_curvature_run,
    of_objective,
    problems_of_pairs,
)
from es_lightning.landscape.curvature.remembered import Remembered
from es_lightning.landscape.curvature.seed_space import SeedSpace
from es_lightning.landscape.curvature.settings import CurvatureSettings, DegenerateSettings
from es_lightning.landscape.curvature.truth import TRUTH, Truth, TruthRun, is_known
from es_lightning.landscape.probing.input import found_problems, probed_problems
from es_lightning.landscape.probing.probe import ProbeSettings
from es_lightning.landscape.probing.results import ProbeResults
from es_lightning.landscape.statistics.held_out import halvings
from es_lightning.records import Prompt
from es_lightning.system.folders import check_writable
from es_lightning.system.lock import hold
from es_lightning.tasks import LogLikelihood
from es_lightning.tracking.artifacts import log_artifact

log = logging.getLogger(__name__)
REPORT = "report"


def degenerate(options: Namespace, arguments: Sequence[str]) -> None:
    """Test the candidates of a probe or of a curvature run, or go on with the tests, and write the report.

    Args:
        options: of this command.
        arguments: options of ``fit`` and of the section ``degenerate``.
    """
    curved = is_curvature_run(options.probe)
    whole = ProbeResults.read(options.probe / PAIRS if curved else options.probe)
    sections: dict[str, type] = {"degenerate": DegenerateSettings}
    sections |= {"probe": ProbeSettings, "curvature": CurvatureSettings}  # its config may have either
    parts, found = opened_with(arguments, sections)
    settings: DegenerateSettings = found["degenerate"]
    results = of_objective(whole, parts.data.objective) if curved else whole
    sigmas = _sigmas(settings, results)
    folder = options.output or options.probe / "degenerate"
    check_writable(folder, "--output")
    writes = parts.ranks.rank == 0
    with ExitStack() as until_end:
        until_end.enter_context(parts)
        if writes:
            until_end.callback(hold(folder, "--output"))
        prompts = _prompts(parts, whole, results, curved)
        right = _with_answers(parts, prompts)
        if right is not None:
            require_whole_centre(parts, "take a task without right answers")
        centre = parts.start(members=parts.ranks.lane.count)
        if results.header["noise"] != parts.noise.identity:
            raise UsageError(f"{options.probe} was made with other noise: give the config that made it.")
        shared = [
            _shared(parts, centre, prompts, results, sigma, settings, folder, writes) for sigma in sigmas
        ]
        if not writes:  # gradients are computed by one rank
            return
        folders = [options.probe / TRUTH, folder / TRUTH]  # a curvature run has taken the same steps
        truth = None if right is None else _truth(parts, centre, right, results, settings, folders)
        write_report(results, sigmas, shared, truth, settings, folder / REPORT)
        asked = parts.config["trainer"].get("logger")
        with logging_to(loggers_for(asked, folder, "degenerate"), {}) as loggers:
            log_artifact(loggers, folder / REPORT, "degenerate")


def _sigmas(settings: DegenerateSettings, results: ProbeResults) -> list[float]:
    wanted = results.sigmas if settings.sigmas is None else list(settings.sigmas)
    missing = [sigma for sigma in wanted if sigma not in results.sigmas]
    if missing:
        known = ", ".join(f"{sigma:g}" for sigma in results.sigmas)
        raise UsageError(
            f"degenerate.sigmas has {missing[0]:g}, and the probe has {known}: take some of these."
        )
    return wanted


def _prompts(parts: Parts, whole: ProbeResults, results: ProbeResults, curved: bool) -> list[Prompt]:
    """Return the prompts that are tested on.

    Args:
        parts: of the config.
        whole: all that was measured.
        results: the part of it that is tested.
        curved: whether it is a curvature run's.

    Raises:
        UsageError: the config has other ones, one is too long, or there are fewer than two.
    """
    if curved:
        problems = found_problems(problems_of_pairs(whole, parts.task), whole)
    else:
        problems = probed_problems(parts.data.prompts(whole.header["split"]), whole)
    count = len(results.centre)
    if count < 2:
        raise UsageError("there is one prompt, and half of them are needed to choose: measure on more.")
    first = len(problems) - count if parts.data.objective == "reward" else 0
    return parts.rollouts.reserve(parts.base, problems[first : first + count], None, False)


def _with_answers(parts: Parts, prompts: Sequence[Prompt]) -> list[Prompt] | None:
    """Return the prompts with their right answers for the gradient; None where the task knows none."""
    if all(len(prompt.choices) == 1 for prompt in prompts):
        return list(prompts)
    try:
        known = {prompt.id: prompt for prompt in LogLikelihood(parts.task).problems("train")}
    except UsageError as error:
        log.warning("No regression on gradient and Hessian vectors: %s", error)
        return None
    if any(prompt.id not in known for prompt in prompts):
        log.warning("No regression on gradient and Hessian vectors: these are no training problems.")
        return None
    return parts.rollouts.reserve(parts.base, [known[prompt.id] for prompt in prompts], None, False)


def _shared(
    parts: Parts,
    centre: nn.Module,
    prompts: Sequence[Prompt],
    results: ProbeResults,
    sigma: float,
    settings: DegenerateSettings,
    folder: Path,
    writes: bool,
) -> SharedDirection | None:
    """Test (a) at one sigma; None where too few candidates improve."""
    changes, signs, seeds = results.at(sigma)
    [(choose, score), *_] = halvings(len(prompts), 1, settings.seed)
    scored = [prompts[place] for place in score]
    space = SeedSpace(parts.evaluator(), centre, parts.noise, seeds, sigma, scored)
    about = {"sigma": sigma, "seeds": seeds, "prompts": [each.id for each in scored], "base": parts.base.name}
    file = folder / f"shared_{sigma:g}.jsonl"
    rewards = Remembered(space.point, file, about, writes, parts.ranks.from_first)
    base = results.centre[score].mean()
    log.info("Sigma %g: %d directions on %d prompts.", sigma, settings.controls + 1, len(scored))
    try:
        return shared_direction(
            changes[:, choose].mean(axis=1),
            changes[:, score].mean(axis=1),
            signs,
            sigma,
            lambda weights: float(rewards(weights).mean() - base),
            settings.controls,
            settings.seed,
            bool(results.header["antithetic"]),
        )
    except UsageError as error:
        log.warning("Sigma %g has no shared direction: %s", sigma, error)
        return None


def _truth(
    parts: Parts,
    centre: nn.Module,
    prompts: Sequence[Prompt],
    results: ProbeResults,
    settings: DegenerateSettings,
    folders: Sequence[Path],
) -> Truth:
    """Gradient and Hessian vectors, and the coordinates of all seeds, from the first folder that has them.

    Args:
        parts: of the config.
        centre: the base model.
        prompts: with their right answers.
        results: what is tested.
        settings: of the tests.
        folders: the last one keeps what none of them has.
    """
    seeds = results.seeds
    about = {"base": parts.base.name, "noise": parts.noise.identity, "seeds": seeds}
    about |= {"prompts": [prompt.id for prompt in prompts], "task": parts.task.name}
    known = [folder for folder in folders if is_known(folder, about, settings.hessian)]
    folder = known[0] if known else folders[-1]
    run = TruthRun(DenseObjective(centre, prompts, parts.noise), parts.noise, seeds, folder, about)
    return run.run(0, settings.hessian)
