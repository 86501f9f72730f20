"""What a device has to hold in a run, and whether it does; only the standard library."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

from es_lightning.analysis import cost
from es_lightning.analysis.cost import Device, Size
from es_lightning.analysis.devices import CPU
from es_lightning.errors import UsageError

GIB = 2**30
CPU_FRACTION = 0.8
"""Share of a machine's memory that vLLM takes on a CPU, weights and centre included, if no option says."""
THIN = "(rows + columns)"


@dataclass(frozen=True)
class Engine:
    """What an engine takes of a device.

    Args:
        ranks: k that hold one copy of the model together.
        fraction: share of the device's memory that vLLM takes; None for an engine that takes what it needs.
        takes_rest: whether it takes all that nothing else needs, as vLLM does without a ``fraction``.
        cache_gib: size of the key-value cache; None derives it from the two above.
        batch_size: prompts at once; None leaves it to the engine.
        samples: completions per prompt.
        most: sequences at once that the engine allows itself.
        adapters: members that it holds at once beside the centre; 0 if it takes whole weights.
        rank: columns of an adapter's thin matrices.

    Raises:
        UsageError: a value is outside its range.
    """

    ranks: int = 1
    fraction: float | None = None
    takes_rest: bool = False
    cache_gib: float | None = None
    batch_size: int | None = None
    samples: int = 1
    most: int = 2**31
    adapters: int = 0
    rank: int = 0

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise UsageError(
                f"engine.memory_fraction is {self.fraction}: give a number above 0 and at most 1."
            )
        if self.cache_gib is not None and self.cache_gib <= 0:
            raise UsageError(f"engine.kv_cache_gib is {self.cache_gib}: give a number above 0.")
        if self.ranks < 1:
            raise UsageError(f"engine.tensor_parallel_size is {self.ranks}: give at least 1.")
        if self.batch_size is not None and self.batch_size < 1:
            raise UsageError(f"engine.batch_size is {self.batch_size}: give at least 1.")

    @classmethod
    def of(cls, options: Mapping[str, Any], device: Device, samples: int) -> Self:
        """Return what an engine with these options takes.

        Args:
            options: of the engine's class, its defaults included.
            device: that it runs on.
            samples: completions per prompt.
        """
        ranks = options.get("tensor_parallel_size", 1)
        if "memory_fraction" not in options:
            return cls(ranks, batch_size=options.get("batch_size"), samples=samples)
        fraction = options["memory_fraction"]
        takes_rest = fraction is None and device.name != CPU
        # vLLM's own default; an A100 of 80 GB has the smaller one, too.
        is_large = device.memory >= 70 * GIB and not device.name.startswith("a100")
        most = (options.get("options") or {}).get("max_num_seqs") or (1024 if is_large else 256)
        if fraction is None and not takes_rest:
            fraction = CPU_FRACTION
        return cls(ranks, fraction, takes_rest, options.get("kv_cache_gib"), samples=samples, most=most)

    def with_adapters(self, count: int, rank: int) -> Self:
        """Return the same engine with members as adapters.

        Args:
            count: how many it holds at once.
            rank: columns of their thin matrices.
        """
        return replace(self, adapters=count, rank=rank)

    @property
    def at_once(self) -> int:
        """Most sequences in the engine."""
        return self.most if self.batch_size is None else self.batch_size * self.samples


class Part(NamedTuple):
    """One part of the memory of a device.

    Args:
        what: it is.
        size: in bytes.
        formula: where the number comes from.
    """

    what: str
    size: float
    formula: str


@dataclass(frozen=True)
class Case:
    """A model, a device and an engine, whose memory is asked for.

    Args:
        size: of the model.
        device: that has to hold it.
        engine: on that device.
        state: bytes per parameter of the optimizer's state.
        sequences: most that the run gives to an engine.
        tokens: of one of them with its whole completion, on average.
        context: tokens that one of them has while it grows, on average.
        longest: tokens of the longest.
        on_host: whether the centre and the optimizer's state are in host memory, beside an accelerator.
        shards: ranks of a lane that hold them together.
    """

    size: Size
    device: Device
    engine: Engine
    state: float
    sequences: int
    tokens: float
    context: float
    longest: float
    on_host: bool = False
    shards: int = 1

    @property
    def is_cpu(self) -> bool:
        """Whether the centre, the engine and everything else are in the machine's own memory."""
        return self.device.name == CPU

    @property
    def centre(self) -> float:
        """What the float32 centre takes of the device, in bytes."""
        return 0.0 if self.on_host else cost.centre_bytes(self.size) / self.shards

    @property
    def optimizer(self) -> float:
        """What the optimizer's state takes of the device, in bytes."""
        return 0.0 if self.on_host else cost.state_bytes(self.size, self.state) / self.shards

    @property
    def passing(self) -> float:
        """What a load or an update holds for a moment, in bytes."""
        return cost.streamed_bytes(self.size) if self.on_host else cost.passing_bytes(self.size)

    @property
    def adapters(self) -> float:
        """The members that the engine holds beside its weights, in bytes."""
        return cost.adapter_bytes(self.size, self.engine.adapters, self.engine.rank)

    @property
    def weights(self) -> float:
        """The engine's weights, in bytes."""
        return cost.engine_bytes(self.size, self.engine.ranks)

    @property
    def reserve(self) -> float:
        """Context, graphs and activations, in bytes."""
        return self.device.reserve_gb * 1e9

    @property
    def share(self) -> float:
        """What vLLM asks for at its start; 0 for an engine that asks for nothing."""
        return (self.engine.fraction or 0.0) * self.device.memory

    @property
    def cache(self) -> float:
        """The key-value cache, in bytes; below 0 if vLLM's share does not even hold the weights."""
        if self.engine.cache_gib is not None:
            return self.engine.cache_gib * GIB
        own = self.weights + self.adapters + self.reserve
        if self.engine.takes_rest:
            # A byte less, so that rounding does not make the sum of all larger than the device.
            return self.device.memory - own - self.centre - self.optimizer - self.passing - 1
        if self.engine.fraction is None:
            return self.cache_of(self.tokens * min(self.sequences, self.engine.at_once))
        # On a CPU vLLM counts the whole process against its share, and the centre is loaded before it starts.
        return self.share - own - self.is_cpu * self.centre

    @property
    def held(self) -> int:
        """How many sequences the engine works on at once; vLLM starts another one once there is room."""
        most = min(self.engine.at_once, self.sequences)
        if self.engine.fraction is None and not self.engine.takes_rest:
            return most
        return min(most, int(max(self.cache, 0) / max(self.cache_of(self.context), 1)))

    @property
    def _is_asked_at_the_start(self) -> bool:
        """Whether vLLM starts only if its share is free; on accelerators also with ``kv_cache_gib``."""
        return self.engine.fraction is not None and not (self.is_cpu and self.engine.cache_gib is not None)

    def cache_of(self, tokens: float) -> float:
        """Keys and values of so many tokens, in bytes."""
        return cost.cache_bytes(self.size, tokens, self.engine.ranks)

    @property
    def parts(self) -> list[Part]:
        """All that has to be in the device's memory at the same time."""
        b, own = self.size.weight_bytes, self.engine
        if own.cache_gib is not None:
            cache = f"kv_cache_gib {own.cache_gib:g}"
        elif own.takes_rest:
            cache = "what is left"
        elif own.fraction is None:
            cache = f"{min(self.sequences, own.at_once)} sequences of {self.tokens:.0f} tokens, c / h each"
        else:
            rest = "weights - adapters" if own.adapters else "weights"
            rest += " - reserve" + " - centre" * self.is_cpu
            cache = f"memory_fraction {own.fraction:g} of {self.device.memory_gb:.3g} GB - {rest}"
        adapters = [
            Part("adapters", self.adapters, f"{b} * {own.adapters} members * {own.rank} rank * {THIN}")
        ]
        return [
            *self._of_the_centre,
            Part("engine's weights", self.weights, f"{b} d / k"),
            *(adapters if own.adapters else []),
            Part("engine's key-value cache", max(self.cache, 0), cache),
            Part("context, graphs, activations", self.reserve, "--reserve_gb"),
        ]

    @property
    def _of_the_centre(self) -> list[Part]:
        if self.on_host:
            passing = f"(4 + {self.size.weight_bytes}) m; the centre is in host memory"
            return [Part("a tensor like the largest", self.passing, passing)]
        share = " / k" if self.shards > 1 else ""
        return [
            Part("centre, float32", self.centre, f"4 d{share}"),
            Part("optimizer's state", self.optimizer, f"{self.state:.3g} d{share}"),
            Part("two tensors like the largest", self.passing, "2 * 4 m"),
        ]

    @property
    def total(self) -> float:
        """Bytes of all parts."""
        return sum(part.size for part in self.parts)

    def problems(self) -> list[str]:
        """Say what does not fit; empty if everything does."""
        found, room = [], self.device.memory
        has_none = self.engine.takes_rest and self.total > room  # the second sentence says it all
        if self.cache < self.cache_of(self.longest) and not has_none:
            found.append(
                f"the key-value cache of {in_gb(max(self.cache, 0))} does not hold the longest sequence, "
                f"{self.longest:.0f} tokens ({in_gb(self.cache_of(self.longest))})"
            )
        if self.total > room:
            largest = sorted(self.parts, key=lambda part: -part.size)[:2]
            words = " and ".join(f"the {part.what} {in_gb(part.size)}" for part in largest)
            found.append(f"{in_gb(self.total)} are needed, {words}, and {in_gb(room)} are there")
        elif self._is_asked_at_the_start and self.centre + self.share > room:
            found.append(
                f"vLLM starts only if memory_fraction {self.engine.fraction:g} of the device is free, "
                f"{in_gb(self.share)}, but beside the centre {in_gb(room - self.centre)} are"
            )
        return found


def in_gb(size: float) -> str:
    """Return bytes in words."""
    return f"{size / 1e9:.3g} GB"
