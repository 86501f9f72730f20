"""``es-lightning curvature``: slope and curvature from perturbations, beside what autograd knows of them."""

from __future__ import annotations

import logging
from argparse import Namespace
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from es_lightning.algorithm.noise import CorrelatedNoise, FilteredNoise, GaussianNoise, Noise, member_seed
from es_lightning.cli.curvature_measured import Measured
from es_lightning.cli.curvature_report import write_report
from es_lightning.cli.opened import opened_with
from es_lightning.cli.probe import about_probe, config_name, teller
from es_lightning.cli.run_loggers import loggers_for, logging_to
from es_lightning.datamodule import TaskDataModule
from es_lightning.errors import UsageError
from es_lightning.evaluation.parts import Parts
from es_lightning.landscape.curvature.budget import SampledHessian
from es_lightning.landscape.curvature.es_hessian import ESHessian, start_weights
from es_lightning.landscape.curvature.gradients import DenseObjective
from es_lightning.landscape.curvature.lanczos import lanczos
from es_lightning.landscape.curvature.measured_pairs import PAIRS
from es_lightning.landscape.curvature.remembered import Remembered
from es_lightning.landscape.curvature.seed_space import SeedSpace
from es_lightning.landscape.curvature.settings import CurvatureSettings
from es_lightning.landscape.curvature.truth import TRUTH, Truth, TruthRun
from es_lightning.landscape.landscape import ModelLandscape, members_at_once
from es_lightning.landscape.probing.probe import Probe
from es_lightning.landscape.probing.results import ProbeResults
from es_lightning.records import Prompt
from es_lightning.system.folders import check_writable
from es_lightning.system.lock import hold
from es_lightning.tracking.artifacts import log_artifact

log = logging.getLogger(__name__)

DENSE = ["--data.objective", "log_likelihood"]
"""Gradients need an objective that has one; ``of_reward`` takes it back."""
REPORT = "report"
"""The report's folder in that of the run."""


def curvature(options: Namespace, arguments: Sequence[str]) -> None:
    """Measure, or go on with a measurement, and write its report.

    Args:
        options: of this command.
        arguments: options of ``fit`` and of the section ``curvature``.
    """
    parts, sections = opened_with([*arguments, *DENSE], {"curvature": CurvatureSettings})
    settings: CurvatureSettings = sections["curvature"]
    require_gaussian(parts.noise)
    if settings.likelihood:
        require_whole_centre(parts, "give --curvature.likelihood false")
    else:
        parts.data = of_reward(parts.data)
    folder = options.output or Path("runs") / f"curvature-{config_name(parts)}"
    check_writable(folder, "--output")
    writes = parts.ranks.rank == 0
    with ExitStack() as until_end:
        until_end.enter_context(parts)
        if writes:
            until_end.callback(hold(folder, "--output"))
        chosen = settings.choose(parts.data.prompts("train"))
        settings.probe().check_begun(folder / PAIRS)
        both = settings.likelihood and settings.rewards
        prompts = chosen + (replies(parts, chosen) if both else [])
        prompts = parts.rollouts.reserve(parts.base, prompts, None, False)
        centre = parts.start(min(2 * settings.pairs, members_at_once(parts)))
        results = measure_pairs(parts, centre, prompts, settings, folder / PAIRS, writes)
        sampled = sampled_hessians(parts, centre, prompts[: len(chosen)], settings, folder, writes)
        if writes:  # gradients are computed by one rank; the others have nothing left to do
            truth = None
            if settings.likelihood:
                truth = true_curvature(parts, centre, prompts[: len(chosen)], settings, folder / TRUTH)
            measured = Measured(parts.base.name, parts.task.name, settings, results, truth, sampled)
            asked = parts.config["trainer"].get("logger")
            with logging_to(loggers_for(asked, folder, "curvature"), {}) as loggers:
                write_report(measured, folder / REPORT)
                log_artifact(loggers, folder / REPORT, "curvature")


def require_gaussian(noise: Noise) -> None:
    """Refuse noise for which Var(eps^T H eps) is not 2 tr H^2.

    Raises:
        UsageError: it is not independent and Gaussian.
    """
    inner = noise.noise if isinstance(noise, FilteredNoise) else noise
    if not isinstance(inner, GaussianNoise) or isinstance(inner, CorrelatedNoise):
        raise UsageError(
            f"curvature was asked for with {type(inner).__name__}, and its formulas hold for GaussianNoise "
            "alone: leave model.noise out."
        )


def require_whole_centre(parts: Parts, otherwise: str) -> None:
    """Refuse a centre that is divided among ranks, where autograd is needed.

    Args:
        parts: of the config.
        otherwise: what else the user may do.

    Raises:
        UsageError: no rank holds all of it.
    """
    if parts.ranks.centre_shards > 1:
        raise UsageError(
            "gradients need the whole centre on one rank, and strategy.shard_centre divides it: leave "
            f"shard_centre out, or {otherwise}."
        )


def of_reward(data: TaskDataModule) -> TaskDataModule:
    """Return the same task with its own reward as the objective.

    Args:
        data: none of whose problems has been asked for.
    """
    return TaskDataModule(data.task, grading=data.scorer.grading)


def replies(parts: Parts, dense: Sequence[Prompt]) -> list[Prompt]:
    """Return the same problems as the task asks them, to be answered by generating."""
    by_id = {prompt.id: prompt for prompt in parts.task.problems("train")}
    return [by_id[prompt.id] for prompt in dense]


def measure_pairs(
    parts: Parts,
    centre: nn.Module,
    prompts: Sequence[Prompt],
    settings: CurvatureSettings,
    folder: Path,
    writes: bool,
) -> ProbeResults:
    """Evaluate the pairs that are missing; a killed run goes on after its last chunk."""
    landscape = ModelLandscape(parts, centre, prompts)
    about = about_probe(parts, prompts, sum(each.numel() for each in centre.parameters()))
    return Probe(landscape, settings.probe(), folder, about, writes).run(teller() if writes else None)


def true_curvature(
    parts: Parts, centre: nn.Module, prompts: Sequence[Prompt], settings: CurvatureSettings, folder: Path
) -> Truth:
    """Compute what of slope and curvature is missing, by autograd."""
    objective = DenseObjective(centre, prompts, parts.noise)
    seeds = [member.seed for member in settings.probe().batch(0)[::2]]
    about = {"base": parts.base.name, "noise": parts.noise.identity, "seeds": seeds}
    about |= {"prompts": [prompt.id for prompt in prompts], "task": parts.task.name}
    return TruthRun(objective, parts.noise, seeds, folder, about).run(settings.products, settings.hessian)


def sampled_hessians(
    parts: Parts,
    centre: nn.Module,
    prompts: Sequence[Prompt],
    settings: CurvatureSettings,
    folder: Path,
    writes: bool,
) -> dict[str, SampledHessian]:
    """Take Lanczos steps on the Hessian of evolution strategies, and on that of permuted rewards."""
    if not settings.lanczos:
        return {}
    sigma, count = max(settings.sigmas), settings.seeds
    seeds = [member_seed(settings.seed, -1, index) for index in range(count)]
    space = SeedSpace(parts.evaluator(), centre, parts.noise, seeds, sigma, prompts)
    about: dict[str, Any] = asdict(settings) | {"base": parts.base.name, "sigma": sigma, "seeds": seeds}
    about |= {"prompts": [prompt.id for prompt in prompts]}
    if settings.likelihood:  # files that are older than this setting do not have it
        del about["likelihood"]
    for name in ("sigmas", "pairs", "products", "hessian", "lanczos", "control", "rewards"):
        del about[name]  # they change nothing here
    found = {}
    for kind in ("seeds", "control") if settings.control else ("seeds",):
        generator = np.random.default_rng(settings.seed)
        start = start_weights(count, generator)
        order = generator.permutation(count) if kind == "control" else None
        file = folder / f"lanczos_{kind}.jsonl"
        rewards = Remembered(space.members, file, about, writes, parts.ranks.from_first)
        operator = ESHessian(rewards, sigma, settings.step, order)

        def tell(step: int, _: Any, kind: str = kind) -> None:
            log.info("Step %d of %d with %d seeds (%s).", step, settings.lanczos, count, kind)

        krylov = lanczos(operator, start, settings.lanczos, tell=tell)
        found[kind] = SampledHessian(krylov, count, rewards.calls * count)
    return found
