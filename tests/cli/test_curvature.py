"""``curvature`` and ``degenerate`` on the tiny model, in one process, and what they refuse."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from es_lightning.cli import degenerate_report
from es_lightning.cli.curvature import require_whole_centre
from es_lightning.cli.entry import run
from es_lightning.errors import UsageError
from es_lightning.landscape.curvature.degenerate import SharedDirection
from es_lightning.landscape.curvature.measured_pairs import of_objective
from es_lightning.landscape.curvature.truth import FILE
from es_lightning.landscape.probing.results import LINES, ProbeResults

TINY = """
model:
  base: tiny
  sampling: {max_tokens: 4}
  check_engine: false
  engine: {class_path: HFEngine, init_args: {dtype: float32}}
data: {task: Sums, grading: {workers: 0}}
trainer: {accelerator: cpu, devices: 1, logger: false}
"""
SECTION = """
curvature: {sigmas: [0.0003, 0.001], pairs: 8, prompts: 6, products: 3, hessian: 4, lanczos: 3, seeds: 6}
"""


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY + SECTION)
    return str(path)


@pytest.mark.slow
def test_a_measurement_is_whole_and_a_killed_one_goes_on(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(["curvature", "-c", config, "--output", str(whole)])
    results = ProbeResults.read(whole / "pairs")
    assert results.rewards(0.001).shape == (1, 16, 12)
    report = whole / "report"
    spectra = pd.read_csv(report / "spectra.csv")
    assert set(spectra["kind"]) == {"autograd", "common seeds", "permuted rewards"}
    budget = pd.read_csv(report / "budget.csv")
    assert set(budget["objective"]) == {"log-likelihood", "reward"}
    [likely] = budget[(budget["objective"] == "log-likelihood") & (budget["sigma"] == 0.0003)].to_dict(
        "records"
    )
    assert likely["odd_ratio_low"] < 1 < likely["odd_ratio_high"]
    directions = pd.read_csv(report / "directions.csv")
    near = directions[directions["sigma"] == 0.0003]
    assert np.corrcoef(near["true_slope"], near["likelihood_slope"])[0, 1] > 0.99
    pictures = {"budget.png", "directions.png", "spectra.png", "density.png"}
    assert {path.name for path in report.glob("*.png")} == pictures
    assert set(pd.read_csv(report / "density.csv")["kind"]) == set(spectra["kind"])
    text = (report / "verdict.md").read_text(encoding="utf-8")
    assert "Signed participation ratio" in text
    assert "permuted rewards" in text
    # A run that was killed in each of its parts: some pairs, some products, some steps.
    (killed / "pairs").mkdir(parents=True)
    lines = (whole / "pairs" / LINES).read_text().splitlines(keepends=True)
    (killed / "pairs" / LINES).write_text("".join(lines[:12]))
    (killed / "truth").mkdir()
    state: dict[str, Any] = json.loads((whole / "truth" / FILE).read_text())
    del state["projection"], state["coordinates"]
    (killed / "truth" / FILE).write_text(json.dumps(state | {"bends": state["bends"][:1]}))
    kept = (whole / "lanczos_seeds.jsonl").read_text().splitlines(keepends=True)
    (killed / "lanczos_seeds.jsonl").write_text("".join(kept[:3]))
    run(["curvature", "-c", config, "--output", str(killed)])
    for name in ("budget.csv", "directions.csv", "spectra.csv", "density.csv"):
        pd.testing.assert_frame_equal(
            pd.read_csv(report / name), pd.read_csv(killed / "report" / name), rtol=1e-6
        )
    with pytest.raises(UsageError, match="other settings"):
        run(["curvature", "-c", config, "--output", str(whole), "--curvature.seed", "5"])


@pytest.mark.slow
def test_parts_that_are_asked_for_one_by_one_end_in_the_report_of_all(config: str, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(["curvature", "-c", config, "--output", str(whole)])
    command = ["curvature", "-c", config, "--output", str(parts)]
    pairs = ["--curvature.products", "0", "--curvature.hessian", "0", "--curvature.lanczos", "0"]
    without_control = ["--curvature.control", "false"]
    for asked, kinds in (
        (pairs, set()),
        (["--curvature.lanczos", "0"], {"autograd"}),
        (["--curvature.lanczos", "2", *without_control], {"autograd", "common seeds"}),
        (without_control, {"autograd", "common seeds"}),
        ([], {"autograd", "common seeds", "permuted rewards"}),
    ):
        run([*command, *asked])
        spectra = parts / "report" / "spectra.csv"
        assert (set(pd.read_csv(spectra)["kind"]) if spectra.exists() else set()) == kinds
    for name in ("pairs/candidates.parquet", "lanczos_seeds.jsonl", "lanczos_control.jsonl"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()
    for name in ("budget.csv", "directions.csv", "spectra.csv", "density.csv"):
        tables = [pd.read_csv(folder / "report" / name) for folder in (whole, parts)]
        pd.testing.assert_frame_equal(*tables, rtol=1e-6)


@pytest.mark.slow
def test_a_task_without_right_answers_is_measured_on_its_reward_alone(tmp_path: Path) -> None:
    path, folder = tmp_path / "tiny.yaml", tmp_path / "alone"
    section = "curvature: {sigmas: [0.1], pairs: 4, prompts: 3, likelihood: false, lanczos: 2, seeds: 4}\n"
    letters = "{class_path: tests.helpers.letters.Letters}"
    path.write_text(TINY.replace("task: Sums", f"task: {letters}") + section)
    run(["curvature", "-c", str(path), "--output", str(folder)])
    results, report = ProbeResults.read(folder / "pairs"), folder / "report"
    assert results.rewards(0.1).shape == (1, 8, 3)
    budget = pd.read_csv(report / "budget.csv")
    assert set(budget["objective"]) == {"reward"}
    means = results.rewards(0.1)[0].mean(axis=1)
    odd = (means[::2] - means[1::2]) / 0.2
    [row] = budget.to_dict("records")
    assert row["gradient_square"] == pytest.approx((odd**2).mean())
    assert np.isnan(row["trace"])
    assert np.isnan(row["participation"])
    assert not (folder / "truth").exists()
    assert {each.name for each in report.glob("*.png")} == {"budget.png", "spectra.png", "density.png"}
    text = (report / "verdict.md").read_text(encoding="utf-8")
    assert "the task's own reward" in text
    assert "autograd" not in text
    assert "One sigma cannot tell tr H of a reward in steps, nor its participation ratio" in text
    with pytest.raises(UsageError, match="does not know the right answer"):
        run(["curvature", "-c", str(path), "--output", str(folder), "--curvature.likelihood", "true"])
    tested = ["degenerate", "-c", str(path), "--probe", str(folder)]
    with pytest.raises(UsageError, match=r"alone has no log-likelihoods.*curvature.likelihood false"):
        run([*tested, "--data.objective", "log_likelihood"])


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.ddp
def test_two_ranks_find_what_one_finds_and_go_on_with_its_steps(config: str, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    run(["curvature", "-c", config, "--output", str(one)])
    two.mkdir()
    kept = (one / "lanczos_seeds.jsonl").read_text().splitlines(keepends=True)
    (two / "lanczos_seeds.jsonl").write_text("".join(kept[:3]))  # the other rank cannot know of it by itself
    shared = ["--data.objective", "log_likelihood", "--degenerate.vectors", "1"]
    run(["degenerate", "-c", config, "--probe", str(one), *shared])
    for command in (
        ["curvature", "-c", config, "--output", str(two)],
        ["degenerate", "-c", config, "--probe", str(two), *shared],
    ):
        ranks = [sys.executable, "-m", "es_lightning", *command, "--trainer.devices", "2"]
        subprocess.run(ranks, check=True, cwd=tmp_path, timeout=200)
    places = ["report/budget.csv", "report/directions.csv", "report/spectra.csv"]
    for name in (*places, "degenerate/report/directions.csv", "degenerate/report/regression.csv"):
        tables = [pd.read_csv(folder / name) for folder in (one, two)]
        pd.testing.assert_frame_equal(*tables, rtol=1e-6)


@pytest.mark.slow
def test_a_probe_is_tested_for_degenerate_updates(config: str, tmp_path: Path) -> None:
    path = tmp_path / "probe.yaml"
    path.write_text(TINY + "probe: {sigmas: [0.001], members: 48, batches: 1, prompts: 12, largest: 5}\n")
    probe = tmp_path / "probe"
    dense = ["-c", str(path), "--data.objective", "log_likelihood"]
    run(["probe", *dense, "--output", str(probe)])
    run(
        [
            "degenerate",
            *dense,
            "--probe",
            str(probe),
            "--degenerate.hessian",
            "2",
            "--degenerate.vectors",
            "2",
        ]
    )
    folder = probe / "degenerate" / "report"
    regression = pd.read_csv(folder / "regression.csv")
    assert regression["share"].iloc[0] > 0.9, "at a small sigma the gradient explains all"
    assert regression["p_value"].iloc[0] == 0.001
    [direction] = pd.read_csv(folder / "directions.csv").to_dict("records")
    assert direction["controls"] == 20
    assert direction["p_value"] <= 2 / 21
    assert set(regression["vectors"]) == {0, 2}
    assert (probe / "degenerate" / "truth").exists(), "a probe has taken no steps"
    assert direction["deviations"] > 1
    assert len(pd.read_csv(folder / "controls.csv")) == 20
    assert (folder / "degenerate.png").stat().st_size > 1000
    with pytest.raises(UsageError, match="other prompts"):
        run(["degenerate", "-c", str(path), "--probe", str(probe)])


@pytest.mark.slow
def test_the_pairs_of_a_curvature_run_are_tested_for_degenerate_updates(tmp_path: Path) -> None:
    config, folder = tmp_path / "tiny.yaml", tmp_path / "curvature"
    section = "curvature: {sigmas: [0.001], pairs: 24, prompts: 6, products: 0, hessian: 2, rewards: %s}\n"
    config.write_text(TINY + section % "true")
    run(["curvature", "-c", str(config), "--output", str(folder)])
    results, likely = ProbeResults.read(folder / "pairs"), folder / "degenerate" / "report"
    dense = ["degenerate", "-c", str(config), "--probe", str(folder), "--degenerate.hessian", "2"]
    run([*dense, "--data.objective", "log_likelihood"])
    [direction] = pd.read_csv(likely / "directions.csv").to_dict("records")
    assert direction["p_value"] <= 2 / 21
    assert not (folder / "degenerate" / "truth").exists(), "the curvature run has taken the same steps"
    changes = results.rewards(0.001)[0][:, :6] - results.centre[:6]
    regression = pd.read_csv(likely / "regression.csv")
    assert regression["members"].tolist() == [24, 24, 24], "pairs, and their odd and even parts"
    assert regression["share"].iloc[0] > 0.9, "at a small sigma the gradient explains all"
    own = of_objective(results, "log_likelihood")
    np.testing.assert_array_equal(own.at(0.001)[0], changes)
    reward = of_objective(results, "reward")
    np.testing.assert_array_equal(reward.centre, results.centre[6:])
    assert reward.header["prompt_ids"] == own.header["prompt_ids"] == results.header["prompt_ids"][:6]
    with pytest.raises(UsageError, match="other prompts"):
        run([*dense, "--data.objective", "log_likelihood", "--data.task.text", "Add {sum}."])
    config.write_text(TINY + section % "false")
    bare = tmp_path / "bare"
    run(["curvature", "-c", str(config), "--output", str(bare), "--curvature.pairs", "4"])
    with pytest.raises(UsageError, match=r"bare has no rewards prompt by prompt.*curvature.rewards false"):
        run(["degenerate", "-c", str(config), "--probe", str(bare)])


def test_a_direction_whose_controls_are_all_alike_has_no_interval_in_words() -> None:
    found = SharedDirection(35, 0.0625, np.zeros(20), 0.0179, 0.02)
    row = degenerate_report._direction_row(0.002, found)
    said = degenerate_report._said(row)
    assert "earns +0.0625, 3.49 member deviations above 20 directions of permuted rewards, which earn" in said
    assert "nan" not in said


@pytest.mark.parametrize(
    ("controls", "above", "hint"), [(20, 0, True), (20, 1, False), (98, 0, True), (99, 0, False)]
)
def test_a_p_at_the_floor_of_few_controls_is_a_hint(controls: int, above: int, hint: bool) -> None:
    gains = np.linspace(0, 0.05, controls)
    gains[:above] = 0.1
    found = SharedDirection(35, 0.0625, gains, 0.0179, 0.02)
    said = degenerate_report._said(degenerate_report._direction_row(0.002, found))
    assert ("give --degenerate.controls 99" in said) == hint
    assert ("candidates hint at a shared direction" in said) == hint


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--curvature.pairs", "3"], "at least 4"),
        (["--curvature.likelihood", "false", "--curvature.rewards", "false"], "nothing would be measured"),
        (["--curvature.sigmas", "[0]"], "curvature.sigmas"),
        (["--curvature.lanczos", "9"], "more seeds than steps"),
        (["--model.noise", "RademacherNoise"], "GaussianNoise"),
        (["--curvature.prompts", "100000"], "curvature.prompts"),
    ],
)
def test_bad_input_is_refused_before_anything_starts(
    config: str, tmp_path: Path, options: list[str], words: str
) -> None:
    with pytest.raises((UsageError, ValueError), match=words) as caught:
        run(["curvature", "-c", config, "--output", str(tmp_path / "out"), *options])
    cause = caught.value if isinstance(caught.value, UsageError) else caught.value.__cause__
    assert isinstance(cause, UsageError)


def test_a_divided_centre_is_refused_where_gradients_are_needed() -> None:
    parts: Any = SimpleNamespace(ranks=SimpleNamespace(centre_shards=2))
    with pytest.raises(
        UsageError, match=r"strategy.shard_centre divides it.*give --curvature.likelihood false"
    ):
        require_whole_centre(parts, "give --curvature.likelihood false")
    require_whole_centre(SimpleNamespace(ranks=SimpleNamespace(centre_shards=1)), "")  # type: ignore[arg-type]


def test_a_probe_that_is_none_is_refused(config: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no probe"):
        run(["degenerate", "-c", config, "--probe", str(tmp_path)])
    with pytest.raises(SystemExit):
        run(["degenerate", "-c", config])
