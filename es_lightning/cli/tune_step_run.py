"""What ``es-lightning tune-step`` does: a probe, the step-size map, a picture, tables and lines of YAML."""

from __future__ import annotations

import logging
import math
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml

from es_lightning.cli.opened import opened
from es_lightning.cli.probe import about_probe, config_name, teller
from es_lightning.cli.run_loggers import log_report_metrics, loggers_for, logging_to
from es_lightning.cli.tune_step_sentences import Configured, sentences
from es_lightning.errors import UsageError
from es_lightning.evaluation.parts import Parts
from es_lightning.landscape.landscape import ModelLandscape, members_at_once
from es_lightning.landscape.probing.probe import Probe, ProbeSettings
from es_lightning.landscape.probing.results import ProbeResults
from es_lightning.landscape.steps.gain import Estimate
from es_lightning.landscape.steps.pair_rewards import PairRewards
from es_lightning.landscape.steps.step_rows import gain_rows, population_rows, sigma_rows
from es_lightning.landscape.steps.step_size import StepAdvice, advise
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
