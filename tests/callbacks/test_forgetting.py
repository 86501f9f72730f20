"""Prior tasks along a run, against completions that transformers generates one prompt at a time."""

import json
import logging
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse import ArgumentParser
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from torch import Tensor
from transformers import AutoModelForCausalLM

from es_lightning.analysis.forgetting import sentence
from es_lightning.callbacks.forgetting import Forgetting
from es_lightning.callbacks.kl_drift import KLDrift
from es_lightning.datamodule import TaskDataModule
from es_lightning.errors import StorageError, UsageError
from es_lightning.evaluation.problems import choose
from es_lightning.grading.scorer import Grading
from es_lightning.module import EvolutionStrategies
from es_lightning.records import Prompt
from es_lightning.task import Task
from tests.helpers.fits import Letters, Records, fit, module, trainer
from tests.helpers.letters import Bytes
from tests.helpers.ranks import Run
from tests.helpers.ranks import fit as fit_ranks

pytestmark = [pytest.mark.slow, pytest.mark.callbacks]  # many fits

HERE = Grading(workers=0)
TASKS: dict[str, Task] = {"letters": Letters(), "bytes": Bytes()}


def forgetting(**options: Any) -> Forgetting:
    return Forgetting(**({"tasks": TASKS, "every": 2, "grading": HERE} | options))


class Watch(Callback):
    """Keeps the centre of every generation, and the population's mean reward by generation."""

    def __init__(self) -> None:
        self.centres: dict[int, dict[str, Tensor]] = {}
        self.earned: list[float] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """The base model."""
        self._keep(pl_module)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *_: Any) -> None:
        """After the update."""
        self.earned.append(float(outputs["generation"].rewards.mean()))
        self._keep(pl_module)

    def _keep(self, tuned: Any) -> None:
        state = tuned.centre.state_dict()
        self.centres[tuned.generation] = {name: tensor.clone() for name, tensor in state.items()}


@dataclass
class Finished:
    """A run of five generations, measured at 0, 2, 4 and the end, and validated after 2 and 4."""

    folder: Path
    forgetting: Forgetting
    watch: Watch
    tuned: EvolutionStrategies
    log: str


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder, watched, watch, tuned = tmp_path_factory.mktemp("run"), forgetting(), Watch(), module()
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("es_lightning.callbacks.forgetting")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        trainer(folder, 5, [watch, watched], val_check_interval=2).fit(
            tuned, TaskDataModule(Letters(), grading=HERE)
        )
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    return Finished(folder, watched, watch, tuned, "\n".join(lines))


@torch.no_grad()
def rewards(run: Finished, generation: int, task: Task, split: str, accuracy: bool = False) -> np.ndarray:
    """What a centre earns, completed greedily without batches or an engine."""
    model = AutoModelForCausalLM.from_pretrained(run.tuned.base_model.folder, dtype=torch.float32).eval()
    model.load_state_dict(run.watch.centres[generation])
    tokenizer = run.tuned.base_model.tokenizer
    ends = {
        tokenizer.eos_token_id,
        *np.atleast_1d(model.generation_config.eos_token_id or -1),
    }
    found = []
    for prompt in run.tuned.reserve(task.problems(split)):
        ids: list[int] = []
        while len(ids) < 6 and not (ids and ids[-1] in ends):
            logits = model(torch.tensor([[*prompt.token_ids, *ids]])).logits[0, -1]
            ids.append(int(logits.argmax()))
        score = task.reward(prompt, tokenizer.decode(ids, skip_special_tokens=True))
        numbers = score if isinstance(score, dict) else {"reward": score}
        found.append(numbers["accuracy" if accuracy else "reward"])
    return np.array(found)


@pytest.mark.parametrize(("row", "generation"), [(0, 0), (1, 2), (2, 4), (3, 5)])
@pytest.mark.parametrize(("name", "split"), [("letters", "test"), ("bytes", "val")])
def test_logged_numbers_are_those_of_the_centre(
    run: Finished, row: int, generation: int, name: str, split: str
) -> None:
    logged = run.forgetting.rows[row]
    before, now = (rewards(run, at, TASKS[name], split) for at in (0, generation))
    assert logged["generation"] == generation
    assert logged[f"prior/{name}"] == pytest.approx(now.mean(), abs=1e-12)
    assert logged[f"prior/{name}_change"] == pytest.approx(now.mean() - before.mean(), abs=1e-12)
    expected = (now - before).std(ddof=1) / np.sqrt(len(now))
    assert logged[f"prior/{name}_change_se"] == pytest.approx(expected, abs=1e-12)
    if name == "letters":
        right = rewards(run, generation, TASKS[name], split, accuracy=True)
        right_before = rewards(run, 0, TASKS[name], split, accuracy=True)
        assert logged["prior/letters_accuracy"] == pytest.approx(right.mean())
        change = right - right_before
        assert logged["prior/letters_accuracy_change"] == pytest.approx(change.mean())
        error = change.std(ddof=1) / np.sqrt(len(change))
        assert logged["prior/letters_accuracy_change_se"] == pytest.approx(error, abs=1e-12)
    else:
        assert "prior/bytes_accuracy" not in logged


def test_the_lowest_reward_so_far_stands_beside_the_tasks_and_unlike_units_are_not_averaged(
    run: Finished,
) -> None:
    rows = run.forgetting.rows
    for index, row in enumerate(rows):
        for name in TASKS:
            assert row[f"prior/{name}_minimum"] == min(r[f"prior/{name}"] for r in rows[: index + 1])
        assert "prior/mean" not in row, "a share of vowels and a mean byte have no mean"
        assert row["prior/accuracy"] == row["prior/letters_accuracy"], "of all tasks that say what is right"
    assert len({row["prior/bytes"] for row in rows}) > 2, "the run has changed what the model says"


def test_the_new_task_is_measured_beside_them(run: Finished) -> None:
    rows = {int(row["generation"]): row for row in run.forgetting.rows}
    for generation in (0, 2, 4):
        expected = rewards(run, generation, Letters(), "val").mean()
        assert rows[generation]["val/reward"] == pytest.approx(expected)
        right = rewards(run, generation, Letters(), "val", accuracy=True).mean()
        assert rows[generation]["val/accuracy"] == pytest.approx(right)
        assert rows[generation]["reward/mean"] == run.watch.earned[generation]
    assert "val/reward" not in rows[5]
    assert rows[5]["reward/mean"] == run.watch.earned[4], "no population follows the last centre"


def test_a_table_and_sentences_tell_the_result(run: Finished) -> None:
    table = json.loads((run.folder / "tables" / "forgetting.json").read_text())
    assert list(table) == ["letters", "bytes"]
    for name, (split, size) in {"letters": ("test", 4), "bytes": ("val", 3)}.items():
        row, curve = table[name], [row[f"prior/{name}"] for row in run.forgetting.rows]
        assert (row["split"], row["problems"]) == (split, size)
        assert (row["base"], row["final"]) == pytest.approx((curve[0], curve[-1]))
        assert row["minimum"] == min(curve)
        assert row["minimum_generation"] == [0, 2, 4, 5][curve.index(min(curve))]
        assert row["change"] == pytest.approx(curve[-1] - curve[0])
        assert row["change_se"] == run.forgetting.rows[-1][f"prior/{name}_change_se"]
        assert f"Prior task {name}: {size} of its {split} problems." in run.log
        assert f"to {row['final']:.3f} ({row['change']:+.3f} +- {row['change_se']:.3f}" in run.log


def test_every_problem_of_every_look_is_kept_for_paired_comparisons(run: Finished) -> None:
    kept = pd.read_parquet(run.folder / "tables" / "forgetting_problems.parquet")
    assert list(kept.columns) == ["task", "problem", "look", "generation", "reward", "solved"]
    letters = kept[kept.task == "letters"].pivot(index="problem", columns="generation", values="reward")
    assert list(letters.index) == [f"test/{i}" for i in range(4)]
    for row, generation in zip(run.forgetting.rows, (0, 2, 4, 5), strict=True):
        changes = letters[generation] - letters[0]
        assert changes.mean() == pytest.approx(row["prior/letters_change"])
        assert changes.sem() == pytest.approx(row["prior/letters_change_se"])
    assert kept[kept.task == "bytes"].solved.isna().all()
    assert set(kept[kept.task == "letters"].solved) <= {0.0, 1.0}


def test_a_table_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "tables").write_text("in the way")
    with pytest.raises(StorageError, match=r"forgetting\.json could not be written"):
        forgetting()._report(SimpleNamespace(default_root_dir=tmp_path, loggers=[]))  # type: ignore[arg-type]


def test_a_sentence_says_what_happened() -> None:
    row = {"base": 0.585, "final": 0.503, "change": -0.082, "change_se": 0.012}
    row |= {"minimum": 0.49, "minimum_generation": 300}
    fell = "Prior task x fell from 0.585 to 0.503 (-0.082 +- 0.012), lowest 0.490 at generation 300."
    assert sentence("x", row) == fell
    doubtful = sentence("x", row | {"change": 0.02, "final": 0.605})
    assert "rose from 0.585 to 0.605 (+0.020 +- 0.012, which may be chance)" in doubtful
    assert "(-0.082)" in sentence("x", row | {"change_se": None})


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 5))
def test_a_choice_of_problems_keeps_their_order_and_follows_the_seed(n: int, size: int, seed: int) -> None:
    problems = [Prompt(str(i), "") for i in range(n)]
    assert choose(problems, size, None) == problems[:size]
    chosen = choose(problems, size, seed)
    indices = [int(prompt.id) for prompt in chosen]
    assert indices == sorted(set(indices))
    assert len(indices) == min(n, size)
    assert chosen == choose(problems, size, seed)
    if n == 40 and size == 20:
        assert chosen != choose(problems, size, seed + 1)


# Interruptions


def part(folder: Path, watched: Any, steps: int, ckpt: str | None = None, **options: Any) -> None:
    checkpoints = ModelCheckpoint(folder / "checkpoints", "{step}", save_top_k=-1, every_n_train_steps=1)
    trainer(folder, steps, [*watched, checkpoints], enable_checkpointing=True, **options).fit(
        module(), TaskDataModule(Letters(), grading=HERE), ckpt_path=ckpt
    )


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Forgetting]:
    """A whole run of four generations with a checkpoint of each, measured after each."""
    folder, watched = tmp_path_factory.mktemp("parts"), forgetting(every=1)
    part(folder, [watched], 4)
    return folder, watched


def test_a_resumed_run_ends_with_the_numbers_of_an_uninterrupted_one(
    parts: tuple[Path, Forgetting],
) -> None:
    folder, whole = parts
    resumed = forgetting(every=1)
    # Generations 1 to 3 come from the journal: no member takes the centre's place in the engine in between.
    part(folder, [resumed], 4, str(folder / "checkpoints" / "step=1.ckpt"))
    assert [row["generation"] for row in resumed.rows] == [0, 1, 2, 3, 4]
    assert resumed.state_dict() == whole.state_dict()


def test_a_checkpoint_of_version_0_1_0_has_its_base_model_measured_again(
    parts: tuple[Path, Forgetting],
) -> None:
    folder, whole = parts
    path = folder / "checkpoints" / "step=2.ckpt"
    saved = torch.load(path, weights_only=True)
    state = saved["callbacks"][forgetting(every=1).state_key]
    del state["looks"]
    for base in state["base"].values():
        del base["solved"], base["named"], base["generation"]
    for row in state["rows"]:
        for name in [name for name in row if "accuracy_" in name or "_null_" in name]:
            del row[name]
    torch.save(saved, folder / "old.ckpt")
    resumed = forgetting(every=1)
    part(folder, [resumed], 4, str(folder / "old.ckpt"))
    assert resumed.base == whole.base
    for name in ("prior/letters", "prior/letters_minimum", "prior/letters_accuracy_change_se"):
        assert resumed.rows[-1][name] == whole.rows[-1][name]
    assert [look.generation for look in resumed.looks["letters"]] == [3, 4]


def test_what_an_interruption_has_cut_off_is_made_up_for(
    tmp_path: Path, parts: tuple[Path, Forgetting]
) -> None:
    _, whole = parts
    part(tmp_path, [], 2)
    added = forgetting()
    part(tmp_path, [added], 3, str(tmp_path / "checkpoints" / "step=2.ckpt"))
    assert [row["generation"] for row in added.rows] == [2, 3]
    assert added.base == whole.base
    for row, index in zip(added.rows, (2, 3), strict=True):
        for name in ("prior/letters", "prior/letters_change_se", "prior/bytes_change"):
            assert row[name] == whole.rows[index][name]


def test_a_validation_that_an_interruption_has_cut_off_is_made_up_for(tmp_path: Path) -> None:
    whole, resumed = forgetting(), forgetting()
    part(tmp_path, [whole], 4, val_check_interval=2)
    # This checkpoint was written before the validation of generation 2, which Lightning leaves out then.
    part(tmp_path, [resumed], 4, str(tmp_path / "checkpoints" / "step=2.ckpt"), val_check_interval=2)
    assert [set(row) for row in resumed.rows] == [set(row) for row in whole.rows]
    assert resumed.rows[1] == pytest.approx(whole.rows[1], rel=1e-6)  # Lightning's means are float32


def test_other_callbacks_find_what_was_measured_before_an_interruption(
    parts: tuple[Path, Forgetting],
) -> None:
    folder, whole = parts
    stopping = EarlyStopping("prior/bytes", mode="max", patience=9)
    rare = forgetting(every=25)  # measures nothing before the validation
    part(folder, [rare, stopping], 4, str(folder / "checkpoints" / "step=1.ckpt"))
    assert [row["generation"] for row in rare.rows] == [0, 1, 4]
    assert float(stopping.best_score) == pytest.approx(whole.rows[1]["prior/bytes"])


def test_an_old_reward_of_the_new_task_is_shown_to_nobody() -> None:
    shown = SimpleNamespace(callback_metrics={})
    forgetting().show(shown, {"prior/mean": 1.0, "val/reward": 2.0, "reward/mean": 3.0})  # type: ignore[arg-type]
    assert shown.callback_metrics == {"prior/mean": 1.0}


def test_other_problems_than_before_are_refused_at_once(parts: tuple[Path, Forgetting]) -> None:
    folder, _ = parts
    records = Records()
    with pytest.raises(UsageError, match="other problems than before"):
        part(
            folder, [forgetting(every=25, sample=2), records], 5, str(folder / "checkpoints" / "step=1.ckpt")
        )
    assert not records.generations


class PutBack(Callback):
    """Ends a run after three generations with the centre of the first, as EarlyPeak does."""

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Put the centre back."""
        if trainer.global_step == 3:
            pl_module.restore(1)
            trainer.should_stop = True


def test_a_centre_that_was_put_back_has_no_rewards_of_the_one_before(tmp_path: Path) -> None:
    watched = forgetting(every=1)
    trainer(tmp_path, 5, [watched, PutBack()], val_check_interval=1).fit(
        module(), TaskDataModule(Letters(), grading=HERE)
    )
    first, fallen, last = (watched.rows[i] for i in (1, 3, 4))
    assert [fallen["generation"], last["generation"]] == [3, 3]
    assert "val/reward" in fallen
    of_all_looks = ("_minimum", "_minimum_p", "_null_bound")
    names = {name for name in first if name.startswith("prior/") and not name.endswith(of_all_looks)}
    assert {name: last[name] for name in names} == {name: first[name] for name in names}
    assert {name for name in last if not name.startswith("prior/")} == {"generation"}


# Grading


def graders() -> set[psutil.Process]:
    living = set()
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if child.status() != psutil.STATUS_ZOMBIE:
                living.add(child)
    return living


class Fails(Callback):
    """Ends a run with an error."""

    def on_train_batch_end(self, *_: Any) -> None:
        """Fail."""
        raise ArithmeticError("on purpose")


@pytest.mark.parametrize("fails", [False, True])
def test_graders_of_prior_tasks_are_processes_that_end_with_the_run(tmp_path: Path, fails: bool) -> None:
    before = graders()
    watched = forgetting(tasks={"bytes": Bytes()}, every=1, grading=Grading(workers=1))
    if fails:
        with pytest.raises(ArithmeticError):
            fit(Letters(), tmp_path, 1, callbacks=[watched, Fails()])
    else:
        fit(Letters(), tmp_path, 1, callbacks=[watched])
    assert watched.rows, "something was graded"
    _, left = psutil.wait_procs(graders() - before, timeout=5)
    assert not left


# Options


class Empty(Letters):
    """Has no problems."""

    def problems(self, split: str) -> list[Prompt]:
        return []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample": 0}, "sample is 0"),
        ({"every": 0}, "every is 0"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"split": "train"}, "split is 'train'"),
        ({"tasks": {"a b": Letters()}}, "letters, digits"),
        ({"tasks": {"mean": Letters()}}, "'mean': rename"),
        ({"tasks": {"accuracy": Letters()}}, "'accuracy': rename"),
        ({"tasks": {"a": Letters(), "a_change": Letters()}}, "'a_change': rename"),
    ],
)
def test_values_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        forgetting(**options)


@pytest.mark.parametrize(
    ("tasks", "message"), [({}, "has no tasks"), ({"empty": Empty()}, "no problems in test or val")]
)
def test_nothing_to_evaluate_is_refused_before_the_engine_starts(
    tmp_path: Path, tasks: dict[str, Task], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        fit(Letters(), tmp_path, 1, callbacks=[forgetting(tasks=tasks)])


@pytest.mark.parametrize("as_text", [False, True])
def test_yaml_names_tasks_of_any_kind(as_text: bool) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--callback", type=Callback)
    arc = {"dataset": "arc_challenge", "data": "sample", "mode": "loglikelihood"}
    task = {"class_path": "es_lightning.tasks.MultipleChoice", "init_args": arc}
    options = {"tasks": {"arc": task}, "sample": 5, "grading": {"workers": 1}}
    written = {"class_path": "es_lightning.callbacks.forgetting.Forgetting", "init_args": options}
    text, parsed = [f"--callback={json.dumps(written)}"], {"callback": written}
    made = parser.instantiate(parser.parse_args(text) if as_text else parser.parse_object(parsed)).callback
    assert made.tasks["arc"].problems("test")
    assert made.scorers["arc"].grading == Grading(workers=1)


def test_a_prior_task_may_be_one_of_log_likelihoods(tmp_path: Path) -> None:
    from es_lightning.tasks import MultipleChoice

    arc = MultipleChoice("arc_challenge", data="sample", mode="loglikelihood")
    watched = forgetting(tasks={"arc": arc}, sample=4)
    fit(Letters(), tmp_path, 1, callbacks=[watched])
    assert [row["generation"] for row in watched.rows] == [0, 1]
    assert all(0 <= row["prior/arc_accuracy"] <= 1 for row in watched.rows)


# Ranks


class Dump(Callback):
    """Writes the rows of other callbacks, as this rank has them."""

    def __init__(self, watched: list[Any], folder: Path) -> None:
        self.watched, self.folder = watched, folder

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Write them."""
        rows = [[callback.rows, callback.state_dict()] for callback in self.watched]
        (self.folder / f"rows-{trainer.global_rank}.json").write_text(json.dumps(rows))


class Probed(Run):
    """A run with both callbacks that probe the centre."""

    def module(self) -> Any:
        """The module, which brings them along."""
        tuned = super().module()
        both = [forgetting(), KLDrift({"bytes": Bytes()}, prompts=3, max_tokens=6, every=2, positions=5)]
        tuned.configure_callbacks = lambda: [*both, Dump(both, self.folder)]
        return tuned

    def rows(self, rank: int = 0) -> Any:
        """What a rank had."""
        return json.loads((self.folder / f"rows-{rank}.json").read_text())


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.long
def test_two_ranks_find_what_one_does(tmp_path: Path) -> None:
    alone, two = Probed(tmp_path / "1", steps=3), Probed(tmp_path / "2", steps=3)
    assert fit_ranks(alone) == [0], alone.log()
    assert fit_ranks(two, world=2) == [0, 0], two.log()
    assert two.rows(0) == two.rows(1)
    assert two.lines() == alone.lines()
    assert two.rows()[0] == alone.rows()[0]
    # Samples at temperature 1 depend on the batches that they are drawn in, so two ranks draw others.
    measured, unchanged = two.rows()[1][0], two.rows()[1][0][0]
    assert [row["generation"] for row in measured] == [0, 2, 3]
    assert set(unchanged.values()) == {0.0}
