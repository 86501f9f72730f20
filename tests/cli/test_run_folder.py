"""What a run that replaces another one deletes, and what it leaves."""

import os
from pathlib import Path

import pytest

from es_lightning.cli.run_folder import (
    check_base_stays,
    holds_baseline,
    holds_run,
    remove_unchanged,
    stamps,
)
from es_lightning.errors import UsageError


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


@pytest.mark.parametrize("name", ["config.yaml", "journal.jsonl", "updates.jsonl"])
def test_a_fit_and_a_baseline_are_runs_and_other_files_are_none(name: str, tmp_path: Path) -> None:
    write(tmp_path / "model" / "config.json", "{}")
    write(tmp_path / "analysis.json", "{}")
    assert not holds_run(tmp_path)
    write(tmp_path / name, "")
    assert holds_run(tmp_path)


def test_a_folder_with_updates_and_no_journal_is_a_baselines(tmp_path: Path) -> None:
    write(tmp_path / "config.yaml", "")
    assert not holds_baseline(tmp_path)
    write(tmp_path / "updates.jsonl", "")
    assert holds_baseline(tmp_path)
    write(tmp_path / "journal.jsonl", "")
    assert not holds_baseline(tmp_path)


def test_what_a_baseline_leaves_is_removed(tmp_path: Path) -> None:
    for name in ("updates.jsonl", "trl.log", "policy.safetensors", "evaluations.jsonl", "mlflow-run.json"):
        write(tmp_path / name, "x")
    (tmp_path / "trl").mkdir()
    remove_unchanged(tmp_path, stamps(tmp_path))
    assert left(tmp_path) == set()


@pytest.mark.parametrize("name", ["model", "best", "exported/step=3"])
def test_a_model_that_a_run_starts_from_is_not_deleted_with_its_folder(name: str, tmp_path: Path) -> None:
    write(tmp_path / name / "config.json", "{}")
    with pytest.raises(
        UsageError, match="would delete the base model .*, or choose another folder with --out"
    ):
        check_base_stays(str(tmp_path / name), tmp_path, "--out")
    check_base_stays(str(tmp_path / name), tmp_path / "other", "--out")
    check_base_stays("embedded", tmp_path, "--out")
