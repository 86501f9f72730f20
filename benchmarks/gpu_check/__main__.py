"""Run all sections, each in a process of its own, and print one table."""

import argparse
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

import torch

from benchmarks.gpu_check import engines
from benchmarks.gpu_check.rows import WRONG, Row, Settings, attempted, failed, table
from benchmarks.gpu_check.section import SECTIONS

ROOT = Path(__file__).parents[2]
NO_DEVICE = "No accelerator found: run with --device cpu to try the script itself.\n"
SIGMAS = {"tiny": 0.2}  # a model that says nothing has to be perturbed more until it says something else
log = logging.getLogger("gpu_check")


class Parser(argparse.ArgumentParser):
    """Reports errors on one line."""

    def error(self, message: str) -> NoReturn:
        """Print one line and stop."""
        self.exit(2, f"gpu_check: {message}\n")


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the options."""
    parser = Parser(prog="gpu_check", description="Does an accelerator give the right numbers?")
    parser.add_argument("--device", default="", help="torch device type; the accelerator unless given")
    parser.add_argument("--base", default="embedded", help="a model, as in --model.base (%(default)s)")
    parser.add_argument("--dtype", default="auto", help="precision of the engines (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="keys all noise (%(default)s)")
    parser.add_argument(
        "--sigma", type=float, help=f"of the members that engines are compared on ({Settings.sigma})"
    )
    parser.add_argument("--members", type=int, default=8, help="of a generation (%(default)s)")
    parser.add_argument("--prompts", type=int, default=32, help="of a generation (%(default)s)")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="NAME")
    parser.add_argument("--limit", type=float, default=300, help="most seconds of a section (%(default)s)")
    parser.add_argument("--output", type=Path, help="file for the table, beside printing it")
    return parser.parse_args(arguments)


def device_type(wanted: str) -> str:
    """Return the type of the device to check; empty if it is not there."""
    found = torch.accelerator.current_accelerator(check_available=True)
    there = ["cpu"] if found is None else ["cpu", found.type]
    if wanted:
        return wanted if wanted in there else ""
    return "" if found is None else found.type


def run(name: str, settings: Settings, folder: Path, limit: float) -> list[Row]:
    """Run a section, and return its rows; how it failed is the last one."""
    folder.mkdir()
    (folder / "settings.json").write_text(json.dumps(asdict(settings)), "utf-8")
    case = engines.CASES.get(name)
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false"} | (case.environment if case else {})
    with (folder / "log").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.gpu_check.section", name, str(folder)],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(limit)
            reason = "" if code == 0 else _reason(folder / "log", code)
        except subprocess.TimeoutExpired:
            reason = f"took longer than {limit:g} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    path = folder / "rows.jsonl"
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    rows = [Row(**json.loads(line)) for line in lines]
    return [*rows, failed("section", reason)] if reason else rows


def _reason(path: Path, code: int) -> str:
    """Return the last line of a log, where Python and es-lightning say what went wrong."""
    lines = [line for line in path.read_text("utf-8", "replace").splitlines() if line.strip()]
    return f"{lines[-1] if lines else 'without a word'} (exit code {code})"


def check(options: argparse.Namespace, device: str) -> dict[str, list[Row]]:
    """Run the chosen sections, and compare the engines among them."""
    settings = Settings(
        device,
        options.base,
        options.dtype,
        options.seed,
        options.sigma or SIGMAS.get(options.base, Settings.sigma),
        options.members,
        options.prompts,
    )
    found: dict[str, list[Row]] = {}
    numbers: dict[str, engines.Numbers] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for index, name in enumerate(options.sections):
            log.info("%d of %d: %s", index + 1, len(options.sections), name)
            folder = Path(scratch) / str(index)
            found[name] = run(name, settings, folder, options.limit)
            if (path := folder / "numbers.json").exists():
                numbers[name] = engines.Numbers(**json.loads(path.read_text("utf-8")))
    for name in numbers:
        found[name] += _compared(settings, name, numbers)
    return found


def _compared(settings: Settings, name: str, numbers: dict[str, engines.Numbers]) -> Iterator[Row]:
    if engines.REFERENCE not in numbers:
        yield failed("log-probabilities", f"there are none of {engines.REFERENCE}")
        return
    yield from attempted("log-probabilities", lambda: engines.compare(settings, name, numbers[name], numbers))


def main(arguments: Sequence[str] | None = None) -> int:
    """Check, print the table, and return the exit code."""
    options = parsed(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if not (device := device_type(options.device)):
        sys.stderr.write(NO_DEVICE)
        return 2
    found = check(options, device)
    text = table(found)
    sys.stdout.write(text)
    if options.output:
        options.output.write_text(text, "utf-8")
    return int(any(row.verdict in WRONG for rows in found.values() for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
