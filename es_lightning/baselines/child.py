"""The process that TRL runs in, seen from its parent: lines of JSON, its log, and its end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from es_lightning.errors import RolloutError, UsageError

TESTED = "1.16.0"
"""Version of TRL that the baselines were tested with."""
SCRIPT = Path(__file__).with_name("trl_process.py")
VISIBLE = "CUDA_VISIBLE_DEVICES"


def require_trl() -> str | None:
    """Refuse to begin without TRL.

    Returns:
        A sentence if another version is installed than was tested.

    Raises:
        UsageError: it is not installed.
    """
    try:
        found = version("trl")
    except PackageNotFoundError as error:
        raise UsageError(
            'baselines are trained by TRL, which is not installed: pip install "es-lightning[baselines]".'
        ) from error
    if found != TESTED:
        return f"TRL {found} is installed; the baselines were tested with {TESTED}."
    return None


def seeing_only(device: torch.device) -> dict[str, str]:
    """Return the variables with which a process sees one GPU alone; with several, TRL would refuse to train.

    Args:
        device: of this process; its index counts the GPUs that this process sees. A CPU needs no variable.
    """
    if device.type != "cuda":
        return {}
    seen = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    index = device.index or 0
    return {VISIBLE: seen[index] if seen else str(index)}


class Child:
    """A process that trains; messages are dictionaries with a ``kind``.

    Args:
        job: its first line.
        log: file that gets what it prints.
        environment: variables that it gets beside those of this process.
    """

    def __init__(
        self, job: Mapping[str, Any], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log = log
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, str(SCRIPT), str(os.getpid())],
                env={**os.environ, **(environment or {})},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                encoding="utf-8",
            )
        self.answer(job)

    def messages(self) -> Iterator[dict[str, Any]]:
        """Yield messages until the process ends.

        Raises:
            RolloutError: it has failed; the message has the end of its log.
        """
        assert self._process.stdout is not None
        for line in self._process.stdout:
            yield json.loads(line)
        if code := self._process.wait():
            raise RolloutError(f"TRL has failed with exit code {code}: {self._last_words()} See {self.log}.")

    def answer(self, values: Mapping[str, Any]) -> None:
        """Send a line."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # ``messages`` says why it has ended
            self._process.stdin.write(json.dumps(values) + "\n")
            self._process.stdin.flush()

    def _last_words(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else "it said nothing."

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process, if it has not ended."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
