"""Real processes for tests: ranks that fork from a warm one, fit the tiny model, and die on command."""

import json
import multiprocessing
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import distributed

from es_lightning.algorithm.noise import GaussianNoise
from es_lightning.callbacks import GracefulStop
from es_lightning.datamodule import TaskDataModule
from es_lightning.distributed.strategy import PopulationStrategy
from es_lightning.journal.entry import read_journal
from es_lightning.rollout import HFEngine, Sampling, VLLMAdapterEngine, VLLMEngine
from es_lightning.system.checkpoint import newest
from es_lightning.system.signals import Interrupted
from tests.helpers.faults import Fault, install
from tests.helpers.fits import Letters, Records, module, trainer
from tests.helpers.letters import Answered
from tests.helpers.recipes import read, short_run
from tests.helpers.unpacked import Unpacked

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.helpers.preload"])


class Bound(Callback):
    """The cores and threads that a rank has while it works; afterwards it gives them back."""

    cores: list[int]
    threads: int

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note both."""
        self.cores, self.threads = sorted(os.sched_getaffinity(0)), torch.get_num_threads()


@dataclass(frozen=True)
class Run:
    """A fit of the tiny model, the same for every rank."""

    folder: Path
    steps: int = 5
    resume: bool = False
    engine: str = "hf"
    tensor_parallel_size: int = 1
    optimizer: str = "SGD"
    timeout_seconds: float = 60.0
    fault: Fault | None = None
    prompts: int = 3
    nodes: int = 1
    count_bytes: bool = False
    share_update: bool = False
    shard_centre: bool = False
    recipe: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    callbacks: tuple[Callback, ...] = ()

    @property
    def world(self) -> int:
        """Number of ranks, as the launcher says."""
        return int(os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_NTASKS") or 1)

    def fit(self) -> None:
        """Fit in this process, as the rank that the environment says; leaves journal and a report."""
        tuned, records, bound = self.module(), Records(), Bound()
        if self.fault is not None:
            install(self.fault, tuned)
        checkpoints = self.folder / "checkpoints"
        strategy = PopulationStrategy(
            self.timeout_seconds,
            threads_per_rank=1,
            share_update=self.share_update,
            shard_centre=self.shard_centre,
        )
        run = trainer(
            self.folder,
            self.steps,
            [records, bound, GracefulStop(), ModelCheckpoint(checkpoints, save_top_k=1), *self.callbacks],
            enable_checkpointing=True,
            strategy=strategy,
            devices=self.world // self.nodes,
            num_nodes=self.nodes,
            val_check_interval=2,
        )
        sent = count_bytes(tuned) if self.count_bytes else []
        found = newest(checkpoints) if self.resume else None
        tuned.history.saved = [] if self.resume else None
        run.fit(tuned, self.data(), ckpt_path=found)
        report = {
            "checksum": tuned.checksum(),
            "generations": [record.index for record in records.generations],
            "rolled_out": [record.index for record in records.generations if record.evaluations],
            "mine": [list(record.evaluations) for record in records.generations],
            "val": {name: float(value) for name, value in run.callback_metrics.items() if "val/" in name},
            "threads": bound.threads,
            "cores": bound.cores,
            "tensor_parallel_size": tuned.rollouts.engine.tensor_parallel_size,
            "in_place": tuned.rollouts.engine.in_place,
            "bytes": sent,
            "held": [name for name, each in tuned.centre.named_parameters() if not each.is_meta],
            "restored_from": None if found is None else found.name,
        }
        name = f"rank-{run.global_rank}.json"
        (self.folder / name).write_text(json.dumps(report), encoding="utf-8")

    def data(self) -> TaskDataModule:
        """The data, with the objective of the recipe."""
        if self.recipe:
            return TaskDataModule(Answered(), self.prompts, **read(self.recipe).get("data", {}))
        return TaskDataModule(Letters(), prompts_per_generation=self.prompts)

    def module(self) -> Any:
        """The module, with noise that needs no compiler."""
        if self.recipe:
            return short_run(self.recipe)
        size = self.tensor_parallel_size
        engine: Any = HFEngine(dtype="float32", device="cpu", tensor_parallel_size=size)
        if self.engine != "hf":
            kinds: dict[str, Any] = {
                "vllm": VLLMEngine,
                "adapters": VLLMAdapterEngine,
                "unpacked": Unpacked,
                "reloaded": partial(Unpacked, load="reload"),
            }
            options = {"enforce_eager": True, "kv_cache_gib": 0.1, "tensor_parallel_size": size}
            engine = kinds[self.engine](dtype="float32", **options)
        optimizers = {
            "SGD": lambda p: torch.optim.SGD(p, lr=0.05),
            "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
            "Adam": lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.8, 0.99)),
            "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
        }
        defaults = {"engine": engine, "noise": GaussianNoise(compile=False), "population": 5}
        defaults |= {"optimizer": optimizers[self.optimizer], "sampling": Sampling(max_tokens=6)}
        return module(**(defaults | self.options))

    def lines(self) -> list[str]:
        """The journal's lines of generations, without what a clock decides."""
        _, entries = read_journal(self.folder / "journal.jsonl")
        lines = [json.loads(entry.line()) for entry in entries]
        return [json.dumps({key: line[key] for key in line if key != "seconds"}) for line in lines]

    def report(self, rank: int = 0) -> dict[str, Any]:
        """What a rank said of its fit."""
        found: dict[str, Any] = json.loads((self.folder / f"rank-{rank}.json").read_text(encoding="utf-8"))
        return found

    def log(self, rank: int = 0) -> str:
        """What a rank wrote to its terminal."""
        return (self.folder / f"rank-{rank}.log").read_text(encoding="utf-8")


def count_bytes(tuned: Any) -> list[int]:
    """Count what every call of torch.distributed moves; one sum per generation."""
    sums = [0]
    for name in ("all_gather", "broadcast", "all_reduce", "send", "isend", "scatter", "reduce", "gather"):
        setattr(distributed, name, _counted(getattr(distributed, name), sums))
    original = tuned.training_step

    def training_step(*args: Any) -> Any:
        sums[-1] = 0  # what Lightning sends between two generations is no part of one
        result = original(*args)
        sums.append(0)
        return result

    tuned.training_step = training_step
    return sums


def _counted(function: Any, sums: list[int]) -> Any:
    def counted(*args: Any, **options: Any) -> Any:
        # A collective's tensors are its output list, where it has one, or its first argument.
        tensors = args[0] if isinstance(args[0], list) else [args[0]]
        sums[-1] += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return function(*args, **options)

    return counted


def places(world: int, nodes: int = 1, slurm: bool = False) -> list[dict[str, str]]:
    """What a launcher puts into the environment of each rank."""
    if world == 1:
        return [{}]
    size, port = world // nodes, str(_free_port())
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    if slurm:
        job = {"SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "es", "SLURM_NTASKS": str(world)}
        job |= {"SLURM_NTASKS_PER_NODE": str(size), "SLURM_NODELIST": "127.0.0.1", **common}
        names = ("SLURM_PROCID", "SLURM_NODEID", "SLURM_LOCALID")
        return [job | dict(zip(names, map(str, (r, r // size, r % size)), strict=True)) for r in range(world)]
    common["WORLD_SIZE"] = str(world)
    return [common | {"NODE_RANK": str(r // size), "LOCAL_RANK": str(r % size)} for r in range(world)]


def start(run: Run, world: int = 1, slurm: bool = False) -> list[BaseProcess]:
    """Start the ranks of a run."""
    run.folder.mkdir(parents=True, exist_ok=True)
    ranks: list[BaseProcess] = []
    for rank, environment in enumerate(places(world, run.nodes, slurm)):
        process = CONTEXT.Process(target=_rank, args=(run, rank, environment))
        process.start()
        ranks.append(process)
    return ranks


def wait(ranks: Sequence[BaseProcess], seconds: float = 60.0) -> list[int | None]:
    """Wait for all ranks; those that are still there in the end are killed and count as None."""
    deadline = time.monotonic() + seconds
    for process in ranks:
        process.join(max(0.0, deadline - time.monotonic()))
    codes = [process.exitcode for process in ranks]
    for process in ranks:
        process.kill()
        process.join()
    return codes


def fit(run: Run, world: int = 1, seconds: float = 60.0, slurm: bool = False) -> list[int | None]:
    """Run to the end; the exit code of each rank."""
    return wait(start(run, world, slurm), seconds)


def _rank(run: Run, rank: int, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    log = os.open(run.folder / f"rank-{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code = 0
    try:
        run.fit()
    except Interrupted as interrupted:
        code = interrupted.exit_code
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
