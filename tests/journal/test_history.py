"""History without a Trainer: a journal in a folder, its lineage, and the way back, against SGD in NumPy."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from es_lightning.algorithm.noise import GaussianNoise
from es_lightning.algorithm.population import Population
from es_lightning.algorithm.shaping import z_score
from es_lightning.algorithm.tensors import checksum
from es_lightning.algorithm.update import apply_update
from es_lightning.distributed.ranks import Ranks
from es_lightning.errors import UsageError
from es_lightning.journal.header import header
from es_lightning.journal.history import History
from es_lightning.journal.hyper import hyper_parameters
from es_lightning.models import BaseModel
from es_lightning.records import Generation

LR, NOISE = 0.05, GaussianNoise(compile=False)


class Tuning:
    """A centre with its optimizer and history, evolved without any module."""

    def __init__(self, folder: Path, saved: list[str] | None = None, generation: int = 0) -> None:
        self.base = BaseModel("tiny")
        self.centre: nn.Module = self.base.load()
        self.optimizer = torch.optim.SGD(self.centre.parameters(), lr=LR, momentum=0.9)
        self.history = History()
        self.history.saved = saved
        self.history.open(folder, self._header, generation, Ranks())

    def _header(self) -> dict[str, Any]:
        return header(self.base, NOISE, self.optimizer, task="none", settings={})

    def step(self, generation: int) -> Generation:
        """One generation with rewards that are made up."""
        past, rewards = self.history.past(generation), torch.arange(8.0, dtype=torch.float64).view(4, 2)
        record = record_of(generation, rewards.roll(generation, 0))
        hyper = hyper_parameters(self.optimizer)
        named = self.centre.named_parameters()
        apply_update(self.optimizer, named, record.members, record.weights, NOISE)
        self.history.add(record, hyper, checksum(self.centre.named_parameters()), past)
        return record

    def restore(self, generation: int) -> None:
        """Go back."""
        place = (self.centre, self.optimizer, NOISE, self.base.weights)
        self.history.restore(generation, *place)


def record_of(generation: int, rewards: Tensor) -> Generation:
    """A record with what an update is made of."""
    return Generation(
        index=generation,
        members=Population(4).members(generation),
        prompts=(),
        rewards=rewards,
        weights=z_score(rewards),
        sigma=0.1,
        lr=LR,
        skipped=False,
        update_norm=0.0,
        drift=0.0,
        scores={},
        tokens=0,
        seconds={},
        lane_seconds=(),
        evaluations={},
    )


def theta(base: BaseModel, records: list[Generation], name: str = "model.norm.weight") -> np.ndarray:
    """One tensor after updates by SGD with momentum, in float64."""
    value, velocity = base.weights.read(name).double().numpy(), 0.0
    for record in records:
        weighted = [
            weight * member.sign * NOISE.sample(member.seed, name, value.shape).double().numpy()
            for member, weight in zip(record.members, record.weights.tolist(), strict=True)
        ]
        velocity = 0.9 * velocity + sum(weighted) / len(weighted)
        value = value + LR * velocity
    return np.asarray(value)


def test_a_centre_of_the_past_comes_back_with_its_momentum(tmp_path: Path) -> None:
    run = Tuning(tmp_path)
    records = [run.step(g) for g in range(4)]
    run.restore(2)
    assert run.history.parent == 1
    assert run.history.checksum == run.history.entries[1].checksum == checksum(run.centre.named_parameters())
    records[2:] = [run.step(4)]
    found = run.centre.get_parameter("model.norm.weight").detach().double().numpy()
    np.testing.assert_allclose(found, theta(run.base, records), atol=1e-6)
    assert [entry.parent for entry in run.history.entries] == [None, None, None, None, 1]
    assert [entry.generation for entry in run.history.lineage()] == [0, 1, 4]


def test_back_to_the_base_model_and_forward_to_the_present(tmp_path: Path) -> None:
    run = Tuning(tmp_path)
    run.step(0)
    present = run.history.checksum
    run.restore(0)
    assert run.history.parent == -1
    assert run.history.lineage() == []
    np.testing.assert_array_equal(
        run.centre.get_parameter("model.norm.weight").detach().double().numpy(), theta(run.base, [])
    )
    run.restore(1)
    assert (run.history.parent, run.history.checksum) == (None, present)


def test_generations_to_come_cannot_be_restored(tmp_path: Path) -> None:
    run = Tuning(tmp_path)
    run.step(0)
    for generation in (-1, 2):
        with pytest.raises(
            UsageError, match=f"generation {generation} cannot be restored: it is still to come"
        ):
            run.restore(generation)


def test_other_bits_than_the_journal_has_are_refused(tmp_path: Path) -> None:
    run = Tuning(tmp_path)
    run.step(0)
    first = run.history.journal.lines[1]
    run.history.journal.lines[1] = first.replace(run.history.checksum, "0" * 16)
    with pytest.raises(UsageError, match="the journal leads to centre .* where 0000000000000000 was"):
        run.restore(1)


def test_a_second_process_repeats_what_the_first_has_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = Tuning(tmp_path)
    for generation in range(3):
        first.step(generation)
    with caplog.at_level(logging.INFO):
        second = Tuning(tmp_path, saved=[])
    assert "Generations 0 to 2 come from the journal." in caplog.text
    assert [second.history.knows(g) for g in range(4)] == [True, True, True, False]
    past = second.history.past(0)
    assert past is not None
    assert past.record(()).weights.tolist() == record_of(0, past.rewards).weights.tolist()
    second.history.journal._past[0] = past
    for generation in range(3):
        second.step(generation)
    assert second.history.checksum == first.history.checksum
    assert second.history.lines == first.history.lines


def test_a_repeated_update_that_leads_elsewhere_stops_the_run(tmp_path: Path) -> None:
    Tuning(tmp_path).step(0)
    run = Tuning(tmp_path, saved=[])
    past = run.history.past(0)
    assert past is not None
    record = replace(past.record(()), index=0)
    with pytest.raises(UsageError, match="came out of the journal as centre ffff"):
        run.history.add(record, {"lr": LR}, "ffff", past)


def test_a_checkpoint_ahead_of_its_journal_is_refused(tmp_path: Path) -> None:
    run = Tuning(tmp_path)
    run.step(0)
    with pytest.raises(UsageError, match="the checkpoint has seen 2 generations and its journal 1"):
        Tuning(tmp_path / "other", saved=list(run.history.lines), generation=2)


def test_a_trial_run_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    history = History()
    history.open_without_files(lambda: {"es_lightning_journal": 1}, 0)
    history.add(record_of(0, torch.eye(4, dtype=torch.float64)), {"lr": LR}, "abcd")
    assert len(history.entries) == 1
    assert history.header == {"es_lightning_journal": 1}
    assert list(tmp_path.iterdir()) == []
