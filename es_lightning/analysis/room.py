"""Whether a run fits its devices, and which option would make it fit; only the standard library."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from es_lightning.analysis import cost
from es_lightning.analysis.cost import Device, Size
from es_lightning.analysis.devices import CPU, GPUS
from es_lightning.errors import UsageError

GIB = 2**30
FRACTIONS = [percent / 100 for percent in range(95, 0, -5)]
LEAST_CACHE = 8
"""Sequences that a suggestion leaves room for, if the run has as many; with fewer, a device would idle."""


@dataclass(frozen=True)
class Engine:
    """What an engine takes of a device.

    Args:
        ranks: k that hold one copy of the model together.
        fraction: share of the device's memory that vLLM takes; None for an engine that takes what it needs.
        cache_gib: size of the key-value cache; None derives it from ``fraction``.
        batch_size: prompts at once; None leaves it to the engine.
        samples: completions per prompt.
        most: sequences at once that the engine allows itself.

    Raises:
        UsageError: a value is outside its range.
    """

    ranks: int = 1
    fraction: float | None = None
    cache_gib: float | None = None
    batch_size: int | None = None
    samples: int = 1
    most: int = 2**31

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
    """

    size: Size
    device: Device
    engine: Engine
    state: float
    sequences: int
    tokens: float
    context: float
    longest: float

    @property
    def is_cpu(self) -> bool:
        """Whether the centre, the engine and everything else are in the machine's own memory."""
        return self.device.name == CPU

    @property
    def centre(self) -> float:
        """The float32 centre, in bytes."""
        return cost.centre_bytes(self.size)

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
        if self.engine.fraction is None:
            return self._cache_of(self.tokens * min(self.sequences, self.engine.at_once))
        # On a CPU vLLM counts the whole process against its share, and the centre is loaded before it starts.
        return self.share - self.weights - self.reserve - self.is_cpu * self.centre

    @property
    def held(self) -> int:
        """How many sequences the engine works on at once; vLLM starts another one once there is room."""
        most = min(self.engine.at_once, self.sequences)
        if self.engine.fraction is None:
            return most
        return min(most, int(max(self.cache, 0) / max(self._cache_of(self.context), 1)))

    @property
    def _is_asked_at_the_start(self) -> bool:
        """Whether vLLM starts only if its share is free; on accelerators also with ``kv_cache_gib``."""
        return self.engine.fraction is not None and not (self.is_cpu and self.engine.cache_gib is not None)

    def _cache_of(self, tokens: float) -> float:
        return cost.cache_bytes(self.size, tokens, self.engine.ranks)

    @property
    def parts(self) -> list[Part]:
        """All that has to be in the device's memory at the same time."""
        b, own = self.size.weight_bytes, self.engine
        if own.cache_gib is not None:
            cache = f"kv_cache_gib {own.cache_gib:g}"
        elif own.fraction is None:
            cache = f"{min(self.sequences, own.at_once)} sequences of {self.tokens:.0f} tokens, c / h each"
        else:
            rest = "weights - reserve" + " - centre" * self.is_cpu
            cache = f"memory_fraction {own.fraction:g} of {self.device.memory_gb:.3g} GB - {rest}"
        return [
            Part("centre, float32", self.centre, "4 d"),
            Part("optimizer's state", cost.state_bytes(self.size, self.state), f"{self.state:.3g} d"),
            Part("two tensors like the largest", cost.passing_bytes(self.size), "2 * 4 m"),
            Part("engine's weights", self.weights, f"{b} d / k"),
            Part("engine's key-value cache", max(self.cache, 0), cache),
            Part("context, graphs, activations", self.reserve, "--reserve_gb"),
        ]

    @property
    def total(self) -> float:
        """Bytes of all parts."""
        return sum(part.size for part in self.parts)

    def problems(self) -> list[str]:
        """Say what does not fit; empty if everything does."""
        found, room = [], self.device.memory
        if self.cache < self._cache_of(self.longest):
            found.append(
                f"the key-value cache of {_gb(max(self.cache, 0))} does not hold the longest sequence, "
                f"{self.longest:.0f} tokens ({_gb(self._cache_of(self.longest))})"
            )
        if self.total > room:
            largest = sorted(self.parts, key=lambda part: -part.size)[:2]
            words = " and ".join(f"the {part.what} {_gb(part.size)}" for part in largest)
            found.append(f"{_gb(self.total)} are needed, {words}, and {_gb(room)} are there")
        elif self._is_asked_at_the_start and self.centre + self.share > room:
            found.append(
                f"vLLM starts only if memory_fraction {self.engine.fraction:g} of the device is free, "
                f"{_gb(self.share)}, but beside the centre {_gb(room - self.centre)} are"
            )
        return found


def ways_out(case: Case, count: int) -> list[str]:
    """Return changes of options that make a run fit, each as the words of a command line; at most three.

    Args:
        case: that does not fit.
        count: devices of the run.
    """
    ways = []
    for changed, words in _changes(case, count):
        if (fitting := _fitting(changed)) is not None:
            ways.append([*words, *_share_words(case.engine, fitting.engine)])
    ways = sorted(ways, key=len)[:2]
    larger = sorted(GPUS.values(), key=lambda device: device.memory) if not case.is_cpu else []
    for device in larger:
        if (
            device.memory > case.device.memory
            and (fitting := _fitting(replace(case, device=device))) is not None
        ):
            ways.append([f"--device {device.name}", *_share_words(case.engine, fitting.engine)])
            break
    if ways:
        return [" ".join(words) for words in ways]
    return [f"a smaller model: {_largest(case) / 1e9:.2g} * 10^9 parameters would fit"]


def _changes(case: Case, count: int) -> Iterator[tuple[Case, list[str]]]:
    """Other lanes, and an optimizer without a state, each with its words; nothing changed comes first."""
    lanes = [k for k in (1, 2, 4, 8, 16) if k > case.engine.ranks and count % k == 0]
    for k in (case.engine.ranks, *filter(case.size.cuts_no_head, lanes)):
        words = [f"--model.engine.tensor_parallel_size {k}"] if k > case.engine.ranks else []
        changed = replace(case, engine=replace(case.engine, ranks=k))
        yield changed, words
        if case.state:
            yield replace(changed, state=0.0), [*words, "--model.optimizer torch.optim.SGD"]


def _fitting(case: Case) -> Case | None:
    """The case itself if it fits, or else with another share for vLLM, or with fewer prompts at once."""
    return next((each for each in _with_any_share(case) if _is_good(each)), None)


def _with_any_share(case: Case) -> Iterator[Case]:
    yield case
    own = case.engine
    if own.fraction is None:
        sizes = [
            size for size in (64, 32, 16, 8, 4, 2, 1) if size < min(own.at_once, case.sequences) / own.samples
        ]
        yield from (replace(case, engine=replace(own, batch_size=size)) for size in sizes)
        return
    for cache_gib in dict.fromkeys((own.cache_gib, None)):
        for fraction in FRACTIONS:
            yield replace(case, engine=replace(own, fraction=fraction, cache_gib=cache_gib))


def _share_words(before: Engine, after: Engine) -> list[str]:
    words = []
    if after.fraction != before.fraction:
        words.append(f"--model.engine.memory_fraction {after.fraction:g}")
    if after.cache_gib != before.cache_gib:
        words.append("--model.engine.kv_cache_gib null")
    if after.batch_size != before.batch_size:
        words.append(f"--model.engine.batch_size {after.batch_size}")
    return words


def _is_good(case: Case) -> bool:
    return not case.problems() and case.held >= min(LEAST_CACHE, case.sequences, case.engine.at_once)


def _largest(case: Case) -> float:
    """Parameters of a smaller model of the same kind that would fit, to 5 %."""
    for share in (percent / 100 for percent in range(95, 0, -5)):
        whole = case.size
        size = whole._replace(
            parameters=int(share * whole.parameters),
            tuned=int(share * whole.tuned),
            largest=int(share * whole.largest),
            cache_values=int(share * whole.cache_values),
        )
        if _fitting(replace(case, size=size)) is not None:
            return float(size.parameters)
    return 0.0


def _gb(size: float) -> str:
    return f"{size / 1e9:.3g} GB"
