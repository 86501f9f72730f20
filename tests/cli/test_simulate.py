"""``es-lightning simulate``: what it prints and writes, and what it refuses in one sentence."""

import csv
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from es_lightning.cli import entry
from es_lightning.journal.evaluations import EVALUATIONS, RecordedEvaluation
from es_lightning.records import Costs
from tests.helpers.ascent_journal import entries_of, write_journal

SMALL = "--dimension 20 --active 4 --soft 0.5 --steps 60 --runs 60"


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", list(sys.path))
    monkeypatch.setattr("es_lightning.landscape.theory.toy.HEIGHTS", (1.0, 30.0))
    monkeypatch.setattr("es_lightning.cli.simulated.WELL_STEPS", 300)


def run(folder: Path, options: str, capsys: pytest.CaptureFixture[str]) -> str:
    entry.main(["simulate", "--output", str(folder), *options.split()])
    return capsys.readouterr().out


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_pictures_tables_and_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = run(tmp_path, SMALL, capsys)
    assert "closed form and 60 simulated runs agree" in said
    assert said.count("found") == 3
    assert "FAIL" not in said
    for name in ("rise_and_decay.png", "double_well.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    curves = rows(tmp_path / "rise_and_decay.csv")
    assert len(curves) == 5 * 61
    # The mean of one step by hand: 1 - 1/2 sum lambda ((1 - alpha lambda)^2 x^2 + alpha^2 sigma^2 / N).
    first = next(row for row in curves if (row["population"], row["step"]) == ("10", "1"))
    by_hand = 1 - 0.5 * (2 * 0.9**2 * 0.3**2 + (2 + 1) * 0.1**2 * 4 / 10)
    assert float(first["exact"]) == pytest.approx(by_hand, rel=1e-12)
    assert [row["regime"] for row in rows(tmp_path / "double_well.csv")] == ["no memory", "stuck"]
    assert {row["used"] for row in rows(tmp_path / "steady_state.csv")} == {"True", "False"}


def test_too_few_populations_fail_with_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = run(tmp_path, f"{SMALL} --populations 10 20", capsys)
    assert said.count("FAIL at alpha") == 3
    assert "2 of 2 populations count, and a line needs 3" in said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--alpha 2", "no steady state"),
        ("--alpha 1", "at rest after one step"),
        ("--alpha -1", "alpha is -1"),
        ("--alpha nan", "alpha is nan"),
        ("--sigma inf", "sigma is inf"),
        ("--soft 2", "the stiff one not below the soft one"),
        ("--active 3", "give an even number"),
        ("--active 200", "do not fit into 128 dimensions"),
        ("--populations 10 10", "each of them once"),
        ("--populations 0", "population is 0"),
        ("--soft 1e-6", "raise alpha or the soft curvature"),
        ("--steps 0", "--steps is 0"),
        ("--seed -1", "--seed is -1"),
        ("--fit nowhere", "which is no folder"),
        ("--fit .", "there is no journal in journal.jsonl"),
        ("--rewards test", "invalid choice"),
        ("--population 10", "Did you mean"),
    ],
)
def test_bad_input_ends_in_one_sentence(
    options: str,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("es_lightning.landscape.theory.toy.rise_and_decay", lambda *given: [])
    monkeypatch.setattr("es_lightning.cli.simulated.rise_and_decay", lambda *given: [])
    with pytest.raises(SystemExit) as caught:
        run(tmp_path / "out", options, capsys)
    error = capsys.readouterr().err
    assert caught.value.code == 2
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_fit_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_journal(tmp_path / "run", entries_of(0, 500))
    said = run(tmp_path / "out", f"--fit {tmp_path / 'run'}", capsys)
    assert "t_peak, generations" in said
    assert (tmp_path / "out" / "fit.png").read_bytes().startswith(b"\x89PNG")
    points = rows(tmp_path / "out" / "fit.csv")
    assert len(points) == 500
    assert np.isfinite(float(points[0]["fitted"]))


def test_a_run_that_only_rises_fails_and_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_journal(tmp_path / "run", entries_of(0, 30, soft=0))
    said = run(tmp_path / "out", f"--fit {tmp_path / 'run'}", capsys)
    assert "FAIL: " in said
    assert "A FAIL is an answer" in said


def test_validation_rewards_are_those_of_the_evaluations(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    write_journal(folder, entries_of(0, 30))
    evaluated = partial(RecordedEvaluation, prompts=("a", "b"), scores={}, tokens=0, cost=Costs(), samples=())
    lines = [evaluated(0, "test", rewards=(0.0, 0.0)).line()]
    (folder / EVALUATIONS).write_text("\n".join(lines) + "\n")
    with pytest.raises(SystemExit):
        run(tmp_path / "out", f"--fit {folder} --rewards validation", capsys)
    assert "use --rewards population" in capsys.readouterr().err
    times = np.arange(0, 300, 5)
    rewards = 0.6 - 0.7 * np.exp(-times / 20) + 0.3 * np.exp(-times / 150)
    for time, reward in zip(times.tolist(), rewards.tolist(), strict=True):
        lines.append(evaluated(time, "val", rewards=(reward - 0.1, reward + 0.1)).line())
    (folder / EVALUATIONS).write_text("\n".join(lines) + "\n")
    said = run(tmp_path / "out", f"--fit {folder} --rewards validation", capsys)
    assert "66.05 to 66.05" in said  # ln((0.7 / 20) / (0.3 / 150)) / (1 / 20 - 1 / 150) = 66.05
