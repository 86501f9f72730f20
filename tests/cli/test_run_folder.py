"""What a run that replaces another one deletes, and what it leaves."""

import os
from pathlib import Path

from es_lightning.cli.run_folder import remove_unchanged, stamps


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def left(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def test_what_is_not_the_runs_stays(tmp_path: Path) -> None:
    for name in (
        "config.yaml",
        "own.py",
        "own/plots/a.png",
        "checkpoints/generation-step=1.ckpt",
        "model/a/b",
    ):
        write(tmp_path / name, "x")
    remove_unchanged(tmp_path, stamps(tmp_path))
    assert left(tmp_path) == {"own.py", "own", "own/plots", "own/plots/a.png"}


def test_what_was_written_since_stays(tmp_path: Path) -> None:
    for name in ("config.yaml", "summary.json", "tables/a.json", "tables/b.json", "plots/c.png"):
        write(tmp_path / name, "old")
    before = stamps(tmp_path)
    replacement = tmp_path / "tables" / "a.part"
    write(replacement, "old")  # the same bytes, in another file
    replacement.replace(tmp_path / "tables" / "a.json")
    os.utime(tmp_path / "summary.json", ns=(0, 0))
    write(tmp_path / "exported" / "new", "new")
    remove_unchanged(tmp_path, before)
    assert left(tmp_path) == {"summary.json", "tables", "tables/a.json", "exported", "exported/new"}


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "kept.ckpt", "x")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "folder").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "run" / "checkpoints" / "last.ckpt").symlink_to("nowhere.ckpt")
    remove_unchanged(tmp_path / "run", stamps(tmp_path / "run"))
    assert left(tmp_path) == {"run", "elsewhere", "elsewhere/kept.ckpt"}
