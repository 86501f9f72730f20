"""``es-lightning probe --report``: what lies in a probe's folder afterwards, and what is refused."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pandas import read_csv

from es_lightning.cli import main
from es_lightning.cli.probe_report import report
from es_lightning.cli.run_loggers import log_report_metrics, logged_before, loggers_for, logging_to
from es_lightning.errors import UsageError
from es_lightning.landscape.probing.results import Candidate
from es_lightning.landscape.probing.store import ProbeStore
from es_lightning.tracking.places import MLFLOW_RUN

SIGMAS, SHAPE = (0.5, 1.0), (2, 40, 8)  # batches, candidates, prompts
PICTURES = ("best_of_n", "changes", "sigmas")

Rewards = Callable[[float], np.ndarray]
"""From a sigma to rewards [S, M, P]."""


class Recorder:
    """Keeps the metrics that it is given."""

    metrics: dict[str, float]

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.metrics = metrics


def linear(sigma: float, slope: float = 1.0) -> np.ndarray:
    """Rewards that are linear in the noise, which is the same at every sigma; the centre earns 0."""
    noise = np.random.default_rng(0).standard_normal((*SHAPE[:2], 1))
    return np.broadcast_to(slope * sigma * noise, SHAPE)


def coins(sigma: float) -> np.ndarray:
    return 1.0 * (np.random.default_rng(int(2 * sigma)).random((2, 40, 64)) < 0.5)


def probed(folder: Path, rewards: Rewards, centre: Any = 0.0, **about: Any) -> Path:
    """The folder of a finished probe."""
    batches, members, prompts = rewards(SIGMAS[0]).shape
    header = {"sigmas": list(SIGMAS), "members": members, "batches": batches, "antithetic": False}
    store = ProbeStore(folder, {**header, "task": "toy", **about}, chunk=members)
    earned = np.broadcast_to(centre, prompts)
    store.add_centre(earned, "0")
    tables = [(batch, sigma, rewards(sigma)[batch]) for batch in range(batches) for sigma in SIGMAS]
    rows = ((batch, sigma, seed, row) for batch, sigma, table in tables for seed, row in enumerate(table))
    store.add(
        [
            Candidate(number, sigma, batch, seed, 1, tuple(row.tolist()))
            for number, (batch, sigma, seed, row) in enumerate(rows)
        ]
    )
    store.results(earned)
    return folder


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The sentence that a command ends with."""
    with pytest.raises(SystemExit) as stopped:
        main(["probe", "--report", *arguments])
    assert stopped.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_the_report_has_pictures_with_their_numbers_a_table_and_metrics(tmp_path: Path) -> None:
    folder, recorder = probed(tmp_path / "probe", linear, model="toy-1"), Recorder()
    report([folder], 20, [recorder])
    made = {path.name for path in (folder / "report").iterdir()}
    pictures = {f"{name}.{end}" for name in PICTURES for end in ("png", "csv")}
    assert made == {"report.md", "protocols.csv", *pictures}
    rows = read_csv(folder / "report" / "sigmas.csv").to_dict("records")
    assert [row["sigma"] for row in rows] == [0.5, 1.0]
    assert (rows[0]["name"], rows[0]["candidates"], rows[0]["largest_n"]) == ("toy-1", 40, 20)
    assert rows[1]["mean"] == pytest.approx(2 * rows[0]["mean"]), "a batch has the same seeds at every sigma"
    assert recorder.metrics["probe/improve/sigma_0.5"] == rows[0]["improve"]
    text = (folder / "report" / "report.md").read_text()
    assert text.startswith("# Probe of toy-1\n\ntask toy: 2 batches of 40 candidates")
    assert "best of 5 (null) | best of 10 (null) | best of 20 (null)" in text
    assert "- sigma 0.5: best-of-N " in text
    assert "## Both published protocols" in text
    protocols = read_csv(folder / "report" / "protocols.csv")
    assert list(protocols["protocol"]) == ["fixed sigma", "fixed sigma", "sigma chosen per model"]
    assert list(protocols["n"]) == [20] * 3
    assert list(protocols["improve_all"][:2]) == [row["improve"] for row in rows]


def test_the_share_of_exact_zeros_and_the_null_stand_above_best_of_n(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr("es_lightning.reports.probe_picture.best_of_n", lambda *given: drawn.extend(given))

    def plateau(sigma: float) -> np.ndarray:
        return np.where(linear(sigma) > sigma, 1.0, 0.0)

    report([probed(tmp_path / "probe", plateau)], 20)
    same = np.mean(plateau(0.5)[..., 0] == 0)
    titles = drawn[2]
    assert titles[0.5].startswith(f"sigma 0.5\n{same:.0%} the same; null: p = ")


def test_noise_is_reported_as_no_gain(tmp_path: Path) -> None:
    folder = probed(tmp_path / "probe", coins, centre=np.arange(64) % 2.0)
    main(["probe", "--report", str(folder)])
    lines = (folder / "report" / "report.md").read_text().splitlines()
    verdicts = [line for line in lines if line.startswith("- sigma")]
    assert len(verdicts) == 2
    assert all("those that chose it): no gain is shown; over the mean" in line for line in verdicts)
    assert all(line.endswith(" there: no gain is shown.") for line in verdicts)


def test_one_prompt_alone_has_no_protocols(tmp_path: Path) -> None:
    folder = probed(tmp_path / "probe", lambda sigma: linear(sigma)[..., :1])
    report([folder], 20, [])
    assert not (folder / "report" / "protocols.csv").exists()
    assert "protocols" not in (folder / "report" / "report.md").read_text()


@pytest.mark.parametrize("known", [{}, {"largest_reward": 2.0}])
def test_headroom_is_what_the_task_says(known: dict[str, float], tmp_path: Path) -> None:
    folder = probed(tmp_path / "probe", lambda sigma: linear(sigma) - 1, centre=-1.0, **known)
    report([folder], 20, [])
    row = read_csv(folder / "report" / "sigmas.csv").to_dict("records")[0]
    assert row["headroom"] == pytest.approx(3.0 if known else np.nan, nan_ok=True)
    assert row["best_of_headroom"] == pytest.approx(row["best"] / 3 if known else np.nan, nan_ok=True)


@pytest.mark.slow
def test_several_probes_are_compared_in_one_table(tmp_path: Path) -> None:
    folders = [
        probed(tmp_path / name, partial(linear, slope=slope), model=model, parameters=parameters)
        for name, slope, model, parameters in (("one", 1.0, "small", 10**6), ("two", 2.0, "large", 10**8))
    ]
    report(folders)
    made = folders[0] / "comparison"
    pictures = {f"{name}.{end}" for name in ("protocols", "best_of_n") for end in ("png", "csv")}
    assert {path.name for path in made.iterdir()} == {"report.md", "sigmas.csv", *pictures}
    rows = read_csv(made / "protocols.csv")
    assert list(rows["name"]) == ["small", "large"] * 3
    assert list(rows["protocol"]) == ["fixed sigma"] * 4 + ["sigma chosen per model"] * 2
    assert rows["gain"][1] == pytest.approx(2 * rows["gain"][0])
    assert list(rows["sigma"][4:]) == [1, 1], "a linear reward grows with sigma"
    sigmas = read_csv(made / "sigmas.csv")
    assert list(zip(sigmas["name"], sigmas["sigma"], strict=True)) == [
        (name, sigma) for name in ("small", "large") for sigma in SIGMAS
    ]
    assert {"mean", "q_0.05", "q_0.5", "q_0.95", "best", "null", "best_of_headroom", "n90"} < set(sigmas)
    assert sigmas["null"][2] == pytest.approx(2 * sigmas["null"][0])
    curves = read_csv(made / "best_of_n.csv")
    assert len(curves) == 2 * 2 * 40
    assert set(curves["name"]) == {"small", "large"}
    text = (made / "report.md").read_text()
    assert "| model | sigma |" in text.replace("  ", "")


@pytest.mark.slow
def test_probes_of_one_model_go_by_their_folders(tmp_path: Path) -> None:
    folders = [probed(tmp_path / name, linear, model="same") for name in ("one", "two")]
    report(folders, loggers=[])
    assert list(read_csv(folders[0] / "comparison" / "protocols.csv")["name"])[:2] == ["one", "two"]


@pytest.mark.parametrize(
    ("rewards", "centre", "options", "words"),
    [
        (linear, 0.0, ["--largest", "41"], "N = 41 was asked for, and only M = 40"),
        (lambda sigma: np.zeros(SHAPE), 0.0, [], "no candidate of any sigma earns anything else"),
        (lambda sigma: np.zeros(SHAPE), 1.0, [], "the centre already earns 1 of at most 1"),
    ],
)
def test_what_cannot_be_reported_is_refused(
    rewards: Rewards,
    centre: float,
    options: list[str],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = probed(tmp_path / "probe", rewards, centre)
    assert words in refused([str(folder), *options], capsys)
    assert not (folder / "report").exists()


def test_probes_of_several_tasks_are_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [probed(tmp_path / task, linear, task=task) for task in ("sums", "words")]
    assert "several tasks, sums, words" in refused(list(map(str, folders)), capsys)
    assert not (folders[0] / "report").exists()


def test_a_logger_is_what_the_config_asks_for(tmp_path: Path) -> None:
    from lightning.pytorch.loggers import CSVLogger

    assert loggers_for(False, tmp_path) == []
    assert logged_before(tmp_path) == []
    asked = {
        "class_path": "lightning.pytorch.loggers.CSVLogger",
        "init_args": {"save_dir": str(tmp_path), "name": "mine"},
    }
    for given in (asked, [asked]):
        (made,) = loggers_for(given, tmp_path)
        assert isinstance(made, CSVLogger)
        assert made.name == "mine"
    secret = {**asked, "init_args": {"save_dir": "http://***@host"}}
    with pytest.raises(UsageError, match=r"^trainer\.logger has an address with a password"):
        loggers_for(secret, tmp_path)


def test_every_report_has_a_step_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[dict[str, float], int]] = []
    logger: Any = SimpleNamespace(log_metrics=lambda metrics, step: seen.append((metrics, step)))
    for now in (5_000_000, 6_000_000):
        monkeypatch.setattr("time.time_ns", lambda now=now: now)
        log_report_metrics([logger], {"gain": 0.5})
        log_report_metrics([logger], {})
    assert seen == [({"gain": 0.5}, 5), ({"gain": 0.5}, 6)]


@pytest.mark.slow
def test_a_report_goes_to_the_run_of_its_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.chdir(tmp_path)
    folder = probed(tmp_path / "probe", linear)
    with logging_to(loggers_for(None, folder), {"probe.members": 40}) as loggers:
        report([folder], None, loggers)
    report([folder], 10)  # as --report does
    run = MlflowClient(uri).get_run(json.loads((folder / MLFLOW_RUN).read_text())["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.params == {"probe.members": "40"}
    assert run.data.tags["kind"] == "probe"
    history = MlflowClient(uri).get_metric_history(run.info.run_id, "probe/best/sigma_0.5")
    assert [each.value for each in history] == sorted((each.value for each in history), reverse=True)
    assert len(history) == 2, "the best of 30, then the best of 10"
    stored = MlflowClient(uri).list_artifacts(run.info.run_id, "probe/report")
    assert {Path(each.path).name for each in stored} >= {"report.md", "best_of_n.png", "best_of_n.csv"}
