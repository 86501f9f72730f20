"""What ``es-lightning tune-step`` does: a probe, the step-size map, a picture, tables and lines of YAML."""

from __future__ import annotations

import logging
import math
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from es_lightning.cli.opened import opened
from es_lightning.cli.probe import about_probe, config_name, teller
from es_lightning.cli.run_loggers import log_report_metrics, loggers_for, logging_to
from es_lightning.errors import UsageError
from es_lightning.evaluation.parts import Parts
from es_lightning.landscape.landscape import ModelLandscape, members_at_once
from es_lightning.landscape.probing.probe import Probe, ProbeSettings
from es_lightning.landscape.probing.results import ProbeResults
from es_lightning.landscape.steps.gain import Estimate, GainCurve
from es_lightning.landscape.steps.pair_rewards import PairRewards
from es_lightning.landscape.steps.step_rows import gain_rows, population_rows, sigma_rows
from es_lightning.landscape.steps.step_size import PAYS, StepAdvice, advise, pays
from es_lightning.reports.csv_file import write_csv
from es_lightning.reports.step_picture import step_map
from es_lightning.system.files import replacing
from es_lightning.system.folders import check_writable
from es_lightning.system.lock import hold
from es_lightning.tracking.artifacts import log_artifact

log = logging.getLogger(__name__)

FACTORS = (0.5, 1.0, 2.0)
"""Of the config's sigma, where no sigmas are given."""
BATCHES = 4
"""Prompts of the probe, in units of a generation's: prompts differ more than directions do."""
SHOWN = (1, 2, 4)
"""Populations in the picture, in units of the configured one; if another is advised, that and two of these.
The run of the advised one comes first.
"""


@dataclass(frozen=True)
class Configured:
    """What the config has now.

    Args:
        sigma: noise scale.
        lr: learning rate.
        updates: T of the run.
        population: N.
        batch: prompts of a generation.
        antithetic: whether members come in pairs.
        groups: the task of each prompt of the probe.
    """

    sigma: float
    lr: float
    updates: int
    population: int
    batch: int
    antithetic: bool
    groups: tuple[str, ...]


def run(options: Namespace, arguments: Sequence[str]) -> None:
    """Probe, or go on with a probe, and write the map.

    Args:
        options: of this command.
        arguments: options of ``fit``.

    Raises:
        UsageError: the config has a step that this map does not describe, or the probe measured nothing.
    """
    parts = opened(arguments)
    lr, updates = check_step(parts), updates_of(parts)
    folder = options.output or Path("runs") / f"tune-step-{config_name(parts)}"
    check_writable(folder, "--output")
    writes = parts.ranks.rank == 0
    with ExitStack() as until_end:
        until_end.enter_context(parts)
        if writes:
            until_end.callback(hold(folder, "--output"))
        train = parts.data.prompts("train")
        settings = probe_settings(options, parts, len(train))
        problems = settings.choose(train)
        settings.check_begun(folder)
        prompts = parts.rollouts.reserve(parts.base, problems, None, parts.data.drop_long_prompts)
        centre = parts.start(min(settings.members, members_at_once(parts)))
        told = about_probe(parts, prompts, sum(each.numel() for each in centre.parameters()))
        landscape = ModelLandscape(parts, centre, prompts)
        results = Probe(landscape, settings, folder, told, writes).run(teller() if writes else None)
        if writes:
            batch = parts.data.batch_size
            groups = tuple(prompt.group for prompt in prompts)
            now = Configured(parts.sigma, lr, updates, parts.population, batch, parts.antithetic, groups)
            asked = parts.config["trainer"].get("logger")
            with logging_to(loggers_for(asked, folder, "tune-step"), {}) as loggers:
                advice = report(results, now, folder)
                log_report_metrics(loggers, numbers(advice, now))
                log_artifact(loggers, folder / "report", "tune-step")


def check_step(parts: Parts) -> float:
    """Refuse a config whose step is not that of z-scored rewards and plain SGD; returns its learning rate.

    Raises:
        UsageError: it is another.
    """
    model = parts.config["model"]
    shaping, optimizer = str(model["shaping"]), model["optimizer"]
    if shaping.rpartition(".")[2] != "z_score":
        raise UsageError(
            f"tune-step computes the learning rate of z-scored rewards, and model.shaping is {shaping}: give "
            "--model.shaping z_score."
        )
    name = optimizer["class_path"].rpartition(".")[2]
    settings: Mapping[str, Any] = optimizer["init_args"]
    more = [each for each in ("momentum", "weight_decay") if settings.get(each)]
    if name != "SGD" or more:
        beside = f" with {' and '.join(more)}" if more else ""
        raise UsageError(
            f"tune-step computes the learning rate of plain SGD, and model.optimizer is {name}{beside}: give "
            "--model.optimizer torch.optim.SGD."
        )
    if parts.task.group_weights():
        raise UsageError(
            f"{parts.task.name} mixes tasks whose rewards have no common unit: give tune-step one of them."
        )
    if model.get("kl_penalty") is not None:
        raise UsageError("tune-step measures the task's reward alone: leave model.kl_penalty out.")
    return float(settings["lr"])


def updates_of(parts: Parts) -> int:
    """Return how many updates the run makes, which decides its learning rate.

    Raises:
        UsageError: the config does not say.
    """
    updates = parts.config["trainer"].get("max_steps") or -1
    if updates < 1:
        raise UsageError(
            "a run's noise adds up, so its learning rate depends on how many updates it makes: give "
            "--trainer.max_steps."
        )
    return int(updates)


def probe_settings(options: Namespace, parts: Parts, available: int) -> ProbeSettings:
    """Return a probe of one batch of pairs on training prompts.

    Args:
        options: of this command.
        parts: of the config.
        available: number of training prompts.
    """
    sigmas = options.sigmas or [float(f"{factor * parts.sigma:.6g}") for factor in FACTORS]
    return ProbeSettings(
        sigmas=sorted(set(sigmas)),
        members=2 * options.pairs,
        batches=1,
        prompts=options.prompts or min(BATCHES * parts.data.batch_size, available),
        split="train",
        seed=-1 - parts.seed,  # noise that no generation of a run has
        antithetic=True,
        largest=1,
    )


def report(results: ProbeResults, now: Configured, folder: Path) -> StepAdvice:
    """Write picture, tables and the lines for a config, and say what they mean.

    Args:
        results: of the probe.
        now: what the config has.
        folder: of the probe.

    Raises:
        UsageError: the probe measured nothing.
        StorageError: the folder cannot be written.
    """
    import numpy as np

    tables = np.stack([results.rewards(sigma)[0] for sigma in results.sigmas])
    probe = PairRewards(tuple(results.sigmas), results.centre, tables)
    advice = advise(probe, now.population, now.batch, now.updates, now.antithetic, now.groups, now.sigma)
    place, gains, sigmas = folder / "report", gain_rows(advice), sigma_rows(advice)
    write_csv(place / "gain.csv", gains)
    write_csv(place / "sigma.csv", sigmas)
    write_csv(place / "population.csv", population_rows(advice))
    lr = advice.run.best_lr.value
    chosen = {} if advice.doubt else {"lr": lr, "sigma": advice.sigma}
    step_map(
        place / "tune_step.png",
        [row for key in shown(advice, now) for row in gains if (row["population"], row["updates"]) == key],
        sigmas,
        chosen,
        {"lr": now.lr, "sigma": now.sigma},
        f"{results.header['task']} on {Path(results.header['model']).name}: {advice.pairs} pairs, "
        f"{len(results.centre)} prompts" + ("; cannot tell" if advice.doubt else ""),
    )
    with replacing(place / "tune_step.json") as file:
        file.write(_json(numbers(advice, now) | {"doubt": advice.doubt}).encode())
    for line in sentences(advice, now):
        log.info("%s", line)
    if not advice.doubt:
        with replacing(place / "advised.yaml") as file:
            file.write(advised_yaml(advice, now).encode())
        log.info("\n%s", advised_yaml(advice, now))
    log.info("%s has a picture, CSV files and JSON.", place)
    return advice


def shown(advice: StepAdvice, now: Configured) -> list[tuple[int, int]]:
    """Return populations and updates of the picture's curves; the first has the band."""
    sizes = dict.fromkeys([advice.population, *(now.population * factor for factor in SHOWN)])
    once = [(size, 1) for size in list(sizes)[: len(SHOWN)]]
    return list(dict.fromkeys([(advice.population, advice.run.updates), *once]))


def advised_yaml(advice: StepAdvice, now: Configured) -> str:
    """Return the lines for a config; another population makes other updates, of as many rollouts."""
    run = advice.run
    sgd = {"class_path": "torch.optim.SGD", "init_args": {"lr": float(f"{run.best_lr.value:.2g}")}}
    lines: dict[str, Any] = {
        "model": {"sigma": advice.sigma, "population": advice.population, "optimizer": sgd}
    }
    if run.updates != now.updates:
        lines["trainer"] = {"max_steps": run.updates}
    return str(yaml.safe_dump(lines, sort_keys=False))


def sentences(advice: StepAdvice, now: Configured) -> list[str]:
    """Say what the map shows.

    Args:
        advice: the map.
        now: what the config has.
    """
    luck = _luck(advice)
    if advice.doubt:
        return [f"tune-step: {advice.doubt}", *luck]
    first, last = (advice.estimates.sigmas[at] for at in advice.sweep.between)
    curve, score = advice.curve, advice.sweep.best_score
    best, largest, gain = curve.best_lr, curve.largest_lr, curve.best_gain
    edge = "at least " if curve.at_edge else ""
    end = f"Beyond lr {largest.value:.2g} it gains nothing"
    if curve.gains_at_edge:
        end = f"It gains up to lr {largest.value:.2g} at least, where the probe ends"
    highest = advice.estimates.sigmas[advice.sweep.best]
    smoothed = "smoothed " if advice.sweep.smooth else ""
    stays = (
        ""
        if advice.sigma == highest
        else f" It cannot be told from the config's {now.sigma:.3g}, which stays."
    )
    words = [
        f"sigma {highest:.3g} has the highest {smoothed}score, {score:.2f} (90 % interval of sigma "
        f"{first:.3g} to {last:.3g}); the config has {now.sigma:.3g}.{stays}",
        f"With {curve.population} members an update gains most at lr {edge}{best.value:.2g} "
        f"({_interval(curve)}), {gain.value:+.3g} ({gain.low:+.2g} to {gain.high:+.2g}). {end}.",
        _of_run(advice.run, now),
    ]
    sizes = dict.fromkeys((now.population, advice.population, advice.population // 2))
    doubled = [curve for size in sizes for curve in advice.curves if curve.population == size]
    return [*words, *luck, *map(_doubling, doubled), *_of_runs(advice, now)]


def _interval(curve: GainCurve) -> str:
    """Write the interval of the best learning rate, which may end where the probe does."""
    lr = curve.best_lr
    more = " or more" if lr.high >= curve.lr[-1] else ""
    return f"90 % interval {lr.low:.2g} to {lr.high:.2g}{more}"


def _of_run(run: GainCurve, now: Configured) -> str:
    """Say which learning rate a run should have."""
    gain, edge = run.best_gain, "at least " if run.at_edge else ""
    return (
        f"The noise of a run adds up: {run.updates} updates with {run.population} members, the rollouts of "
        f"the config, gain most at lr {edge}{run.best_lr.value:.2g} ({_interval(run)}), "
        f"{gain.value:+.3g} ({gain.low:+.2g} to {gain.high:+.2g}); the config has {now.updates} updates with "
        f"{now.population} members and lr {now.lr:.2g}."
    )


def _of_runs(advice: StepAdvice, now: Configured) -> list[str]:
    """Say whether runs of as many rollouts tell populations apart by what they gain."""
    pairs = zip(advice.runs, advice.run_ratios, strict=True)
    equal = [(run, ratio) for run, ratio in pairs if math.isfinite(ratio.value)]
    if len(equal) < 2:
        return []
    told = [
        f"{run.population} members gain {ratio.value:.3f} times ({ratio.low:.3f} to {ratio.high:.3f})"
        for run, ratio in equal
        if ratio.high < 1 or ratio.low > 1
    ]
    if told:
        return [f"Of runs of as many rollouts, those with {', '.join(told)} what the config's gain."]
    sizes = [run.population for run, _ in equal]
    gains = [run.best_gain.value for run, _ in equal]
    return [
        f"Runs of as many rollouts with {sizes[0]} to {sizes[-1]} members gain {min(gains):+.3g} to "
        f"{max(gains):+.3g}: a run's gain does not tell these populations from the config's "
        f"{now.population}. The rule of {PAYS:g} is about single updates."
    ]


def _luck(advice: StepAdvice) -> list[str]:
    """Say how much the centre's own luck is, where that can be told from 0."""
    offset = Estimate.of(advice.estimates.offset)
    if offset.low <= 0 <= offset.high:
        return []
    worse, size = ("less", -offset.value) if offset.value < 0 else ("more", offset.value)
    return [
        f"Extrapolated to no noise, members earn {size:.3g} {worse} than the centre ({offset.low:+.2g} to "
        f"{offset.high:+.2g}): the centre has luck, or rewards bend otherwise than a quadratic. No gain has "
        "this in it."
    ]


def _doubling(curve: GainCurve) -> str:
    """Say what twice the members gain."""
    more = curve.doubling
    if math.isnan(more.value) and not curve.at_edge:
        words = "members would gain cannot be told: with half as many no step gains."
        return f"What {2 * curve.population} {words}"
    if math.isnan(more.value):
        return (
            f"What {2 * curve.population} members would gain cannot be told: the best step is larger than "
            "the noise that was probed. Give larger sigmas."
        )
    verdict = {True: "that pays", False: "that does not pay", None: "it cannot be told whether that pays"}
    return (
        f"Doubling {curve.population} members multiplies the gain of the best update by {more.value:.2f} "
        f"({more.low:.2f} to {more.high:.2f}) for twice the rollouts: by the rule of {PAYS:g}, "
        f"{verdict[pays(more)]}."
    )


def numbers(advice: StepAdvice, now: Configured) -> dict[str, float]:
    """Return the numbers of the map as metrics; what is not finite is left out.

    Args:
        advice: the map.
        now: what the config has.
    """
    curve, sweep = advice.curve, advice.sweep
    intervals = {
        "offset": Estimate.of(advice.estimates.offset),
        "lr": advice.run.best_lr,
        "run_gain": advice.run.best_gain,
        "update_lr": curve.best_lr,
        "largest_lr": curve.largest_lr,
        "gain": curve.best_gain,
        "doubling": curve.doubling,
        "critical_population": advice.critical,
    }
    found = {
        f"{name}{end}": value
        for name, each in intervals.items()
        for end, value in (("", each.value), ("_low", each.low), ("_high", each.high))
    }
    found |= {"sigma": advice.sigma, "highest_sigma": float(advice.estimates.sigmas[sweep.best])}
    found |= {"score": sweep.best_score, "p_value": sweep.p_value}
    found |= {"population": float(advice.population), "updates": float(advice.run.updates)}
    found |= {"configured_lr": now.lr, "configured_sigma": now.sigma}
    bounds = {"lr": advice.run.at_edge, "update_lr": curve.at_edge, "largest_lr": curve.gains_at_edge}
    found |= {f"{name}_at_least": float(bound) for name, bound in bounds.items()}
    return {f"tune_step/{name}": value for name, value in found.items() if math.isfinite(value)}


def _json(values: Mapping[str, Any]) -> str:
    import json

    return json.dumps(values, indent=2)
