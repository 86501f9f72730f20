"""A fit in a process of its own, seen from the sweep: its log, its end, and what it said last."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from signal import Signals

GRACE_SECONDS = 120.0
"""A run that is asked to stop finishes its update and writes a checkpoint first."""
SHOWN = 300  # characters of an error
PREFIX = "es-lightning: "


class FitProcess:
    """``es-lightning fit`` in a process of its own, which ends when this one does.

    Args:
        words: the command line after ``es-lightning``.
        log: file that what it prints is added to; its folder is made.
        cores: CPU cores that it is bound to; none leave it all.
        environment: variables beside those of this process.
    """

    def __init__(
        self, words: Sequence[str], log: Path, cores: Sequence[int], environment: Mapping[str, str]
    ) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log = log
        self._start = log.stat().st_size if log.exists() else 0
        launcher = [sys.executable, "-m", "es_lightning.sweeps.launch", str(os.getpid())]
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                [*launcher, ",".join(map(str, cores)), *words],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **threads(len(cores)), **environment},
            )

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""
        return self._process.poll()

    def ask_to_stop(self) -> None:
        """Let it end after its update, with a checkpoint."""
        with suppress(ProcessLookupError):
            self._process.terminate()

    def stop(self) -> None:
        """Ask it to stop, and wait until it has; one that takes too long is killed."""
        self.ask_to_stop()
        try:
            self._process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def error(self) -> str:
        """What it failed of, in one line: its last one, or the signal that killed it."""
        code = self._process.returncode
        with self.log.open("rb") as file:
            file.seek(self._start)
            said = file.read().decode("utf-8", "replace").strip().splitlines()
        if code < 0:
            return f"killed by {Signals(-code).name}"
        return said[-1].removeprefix(PREFIX)[:SHOWN] if said else f"exit code {code}"


def threads(count: int) -> dict[str, str]:
    """Return the variables that make libraries use a number of threads; none for no number."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return dict.fromkeys(names, str(count)) if count else {}
