"""The small commands that LightningCLI does not have: ``fetch``, ``plan``, ``replay`` and ``ui``."""

import json
import logging
import os
import re
import sys
from argparse import ArgumentTypeError, Namespace
from pathlib import Path

from es_lightning.analysis.cost import DEVICE_OPTIONS, check_positive
from es_lightning.analysis.devices import CPU, GPUS
from es_lightning.analysis.devices import named as device_named
from es_lightning.cli.console import quiet, without_loading_bars
from es_lightning.cli.parsers import FitOptionsParser, Parser
from es_lightning.models.embedded import fetch_embedded
from es_lightning.system.signals import ending_at_once
from es_lightning.tracking.places import MLFLOW_RUN, TRACKING_URI
from es_lightning.tracking.secrets import without_password

log = logging.getLogger(__name__)

TRAINING = "?workflowType=machine_learning"  # selects one of the two views of MLflow's pages

SERVING = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # more processes, for pages that are not of runs
    "PYTHONWARNINGS": "ignore:starlette.middleware.wsgi is deprecated",  # in MLflow itself
}
"""Environment of MLflow's pages, where the user has set nothing else."""


def ui(arguments: list[str]) -> None:
    """Print links to the newest runs, then serve MLflow's pages until Ctrl-C.

    A tracking server serves its pages itself; then this only prints the links.

    Args:
        arguments: the command line's arguments after ``ui``.
    """
    parser = Parser("ui", "MLflow in a browser, on the runs made here.")
    parser.option("--host", default="127.0.0.1", help="address to listen at (%(default)s)")
    parser.option("--port", type=int, default=5000, help="port to listen at (%(default)s)")
    parser.option("--runs", type=Path, default=Path("runs"), help="folder of the runs' folders (runs)")
    options = parser.read(arguments)
    uri = os.environ.get("MLFLOW_TRACKING_URI") or TRACKING_URI
    served = uri.startswith(("http://", "https://"))
    address = without_password(uri).rstrip("/") if served else f"http://{options.host}:{options.port}"
    for line in run_links(options.runs, uri, address):
        log.info("%s", line)
    log.info(
        "%-24s %s/#/experiments%s%s", "all runs", address, TRAINING, "" if served else "   (Ctrl-C ends it)"
    )
    if served:
        return
    command = ["-m", "mlflow", "ui", "--backend-store-uri", uri]
    place = ["--host", options.host, "--port", str(options.port), "--workers", "1"]  # one person looks
    for name, value in SERVING.items():
        os.environ.setdefault(name, value)
    os.execv(sys.executable, [sys.executable, *command, *place])  # not a child: Ctrl-C goes to MLflow itself


def run_links(folder: Path, uri: str, address: str, count: int = 5) -> list[str]:
    """Return a line with the name and the page of each of the newest runs that a tracking server has.

    Args:
        folder: folder that holds the runs' folders.
        uri: the tracking server's URI.
        address: where its pages are served.
        count: how many runs.
    """
    files = sorted(folder.glob(f"*/{MLFLOW_RUN}"), key=lambda path: path.stat().st_mtime, reverse=True)
    known = [(path.parent.name, json.loads(path.read_text(encoding="utf-8"))) for path in files]
    return [
        f"{name:24} {address}/#/experiments/{run['experiment_id']}/runs/{run['run_id']}{TRAINING}"
        for name, run in known
        if run["tracking_uri"] == without_password(uri)  # the file has the URI in this form
    ][:count]


def fetch(arguments: list[str]) -> None:
    """Download the embedded model, unless that was done before.

    Args:
        arguments: the command line's arguments after ``fetch``; none are known.
    """
    text = "Get the embedded model, SmolLM2-135M-Instruct (93 MB), unless that was done before."
    Parser("fetch", text).read(arguments)
    log.info("embedded model: %s", fetch_embedded())


def replay(arguments: list[str]) -> None:
    """Rebuild a model from its base model and a journal, or from a probe.

    Args:
        arguments: the command line's arguments after ``replay``.
    """
    parser = replay_parser()
    settings = parser.read(arguments)
    _check_replay(parser, settings)
    log.info("starting es-lightning replay ...")
    if settings.probe is not None:
        _replay_candidate(settings)
        return
    del settings.probe, settings.candidate
    from es_lightning.journal import replay as replaying

    without_loading_bars()
    entry = replaying.replay(**vars(settings))
    log.info(
        "%s holds the centre after generation %d, checksum %s as recorded.",
        settings.output,
        entry.generation,
        entry.checksum,
    )


def _check_replay(parser: Parser, settings: Namespace) -> None:
    """Refuse options that do not go together."""
    if (settings.journal is None) == (settings.probe is None):
        parser.error("give a run's journal with --journal, or a probe's folder with --probe and --candidate.")
    if (settings.probe is None) != (settings.candidate is None):
        parser.error("--probe and --candidate belong together: a folder, and the number of a candidate.")
    if settings.probe is not None and settings.generation is not None:
        parser.error("--generation belongs to a journal, and a probe has candidates.")


def _replay_candidate(settings: Namespace) -> None:
    """Write the model of a probe's candidate."""
    from es_lightning.landscape.probing.candidate_model import write_candidate

    without_loading_bars()
    place = (settings.probe, settings.candidate, settings.output)
    candidate = write_candidate(*place, settings.base, settings.trust_remote_code)
    reward = sum(candidate.rewards) / len(candidate.rewards)
    log.info(
        "%s holds candidate %d, sigma %g, whose reward in the probe was %.6g.",
        *(settings.output, candidate.candidate, candidate.sigma, reward),
    )


def replay_parser() -> Parser:
    """Return the parser of ``replay``; those of a journal are the arguments of ``journal.replay.replay``."""
    parser = Parser(
        "replay",
        "Rebuild the Hugging Face model of any generation from the base model and a run's journal, bit for "
        "bit and without rollouts; or that of a probe's candidate.",
    )
    parser.option("--journal", type=Path, help="a run's journal.jsonl")
    parser.option("--probe", type=Path, metavar="FOLDER", help="a finished probe's folder, with --candidate")
    parser.option("--candidate", type=int, metavar="K", help="number of the candidate in candidates.parquet")
    parser.option("--output", type=Path, required=True, help="folder to write; must not exist yet")
    parser.option("--generation", type=int, help="the last generation to repeat (the journal's last)")
    parser.option("--base", help="where the base model is, if it is no longer where it was")
    parser.option(
        "--trust_remote_code",
        type=_true_or_false,
        default=False,
        metavar="true|false",
        help="run Python code that comes with the model, and optimizers from outside torch (false)",
    )
    return parser


def plan(arguments: list[str]) -> None:
    """Print what a run will take; exit with 1 if it does not fit.

    Args:
        arguments: the command line's arguments after ``plan``: its own options, and those of ``fit``.
    """
    parser = plan_parser()
    own, rest = parser.divide(arguments)
    options = parser.read(own)
    _check_plan(options)
    if not rest:
        parser.error("give the config of a fit with -c FILE, such as -c demo.yaml")
    log.info("starting es-lightning plan ...")
    os.environ["HF_HUB_OFFLINE"] = "1"  # before the libraries are imported: no network is asked
    with ending_at_once():  # it takes seconds
        from es_lightning.cli import plan as planning
    quiet()  # again, since Lightning sets the levels of its loggers when it is imported
    if not planning.plan(options, rest):
        raise SystemExit(1)


def _check_plan(options: Namespace) -> None:
    """Refuse numbers and devices that no plan can be made for, before anything slow is imported."""
    named = (
        "count",
        "per_machine",
        "tokens",
        "prompt_tokens",
        "dollars_per_hour",
        "start_seconds",
        "host_gb",
    )
    for name in (*named, *DEVICE_OPTIONS):
        if getattr(options, name) is not None:
            check_positive(name, getattr(options, name))
    if options.device is not None:
        device_named(options.device)


def plan_parser() -> FitOptionsParser:
    """Return the parser of the options that ``plan`` has beside those of ``fit``."""
    parser = FitOptionsParser(
        "plan",
        "What a fit will take, before anything is started or paid for: memory, disk, time and price, all "
        "computed, not measured. It takes the options of fit as well, such as -c FILE or --model.population "
        "64. The exit code is 0 if the run fits, 1 if not, 2 for bad input.",
    )
    parser.option("--device", help=f"one of {', '.join([*GPUS, CPU])} (what this machine has)")
    parser.option("--count", type=int, help="devices of the run (the config's devices and nodes)")
    parser.option("--per_machine", type=int, help="devices of one machine (8 at most)")
    parser.option(
        "--params", type=_parameters, help="the model's size, such as 7.6e9 or 7.6B (its config.json's)"
    )
    parser.option("--tokens", type=float, help="mean of a completion's new tokens (sampling.max_tokens)")
    parser.option("--prompt_tokens", type=float, help="mean of a prompt's tokens (counted)")
    parser.option("--dollars_per_hour", type=float, help="price of one device; there is no default")
    parser.option("--start_seconds", type=float, help="until the first generation (120; 40 on a CPU)")
    parser.option("--host_gb", type=float, help="memory of a machine beside its accelerators (not compared)")
    parser.option("--json", action="store_true", help="print JSON, for scripts")
    for name, meaning in DEVICE_OPTIONS.items():
        parser.option(f"--{name}", type=float, help=f"{meaning} (the device's)")
    return parser


def _parameters(text: str) -> float:
    match = re.fullmatch(r"([\d.]+(?:e[+]?\d+)?)([kmbt]?)", text.strip().lower())
    try:
        value = float(match[1]) * 1000.0 ** " kmbt".index(match[2] or " ") if match else 0.0
    except (ValueError, OverflowError):
        value = 0.0
    if not 0 < value < 1e15:
        raise ArgumentTypeError(f"{text} is no number of parameters such as 7.6e9, 7.6B or 135M")
    return value


def _true_or_false(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ArgumentTypeError(f"{text} is neither true nor false")
    return text.lower() == "true"
