"""A model as a landscape: the tiny model, one member after the other and as adapters."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from es_lightning.algorithm.noise import LowRankNoise, Noise
from es_lightning.datamodule import TaskDataModule
from es_lightning.errors import DivergenceError
from es_lightning.evaluation import Rollouts
from es_lightning.evaluation.parts import Parts
from es_lightning.grading.scorer import Grading
from es_lightning.landscape.landscape import ModelLandscape, members_expected
from es_lightning.landscape.probing.probe import Probe, ProbeSettings
from es_lightning.models import BaseModel
from es_lightning.rollout import HFEngine, RolloutEngine, Sampling
from es_lightning.tasks import Conciseness
from tests.helpers.thin import HFAdapters

SETTINGS = ProbeSettings(sigmas=(0.05, 0.2), members=6, batches=1, prompts=4, largest=5)


def parts_with(engine: RolloutEngine, noise: Noise) -> Parts:
    data = TaskDataModule(Conciseness(), grading=Grading(workers=0))
    rollouts = Rollouts(engine, Sampling(max_tokens=6))
    return Parts(BaseModel("tiny"), rollouts, data, noise, 0.1, 6, check_engine=False)


def landscape_of(parts: Parts) -> ModelLandscape:
    prompts = parts.prompts("train", SETTINGS.prompts)
    return ModelLandscape(parts, parts.start(members_expected(parts, SETTINGS.members)), prompts)


@pytest.fixture(scope="module")
def adapters() -> Iterator[ModelLandscape]:
    with parts_with(HFAdapters(4), LowRankNoise()) as parts:
        yield landscape_of(parts)


def test_a_probe_through_adapters_finds_what_whole_weights_find(
    adapters: ModelLandscape, tmp_path: Path
) -> None:
    found = Probe(adapters, SETTINGS, tmp_path / "adapters").run()
    with parts_with(
        HFEngine("float32", "cpu"), adapters.parts.noise
    ) as parts:  # what adapters can hold of it
        expected = Probe(landscape_of(parts), SETTINGS, tmp_path / "whole").run()
    assert len({*found.table["reward"].to_pylist()}) > 3
    np.testing.assert_array_equal(found.rewards(0.05), expected.rewards(0.05))
    np.testing.assert_array_equal(found.rewards(0.2), expected.rewards(0.2))
    np.testing.assert_array_equal(found.centre, expected.centre)


def test_the_centre_goes_through_the_same_batch_as_candidates(adapters: ModelLandscape) -> None:
    engine = adapters.parts.rollouts.engine
    assert isinstance(engine, HFAdapters)
    assert adapters.at_once == engine.at_once == 4
    engine.batches.clear()
    rewards = adapters.centre()
    assert engine.batches == [4]
    adapters.parts.rollouts.hold_centre(adapters.model)
    plain = adapters.parts.evaluator().evaluate(adapters.prompts)
    assert rewards.tolist() == list(plain.rewards)


def test_weights_that_diverge_name_the_sigma(adapters: ModelLandscape) -> None:
    members = SETTINGS.batch(0)[:2]
    with pytest.raises(DivergenceError, match=r"sigma 1e\+30 .* leave it out of the sigmas"):
        adapters.members(members, 1e30)


def test_copies_of_a_centre_that_differ_are_named(
    adapters: ModelLandscape, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ModelLandscape, "members", lambda *_, sigma: np.asarray([[0.5], [0.25], [0.5]]))
    assert adapters.centre().tolist() == [0.5]
    assert "4 copies of the same centre earn 0.25 to 0.5" in caplog.text
