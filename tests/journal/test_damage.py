"""Damaged journals and rewards: one sentence that names file, line and field; and never a hang."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from es_lightning.cli import command_line as cli
from es_lightning.errors import UsageError
from es_lightning.journal.entry import Entry, lineage, read_journal
from es_lightning.journal.replay import replay
from es_lightning.journal.run import RunJournal

RUN = Path(__file__).parents[1] / "data" / "run_of_0_1_0"
HEADER, *LINES = (RUN / "journal.jsonl").read_text(encoding="utf-8").splitlines()
REWARDS = (RUN / "rewards.jsonl").read_text(encoding="utf-8").splitlines()

Change = Callable[[dict[str, Any]], Any]


def journal(folder: Path, lines: list[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "journal.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def changed(line: str, change: Change) -> str:
    values = json.loads(line)
    change(values)
    return json.dumps(values)


def put(**fields: Any) -> Change:
    return lambda values: values.update(fields)


def drop(field: str) -> Change:
    return lambda values: values.pop(field)


def reordered(*order: int) -> list[str]:
    return [LINES[index] for index in order]


ENTRIES: dict[str, tuple[Change, str]] = {
    "no sigma": (drop("sigma"), 'it has no "sigma"'),
    "no checksum": (drop("checksum"), 'it has no "checksum"'),
    "weights too few": (put(weights="AAAAAAAAAAA="), "it has 6 seeds and 1 weights"),
    "seeds too many": (put(seeds=json.loads(LINES[0])["seeds"] * 2), "it has 12 seeds and 6 signs"),
    "no seeds": (put(seeds="", signs="", weights=""), '"seeds", which has to be a text'),
    "signs too few": (put(signs="+-"), "it has 6 seeds and 2 signs"),
    "other signs": (put(signs="+-+-+x"), "a text of [+], - and 0"),
    "weights text": (put(weights="heavy"), '"weights" are no numbers of 8 bytes in base64'),
    "weights null": (put(weights=None), 'it has None as "weights"'),
    "weights nan": (put(weights=float("nan")), 'it has nan as "weights"'),
    "weights nested": (put(weights=[[1.0]]), 'it has a list of 1 items as "weights"'),
    "sigma nan": (put(sigma=float("nan")), "which has to be a number above 0"),
    "sigma true": (put(sigma=True), "which has to be a number above 0"),
    "lr text": (put(lr="fast"), "it has 'fast' as \"lr\""),
    "momentum text": (put(momentum="much"), "it has 'much' as \"momentum\""),
    "reward without mean": (put(reward={"std": 1.0}), "a mapping with mean, std, min, max"),
    "reward text": (put(reward="high"), '"reward"'),
    "tokens negative": (put(tokens=-1), "a whole number from 0 on"),
    "parent itself": (put(after=3), 'it has 3 as "after", which has to be an earlier generation'),
    "parent later": (put(after=9), 'it has 9 as "after"'),
    "parent before the base": (put(after=-2), 'it has -2 as "after"'),
    "parent text": (put(after="1"), "it has '1' as \"after\""),
    "generation negative": (put(generation=-3), 'it has -3 as "generation"'),
    "generation jumps": (put(generation=7), "holds generation 7, but 3 was to follow"),
    "generation repeats": (put(generation=2), "holds generation 2, but 3 was to follow"),
    "huge": (put(tokens=10**400), '"tokens"'),
}


@pytest.mark.parametrize("name", ENTRIES)
def test_a_damaged_entry_is_named(tmp_path: Path, name: str) -> None:
    change, words = ENTRIES[name]
    path = journal(tmp_path, [HEADER, *LINES[:3], changed(LINES[3], change), *LINES[4:]])
    with pytest.raises(UsageError, match=words) as caught:
        read_journal(path)
    assert f"{path} is damaged" in str(caught.value)
    assert "line 5" in str(caught.value)
    assert "\n" not in str(caught.value)


HEADERS: dict[str, tuple[Change, str]] = {
    "no format": (drop("es_lightning_journal"), "its first line is no header"),
    "format text": (put(es_lightning_journal="1"), "has '1' as \"es_lightning_journal\""),
    "another format": (put(es_lightning_journal=9, versions=3), "use the es_lightning version that wrote it"),
    **{
        f"no {name}": (drop(name), f'damaged in line 1: its header has no "{name}"')
        for name in ("base", "base_files", "dtype", "noise", "optimizer", "settings", "task", "versions")
    },
    "base a number": (put(base=3), 'its header has 3 as "base"'),
    "base empty": (put(base=""), 'as "base", which has to be a text'),
    "noise a list": (put(noise=[]), 'has a list of 0 items as "noise"'),
    "files a list": (put(base_files=["a"]), '"base_files", which has to be a mapping'),
    "optimizer text": (put(optimizer="SGD"), '"optimizer", which has to be a mapping with "class"'),
    "versions text": (put(versions="1"), '"versions"'),
    "optimizer unknown": (lambda h: h["optimizer"].update({"class": "torch.optim.Nope"}), "is nowhere here"),
    "optimizer no class": (lambda h: h["optimizer"].update({"class": "torch.optim."}), "is nowhere here"),
    "a scheduler": (
        lambda h: h["optimizer"].update({"class": "torch.optim.lr_scheduler.StepLR"}),
        "its optimizer is refused by StepLR",
    ),
    "a function": (lambda h: h["optimizer"].update({"class": "torch.optim.sgd.sgd"}), "its optimizer"),
    "lr text": (lambda h: h["optimizer"]["settings"].update(lr="x"), "damaged"),
    "momentum null": (lambda h: h["optimizer"]["settings"].update(momentum=None), '"momentum"'),
    "momentum negative": (lambda h: h["optimizer"]["settings"].update(momentum=-1), "Invalid momentum"),
    "flag text": (lambda h: h["optimizer"]["settings"].update(differentiable="x"), '"differentiable"'),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_damaged_header_is_named(tmp_path: Path, name: str) -> None:
    change, words = HEADERS[name]
    with pytest.raises(UsageError, match=words) as caught:
        replay(journal(tmp_path, [changed(HEADER, change), *LINES]), tmp_path / "out", 0)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def as_text(text: str | bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(text if isinstance(text, bytes) else text.encode()) and None


FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "absent": (lambda path: None, "there is no journal in"),
    "empty": (as_text(""), "there is no journal in"),
    "folder": (lambda path: path.mkdir(), "is a folder, and no journal"),
    "list": (as_text("[1, 2]\n"), "its first line is no header"),
    "binary": (as_text(bytes(range(256)) * 40), "its first line is no header"),
    "another program's": (as_text('{"id": 1}\n{"id": 2}\n'), "its first line is no header"),
    "nested": (as_text("[" * 100_000 + "\n"), "its first line is no header"),
    "digits": (as_text("1" * 10_000 + "\n"), "its first line is no header"),
    "checkpoint": (
        lambda path: shutil.copy(next((RUN / "checkpoints").iterdir()), path),
        "is a checkpoint or an archive, and no journal",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_what_is_no_journal_is_refused(tmp_path: Path, name: str) -> None:
    make, words = FILES[name]
    path = tmp_path / "journal.jsonl"
    make(path)
    with pytest.raises(UsageError, match=words) as caught:
        read_journal(path)
    assert str(path) in str(caught.value)
    assert "give the journal.jsonl of a run" in str(caught.value).lower()


@pytest.mark.parametrize(
    "rest", ["\n", "\n\n  \n", "\0\0\0\0\n", '{"gener\n', '{"gener', "no json\n[]\n7\n\n"]
)
def test_what_a_crash_leaves_at_the_end_is_dropped_with_a_warning(
    tmp_path: Path, rest: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = journal(tmp_path, [HEADER, *LINES[:3]])
    with path.open("a") as file:
        file.write(rest)
    assert [entry.line() for entry in read_journal(path)[1]] == [Entry.parse(x).line() for x in LINES[:3]]
    assert "crash" in caplog.text


@pytest.mark.parametrize("line", ["", "   ", "\0\0", '{"gener', "[]", "null", "{}"])
def test_the_same_in_the_middle_is_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(UsageError, match="damaged in line 4: "):
        read_journal(journal(tmp_path, [HEADER, *LINES[:2], line, *LINES[2:]]))


@pytest.mark.parametrize("lines", [reordered(0, 2), reordered(0, 0), reordered(1), reordered(0, 1, 1, 2)])
def test_generations_count_from_zero_without_a_gap(tmp_path: Path, lines: list[str]) -> None:
    with pytest.raises(UsageError, match="was to follow"):
        read_journal(journal(tmp_path, [HEADER, *lines]))


others = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.lists(st.integers() | st.text(max_size=3), max_size=4),
    st.dictionaries(st.text(max_size=3), st.integers() | st.none(), max_size=3),
)
FIELDS = {0: list(json.loads(HEADER)), 4: list(json.loads(LINES[3])), 10: [*json.loads(LINES[9]), "after"]}
WHOLE = [Entry.parse(line).line() for line in LINES]


@given(st.data())
def test_a_field_of_another_type_is_refused_or_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Drop a field, or put a value of another type in its place."""
    number = data.draw(st.sampled_from(list(FIELDS)))
    field = data.draw(st.sampled_from(FIELDS[number]))
    lines = [HEADER, *LINES]
    values = json.loads(lines[number])
    old = values.pop(field, None)
    if data.draw(st.booleans()):
        kinds = (int, float) if type(old) in (int, float) else (type(old),)
        values[field] = data.draw(others.filter(lambda value: not isinstance(value, kinds)))
    lines[number] = json.dumps(values)
    path = journal(tmp_path_factory.mktemp("mutated"), lines)
    try:
        header, entries = read_journal(path)
    except UsageError:
        return
    assert all(entry.parent is None or entry.parent < entry.generation for entry in entries)
    assert len(lineage(entries, len(entries) - 1)) <= len(LINES)
    if number == 0:  # a header may lack what only a replay needs
        assert {**json.loads(HEADER), field: None} == {**header, field: None}
    else:
        # Without "after" the parent is the generation before; where the drift is unknown, it is null.
        free = {name: 0 for name in ("after", "drift") if name == field}
        assert [json.loads(entry.line()) | free for entry in entries] == [json.loads(x) | free for x in WHOLE]


# Rewards, and the run that goes on ---------------------------------------------------------------------


def resumed(folder: Path, rewards: list[str], lines: list[str] | None = None) -> RunJournal:
    journal(folder, [HEADER, *LINES] if lines is None else lines)
    (folder / "rewards.jsonl").write_text("".join(f"{line}\n" for line in rewards), encoding="utf-8")
    run = RunJournal()
    run.open(folder, json.loads(HEADER), 2, [HEADER, *LINES[:2]], True, lambda payload: payload)
    return run


ROWS: dict[str, tuple[str, str]] = {
    "no json": ("{", "it is no JSON"),
    "blank": ("", "it is no JSON"),
    "a list": ("[]", "it is a list and no mapping"),
    "text": ('{"generation":4,"rewards":"high"}', "'high' as \"rewards\""),
    "ragged": ('{"generation":4,"rewards":[[1.0],[1.0,2.0]]}', "each a list of equally many numbers"),
    "nan": ('{"generation":4,"rewards":[[NaN]]}', '"rewards"'),
    "nested": ('{"generation":4,"rewards":[[[1.0]]]}', '"rewards"'),
    "empty": ('{"generation":4,"rewards":[]}', '"rewards"'),
    "no rewards": ('{"generation":4}', 'no "rewards"'),
    "generation text": ('{"generation":"4","rewards":[[1.0]]}', '"generation"'),
    "repeated": (REWARDS[3], "it holds generation 3 after 3"),
    "other members": (
        '{"generation":4,"rewards":[[1.0],[2.0]]}',
        "rewards of 2 members, of which there were 6",
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_damaged_rewards_are_named(tmp_path: Path, name: str) -> None:
    line, words = ROWS[name]
    with pytest.raises(UsageError, match=words) as caught:
        resumed(tmp_path, [*REWARDS[:4], line, *REWARDS[5:]])
    assert "rewards.jsonl is damaged in line 5" in str(caught.value)
    assert "move it away" in str(caught.value)


@pytest.mark.parametrize("rest", ["", "\0\0", '{"generation":4,"rew', "[]"])
def test_rewards_torn_at_the_end_are_evaluated_again(
    tmp_path: Path, rest: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = resumed(tmp_path, [*REWARDS[:4], rest, ""])
    assert [run.knows(generation) for generation in range(2, 6)] == [True, True, False, False]
    assert (tmp_path / "rewards.jsonl").read_text().splitlines() == REWARDS[:4]
    assert "rewards.jsonl: lines 5 to 6 are what a crash leaves, and are dropped" in caplog.text


def test_damage_is_found_before_the_journal_is_compared_with_the_checkpoint(tmp_path: Path) -> None:
    lines = [HEADER, changed(LINES[0], put(sigma="x")), *LINES[1:]]
    with pytest.raises(UsageError, match="damaged in line 2"):
        resumed(tmp_path, REWARDS, lines)
    assert (tmp_path / "journal.jsonl").read_text().splitlines() == lines


# The command line ----------------------------------------------------------------------------------------


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        cli.main(list(arguments))
    assert caught.value.code == 2
    [line] = capsys.readouterr().err.strip().splitlines()[-1:]
    assert line.startswith("es-lightning: ")
    return line


def test_a_journal_whose_parent_names_itself_ends_a_replay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = journal(tmp_path, [HEADER, *LINES[:3], changed(LINES[3], put(after=3))])
    line = said(capsys, "replay", "--journal", str(path), "--output", str(tmp_path / "out"))
    assert 'damaged in line 5: it has 3 as "after"' in line


def test_a_checkpoint_is_no_journal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = next((RUN / "checkpoints").iterdir())
    line = said(capsys, "replay", "--journal", str(path), "--output", str(tmp_path / "out"))
    assert "is a checkpoint or an archive, and no journal: give the journal.jsonl of a run" in line


@pytest.mark.parametrize("name", ["journal.jsonl", "rewards.jsonl"])
def test_a_run_with_a_damaged_file_is_not_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(RUN, tmp_path / "runs" / "compat")
    path = Path("runs", "compat", name)
    lines = path.read_text().splitlines()
    path.write_text("".join(f"{line}\n" for line in [*lines[:5], "torn", *lines[5:]]))
    config = ["-c", "runs/compat/config.yaml", "--trainer.enable_progress_bar", "false"]
    line = said(capsys, "fit", *config, "--ckpt_path", "last")
    assert f"runs/compat/{name} is damaged in line 6" in line
    assert path.read_text().splitlines()[5] == "torn"
