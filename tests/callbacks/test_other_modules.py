"""Callbacks ask for what they need: they watch a module that tunes its centre by gradients as well."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from es_lightning.algorithm.tensors import checksum
from es_lightning.callbacks import (
    BestModel,
    EarlyPeak,
    ExportHF,
    Forgetting,
    KLDrift,
    PopulationHealth,
    RolloutTable,
    UpdateGeometry,
)
from es_lightning.datamodule import TaskDataModule
from es_lightning.distributed.ranks import Ranks
from es_lightning.errors import UsageError
from es_lightning.evaluation import Evaluator, Rollouts
from es_lightning.evaluation.metrics import means, measured
from es_lightning.grading.scorer import Grading
from es_lightning.models import BaseModel
from es_lightning.models.weights import BaseWeights
from es_lightning.records import Prompt
from es_lightning.rollout import HFEngine, Sampling
from tests.helpers.fits import Letters, trainer
from tests.helpers.letters import Bytes

pytestmark = [pytest.mark.slow, pytest.mark.callbacks]
HERE = Grading(workers=0)


class Gradients(pl.LightningModule):
    """Raises the likelihood of its own prompts, step by step: no population, no journal."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.base_model = BaseModel("tiny")
        self.rollouts = Rollouts(HFEngine("float32", "cpu"), Sampling(max_tokens=6))
        self.centre_checksum = ""

    @property
    def data(self) -> TaskDataModule:
        return self.trainer.datamodule  # type: ignore[attr-defined, no-any-return]

    @property
    def ranks(self) -> Ranks:
        return Ranks(self.trainer.strategy)

    @property
    def generation(self) -> int:
        return int(self.trainer.global_step)

    @property
    def evaluator(self) -> Evaluator:
        return Evaluator(self.rollouts, self.data.scorer, self.ranks, self.generation)

    def settings(self) -> dict[str, Any]:
        return {"method": "gradients", "lr": 0.1}

    def checksum(self) -> str:
        return checksum(self.centre.named_parameters())

    def reserve(self, prompts: Sequence[Prompt], max_tokens: int | None = None) -> list[Prompt]:
        return self.rollouts.reserve(self.base_model, prompts, max_tokens)

    def configure_model(self) -> None:
        if not hasattr(self, "centre"):
            self.centre = self.base_model.load().requires_grad_(True)

    def setup(self, stage: str) -> None:
        for split in self.data.splits_for(stage):
            self.data.encode(split, self.reserve)
        self.configure_model()
        self.centre_checksum = self.checksum()
        self.rollouts.start(self.base_model)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.centre.parameters(), lr=0.1)

    def training_step(self, prompts: list[Prompt], batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        for prompt in prompts:
            ids = torch.tensor([prompt.token_ids])
            self.manual_backward(self.centre(ids, labels=ids).loss)
        optimizer.step()
        self.rollouts.forget()
        self.centre_checksum = self.checksum()

    def on_validation_epoch_start(self) -> None:
        self.rollouts.hold_centre(self.centre)

    def validation_step(self, prompts: list[Prompt], batch_idx: int) -> None:
        self.log_dict(means(measured(self.evaluator.evaluate(prompts)), "val"), batch_size=len(prompts))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Gradients, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("gradients")
    watching = {
        "drift": KLDrift(prompts=2, max_tokens=4, every=1, directions=["base_tuned"]),
        "forgetting": Forgetting({"bytes": Bytes()}, every=1, grading=HERE),
        "table": RolloutTable(prompts=2, every=1),
        "geometry": UpdateGeometry(every=1),
        "best": BestModel(),
        "export": ExportHF(),
        "peak": EarlyPeak(action="mark", horizon=32),
    }
    tuned = Gradients()
    run = trainer(folder, 2, watching.values(), val_check_interval=1)
    run.fit(tuned, TaskDataModule(Letters(), grading=HERE, prompts_per_generation=2))
    return folder, tuned, watching


def test_every_measurement_is_there(run: tuple[Path, Gradients, dict[str, Any]]) -> None:
    folder, tuned, watching = run
    assert [row["generation"] for row in watching["drift"].rows] == [0, 1, 2]
    first, *_, last = (row["kl_base_tuned/Letters"] for row in watching["drift"].rows)
    assert first == 0 != last
    assert [generation for generation, _ in watching["peak"].watch.points] == [1, 2]
    assert [row["generation"] for row in watching["forgetting"].rows] == [0, 1, 2]
    assert sorted({row["generations"] for row in watching["table"].rows}) == [0, 1, 2]
    assert "method <b>gradients</b>" in (folder / "tables" / "rollouts.html").read_text()
    assert json.loads((folder / "tables" / "forgetting.json").read_text())["bytes"]["problems"] == 3


def test_the_geometry_is_that_of_the_weights(run: tuple[Path, Gradients, dict[str, Any]]) -> None:
    _, tuned, watching = run
    base = tuned.base_model.weights
    squares = [
        np.square(parameter.detach().double().numpy() - base.read(name).double().numpy()).sum()
        for name, parameter in tuned.centre.named_parameters()
    ]
    assert watching["geometry"].rows[-1]["geometry/norm"] == pytest.approx(np.sqrt(sum(squares)))
    assert "geometry/norm_ratio" not in watching["geometry"].rows[-1], "no journal, so no random walk"


def test_exports_hold_the_centre_and_no_journal(run: tuple[Path, Gradients, dict[str, Any]]) -> None:
    folder, tuned, _ = run
    weights = BaseWeights(folder / "exported" / "step=2")
    for name, parameter in tuned.centre.named_parameters():
        assert torch.equal(weights.read(name), parameter.detach().bfloat16())
    assert not (folder / "exported" / "step=2" / "journal.jsonl").exists()
    assert (folder / "best" / "config.json").is_file()


@pytest.mark.parametrize("callback", [PopulationHealth(), EarlyPeak()])
def test_what_needs_a_population_says_so(tmp_path: Path, callback: pl.Callback) -> None:
    with pytest.raises(UsageError, match="a callback asks for .*history.* which Gradients has not"):
        trainer(tmp_path, 1, [callback]).fit(Gradients(), TaskDataModule(Letters(), grading=HERE))


def test_a_module_that_tunes_nothing_is_refused_with_what_it_lacks(tmp_path: Path) -> None:
    class Empty(pl.LightningModule):
        """A module of Lightning's and no more."""

        def training_step(self, *_: Any) -> None: ...

        def configure_optimizers(self) -> None: ...

    with pytest.raises(UsageError, match="a callback asks for base_model, centre_checksum, checksum, data"):
        trainer(tmp_path, 1, [KLDrift()]).fit(Empty(), TaskDataModule(Letters(), grading=HERE))
