"""Random histories: a run turns, changes its settings, is killed anywhere, and is resumed from anywhere.

However it came about, its journal is that of a run that nothing disturbed, and that one's centres are those
of SGD with momentum in NumPy.
"""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch.optim import lr_scheduler as schedules

from es_lightning.algorithm.noise import GaussianNoise
from es_lightning.datamodule import TaskDataModule
from es_lightning.grading.scorer import Grading
from es_lightning.journal.entry import Entry, read_journal
from es_lightning.journal.replay import replay
from es_lightning.models.base_model import resolve
from es_lightning.models.weights import BaseWeights
from es_lightning.module import EvolutionStrategies
from tests.helpers.fits import Letters, module, trainer

pytestmark = [pytest.mark.slow, pytest.mark.callbacks]  # many fits

STEPS, LR, MOMENTUM = 6, 0.05, 0.9
SCHEDULES: list[Any] = [
    lambda optimizer: schedules.StepLR(optimizer, 2, 0.5),
    lambda optimizer: schedules.OneCycleLR(optimizer, max_lr=LR, total_steps=20, cycle_momentum=False),
    lambda optimizer: schedules.SequentialLR(
        optimizer,
        [schedules.LinearLR(optimizer, 0.5, 1, 2), schedules.CosineAnnealingLR(optimizer, 10)],
        [3],
    ),
]
# Before a generation; between its update and its rewards, these and its line, the line and the callbacks,
# these and the checkpoint; after that.
MOMENTS = ("start", "update", "rewards", "line", "callbacks", "checkpoint")


class Killed(Exception):
    """In place of SIGKILL."""


class Turns(Callback):
    """Goes back and changes settings after given generations; may be killed on the way."""

    def __init__(self, plan: dict[int, list[dict[str, Any]]], kill: tuple[int, str] | None) -> None:
        self.plan, self.kill = plan, kill

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        """Before a generation."""
        self.die(trainer.global_step, "start")

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """After its line."""
        self.die(trainer.global_step - 1, "line")
        for change in self.plan.get(trainer.global_step, []):
            if "back" in change:
                pl_module.restore(change["back"])
            else:
                pl_module.adjust(**change)
        self.die(trainer.global_step - 1, "callbacks")

    def die(self, generation: int, moment: str) -> None:
        """Raise, if this is the moment."""
        if self.kill == (generation, moment):
            raise Killed


class Checkpoints(ModelCheckpoint):
    """May be killed after it has written."""

    turns: Turns

    def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:
        """Write, then die."""
        super().on_train_batch_end(trainer, *rest)
        self.turns.die(trainer.global_step - 1, "checkpoint")


def attempt(
    folder: Path, history: random.Random, turns: Turns, steps: int, resumes: bool
) -> EvolutionStrategies | None:
    """One process: from a random checkpoint, or the journal alone, to the end or to its death."""
    choices = random.Random(repr(sorted(turns.plan)))  # the same in all attempts
    tuned = module(
        optimizer=lambda p: torch.optim.SGD(p, lr=LR, momentum=MOMENTUM),
        lr_scheduler=choices.choice(SCHEDULES),
        noise=GaussianNoise(compile=False),
    )
    keep = Checkpoints(folder / "kept", "{step}", save_top_k=-1, every_n_train_steps=choices.randint(1, 3))
    keep.turns = turns
    found = sorted((folder / "kept").glob("*.ckpt")) if resumes else []
    checkpoint = history.choice([*found, None])
    tuned.history.saved = [] if resumes and checkpoint is None else None
    actual = tuned.history.journal.append

    def keeps(entry: Entry, rewards: Any) -> None:
        turns.die(entry.generation, "update")
        if turns.kill == (entry.generation, "rewards"):
            line = json.dumps({"generation": entry.generation, "rewards": rewards.tolist()})
            (folder / "rewards.jsonl").open("a").write(f"{line}\n")
            raise Killed
        actual(entry, rewards)

    tuned.history.journal.append = keeps  # type: ignore[method-assign]
    data = TaskDataModule(Letters(), grading=Grading(workers=0), prompts_per_generation=3)
    run = trainer(folder, steps, [turns, keep], enable_checkpointing=True, limit_val_batches=0)
    try:
        run.fit(tuned, data, ckpt_path=checkpoint)
    except Killed:
        return None
    return tuned


def lines(folder: Path) -> list[dict[str, Any]]:
    """The journal without what a clock decides."""
    path = folder / "journal.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()[1:]] if path.exists() else []
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def in_numpy(entries: list[Entry], plan: dict[int, list[dict[str, Any]]], name: str) -> list[Any]:
    """A tensor after every update, in float64."""
    theta = BaseWeights(resolve("tiny")).read(name).double().numpy()
    past = [(theta, np.zeros_like(theta))]  # with its momentum, by the updates that it has seen
    start = 0
    for step, entry in enumerate(entries):
        start = next((c["back"] for c in reversed(plan.get(step, [])) if "back" in c), step)
        theta, speed = past[start]
        if not entry.skipped:
            noise = GaussianNoise(compile=False)
            draws = [
                noise.sample(member.seed, name, theta.shape).double().numpy() for member in entry.members
            ]
            direction = sum(w * e for w, e in zip(entry.weights.tolist(), draws, strict=True)) / len(draws)
            speed = MOMENTUM * speed + direction
            theta = theta + entry.hyper["lr"] * speed
        past.append((theta, speed))
    return [theta for theta, _ in past]


def random_plan(history: random.Random) -> dict[int, list[dict[str, Any]]]:
    """Changes by the number of updates after which they come."""
    plan: dict[int, list[dict[str, Any]]] = {}
    for step in history.sample(range(1, STEPS), 2):
        settings = {"sigma": history.choice([0.02, 0.08]), "population": history.choice([2, 6])}
        changes = [{"back": history.randint(0, step)}, settings | {"lr_factor": history.choice([0.5, 2.0])}]
        plan[step] = history.sample(changes, history.randint(1, 2))
    return plan


@pytest.mark.parametrize(
    "seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(2, 8))]
)
def test_a_run_with_any_history_is_the_undisturbed_one(tmp_path: Path, seed: int) -> None:
    history = random.Random(seed)
    plan = random_plan(history)
    whole = attempt(tmp_path / "whole", history, Turns(plan, None), STEPS, resumes=False)
    assert whole is not None
    wanted, entries = lines(tmp_path / "whole"), read_journal(tmp_path / "whole" / "journal.jsonl")[1]
    name, parameter = min(whole.centre.named_parameters(), key=lambda pair: pair[1].numel())
    expected = in_numpy(entries, plan, name)
    np.testing.assert_allclose(parameter.detach().double().numpy(), expected[-1], rtol=1e-5, atol=1e-6)
    for number in range(4):
        kill = (history.randrange(STEPS), history.choice(MOMENTS)) if number < 3 else None
        steps = history.randint(1, STEPS) if number < 2 else STEPS
        resumed = attempt(tmp_path / "parts", history, Turns(plan, kill), steps, resumes=number > 0)
        found = lines(tmp_path / "parts")
        assert found == wanted[: len(found)]
    assert found == wanted
    assert resumed is not None
    assert resumed.checksum() == whole.checksum()
    assert float(resumed.drift) == pytest.approx(entries[-1].drift, rel=1e-12)
    generation = history.randrange(STEPS)
    entry = replay(tmp_path / "parts" / "journal.jsonl", tmp_path / "model", generation)
    assert entry.checksum == entries[generation].checksum
    whole.restore(generation + 1)
    assert whole.checksum() == entry.checksum
    found_tensor = whole.centre.get_parameter(name).detach().double().numpy()
    np.testing.assert_allclose(found_tensor, expected[generation + 1], rtol=1e-5, atol=1e-6)
