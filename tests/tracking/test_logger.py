"""The logger against real servers: killed and restarted, cut off, hung, locked, or never there."""

import json
import logging
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import mlflow
import pytest
from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.utilities import rank_zero_only
from mlflow.tracking import MlflowClient

from es_lightning.errors import UsageError
from es_lightning.tracking.logger import DurableMLFlowLogger

AT_ONCE = 0.25  # seconds that a call may take while the server is away


class Server:
    """A real tracking server on a port of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        command = [str(Path(sys.executable).with_name("mlflow")), "server", "--workers", "1"]
        command += ["--port", str(self.port), "--backend-store-uri", f"sqlite:///{self.folder}/server.db"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        with (self.folder / "server.log").open("ab") as output:
            self.process = subprocess.Popen(
                command,
                env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        wait_until(lambda: answers(self.port), 60)

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Cable:
    """A connection to a server that can be cut; starting a server anew takes seconds."""

    def __init__(self, server: Server) -> None:
        self.server, self.port, self.ends = server, free_port(), list[socket.socket]()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.join()

    def join(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self.accept, args=[self.listener], daemon=True).start()

    def cut(self) -> None:
        for end in (self.listener, *self.ends):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self.ends.clear()

    def accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", self.server.port))
                self.ends += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self.carry, args=pair, daemon=True).start()

    def carry(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def wait_until(condition: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not so within {seconds} s"
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def _mlflow_forgets_the_server() -> Iterator[None]:
    before = os.environ.get("MLFLOW_TRACKING_URI")
    yield
    mlflow.set_tracking_uri(before)  # Lightning's logger sets it for the process and its children


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.kill()


@pytest.fixture
def cable(server: Server) -> Iterator[Cable]:
    cable = Cable(server)
    yield cable
    cable.cut()


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "run" / "mlflow.jsonl"


@pytest.fixture
def database(whole: bytes, tmp_path: Path) -> str:
    """The address of a database that is ready for use."""
    (tmp_path / "mlflow.db").write_bytes(whole)
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Every warning so far, of this package and of the libraries below it."""
    caplog.set_level(logging.INFO, "es_lightning")
    logging.getLogger("lightning.pytorch.loggers.mlflow").setLevel(logging.ERROR)  # as console.quiet does
    return lambda: [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def history(uri: str, run: str | None, key: str) -> list[tuple[int, float, int]]:
    assert run
    return [(m.step, m.value, m.timestamp) for m in MlflowClient(uri).get_metric_history(run, key)]


def spooled(spool: Path) -> list[dict]:
    """The whole entries of the file; another process may be writing the last one."""
    whole = spool.read_text().rpartition("\n")[0] if spool.exists() else ""
    return [json.loads(line) for line in whole.splitlines()]


def log_some(logger: DurableMLFlowLogger, steps: range) -> list[tuple[int, float, int, int]]:
    """Log one metric per step; each with the milliseconds before and after the call."""
    logged, seconds = [], []
    for step in steps:
        before, began = int(time.time() * 1000), time.perf_counter()
        logger.log_metrics({"reward/mean": step / 3}, step)
        seconds.append(time.perf_counter() - began)
        logged.append((step, step / 3, before, int(time.time() * 1000)))
    assert sorted(seconds)[len(seconds) * 9 // 10] < AT_ONCE
    assert max(seconds) < 20 * AT_ONCE  # on a busy machine
    return logged


@pytest.mark.faults
@pytest.mark.slow
def test_a_server_that_is_killed_and_restarted_gets_everything(server, spool, warnings, caplog, tmp_path):
    logger = DurableMLFlowLogger("killed", "one", server.uri, spool, patience_seconds=30)
    assert isinstance(logger, MLFlowLogger)
    assert logger.run_id
    logged = log_some(logger, range(3))
    wait_until(lambda: len(history(server.uri, logger.run_id, "reward/mean")) == 3, 10)
    server.kill()
    try:
        began = time.perf_counter()
        logger.log_hyperparams({"model": {"sigma": 0.1}, "long": "x" * 300})
        assert time.perf_counter() - began < AT_ONCE
        logged += log_some(logger, range(3, 1503))
        (tmp_path / "note.txt").write_text("hello")
        logger.log_artifact(tmp_path / "note.txt", "notes")
        wait_until(spool.exists, 10)
        logged += log_some(logger, range(1503, 1510))  # on disk at once from here on
        wait_until(lambda: len(spooled(spool)) == 2 + 1500 + 1 + 7, 1)
        assert {entry["run_id"] for entry in spooled(spool)} == {logger.run_id}
    finally:
        server.start()
    logger.finalize("success")
    assert not spool.exists()
    [warning] = warnings()
    assert server.uri in warning
    assert "refused" in warning
    assert str(spool) in warning
    assert "training goes on" in warning
    assert sum("answers again" in r.getMessage() for r in caplog.records) == 1

    arrived = history(server.uri, logger.run_id, "reward/mean")
    assert [(step, value) for step, value, _ in arrived] == [(step, value) for step, value, _, _ in logged]
    assert all(
        before <= time <= after for (_, _, time), (*_, before, after) in zip(arrived, logged, strict=True)
    )
    client = MlflowClient(server.uri)
    run = client.get_run(logger.run_id)
    assert run.data.params == {"model/sigma": "0.1", "long": "x" * 300}
    assert run.info.status == "FINISHED"
    assert [file.path for file in client.list_artifacts(logger.run_id, "notes")] == ["notes/note.txt"]


@pytest.mark.faults
@pytest.mark.slow
def test_the_next_logger_delivers_what_a_dead_server_left(cable, server, spool, warnings):
    logger = DurableMLFlowLogger("left", "one", cable.uri, spool, patience_seconds=3)
    run = logger.run_id
    cable.cut()
    log_some(logger, range(20))
    began = time.monotonic()
    logger.finalize("failed")
    logger.finalize("failed")  # as Lightning may
    assert 2.9 < time.monotonic() - began < 5.9  # once, not twice
    assert [entry["data"]["step"] for entry in spooled(spool)[:-1]] == list(range(20))
    assert spooled(spool)[-1]["data"]["status"] == "FAILED"
    assert len(warnings()) == 2
    assert "21 entries" in warnings()[1]
    assert str(spool) in warnings()[1]

    cable.join()
    second = DurableMLFlowLogger("left", tracking_uri=cable.uri, spool=spool, run_id=run)
    assert second.run_id == run
    log_some(second, range(20, 22))
    wait_until(lambda: len(history(server.uri, run, "reward/mean")) == 22, 10)
    assert MlflowClient(server.uri).get_run(run).info.status == "RUNNING"
    second.finalize()
    assert not spool.exists()
    assert MlflowClient(server.uri).get_run(run).info.status == "FINISHED"
    assert [step for step, *_ in history(server.uri, run, "reward/mean")] == list(range(22))
    assert len(warnings()) == 2


@pytest.mark.faults
@pytest.mark.slow
def test_a_hung_server_gets_each_entry_once(server, spool, warnings, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    logger = DurableMLFlowLogger("hung", None, server.uri, spool)
    assert logger.run_id
    os.killpg(server.process.pid, signal.SIGSTOP)
    try:
        log_some(logger, range(10))
        wait_until(spool.exists, 10)
        log_some(logger, range(10, 20))
        assert len(spooled(spool)) == 20
    finally:
        os.killpg(server.process.pid, signal.SIGCONT)
    logger.finalize()
    [warning] = warnings()
    assert "timed out" in warning
    assert [step for step, *_ in history(server.uri, logger.run_id, "reward/mean")] == list(range(20))
    assert not spool.exists()


VICTIM = """
import sys, time
from es_lightning.tracking.logger import DurableMLFlowLogger
logger = DurableMLFlowLogger("victim", None, sys.argv[1], sys.argv[2])
print(logger.run_id, flush=True)
sys.stdin.readline()
for step in range(1000):
    logger.log_metrics({"a": step, "b": float("nan")}, step)
    print(step, flush=True)
    time.sleep(0.005)
"""


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.long
def test_a_killed_process_loses_nothing(cable, server, spool):
    command = [sys.executable, "-c", VICTIM, cable.uri, str(spool)]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True, stderr=subprocess.DEVNULL) as victim:
        run = victim.stdout.readline().strip()
        cable.cut()
        victim.stdin.write("\n")
        victim.stdin.flush()
        wait_until(lambda: len(spooled(spool)) > 100, 20)
        victim.kill()
        last = int(victim.stdout.read().split()[-1])
    steps = [entry["data"]["step"] for entry in spooled(spool) if entry["data"]["key"] == "a"]
    assert steps[: last + 1] == list(range(last + 1))

    cable.join()
    logger = DurableMLFlowLogger("victim", None, cable.uri, spool)
    assert logger.run_id != run
    logger.finalize()
    assert not spool.exists()
    assert [(step, value) for step, value, _ in history(server.uri, run, "a")] == [(s, s) for s in steps]


@pytest.mark.faults
@pytest.mark.slow
def test_a_refused_entry_is_dropped_alone(server, spool, warnings):
    logger = DurableMLFlowLogger("refused", None, server.uri, spool)
    logger.log_hyperparams({"seed": 1})
    logger.log_hyperparams({"seed": 2, "lr": 0.5, "wd": 0.0})
    logger.log_metrics({"good, or so": 1.0, "../bad": 2.0, "fine": 3.0, "/bad too": 4.0}, 7)
    logger.log_artifact(spool.parent / "not there")
    logger.log_metrics({"later": 5.0}, 8)
    logger.finalize()
    run = MlflowClient(server.uri).get_run(logger.run_id)
    assert run.data.params == {"seed": "1", "lr": "0.5", "wd": "0.0"}
    assert run.data.metrics == {"good or so": 1.0, "fine": 3.0, "later": 5.0}
    assert run.info.status == "FINISHED"
    parameter, metric, artifact = warnings()
    assert "param seed" in parameter
    assert "metric ../bad" in metric
    assert "artifact" in artifact
    assert not spool.exists()


@pytest.mark.faults
@pytest.mark.slow
def test_a_torn_last_line_is_dropped(server, spool, warnings):
    run = DurableMLFlowLogger("torn", None, server.uri).run_id
    whole = [
        {"run_id": run, "kind": "metric", "data": dict(key="a", value=1.0, timestamp=9, step=s)}
        for s in range(2)
    ]
    spool.parent.mkdir()
    spool.write_text("".join(json.dumps(entry) + "\n" for entry in whole) + json.dumps(whole[0])[:40])
    logger = DurableMLFlowLogger("torn", None, server.uri, spool, run_id=run)
    logger.log_metrics({"b": 1.0}, 2)
    logger.finalize()
    assert len(history(server.uri, run, "b")) == 1
    assert history(server.uri, run, "a") == [(0, 1.0, 9), (1, 1.0, 9)]
    assert not spool.exists()
    [warning] = warnings()
    assert "torn line" in warning


def test_no_server_at_the_start_is_one_sentence(spool):
    uri = f"http://user:secret@127.0.0.1:{free_port()}"
    began = time.monotonic()
    with pytest.raises(UsageError, match="MLFLOW_TRACKING_URI.*--trainer.logger false") as caught:
        _ = DurableMLFlowLogger("nobody", None, uri, spool).experiment
    assert time.monotonic() - began < 15
    assert "127.0.0.1" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not spool.parent.exists()


def test_a_hung_server_is_none(spool, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")  # 10 unless set
    with socket.create_server(("127.0.0.1", 0)) as hung:
        logger = DurableMLFlowLogger("hung", None, f"http://127.0.0.1:{hung.getsockname()[1]}", spool)
        began = time.monotonic()
        with pytest.raises(UsageError, match="timed out"):
            _ = logger.experiment
        assert time.monotonic() - began < 6


def test_a_database_gets_metrics_parameters_and_artifacts(tmp_path, database, warnings):
    store = str(tmp_path / "store")
    logger = DurableMLFlowLogger("plain", "one", database, tags={"who": "me"}, artifact_location=store)
    assert logger.run_id
    log_some(logger, range(2500))
    logger.log_hyperparams({f"p{i}": i for i in range(250)})
    (tmp_path / "summary.json").write_text("{}")
    logger.log_artifact(tmp_path / "summary.json")
    logger.finalize("success")
    run = MlflowClient(database).get_run(logger.run_id)
    arrived = history(database, logger.run_id, "reward/mean")
    assert [(step, value) for step, value, _ in arrived] == [(step, step / 3) for step in range(2500)]
    assert run.data.params == {f"p{i}": str(i) for i in range(250)}
    assert (run.info.status, run.info.run_name, run.data.tags["who"]) == ("FINISHED", "one", "me")
    assert [path.name for path in (tmp_path / "store").rglob("*.json")] == ["summary.json"]
    assert warnings() == []

    logger.log_metrics({"test/reward": 1.0}, 2500)  # trainer.test after trainer.fit
    logger.finalize("success")
    assert len(history(database, logger.run_id, "test/reward")) == 1


def test_a_store_of_artifacts_that_is_down_holds_up_no_metrics(database, spool, warnings):
    nowhere = f"mlflow-artifacts://127.0.0.1:{free_port()}/"
    logger = DurableMLFlowLogger("half", None, database, spool, artifact_location=nowhere, patience_seconds=2)
    assert logger.run_id
    logger.log_artifact(__file__)
    log_some(logger, range(3))
    logger.finalize()
    assert len(history(database, logger.run_id, "reward/mean")) == 3
    assert MlflowClient(database).get_run(logger.run_id).info.status == "FINISHED"
    assert spooled(spool)[0]["kind"] == "artifact"
    assert [w.split()[0] for w in warnings()] == ["MLflow", "1"]


def locked(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    return connection


def test_a_locked_database_is_waited_for(tmp_path, database, spool, warnings):
    logger = DurableMLFlowLogger("locked", None, database, spool, patience_seconds=30)
    _ = logger.experiment
    with closing(locked(tmp_path / "mlflow.db")):
        log_some(logger, range(3))
        time.sleep(0.5)
    logger.finalize()
    assert len(history(database, logger.run_id, "reward/mean")) == 3
    assert warnings() == []


@pytest.mark.slow
def test_a_database_locked_for_long_is_an_outage(tmp_path, database, spool, warnings):
    logger = DurableMLFlowLogger("locked", None, database, spool, patience_seconds=60)
    assert logger.run_id
    with closing(locked(tmp_path / "mlflow.db")):
        log_some(logger, range(3))
        wait_until(spool.exists, 90)  # SQLite itself waits for 20 s, twice
        assert len(spooled(spool)) == 3
    logger.finalize()
    assert len(history(database, logger.run_id, "reward/mean")) == 3
    [warning] = warnings()
    assert "database is locked" in warning
    assert not spool.exists()


def test_only_rank_zero_does_anything(spool, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    logger = DurableMLFlowLogger("rank", None, f"http://127.0.0.1:{free_port()}", spool)
    logger.log_metrics({"a": 1.0}, 0)
    logger.log_hyperparams({"a": 1})
    logger.log_artifact(__file__)
    logger.finalize()
    assert logger.run_id is None
    assert not spool.exists()
