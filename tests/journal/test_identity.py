"""A run goes on with the settings that it began with; each that differs is named, with both values."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import ConstantLR, LinearLR, SequentialLR, StepLR

from es_lightning.algorithm.noise import FilteredNoise, LowRankNoise
from es_lightning.algorithm.regularisers import ClipNorm, SparseUpdate
from es_lightning.algorithm.schedules import LinearSchedule, ListedSchedule, SignalRule, SuccessRule
from es_lightning.algorithm.shaping import none
from es_lightning.datamodule import TaskDataModule
from es_lightning.errors import UsageError
from es_lightning.grading.scorer import Grading
from es_lightning.journal.identity import changed, described, named
from es_lightning.records import Prompt
from es_lightning.rollout import HFEngine, Sampling
from es_lightning.task import Task
from es_lightning.tasks import Conciseness, MathTask, Mixture, PythonRewards
from tests.helpers.fits import Letters, module, trainer


class Weighted(Letters):
    """Letters with a setting."""

    def __init__(self, weight: float = 1.0, path: str = "a/b", n_val: int = 3) -> None:
        super().__init__()
        self.weight, self.path, self.n_val = weight, path, n_val


class Other(Letters):
    """Another task with the same problems."""


class Louder(Letters):
    """The same task by name, with other problems."""

    name = "Weighted"  # type: ignore[assignment]

    def problems(self, split: str) -> list[Prompt]:
        return [Prompt(prompt.id, f"{prompt.text}!") for prompt in super().problems(split)]


def go(
    folder: Path, steps: int, task: Task | None = None, data: dict[str, Any] | None = None, **options: Any
) -> None:
    tuned = module(**({"lr_scheduler": lambda o: StepLR(o, 5, gamma=0.5)} | options))
    tuned.history.saved = [] if steps > 1 else None
    data = {"prompts_per_generation": 2, "grading": Grading(workers=0)} | (data or {})
    trainer(folder, steps).fit(tuned, TaskDataModule(task or Weighted(), **data))


@pytest.fixture(scope="module")
def began(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    go(folder, 1)
    return folder


OTHER: dict[str, tuple[dict[str, Any], list[str]]] = {
    "population": ({"population": 6}, ["model.population was 4 in the run and is 6 now"]),
    "two": (
        {"sigma": 0.1, "antithetic": True},
        [
            "model.sigma was 0.05 in the run and is 0.1 now",
            "model.antithetic was false in the run and is true now",
            "Give the old values",
        ],
    ),
    "seed": ({"seed": 1}, ["seed_everything (model.seed) was 0 in the run and is 1 now"]),
    "shaping": ({"shaping": none}, ["model.shaping was z_score in the run and is none now"]),
    "sampling": (
        {"sampling": Sampling(max_tokens=7)},
        ["model.sampling.max_tokens was 6 in the run and is 7"],
    ),
    "pass@k": (
        {"sampling": Sampling(max_tokens=6, n=2, temperature=1.0, pass_k=2)},
        [
            "model.sampling.temperature was 0.0 in the run and is 1.0 now",
            "model.sampling.n was 1 in the run and is 2 now",
            "model.sampling.pass_k was 1 in the run and is 2 now",
        ],
    ),
    "chat template": (
        {"chat_template_kwargs": {"message": True}},
        ['model.chat_template_kwargs was {} in the run and is {"message":true} now'],
    ),
    "lr": (
        {"optimizer": lambda p: torch.optim.SGD(p, lr=0.1)},
        ["model.optimizer.lr was 0.05 in the run and is 0.1 now"],
    ),
    "optimizer": (
        {"optimizer": lambda p: torch.optim.Adam(p, lr=0.1)},
        ["model.optimizer was torch.optim.sgd.SGD in the run and is torch.optim.adam.Adam now. Give"],
    ),
    "no scheduler": (
        {"lr_scheduler": None},
        ["model.lr_scheduler was torch.optim.lr_scheduler.StepLR in the run and is null now"],
    ),
    "scheduler": (
        {"lr_scheduler": LinearLR},
        ["StepLR in the run and is torch.optim.lr_scheduler.LinearLR now"],
    ),
    "its setting": (
        {"lr_scheduler": lambda o: StepLR(o, 5, gamma=0.1)},
        ["model.lr_scheduler.gamma was 0.5 in the run and is 0.1 now. Give the old value,"],
    ),
    "noise": (
        {"noise": FilteredNoise(exclude=["*norm*"])},
        ['model.noise was gaussian-1 in the run and is filtered-1 {"exclude":["*norm*"],"include":["*"],'],
    ),
    "sigma schedule": (
        {"sigma_schedule": LinearSchedule(5)},
        [
            "model.sigma_schedule was null in the run and is "
            "es_lightning.algorithm.schedules.LinearSchedule now",
        ],
    ),
    "population schedule": (
        {"population_schedule": ListedSchedule([1.0])},
        ["model.population_schedule was null in the run and is es_lightning.algorithm.schedules.Listed"],
    ),
    "regularisers": (
        {"regularisers": [ClipNorm(1.0)]},
        ['model.regularisers was [] in the run and is [{"class": "es_lightning.algorithm.regularisers.Cl'],
    ),
    "prompts": (
        {"data": {"prompts_per_generation": 3}},
        ["data.prompts_per_generation was 2 in the run and is 3 now"],
    ),
    "draw": ({"data": {"draw": "fixed"}}, ["data.draw was passes in the run and is fixed now"]),
    "data seed": ({"data": {"seed": 3}}, ["seed_everything (data.seed) was 0 in the run and is 3 now"]),
    "task": ({"task": Other()}, ["data.task was Weighted in the run and is Other now"]),
    "task's setting": ({"task": Weighted(2.0)}, ["data.task.weight was 1.0 in the run and is 2.0 now"]),
    "problems": ({"task": Louder()}, ["the training problems of data.task were others in the run than now"]),
}


@pytest.mark.parametrize("name", OTHER)
def test_a_run_does_not_go_on_with_other_settings(began: Path, name: str) -> None:
    options, words = OTHER[name]
    before = (began / "journal.jsonl").read_text()
    with pytest.raises(UsageError, match="cannot go on with other settings") as caught:
        go(began, 2, **options)
    for each in words:
        assert each.lower() in str(caught.value).lower()
    assert str(caught.value).count(" now") == len([each for each in words if "run" in each])
    assert "start a new run in another folder" in str(caught.value)
    assert (began / "journal.jsonl").read_text() == before


PARTS: dict[str, Any] = {
    "noise": LowRankNoise(2),
    "sigma_schedule": SuccessRule(),
    "population_schedule": LinearSchedule(5, 2.0),
    "regularisers": [ClipNorm(1.0), SparseUpdate(0.5)],
}
OTHER_PARTS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "rank": (
        {"noise": LowRankNoise(3)},
        [
            'model.noise was low_rank-1 {"rank":2,"vectors":"gaussian"} in the run and is '
            'low_rank-1 {"rank":3,"vectors":"gaussian"} now',
        ],
    ),
    "damping": (
        {"sigma_schedule": SuccessRule(damping=2.0)},
        ["model.sigma_schedule.damping was 1.0 in the run and is 2.0 now"],
    ),
    "rule": (
        {"sigma_schedule": SignalRule()},
        [
            "SuccessRule in the run and is es_lightning.algorithm.schedules.SignalRule now. Give the old "
            "value,",
        ],
    ),
    "no rule": ({"sigma_schedule": None}, ["schedules.SuccessRule in the run and is null now"]),
    "end": (
        {"population_schedule": LinearSchedule(5, 3.0)},
        ["model.population_schedule.end was 2.0 in the run and is 3.0 now"],
    ),
    "order": ({"regularisers": [SparseUpdate(0.5), ClipNorm(1.0)]}, ["model.regularisers was [{"]),
    "no parts": (
        {"regularisers": None},
        ['"settings": {"keep": 0.5, "scope": "tensor"}}] in the run and is []'],
    ),
}


@pytest.fixture(scope="module")
def began_with_parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    go(folder, 1, **PARTS)
    return folder


@pytest.mark.parametrize("name", OTHER_PARTS)
def test_a_run_does_not_go_on_with_other_parts(began_with_parts: Path, name: str) -> None:
    options, words = OTHER_PARTS[name]
    with pytest.raises(UsageError, match="cannot go on with other settings") as caught:
        go(began_with_parts, 2, **(PARTS | options))
    for each in words:
        assert each in str(caught.value)
    assert str(caught.value).count(" in the run and is ") == 1


def test_what_decides_nothing_may_differ(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    go(tmp_path, 1)
    with caplog.at_level(logging.WARNING):
        go(tmp_path, 2, task=Weighted(path="c/d", n_val=9), data={"val_prompts": 2})
        assert "goes on" not in caplog.text
        assert "completions were made" not in caplog.text
        go(tmp_path, 3, engine=HFEngine(dtype="bfloat16", device="cpu"))
    words = "were made by HFEngine, float32 and are made by HFEngine, bfloat16 from now on"
    assert caplog.text.count(words) == 1


def test_an_identity_is_compact_and_plain(began: Path) -> None:
    header = json.loads((began / "journal.jsonl").read_text().splitlines()[0])
    assert all(isinstance(value, str | int | float | list | None) for value in header["identity"].values())
    assert len(json.dumps(header["identity"])) < 1000
    assert header["identity"]["model.sampling.max_tokens"] == 6
    assert "data.task.path" not in header["identity"]


def test_a_mixture_and_a_chain_of_schedules_are_described_by_their_parts() -> None:
    mixture = Mixture([Conciseness("questions"), Conciseness("paper")], [1.0, 2.0])
    found = described("data.task", mixture)
    assert found["data.task"] == "es_lightning.tasks.mixture.Mixture"
    assert [found[name] for name in found if name.endswith("variant")] == ["questions", "paper"]
    assert [found[name] for name in found if ".weights." in name] == [1.0, 2.0]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    parts = [ConstantLR(optimizer, 0.5), StepLR(optimizer, 3)]
    chain = described("model.lr_scheduler", SequentialLR(optimizer, parts, [2]))
    assert chain["model.lr_scheduler.0.factor"] == 0.5
    assert chain["model.lr_scheduler.1.step_size"] == 3


def shorter(prompt: Prompt, completion: str) -> float:
    """A reward of a user's own."""
    return -float(len(completion))


def test_reward_functions_are_told_by_their_names(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n{"prompt": "c"}\n')
    found = described("data.task", PythonRewards(str(tmp_path / "rows.jsonl"), [shorter], weights=[2.0]))
    assert found["data.task.functions.shorter"] == "shorter"
    assert found["data.task.weights"] == [2.0]
    assert "data.task.data" not in found


# Headers ---------------------------------------------------------------------------------------------

OLD = Path(__file__).parents[1] / "data" / "run_of_0_1_0" / "journal.jsonl"
HEADER_OF_0_1_0 = json.loads(OLD.read_text().splitlines()[0])


def of_today(**identity: Any) -> dict[str, Any]:
    same = {"model.population": 6, "model.sigma": 0.05, "data.task": "Conciseness", "model.sampling.n": 1}
    return {**HEADER_OF_0_1_0, "identity": same | identity}


def test_a_header_of_0_1_0_is_compared_where_both_have_something() -> None:
    assert changed(HEADER_OF_0_1_0, of_today()) == []
    assert changed(HEADER_OF_0_1_0, of_today(**{"data.task": "Countdown"})) == [
        "data.task was Conciseness in the run and is Countdown now"
    ]
    assert changed(HEADER_OF_0_1_0, of_today(**{"model.population": 8})) == []  # its settings say 6: steered
    present = of_today(**{"model.population": 8})
    present["settings"] = {**present["settings"], "population": 8}
    assert changed(HEADER_OF_0_1_0, present) == ["model.population was 6 in the run and is 8 now"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda h: h.update(base="other"), None),
        (lambda h: h.update(device="cuda", ranks=8, versions={}), None),
        (
            lambda h: h["base_files"].update({"config.json": "0"}),
            "the files of model.base have changed: config",
        ),
        (
            lambda h: h.update(base="other", base_files={"model.safetensors": "1"}),
            "(tiny in the run, other now) have changed: config.json, model.safetensors",
        ),
        (
            lambda h: h.update(dtype="float32"),
            "model.base's dtype was bfloat16 in the run and is float32 now",
        ),
    ],
)
def test_a_base_model_is_told_by_its_files(
    change: Callable[[dict[str, Any]], Any], words: str | None
) -> None:
    present = json.loads(json.dumps(of_today()))
    change(present)
    found = changed(of_today(), present)
    assert len(found) == (words is not None)
    assert words is None or words in found[0]


def test_a_maths_run_of_a_judge_that_is_gone_says_so_in_one_sentence() -> None:
    task = MathTask("gsm8k", "sample")
    now = described("data.task", task, task.name)
    assert changed({"identity": {**now, "data.task.judge": "exact"}}, {"identity": now}) == [
        "data.task.judge was exact in the run and is math_verify now"
    ]
    with pytest.raises(
        UsageError, match="exact, .*, is gone; a run that began with it cannot go on"
    ) as error:
        MathTask("gsm8k", "sample", judge="exact")
    assert "\n" not in str(error.value)


def test_a_filter_is_named_with_the_noise_that_it_filters() -> None:
    assert named(FilteredNoise(LowRankNoise(2), exclude=["*norm*"])) == (
        "FilteredNoise(noise=LowRankNoise, noise.rank=2, noise.vectors=gaussian, "
        "include=['*'], exclude=['*norm*'])"
    )
