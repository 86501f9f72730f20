"""The population spread over ranks: each holds a whole centre, or a share of it if its lane divides it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry
from torch import distributed, nn
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]
from torch.optim import Optimizer

from es_lightning.algorithm.shares import Shards, owners
from es_lightning.distributed.group import Group
from es_lightning.distributed.shard_state import own_module, own_optimizer, whole_module, whole_optimizer
from es_lightning.distributed.shards import LaneShards, SharedUpdate, without_absent
from es_lightning.errors import UsageError
from es_lightning.system.affinity import allowed
from es_lightning.system.checkpoint import AtomicCheckpoint, check_checkpoint
from es_lightning.system.cores import bind, share_of
from es_lightning.system.neighbours import NeighbourWatch
from es_lightning.system.processes import end_with_parent
from es_lightning.system.signals import wait_for

START_SECONDS = 600  # an engine may take minutes to start, however short a generation is


class PopulationStrategy(DDPStrategy):
    """Spreads members over ranks, which apply the same update to their own centre, or to their share of one.

    It launches ranks as Lightning's DDP does: by itself on one machine, or under torchrun or SLURM.

    Args:
        timeout_seconds: how long a rank waits for the slowest one in a generation before it gives up; at the
            start and around checkpoints it waits for at least 600 seconds.
        threads_per_rank: largest number of CPU cores of a rank; None divides the machine's cores among its
            ranks. Ranks on accelerators are not bound to cores.
        share_update: each rank makes the noise of an update for its share of the tensors, and sends what
            comes of it to the others: the time is divided by the number of ranks, and every rank receives
            nearly 4 bytes per parameter in a generation. Otherwise every rank makes all of it.
        shard_centre: the ranks of a lane hold one centre together, each some of its tensors with the
            optimizer's state for them, and send them to one another whenever the engine takes weights.
            Otherwise every rank holds all of it.
        options: keyword arguments of ``lightning.pytorch.strategies.DDPStrategy``.

    Raises:
        UsageError: a value is outside its range.
    """

    def __init__(
        self,
        timeout_seconds: float = 1800.0,
        threads_per_rank: int | None = None,
        share_update: bool = False,
        shard_centre: bool = False,
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
        self.share_update, self.shard_centre = share_update, shard_centre
        self.shards = Shards()
        """Which tensors of the centre this rank holds, and which gradients it makes."""
        self.stopping = False
        self._launched: list[subprocess.Popen[bytes]] = []
        self._all: Group | None = None
        self._neighbours: NeighbourWatch | None = None
        self._unbind: Callable[[], None] | None = None

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
            if self._all is None:  # a second fit or a test has the same ranks
                self._all = self._group(range(self.world_size), for_all=True)
                self.shards = SharedUpdate(self._all) if self.share_update else Shards()
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
        mine = sorted(allowed())
        told = [json.loads(each) for each in self.exchange(json.dumps([self.node_rank, mine]).encode())]
        # If all ranks of this node have the same cores, no launcher has divided them.
        shared = all(cores == mine for node, cores in told if node == self.node_rank)
        place = (self.local_rank, self.num_processes) if shared else (0, 1)
        cores = share_of(mine, *place, self.threads_per_rank)
        undo = bind(cores)
        self._unbind = self._unbind or undo  # the first one knows what this process had
        self._neighbours = NeighbourWatch(cores)
        self._neighbours.start()

    def teardown(self) -> None:
        """End the watch for busy neighbours and whatever else Lightning ends; give the cores back."""
        if self._neighbours is not None:
            self._neighbours.stop()
        with without_absent(self.lightning_module or nn.Module()):  # Lightning moves the module to the host
            super().teardown()
        if self._unbind is not None:
            self._unbind()
            self._unbind = None

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
        on_disk = check_checkpoint(Path(checkpoint_path), resumes=self.lightning_module.trainer.training)
        if isinstance(self.shards, LaneShards):
            return on_disk  # every rank reads its own share
        content: dict[str, Any] = super().load_checkpoint(checkpoint_path, weights_only)
        return content

    # Between ranks --------------------------------------------------------------------------------

    def exchange(self, payload: bytes) -> list[bytes]:
        """Return every rank's payload, in rank order. All ranks have to call it.

        Raises:
            RankError: a rank did not arrive within the time-out.
        """
        everyone = self._all
        return [payload] if everyone is None else wait_for(lambda: everyone.exchange(payload))

    def divide(self, sizes: Mapping[str, int], lane_size: int) -> None:
        """Divide the centre among the ranks of each lane, if that is wanted; all ranks have to call it.

        Args:
            sizes: number of elements of the centre's parameters, by name and in order.
            lane_size: number of consecutive ranks that evaluate members together.

        Raises:
            UsageError: a callback needs the whole centre on every rank, or there are more ranks than tensors.
        """
        if not self.shard_centre or lane_size == 1 or isinstance(self.shards, LaneShards):
            return
        module = self.lightning_module  # none without a fit
        callbacks = [] if module is None else module.trainer.callbacks  # type: ignore[attr-defined]
        if any(isinstance(each, WeightAveraging) for each in callbacks):
            raise UsageError(
                "WeightAveraging keeps a copy of the whole centre on every rank, and strategy.shard_centre "
                "divides it: leave one of the two out."
            )
        if len(sizes) < lane_size:
            raise UsageError(
                f"the model has {len(sizes)} tensors, too few for the {lane_size} ranks of a lane: leave "
                "strategy.shard_centre out."
            )
        lanes, places = self.world_size // lane_size, range(lane_size)
        groups = [self._group(range(lane * lane_size, (lane + 1) * lane_size)) for lane in range(lanes)]
        lane, place = divmod(self.global_rank, lane_size)
        alike = None
        if self.share_update and lanes > 1:
            alike = [self._group(range(each, self.world_size, lane_size)) for each in places][place]
        self.shards = LaneShards(owners(sizes, lane_size), groups[lane], alike)

    def _group(self, ranks: Sequence[int], for_all: bool = False) -> Group:
        """Connect some ranks; all ranks have to call it for the same ones, in the same order."""
        limit = timedelta(seconds=self.timeout_seconds)
        messages = distributed.new_group(list(ranks), timeout=limit, backend="gloo")
        tensors = messages
        if for_all:
            tensors = None
        elif self.root_device.type != "cpu":
            tensors = distributed.new_group(list(ranks), timeout=limit)
        place = ranks.index(self.global_rank) if self.global_rank in ranks else -1
        return Group(ranks, place, messages, tensors, self.root_device, self.timeout_seconds)

    # The centre in parts --------------------------------------------------------------------------

    def model_to_device(self) -> None:
        """Move the module to the rank's device, as far as it is here."""
        assert self.model is not None
        with without_absent(self.model):
            super().model_to_device()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return the module's state; of a divided centre the whole one on rank 0, and none elsewhere."""
        state = super().lightning_module_state_dict()
        return whole_module(self.lightning_module, state, self.shards, self.global_rank)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the optimizer's state; for a divided centre the whole one on rank 0, and none elsewhere."""
        return whole_optimizer(super().optimizer_state(optimizer), self.shards, self.global_rank)

    def setup_optimizers(self, trainer: pl.Trainer) -> None:
        """Make the optimizer, of the parameters that this rank holds.

        Raises:
            UsageError: it has several groups, which a checkpoint could not put together again.
        """
        super().setup_optimizers(trainer)
        groups = [len(optimizer.param_groups) for optimizer in self.optimizers]
        if isinstance(self.shards, LaneShards) and groups != [1]:
            raise UsageError(
                "strategy.shard_centre needs an optimizer with one group of parameters: give it all that it "
                "is called with, or leave shard_centre out."
            )

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Load the module's state, as far as this rank holds it."""
        state = own_module(self.lightning_module, checkpoint["state_dict"], self.shards)
        # The module has made sure that the checkpoint holds all of the centre.
        strict = strict and not isinstance(self.shards, LaneShards)
        super().load_model_state_dict({**checkpoint, "state_dict": state}, strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Load the optimizer's state as far as this rank holds it, each part beside its parameter."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            # This moves it to the parameters' devices; the centre may be in host memory.
            optimizer.load_state_dict(own_optimizer(state, self.shards))

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
