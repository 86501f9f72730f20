"""The command ``scan``: its options, and all four kinds on the tiny model and a run of version 0.1.0."""

import csv
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from es_lightning.algorithm.noise import GaussianNoise
from es_lightning.cli import scan as command
from es_lightning.cli.scan_output import labels, words
from es_lightning.cli.scanning import Scanner
from es_lightning.datamodule import TaskDataModule
from es_lightning.errors import UsageError
from es_lightning.evaluation import Rollouts
from es_lightning.evaluation.parts import Parts
from es_lightning.grading.scorer import Grading
from es_lightning.journal.opening import open_centres
from es_lightning.landscape.scans.scan import Barrier
from es_lightning.models import BaseModel
from es_lightning.rollout import HFEngine, Sampling
from tests.helpers.letters import Letters

ROOT = Path(__file__).parents[2]
RUN = ROOT / "tests" / "data" / "run_of_0_1_0"
KINDS = {
    "line": [f"{RUN}:11"],
    "between": [f"{RUN}:5", f"{RUN}:11"],
    "radial": [f"{RUN}:11"],
    "plane": [f"{RUN}:5", f"{RUN}:11"],
}


def options(kind: str, tuned: list[str], output: Path, *more: str) -> Namespace:
    words = ["--kind", kind, "--output", str(output), *more]
    found = command.scan_parser().read([*words, *(word for each in tuned for word in ("--tuned", each))])
    command.check_options(found)
    return found


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rebuilt")


@pytest.fixture(scope="module")
def scanned(scratch: Path) -> "Scanned":
    return Scanned(scratch)


class Scanned:
    """Scans with one engine that has been started."""

    def __init__(self, scratch: Path) -> None:
        self.base, self.scratch = BaseModel("tiny"), scratch
        self.rollouts = Rollouts(HFEngine("float32", "cpu"), Sampling(max_tokens=6))
        data = TaskDataModule(Letters(), grading=Grading(workers=0))
        self.parts = Parts(self.base, self.rollouts, data, GaussianNoise(compile=False), 0.01, 4)
        self.parts.check_engine = False
        self.prompts = self.parts.prompts("val")
        self.rollouts.start(self.base)

    def run(self, asked: Namespace) -> list[dict[str, str]]:
        """Scan; returns the rows of the CSV."""
        scanner = Scanner(asked, self.parts, open_centres(asked.tuned, self.base, self.scratch))
        table, picture, measured = scanner.run()
        self.centre = scanner.centre
        assert picture.is_file()
        assert measured.is_file()
        return list(csv.DictReader(table.open()))

    @property
    def reward(self) -> float:
        """Mean reward of the weights that the engine holds."""
        return self.parts.evaluator().evaluate(self.prompts).reward


def test_a_line_begins_with_the_base_and_ends_with_the_runs_centre(scanned: Scanned, tmp_path: Path) -> None:
    rows = scanned.run(options("line", KINDS["line"], tmp_path, "--step", "0.5"))
    assert [float(row["t"]) for row in rows] == [-0.5, 0, 0.5, 1, 1.5, 2]
    rollouts = scanned.rollouts
    rollouts.hold_centre(scanned.centre)
    assert float(rows[1]["reward"]) == pytest.approx(scanned.reward, rel=1e-12)
    [tuned] = open_centres(KINDS["line"], scanned.base, scanned.scratch)
    names = [name for name, _ in scanned.centre.named_parameters()]
    rollouts.load((name, tuned.weights.read(name)) for name in names)
    assert float(rows[3]["reward"]) == pytest.approx(scanned.reward, rel=1e-12)


@pytest.mark.parametrize(
    ("kind", "count", "columns"),
    [
        ("between", 4, {"drop", "drop_low"}),
        ("radial", 1 + 4 * 2, {"random_low"}),
        ("plane", 3 + 7, {"model"}),
    ],
)
def test_the_other_kinds(scanned: Scanned, tmp_path: Path, kind: str, count: int, columns: set[str]) -> None:
    ends = {"between": ("0", "1.5"), "radial": ("0", "1"), "plane": ("0", "1")}[kind]
    asked = options(
        kind,
        KINDS[kind],
        tmp_path,
        "--start",
        ends[0],
        "--stop",
        ends[1],
        "--step",
        "0.5",
        "--directions",
        "3",
    )
    rows = scanned.run(asked)
    assert len(rows) == count
    assert columns <= set(rows[0])
    before = (tmp_path / f"{kind}.csv").read_bytes()
    scanned.run(asked)
    assert (tmp_path / f"{kind}.csv").read_bytes() == before, "a scan that is complete is the same again"


def test_a_plane_of_one_model_has_a_random_direction(scanned: Scanned, tmp_path: Path) -> None:
    asked = options("plane", KINDS["line"], tmp_path, "--start", "0", "--stop", "1", "--step", "1")
    rows = scanned.run(asked)
    assert {float(row["y"]) for row in rows} == {-0.5, 0, 0.5}
    assert [row["model"] for row in rows if row["model"]] == ["base", f"{RUN.name}:11"]


def test_another_seed_is_another_scan(scanned: Scanned, tmp_path: Path) -> None:
    few = ("--start", "0", "--stop", "1", "--step", "1", "--directions", "2")
    scanned.run(options("radial", KINDS["radial"], tmp_path, *few))
    with pytest.raises(UsageError, match="seed was 0 and is 1"):
        scanned.run(options("radial", KINDS["radial"], tmp_path, *few, "--seed", "1"))
    with pytest.raises(UsageError, match="models was"):
        scanned.run(options("radial", [f"{RUN}:5"], tmp_path, *few))


@pytest.mark.parametrize(
    ("kind", "tuned", "more", "sentence"),
    [
        ("line", [], (), "--kind line takes 1 tuned model, and 0 are given"),
        ("between", ["a"], (), "--kind between takes 2 tuned models, and 1 is given"),
        ("plane", ["a"] * 3, (), "--kind plane takes 1 or 2 tuned models, and 3 are given"),
        ("line", ["a"], ("--step", "0"), "from --start -0.5 to --stop 2 in steps of --step 0: give a start"),
        ("line", ["a"], ("--prompts", "1"), "--prompts is 1: give at least 2"),
        ("radial", ["a"], ("--directions", "1"), "--directions is 1: give at least 2"),
    ],
)
def test_options_that_make_no_scan(
    kind: str, tuned: list[str], more: tuple[str, ...], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=sentence):
        options(kind, tuned, tmp_path, *more)


def test_a_split_of_one_problem_has_no_errors(scanned: Scanned, tmp_path: Path) -> None:
    asked = options("line", KINDS["line"], tmp_path)
    asked.prompts = 1
    with pytest.raises(UsageError, match="split val of Letters has 1 problem, and a scan needs at least 2"):
        scanned.run(asked)


def test_a_model_that_is_another_one_is_refused(scanned: Scanned, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="tiny has the weights of tiny: there is nothing to scan"):
        scanned.run(options("line", ["tiny"], tmp_path))
    twice = [f"{RUN}:11", f"{RUN}/journal.jsonl"]
    with pytest.raises(
        UsageError, match=r"journal.jsonl has the weights of \S+:11: there is nothing to scan"
    ):
        scanned.run(options("between", twice, tmp_path))


def test_models_have_short_names() -> None:
    assert labels(["runs/a/model", "runs/b:3"]) == ["a/model", "b:3"]
    assert labels(["runs/a/journal.jsonl:3", "runs/b/journal.jsonl"]) == ["a:3", "b"]
    assert labels(["runs/a/best", "hub/name"]) == ["a/best", "name"]
    assert labels(["one/a", "other/a"]) == ["one/a", "other/a"], "which two models could share"
    assert labels(["some/base"]) == ["some/base"], "which would be taken for the base model"


def test_a_barrier_is_told_with_its_interval() -> None:
    assert words(Barrier(0.2, 0.5, 0.15)).startswith(
        "a barrier: largest drop 0.200 at t = 0.5, true one 0.050"
    )
    assert words(Barrier(0.1, 0.5, 0.15)).startswith("no barrier beyond chance: ")


CONFIG = """
model:
  base: tiny
  engine: {class_path: HFEngine, init_args: {dtype: float32, batch_size: 1}}
  sampling: {max_tokens: 6}
data:
  task: {class_path: tests.helpers.letters.Letters}
  grading: {workers: 0}
trainer: {accelerator: cpu, logger: false}
"""


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.ddp
def test_the_command_measures_the_same_on_two_ranks_and_after_a_kill(tmp_path: Path) -> None:
    (tmp_path / "scan.yaml").write_text(CONFIG)
    few = ["--start", "0", "--stop", "1", "--step", "0.5", "--directions", "2"]

    def run(name: str, *more: str) -> bytes:
        """Scan in processes of its own; returns what was measured."""
        tuned = ["--kind", "radial", "--tuned", f"{RUN}:11", "--output", str(tmp_path / name), *few]
        words = [
            sys.executable,
            "-m",
            "es_lightning",
            "scan",
            "-c",
            str(tmp_path / "scan.yaml"),
            *tuned,
            *more,
        ]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / name / "radial.png").is_file()
        assert not (tmp_path / name / "rebuilt").exists()
        return (tmp_path / name / "radial.jsonl").read_bytes()

    whole = run("two", "--trainer.devices", "2")
    killed = tmp_path / "one" / "radial.jsonl"
    killed.parent.mkdir()
    killed.write_bytes(whole[: len(whole) // 2])
    assert run("one", "--trainer.devices", "1") == whole
