"""Completions that are sampled in parts are those of one call."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from es_lightning.baselines.trl_process import generate_in_parts, train
from es_lightning.models import BaseModel

PAD, ENDS = 256, [66, 78]
"""ENDS are what the tiny model repeats after the first two of TEXTS; so these rows end early."""
TEXTS = ["a b c", "hello", "what is 1 + 1", "x y", "the letter z"]


@pytest.fixture
def model() -> PreTrainedModel:
    return BaseModel("tiny").load()


@pytest.fixture
def inputs() -> dict[str, Any]:
    rows = BaseModel("tiny").tokenizer(TEXTS, padding=True, padding_side="left", return_tensors="pt")
    config = GenerationConfig(max_new_tokens=12, do_sample=False, pad_token_id=PAD, eos_token_id=ENDS)
    return {**rows, "generation_config": config}


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 100])
def test_parts_give_the_tokens_of_the_whole(
    rows: int, model: PreTrainedModel, inputs: dict[str, Any]
) -> None:
    whole = model.generate(**inputs)
    lengths = (whole[:, inputs["input_ids"].shape[1] :] != PAD).sum(dim=1).tolist()
    assert lengths == [1, 1, 12, 12, 12]
    generate_in_parts(model, rows, PAD)
    assert torch.equal(model.generate(**inputs), whole)


def test_no_call_has_more_rows_and_what_is_not_of_a_row_comes_with_each(
    model: PreTrainedModel, inputs: dict[str, Any]
) -> None:
    calls: list[dict[str, Any]] = []

    def note(**given: Any) -> Tensor:
        calls.append(given)
        return torch.full((len(given["input_ids"]), len(calls)), len(calls))

    model.generate = note
    generate_in_parts(model, 2, PAD)
    assert model.generate(**inputs).tolist() == [
        *([[1, PAD, PAD]] * 2),
        *([[2, 2, PAD]] * 2),
        [3, 3, 3],
    ]
    for name in ("input_ids", "attention_mask"):
        assert [len(call[name]) for call in calls] == [2, 2, 1]
        assert torch.equal(torch.cat([call[name] for call in calls]), inputs[name])
    assert all(call["generation_config"] is inputs["generation_config"] for call in calls)


@pytest.mark.parametrize(("at_once", "sampled"), [(None, [5]), (2, [2, 2, 1])])
def test_the_process_samples_as_many_at_once_as_the_job_says(
    at_once: int | None, sampled: list[int], inputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    parent: Any = SimpleNamespace()  # which is told nothing

    class Trainer:
        """In the place of TRL's."""

        def __init__(self, model: PreTrainedModel, **_: Any) -> None:
            self.model = model

        def train(self) -> None:
            def note(module: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
                rows.append(len(named["input_ids"]))

            self.model.register_forward_pre_hook(note, with_kwargs=True)
            self.model.generate(**inputs, max_new_tokens=1)

    for module, name in (("grpo", "GRPO"), ("rloo", "RLOO")):
        for part, stands_in in (("config", dict), ("trainer", Trainer)):
            of_trl = SimpleNamespace(**{f"{name}{part.capitalize()}": stands_in})
            monkeypatch.setitem(sys.modules, f"trl.trainer.{module}_{part}", of_trl)
    job: dict[str, Any] = {
        "base": str(BaseModel("tiny").folder),
        "trust_remote_code": False,
        "threads": 1,
        "device": "cpu",
    }
    job |= {"texts": TEXTS, "updates": [[0]], "method": "grpo", "folder": "out", "evaluate_every": 1}
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    job |= {"options": {}, "steps": 1, "generate_at_once": at_once}
    train(job, parent)
    assert rows == sampled
