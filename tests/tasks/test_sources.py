"""Rows come from files, folders, saved data sets and the hub; what is amiss ends in one clear sentence."""

import json
import pickle
import re
import sys
import time
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pyarrow
import pytest
from datasets import Dataset, DatasetDict
from huggingface_hub import constants
from pyarrow import parquet

from es_lightning.errors import UsageError
from es_lightning.tasks.datasets.sources import SAMPLE, UNKNOWN, Source, read_rows

ROWS = [{"question": "2 + 2?", "answer": "4"}, {"question": "3 + 3?", "answer": "6"}]
ONE, OTHER = [ROWS[0]], [ROWS[1]]
HIDDEN_TEST = Source("owner/quiz", {"train": "train", "test": "validation"}, "main", "gsm8k")
TEST_ONLY = Source("owner/exam", {"test": "test"})
FIND = "pickle.find_class"


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def refused(data: str | None, source: Source | None = None) -> str:
    """What is said of data that cannot be used: one line, soon."""
    started = time.monotonic()
    with pytest.raises(UsageError) as error:
        read_rows(data, source)
    assert time.monotonic() - started < 30
    message = str(error.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


# Files and folders


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_a_file_gives_its_rows_in_order(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path / f"own.{ending}", ROWS)
    assert read_rows(path, None) == {UNKNOWN: ROWS}
    assert read_rows(path, HIDDEN_TEST) == {UNKNOWN: ROWS}
    assert read_rows(path, TEST_ONLY) == {"test": ROWS}


def test_a_file_may_have_empty_lines_windows_line_ends_and_a_byte_order_mark(tmp_path: Path) -> None:
    rows = [*ROWS, {"question": "a\u2028b\x85c"}]  # what str.splitlines takes for line ends
    text = "\ufeff" + "\r\n\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\r\n"
    (tmp_path / "own.jsonl").write_bytes(text.encode())
    assert read_rows(str(tmp_path / "own.jsonl"), None) == {UNKNOWN: rows}


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize("source", [None, HIDDEN_TEST, TEST_ONLY])
def test_rows_name_their_own_split(tmp_path: Path, ending: str, source: Source | None) -> None:
    names = ["train", "validation", "valid", "dev", "val", "test"]
    rows = [{"question": name, "split": name} for name in names]
    found = read_rows(write(tmp_path / f"own.{ending}", rows), source)
    assert found == {"train": rows[:1], "val": rows[1:5], "test": rows[5:]}


@pytest.mark.parametrize("name", ["val", "validation", "valid", "dev"])
@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_files_of_a_folder_are_named_for_splits(tmp_path: Path, ending: str, name: str) -> None:
    write(tmp_path / f"train.{ending}", ONE)
    write(tmp_path / f"{name}.{ending}", OTHER)
    write(tmp_path / f"notes.{ending}", ROWS)
    assert read_rows(str(tmp_path), None) == {"train": ONE, "val": OTHER}


def test_a_saved_data_set_is_read_whole_or_by_its_splits(tmp_path: Path) -> None:
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "one")
    assert read_rows(str(tmp_path / "one"), None) == {UNKNOWN: ROWS}
    assert read_rows(str(tmp_path / "one"), TEST_ONLY) == {"test": ROWS}
    DatasetDict(train=Dataset.from_list(ONE), dev=Dataset.from_list(OTHER)).save_to_disk(tmp_path / "two")
    assert read_rows(str(tmp_path / "two"), None) == {"train": ONE, "val": OTHER}


def save(path: Path, **parts: list[dict[str, Any]]) -> str:
    DatasetDict({name: Dataset.from_list(rows) for name, rows in parts.items()}).save_to_disk(path)
    return str(path)


def test_the_splits_of_a_known_data_set_are_taken_from_a_copy(tmp_path: Path) -> None:
    unlabelled = [{"question": "1 + 1?", "answer": ""}]
    copy = save(tmp_path / "copy", train=ONE, validation=OTHER, test=unlabelled)
    assert read_rows(copy, HIDDEN_TEST) == {"train": ONE, "test": OTHER}
    assert read_rows(copy, None) == {"train": ONE, "val": OTHER, "test": unlabelled}
    without = save(tmp_path / "without", train=ONE, test=OTHER)  # not that data set: plain names count
    assert read_rows(without, HIDDEN_TEST) == {"train": ONE, "test": OTHER}


def test_columns_that_nobody_needs_are_left_out(tmp_path: Path) -> None:
    source = Source("owner/quiz", {"train": "train"}, columns=("question", "missing"))
    expected = [{"question": row["question"]} for row in ROWS]
    assert read_rows(save(tmp_path / "parts", train=ROWS), source) == {"train": expected}
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "whole")
    assert read_rows(str(tmp_path / "whole"), source) == {UNKNOWN: expected}


def test_the_sample_is_the_shipped_file() -> None:
    shipped = Path(__file__).parents[2] / "tasks" / "datasets" / "samples" / "gsm8k.jsonl"
    rows = [row for part in read_rows(SAMPLE, HIDDEN_TEST).values() for row in part]
    lines = [json.loads(line) for line in shipped.read_text().splitlines()]
    assert sorted(rows, key=json.dumps) == sorted(lines, key=json.dumps)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("none.jsonl", None, "none.jsonl: give a file that can be read"),
        ("none.parquet", None, "none.parquet: give a file that can be read"),
        ("bad.jsonl", b'{"a": 1}\n\n{"a": \n', "bad.jsonl line 3 is not JSON"),
        ("deep.jsonl", b"[" * 100_000, "deep.jsonl line 1 is not JSON"),
        ("list.jsonl", b'{"a": 1}\n[1]\n', "list.jsonl line 2 is not a JSON object.* such as"),
        ("bytes.jsonl", b'{"a": "\xff"}\n', "bytes.jsonl: give a file that can be read"),
        ("name.jsonl", b'{"split": "train"}\n{"split": "eval"}\n', "name.jsonl: in row 2.* train, val or"),
        ("type.jsonl", b'{"split": ["train"]}\n', "type.jsonl: in row 1.* train, val or test"),
        ("bad.parquet", b"PAR1 but no more", "bad.parquet: give a file that can be read"),
        ("own.csv", b"question,answer\n", "own.csv: give a file that ends in .jsonl or .parquet"),
        ("nowhere", None, "nowhere: there is no such folder.* hub id"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, name: str, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert re.search(said, refused(str(tmp_path / name)))


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([], "no split named train"),
        (["notes.jsonl"], "no split named train"),
        (["train.jsonl", "train.parquet"], "train twice"),
        (["val.jsonl", "dev.jsonl"], "dev and val are both val"),
        (["state.json"], "give a folder that can be read"),
        (["dataset_dict.json"], "give a folder that can be read"),
    ],
)
def test_a_folder_that_cannot_be_used(tmp_path: Path, files: list[str], said: str) -> None:
    for name in files:
        write(tmp_path / name, ROWS)
    message = refused(str(tmp_path))
    assert said in message
    assert str(tmp_path) in message


def test_a_saved_data_set_without_its_rows(tmp_path: Path) -> None:
    Dataset.from_list(ROWS).save_to_disk(tmp_path)
    next(tmp_path.glob("*.arrow")).unlink()
    assert "give a folder that can be read" in refused(str(tmp_path))


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    found: list[str] = []
    watching = [True]  # a hook cannot be removed
    sys.addaudithook(lambda event, _: found.append(event) if watching and event == FIND else None)
    pickle.loads(pickle.dumps(Path))
    assert found  # the hook sees it
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    found.clear()
    for data in (str(tmp_path / "saved"), write(tmp_path / "own.parquet", ROWS)):
        assert read_rows(data, None) == {UNKNOWN: ROWS}
    (tmp_path / "train.pkl").write_bytes(pickle.dumps(Path))
    refused(str(tmp_path / "train.pkl"))
    watching.clear()
    assert not found


# The hub

PARTS = {"train": Dataset.from_list(ONE), "validation": Dataset.from_list(OTHER)}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Stands for a hub; returns what it was asked for."""
    asked: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def load_dataset(*args: Any, **options: Any) -> Any:
        asked.append((args, options))
        return PARTS[options["split"]] if "split" in options else DatasetDict(PARTS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, **__: None)
    return asked


@pytest.mark.parametrize(
    ("data", "source", "splits", "calls"),
    [
        (None, HIDDEN_TEST, {"train": ONE, "test": OTHER}, [("owner/quiz", "main", s) for s in PARTS]),
        ("me/copy:de", HIDDEN_TEST, {"train": ONE, "test": OTHER}, [("me/copy", "de", s) for s in PARTS]),
        ("me/mine", None, {"train": ONE, "val": OTHER}, [("me/mine", None, None)]),
        ("me/mine:de", None, {"train": ONE, "val": OTHER}, [("me/mine", "de", None)]),
    ],
)
def test_what_the_hub_is_asked_for(hub: list[Any], data: Any, source: Any, splits: Any, calls: Any) -> None:
    assert read_rows(data, source) == splits
    assert [(*args, options.pop("split", None)) for args, options in hub] == calls
    assert [options for _, options in hub] == [{}] * len(calls)  # no trust_remote_code among them


def test_a_copy_on_the_hub_gives_the_same_columns(hub: list[Any]) -> None:
    source = Source("owner/quiz", {"train": "train"}, columns=("answer",))
    for data in (None, "me/copy"):
        assert read_rows(data, source) == {"train": [{"answer": "4"}]}


def _no_network(*_: Any, **__: Any) -> None:
    raise ConnectionError("no route to host\nand more")


def test_a_data_set_out_of_reach_says_how_to_bring_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", _no_network)
    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    message = refused(None, HIDDEN_TEST)
    command = "import datasets; datasets.load_dataset('owner/quiz', 'main').save_to_disk('quiz')"
    assert f'python -c "{command}"' in message
    assert "the data set owner/quiz:main could not be loaded" in message
    assert "option data" in message
    assert "load_dataset('me/mine').save_to_disk('mine')" in refused("me/mine")
    assert before == (constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE)


def test_a_data_set_in_the_cache_is_read_without_a_network(hub: list[Any], monkeypatch: Any) -> None:
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", _no_network)
    assert read_rows("me/mine", None) == {"train": ONE, "val": OTHER}


@pytest.mark.parametrize("data", [None, "nowhere", "a/b/c", "./a/b", "/a/b"])
def test_what_is_no_place_says_what_is(data: str | None) -> None:
    assert re.search("folder.* or a hub id", refused(data))
