"""math-verify alone on the table of maths cases, and on two replies made to stall it.

python benchmarks/maths.py
"""

import logging
import sys
import time
from pathlib import Path

from es_lightning.cli.console import quiet
from es_lightning.tasks.answers.math_sympy import library_verdict, load_library

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.helpers.math_cases import cases, grade

STALLING = {"100 parentheses": "(" * 100 + "1" + ")" * 100, "100000!": "100000!"}
log = logging.getLogger("maths")


def main() -> None:
    """Print where it differs from the table, and how long it takes."""
    quiet()
    load_library()
    seconds, differ = [], []
    for gold, reply, right in cases():
        started = time.perf_counter()
        verdict = library_verdict(gold, reply)
        seconds.append(time.perf_counter() - started)
        if verdict is not right:
            differ.append(f"{gold} | {reply} | {'taken' if verdict else 'refused'}")
    log.info("differs from the table:\n%s", "\n".join(differ))
    log.info(
        "agrees with %d of %d cases; slowest %.2f s", len(seconds) - len(differ), len(seconds), max(seconds)
    )
    ours = []
    for gold, reply, _ in cases():
        started = time.perf_counter()
        grade(gold, reply)
        ours.append(time.perf_counter() - started)
    log.info("our own code on the same cases: slowest %.3f s", max(ours))
    for name, formula in STALLING.items():
        started = time.perf_counter()
        library_verdict("1", f"\\boxed{{{formula}}}")
        log.info("%s: %.1f s", name, time.perf_counter() - started)


if __name__ == "__main__":
    main()
