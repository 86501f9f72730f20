"""The population spread over ranks: every rank holds a whole centre, and weights are never sent."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry
from torch import Tensor, distributed, nn
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from es_lightning.algorithm.shares import rounds
from es_lightning.errors import RankError, UsageError
from es_lightning.system.checkpoint import AtomicCheckpoint, check_checkpoint
from es_lightning.system.cores import bind, share_of
from es_lightning.system.neighbours import NeighbourWatch
from es_lightning.system.processes import end_with_parent
from es_lightning.system.signals import wait_for

START_SECONDS = 600  # an engine may take minutes to start, however short a generation is


class PopulationStrategy(DDPStrategy):
    """Spreads members over ranks; every rank applies the same update to its own centre.

    It launches ranks as Lightning's DDP does: by itself on one machine, or under torchrun or SLURM.

    Args:
        timeout_seconds: how long a rank waits for the slowest one in a generation before it gives up; at the
            start and around checkpoints it waits for at least 600 seconds.
        threads_per_rank: largest number of CPU cores of a rank; None divides the machine's cores among its
            ranks. Ranks on accelerators are not bound to cores.
        share_update: each rank makes the noise of an update for its share of the tensors, and sends what
            comes of it to the others: the time is divided by the number of ranks, and every rank receives
            nearly 4 bytes per parameter in a generation. Otherwise every rank makes all of it.
        options: keyword arguments of ``lightning.pytorch.strategies.DDPStrategy``.

    Raises:
        UsageError: a value is outside its range.
    """

    def __init__(
        self,
        timeout_seconds: float = 1800.0,
        threads_per_rank: int | None = None,
        share_update: bool = False,
        **options: Any,
    ) -> None:
        if not timeout_seconds > 0:
            raise UsageError(f"strategy.timeout_seconds is {timeout_seconds}: give a number above 0.")
        if threads_per_rank is not None and threads_per_rank < 1:
            raise UsageError(f"strategy.threads_per_rank is {threads_per_rank}: give at least 1.")
        options["checkpoint_io"] = options.get("checkpoint_io") or AtomicCheckpoint()
        options["timeout"] = timedelta(seconds=max(timeout_seconds, START_SECONDS))
        super().__init__(**options)
        self.timeout_seconds, self.threads_per_rank = timeout_seconds, threads_per_rank
        self.share_update = share_update
        self.stopping = False
        self._launched: list[subprocess.Popen[bytes]] = []
        self._rewards_group: Any = None
        self._neighbours: NeighbourWatch | None = None

    # Set-up ---------------------------------------------------------------------------------------

    def setup_environment(self) -> None:
        """Join the other ranks; a rank on CPUs also takes cores of its own."""
        self._check_launcher()
        if self.local_rank and _parent_runs_the_same():
            end_with_parent()
        super().setup_environment()
        if self.world_size > 1:
            # Engines read these to find their place. torchrun sets them; SLURM and Lightning do not.
            os.environ |= {"RANK": str(self.global_rank), "LOCAL_RANK": str(self.local_rank)}
            os.environ["WORLD_SIZE"] = str(self.world_size)
            # Gloo also on accelerators, since its barrier can name the ranks that are missing.
            self._rewards_group = distributed.new_group(
                backend="gloo", timeout=timedelta(seconds=self.timeout_seconds)
            )
        if self.root_device.type == "cpu":
            self._bind()

    def _check_launcher(self) -> None:
        """Refuse a number of ranks that is not torchrun's: Lightning would look for devices that it lacks."""
        environment = self.cluster_environment
        if not isinstance(environment, TorchElasticEnvironment):
            return
        started, wanted = environment.world_size(), self.num_nodes * self.num_processes
        if started != wanted:
            here = int(os.environ.get("LOCAL_WORLD_SIZE", started))
            raise UsageError(
                f"torchrun has started {started} ranks, but trainer.devices and trainer.num_nodes ask for "
                f"{wanted}: give --trainer.devices {here} --trainer.num_nodes {started // here}, or start "
                "es-lightning without torchrun."
            )

    def _bind(self) -> None:
        """Take a share of the machine's cores, unless a launcher has given each rank its own already."""
        mine = sorted(os.sched_getaffinity(0))
        told = [json.loads(each) for each in self.exchange(json.dumps([self.node_rank, mine]).encode())]
        # If all ranks of this node have the same cores, no launcher has divided them.
        shared = all(cores == mine for node, cores in told if node == self.node_rank)
        place = (self.local_rank, self.num_processes) if shared else (0, 1)
        cores = share_of(mine, *place, self.threads_per_rank)
        bind(cores)
        self._neighbours = NeighbourWatch(cores)
        self._neighbours.start()

    def teardown(self) -> None:
        """End the watch for busy neighbours, and whatever else Lightning ends."""
        if self._neighbours is not None:
            self._neighbours.stop()
        super().teardown()

    def setup_distributed(self) -> None:
        """Join the process group, unless this process is the only one."""
        if self._is_alone:
            self.set_world_ranks()
            return
        fresh_store = os.environ.get("TORCH_DISABLE_SHARE_RDZV_TCP_STORE") == "1"
        if (
            self.num_nodes == 1
            and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
            and not fresh_store
        ):
            self._join_anew()
        super().setup_distributed()  # joins no second time if _join_anew has joined

    def _join_anew(self) -> None:
        """Join after a restart by torchrun, whose store still holds the addresses of the ranks that died.

        A prefix for each restart keeps those addresses apart. On several nodes the counts of restarts differ,
        so TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 has to be set there instead.
        """
        assert self.cluster_environment is not None
        self.set_world_ranks()
        address, port = self.cluster_environment.main_address, self.cluster_environment.main_port
        hosts = self.is_global_zero and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        limit = timedelta(seconds=max(self.timeout_seconds, START_SECONDS))
        store = TCPStore(address, port, self.world_size, is_master=hosts, timeout=limit)
        attempt = PrefixStore(f"attempt {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
        distributed.init_process_group(
            self._backend,
            store=attempt,
            rank=self.global_rank,
            world_size=self.world_size,
            timeout=limit,
        )

    @property
    def _is_alone(self) -> bool:
        return self.num_nodes * self.num_processes == 1

    def setup(self, trainer: pl.Trainer) -> None:
        """Prepare module and optimizers without DDP, which would wrap the module or broadcast its weights.

        There are no gradients to reduce. Each rank loads its own centre, and the ranks compare checksums in
        every generation. A machine with another base model is thus detected; a broadcast would hide it.
        """
        super(DDPStrategy, self).setup(trainer)  # the method of DDPStrategy's base class

    def load_checkpoint(self, checkpoint_path: _PATH, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint, once it is known to be one of a run: Lightning takes it as it is.

        Raises:
            UsageError: the file is no checkpoint of this library; the message says what is wrong with it.
        """
        assert self.lightning_module is not None
        check_checkpoint(Path(checkpoint_path), resumes=self.lightning_module.trainer.training)
        content: dict[str, Any] = super().load_checkpoint(checkpoint_path, weights_only)
        return content

    # Between ranks --------------------------------------------------------------------------------

    def exchange(self, payload: bytes) -> list[bytes]:
        """Return every rank's payload, in rank order. All ranks have to call it.

        Raises:
            RankError: a rank did not arrive within the time-out.
        """
        if self.world_size == 1:
            return [payload]
        return wait_for(lambda: self._exchange(payload))

    def _exchange(self, payload: bytes) -> list[bytes]:
        group, mine = self._rewards_group, torch.tensor([len(payload)])
        self._meet()
        sizes = [torch.zeros_like(mine) for _ in range(self.world_size)]
        distributed.all_gather(sizes, mine, group=group)
        buffers = [torch.empty(int(size), dtype=torch.uint8) for size in sizes]
        if payload:  # frombuffer refuses an empty buffer, and warns of one that is read-only
            buffers[self.global_rank] = torch.frombuffer(bytearray(payload), dtype=torch.uint8)
        for rank, buffer in enumerate(buffers):  # payloads differ in length, so all_gather cannot send them
            if len(buffer):
                distributed.broadcast(buffer, src=rank, group=group)
        return [buffer.numpy().tobytes() for buffer in buffers]

    def divided(
        self, parameters: Mapping[str, Tensor], make: Callable[[str], Tensor]
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield the gradient of every parameter, made by one rank and sent to all others.

        All ranks have to exhaust it. No signal interrupts it, which would leave half of an update behind.

        Args:
            parameters: the centre's parameters by name, the same on every rank.
            make: from a name to the gradient, contiguous float32 of the parameter's shape.

        Raises:
            RankError: a rank did not arrive within the time-out.
        """
        sizes = {name: parameter.numel() for name, parameter in parameters.items()}
        for taken in rounds(sizes, self.world_size):
            mine = {name: make(name) for rank, name in taken if rank == self.global_rank}
            self._meet()
            for rank, name in taken:
                gradient = mine.pop(name) if rank == self.global_rank else torch.empty_like(parameters[name])
                try:
                    distributed.broadcast(gradient, src=rank)
                except RuntimeError as error:  # a rank died after the meeting; NCCL notices by its time-out
                    raise RankError(self._who_is_missing(str(error), suspect=rank)) from error
                yield name, gradient

    def _meet(self) -> None:
        """Wait for all ranks; the error names those that are missing."""
        limit = timedelta(seconds=self.timeout_seconds)
        try:
            distributed.monitored_barrier(self._rewards_group, timeout=limit, wait_all_ranks=True)
        except RuntimeError as error:
            raise RankError(self._who_is_missing(str(error))) from error

    def _who_is_missing(self, message: str, suspect: int = 0) -> str:
        """Return an error message that names the missing ranks, as far as this rank can know them.

        In the barrier every rank reports to rank 0. The barrier tells rank 0 which ranks are late, and the
        connection to a dead one is closed. All other ranks only know that rank 0 did not answer.

        Args:
            message: gloo's.
            suspect: the rank that this one has waited for.
        """
        others = [rank for rank in range(self.world_size) if rank != self.global_rank]
        missing = [suspect] if suspect in others else others
        if self.is_global_zero:
            late = re.search(r"Ranks ([\d, ]+) failed", message)
            found = late[1].split(",") if late else [rank for rank in others if self._is_closed(rank)]
            missing = [int(rank) for rank in found] or missing
        names = ", ".join(map(str, missing))
        return (
            f"rank {names} died, or did not come within {self.timeout_seconds:g} s "
            "(strategy.timeout_seconds). Look at its own last lines, then resume with --ckpt_path last."
        )

    def _is_closed(self, rank: int) -> bool:
        """Tell whether the connection to a rank is closed: then a send fails at once."""
        try:
            distributed.isend(torch.zeros(1), rank, group=self._rewards_group)
        except RuntimeError:
            return True
        return False

    def barrier(self, *args: Any, **options: Any) -> None:
        """Wait for all ranks, unless this one is stopping: the others may not come any more."""
        if not self.stopping:
            super().barrier(*args, **options)

    # The end --------------------------------------------------------------------------------------

    def stop(self, signum: int) -> None:
        """Pass a signal on to the ranks that this process launched; from then on wait for no rank."""
        for rank in self._release():
            rank.send_signal(signum)

    def on_exception(self, exception: BaseException) -> None:
        """End the ranks that this process launched."""
        end(self._release())

    def _release(self) -> list[subprocess.Popen[bytes]]:
        """Return the ranks that this process launched, and hide them from Lightning's observer.

        The observer would kill this process as soon as one of them fails.
        """
        self.stopping = True
        processes = self._processes
        self._launched += processes
        processes.clear()  # in place: the observer, a thread of Lightning's, reads this list
        return self._launched

    # Lightning's private methods and attributes, all of them in this block -------------------------

    def _configure_launcher(self) -> None:
        # A single process launches nothing, and leaves no trace of a launch in the environment.
        if not self._is_alone:
            super()._configure_launcher()

    def _setup_model(self, model: nn.Module) -> nn.Module:  # type: ignore[override]
        return model

    @property
    def _backend(self) -> str:
        return self._get_process_group_backend()

    @property
    def _processes(self) -> list[subprocess.Popen[bytes]]:
        processes: list[subprocess.Popen[bytes]] = getattr(self.launcher, "procs", [])
        return processes


def end(children: Sequence[subprocess.Popen[bytes]], patience_seconds: float = 3.0) -> None:
    """Wait a moment for processes to end by themselves, then kill those that have not."""
    deadline = time.monotonic() + patience_seconds
    while any(child.poll() is None for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    for child in children:
        if child.poll() is None:
            child.kill()


def _parent_runs_the_same() -> bool:
    """Tell whether the parent was started with this process's arguments, as a launching rank was."""
    arguments = "\0".join([*sys.argv[1:], ""]).encode()
    return Path(f"/proc/{os.getppid()}/cmdline").read_bytes().endswith(arguments)


if "population" not in StrategyRegistry:
    StrategyRegistry.register("population", PopulationStrategy, "Spreads an ES population over ranks.")
