"""What is wrong with MLflow's address is one sentence at the start, in seconds."""

import logging
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from es_lightning.errors import UsageError
from es_lightning.tracking import address
from es_lightning.tracking.logger import DurableMLFlowLogger
from tests.tracking.test_logger import _mlflow_forgets_the_server, free_port, locked, wait_until

__all__ = ["_mlflow_forgets_the_server"]


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("sqlit:///x", "write sqlite:///x"),
        ("htp://user:secret@host", "write http://host"),
        ("postgres://user:secret@host/db", "write postgresql://host/db"),
        ("localhost:5000", "write http://localhost:5000"),
        ("foo://bar", "it knows file, databricks"),
        ("http:/host", "No host supplied"),
        ("http://127.0.0.1:99999", "Failed to parse"),
        ("sqlite://x.db", "sqlite:///relative/path"),
        ("sqlite:////proc/no/mlflow.db", "mend the permissions"),
        ("sqlite:////dev/null/mlflow.db", "mend the permissions"),
        ("sqlite:////proc", "mend the permissions"),
        ("postgresql://user:secret@127.0.0.1:1/db", "refused"),
        ("./mlruns", "sqlite:///mlflow.db"),
    ],
)
def test_a_bad_address_is_one_sentence_at_once(
    uri: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    began = time.monotonic()
    with pytest.raises(UsageError) as caught:
        _ = DurableMLFlowLogger("any", None, uri).experiment
    assert time.monotonic() - began < 30  # MLflow itself would try again for minutes
    message = str(caught.value)
    assert words in message
    assert "--trainer.logger false" in message
    assert "secret" not in message
    assert "\n" not in message


DAMAGES = {
    "no database": ("file is not a database", "move that file away"),
    "torn": ("malformed", "move that file away"),
    "newer": ("another version of MLflow made its tables, 0123456789ab", "mlflow db upgrade"),
    "read-only": ("readonly database", "mend the permissions"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_database_is_one_sentence(
    damage: str, whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, uri = tmp_path / "mlflow.db", f"sqlite:///{tmp_path}/mlflow.db"
    path.write_bytes({"no database": b"Dear diary" * 500, "torn": whole[:8192]}.get(damage, whole))
    if damage == "newer":
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("UPDATE alembic_version SET version_num = '0123456789ab'")
    if damage == "read-only":  # for root every file can be written, so SQLite is told that it cannot
        real = sqlite3.connect
        monkeypatch.setattr(sqlite3, "connect", lambda p, **o: real(f"file:{p}?mode=ro", uri=True, **o))
    with pytest.raises(UsageError) as caught:
        _ = DurableMLFlowLogger("any", None, uri).experiment
    for words in DAMAGES[damage]:
        assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_database_that_is_locked_for_a_moment_is_waited_for(
    whole: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "es_lightning")
    (tmp_path / "mlflow.db").write_bytes(whole)
    with closing(locked(tmp_path / "mlflow.db")) as other:
        own = DurableMLFlowLogger("patient", None, f"sqlite:///{tmp_path}/mlflow.db", patience_seconds=30)
        waiting = threading.Thread(target=lambda: own.experiment)
        waiting.start()
        wait_until(lambda: "waiting for it, at most 30 s" in caplog.text, 10)
        other.execute("ROLLBACK")
        waiting.join(10)
    own.log_metrics({"a": 1.0})
    own.finalize()
    assert own.run_id
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("lock", ["IMMEDIATE", "EXCLUSIVE"])
def test_a_run_starts_while_the_database_is_locked_and_is_delivered_later(
    lock: str, whole: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, uri = tmp_path / "mlflow.db", f"sqlite:///{tmp_path}/mlflow.db"
    path.write_bytes(whole)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute(f"BEGIN {lock}")
        own = DurableMLFlowLogger("late", "one", uri, tmp_path / "spool", patience_seconds=0.5)
        own.remember(tmp_path / "mlflow-run.json", resumes=False)
        _ = own.experiment
        for step in range(3):
            own.log_metrics({"a": 1.0}, step)
        assert own.run_id is None, "there is none yet"
        own.finalize()
        assert len((tmp_path / "spool").read_text().splitlines()) == 5
        assert not (tmp_path / "mlflow-run.json").exists()
    assert "locked" in caplog.text
    assert "Traceback" not in caplog.text

    again = DurableMLFlowLogger("late", "one", uri, tmp_path / "spool")
    again.remember(tmp_path / "mlflow-run.json", resumes=True)
    for step in range(2, 5):
        again.log_metrics({"a": 1.0}, step)
    run = again.run_id
    again.finalize()
    client = MlflowClient(uri)
    [made] = client.search_runs([client.get_experiment_by_name("late").experiment_id])
    assert (made.info.run_id, made.info.run_name, made.info.status) == (run, "one", "FINISHED")
    assert [metric.step for metric in client.get_metric_history(run, "a")] == [0, 1, 2, 3, 4]
    assert (tmp_path / "mlflow-run.json").exists()


def test_a_resumed_run_starts_while_its_server_is_away(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    known = {"tracking_uri": uri, "experiment_id": "1", "run_id": "abc"}
    file = tmp_path / "mlflow-run.json"
    file.write_text(str(known).replace("'", '"'))
    own = DurableMLFlowLogger("any", None, uri, tmp_path / "spool", patience_seconds=0.5)
    own.remember(file, resumes=True)
    own.log_metrics({"a": 1.0}, 7)
    own.finalize()
    assert "cannot be used yet" in caplog.text
    assert [line.count('"run_id": "abc"') for line in (tmp_path / "spool").read_text().splitlines()] == [
        1
    ] * 3


def test_a_deleted_experiment_is_one_sentence(whole: bytes, tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(whole)
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    client.delete_experiment(client.create_experiment("gone"))
    with pytest.raises(UsageError, match="deleted the experiment gone.*mlflow experiments restore"):
        _ = DurableMLFlowLogger("gone", None, f"sqlite:///{tmp_path}/mlflow.db").experiment


def test_nothing_is_made_before_something_is_logged(whole: bytes, tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(whole)
    own = DurableMLFlowLogger("refused", None, f"sqlite:///{tmp_path}/mlflow.db")
    _ = own.experiment
    own.finalize("failed")
    names = [each.name for each in MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").search_experiments()]
    assert names == ["Default"]


STARTS = """
import sys
from es_lightning.tracking.logger import DurableMLFlowLogger
name, spool = sys.argv[1], "spool-" + sys.argv[1]
own = DurableMLFlowLogger("together", name, "sqlite:///new.db", spool, patience_seconds=90)
own.log_metrics({"a": 1.0}, 0)
own.finalize()
"""


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.faults
def test_several_runs_may_make_one_new_database_at_once(tmp_path: Path) -> None:
    starts = [
        subprocess.Popen(
            [sys.executable, "-c", STARTS, str(n)], cwd=tmp_path, stderr=subprocess.PIPE, text=True
        )
        for n in range(3)
    ]
    said = [start.communicate(timeout=300)[1] for start in starts]
    assert [start.returncode for start in starts] == [0] * 3, said
    client = MlflowClient(f"sqlite:///{tmp_path}/new.db")
    runs = client.search_runs([client.get_experiment_by_name("together").experiment_id])
    assert sorted(run.info.run_name for run in runs) == list("012")
    assert all(run.data.metrics == {"a": 1.0} and run.info.status == "FINISHED" for run in runs)


def test_a_database_is_named_by_its_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert address.complete("sqlite:///a.db?timeout=3") == f"sqlite:///{tmp_path}/a.db?timeout=3"
    for other in ("sqlite:///:memory:", "sqlite:////a.db", "http://host", "databricks"):
        assert address.complete(other) == other


def test_hidden_secrets_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@host:5000")
    assert address.complete("http://***@host:5000") == "http://me:secret@host:5000"
    with pytest.raises(UsageError, match="secrets were hidden.*MLFLOW_TRACKING_URI"):
        address.complete("http://***@another")


def test_system_metrics_go_through_the_outbox(
    whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mlflow.db").write_bytes(whole)
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    counts = []
    for resumes in (False, True):
        own = DurableMLFlowLogger("watched", None, uri)
        own.remember(tmp_path / "mlflow-run.json", resumes)
        own.watch_system()
        time.sleep(0.5)
        own.finalize()
        time.sleep(0.3)  # and none after the end
        client = MlflowClient(uri)
        history = client.get_metric_history(own.run_id, "system/cpu_utilization_percentage")
        assert all(0 <= metric.value <= 100 for metric in history)
        counts.append(len(history))
    assert counts[0] >= 3
    assert counts[1] >= counts[0] + 3
    keys = client.get_run(own.run_id).data.metrics
    assert {"system/system_memory_usage_megabytes", "system/disk_usage_percentage"} <= keys.keys()

    off = DurableMLFlowLogger("unwatched", None, uri, system_metrics=False)
    off.watch_system()
    off.log_metrics({"a": 1.0})
    off.finalize()
    assert list(client.get_run(off.run_id).data.metrics) == ["a"]
    assert not [thread for thread in threading.enumerate() if thread.name == "system metrics"]
