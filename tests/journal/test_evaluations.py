"""evaluations.jsonl: one line per evaluation, whole after crashes, without repetitions after a resume."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.callbacks import ModelCheckpoint

from es_lightning.callbacks import RunReport
from es_lightning.datamodule import TaskDataModule
from es_lightning.errors import UsageError
from es_lightning.evaluation.recorded import SAMPLES, recorded
from es_lightning.grading.scorer import Grading
from es_lightning.journal.evaluations import (
    EVALUATIONS,
    RecordedEvaluation,
    RunEvaluations,
    Sample,
    read_evaluations,
)
from es_lightning.module import EvolutionStrategies
from es_lightning.records import Completion, Costs, Evaluation, Prompt
from tests.helpers.fits import Letters, module, trainer

ROW = RecordedEvaluation(
    step=0,
    split="val",
    prompts=("a/0", "a/1"),
    rewards=(0.25, 1.0),
    scores={"reward": 0.625},
    tokens=7,
    cost=Costs(8, 90, 1.5, 1e9),
    samples=(Sample("Hi\n", "\u2028 bye", 0.25),),
    centre="ab",
)
OTHERS = [replace(ROW, step=step) for step in (2, 4, 6)]


def begun(folder: Path, steps: int = 10, resumes: bool = True) -> RunEvaluations:
    evaluations = RunEvaluations()
    evaluations.open(folder, steps, resumes, writes=True)
    return evaluations


@given(
    st.lists(st.tuples(st.text(), st.floats(allow_nan=False, allow_infinity=False)), min_size=1, max_size=3),
    st.integers(0, 2**40),
)
def test_a_line_is_read_as_it_was(texts: list[tuple[str, float]], count: int) -> None:
    samples = tuple(Sample(text.replace("\0", ""), text, reward) for text, reward in texts)
    prompts = tuple(f"p/{n}" for n in range(len(texts)))
    row = replace(ROW, prompts=prompts, rewards=tuple(r for _, r in texts), samples=samples, tokens=count)
    assert "\n" not in row.line()
    assert RecordedEvaluation.parse(row.line()) == row


def test_the_same_evaluation_is_written_once(tmp_path: Path) -> None:
    evaluations = RunEvaluations()
    evaluations.add(ROW)  # before there is a file, as the held-out evaluation of the base model
    evaluations.open(tmp_path, steps=0, resumes=False, writes=True)
    for row in (ROW, OTHERS[0], replace(OTHERS[0], tokens=8), replace(OTHERS[0], split="test")):
        evaluations.add(row)
    restored = replace(OTHERS[0], centre="cd")  # other weights, after as many generations
    evaluations.add(restored)
    wanted = [ROW, OTHERS[0], replace(OTHERS[0], split="test"), restored]
    assert read_evaluations(tmp_path) == evaluations.rows == wanted


def test_a_torn_end_is_dropped_and_the_run_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = begun(tmp_path)
    for row in (ROW, *OTHERS):
        first.add(row)
    path = tmp_path / EVALUATIONS
    path.write_bytes(path.read_bytes()[:-20])
    with caplog.at_level(logging.WARNING):
        assert read_evaluations(tmp_path) == [ROW, *OTHERS[:2]]
    assert "the last line is torn" in caplog.text
    again = begun(tmp_path)
    again.add(OTHERS[1])
    again.add(OTHERS[2])
    assert read_evaluations(tmp_path) == [ROW, *OTHERS]


def test_evaluations_of_lost_centres_are_dropped(tmp_path: Path) -> None:
    first = begun(tmp_path)
    for row in (ROW, *OTHERS):
        first.add(row)
    assert begun(tmp_path, steps=4).rows == read_evaluations(tmp_path) == [ROW, *OTHERS[:2]]


def test_a_new_run_replaces_the_file_and_a_copied_checkpoint_fills_it(tmp_path: Path) -> None:
    begun(tmp_path).add(OTHERS[2])
    assert begun(tmp_path, resumes=False).rows == []
    begun(tmp_path).add(OTHERS[1])
    other = RunEvaluations()
    other.saved = [row.line() for row in (ROW, *OTHERS[:2])]
    other.open(tmp_path, steps=4, resumes=True, writes=True)
    assert read_evaluations(tmp_path) == [ROW, *OTHERS[:2]]


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    evaluations = RunEvaluations()
    evaluations.open(tmp_path, steps=4, resumes=True, writes=False)
    evaluations.add(ROW)
    assert evaluations.rows == [ROW]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"step": -1}, 'has -1 as "step"'),
        ({"rewards": [1.0]}, "has 2 prompts and 1 rewards"),
        ({"rewards": [1.0, None]}, 'as "rewards", which has to be a list, each item a finite number'),
        ({"cost": {"rollouts": 1}}, "a mapping with rollouts, tokens, seconds, flops alone"),
        ({"samples": [{"prompt": "a", "completion": "b", "reward": 0, "more": 1}]}, 'as "samples"'),
        ({"scores": None}, 'has None as "scores"'),
        ({"solved": [1]}, 'has 2 prompts and 1 items in "solved"'),
        ({"solved": [0, 1.5]}, 'as "solved", which has to be a list, each item a number from 0 to 1'),
    ],
)
def test_a_damaged_file_is_refused_with_its_line(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    lines = [json.dumps(json.loads(ROW.line()) | change), OTHERS[0].line()]
    (tmp_path / EVALUATIONS).write_text("".join(f"{line}\n" for line in lines))
    for read in (lambda: read_evaluations(tmp_path), lambda: begun(tmp_path)):
        with pytest.raises(UsageError, match=r"evaluations.jsonl is damaged in line 1: it ") as caught:
            read()
        assert words in str(caught.value)


def test_a_folder_without_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no evaluations.jsonl in .*: give the folder of a fit"):
        read_evaluations(tmp_path)
    (tmp_path / EVALUATIONS).mkdir()
    with pytest.raises(UsageError, match="is a folder, and no record of evaluations"):
        read_evaluations(tmp_path)


def test_what_is_kept_of_an_evaluation() -> None:
    prompts = tuple(Prompt(f"p/{n}", f"text {n}") for n in range(SAMPLES + 1))
    texts = tuple(Completion(f"{n} \ud800", (1,) * n, "stop") for n in range(2 * len(prompts)))
    scores = tuple({"reward": float(n), "accuracy": float(n % 2)} for n in range(len(texts)))
    row = recorded(Evaluation(prompts, texts, scores, pass_k=2), "test", 3, "cd", ROW.cost)
    assert row.rewards == (1.0, 3.0, 5.0, 7.0, 9.0)  # the better of two
    assert row.scores["reward"] == 5.0
    assert row.scores["accuracy"] == 0.5
    assert row.scores["completion_tokens"] == 4.5
    assert row.tokens == sum(range(10))
    assert row.samples == tuple(Sample(f"text {n}", f"{2 * n} ?", 2.0 * n) for n in range(SAMPLES))
    assert row.prompts == tuple(prompt.id for prompt in prompts)
    assert row.line().encode()
    assert row.solved == (0.5,) * len(prompts), "of the two samples of a problem one is right"
    assert RecordedEvaluation.parse(row.line()).solved == row.solved


def test_marks_are_those_of_an_accuracy_and_older_lines_have_none() -> None:
    prompts = (Prompt("a", "A"), Prompt("b", "B"))
    texts = (Completion("a", (1,), "stop"),) * 2

    def solved(*scores: dict[str, float]) -> tuple[float, ...]:
        return recorded(Evaluation(prompts, texts, scores), "val", 0, "", ROW.cost).solved

    assert solved({"reward": -3.0, "accuracy": 1.0}, {"reward": -9.0, "failed_timeout": 1.0}) == (1.0, 0.0)
    assert solved({"reward": 1.0}, {"reward": 0.0}) == (), "the rewards say that already"
    assert solved({"reward": 1.0, "accuracy": 0.5}, {"reward": 0.0, "accuracy": 1.0}) == ()
    older = json.loads(ROW.line())
    del older["solved"]
    assert RecordedEvaluation.parse(json.dumps(older)) == ROW


# In a fit


class Validated(ModelCheckpoint):
    """Writes a checkpoint before each validation, and may fail after one."""

    dies_at: int | None = None

    def on_validation_end(self, run: Any, *_: Any) -> None:
        """After the row is written."""
        if run.global_step == self.dies_at:
            raise RuntimeError("killed")


def fitted(folder: Path, checkpoint: Path | None = None, dies_at: int | None = None) -> EvolutionStrategies:
    """Six generations, validated after every second, and the held-out evaluations."""
    tuned, data = module(), TaskDataModule(Letters(), grading=Grading(workers=0), prompts_per_generation=3)
    keep = Validated(folder / "kept", "{step}", save_top_k=-1, every_n_train_steps=2)
    keep.dies_at = dies_at
    run = trainer(folder, 6, [keep, RunReport(export=False)], val_check_interval=2, enable_checkpointing=True)
    if dies_at is None:
        run.fit(tuned, data, ckpt_path=checkpoint)
    else:
        with pytest.raises(RuntimeError, match="killed"):
            run.fit(tuned, data, ckpt_path=checkpoint)
    return tuned


def without_clock(folder: Path) -> list[RecordedEvaluation]:
    return [replace(row, cost=replace(row.cost, seconds=0)) for row in read_evaluations(folder)]


@pytest.mark.slow
def test_a_killed_fit_leaves_the_rows_of_an_undisturbed_one(tmp_path: Path) -> None:
    whole = fitted(tmp_path / "whole")
    wanted = without_clock(tmp_path / "whole")
    assert [(row.step, row.split) for row in wanted] == [
        *((0, "test"), (2, "val"), (4, "val"), (6, "val"), (6, "test"))
    ]
    assert [row.cost.rollouts for row in wanted] == [0, 24, 48, 72, 72]
    assert wanted[-1].centre == wanted[-2].centre == whole.checksum()
    data = whole.data
    assert wanted[0].prompts == tuple(prompt.id for prompt in data.prompts("test"))
    fitted(tmp_path / "parts", dies_at=4)
    assert without_clock(tmp_path / "parts") == wanted[:3]
    checkpoint = tmp_path / "parts" / "kept" / "step=2.ckpt"
    fitted(tmp_path / "parts", checkpoint)
    assert without_clock(tmp_path / "parts") == wanted
    fitted(tmp_path / "elsewhere", tmp_path / "parts" / "kept" / "step=4.ckpt")
    # That checkpoint was written before the validation of its own step, which Lightning does not make up.
    assert without_clock(tmp_path / "elsewhere") == [*wanted[:2], *wanted[3:]]
