"""Folders that cannot be written are refused, and one folder takes the place of another at once."""

from pathlib import Path

import pytest

from es_lightning.errors import UsageError
from es_lightning.system import folders
from es_lightning.system.folders import check_writable, new_folder, replace_folder


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("file", "is a file"),
        ("file/below", "is a file"),
        ("link", "is a file"),
        ("x" * 300, "File name too long"),
        ("no/" + "x" * 300, "File name too long"),
        ("/".join(["deep" * 50] * 30), "File name too long"),
        ("nul\0", "null"),
        ("/proc/run", "cannot be written"),
        ("hdfs://place/run", "a folder of this machine"),
    ],
    ids=lambda text: text[:12],
)
def test_a_folder_that_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("link").symlink_to("nowhere")
    with pytest.raises(UsageError, match=words) as caught:
        check_writable(folder, "trainer.default_root_dir")
    assert str(caught.value).startswith("trainer.default_root_dir is ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]


def test_a_full_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # /dev/full takes nothing, as a full disk does.
    monkeypatch.setattr(folders.tempfile, "TemporaryFile", lambda dir: Path("/dev/full").open("wb"))  # noqa: SIM115
    with pytest.raises(UsageError, match="No space left on device"):
        check_writable(tmp_path / "run", "trainer.default_root_dir")


def test_a_folder_that_can_be_written_is_left_as_it_is(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b", "trainer.default_root_dir")
    check_writable(tmp_path, "trainer.default_root_dir")
    assert not list(tmp_path.iterdir())


def made(folder: Path, text: str) -> Path:
    folder.mkdir()
    (folder / "file").write_text(text)
    return folder


@pytest.mark.parametrize("swaps", [True, False], ids=["swapped", "set aside"])
def test_a_folder_takes_the_place_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swaps: bool
) -> None:
    if not swaps:
        monkeypatch.setattr(folders, "_exchanged", lambda one, other: False)
    for text in ("first", "second"):
        replace_folder(tmp_path / "model", by=made(tmp_path / "new", text))
        assert [path.name for path in tmp_path.iterdir()] == ["model"]
        assert (tmp_path / "model" / "file").read_text() == text


@pytest.mark.parametrize("swaps", [True, False], ids=["swapped", "set aside"])
def test_a_crash_on_the_way_loses_neither_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swaps: bool
) -> None:
    made(tmp_path / "model", "old")
    if not swaps:
        monkeypatch.setattr(folders, "_exchanged", lambda one, other: False)
    rename, seen = Path.rename, []

    def crash(path: Path, *_: object) -> Path:
        seen.append({each.read_text() for each in tmp_path.rglob("file")})
        return rename(path, *_)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "rename", crash)
    monkeypatch.setattr(
        folders, "_remove", lambda path: seen.append({each.read_text() for each in tmp_path.rglob("file")})
    )
    replace_folder(tmp_path / "model", by=made(tmp_path / "new", "new"))
    assert all(texts == {"old", "new"} for texts in seen)


def test_a_link_in_the_place_goes_and_what_it_points_to_stays(tmp_path: Path) -> None:
    made(tmp_path / "elsewhere", "mine")
    (tmp_path / "model").symlink_to("elsewhere")
    replace_folder(tmp_path / "model", by=made(tmp_path / "new", "new"))
    assert (tmp_path / "model" / "file").read_text() == "new"
    assert (tmp_path / "elsewhere" / "file").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "model"]


def test_a_new_folder_is_one_that_holds_nothing(tmp_path: Path) -> None:
    for expected in ("mine", "mine-2", "mine-3"):
        folder = Path(new_folder(tmp_path / "mine"))
        assert folder == tmp_path / expected
        folder.mkdir()
        assert new_folder(tmp_path / "mine") == str(folder)  # still empty
        (folder / "journal.jsonl").touch()


@pytest.mark.parametrize(("name", "value"), [("LOCAL_RANK", "1"), ("WORLD_SIZE", "2")])
def test_ranks_have_to_name_their_folder(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="name a folder of its own"):
        new_folder("mine")
