"""The seconds of a generation by phase, each with its formula; the standard library alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from es_lightning.analysis import cost
from es_lightning.analysis.cost import Batch, Device, Size
from es_lightning.analysis.room import THIN, Engine


class Line(NamedTuple):
    """One number of a plan.

    Args:
        what: it is.
        value: in bytes, seconds, hours or dollars.
        formula: where it comes from.
    """

    what: str
    value: float
    formula: str


@dataclass(frozen=True)
class Work:
    """What a generation consists of.

    Args:
        size: of the model.
        device: each of them.
        engine: on every lane of them.
        lanes: L.
        prompts: P, each with one reward per member.
        train: what the engine is given for a member.
        at_once: how many sequences the engine holds.
        state: bytes per parameter of the optimizer's state.
        on_host: whether the centre is in host memory.
        shards: ranks of a lane that hold the centre together.
        shares_update: whether ranks share the noise of an update.
        penalised: whether the base model scores all completions.
        stored_bytes: per parameter of the base model's files.
    """

    size: Size
    device: Device
    engine: Engine
    lanes: int
    prompts: int
    train: Sequence[Batch]
    at_once: int
    state: float
    on_host: bool
    shards: int
    shares_update: bool
    penalised: bool
    stored_bytes: int

    @property
    def load(self) -> float:
        """Seconds to load the centre into the engine."""
        size, device = self.size, self.device
        crossing = cost.link_seconds(size, device, 4 / self.shards) if self.on_host else 0.0
        sent = cost.exchange_seconds(size, device, self.shards)
        return cost.load_seconds(size, device, self.engine.ranks, self.shards) + crossing + sent

    def generate(self, batches: Sequence[Batch]) -> float:
        """Seconds to complete what an engine is given at once."""
        k = self.engine.ranks
        parts = (cost.generate_seconds(self.size, self.device, k, each, self.at_once) for each in batches)
        return sum(parts)


def generation(work: Work, members: int) -> list[Line]:
    """Return the seconds of a generation by phase, on the lane that has most members.

    Args:
        work: what it consists of.
        members: N.
    """
    mine = cost.members_per_lane(members, work.lanes)
    ranks = work.lanes * work.engine.ranks
    gather = cost.gather_seconds(work.device, members, work.prompts, ranks)
    return [
        *(_together(work, mine) if work.engine.adapters else _alone(work, mine)),
        *([_penalty(work, mine)] if work.penalised else []),
        *_update(work, members, ranks),
        Line("gather", gather, f"(8 N P + {cost.HEAD_BYTES + 8} W) / network + messages * latency"),
    ]


def _alone(work: Work, mine: int) -> list[Line]:
    """Members one after the other."""
    noise = work.size.tuned / work.shards / work.device.noise_per_second
    share = " / k" if work.shards > 1 else ""
    return [
        Line("perturb and load", mine * (noise + work.load), f"M (d / R{share} + {_load(work)})"),
        Line("generate", mine * work.generate(work.train), f"M ({_generate(work)})"),
    ]


def _together(work: Work, mine: int) -> list[Line]:
    """Members as adapters, in batches of as many as the engine holds."""
    rank, most = work.engine.rank, work.engine.adapters
    drawn = cost.adapters_seconds(work.size, work.device, mine, rank)
    whole, rest = divmod(mine, most)
    batches = {most: whole, rest: 1 if rest else 0}
    seconds = sum(
        times * work.generate([each._replace(sequences=each.sequences * size) for each in work.train])
        for size, times in batches.items()
        if times
    )
    together = f"{_generate(work)}, S of all members of a batch, / adapter_share"
    return [
        Line("load and adapters", work.load + drawn, f"{_load(work)} + M * {rank} rank * {THIN} / R"),
        Line("generate", seconds / work.device.adapter_share, together),
    ]


def _penalty(work: Work, mine: int) -> Line:
    """The member reads its completions, and the base model, which comes from its files, those of all."""
    k = work.engine.ranks
    read = sum(cost.read_seconds(work.size, work.device, k, each) for each in work.train if each.written)
    load = work.load + cost.link_seconds(work.size, work.device, work.stored_bytes)
    formula = f"M * 2 * 2 d S (p + T) / (k {_speed(work)}) + a load, from files"
    return Line("KL penalty, at the most", 2 * mine * read + load, formula)


def _update(work: Work, members: int, ranks: int) -> list[Line]:
    # Where a lane divides the centre, a rank updates its share; the other lanes may share the noise of that.
    part, sharing = work.size._replace(tuned=round(work.size.tuned / work.shards)), ranks // work.shards
    d, w = ("(d / k)", "L") if work.shards > 1 else ("d", "W")
    if work.shares_update and sharing > 1:
        value = cost.shared_update_seconds(part, work.device, members, sharing)
        lines = [Line("update, shared", value, f"N {d} / (R {w}) + 4 {d} (1 - 1 / {w}) / network")]
    else:
        value = cost.update_seconds(part, work.device, members)
        lines = [Line("update", value, f"N {d} / R, on every rank")]
    if work.on_host:
        longer = cost.host_update_seconds(work.size, work.device, work.state) / work.shards
        formula = f"12 {d} / host_link + {12 + 2 * work.state:.3g} {d} / host_bandwidth"
        lines.append(Line("the same on the host", longer, formula))
    return lines


def _load(work: Work) -> str:
    b = work.size.weight_bytes
    packing = "" if work.device.packing_rate is None else " + d / (k packing_rate)"
    share = " / k" if work.shards > 1 else ""
    crossing = f"4 d{share} / host_link + " if work.on_host else ""
    if share:
        crossing += f"{b} d (1 - 1 / k) / lane_network + "
        return f"{crossing}({2 * b} + {4 + b} / k) d / B{packing}"
    return f"{crossing}({4 + 2 * b} + {b} / k) d / B{packing}"


def _generate(work: Work) -> str:
    b, speed = work.size.weight_bytes, _speed(work)
    return f"2 d S p / (k {speed}) + T max(({b} d / k + S (p + T / 2) c / h) / B, 2 d S / (k {speed}))"


def _speed(work: Work) -> str:
    return "F" if work.size.weight_bytes == 2 else "(F / 2)"
