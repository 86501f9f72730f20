"""The table against the task's own rewards and the texts of restored centres; read back by pandas."""

import json
import math
from pathlib import Path
from typing import Any

import pandas
import pytest
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint

from es_lightning.callbacks import monitor
from es_lightning.callbacks.rollout_table import KEPT_CHARACTERS, RolloutTable, bounded, rows_of, table
from es_lightning.datamodule import TaskDataModule
from es_lightning.errors import UsageError
from es_lightning.grading.scorer import Grading
from es_lightning.records import Completion, Evaluation, Prompt
from es_lightning.rollout import Sampling
from es_lightning.task import Reward
from tests.helpers.fits import Letters, fit, module, trainer

pytestmark = [pytest.mark.slow, pytest.mark.callbacks]  # many fits


class Unvalidated(Letters):
    """Has training problems alone."""

    def problems(self, split: str) -> list[Prompt]:
        return super().problems(split) if split == "train" else []


class Says(Letters):
    """Gives a number of its own beside the reward."""

    def reward(self, prompt: Prompt, completion: str) -> Reward:
        return {"reward": float(len(completion)), "tokens": 7.0, "first": float(ord((completion or "?")[0]))}


def evaluation(*texts: str, samples: int = 1, **scores: float) -> Evaluation:
    prompts = tuple(Prompt(f"p/{i}", f"prompt {i}") for i in range(len(texts) // samples))
    completions = tuple(Completion(text, (1, 2), "stop") for text in texts)
    return Evaluation(prompts, completions, tuple({"reward": 1.0, **scores} for _ in texts))


def test_rows_hold_what_the_centre_of_then_answers_and_earns(tmp_path: Path) -> None:
    watched, task = RolloutTable(prompts=2, every=2), Letters()
    tuned, _ = fit(task, tmp_path, steps=5, callbacks=[watched])
    assert [(row["generations"], row["prompt_id"]) for row in watched.rows] == [
        (updates, f"val/{i}") for updates in (0, 2, 4, 5) for i in range(2)
    ]
    for updates in (0, 2, 4, 5):
        tuned.restore(updates)
        tuned.rollouts.hold_centre(tuned.centre)
        rows = [row for row in watched.rows if row["generations"] == updates]
        for row, prompt in zip(rows, tuned.reserve(task.problems("val")[:2]), strict=True):
            (completion,) = tuned.rollouts.complete([prompt])
            assert row["completion"] == completion.text
            assert row["tokens"] == len(completion.token_ids)
            assert row["scores"] == task.reward(prompt, completion.text)


def test_pandas_reads_the_table(tmp_path: Path) -> None:
    watched = RolloutTable(prompts=3, every=2)
    fit(Says(), tmp_path, steps=2, callbacks=[watched])
    frame = pandas.read_json(tmp_path / "tables" / "rollouts.json", orient="split")
    assert frame["completion"].tolist() == [row["completion"] for row in watched.rows]
    assert frame["reward"].tolist() == [len(row["completion"]) for row in watched.rows]
    assert frame["score tokens"].tolist() == [7.0] * 6
    assert frame["generations"].tolist() == [0, 0, 0, 2, 2, 2]


@pytest.mark.parametrize(
    "text", ["\x00\x1b[0m\x7f", "\ud800 half", "\u202eright", "</script>", "", "NaN", "1e5"]
)
def test_any_completion_survives_the_table(text: str, tmp_path: Path) -> None:
    (row,) = rows_of(evaluation(text), 0)
    path = tmp_path / "t.json"
    path.write_bytes(json.dumps(table([row])).encode("ascii"))
    expected = text.replace("\ud800", "\ufffd")
    assert pandas.read_json(path, orient="split", dtype=False)["completion"][0] == expected
    assert row["completion"].encode("utf-8").decode() == expected


def test_a_megabyte_is_kept_up_to_a_limit_and_its_length_told() -> None:
    (row,) = rows_of(evaluation("ab" * 500_000), 3)
    assert row["completion"] == "ab" * (KEPT_CHARACTERS // 2)
    assert row["characters"] == 1_000_000


def test_numbers_that_json_has_not_are_left_empty() -> None:
    rows = rows_of(evaluation("a", odd=math.nan, even=math.inf), 0) + rows_of(evaluation("b", new=2.0), 1)
    made = table(rows)
    named = [dict(zip(made["columns"], values, strict=True)) for values in made["data"]]
    assert [(row["odd"], row["even"], row["new"]) for row in named] == [(None, None, None), (None, None, 2.0)]
    json.dumps(made, allow_nan=False)


def test_samples_of_a_prompt_are_numbered() -> None:
    rows = rows_of(evaluation("a", "b", "c", "d", samples=2), 0)
    assert [(row["prompt_id"], row["sample"], row["completion"]) for row in rows] == [
        ("p/0", 0, "a"),
        ("p/0", 1, "b"),
        ("p/1", 0, "c"),
        ("p/1", 1, "d"),
    ]


@pytest.mark.parametrize("count", [1, 50, 51, 52, 130])
def test_the_first_and_the_latest_fifty_measurements_are_kept(count: int) -> None:
    rows: list[dict[str, Any]] = []
    for updates in range(0, 3 * count, 3):
        rows = bounded(rows + rows_of(evaluation("a", "b"), updates))
    every = list(range(0, 3 * count, 3))
    expected = [u for i, u in enumerate(every) if i == 0 or i >= count - 50]
    assert [row["generations"] for row in rows] == [u for u in expected for _ in range(2)]


def test_a_task_without_validation_is_asked_its_training_prompts(tmp_path: Path) -> None:
    watched = RolloutTable(prompts=9, max_tokens=2)
    run = trainer(tmp_path, 1, [watched], limit_val_batches=0)
    run.fit(module(), TaskDataModule(Unvalidated(), grading=Grading(workers=0)))
    assert [row["prompt_id"] for row in watched.rows] == [f"train/{i}" for i in range(4)] * 2
    assert all(row["tokens"] <= 2 for row in watched.rows)


def test_longer_answers_than_training_has_get_their_room(tmp_path: Path) -> None:
    watched = RolloutTable(prompts=1, max_tokens=40)
    fit(Letters(), tmp_path, steps=1, callbacks=[watched], sampling=Sampling(max_tokens=3))
    assert max(row["tokens"] for row in watched.rows) > 3


@pytest.mark.parametrize("every", [1, 3])
def test_a_run_that_repeats_its_journal_has_the_same_rows(tmp_path: Path, every: int) -> None:
    whole, resumed = RolloutTable(prompts=2, every=every), RolloutTable(prompts=2, every=every)
    checkpoints = ModelCheckpoint(tmp_path / "checkpoints", "{step}", save_top_k=-1, every_n_train_steps=1)
    data = TaskDataModule(Letters(), grading=Grading(workers=0))
    options: dict[str, Any] = {"enable_checkpointing": True, "limit_val_batches": 0}
    trainer(tmp_path, 4, [whole, checkpoints], **options).fit(module(), data)
    again = trainer(tmp_path, 4, [resumed, Callback()], limit_val_batches=0)
    again.fit(module(), data, ckpt_path=str(tmp_path / "checkpoints" / "step=1.ckpt"))
    assert resumed.rows == whole.rows
    assert len({row["completion"] for row in whole.rows}) > 2, "the centres must differ for this to tell"


def test_the_final_centre_is_the_average_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    real = RolloutTable.act

    def noted(table: RolloutTable, trainer: Any, tuned: Any) -> None:
        asked.append(tuned.checksum())
        real(table, trainer, tuned)

    monkeypatch.setattr(RolloutTable, "act", noted)
    watched = RolloutTable(prompts=1, every=2)
    tuned, records = fit(Letters(), tmp_path, steps=2, callbacks=[EMAWeightAveraging(decay=0.5), watched])
    assert asked == [records.checksums[0], records.checksums[3], tuned.checksum()]
    assert tuned.checksum() != records.checksums[3]
    assert [row["generations"] for row in watched.rows] == [0, 2]


def test_table_and_page_are_handed_to_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[str, ...]] = []
    monkeypatch.setattr(monitor, "log_table", lambda _, path: given.append((path.name,)))
    monkeypatch.setattr(monitor, "log_artifact", lambda _, path, folder: given.append((path.name, folder)))
    fit(Letters(), tmp_path, steps=1, callbacks=[RolloutTable(prompts=1)])
    assert given == [("rollouts.json",), ("rollouts.html", "tables")] * 2
    page = (tmp_path / "tables" / "rollouts.html").read_text()
    assert "Letters on tiny" in page
    assert "seed <b>0</b>" in page


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prompts": 0}, "prompts is 0"),
        ({"every": 0}, "every is 0"),
        ({"max_tokens": -1}, "max_tokens is -1"),
        ({"split": "dev"}, "give train, val or test"),
    ],
)
def test_values_that_make_no_sense_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        RolloutTable(**options)


def test_rows_of_version_0_1_0_are_taken_over() -> None:
    rows = rows_of(evaluation("a"), 3)
    old = [{("updates" if key == "generations" else key): row[key] for key in row} for row in rows]
    table = RolloutTable()
    table.load_state_dict({"rows": old})
    assert table.rows == rows
