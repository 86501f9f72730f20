"""The parts of an evaluation on an accelerator, for tasks that have no training problems."""

import pytest
import torch

from es_lightning.algorithm.noise import GaussianNoise
from es_lightning.analysis.room import Case
from es_lightning.datamodule import TaskDataModule
from es_lightning.distributed.ranks import Ranks
from es_lightning.errors import UsageError
from es_lightning.evaluation import Rollouts
from es_lightning.evaluation.centre_place import CentrePlace
from es_lightning.evaluation.parts import Parts
from es_lightning.grading.scorer import Grading
from es_lightning.models import BaseModel
from es_lightning.records import Prompt
from es_lightning.rollout import HFEngine, Sampling
from tests.helpers.letters import Letters


class Untrained(Letters):
    """A task that measures, and has nothing to train on."""

    def problems(self, split: str) -> list[Prompt]:
        return [Prompt(f"{split}/{text}", text) for text in "abcde"] if split == "val" else []


class Noted(CentrePlace):
    """Keeps what a run asks of an accelerator, and leaves the centre where it is."""

    asked: Case

    def decide(self, case: Case, device: torch.device, ranks: Ranks) -> int:
        self.asked = case
        return 0

    def put(self, centre: torch.nn.Module, device: torch.device) -> None:
        assert device.type == "cuda"


def test_an_accelerator_is_asked_for_room_for_the_prompts_that_are_evaluated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.accelerator, "get_memory_info", lambda *_: (int(79e9), int(80e9)))
    monkeypatch.setattr(Parts, "device", torch.device("cuda"))
    data, place = TaskDataModule(Untrained(), grading=Grading(workers=0)), Noted("auto")
    rollouts = Rollouts(HFEngine("float32", "cpu"), Sampling(max_tokens=6))
    base = BaseModel("tiny")
    with pytest.raises(UsageError):
        _ = data.batch_size  # so a generation's prompts cannot be asked for
    with Parts(base, rollouts, data, GaussianNoise(), 0.1, 4, place=place, check_engine=False) as parts:
        parts.prompts("val", 2)
        prompts = parts.prompts("val")
        parts.prompts("val", 3)
        parts.start()
    assert place.asked.sequences == len(prompts) == 5
