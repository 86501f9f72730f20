"""``es-lightning plan``: what a run will take, computed before anything is started."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import torch

from es_lightning.analysis import devices
from es_lightning.analysis.cost import DEVICE_OPTIONS, Device, members_per_lane
from es_lightning.analysis.measured import size_for, slot_rank
from es_lightning.analysis.plan import Plan, Run
from es_lightning.analysis.room import Engine
from es_lightning.cli.configs import with_packaged
from es_lightning.cli.planned import ADAPTER_ENGINE, FitSettings, Problems, run_of
from es_lightning.cli.short_names import read_short_names, with_full_names
from es_lightning.errors import UsageError
from es_lightning.evaluation.reach import require_low_rank
from es_lightning.models import BaseModel
from es_lightning.models.size import (
    ModelSize,
    local_model,
    nearest_published,
    published_name,
    published_size,
    size_of,
    unknown,
)
from es_lightning.reports import plan_table
from es_lightning.reports.plan_table import Facts
from es_lightning.rollout.engine import model_dtype
from es_lightning.rollout.vllm_adapter import MOST

START_SECONDS = {False: 120.0, True: 40.0}
"""Of accelerators, where vLLM compiles, and of a CPU."""
MACHINE = 8  # devices of one, unless the config or the user says otherwise
ALWAYS_LEFT_OUT = (
    "grading, checkpoints, export, an engine's own traffic inside a lane, waiting for a slow lane",
    "the checksum of a centre on the device",
    "the drift, for which every rank reads the base model's files (drift_every)",
)


def plan(options: Namespace, arguments: list[str]) -> bool:
    """Print what a run will take.

    Args:
        options: of this command.
        arguments: options of ``fit``.

    Returns:
        Whether it fits.
    """
    read_short_names()
    settings = FitSettings(with_full_names(with_packaged(arguments)))
    made, facts = made_plan(settings, options)
    if options.json:
        json.dump(plan_table.as_json(made, facts), sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        plan_table.show(made, facts)
    return not made.problems()


def made_plan(settings: FitSettings, options: Namespace) -> tuple[Plan, Facts]:
    """Return a plan, and what it was made from.

    Args:
        settings: of the fit.
        options: of this command.

    Raises:
        UsageError: the device, the size of the model, or the number of problems is not known.
    """
    count, per_machine = _ranks(settings, options)
    device = _device(settings, options, per_machine)
    base = local_model(settings.asked.model.base, settings.asked.model.trust_remote_code)
    measured, scale, known = _measured(settings.asked.model.base, base, options.params)
    dtype = model_dtype(
        settings.engine_options.get("dtype", "auto"),
        measured.dtype,
        torch.device("cpu" if device.name == devices.CPU else "cuda"),
    )
    counting = base if base is not None and _has_tokenizer(base) else None
    problems = Problems(settings, counting, options.tokens, options.prompt_tokens)
    if settings.holds_adapters:
        require_low_rank(ADAPTER_ENGINE, settings.model.noise)
    run = run_of(settings, problems, measured.dtype.itemsize)
    made = Plan(
        run=run,
        size=size_for(measured, settings.model.noise, dtype, settings.holds_adapters, scale),
        device=device,
        count=count,
        per_machine=per_machine,
        engine=_engine(settings, run, device, count),
        start_seconds=options.start_seconds or START_SECONDS[device.name == devices.CPU],
        dollars_per_hour=options.dollars_per_hour,
        host_gb=options.host_gb,
        shares_update=settings.shares_update,
        shards_centre=settings.shards_centre,
        centre_device=settings.asked.model.centre_device,
    )
    words = str(dtype).removeprefix("torch.")
    left_out = _left_out(settings, problems)
    return made, Facts(_configs(settings), settings.asked.model.base, known, words, problems.how, left_out)


def _has_tokenizer(base: BaseModel) -> bool:
    """Whether a tokenizer's files are here, too: the hub's cache may hold no more than config.json."""
    return any(next(base.folder.glob(name), None) for name in ("tokenizer*", "vocab*", "*.tiktoken"))


def _ranks(settings: FitSettings, options: Namespace) -> tuple[int, int]:
    """Devices of the run, and of one machine."""
    trainer = settings.asked.trainer
    here = trainer.devices if isinstance(trainer.devices, int) and trainer.devices > 0 else 1
    count = options.count or here * trainer.num_nodes
    per_machine = options.per_machine or (min(count, MACHINE) if options.count else here)
    return count, min(per_machine, count)


def _device(settings: FitSettings, options: Namespace, per_machine: int) -> Device:
    """The device of the options, or what a fit would take on this machine."""
    changed = {name: value for name in DEVICE_OPTIONS if (value := getattr(options, name)) is not None}
    if options.device is not None:
        device = devices.named(options.device, per_machine)
    elif settings.asked.trainer.accelerator == "cpu" or not torch.cuda.is_available():
        if settings.asked.trainer.accelerator in ("gpu", "cuda"):
            raise UsageError(
                "trainer.accelerator is gpu, and this machine has none: give --device, one of "
                f"{', '.join(devices.GPUS)}."
            )
        device = devices.named(devices.CPU, per_machine)
    else:
        found = torch.cuda.get_device_properties(0)
        known = devices.like(found.name, found.total_memory)
        if known is None:
            raise UsageError(
                f"this machine's {found.name} is not in the table of devices: give the nearest one with "
                f"--device, one of {', '.join(devices.GPUS)}, and its own --memory_gb, --bandwidth and "
                "--tflops."
            )
        device = known
    return replace(device, **changed)


def _measured(name: str, base: BaseModel | None, params: float | None) -> tuple[ModelSize, float, str]:
    """The size of a model, what to multiply it by, and where it comes from."""
    if params is not None:
        key = nearest_published(params)
        measured = published_size(key)
        return measured, params / measured.parameters, f"--params; all else in proportion to {key}"
    if base is not None:
        return size_of(base.config, base.blueprint), 1.0, f"counted from {base.folder}/config.json"
    published = published_name(name)
    if published is None:
        raise unknown(name)
    return published_size(published), 1.0, f"the published {published}, since its files are not here"


def _engine(settings: FitSettings, run: Run, device: Device, count: int) -> Engine:
    """What the engine takes, with as many adapters as a lane has members."""
    options, samples = settings.engine_options, settings.model.rollouts.sampling.n
    engine = Engine.of(options, device, samples)
    if not settings.holds_adapters:
        return engine
    mine = members_per_lane(run.members, max(1, count // engine.ranks))
    held = min(mine, options.get("max_loras") or MOST)
    return engine.with_adapters(held, slot_rank(settings.model.noise.rank))


def _configs(settings: FitSettings) -> list[str]:
    return [Path(str(each)).name for each in settings.asked.get("config") or []]


def _left_out(settings: FitSettings, problems: Problems) -> list[str]:
    found = list(ALWAYS_LEFT_OUT)
    if settings.callbacks:
        found.append(f"what callbacks evaluate: {', '.join(settings.callbacks)}")
    words = {"val": "validation", "test": "the held-out evaluation"}
    found += [
        f"{words[split]}: its problems are not on this machine (--data.{split}_prompts N)"
        for split in dict.fromkeys(problems.missing)
    ]
    return found
