"""What TRL learns from is sampled by the engine that evaluates, with the policy's weights."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from es_lightning.baselines.settings import BaselineSettings
from es_lightning.baselines.training import PolicyTraining
from es_lightning.baselines.trl_process import sample_by
from es_lightning.cli.opened import opened_with
from es_lightning.evaluation.parts import Parts
from es_lightning.models import BaseModel
from tests.baselines.test_baselines import CONFIG, SECTIONS

PAD, GROUP = 256, 3
SETTINGS = BaselineSettings(updates=2, minibatch=6, group=GROUP, temperature=0.7)


class Told:
    """A parent, or a child, that keeps what it is told."""

    def __init__(self, answer: dict[str, Any] | None = None) -> None:
        self.given: list[Any] = []
        self._answer = answer or {}

    def ask(self, kind: str, **values: Any) -> dict[str, Any]:
        self.given.append((kind, values))
        return self._answer

    def answer(self, values: dict[str, Any]) -> None:
        self.given.append(values)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(CONFIG)
    return "mine.yaml"


def prepared(parts: Parts, folder: Path) -> PolicyTraining:
    training = PolicyTraining(parts, SETTINGS, folder)
    training.prepare()
    training.start()
    return training


def asked_of(training: PolicyTraining, update: int) -> list[list[int]]:
    numbers = [number for number in training.batches[update] for _ in range(GROUP)]
    return [list(training.prompts[number].token_ids) for number in numbers]


def policy(folder: Path) -> str:
    """A file of weights that are not the base's."""
    torch.manual_seed(5)
    named = dict(BaseModel("tiny").load().named_parameters())
    path = folder / "policy.safetensors"
    save_file({name: each + 0.1 * torch.randn_like(each) for name, each in named.items()}, path)
    return str(path)


def test_a_model_that_is_asked_to_generate_asks_the_parent(tmp_path: Path) -> None:
    model, path = BaseModel("tiny").load(), tmp_path / "weights"
    parent: Any = Told({"completions": [[7, 8, 9], [7], [8, 9]]})
    sample_by(parent, model, path, PAD)
    rows = BaseModel("tiny").tokenizer(
        ["a b c", "hello", "x"], padding=True, padding_side="left", return_tensors="pt"
    )
    found = model.generate(**rows, generation_config="none of its own")
    [(kind, told)] = parent.given
    alone = BaseModel("tiny").tokenizer(["a b c", "hello", "x"])["input_ids"]
    assert (kind, told) == ("sample", {"prompts": alone, "weights": str(path)})
    assert torch.equal(found[:, : rows["input_ids"].shape[1]], rows["input_ids"])
    assert found[:, rows["input_ids"].shape[1] :].tolist() == [[7, 8, 9], [7, PAD, PAD], [8, 9, PAD]]
    written = load_file(path)
    assert all(torch.equal(written[name], each) for name, each in model.named_parameters())


def test_samples_are_the_engine_s_own_with_the_policy_s_weights(config: str, tmp_path: Path) -> None:
    child: Any = Told()
    with opened_with(["-c", config], SECTIONS)[0] as parts:
        training, weights = prepared(parts, tmp_path), policy(tmp_path)
        training._on_sample(child, asked_of(training, 0), weights)
        engine, prompts = parts.rollouts.engine, [training.prompts[each] for each in training.batches[0]]
        assert all(
            torch.equal(load_file(weights)[name], each) for name, each in training.centre.named_parameters()
        )
        samples = training.samples
        assert (samples.temperature, samples.n, samples.max_tokens) == (0.7, GROUP, 8)
        engine.load_weights(load_file(weights).items())
        theirs = engine.generate(prompts, samples)
        engine.load_weights(BaseModel("tiny").load().named_parameters())
        of_the_base = engine.generate(prompts, samples)
    [answer] = child.given
    assert answer["completions"] == [list(each.token_ids) for each in theirs]
    assert answer["completions"] != [list(each.token_ids) for each in of_the_base]
    assert len(answer["completions"]) == 4 * GROUP
    assert len(set(map(tuple, answer["completions"]))) > 4, "those of a group differ"


def test_the_next_update_draws_others_and_another_process_the_same(config: str, tmp_path: Path) -> None:
    child: Any = Told()
    for _ in range(2):
        options = ["--data.draw", "fixed"]  # both updates ask for the same prompts
        with opened_with(["-c", config, *options], SECTIONS)[0] as parts:
            training, weights = prepared(parts, tmp_path), policy(tmp_path)
            for update in (0, 1):
                training._graded = update
                training._on_sample(child, asked_of(training, update), weights)
    drawn = [sorted(each["completions"]) for each in child.given]
    assert drawn[:2] == drawn[2:]
    assert drawn[0] != drawn[1]


def test_samples_go_on_past_stop_strings_and_are_graded_up_to_them(config: str, tmp_path: Path) -> None:
    child: Any = Told()
    with opened_with(["-c", config], SECTIONS)[0] as parts:
        training, weights = prepared(parts, tmp_path), policy(tmp_path)
        training._on_sample(child, asked_of(training, 0), weights)
        tokens = child.given[0]["completions"]
        asked = [training.prompts[each] for each in training.batches[0] for _ in range(GROUP)]
        texts = [each.text for each in training.grade(asked, tokens).completions]
        stop = next(text[1] for text in texts if len(text) > 2)
    options = ["--model.sampling.stop", f"[{stop!r}]"]
    with opened_with(["-c", config, *options], SECTIONS)[0] as parts:
        training = prepared(parts, tmp_path)
        training._on_sample(child, asked_of(training, 0), weights)
        assert child.given[1]["completions"] == tokens
        cut = [each.text for each in training.grade(asked, tokens).completions]
    assert cut == [text.split(stop)[0] for text in texts]
    assert cut != texts


def test_completions_of_other_prompts_are_not_sampled(config: str, tmp_path: Path) -> None:
    child: Any = SimpleNamespace(answer=lambda values: pytest.fail("it has answered"))
    with opened_with(["-c", config, "--data.prompts_per_generation", "2"], SECTIONS)[0] as parts:
        training, weights = prepared(parts, tmp_path), policy(tmp_path)
        asked = asked_of(training, 0)
        for other in (asked[::-1], asked[:-1], asked[::GROUP] * GROUP, [[*asked[0], 5], *asked[1:]]):
            with pytest.raises(RuntimeError, match="other prompts than those of update 1, or not in groups"):
                training._on_sample(child, other, weights)
