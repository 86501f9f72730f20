"""Divergences of a run, against whole distributions computed with transformers in float64."""

import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from scipy.stats import entropy
from torch import Tensor
from transformers import AutoModelForCausalLM

from es_lightning.callbacks.kl_drift import KLDrift
from es_lightning.datamodule import TaskDataModule
from es_lightning.errors import UsageError
from es_lightning.evaluation import Evaluator
from es_lightning.grading.scorer import Grading
from es_lightning.module import EvolutionStrategies
from es_lightning.records import Choice, Completion, Evaluation, Prompt
from es_lightning.rollout import HFEngine, RolloutEngine
from es_lightning.system.text import metric_name
from tests.helpers.fits import Letters, fit, module, trainer
from tests.helpers.letters import Bytes

pytestmark = [pytest.mark.slow, pytest.mark.callbacks]  # many fits

HERE = {"grading": Grading(workers=0)}
SMALL: dict[str, Any] = {"prompts": 3, "max_tokens": 8, "every": 2}


class Watch(Callback):
    """Keeps the centre of every generation, and what the module was asked to sample."""

    def __init__(self) -> None:
        self.centres: dict[int, dict[str, Tensor]] = {}
        self.sampled: list[tuple[int, Evaluation]] = []
        self.patch = pytest.MonkeyPatch()

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Listen in on the module."""
        original = Evaluator.sample

        def sample(evaluator: Evaluator, *args: Any) -> Evaluation:
            found = original(evaluator, *args)
            assert args[2] == 1.0, "samples are drawn at temperature 1"
            self.sampled.append((pl_module.generation, found))
            return found

        self.patch.setattr(Evaluator, "sample", sample)
        self._keep(pl_module)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Stop listening."""
        self.patch.undo()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """After the update."""
        self._keep(pl_module)

    def _keep(self, tuned: Any) -> None:
        state = tuned.centre.state_dict()
        self.centres[tuned.generation] = {name: tensor.clone() for name, tensor in state.items()}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[KLDrift, Watch, EvolutionStrategies]:
    """Three generations, measured at 0, 2 and the end."""
    drift, watch = KLDrift({"bytes": Bytes(), "letters": Letters()}, **SMALL, positions=7), Watch()
    tuned, _ = fit(Letters(), tmp_path_factory.mktemp("run"), 3, callbacks=[watch, drift])
    return drift, watch, tuned


def exact(tuned: EvolutionStrategies, state: dict[str, Tensor]) -> Any:
    model = AutoModelForCausalLM.from_pretrained(tuned.base_model.folder, dtype=torch.float64)
    model.load_state_dict(state)
    return model.eval()


@torch.no_grad()
def terms(p: Any, q: Any, evaluation: Evaluation) -> list[np.ndarray]:
    """Per prompt log p - log q of the completion's tokens, one token at a time."""
    found = []
    for prompt, completion in zip(evaluation.prompts, evaluation.completions, strict=True):
        row, given = [], list(prompt.token_ids)
        for token in completion.token_ids:
            at = [model(torch.tensor([given])).logits[0, -1].log_softmax(-1)[token] for model in (p, q)]
            row.append(float(at[0] - at[1]))
            given.append(token)
        found.append(np.array(row))
    return found


@torch.no_grad()
def whole(p: Any, q: Any, evaluation: Evaluation) -> list[np.ndarray]:
    """Per prompt KL(p||q) of the two distributions of each of the completion's tokens."""
    found = []
    for prompt, completion in zip(evaluation.prompts, evaluation.completions, strict=True):
        ids = torch.tensor([[*prompt.token_ids, *completion.token_ids]])
        rows = [each(ids).logits[0, len(prompt.token_ids) - 1 : -1].softmax(-1).numpy() for each in (p, q)]
        found.append(entropy(*rows, axis=-1))
    return found


def compare(row: dict[str, float], metric: str, expected: list[np.ndarray]) -> None:
    sums, sizes = np.array([each.sum() for each in expected]), np.array([each.size for each in expected])
    value, m = sums.sum() / sizes.sum(), len(expected)
    error = np.sqrt(m / (m - 1) * ((sums - value * sizes) ** 2).sum()) / sizes.sum()
    assert row[metric] == pytest.approx(value, abs=2e-5)
    assert row[f"{metric}_se"] == pytest.approx(error, abs=2e-5)
    if "_full" not in metric:
        assert row[f"{metric}_completion"] == pytest.approx(sums.mean(), abs=2e-4)
        assert row[f"{metric}_completion_se"] == pytest.approx(sums.std(ddof=1) / m**0.5, abs=2e-4)


def drawn(expected: list[np.ndarray], positions: int = 7) -> list[np.ndarray]:
    """The terms at the places that the callback draws."""
    of = np.repeat(np.arange(len(expected)), [len(each) for each in expected])
    places = sorted(random.Random(0).sample(range(len(of)), min(positions, len(of))))
    terms = np.concatenate(expected)
    return [np.array([terms[i] for i in places if of[i] == row]) for row in range(len(expected))]


@pytest.mark.parametrize(("index", "generation"), [(1, 2), (2, 3)])
@pytest.mark.parametrize(("task", "name"), [(0, "bytes"), (1, "letters")])
def test_logged_numbers_are_those_of_the_exact_distributions(
    run: tuple[KLDrift, Watch, EvolutionStrategies], index: int, generation: int, task: int, name: str
) -> None:
    drift, watch, tuned = run
    base, centre = exact(tuned, watch.centres[0]), exact(tuned, watch.centres[generation])
    row = drift.rows[index]
    compare(row, f"kl_base_tuned/{name}", terms(base, centre, watch.sampled[task][1]))
    exact_terms = whole(base, centre, watch.sampled[task][1])
    compare(row, f"kl_base_tuned_full/{name}", drawn(exact_terms))
    own = [evaluation for at, evaluation in watch.sampled if at == generation][task]
    found = terms(centre, base, own)
    compare(row, f"kl_tuned_base/{name}", found)
    compare(row, f"kl_tuned_base_full/{name}", drawn(whole(centre, base, own)))
    assert row[f"kl_tuned_base_full/{name}"] > 1e-3
    compare(row, f"kl_tuned_base_k3/{name}", [np.exp(-each) - 1 + each for each in found])
    assert abs(row[f"kl_tuned_base/{name}"]) > 1e-3


def test_the_unchanged_centre_has_no_divergence_at_all(
    run: tuple[KLDrift, Watch, EvolutionStrategies],
) -> None:
    drift, watch, _ = run
    assert [row["generation"] for row in drift.rows] == [0, 2, 3]
    groups = ("kl_base_tuned", "kl_tuned_base", "kl_tuned_base_k3")
    names = {f"{group}/{name}" for group in groups for name in ("bytes", "letters")}
    numbers = {f"{name}{suffix}" for name in names for suffix in ("", "_se", "_completion", "_completion_se")}
    full = {f"kl_{way}_full/{name}" for way in ("base_tuned", "tuned_base") for name in ("bytes", "letters")}
    numbers |= {f"{name}{suffix}" for name in full for suffix in ("", "_se")}
    assert drift.rows[0] == {"generation": 0} | dict.fromkeys(numbers, 0.0)


def test_the_base_model_samples_once_and_the_centre_every_time(
    run: tuple[KLDrift, Watch, EvolutionStrategies],
) -> None:
    _, watch, _ = run
    assert [generation for generation, _ in watch.sampled] == [0] * 4 + [2] * 2 + [3] * 2


def test_one_direction_costs_and_logs_nothing_of_the_other(tmp_path: Path) -> None:
    watch, drift = Watch(), KLDrift(**SMALL, directions=["base_tuned"])
    fit(Letters(), tmp_path, 2, callbacks=[watch, drift])
    assert [generation for generation, _ in watch.sampled] == [0]
    assert {name.partition("/")[0] for row in drift.rows for name in row} == {"generation", "kl_base_tuned"}
    assert "kl_base_tuned/Letters" in drift.rows[-1], "the run's own task, if no other is named"
    table = json.loads((tmp_path / "tables" / "kl_drift.json").read_text(encoding="utf-8"))
    assert table["rows"] == drift.rows


class Fake(SimpleNamespace):
    """A module that says what it is told to."""

    generation = 5

    centre = base_model = None
    rollouts = SimpleNamespace(hold_centre=lambda _: None, hold_base=lambda *_: None)

    @property
    def evaluator(self) -> "Fake":
        """This very object."""
        return self

    def sample(self, prompts: Any, *_: Any) -> Evaluation:
        """An empty completion, then one of two tokens, then one of one."""
        told = [Completion("", (), "stop"), Completion("x", (7, 8), "stop"), Completion("y", (9,), "stop")]
        return Evaluation(tuple(prompts), tuple(told[: len(prompts)]), ({}, {}, {}))

    def logprobs(self, sequences: Any) -> list[Tensor]:
        """Every token is less likely than at the call before; those of the prompt immensely so."""
        self.calls = getattr(self, "calls", 0) + 1
        return [
            torch.tensor([-1e6 * self.calls if token < 7 else -0.5 * self.calls for token in ids[1:]])
            for ids in sequences
        ]


def test_prompts_do_not_count_and_empty_completions_have_no_nats() -> None:
    drift = KLDrift(directions=["tuned_base"])
    drift._prompts = {"t": [Prompt(str(i), "", token_ids=(1, 2, 3)[: i + 1]) for i in range(3)]}
    assert drift._divergences(Fake()) == {  # type: ignore[arg-type]
        "kl_tuned_base/t": 0.5,
        "kl_tuned_base/t_se": 0.0,
        "kl_tuned_base/t_completion": pytest.approx((0 + 2 * 0.5 + 0.5) / 3),
        "kl_tuned_base/t_completion_se": pytest.approx(np.std([0, 1, 0.5], ddof=1) / 3**0.5),
        "kl_tuned_base_k3/t": pytest.approx(k3 := np.exp(-0.5) + 0.5 - 1),
        "kl_tuned_base_k3/t_se": pytest.approx(0.0, abs=1e-12),
        "kl_tuned_base_k3/t_completion": pytest.approx(k3),
        "kl_tuned_base_k3/t_completion_se": pytest.approx(k3 / 3**0.5),
    }
    drift._prompts = {"t": [Prompt("0", "", token_ids=(1,))]}
    assert drift._divergences(Fake()) == {}, "no completion has a token"  # type: ignore[arg-type]


def part(folder: Path, drift: Callback, steps: int, ckpt: str | None = None) -> None:
    checkpoints = ModelCheckpoint(folder / "checkpoints", "{step}", save_top_k=-1, every_n_train_steps=1)
    trainer(folder, steps, [drift, checkpoints], enable_checkpointing=True).fit(
        module(), TaskDataModule(Letters(), **HERE), ckpt_path=ckpt
    )


def test_a_resumed_run_ends_with_the_numbers_of_an_uninterrupted_one(tmp_path: Path) -> None:
    options = SMALL | {"every": 1, "positions": 5}
    whole, cut, resumed = (KLDrift(**options) for _ in range(3))
    part(tmp_path / "whole", whole, 4)
    part(tmp_path / "parts", cut, 3)
    # Generations 1 and 2 come from the journal, without members in between.
    part(tmp_path / "parts", resumed, 4, str(tmp_path / "parts" / "checkpoints" / "step=1.ckpt"))
    assert [row["generation"] for row in resumed.rows] == [0, 1, 2, 3, 4]
    assert json.dumps(resumed.state_dict()) == json.dumps(whole.state_dict())


def test_other_prompts_than_before_are_refused_at_once(tmp_path: Path) -> None:
    part(tmp_path, KLDrift(**SMALL), 1)
    for changed in ({"prompts": 2}, {"max_tokens": 4}):
        drift = KLDrift(**SMALL | changed | {"every": 25})
        with pytest.raises(UsageError, match="other prompts than before"):
            part(tmp_path, drift, 2, str(tmp_path / "checkpoints" / "step=1.ckpt"))
        assert [row["generation"] for row in drift.rows] == [0]


class Choices(Letters):
    """Nothing is generated for it."""

    def problems(self, split: str) -> list[Prompt]:
        return [Prompt("0", "a", choices=(Choice("b"), Choice("c")))]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": 0}, "prompts is 0"),
        ({"max_tokens": 0}, "max_tokens 0"),
        ({"every": 0}, "every is 0"),
        ({"directions": ["both"]}, "directions"),
        ({"directions": []}, "directions"),
        ({"positions": -1}, "positions is -1"),
        ({"tasks": {"pass@1": Letters()}}, "letters, digits"),
        ({"tasks": {"a": Letters(), "a_se": Letters()}}, "rename a task"),
    ],
)
def test_values_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        KLDrift(**options)


def test_a_task_of_choices_alone_is_refused_before_the_engine_starts(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no problem of task choices that is answered in words"):
        fit(Letters(), tmp_path, 1, callbacks=[KLDrift({"choices": Choices()})])


class NoVocabulary(HFEngine):
    """Tells no distributions, as most engines."""

    gives_distributions = False


def test_an_engine_without_whole_vocabularies_is_refused_before_it_starts(tmp_path: Path) -> None:
    engine = NoVocabulary(device="cpu")
    with pytest.raises(UsageError, match=r"positions is 4, and NoVocabulary does not .*: set positions to 0"):
        fit(Letters(), tmp_path, 1, callbacks=[KLDrift(positions=4)], engine=engine)
    with pytest.raises(UsageError, match="take HFEngine"):
        RolloutEngine.distributions(engine, [], [])


def test_a_name_that_no_logger_takes_is_changed() -> None:
    assert metric_name("pass@1 (mine)") == "pass_1__mine_"
    assert metric_name("mini_sudoku-2.b") == "mini_sudoku-2.b"


def test_yaml_says_which_tasks_and_directions() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--callback", type=Callback)
    task = {
        "class_path": "es_lightning.tasks.MultipleChoice",
        "init_args": {"dataset": "boolq", "data": "sample"},
    }
    options = {"tasks": {"boolq": task}, "prompts": 5, "directions": ["tuned_base"]}
    written = {"class_path": "es_lightning.callbacks.kl_drift.KLDrift", "init_args": options}
    made = parser.instantiate(parser.parse_object({"callback": written})).callback
    assert made.tasks["boolq"].name == "boolq"
    assert (made.size, made.directions) == (5, ("tuned_base",))
