"""What a run is made with, in plain values: for its journal, its reports, and the check of a resumed run."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from es_lightning.journal.header import header
from es_lightning.journal.identity import PROBLEMS, described, digest, named
from es_lightning.system.files import to_json
from es_lightning.system.hardware import machine

if TYPE_CHECKING:
    from es_lightning.module import EvolutionStrategies


def header_of(module: EvolutionStrategies, optimizer: Any, engine_check: dict[str, Any]) -> dict[str, Any]:
    """Make the first line of a run's journal.

    Args:
        module: the module of the run, set up.
        optimizer: the optimizer of its centre.
        engine_check: what the check of the engine found.
    """
    return header(
        module.base_model,
        module.noise,
        optimizer,
        module.regularisers,
        device=module.device.type + (", the centre on the cpu" if module.centre_place.device else ""),
        ranks=module.trainer.world_size,
        machine=machine(module.trainer.world_size),
        task=module.data.task.name,
        settings=settings_of(module, optimizer),
        engine_check=engine_check or {"skipped": True},
        identity=identity_of(module),
    )


def identity_of(module: EvolutionStrategies) -> dict[str, Any]:
    """Return what a resumed run has to have in common with this one, by its names in YAML.

    Base model, noise and optimizer are parts of the header already.
    """
    data, rollouts, steering = module.data, module.rollouts, module.steering
    return {
        **steering.configured,
        "model.antithetic": steering.antithetic,
        "model.keep_centre": steering.keep_centre,
        "model.seed": steering.seed,
        "model.shaping": named(module.shaping),
        **described("model.sigma_schedule", steering.sigma.schedule),
        **described("model.population_schedule", steering.size.schedule),
        **{f"model.sampling.{name}": value for name, value in asdict(rollouts.sampling).items()},
        "model.kl_penalty.weight": None if module.kl is None else module.kl.penalty.weight,
        "model.chat_template_kwargs": to_json(rollouts.chat_template_kwargs),
        **module.scheduler_identity,
        "data.prompts_per_generation": data.batch_size,
        "data.draw": data.draw,
        "data.seed": data.seed,
        "data.objective": data.objective,
        **described("data.task", data.task, data.task.name),
        PROBLEMS: digest(data.prompts("train")),
    }


def settings_of(module: EvolutionStrategies, optimizer: Any) -> dict[str, Any]:
    """Return the hyper-parameters that decide a run, as plain values to be written beside its results.

    Args:
        module: the module of the run, set up.
        optimizer: the optimizer of its centre.
    """
    engine, sampling, steering = module.rollouts.engine, module.rollouts.sampling, module.steering
    samples = {"samples": sampling.n, "pass_k": sampling.pass_k} if sampling.n > 1 else {}
    penalty = {} if module.kl is None else {"kl_penalty": module.kl.penalty.weight}
    kept = {"keep_centre": True} if steering.keep_centre else {}
    parts = {"regularisers": ", ".join(map(named, module.regularisers))} if module.regularisers else {}
    return {
        # What the schedules start from, if there are any.
        "population": steering.first_population,
        "sigma": steering.sigma.first,
        "lr": module.lr,
        "optimizer": type(optimizer).__name__,
        "noise": named(module.noise),
        "shaping": named(module.shaping),
        "antithetic": steering.antithetic,
        **kept,
        "objective": module.data.objective,
        "prompts_per_generation": module.data.batch_size,
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        **samples,
        **penalty,
        "engine": f"{type(engine).__name__}, {str(engine.dtype).removeprefix('torch.')}",
        "seed": steering.seed,
        **{f"{name}_schedule": named(schedule) for name, schedule in steering.schedules.items()},
        **parts,
    }
