"""What a sweep's file may say, the points of its space, and what trial number k tries."""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from es_lightning.cli import main
from es_lightning.cli.sweep import read_file
from es_lightning.errors import UsageError
from es_lightning.sweeps.proposals import propose
from es_lightning.sweeps.settings import SweepSettings, read_settings
from es_lightning.sweeps.space import Range, grid_points, read_space, word
from es_lightning.sweeps.trial import words_of

ROOT = Path(__file__).parents[2]
needs_optuna = pytest.mark.skipif(
    importlib.util.find_spec("optuna") is None, reason="Optuna is not installed: es-lightning[sweep]"
)
GRID = {"config": ["a.yaml"], "space": {"model.sigma": [0.1, 0.2], "model.population": [4, 8, 16]}}
RANDOM = {
    "config": "a.yaml",
    "space": {
        "model.sigma": {"low": 1e-4, "high": 1e-1, "log": True},
        "model.population": {"low": 4, "high": 16, "step": 4},
        "x.share": {"low": 0.1, "high": 0.75, "step": 0.1},
        "model.shaping": ["z_score", "centered_rank"],
    },
    "sampler": "random",
    "trials": 30,
}


def settings(given: dict[str, Any], **changes: Any) -> SweepSettings:
    return read_settings({**given, **changes}, "mine.yaml")


def test_a_grid_has_every_combination_once_and_in_order() -> None:
    pytest.importorskip("optuna")
    made = settings(GRID)
    assert made.count == 6
    points = [tuple(propose(made, number, []).values()) for number in range(6)]
    assert points == [(0.1, 4), (0.1, 8), (0.1, 16), (0.2, 4), (0.2, 8), (0.2, 16)]


def test_a_range_with_a_step_has_no_rounding_errors() -> None:
    share = read_space({"x": {"low": 0.1, "high": 0.75, "step": 0.1}})
    assert [point["x"] for point in grid_points(share)] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    assert Range(4, 16, step=4).points() == [4, 8, 12, 16]
    assert Range(16, 63, step=16).examples() == [16, 48], "63 is never tried"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sapce": {}}, "there is no key sapce"),
        ({"space": {}}, "space is empty"),
        ({"space": {"a": []}}, "give a list of values"),
        ({"space": {"a": [1, 1.0]}}, "a value twice"),
        ({"space": {"a": [float("nan")]}}, "a finite number"),
        ({"space": {"a": {"low": 0.1, "high": 1}}}, "a is a range without a step"),
        ({"space": {"a": {"low": 2, "high": 1, "step": 1}}}, "give a high above low"),
        ({"space": {"a": {"low": 0, "high": 1, "log": True}}}, "begin above 0"),
        ({"space": {"a": {"low": 1, "high": 2, "log": True, "step": 1}}}, "both log and a step"),
        ({"space": {"a": {"low": 1, "high": 2, "step": 0}}}, "a step above 0"),
        ({"space": {"a": {"low": 1, "high": 2, "step": 5}}}, "leaves one value"),
        ({"space": {"a": {"low": 1, "up": 2}}}, "has 'up'"),
        ({"space": {"a": {"low": 1}}}, "lacks an end"),
        ({"space": {"a": {"low": "1", "high": 2}}}, "low of a is '1'"),
        ({"space": {"seed_everything": [1, 2]}}, "use its key seeds"),
        ({"overrides": {"ckpt_path": "last"}}, "leave it out"),
        ({"overrides": {"model.sigma": 0.1}}, "in space and in overrides"),
        ({"overrides": [1]}, "overrides is [1]"),
        ({"sampler": "cmaes"}, "give grid, random, tpe"),
        ({"sampler": "tpe"}, "give trials"),
        ({"trials": 7}, "the grid has 6 points"),
        ({"trials": 0}, "at least 1"),
        ({"seeds": [0, 0]}, "different ones"),
        ({"seeds": [-1]}, "at least 0"),
        ({"objective": "reward/mean"}, "give val/reward"),
        ({"take": "mean"}, "give last, best"),
        ({"prune": "early_peak"}, "give take: best"),
        ({"at_once": 0}, "at least 1"),
        ({"config": []}, "config is empty"),
    ],
)
def test_bad_files_end_in_one_sentence(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"^mine.yaml: .*{re.escape(message)}"):
        settings(GRID, **change)


@needs_optuna
def test_a_random_point_depends_on_nothing_but_its_number() -> None:
    made = settings(RANDOM)
    points = [propose(made, number, []) for number in range(30)]
    assert [propose(made, number, []) for number in reversed(range(30))] == points[::-1]
    assert len({json.dumps(point) for point in points}) == 30
    assert {point["model.population"] for point in points} == {4, 8, 12, 16}
    assert {point["x.share"] for point in points} <= {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7}
    assert propose(settings(RANDOM, seed=1), 0, []) != points[0]
    assert settings(RANDOM, trials=5).count == 5


@needs_optuna
def test_tpe_asks_again_for_the_same_point_and_goes_where_rewards_are_high() -> None:
    from optuna.trial import create_trial

    made = settings(
        {"config": "a", "space": {"x": {"low": 0.0, "high": 1.0}}, "sampler": "tpe", "trials": 40}
    )
    distribution = {"x": made.space["x"].distribution()}
    trials = []
    for number in range(40):
        point = propose(made, number, trials)
        assert propose(made, number, list(trials)) == point
        value = -((float(str(point["x"])) - 0.7) ** 2)
        trials.append(create_trial(params=point, distributions=distribution, value=value))
    last = [abs(trial.params["x"] - 0.7) for trial in trials[-15:]]
    uniform = (0.7**2 + 0.3**2) / 2  # mean distance from 0.7 of points that know nothing
    assert sum(last) / 15 < uniform * 2 / 3


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers() | st.booleans() | st.none())
def test_a_value_goes_through_the_command_line_with_every_digit(value: Any) -> None:
    from jsonargparse import get_loader

    key, _, text = word("model.sigma", value).partition("=")
    assert key == "--model.sigma"
    assert get_loader("yaml")(text) == value


def test_the_words_of_a_trial() -> None:
    made = settings(GRID, overrides={"report.export": False, "trainer.callbacks+": "KLDrift"})
    words = words_of(made, {"model.sigma": 0.1, "model.population": 4}, 3)
    assert words[:4] == ["-c", "a.yaml", "--report.export=false", "--trainer.callbacks+=KLDrift"]
    assert words[4:] == ["--model.sigma=0.1", "--model.population=4", "--seed_everything=3"]


def test_the_packaged_file_says_how_it_is_launched() -> None:
    made = read_file("sweeps/demo.yaml")
    assert made.count * len(made.seeds) == 12
    text = (ROOT / "configs" / "sweeps" / "demo.yaml").read_text()
    assert "es-lightning sweep -c configs/sweeps/demo.yaml" in text


@needs_optuna
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "required: -c/--config"),
        (["-c", "none.yaml"], "none.yaml cannot be read"),
        (["-c", "bad.yaml"], "bad.yaml is no YAML"),
        (["-c", "mine.yaml", "--trails", "3"], "there is no option --trails"),
        (["-c", "mine.yaml", "--at_once", "99999"], "CPU cores, and there are"),
    ],
)
def test_bad_command_lines_end_in_one_sentence(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(json.dumps(GRID))
    Path("bad.yaml").write_text("config: [")
    with pytest.raises(SystemExit) as stopped:
        main(["sweep", *words])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_without_optuna_there_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from importlib.metadata import PackageNotFoundError

    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("es_lightning.sweeps.store.version", missing)
    with pytest.raises(SystemExit):
        main(["sweep", "-c", str(tmp_path / "none.yaml")])
    assert 'pip install "es-lightning[sweep]"' in capsys.readouterr().err
