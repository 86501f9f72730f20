"""Reinforcement learning through TRL: the same prompts and rewards as ES, real gradients, plain refusals."""

import importlib.util
import json
import re
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from es_lightning.baselines import child as child_module
from es_lightning.baselines.child import Child, require_trl
from es_lightning.baselines.files import UPDATES
from es_lightning.baselines.same_prompts import texts_of
from es_lightning.baselines.settings import METHODS, BaselineSettings
from es_lightning.baselines.training import PolicyTraining
from es_lightning.cli import main
from es_lightning.cli.baseline_command import BASELINE_SECTION
from es_lightning.cli.opened import opened_with
from es_lightning.errors import RolloutError, UsageError
from es_lightning.evaluation.parts import Parts
from es_lightning.journal.evaluations import read_evaluations
from es_lightning.journal.opening import open_centre
from es_lightning.models import BaseModel
from es_lightning.records import Choice, Prompt
from es_lightning.rollout import HFEngine
from tests.baselines.stand_in_for_trl import numbers_of
from tests.helpers.fits import Letters, fit

ROOT = Path(__file__).parents[2]
SECTIONS = {"baseline": BaselineSettings}
HAS_TRL = importlib.util.find_spec("trl") is not None
CONFIG = """
model: {base: tiny, engine: {class_path: HFEngine, init_args: {dtype: float32}}, sampling: {max_tokens: 8}}
data:
  task: tests.helpers.letters.Letters
  prompts_per_generation: 4
trainer: {accelerator: cpu, devices: 1, logger: false}
baseline: {updates: 3, group: 4, minibatch: 8, lr: 0.001, evaluate_every: 2}
"""


def needs_trl(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test that trains with TRL, and skip it where there is none."""
    reason = "TRL is not installed: make test-trl"
    marked = pytest.mark.skipif(not HAS_TRL, reason=reason)(test)
    return pytest.mark.trl(pytest.mark.slow(marked))  # type: ignore[no-any-return]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(CONFIG)
    return "mine.yaml"


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / UPDATES).read_text().splitlines()]


# The same prompts and rewards


def test_trl_tokenizes_the_texts_to_the_tokens_that_the_engine_gets(config: str) -> None:
    with opened_with(["-c", config], SECTIONS)[0] as parts:
        tokenizer = parts.base.tokenizer
        plain = Prompt("raw", "no template ", chat=False)
        filled = Prompt("filled", "What?", system="Be brief.", prefill="<think>")
        prompts = [*parts.prompts("train", 5), *parts.rollouts.reserve(parts.base, [plain, filled])]
        for prompt, text in zip(prompts, texts_of(prompts, tokenizer), strict=True):
            assert tuple(tokenizer(text=[text])["input_ids"][0]) == prompt.token_ids


def test_tokens_are_graded_as_the_engine_grades_them(config: str, tmp_path: Path) -> None:
    with opened_with(["-c", config], SECTIONS)[0] as parts:
        training = PolicyTraining(parts, BaselineSettings(updates=1, minibatch=8, group=4), tmp_path)
        training.prepare()
        parts.rollouts.hold_centre(parts.start())
        theirs = parts.evaluator().evaluate(training.prompts)
        ours = training.grade(theirs.prompts, [each.token_ids for each in theirs.completions])
    assert ours.completions == theirs.completions
    assert ours.scores == theirs.scores


def test_the_prompts_of_an_update_are_those_of_a_generation(config: str, tmp_path: Path) -> None:
    _, records = fit(Letters(), tmp_path, steps=5, data={"prompts_per_generation": 2, "seed": 3})
    drawn = [[prompt.id for prompt in generation.prompts] for generation in records.generations]
    assert len(set(map(tuple, drawn))) > 1
    options = ["--data.prompts_per_generation", "2", "--seed_everything", "3"]
    with opened_with(["-c", config, *options], SECTIONS)[0] as parts:
        training = PolicyTraining(parts, BaselineSettings(updates=5, group=4, minibatch=8), tmp_path)
        training.prepare()
    assert [[training.prompts[number].id for number in batch] for batch in training.batches] == drawn


def test_tokens_behind_a_stop_string_are_costs_since_they_are_learnt_from(
    config: str, tmp_path: Path
) -> None:
    child: Any = SimpleNamespace(answer=lambda values: None)
    with opened_with(["-c", config, "--model.sampling.stop", "[b]"], SECTIONS)[0] as parts:
        training = PolicyTraining(parts, BaselineSettings(updates=1, group=2, minibatch=8), tmp_path)
        training.prepare()
        training.start()
        numbers = numbers_of(training.batches[0], 2, None)
        prompts = [training.prompts[number].token_ids for number in numbers]
        said = list(parts.base.tokenizer("abcd")["input_ids"])
        training._on_grade(child, numbers, prompts, [said] * 8)
        assert training.grade([training.prompts[0]], [said]).completions[0].text == "a"
    assert len(said) == 4
    assert (training.costs.rollouts, training.costs.tokens) == (8, 32)


def test_a_task_without_held_out_problems_is_refused_before_anything_is_started(
    config: str, tmp_path: Path
) -> None:
    task = "tests.helpers.letters.TrainingAlone"
    with opened_with(["-c", config, "--data.task", task], SECTIONS)[0] as parts:
        training = PolicyTraining(parts, BaselineSettings(updates=1, group=4, minibatch=8), tmp_path)
        with pytest.raises(UsageError, match="has neither test nor validation problems"):
            training.prepare()


@pytest.mark.parametrize("how", ["backwards", "split"])
def test_completions_of_other_prompts_or_in_another_order_are_not_graded(
    how: str, config: str, tmp_path: Path
) -> None:
    answers: list[dict[str, Any]] = []
    child: Any = SimpleNamespace(answer=answers.append)
    with opened_with(["-c", config, "--data.prompts_per_generation", "2"], SECTIONS)[0] as parts:
        training = PolicyTraining(parts, BaselineSettings(updates=3, group=2, minibatch=4), tmp_path)
        training.prepare()
        training.start()

        def ask(update: int, how: str | None = None) -> None:
            numbers = numbers_of(training.batches[update], 2, how)
            prompts = [training.prompts[number].token_ids for number in numbers]
            training._on_grade(child, numbers, prompts, [[5, 6, 7]] * 4)

        ask(0)
        with pytest.raises(RuntimeError, match="other prompts than those of update 2, or not in groups of 2"):
            ask(1, how)
        another = next(update for update in (0, 2) if training.batches[update] != training.batches[1])
        with pytest.raises(RuntimeError, match="other prompts than those of update 2"):
            ask(another)
        ask(1)
    assert [len(answer["rewards"]) for answer in answers] == [4, 4]


# A real training


@needs_trl
@pytest.mark.parametrize("method", METHODS)
def test_a_policy_learns_what_it_must(method: str, config: str, tmp_path: Path) -> None:
    options = ["--baseline.method", method, "--baseline.updates", "30", "--baseline.group", "16"]
    options += ["--baseline.lr", "0.01", "--baseline.evaluate_every", "15", "--baseline.minibatch", "32"]
    main(["baseline", "-c", config, *options, "--output", "out"])
    updates = [row for row in rows(tmp_path / "out") if "train/loss" in row]
    assert [row["update"] for row in updates] == list(range(1, 31))
    assert all(torch.tensor(row["train/loss"]).isfinite() for row in updates)
    rewards = torch.tensor([row["reward/mean"] for row in updates])
    assert rewards[-5:].mean() > rewards[:5].mean() + 2 * rewards[:5].std()
    assert updates[-1]["cost/rollouts"] == 30 * 4 * 16
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["held_out_after"] > summary["held_out_before"]
    trained = load_file(tmp_path / "out" / "model" / "model.safetensors")
    base = dict(BaseModel("tiny").load().named_parameters())
    assert sum(not torch.equal(trained[name], base[name]) for name in trained) > len(trained) / 2
    evaluated = read_evaluations(tmp_path / "out")
    assert [(row.step, row.split) for row in evaluated] == [
        *((0, "test"), (0, "val"), (15, "val"), (30, "val"), (30, "test"))
    ]
    assert [row.cost.rollouts for row in evaluated] == [0, 0, 15 * 4 * 16, 30 * 4 * 16, 30 * 4 * 16]
    assert evaluated[0].scores["reward"] == summary["held_out_before"]
    assert sum(evaluated[-1].rewards) / 4 == pytest.approx(summary["held_out_after"])
    by_update = {row["update"]: row for row in updates}
    assert evaluated[2].cost.flops == by_update[15]["cost/flops"]
    assert by_update[14]["cost/seconds"] < evaluated[2].cost.seconds <= by_update[15]["cost/seconds"]


@needs_trl
def test_in_bfloat16_a_policy_learns_as_well_and_its_weights_stay_float32(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[dict[str, torch.Tensor]] = []
    monkeypatch.setattr(
        "es_lightning.baselines.training.load_file", lambda path: read.append(load_file(path)) or read[-1]
    )
    options = ["--baseline.updates", "30", "--baseline.group", "16", "--baseline.minibatch", "32"]
    options += ["--baseline.lr", "0.01", "--baseline.evaluate_every", "30"]
    for precision in ("float32", "bfloat16"):
        main(["baseline", "-c", config, *options, "--baseline.precision", precision, "--output", precision])
    full, half = (
        [row for row in rows(tmp_path / precision) if "train/loss" in row]
        for precision in ("float32", "bfloat16")
    )
    assert half[0]["train/grad_norm"] == pytest.approx(full[0]["train/grad_norm"], rel=0.05)
    assert half[0]["train/grad_norm"] != full[0]["train/grad_norm"]
    summary = json.loads((tmp_path / "bfloat16" / "summary.json").read_text())
    assert summary["held_out_after"] > summary["held_out_before"]
    finer = [not torch.equal(value, value.bfloat16().float()) for value in read[-1].values()]
    assert sum(finer) > len(finer) / 2
    opened = open_centre("bfloat16", BaseModel("tiny"), tmp_path / "scratch")
    assert all(torch.equal(opened.weights.read(name), value) for name, value in read[-1].items())


@needs_trl
def test_several_steps_on_the_same_completions_and_a_price_of_divergence(config: str, tmp_path: Path) -> None:
    options = ["--baseline.passes", "2", "--baseline.beta", "0.01", "--baseline.updates", "4"]
    main(["baseline", "-c", config, *options, "--data.prompts_per_generation", "2", "--output", "out"])
    updates = [row for row in rows(tmp_path / "out") if "train/loss" in row]
    assert [row["update"] for row in updates] == [1, 2, 3, 4]
    assert [row["cost/rollouts"] for row in updates] == [8, 16, 24, 32], "sampled once for both steps"
    assert all(row["train/kl"] > 0 for row in updates), "after the first step the policy is not the base"
    evaluated = [(row.step, row.split) for row in read_evaluations(tmp_path / "out")]
    assert evaluated == [(0, "test"), (0, "val"), (2, "val"), (4, "val"), (4, "test")]


@needs_trl
@pytest.mark.parametrize("method", ["grpo", "rloo"])
def test_an_update_of_several_steps_samples_once_and_moves_further(
    method: str, config: str, tmp_path: Path
) -> None:
    options = ["--baseline.method", method, "--baseline.updates", "2", "--baseline.minibatch", "2"]
    moved = []
    for steps in (1, 4):
        more = ["--baseline.steps_per_pass", str(steps), "--output", str(steps)]
        main(["baseline", "-c", config, *options, *more])
        updates = [row for row in rows(tmp_path / str(steps)) if "train/loss" in row]
        assert [(row["update"], row["cost/rollouts"]) for row in updates] == [(1, 16), (2, 32)]
        base = dict(BaseModel("tiny").load().named_parameters())
        trained = load_file(tmp_path / str(steps) / "model" / "model.safetensors")
        moved.append(max(float((trained[name] - base[name]).abs().max()) for name in trained))
    # AdamW moves a weight by about lr at a step: two steps, and eight.
    assert moved[0] < 2.5e-3 < moved[1] < 9e-3


@needs_trl
@pytest.mark.parametrize("method", METHODS)
def test_an_update_is_the_same_whatever_the_minibatch(method: str, config: str, tmp_path: Path) -> None:
    options = ["--baseline.method", method, "--baseline.updates", "1"]
    for minibatch in ("16", "4"):
        main(["baseline", "-c", config, *options, "--baseline.minibatch", minibatch, "--output", minibatch])
    one, four = ([row for row in rows(tmp_path / each) if "train/loss" in row] for each in ("16", "4"))
    assert [row["cost/rollouts"] for row in (*one, *four)] == [16, 16]
    for name in ("cost/tokens", "reward/mean", "reward/std"):
        assert one[0][name] == four[0][name], "both have sampled the same"
    assert one[0]["train/grad_norm"] == pytest.approx(four[0]["train/grad_norm"], rel=1e-3)
    assert one[0]["train/grad_norm"] > 0


# Refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "ppo"}, "grpo, dr_grpo, dapo, rloo"),
        ({"precision": "float16"}, "auto, float32, bfloat16"),
        ({"updates": 0}, "baseline.updates is 0"),
        ({"group": 1}, "at least 2"),
        ({"minibatch": 0}, "baseline.minibatch is 0: give at least 1"),
        ({"lr": 0.0}, "baseline.lr is 0.0"),
        ({"temperature": 0.0}, "above 0"),
        ({"beta": -1.0}, "baseline.beta is -1.0"),
        ({"lr": float("nan")}, "baseline.lr is nan"),
    ],
)
def test_settings_outside_their_range(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(BaselineSettings(), **changes)


def test_a_minibatch_that_does_not_divide_gets_a_suggestion() -> None:
    with pytest.raises(
        UsageError, match="the 32 completions of an optimizer step .4 prompts, 8 each, 1 .*give 8"
    ):
        BaselineSettings(minibatch=12).check_batch(4)
    BaselineSettings(minibatch=16).check_batch(4)
    with pytest.raises(
        UsageError, match="steps_per_pass is 3, .* the 32 completions of an update .*: give 2"
    ):
        BaselineSettings(steps_per_pass=3).check_batch(4)
    with pytest.raises(
        UsageError, match="the 8 completions of an optimizer step .4 prompts, 8 each, 4 .*give 8"
    ):
        BaselineSettings(steps_per_pass=4).check_batch(4)
    BaselineSettings(steps_per_pass=4, minibatch=4).check_batch(4)


@pytest.mark.parametrize(
    ("precision", "engine", "halved"),
    [
        ("auto", torch.bfloat16, True),
        ("auto", torch.float32, False),
        ("auto", torch.float16, False),
        ("bfloat16", torch.float32, True),
        ("float32", torch.bfloat16, False),
    ],
)
def test_gradients_have_the_precision_of_the_engine_unless_told(
    precision: str, engine: torch.dtype, halved: bool
) -> None:
    options = BaselineSettings(precision=precision).options(prompts=4, max_tokens=8, engine=engine)
    assert options["bf16"] is halved


def test_trl_that_is_missing_or_of_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> str:
        raise child_module.PackageNotFoundError(name)

    monkeypatch.setattr(child_module, "version", none)
    with pytest.raises(UsageError, match=r'pip install "es-lightning\[baselines\]"'):
        require_trl()
    monkeypatch.setattr(child_module, "version", lambda name: "0.1.0")
    assert require_trl() == f"TRL 0.1.0 is installed; the baselines were tested with {child_module.TESTED}."


def test_choices_and_tokens_that_no_text_leads_to_are_refused() -> None:
    tokenizer = BaseModel("tiny").tokenizer
    chosen = Prompt("a", "Which?", choices=(Choice("yes"), Choice("no")), token_ids=(1, 2))
    with pytest.raises(UsageError, match="problem a is scored by the likelihood of its choices"):
        texts_of([chosen], tokenizer)
    split = Prompt("b", "", token_ids=tuple(tokenizer("\U0001f600")["input_ids"][:1]))  # part of a character
    with pytest.raises(UsageError, match="TRL would train on other tokens than ES"):
        texts_of([split], tokenizer)


def test_a_trainer_that_fails_ends_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "broken.py"
    script.write_text("import sys; sys.stdin.readline(); sys.stderr.write('no such optimizer'); sys.exit(3)")
    monkeypatch.setattr(child_module, "SCRIPT", script)
    with (
        Child({}, tmp_path / "trl.log") as child,
        pytest.raises(RolloutError, match="exit code 3: no such optimizer See .*trl.log"),
    ):
        list(child.messages())


class Stopped(Exception):
    """The engine was told what to leave free; without a GPU, nothing more can be done."""


def test_the_engine_leaves_room_for_trl_on_the_gpu_that_both_use(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []

    def stop(self: HFEngine, size: int) -> None:
        told.append(size)
        raise Stopped

    monkeypatch.setattr(Parts, "device", torch.device("cuda", 1))
    monkeypatch.setattr(HFEngine, "leave_free", stop)
    monkeypatch.setattr(torch.accelerator, "get_memory_info", lambda *_: (80 * 10**9, 80 * 10**9))
    with opened_with(["-c", config], SECTIONS)[0] as parts:
        training = PolicyTraining(parts, BaselineSettings(updates=2, minibatch=8, group=4), tmp_path)
        training.prepare()
        for start in (parts.start, training.start):
            with pytest.raises(Stopped):
                start()
    assert told[1] - told[0] == training.needed.total > 16 * 115_264


def test_trl_sees_the_gpu_of_the_engine_alone(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []

    def stop(job: Any, log: Path, environment: Any) -> None:
        given.extend([job["device"], environment])
        raise Stopped

    monkeypatch.setattr("es_lightning.baselines.training.Child", stop)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    with opened_with(["-c", config], SECTIONS)[0] as parts:
        training = PolicyTraining(parts, BaselineSettings(updates=2, minibatch=8, group=4), tmp_path)
        training.prepare()
        training.start()
        monkeypatch.setattr(Parts, "device", torch.device("cuda", 1))
        with pytest.raises(Stopped):
            training.run()
    assert given == ["cuda", {"CUDA_VISIBLE_DEVICES": "7"}]


# Options


@pytest.mark.parametrize(
    ("options", "seed"),
    [
        ([], 0),
        (["--seed_everything", "7"], 7),
        (["--seed_everything", "7", "--baseline.seed", "3"], 3),
        (["--seed_everything", "7", "--baseline", '{"seed": 0}'], 0),
    ],
)
def test_samples_follow_the_seed_of_the_run_unless_told(
    options: list[str], seed: int, config: str, tmp_path: Path
) -> None:
    parts, sections = opened_with(["-c", config, *options], SECTIONS)
    with parts:
        training = PolicyTraining(parts, sections["baseline"], tmp_path)
        assert training.settings.seed == seed
        assert training.settings.options(4, 8, torch.float32)["seed"] == seed


def test_the_help_lists_every_option_with_its_default() -> None:
    told = dict(re.findall(r"^  --baseline\.(\w+) .*\((.*)\)$", BASELINE_SECTION, re.MULTILINE))
    assert told.pop("seed") == "that of --seed_everything"
    defaults = {each.name: each.default for each in fields(BaselineSettings) if each.default is not None}
    assert {name: type(defaults[name])(value) for name, value in told.items()} == defaults


def test_the_page_lists_every_option() -> None:
    page = (ROOT / "docs" / "baselines.md").read_text(encoding="utf-8")
    table = page.partition("| `baseline:` |")[2].partition("\n\n")[0]
    names = [name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(names) == sorted(each.name for each in fields(BaselineSettings))


def test_without_a_config_and_with_a_mistyped_option(
    config: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("es_lightning.cli.baseline.require_trl", lambda: None)
    for arguments, message in (
        (["baseline"], "give a config with -c FILE"),
        (["baseline", "-c", config, "--baseline.grop", "3"], "Did you mean baseline.group?"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err
