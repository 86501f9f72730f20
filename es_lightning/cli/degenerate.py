"""``es-lightning degenerate``: do the improving candidates of a probe share what makes them improve?"""

from __future__ import annotations

import logging
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from es_lightning.cli.opened import opened_with
from es_lightning.cli.run_loggers import loggers_for, logging_to
from es_lightning.errors import UsageError
from es_lightning.evaluation.parts import Parts
from es_lightning.landscape.arrays import Array
from es_lightning.landscape.curvature.degenerate import SharedDirection, explained, shared_direction
from es_lightning.landscape.curvature.gradients import DenseObjective
from es_lightning.landscape.curvature.remembered import Remembered
from es_lightning.landscape.curvature.seed_space import SeedSpace
from es_lightning.landscape.curvature.settings import DegenerateSettings
from es_lightning.landscape.curvature.truth import Truth, TruthRun
from es_lightning.landscape.probing.input import probed_problems
from es_lightning.landscape.probing.probe import ProbeSettings
from es_lightning.landscape.probing.store import ProbeResults
from es_lightning.landscape.statistics.held_out import halvings
from es_lightning.records import Prompt
from es_lightning.reports import degenerate_picture
from es_lightning.system.files import replacing
from es_lightning.system.folders import check_writable
from es_lightning.system.lock import hold
from es_lightning.tasks import LogLikelihood
from es_lightning.tracking.artifacts import log_artifact

log = logging.getLogger(__name__)
Row = dict[str, Any]
REPORT = "report"


def degenerate(options: Namespace, arguments: Sequence[str]) -> None:
    """Test a probe's candidates, or go on with the tests, and write the report.

    Args:
        options: of this command.
        arguments: options of ``fit`` and of the section ``degenerate``.
    """
    results = ProbeResults.read(options.probe)
    sections: dict[str, type] = {
        "degenerate": DegenerateSettings,
        "probe": ProbeSettings,
    }  # its config has both
    parts, found = opened_with(arguments, sections)
    settings: DegenerateSettings = found["degenerate"]
    sigmas = _sigmas(settings, results)
    folder = options.output or options.probe / "degenerate"
    check_writable(folder, "--output")
    writes = parts.ranks.rank == 0
    with ExitStack() as until_end:
        until_end.enter_context(parts)
        if writes:
            until_end.callback(hold(folder))
        prompts = _prompts(parts, results)
        right = _with_answers(parts, prompts)
        centre = parts.start()
        if results.header["noise"] != parts.noise.identity:
            raise UsageError(f"{options.probe} was made with other noise: give the config of the probe.")
        shared = [
            _shared(parts, centre, prompts, results, sigma, settings, folder, writes) for sigma in sigmas
        ]
        if not writes:  # gradients are computed by one rank
            return
        truth = None if right is None else _truth(parts, centre, right, results, settings, folder)
        _report(results, sigmas, shared, truth, settings, folder / REPORT)
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


def _prompts(parts: Parts, results: ProbeResults) -> list[Prompt]:
    """Return the prompts of the probe.

    Raises:
        UsageError: the config has other ones, one is too long, or there are fewer than two.
    """
    problems = probed_problems(parts.data.prompts(results.header["split"]), results)
    prompts = parts.rollouts.reserve(parts.base, problems, None, drop_long=False)
    if len(prompts) < 2:
        raise UsageError("the probe has one prompt, and half of them are needed to choose: probe with more.")
    return prompts


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


def _table(results: ProbeResults, sigma: float) -> tuple[Array, Array, list[int]]:
    """Changes of all candidates of a sigma by prompt, [M, P], their signs, [M], and their seeds."""
    from pyarrow.compute import equal

    rows = results.table.filter(equal(results.table["sigma"], sigma))
    changes = np.array(rows["rewards"].to_pylist(), dtype=np.float64) - results.centre
    return (
        changes,
        np.asarray(rows["sign"], dtype=np.float64),
        [int(seed) for seed in rows["seed"].to_pylist()],
    )


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
    changes, signs, seeds = _table(results, sigma)
    [(choose, score), *_] = halvings(len(prompts), 1, settings.seed)
    scored = [prompts[place] for place in score]
    space = SeedSpace(parts.evaluator(), centre, parts.noise, seeds, sigma, scored)
    about = {"sigma": sigma, "seeds": seeds, "prompts": [each.id for each in scored], "base": parts.base.name}
    rewards = Remembered(space.point, folder / f"shared_{sigma:g}.jsonl", about, writes)
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
    folder: Path,
) -> Truth:
    """Gradient and Hessian vectors, and the coordinates of all seeds."""
    seeds = _unique(results)
    about = {"base": parts.base.name, "noise": parts.noise.identity, "seeds": seeds}
    about |= {"prompts": [prompt.id for prompt in prompts], "task": parts.task.name}
    run = TruthRun(DenseObjective(centre, prompts, parts.noise), parts.noise, seeds, folder / "truth", about)
    return run.run(0, settings.hessian)


def _regressions(
    results: ProbeResults, sigma: float, truth: Truth, settings: DegenerateSettings
) -> Iterator[Row]:
    """Test (b) at one sigma: changes on coordinates; of pairs odd parts, and even parts on squares."""
    changes, signs, seeds = _table(results, sigma)
    means, places = changes.mean(axis=1), {seed: index for index, seed in enumerate(_unique(results))}
    own = np.array([places[seed] for seed in seeds])
    linear = np.column_stack(
        [truth.along / np.sqrt(truth.gradient_square), truth.along_top(settings.vectors)]
    )
    if results.header["antithetic"]:
        odd, even, own = (means[::2] - means[1::2]) / 2, (means[::2] + means[1::2]) / 2, own[::2]
        kinds = [("gradient", odd, linear[own, :1]), ("gradient and Hessian vectors", odd, linear[own])]
        kinds.append(("squares, of the even parts", even, linear[own] ** 2))
    else:
        signed = signs[:, None] * linear[own]
        kinds = [("gradient", means, signed[:, :1]), ("gradient and Hessian vectors", means, signed)]
        kinds.append(("these and their squares", means, np.column_stack([signed, signed**2])))
    for name, values, coordinates in kinds:
        row: Row = {
            "sigma": sigma,
            "coordinates": name,
            "count": coordinates.shape[1],
            "members": len(values),
        }
        try:
            found = explained(values, coordinates, settings.seed)
        except UsageError as error:
            log.warning("Sigma %g, %s: %s", sigma, name, error)
            continue
        row |= {"share": found.share, "adjusted": found.adjusted, "p_value": found.p_value}
        yield row | {"null_mean": found.null[0], "null_95": found.null[1]}


def _unique(results: ProbeResults) -> list[int]:
    return list(dict.fromkeys(int(seed) for seed in results.table["seed"].to_pylist()))


def _report(
    results: ProbeResults,
    sigmas: Sequence[float],
    shared: Sequence[SharedDirection | None],
    truth: Truth | None,
    settings: DegenerateSettings,
    folder: Path,
) -> None:
    """Write rows, picture and words."""
    directions = [
        _direction_row(sigma, found) for sigma, found in zip(sigmas, shared, strict=True) if found is not None
    ]
    explains = [
        row for sigma in sigmas if truth is not None for row in _regressions(results, sigma, truth, settings)
    ]
    if not directions and not explains:
        raise UsageError(
            f"{results.folder} has no sigma that can be tested: probe with more candidates or another sigma."
        )
    title = f"Do improving members share a direction? {results.header.get('model', '')}"
    controls = [
        {"sigma": sigma, "control": index, "gain": float(gain)}
        for sigma, found in zip(sigmas, shared, strict=True)
        if found is not None
        for index, gain in enumerate(found.controls)
    ]
    degenerate_picture.draw(folder / "degenerate.png", directions, controls, explains, title)
    text = "\n".join([f"# {title}", *map(_said, directions), *map(_regressed, explains)]) + "\n"
    with replacing(folder / "verdict.md") as file:
        file.write(text.encode())
    log.info("%s", text)
    log.info("settings %s; tables and picture are in %s.", asdict(settings), folder)


def _direction_row(sigma: float, found: SharedDirection) -> Row:
    low, high = found.interval
    row: Row = {"sigma": sigma, "improving": found.improving, "gain": found.gain}
    row |= {"control": float(found.controls.mean()), "member_deviation": found.member_deviation}
    row |= {"deviations": found.deviations, "low": low, "high": high, "p_value": found.p_value}
    scale = found.member_deviation or nan
    return row | {"expected": found.expected / scale, "controls": len(found.controls)}


def _said(row: Row) -> str:
    verdict = "share a direction" if row["p_value"] < 0.05 else "share no direction that is seen"
    return (
        f"- sigma {row['sigma']:g}: the {row['improving']} improving candidates {verdict}. Their mean "
        f"direction "
        f"earns {row['gain']:+.4g}, {row['deviations']:.2f} member deviations ({row['low']:.2f} to "
        f"{row['high']:.2f}) above {row['controls']} directions of permuted rewards, p = "
        f"{row['p_value']:.3f}; "
        f"{row['expected']:.2f} would be all that the halves agree on."
    )


def _regressed(row: Row) -> str:
    return (
        f"- sigma {row['sigma']:g}, {row['coordinates']} ({row['count']}): R^2 {row['share']:.3f} (adjusted "
        f"{row['adjusted']:.3f}), permuted {row['null_mean']:.3f} (95th percentile {row['null_95']:.3f}), "
        f"p = {row['p_value']:.3f}, {row['members']} rows."
    )
