"""Who holds the run's folder: the first rank of a fit, from before the first file until the end."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.callbacks import Callback

from es_lightning.cli import command_line as cli
from es_lightning.datamodule import TaskDataModule
from es_lightning.distributed.folder import PLACES, FolderHold, is_first_rank
from es_lightning.errors import UsageError
from es_lightning.grading.scorer import Grading
from es_lightning.system import lock
from tests.helpers.fits import Letters, module, trainer

OLD = Path(__file__).parents[1] / "data" / "run_of_0_1_0"
HOLD = """
import sys
from pathlib import Path
from es_lightning.system.lock import hold
release = hold(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
release()
"""


@pytest.fixture
def other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the folder ``run``."""
    monkeypatch.setattr(lock, "DYING_SECONDS", 0.0)
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, text=True, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def fit(folder: Path, callbacks: Any = (), **options: Any) -> None:
    data = TaskDataModule(Letters(), grading=Grading(workers=0))
    trainer(folder, 1, callbacks, **options).fit(module(), data)


class Looks(Callback):
    """Sees whether the folder is held, and may raise."""

    def __init__(self, raises: bool = False) -> None:
        self.raises, self.held = raises, False

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        """Look, in the middle of the run."""
        self.held = (Path(trainer.default_root_dir) / lock.LOCK).exists()
        if self.raises:
            raise RuntimeError("on purpose")


def test_a_fit_from_python_is_refused_where_another_runs(
    tmp_path: Path, other: subprocess.Popen[str]
) -> None:
    with pytest.raises(UsageError, match=rf"run is in use by another run \(process {other.pid} on"):
        fit(tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == [lock.LOCK]
    fit(tmp_path / "elsewhere")


@pytest.mark.parametrize("how", [["--ckpt_path", "last"], ["--overwrite", "true"], []])
def test_a_fit_from_the_command_line_is_refused_where_another_runs(
    tmp_path: Path,
    other: subprocess.Popen[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    how: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(OLD, tmp_path / "run", dirs_exist_ok=True)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(SystemExit) as caught:
        cli.main(["fit", "-c", "run/config.yaml", "--trainer.default_root_dir", "run", *how])
    assert caught.value.code == 2
    assert f"run is in use by another run (process {other.pid} on" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_a_trial_run_is_not_refused(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    before = sorted((tmp_path / "run").iterdir())
    fit(tmp_path / "run", fast_dev_run=True)
    assert other.poll() is None
    assert sorted((tmp_path / "run").iterdir()) == before


def test_a_fit_holds_its_folder_until_the_end(tmp_path: Path) -> None:
    looks, raises = Looks(), Looks(raises=True)
    fit(tmp_path / "ends", [looks])
    with pytest.raises(RuntimeError, match="on purpose"):
        fit(tmp_path / "fails", [raises])
    assert looks.held
    assert raises.held
    assert list(tmp_path.rglob(lock.LOCK)) == []


def test_a_command_that_is_refused_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["--trainer.default_root_dir", "new/run", "--model.sigma", "-1"]
    with pytest.raises(SystemExit):
        cli.main(["fit", "-c", str(OLD / "config.yaml"), *arguments])
    assert "sigma is -1" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("stage", "first"), [("validate", True), ("test", True), ("fit", False)])
def test_other_stages_and_other_ranks_hold_nothing(tmp_path: Path, stage: str, first: bool) -> None:
    run: Any = SimpleNamespace(default_root_dir=tmp_path, is_global_zero=first, fast_dev_run=False)
    FolderHold().setup(run, module(), stage)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("environment", "first"),
    [
        ({}, True),
        ({"RANK": "0", "LOCAL_RANK": "0", "GROUP_RANK": "0"}, True),
        ({"RANK": "2", "LOCAL_RANK": "0", "GROUP_RANK": "1"}, False),
        ({"LOCAL_RANK": "1", "NODE_RANK": "0"}, False),
        ({"NODE_RANK": "1"}, False),
        ({"SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, True),
        ({"SLURM_PROCID": "3", "SLURM_LOCALID": "0"}, False),
        ({"OMPI_COMM_WORLD_RANK": "1"}, False),
    ],
)
def test_the_first_rank_is_known_from_its_launcher(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], first: bool
) -> None:
    for name in PLACES:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_first_rank() is first
