"""Folders of runs made by hand, in the format that fits and baselines leave: every number is known."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from es_lightning.journal.entry import Entry
from es_lightning.records import Member

MACHINE = "2 CPU cores of a test, 8 GiB"
HEADER: dict[str, Any] = {
    "es_lightning_journal": 1,
    "versions": {"es_lightning": "0.2.0"},
    "base": "tiny",
    "base_files": {},
    "dtype": "float32",
    "noise": "gaussian-1",
    "optimizer": {"class": "torch.optim.sgd.SGD", "settings": {"lr": 0.1}, "groups": 1},
    "task": "Sums",
    "settings": {},
    "device": "cpu",
    "ranks": 1,
    "machine": MACHINE,
}
PROBLEMS = [f"sums/val/{index}" for index in range(6)]


def config(**changes: Any) -> dict[str, Any]:
    """A configuration as a fit saves it; ``changes`` replace whole sections' values by dotted names."""
    values: dict[str, Any] = {
        "seed_everything": 0,
        "trainer": {"max_steps": 8, "default_root_dir": "runs/x", "accelerator": "cpu"},
        "model": {
            "population": 30,
            "sigma": 0.001,
            "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}},
        },
        "data": {"task": {"class_path": "es_lightning.tasks.Sums", "init_args": {"digits": 2}}},
    }
    for name, value in changes.items():
        *path, last = name.split(".")
        place = values
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    return values


def evaluation(
    step: int,
    rewards: Sequence[float],
    split: str = "val",
    each: Mapping[str, float] | None = None,
    prompts: Sequence[str] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """A line of evaluations.jsonl; ``each`` is what an update costs."""
    price = {"rollouts": 240, "tokens": 1000, "seconds": 2.5, "flops": 1e9} if each is None else each
    return {
        "step": step,
        "split": split,
        "prompts": list(prompts or [f"sums/{split}/{index}" for index in range(len(rewards))]),
        "rewards": list(rewards),
        "scores": {"reward": sum(rewards) / len(rewards)},
        "tokens": 10,
        "cost": {name: step * value for name, value in price.items()},
        "samples": [],
        **more,
    }


def fit_folder(
    folder: Path,
    evaluations: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any] | None = None,
    trained: Sequence[float] = (),
    accuracy: Sequence[float] = (),
    tables: Mapping[str, Any] | None = None,
) -> Path:
    """Write the folder of a fit.

    Args:
        folder: to write.
        evaluations: lines of evaluations.jsonl.
        settings: its configuration; None takes ``config()``.
        trained: mean reward of each generation.
        accuracy: of the same completions.
        tables: files of ``tables/`` with what they hold.
    """
    entries = [
        entry(index, reward, accuracy[index] if accuracy else None) for index, reward in enumerate(trained)
    ]
    _write(folder, evaluations, config() if settings is None else settings, tables or {})
    lines = [json.dumps(HEADER), *(each.line() for each in entries)]
    (folder / "journal.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return folder


def baseline_folder(
    folder: Path,
    evaluations: Sequence[Mapping[str, Any]],
    updates: Sequence[Mapping[str, float]] = (),
    settings: Mapping[str, Any] | None = None,
    **options: Any,
) -> Path:
    """Write the folder of a baseline; ``options`` are those of its section."""
    begin = {"method": "grpo", "lr": 1e-6, "beta": 0.0, "seed": 0, **options}
    if settings is None:
        settings = config(baseline=begin)
    _write(folder, evaluations, settings, {})
    numbered = [{"update": index, **row} for index, row in enumerate(updates, 1)]
    rows = [{"baseline": begin, "machine": MACHINE}, *numbered]
    (folder / "updates.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return folder


def entry(index: int, reward: float, accuracy: float | None = None) -> Entry:
    """What a journal holds of a generation with this mean reward."""
    scores = {"reward": reward} | ({} if accuracy is None else {"accuracy": accuracy})
    return Entry(
        generation=index,
        members=(Member(0, 7), Member(1, 8)),
        weights=torch.tensor([1.0, -1.0], dtype=torch.float64),
        sigma=0.1,
        hyper={"lr": 0.1},
        reward={"mean": reward, "std": 0.1, "min": reward, "max": reward},
        scores=scores,
        tokens=100,
        seconds={"total": 2.5},
        skipped=False,
        drift=0.5 * (index + 1),
        checksum=f"{index:016x}",
    )


def _write(
    folder: Path,
    evaluations: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
    tables: Mapping[str, Any],
) -> None:
    (folder / "tables").mkdir(parents=True, exist_ok=True)
    lines = "".join(f"{json.dumps(each)}\n" for each in evaluations)
    (folder / "evaluations.jsonl").write_text(lines, encoding="utf-8")
    (folder / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    for name, content in tables.items():
        (folder / "tables" / name).write_text(json.dumps(content), encoding="utf-8")
