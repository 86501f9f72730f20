"""What a generation costs on a cluster: bytes, seconds and memory, computed from formulas and not measured.

Run: python benchmarks/cost_model.py [--members 64] [--prompts 128] [--gpus 1,8] [--device h200], see --help.
The formulas are those of `es-lightning plan` (es_lightning/analysis/cost.py), here for a row of models that
have no config file. docs/distributed.md explains them and holds what this prints without options.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple, NoReturn

from es_lightning.analysis import cost, devices
from es_lightning.analysis.cost import DEVICE_OPTIONS, Batch, Device, Size
from es_lightning.errors import UsageError
from es_lightning.reports.plan_table import in_bytes, three

STATE_BYTES = {"sgd": 0, "momentum": 4, "adam": 8}  # of the optimizer, per parameter
MACHINE = 8  # GPUs
ASSUMPTIONS = """\
Computed, not measured, from these assumptions:

- {members} members, {prompts} prompts of {prompt_tokens} tokens, {tokens} new tokens each;
- an engine in bfloat16, the optimizer {optimizer};
- a GPU of {memory_gb:g} GB with {bandwidth:g} TB/s, of which {bandwidth_share:.0%} is reached, and
  {tflops:g} TFLOP/s in bfloat16, of which {tflops_share:.0%} is reached; {reserve_gb:g} GB of it are spent
  on context, graphs and activations;
- noise at {noise_rate:g} * 10^9 elements/s;
- a network of {network:g} GB/s and {latency:g} microseconds per message, {lane_network:g} GB/s within a lane.

For every model, {rewards} of rewards and {head} B per rank reach every rank. The disk gets a journal line of
{line} and at most {spelled} of `rewards.jsonl`.
"""


class Model(NamedTuple):
    """A decoder of the Qwen2 kind, with the numbers of its config.json; ``shared`` are key-value heads."""

    name: str
    layers: int
    heads: int
    shared: int
    head_dim: int
    intermediate: int
    vocabulary: int
    embeddings: int  # 1 where the head is tied to the embedding, else 2

    @property
    def parameters(self) -> int:
        """d: q, k, v with biases, o, MLP and two norms per layer; the last norm; embeddings."""
        hidden, side = self.heads * self.head_dim, self.shared * self.head_dim
        attention = (hidden + 1) * (hidden + 2 * side) + hidden * hidden
        layer = attention + 3 * hidden * self.intermediate + 2 * hidden
        return self.layers * layer + hidden + self.embeddings * self.vocabulary * hidden

    @property
    def size(self) -> Size:
        """What the formulas need; the embedding is the largest tensor."""
        embedding = self.vocabulary * self.heads * self.head_dim
        cached = 2 * self.layers * self.shared * self.head_dim
        return Size(self.parameters, self.parameters, embedding, cached, self.heads, self.shared)


MODELS = (  # Qwen2.5: https://huggingface.co/Qwen/Qwen2.5-7B/blob/main/config.json and its siblings
    Model("0.5B", 24, 14, 2, 64, 4864, 151936, 1),
    Model("1.5B", 28, 12, 2, 128, 8960, 151936, 1),
    Model("3B", 36, 16, 2, 128, 11008, 151936, 1),
    Model("7B", 28, 28, 4, 128, 18944, 152064, 2),
    Model("14B", 48, 40, 8, 128, 13824, 152064, 2),
    Model("32B", 64, 40, 8, 128, 27648, 152064, 2),
    Model("72B", 80, 64, 8, 128, 29568, 152064, 2),
)


def _option(default: Any, meaning: str) -> Any:
    return field(default=default, metadata={"help": meaning})


@dataclass(frozen=True)
class Setting:
    """What a generation does, and where; every field is an option of the command line."""

    members: int = _option(64, "members N of the population")
    prompts: int = _option(128, "prompts P of a generation")
    tokens: int = _option(256, "new tokens T of every completion")
    prompt_tokens: int = _option(128, "tokens of a prompt")
    gpus: str = _option("1,8,64", "numbers of GPUs, with commas")
    optimizer: str = _option("sgd", "sgd, momentum or adam")
    device: Device = devices.GPUS["h100"]

    def __post_init__(self) -> None:
        """Refuse what no formula can be given."""
        for name in ("members", "prompts", "tokens", "prompt_tokens"):
            cost.check_positive(name, getattr(self, name))
        if self.members < 2:
            raise UsageError(f"--members is {self.members}: give at least 2, rewards are compared.")
        if self.optimizer not in STATE_BYTES:
            raise UsageError(f"--optimizer is {self.optimizer}: give one of {', '.join(STATE_BYTES)}.")
        if not all(part.isdecimal() and int(part) > 0 for part in self.gpus.split(",")):
            raise UsageError(f"--gpus is {self.gpus}: give whole numbers above 0, as in 1,8,64.")

    @property
    def batch(self) -> Batch:
        """What the engine is given for a member."""
        return Batch(self.prompts, self.prompt_tokens, self.tokens)

    @property
    def state(self) -> int:
        """Bytes per parameter of the optimizer's state."""
        return STATE_BYTES[self.optimizer]


def memory_bytes(size: Size, s: Setting, k: int, centre: bool = True) -> float:
    """Peak of a GPU: engine, cache of the batch, centre and optimizer, two tensors like the largest."""
    cache = cost.cache_bytes(size, s.prompts * (s.prompt_tokens + s.tokens), k)
    held = cost.checkpoint_bytes(size, s.state) if centre else 0.0
    return cost.engine_bytes(size, k) + cache + held + cost.passing_bytes(size) + s.device.reserve_gb * 1e9


def lane_size(size: Size, s: Setting) -> int:
    """k: the smallest power of two with which all fits; where the centre never does, all but the centre."""
    sizes = [k for k in (1, 2, 4, 8) if size.cuts_no_head(k)]
    choices = [(k, centre) for centre in (True, False) for k in sizes]
    fitting = (k for k, centre in choices if memory_bytes(size, s, k, centre) <= s.device.memory)
    return next(fitting, sizes[-1])


def seconds(size: Size, s: Setting, lanes: int) -> dict[str, float]:
    """One generation on some lanes, by phase; lanes work at the same time, and every rank updates alone."""
    k, mine = lane_size(size, s), cost.members_per_lane(s.members, lanes)
    return {
        "perturb": mine * cost.perturb_seconds(size, s.device, k),
        "generate": mine * cost.generate_seconds(size, s.device, k, s.batch),
        "update": cost.update_seconds(size, s.device, s.members),
        "gather": cost.gather_seconds(s.device, s.members, s.prompts, lanes * k),
    }


def divided_memory_bytes(size: Size, s: Setting, k: int) -> float:
    """The same where the k ranks of a lane hold the centre and the optimizer's state together."""
    held = cost.checkpoint_bytes(size, s.state) / k
    return memory_bytes(size, s, k, centre=False) + held


def divided_lane_size(size: Size, s: Setting) -> int:
    """k: the smallest power of two with which all fits, above 1; the largest where nothing does."""
    sizes = [k for k in (2, 4, 8) if size.cuts_no_head(k)]
    fitting = (k for k in sizes if divided_memory_bytes(size, s, k) <= s.device.memory)
    return next(fitting, sizes[-1])


def divided_seconds(size: Size, s: Setting, lanes: int, k: int) -> dict[str, float]:
    """One generation where a rank makes the noise of what it holds, and receives the rest of each member."""
    mine = cost.members_per_lane(s.members, lanes)
    load = cost.load_seconds(size, s.device, k, k) + cost.exchange_seconds(size, s.device, k)
    return {
        "perturb": mine * (size.tuned / k / s.device.noise_per_second + load),
        "generate": mine * cost.generate_seconds(size, s.device, k, s.batch),
        "update": cost.update_seconds(size, s.device, s.members) / k,
        "gather": cost.gather_seconds(s.device, s.members, s.prompts, lanes * k),
    }


def verdict(size: Size, s: Setting, gpus: int) -> str:
    """Whether a model fits, or what is in the way."""
    k, room = lane_size(size, s), s.device.memory
    if memory_bytes(size, s, k) > room:
        return "no: the centre" if memory_bytes(size, s, k, centre=False) <= room else "no"
    return "yes" if gpus >= k else f"no: a lane is {k} GPUs"


def report(s: Setting) -> str:
    """The assumptions and four tables, in Markdown."""
    rows = [(model, int(gpus)) for model in MODELS for gpus in s.gpus.split(",")]
    sizes = {"rewards": 8 * s.members * s.prompts, "line": cost.journal_bytes(s.members)}
    sizes["spelled"] = cost.rewards_bytes(s.members, s.prompts)
    words = {name: in_bytes(count) for name, count in sizes.items()}
    tables = ["\n".join(part) + "\n" for part in (_models(), _times(s, rows), _sizes(s, rows), _divided(s))]
    assumed = ASSUMPTIONS.format(**vars(s), **vars(s.device), **words, head=cost.HEAD_BYTES)
    return "\n".join([assumed, *tables])


def _models() -> Iterator[str]:
    yield from _header("Qwen2.5", "parameters", "layers", "heads", "key-value heads", "head size", "KV/token")
    for m in MODELS:
        yield _row(m.name, f"{m.parameters:,}", *m[1:5], in_bytes(m.size.cache_bytes))


def _times(s: Setting, rows: Sequence[tuple[Model, int]]) -> Iterator[str]:
    phases = [f"{phase} s" for phase in ("perturb", "generate", "update", "gather", "total")]
    yield from _header("model", "GPUs", "k", "lanes", "members", *phases, "speed-up")
    for model, gpus in rows:
        size = model.size
        k = lane_size(size, s)
        if not (lanes := gpus // k):
            yield _row(model.name, gpus, k, *["-"] * 8)
            continue
        each = seconds(size, s, lanes)
        total, alone = sum(each.values()), sum(seconds(size, s, 1).values())
        form = "{}" if verdict(size, s, gpus) == "yes" else "({})"
        numbers = [form.format(three(value)) for value in (*each.values(), total, alone / total)]
        yield _row(model.name, gpus, k, lanes, cost.members_per_lane(s.members, lanes), *numbers)


def _sizes(s: Setting, rows: Sequence[tuple[Model, int]]) -> Iterator[str]:
    yield from _header(
        "model", "GPUs", "sent/rank", "gradients", "journal", "checkpoint", "memory/GPU", "fits"
    )
    for model, gpus in rows:
        size = model.size
        k = lane_size(size, s)
        ranks = gpus // k * k
        sent = (
            (cost.sent_bytes(s.members, s.prompts, ranks), cost.reduced_bytes(size, ranks)) if ranks else ()
        )
        kept = (cost.journal_bytes(s.members), cost.checkpoint_bytes(size, s.state), memory_bytes(size, s, k))
        network = [in_bytes(count) for count in sent] or ["-", "-"]
        yield _row(model.name, gpus, *network, *map(in_bytes, kept), verdict(size, s, gpus))


def _divided(s: Setting) -> Iterator[str]:
    """One machine of eight, whose lanes divide the centre."""
    columns = ("k", "lanes", "memory/GPU", "fits", "received/member", "received/generation", "perturb s")
    yield from _header("model, centre divided", *columns, "generate s", "update s", "total s")
    for model in MODELS:
        size = model.size
        k = divided_lane_size(size, s)
        lanes, needed = MACHINE // k, divided_memory_bytes(size, s, k)
        each = divided_seconds(size, s, lanes, k)
        received = cost.exchanged_bytes(size, k)
        sent = (received, received * cost.members_per_lane(s.members, lanes))
        parts = [each["perturb"], each["generate"], each["update"], sum(each.values())]
        fits = "yes" if needed <= s.device.memory else "no: too large"
        yield _row(model.name, k, lanes, in_bytes(needed), fits, *map(in_bytes, sent), *map(three, parts))


def _header(first: str, *others: str) -> tuple[str, str]:
    return _row(first, *others), _row("---", *["---:"] * len(others))


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"cost_model.py: {message}\n")


def setting(arguments: Sequence[str] | None = None) -> Setting:
    """Parse the options; those of the device change the one that is named."""
    parser = _Parser(description=(__doc__ or "").split("\n")[0])
    own = {one.name: one for one in fields(Setting) if "help" in one.metadata}
    for name, option in own.items():
        meaning = f"{option.metadata['help']} ({option.default})"
        parser.add_argument(f"--{name}", type=type(option.default), default=option.default, help=meaning)
    parser.add_argument("--device", default="h100", help=f"one of {', '.join(devices.GPUS)} (%(default)s)")
    for name, meaning in DEVICE_OPTIONS.items():
        parser.add_argument(f"--{name}", type=float, help=f"{meaning} (the device's)")
    given = vars(parser.parse_args(arguments))
    try:
        changed = {name: given[name] for name in DEVICE_OPTIONS if given[name] is not None}
        device = replace(devices.named(given["device"]), **changed)
        return Setting(**{name: given[name] for name in own}, device=device)
    except UsageError as error:
        parser.error(str(error))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the report."""
    sys.stdout.write(report(setting(arguments)))


if __name__ == "__main__":
    main()
