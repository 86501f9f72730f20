"""One section of the check, in a process of its own."""

import json
import logging
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.gpu_check import bits, engines, generation, launches, machine, ranks
from benchmarks.gpu_check.rows import Row, Settings, skipped
from es_lightning.cli.console import quiet, without_loading_bars

Make = Callable[[Settings, Path], Iterator[Row]]


def _engine(case: engines.Case, settings: Settings, folder: Path) -> Iterator[Row]:
    if reason := engines.why_not(case, settings):
        yield skipped("engine", reason)
        return
    yield from engines.numbers(settings, case, folder / "numbers.json")


def _generation(variant: str, settings: Settings, folder: Path) -> Iterator[Row]:
    kind = "hf" if variant.startswith("HF") else "vllm"
    if reason := engines.why_not(engines.Case(kind), settings):
        yield skipped("generation", reason)
        return
    yield from generation.rows(settings, variant)


SECTIONS: dict[str, Make] = {
    "machine": lambda settings, _: machine.rows(settings),
    "noise": lambda settings, _: bits.noise_rows(settings),
    "update": lambda settings, _: bits.update_rows(settings),
    "launches": lambda settings, _: launches.rows(settings),
    **{name: partial(_engine, case) for name, case in engines.CASES.items()},
    **{f"fit: {variant}": partial(_generation, variant) for variant in generation.VARIANTS},
    "two ranks": lambda settings, _: ranks.rows(settings),
}


def main(name: str, folder: Path) -> None:
    """Write the rows of a section into a folder, as JSON, one a line and as soon as they are known.

    Args:
        name: of the section.
        folder: holds ``settings.json``; gets ``rows.jsonl``.
    """
    quiet()
    logging.getLogger().setLevel(logging.WARNING)
    without_loading_bars()
    settings = Settings(**json.loads((folder / "settings.json").read_text("utf-8")))
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
        for row in SECTIONS[name](settings, folder):
            file.write(json.dumps(row.packed()) + "\n")
            file.flush()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
