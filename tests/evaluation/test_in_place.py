"""Weights are written in place only where that gives what a reload does."""

import logging
from typing import Any

import pytest
import torch
from torch import nn

from es_lightning.algorithm.noise import GaussianNoise
from es_lightning.distributed.ranks import Ranks
from es_lightning.errors import UsageError
from es_lightning.evaluation import Rollouts
from es_lightning.evaluation.engine_check import EngineCheck
from es_lightning.models import BaseModel
from es_lightning.records import Prompt
from es_lightning.rollout import HFEngine, RolloutEngine, Sampling
from tests.helpers.stale import Drops, InPlace

NOISE = GaussianNoise(compile=False)
RELOADS, BOTH = [False, False], [False, False, True, True]


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return BaseModel("tiny")


@pytest.fixture(scope="module")
def centre(base: BaseModel) -> nn.Module:
    return base.load()


def started(base: BaseModel, engine: RolloutEngine) -> Rollouts:
    rollouts = Rollouts(engine, Sampling(max_tokens=6))
    rollouts.reserve(base, [Prompt("a", "What is the capital of France?")])
    rollouts.start(base)
    return rollouts


def is_the_centre(engine: HFEngine, centre: nn.Module) -> bool:
    own = dict(engine.model.named_parameters())
    return all(torch.equal(own[name], theta.to(engine.dtype)) for name, theta in centre.named_parameters())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_way_that_gives_the_same_is_taken(
    base: BaseModel, centre: nn.Module, dtype: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine = InPlace(dtype=dtype)
    EngineCheck(started(base, engine), NOISE).run(centre)
    assert engine.in_place
    assert engine.ways == BOTH
    assert is_the_centre(engine, centre)
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "fault",
    ["nothing", "raises", "embed_tokens", "q_proj", "layers.1.mlp.down_proj", "layers.0.input_layernorm"],
)
def test_a_way_that_does_not_is_refused_and_said_once(
    base: BaseModel, centre: nn.Module, dtype: str, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine = InPlace(fault, dtype)
    result = EngineCheck(started(base, engine), NOISE).run(centre)
    assert result["difference"] <= result["bound"]  # the check itself has passed
    assert not engine.in_place
    assert engine.ways[:3] == [*RELOADS, True]
    assert not engine.ways[-1]
    assert is_the_centre(engine, centre)
    said = [record.getMessage() for record in caplog.records if record.levelno > logging.INFO]
    reason = r"fails (ValueError: shapes differ)" if fault == "raises" else "nats, and 0.001 is allowed"
    assert len(said) == 1
    assert reason in said[0]
    assert "own reload" in said[0]


def test_a_user_who_insists_is_told(base: BaseModel, centre: nn.Module) -> None:
    engine = InPlace("q_proj", insists=True)
    with pytest.raises(
        UsageError, match=r"engine\.load is in_place, but .* off by .*: take auto or reload\.$"
    ):
        EngineCheck(started(base, engine), NOISE).run(centre)


def test_nothing_is_tried_with_an_engine_that_has_one_way(base: BaseModel, centre: nn.Module) -> None:
    engine = InPlace()
    engine.may_write_in_place = False
    engine.in_place = True  # as the user may have asked for
    EngineCheck(started(base, engine), NOISE).run(centre)
    assert engine.ways == RELOADS
    with pytest.raises(UsageError, match="Drops differs"):
        EngineCheck(started(base, Drops("mlp")), NOISE).run(centre)


class TwoRanks(Ranks):
    """A rank whose neighbour says something else in one of three exchanges."""

    def __init__(self, wrong: int) -> None:
        super().__init__()
        self.wrong, self.count = wrong, -1
        self.world = 2

    def exchange(self, message: bytes) -> list[bytes]:
        self.count += 1
        return [message, b'{"difference": 9.0, "bound": 0.001}' if self.count == self.wrong else message]


def test_all_ranks_reload_if_one_has_to(base: BaseModel, centre: nn.Module) -> None:
    engine = InPlace()
    ranks: Any = TwoRanks(wrong=2)
    EngineCheck(started(base, engine), NOISE, ranks).run(centre)
    assert engine.ways == [*BOTH, False]
    assert not engine.in_place
