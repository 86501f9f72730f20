"""What a generation costs in bytes and seconds: formulas, computed and not measured.

The standard library alone. ``docs/plan.md`` lists the formulas and what they leave out.

Notation: d parameters, N members, P prompts, W ranks (one device each), k ranks per lane, L = W / k lanes.
"""

from dataclasses import dataclass, field, fields
from math import ceil, inf, log2
from typing import Any, NamedTuple

from es_lightning.errors import UsageError

HEAD_BYTES = 560  # JSON before the rewards (es_lightning.evaluation.gather): checksum, digest, sums, seconds
LINE_BYTES, MEMBER_BYTES = 540, 11 + 1 + 11  # journal line: settings and means; a seed, a sign, a weight
REWARD_CHARACTERS = 20  # of one reward in rewards.jsonl, at the most
PASSING_TENSORS = (
    2  # float32 tensors beside the centre at the peak, at most; benchmarks/memory.py measures it
)


class Size(NamedTuple):
    """The size of a model and of the copy of it that the engine holds.

    Args:
        parameters: d, tied ones once.
        tuned: how many of them get noise.
        largest: elements of the largest tensor.
        cache_values: keys and values of one token, in all layers together.
        heads: attention heads.
        shared: key-value heads.
        weight_bytes: bytes per weight in the engine, and per value in its cache.
        thin: rows and columns, added up over the matrices that adapters change; 0 without adapters.
    """

    parameters: int
    tuned: int
    largest: int
    cache_values: int
    heads: int
    shared: int
    weight_bytes: int = 2
    thin: int = 0

    @property
    def cache_bytes(self) -> int:
        """Key and value of one token in all layers."""
        return self.weight_bytes * self.cache_values

    def cuts_no_head(self, k: int) -> bool:
        """Whether k ranks can share the model: key-value heads are replicated if there are too few."""
        return self.heads % k == 0 and 0 in (self.shared % k, k % self.shared)


class Batch(NamedTuple):
    """Sequences that an engine is given at once.

    Args:
        sequences: how many.
        read: tokens of a prompt, on average.
        written: new tokens of a completion, on average; 0 where texts are only scored.
    """

    sequences: int
    read: float
    written: float


def _option(meaning: str, default: Any) -> Any:
    return field(default=default, metadata={"help": meaning})


@dataclass(frozen=True)
class Device:
    """A device, and what is assumed of it; each number is an option of ``es-lightning plan``.

    vLLM packs weights anew on CPUs; None stands for an engine that keeps them as they come.

    Raises:
        UsageError: a number is not finite or not above 0, or a share is above 1.
    """

    name: str
    source: str
    memory_gb: float = _option("memory of a device, GB", 80.0)
    bandwidth: float = _option("its memory's bandwidth, TB/s", 3.35)
    bandwidth_share: float = _option("share of the bandwidth that is reached", 0.6)
    tflops: float = _option("its peak in bfloat16, TFLOP/s", 989.0)
    tflops_share: float = _option("share of the peak that is reached", 0.4)
    noise_rate: float = _option("noise that it draws and adds, 10^9 elements/s", 20.0)
    packing_rate: float | None = _option("weights that its engine repacks, 10^9 elements/s", None)
    reserve_gb: float = _option("its context, graphs and activations, GB", 4.0)
    host_link: float = _option("from page-locked host memory to a device, GB/s that are reached", 25.0)
    host_bandwidth: float = _option("what a rank's optimizer moves in host memory, GB/s", 20.0)
    adapter_share: float = _option("share of the speed that is left beside adapters", 0.9)
    lane_network: float = _option("network between the ranks of a lane, GB/s that are reached", 10.0)
    network: float = _option("network between two ranks, GB/s", 1.25)
    latency: float = _option("microseconds per message", 50.0)

    def __post_init__(self) -> None:
        """Refuse what no formula can be given."""
        for name in DEVICE_OPTIONS:
            value = getattr(self, name)
            if value is None:
                continue
            check_positive(name, value)
            if name.endswith("_share") and value > 1:
                raise UsageError(f"--{name} is {value}: give a share, at most 1.")

    @property
    def memory(self) -> float:
        """Its memory in bytes."""
        return self.memory_gb * 1e9

    @property
    def bytes_per_second(self) -> float:
        """B: what it moves."""
        return self.bandwidth * self.bandwidth_share * 1e12

    @property
    def flop_per_second(self) -> float:
        """F: what it computes in bfloat16; half of that in float32."""
        return self.tflops * self.tflops_share * 1e12

    @property
    def noise_per_second(self) -> float:
        """R: elements of noise that it draws and adds."""
        return self.noise_rate * 1e9


DEVICE_OPTIONS = {one.name: one.metadata["help"] for one in fields(Device) if "help" in one.metadata}
"""What may be assumed of a device, each with its meaning."""


def check_positive(name: str, value: float) -> None:
    """Refuse an option's value unless it is a finite number above 0.

    Raises:
        UsageError: it is none.
    """
    if not 0 < value < inf:
        raise UsageError(f"--{name} is {value}: give a finite number above 0.")


# Bytes ------------------------------------------------------------------------------------------------


def journal_bytes(members: int) -> int:
    """One line of journal.jsonl."""
    return LINE_BYTES + MEMBER_BYTES * members


def rewards_bytes(members: int, prompts: int) -> int:
    """One line of rewards.jsonl, at the most."""
    return REWARD_CHARACTERS * members * prompts


def payload_bytes(members: int, prompts: int, ranks: int) -> int:
    """What the ranks tell one another: float64 rewards [N, P], and a head per rank."""
    return 8 * members * prompts + HEAD_BYTES * ranks


def sent_bytes(members: int, prompts: int, ranks: int) -> float:
    """What a rank sends on average: a broadcast crosses W - 1 links, its 8 bytes of length as many."""
    return payload_bytes(members, prompts, ranks) * (ranks - 1) / ranks + 8 * (ranks - 1)


def reduced_bytes(size: Size, ranks: int) -> float:
    """What a rank sends in one ring all-reduce of bfloat16 gradients, as data-parallel training does."""
    return 2 * 2 * size.parameters * (ranks - 1) / ranks


def centre_bytes(size: Size) -> int:
    """The float32 centre."""
    return 4 * size.parameters


def state_bytes(size: Size, per_parameter: float) -> float:
    """The optimizer's state, for the parameters that it moves."""
    return per_parameter * size.tuned


def checkpoint_bytes(size: Size, per_parameter: float) -> float:
    """The centre and the optimizer's state."""
    return centre_bytes(size) + state_bytes(size, per_parameter)


def passing_bytes(size: Size) -> int:
    """What an update or a load holds beside the centre: two float32 tensors like the largest."""
    return PASSING_TENSORS * 4 * size.largest


def streamed_bytes(size: Size) -> int:
    """What passes through a device whose centre is on the host: a float32 tensor and what becomes of it."""
    return (4 + size.weight_bytes) * size.largest


def adapter_bytes(size: Size, count: int, rank: int) -> int:
    """Two thin matrices of each adapter for each matrix; a lane's ranks hold all of them."""
    return size.weight_bytes * count * rank * size.thin


def engine_bytes(size: Size, k: int) -> float:
    """A rank's share of the engine's weights."""
    return size.weight_bytes * size.parameters / k


def cache_bytes(size: Size, tokens: float, k: int) -> float:
    """A rank's share of the keys and values of so many tokens."""
    return tokens * size.cache_bytes / min(k, size.shared)


# Seconds ----------------------------------------------------------------------------------------------


def load_seconds(size: Size, device: Device, k: int, shards: int = 1) -> float:
    """One set of weights: centre read, copy written, copy read by the loader, 1/k of it packed and kept."""
    moved = (4 / shards + (2 + 1 / k) * size.weight_bytes) * size.parameters
    packed = 0.0 if device.packing_rate is None else size.parameters / k / (device.packing_rate * 1e9)
    return moved / device.bytes_per_second + packed


def exchanged_bytes(size: Size, shards: int) -> float:
    """What a rank receives of one set of weights from those that hold the rest, in the engine's precision."""
    return size.weight_bytes * size.parameters * (1 - 1 / shards)


def exchange_seconds(size: Size, device: Device, shards: int) -> float:
    """One set of weights, of which each rank of a lane holds a share and sends it to the others."""
    return exchanged_bytes(size, shards) / (device.lane_network * 1e9)


def link_seconds(size: Size, device: Device, per_parameter: float = 4.0) -> float:
    """So many bytes of each parameter cross from the host to a device."""
    return per_parameter * size.parameters / (device.host_link * 1e9)


def perturb_seconds(size: Size, device: Device, k: int) -> float:
    """One member: its noise, and its load."""
    return size.tuned / device.noise_per_second + load_seconds(size, device, k)


def adapters_seconds(size: Size, device: Device, members: int, rank: int) -> float:
    """The thin matrices of members, which stand beside a centre that is loaded once."""
    return members * rank * size.thin / device.noise_per_second


def generate_seconds(size: Size, device: Device, k: int, batch: Batch, at_once: float = inf) -> float:
    """Prompts are read, then every step is bound by memory or by arithmetic.

    Args:
        size: of the model.
        device: each of the k.
        k: ranks of the lane.
        batch: what the lane is given.
        at_once: how many sequences the engine holds; more wait for their turn.
    """
    turns, rest = divmod(batch.sequences, at_once) if at_once < batch.sequences else (0, batch.sequences)
    whole = _turn_seconds(size, device, k, batch._replace(sequences=int(at_once))) if turns else 0.0
    return turns * whole + _turn_seconds(size, device, k, batch._replace(sequences=int(rest)))


def _turn_seconds(size: Size, device: Device, k: int, batch: Batch) -> float:
    if not batch.sequences:
        return 0.0
    context = batch.read + batch.written / 2
    cache = cache_bytes(size, batch.sequences * context, k)
    memory = (engine_bytes(size, k) + cache) / device.bytes_per_second
    speed = device.flop_per_second * 2 / size.weight_bytes
    arithmetic = 2 * size.parameters * batch.sequences / k / speed
    return batch.read * arithmetic + batch.written * max(memory, arithmetic)


def read_seconds(size: Size, device: Device, k: int, batch: Batch) -> float:
    """Texts with their completions are read for their log-probabilities."""
    return _turn_seconds(size, device, k, Batch(batch.sequences, batch.read + batch.written, 0))


def update_seconds(size: Size, device: Device, members: int) -> float:
    """The noise of all N members, on every rank."""
    return members * size.tuned / device.noise_per_second


def host_update_seconds(size: Size, device: Device, state: float) -> float:
    """What an update takes longer where the centre is on the host.

    Gradients cross to it, the optimizer reads them, theta and its state there, and writes the last two; then
    theta crosses twice, to be looked through and for its checksum.
    """
    moved = (12 + 2 * state) * size.tuned / (device.host_bandwidth * 1e9)
    return 4 * size.tuned / (device.host_link * 1e9) + moved + 2 * link_seconds(size, device)


def shared_update_seconds(size: Size, device: Device, members: int, ranks: int) -> float:
    """The same where every rank makes the noise for its share of the tensors, and sends the sums."""
    sent = 4 * size.tuned * (ranks - 1) / ranks
    return update_seconds(size, device, members) / ranks + sent / (device.network * 1e9)


def gather_seconds(device: Device, members: int, prompts: int, ranks: int) -> float:
    """A barrier at rank 0, lengths around a ring, then one broadcast per rank down a tree."""
    messages = 2 * (ranks - 1) + (ranks - 1) + ranks * ceil(log2(ranks))
    received = payload_bytes(members, prompts, ranks) + 8 * ranks
    return (ranks > 1) * (received / (device.network * 1e9) + messages * device.latency / 1e6)


def members_per_lane(members: int, lanes: int) -> int:
    """Of the lane that has most; the others wait for it."""
    return ceil(members / lanes)
