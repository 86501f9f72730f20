"""A fit of a few generations: what each phase takes, tokens per second, and peak memory."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.gpu_check.measure import peak_gb, start_peak
from benchmarks.gpu_check.rows import Row, Settings
from es_lightning.cli import main
from es_lightning.journal.entry import Entry, read_journal

GENERATIONS = 4  # the first warms up and does not count
PHASES = ("perturb", "load", "generate", "reward", "gather", "update", "total")
VARIANTS: dict[str, dict[str, str]] = {
    "HFEngine, Gaussian": {"model.engine": "HFEngine", "model.noise": "GaussianNoise"},
    "VLLMEngine, Gaussian": {"model.engine": "VLLMEngine", "model.noise": "GaussianNoise"},
    "VLLMEngine, Rademacher": {"model.engine": "VLLMEngine", "model.noise": "RademacherNoise"},
    "VLLMAdapterEngine, rank 1": {
        "model.engine": "VLLMAdapterEngine",
        "model.noise": "LowRankNoise",
        "model.noise.vectors": "frozen",
    },
}


def arguments(settings: Settings, folder: Path, more: dict[str, str]) -> list[str]:
    """Return the options of a fit with these settings."""
    options = {
        "model.base": settings.base,
        "model.population": settings.members,
        "model.sigma": settings.sigma / 4,
        "seed_everything": settings.seed,
        "model.sampling.max_tokens": settings.tokens,
        "data.task": "Conciseness",  # lengths differ for every model, so that there is something to update
        "data.task.wrong_costs": 0,
        "data.prompts_per_generation": settings.prompts,
        "trainer.accelerator": "cpu" if settings.device == "cpu" else "auto",
        "trainer.devices": 1,
        "trainer.max_steps": GENERATIONS,
        "trainer.val_check_interval": GENERATIONS,
        "trainer.limit_val_batches": 0,
        "trainer.logger": "false",
        "trainer.default_root_dir": folder,
        "report.held_out": "false",
        "report.export": "false",
    } | more
    if options["model.engine"] != "HFEngine" and settings.device == "cpu":
        options |= {"model.engine.enforce_eager": "true", "model.engine.kv_cache_gib": 1}
    elif options["model.engine"] != "HFEngine":
        options["model.engine.memory_fraction"] = 0.6
    options["model.engine.dtype"] = settings.dtype
    return ["fit", *(f"--{name}={value}" for name, value in options.items())]


def rows(settings: Settings, variant: str) -> Iterator[Row]:
    """Fit in this process, and read the journal."""
    with tempfile.TemporaryDirectory() as folder:
        start_peak(settings.device)
        main(arguments(settings, Path(folder), VARIANTS[variant]))
        header, entries = read_journal(Path(folder) / "journal.jsonl")
    check = header.get("engine_check", {})
    yield Row(
        "check of the engine before the fit",
        f"{check['difference']} nats, {check['bound']} are allowed",
        "agrees",
    )
    yield from split(settings, entries[1:])
    yield Row("peak memory", f"{peak_gb(settings.device):.2f} GB")


def split(settings: Settings, entries: list[Entry]) -> Iterator[Row]:
    """Return the mean seconds of each phase, and rates."""
    mean = {phase: sum(entry.seconds.get(phase, 0.0) for entry in entries) / len(entries) for phase in PHASES}
    rest = mean["total"] - sum(mean[phase] for phase in PHASES[:-1])
    spent = ", ".join(f"{phase} {mean[phase]:.3f}" for phase in PHASES[:-1])
    size = f"{settings.members} members, {settings.prompts} prompts"
    yield Row(f"seconds of a generation, {size}", f"{mean['total']:.3f}: {spent}, rest {rest:.3f}")
    tokens = sum(entry.tokens for entry in entries) / len(entries)
    whole, alone = tokens / mean["total"], tokens / max(mean["generate"], 1e-9)
    outside = f"{1 - mean['generate'] / mean['total']:.0%} of the time is outside generate"
    yield Row("rate", f"{whole:.0f} tokens/s, {alone:.0f} while generating; {outside}")
