"""Real fits in MLflow: what ``compare`` says is what their journals and MLflow's metrics say."""

import json
import re
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from es_lightning.analysis.comparison.comparing import compare
from es_lightning.callbacks import KLDrift, RunRecord, RunReport, UpdateGeometry
from es_lightning.cli.compared_experiment import runs_of_experiment
from es_lightning.datamodule import TaskDataModule
from es_lightning.grading.scorer import Grading
from es_lightning.tracking.logger import DurableMLFlowLogger
from tests.helpers.fits import Letters, module, trainer
from tests.helpers.tracked import no_trace

SEEDS, STEPS, MEMBERS = (0, 1), 6, 4


@pytest.mark.slow
@pytest.mark.compared
def test_numbers_are_those_of_journals_and_of_mlflow(
    whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mlflow.db").write_bytes(whole)
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with no_trace():
        for seed in SEEDS:
            _fit(tmp_path, uri, seed)
        runs = runs_of_experiment("letters")
        found = compare(runs, [None] * len(runs))
        _check(found, MlflowClient(uri), tmp_path)


def test_ci_makes_the_comparison_above() -> None:
    """`make test-slow`, which CI runs, selects few of the slow tests."""
    makefile = (Path(__file__).parents[2] / "Makefile").read_text(encoding="utf-8")
    [selected] = re.findall(r'-m "slow and not long and \((\w+(?: or \w+)*)\)"', makefile)
    marks = {mark.name for mark in test_numbers_are_those_of_journals_and_of_mlflow.pytestmark}  # type: ignore[attr-defined]
    assert "slow" in marks
    assert "long" not in marks
    assert marks & set(selected.split(" or "))


def _fit(place: Path, uri: str, seed: int) -> None:
    logger = DurableMLFlowLogger(
        "letters", f"run{seed}", uri, artifact_location=str(place / "artifacts"), system_metrics=False
    )
    watching = [RunRecord(), RunReport(export=False), KLDrift(prompts=2, max_tokens=4, every=3)]
    watching.append(UpdateGeometry(every=3))
    made: Any = trainer(
        place / f"run{seed}", STEPS, watching, logger=[logger], val_check_interval=2, log_every_n_steps=1
    )
    made.fit(
        module(seed=seed, population=MEMBERS),
        TaskDataModule(Letters(), grading=Grading(workers=0), seed=seed),
    )


def _check(found: Any, client: MlflowClient, place: Path) -> None:
    [arm] = found.arms
    assert (arm.label, [run.seed for run in arm.runs]) == ("ES", ["0", "1"])
    journals = [
        [json.loads(line) for line in (place / f"run{seed}" / "journal.jsonl").read_text().splitlines()[1:]]
        for seed in SEEDS
    ]
    ids = {
        run.info.run_name: run.info.run_id
        for run in client.search_runs([client.get_experiment_by_name("letters").experiment_id])
    }
    for run, journal, seed in zip(arm.runs, journals, SEEDS, strict=True):
        assert run.series["reward"] == [(row["generation"], row["reward"]["mean"]) for row in journal]
        assert run.series["norm"] == [(row["generation"] + 1, row["drift"]) for row in journal]
        validated = {each.step: each.reward for each in run.on("val")}
        logged = client.get_metric_history(ids[f"run{seed}"], "val/reward")
        assert validated == pytest.approx({each.step: each.value for each in logged}, rel=1e-6)
        tested = client.get_metric_history(ids[f"run{seed}"], "held_out/reward")
        told = [(each.step, each.reward) for each in run.on("test")]
        assert told == [(each.step, pytest.approx(each.value, rel=1e-6)) for each in tested]
        for each in run.on("val"):
            seen = journal[: each.step]
            assert each.spent("rollouts") == each.step * MEMBERS * Letters.count
            assert each.spent("tokens") == sum(row["tokens"] for row in seen)
            assert each.spent("seconds") == pytest.approx(sum(row["seconds"]["total"] for row in seen))
        divergence = client.get_metric_history(ids[f"run{seed}"], "kl_base_tuned/Letters")
        assert run.series["kl_base_tuned/Letters"] == [
            (each.step, pytest.approx(each.value)) for each in divergence
        ]
        [sparsity] = client.get_metric_history(ids[f"run{seed}"], "geometry/sparsity_ulp")[-1:]
        assert run.finals["sparsity_ulp"] == pytest.approx(sparsity.value)
    [at] = [each for each in found.budgets if each.axis == "rollouts"]
    assert at.budget == STEPS * MEMBERS * Letters.count
    last = [client.get_metric_history(ids[f"run{seed}"], "val/reward")[-1].value for seed in SEEDS]
    assert at.reached[0].reward.value == pytest.approx(fmean(last), rel=1e-6)
