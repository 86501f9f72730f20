"""What a generation costs on a cluster: bytes, seconds and memory, computed from formulas and not measured.

Run: python benchmarks/cost_model.py [--members 64] [--prompts 128] [--gpus 1,8,64], see --help. Standard
library alone. docs/distributed.md explains the formulas and holds what this prints without options.

Notation: d parameters, N members, P prompts, T new tokens per completion, W ranks (one GPU each), k ranks
per lane, L = W / k lanes.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from math import ceil, floor, inf, log2, log10
from typing import Any, NamedTuple, NoReturn

HEAD_BYTES = 470  # JSON before the rewards (es_lightning.evaluation.gather): checksum, digest, sums, seconds
LINE_BYTES, MEMBER_BYTES = 500, 11 + 1 + 11  # journal line: settings and means; a seed, a sign, a weight
REWARD_CHARACTERS = 20  # of one reward in rewards.jsonl, at the most
STATE_BYTES = {"sgd": 0, "momentum": 4, "adam": 8}  # of the optimizer, per parameter
ASSUMPTIONS = """\
Computed, not measured, from these assumptions:

- {members} members, {prompts} prompts of {prompt_tokens} tokens, {tokens} new tokens each;
- an engine in bfloat16, the optimizer {optimizer};
- a GPU of {gpu_gb:g} GB with {bandwidth:g} TB/s, of which {bandwidth_share:.0%} is reached, and
  {tflops:g} TFLOP/s in bfloat16, of which {tflops_share:.0%} is reached; {reserve_gb:g} GB of it are spent
  on context, graphs and activations;
- noise at {noise_rate:g} * 10^9 elements/s;
- a network of {network:g} GB/s and {latency:g} microseconds per message.

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
    def cache_bytes(self) -> int:
        """Key and value of one token in all layers, bfloat16."""
        return 2 * 2 * self.layers * self.shared * self.head_dim


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
    """All that is assumed; every field is an option of the command line."""

    members: int = _option(64, "members N of the population")
    prompts: int = _option(128, "prompts P of a generation")
    tokens: int = _option(256, "new tokens T of every completion")
    prompt_tokens: int = _option(128, "tokens of a prompt")
    gpus: str = _option("1,8,64", "numbers of GPUs, with commas")
    optimizer: str = _option("sgd", "sgd, momentum or adam")
    gpu_gb: float = _option(80.0, "memory of a GPU, GB")
    bandwidth: float = _option(3.35, "its bandwidth, TB/s")
    bandwidth_share: float = _option(0.6, "share of the bandwidth that is reached")
    tflops: float = _option(989.0, "its peak in bfloat16, TFLOP/s")
    tflops_share: float = _option(0.4, "share of the peak that is reached")
    noise_rate: float = _option(20.0, "noise that it draws and adds, 10^9 elements/s")
    reserve_gb: float = _option(4.0, "its context, graphs and activations, GB")
    network: float = _option(1.25, "network between two ranks, GB/s")
    latency: float = _option(50.0, "microseconds per message")

    def __post_init__(self) -> None:
        """Refuse what no formula can be given."""
        for option in fields(self):
            name, value = _flag(option.name), getattr(self, option.name)
            if isinstance(value, int | float) and not 0 < value < inf:
                raise ValueError(f"{name} is {value}: give a finite number above 0.")
            if option.name.endswith("_share") and value > 1:
                raise ValueError(f"{name} is {value}: give a share, at most 1.")
        if self.members < 2:
            raise ValueError(f"--members is {self.members}: give at least 2, rewards are compared.")
        if self.optimizer not in STATE_BYTES:
            raise ValueError(f"--optimizer is {self.optimizer}: give one of {', '.join(STATE_BYTES)}.")
        if not all(part.isdecimal() and int(part) > 0 for part in self.gpus.split(",")):
            raise ValueError(f"--gpus is {self.gpus}: give whole numbers above 0, as in 1,8,64.")


def journal_bytes(s: Setting) -> int:
    """One line of journal.jsonl."""
    return LINE_BYTES + MEMBER_BYTES * s.members


def payload_bytes(s: Setting, ranks: int) -> int:
    """What the ranks tell one another: float64 rewards [N, P], and a head per rank."""
    return 8 * s.members * s.prompts + HEAD_BYTES * ranks


def sent_bytes(s: Setting, ranks: int) -> float:
    """What a rank sends on average: a broadcast crosses W - 1 links, its 8 bytes of length as many."""
    return payload_bytes(s, ranks) * (ranks - 1) / ranks + 8 * (ranks - 1)


def reduced_bytes(model: Model, ranks: int) -> float:
    """What a rank sends in one ring all-reduce of bfloat16 gradients, as data-parallel training does."""
    return 2 * 2 * model.parameters * (ranks - 1) / ranks


def checkpoint_bytes(model: Model, s: Setting) -> int:
    """The float32 centre and the optimizer's state."""
    return (4 + STATE_BYTES[s.optimizer]) * model.parameters


def memory_bytes(model: Model, s: Setting, k: int, centre: bool = True) -> float:
    """Peak of a GPU: engine, cache of the batch, centre and optimizer, the largest tensor's gradient."""
    cache = s.prompts * (s.prompt_tokens + s.tokens) * model.cache_bytes / min(k, model.shared)
    held = checkpoint_bytes(model, s) if centre else 0
    gradient = 4 * model.vocabulary * model.heads * model.head_dim
    return 2 * model.parameters / k + cache + held + gradient + s.reserve_gb * 1e9


def lane_size(model: Model, s: Setting) -> int:
    """k: the smallest power of two with which all fits; where the centre never does, all but the centre."""
    sizes = [k for k in (1, 2, 4, 8) if model.heads % k == 0 and 0 in (model.shared % k, k % model.shared)]
    choices = [(k, centre) for centre in (True, False) for k in sizes]
    fitting = (k for k, centre in choices if memory_bytes(model, s, k, centre) <= s.gpu_gb * 1e9)
    return next(fitting, sizes[-1])


def perturb_seconds(model: Model, s: Setting, k: int) -> float:
    """One member: d elements of noise; centre read, copy written, copy read by the loader, 1/k of it kept."""
    moved = (4 + 2 + 2 + 2 / k) * model.parameters
    return model.parameters / (s.noise_rate * 1e9) + moved / (s.bandwidth * s.bandwidth_share * 1e12)


def generate_seconds(model: Model, s: Setting, k: int) -> float:
    """One member: all prompts at once, then T steps, each bound by memory or by arithmetic."""
    context = s.prompt_tokens + s.tokens / 2
    cache = s.prompts * context * model.cache_bytes / min(k, model.shared)
    memory = (2 * model.parameters / k + cache) / (s.bandwidth * s.bandwidth_share * 1e12)
    arithmetic = 2 * model.parameters * s.prompts / k / (s.tflops * s.tflops_share * 1e12)
    return s.prompt_tokens * arithmetic + s.tokens * max(memory, arithmetic)


def update_seconds(model: Model, s: Setting) -> float:
    """The noise of all N members, on every rank."""
    return s.members * model.parameters / (s.noise_rate * 1e9)


def gather_seconds(s: Setting, ranks: int) -> float:
    """A barrier at rank 0, lengths around a ring, then one broadcast per rank down a tree."""
    messages = 2 * (ranks - 1) + (ranks - 1) + ranks * ceil(log2(ranks))
    received = payload_bytes(s, ranks) + 8 * ranks
    return (ranks > 1) * (received / (s.network * 1e9) + messages * s.latency / 1e6)


def members_per_lane(s: Setting, lanes: int) -> int:
    """Of the lane that has most; the others wait for it."""
    return ceil(s.members / lanes)


def seconds(model: Model, s: Setting, lanes: int) -> dict[str, float]:
    """One generation on some lanes, by phase; lanes work at the same time, and every rank updates alone."""
    k, mine = lane_size(model, s), members_per_lane(s, lanes)
    return {
        "perturb": mine * perturb_seconds(model, s, k),
        "generate": mine * generate_seconds(model, s, k),
        "update": update_seconds(model, s),
        "gather": gather_seconds(s, lanes * k),
    }


def verdict(model: Model, s: Setting, gpus: int) -> str:
    """Whether a model fits, or what is in the way."""
    k, room = lane_size(model, s), s.gpu_gb * 1e9
    if memory_bytes(model, s, k) > room:
        return "no: the centre" if memory_bytes(model, s, k, centre=False) <= room else "no"
    return "yes" if gpus >= k else f"no: a lane is {k} GPUs"


def report(s: Setting) -> str:
    """The assumptions and three tables, in Markdown."""
    rows = [(model, int(gpus)) for model in MODELS for gpus in s.gpus.split(",")]
    sizes = {"rewards": 8 * s.members * s.prompts, "line": journal_bytes(s)}
    sizes["spelled"] = REWARD_CHARACTERS * s.members * s.prompts
    words = {name: _size(count) for name, count in sizes.items()}
    tables = ["\n".join(part) + "\n" for part in (_models(), _times(s, rows), _sizes(s, rows))]
    return "\n".join([ASSUMPTIONS.format(**vars(s), **words, head=HEAD_BYTES), *tables])


def _models() -> Iterator[str]:
    yield from _header("Qwen2.5", "parameters", "layers", "heads", "key-value heads", "head size", "KV/token")
    for m in MODELS:
        yield _row(m.name, f"{m.parameters:,}", *m[1:5], _size(m.cache_bytes))


def _times(s: Setting, rows: Sequence[tuple[Model, int]]) -> Iterator[str]:
    phases = [f"{phase} s" for phase in ("perturb", "generate", "update", "gather", "total")]
    yield from _header("model", "GPUs", "k", "lanes", "members", *phases, "speed-up")
    for model, gpus in rows:
        k = lane_size(model, s)
        if not (lanes := gpus // k):
            yield _row(model.name, gpus, k, *["-"] * 8)
            continue
        each = seconds(model, s, lanes)
        total, alone = sum(each.values()), sum(seconds(model, s, 1).values())
        form = "{}" if verdict(model, s, gpus) == "yes" else "({})"
        numbers = [form.format(_three(value)) for value in (*each.values(), total, alone / total)]
        yield _row(model.name, gpus, k, lanes, members_per_lane(s, lanes), *numbers)


def _sizes(s: Setting, rows: Sequence[tuple[Model, int]]) -> Iterator[str]:
    yield from _header(
        "model", "GPUs", "sent/rank", "gradients", "journal", "checkpoint", "memory/GPU", "fits"
    )
    for model, gpus in rows:
        k = lane_size(model, s)
        ranks, lanes = gpus // k * k, gpus // k
        sent = (sent_bytes(s, ranks), reduced_bytes(model, ranks)) if lanes else ()
        kept = (journal_bytes(s), checkpoint_bytes(model, s), memory_bytes(model, s, k))
        network = [_size(count) for count in sent] or ["-", "-"]
        yield _row(model.name, gpus, *network, *map(_size, kept), verdict(model, s, gpus))


def _header(first: str, *others: str) -> tuple[str, str]:
    return _row(first, *others), _row("---", *["---:"] * len(others))


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _three(value: float) -> str:
    return f"{value:.{min(3, max(0, 2 - floor(log10(value)))) if value else 0}f}"


def _size(count: float) -> str:
    power = min(3, int(log10(count) // 3)) if count else 0
    return f"{_three(count / 1000**power) if power else round(count)} {('B', 'kB', 'MB', 'GB')[power]}"


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"cost_model.py: {message}\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the options, print the report."""
    parser = _Parser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    for option in fields(Setting):
        kind, meaning = type(option.default), option.metadata["help"]
        parser.add_argument(_flag(option.name), type=kind, default=option.default, help=meaning)
    try:
        setting = Setting(**vars(parser.parse_args(arguments)))
    except ValueError as error:
        parser.error(str(error))
    sys.stdout.write(report(setting))


if __name__ == "__main__":
    main()
