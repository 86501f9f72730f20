"""Where the seconds of a generation go, and how that compares with the original implementation.

Run: make bench, or python benchmarks/bench.py [--output bench.json] [--compiled] [--resume] [--quick].
It prints a table and writes bench.json. There are two jobs. "forced" is a generation of 16 members on 64
prompts, and each completion has 64 tokens; "natural" is one of 16 members on 16 prompts, whose completions
end by themselves or after 64 tokens. Seconds are those of whole generations, medians of two. Members all cost
the same, so only ``--sample`` of them are evaluated, and the others are taken to be like them; the update has
all. With adapters all members are evaluated on a part of the prompts. Nothing else may run meanwhile.

``--compiled`` measures vLLM compiled, too, which takes minutes more. ``--resume`` keeps what the output holds
already of the same settings. ``--quick`` takes a tiny model, and shows no more than that everything runs.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from _jobs import DTYPES, LR, SEED, SIGMA, Job, cpu, versions
from _table import summary, table

log = logging.getLogger("benchmarks.bench")
HERE = Path(__file__).parent
SWAPS, ADAPTERS = ["gaussian", "rademacher", "low_rank"], ["adapters"]
BATCH = 256  # sequences that vLLM computes at once
Found = dict[str, Any]


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the options; ``--quick`` changes the defaults of the others."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("bench.json"))
    parser.add_argument("--quick", action="store_true", help="a tiny model and few tokens")
    parser.add_argument("--compiled", action="store_true", help="measure vLLM compiled as well")
    parser.add_argument("--resume", action="store_true", help="keep pieces that the output holds already")
    parser.add_argument("--pieces", default="", help="only these, with commas, and no table")
    parser.add_argument("--base", default="embedded")
    parser.add_argument("--members", type=int, default=16)
    parser.add_argument("--prompts", type=int, default=64, help="of the forced job")
    parser.add_argument("--natural-prompts", type=int, default=16, help="of the natural job")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--sample", type=int, default=2, help="members that are evaluated; 16 for all")
    parser.add_argument("--generations", type=int, default=2)
    parser.add_argument("--ranks", type=int, default=2, help="how many to compare with one; 1 for none")
    parser.add_argument("--dtype", choices=("auto", *DTYPES), default="auto", help="auto tries both")
    if "--quick" in (sys.argv[1:] if arguments is None else arguments):
        parser.set_defaults(base="tiny", members=4, prompts=4, natural_prompts=4, tokens=8, generations=1)
        parser.set_defaults(dtype="float32", ranks=1)
    return parser.parse_args(arguments)


class Pieces:
    """What is measured, one piece after the other, each in processes of its own.

    Args:
        given: the options.
    """

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        all_of = {name: value for name, value in vars(given).items() if name not in _NOT_SETTINGS}
        self.settings = {**all_of, "sigma": SIGMA, "lr": LR, "seed": SEED, "task": "Conciseness, train"}
        self.found: Found = {}
        if given.resume and given.output.exists():
            before = json.loads(given.output.read_text(encoding="utf-8"))
            self.found = before["pieces"] if before["settings"] == self.settings else {}
        members, tokens = given.members, given.tokens
        sample = min(given.sample, members)
        self.forced = Job(members, given.prompts, tokens, True, sample)
        self.natural = Job(members, given.natural_prompts, tokens, False, sample)

    def piece(self, name: str, measure: Callable[..., Found], *arguments: Any) -> Found:
        """Measure a piece, unless it is there already, and keep it."""
        wanted = self.given.pieces.split(",") if self.given.pieces else [name]
        if name not in self.found and name in wanted:
            log.info("measuring %s ...", name)
            self.found[name] = measure(*arguments)
            self.write()
        return self.found.get(name, {})

    def write(self, more: Found | None = None) -> None:
        """Write what there is so far."""
        whole = {"settings": self.settings, **(more or {}), "pieces": self.found}
        self.given.output.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")

    def measure(self) -> None:
        """Measure everything."""
        dtype = self._faster("engine", self._try_engine)
        together = self.forced.members * self.natural.prompts  # requests of one batch of adapters
        raw = [self.forced.prompts, together, self.natural.prompts]
        self.piece("swaps", self.engine, SWAPS, dtype, raw)
        self.piece("adapters", self.engine, ADAPTERS, dtype, [together])
        if (ranks := self.given.ranks) > 1:
            self.piece("swaps on ranks", self.engine, SWAPS, dtype, [], ranks)
            self.piece("adapters on ranks", self.engine, ADAPTERS, dtype, [], ranks)
        self.piece("original", self.original, self._faster("original", self._try_original))
        if self.given.compiled:
            self.piece("compiled", self.engine, ["gaussian"], dtype, raw, 1, {"enforce_eager": False})

    def _try_engine(self, dtype: str) -> Found:
        return self.engine([], dtype, [self.natural.prompts])

    def _try_original(self, dtype: str) -> Found:
        return self.original(dtype, tries=True)

    def _faster(self, who: str, measure: Callable[[str], Found]) -> str:
        """Return the precision in which a side is faster on this machine; both are tried."""
        if self.given.dtype != "auto":
            return str(self.given.dtype)
        rates = {dtype: self.piece(f"{who} in {dtype}", measure, dtype).get("rate", 0.0) for dtype in DTYPES}
        return max(rates, key=lambda dtype: rates[dtype])

    # Processes ------------------------------------------------------------------------------------

    def engine(
        self,
        variants: list[str],
        dtype: str,
        raw: Sequence[int] = (),
        world: int = 1,
        options: Found | None = None,
    ) -> Found:
        """Measure an engine of vLLM on some ranks."""
        jobs = {"forced": self.forced} if world > 1 else {"forced": self.forced, "natural": self.natural}
        if world > 1 and self.forced.sample % world:
            jobs["forced"] = replace(self.forced, sample=world)
        if variants == ADAPTERS:  # batches have to be as large as they would be
            full = max(self.forced.sample, -(-BATCH // self.forced.prompts))
            jobs["forced"] = replace(self.forced, sample=min(full, self.forced.members))
            if world == 1:
                jobs["natural"] = replace(self.natural, sample=self.natural.members)
        order = {
            "base": self.given.base,
            "dtype": dtype,
            "variants": variants,
            "jobs": {name: asdict(job) for name, job in jobs.items()},
            "raw": list(dict.fromkeys(raw)),
            "tokens": self.given.tokens,
            "generations": self.given.generations,
            "options": {"kv_cache_gib": 0.1 if self.given.quick else 1.0, **(options or {})},
            "world": world,
        }
        found = run("_generation.py", order, world)
        return {**found, "rate": max(found["raw"].values(), default=0.0)}

    def original(self, dtype: str, tries: bool = False) -> Found:
        """Measure the original implementation; to try a precision, one member of the natural job."""
        jobs = {"natural": self.natural, "forced": replace(self.forced, sample=1)}
        if tries:
            jobs = {"natural": replace(self.natural, sample=1)}
        order = {
            "base": self.given.base,
            "dtype": dtype,
            "jobs": {name: asdict(job) for name, job in jobs.items()},
            "generations": 1 if tries else self.given.generations,
        }
        found = run("original.py", order)
        return {**found, "rate": found["natural"]["prompts_per_second"]}


def run(script: str, order: Found, world: int = 1) -> Found:
    """Run a script of this folder, on one rank or several; returns what its first rank has written."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        output, address = Path(folder) / "found.json", ("127.0.0.1", str(port.getsockname()[1]))
        port.close()
        text = json.dumps({**order, "output": str(output)})
        ranks = []
        for rank in range(world):
            places = {"MASTER_ADDR": address[0], "MASTER_PORT": address[1], "LOCAL_RANK": str(rank)}
            environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", **(places if world > 1 else {})}
            said = (Path(folder) / f"{rank}.log").open("w+", encoding="utf-8")
            command = [sys.executable, str(HERE / script), "--order", text]
            ranks.append((subprocess.Popen(command, env=environment, stdout=said, stderr=said), said))
        for process, said in ranks:
            if process.wait():
                said.seek(0)
                raise SystemExit(f"{script} failed:\n{said.read()[-4000:]}")
        found: Found = json.loads(output.read_text(encoding="utf-8"))
    return found


_NOT_SETTINGS = ("output", "resume", "pieces", "compiled")


def main(arguments: list[str] | None = None) -> None:
    """Measure, compare, print and write."""
    given = parsed(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    pieces = Pieces(given)
    pieces.measure()
    if given.pieces:
        return
    machine = {"cpu": cpu(), "versions": versions(), "base": given.base}
    whole = {**machine, **summary(pieces.found)}
    pieces.write(whole)
    log.info("%s", table(whole))


if __name__ == "__main__":
    main()
