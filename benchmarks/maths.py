"""The maths grader, and math-verify alone, on the table of cases and on replies made to stall them.

python benchmarks/maths.py
"""

import logging
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from es_lightning.cli.console import quiet
from es_lightning.tasks.answers.math_equal import answers_equal
from es_lightning.tasks.answers.math_library import library_alone, load_library

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.helpers.math_cases import cases, grade
from tests.tasks.test_math_hostile import TIRING, hostile

STALLING = {"100 parentheses": "(" * 100 + "1" + ")" * 100, "100000!": "100000!"}
log = logging.getLogger("maths")


def timed(judge: Callable[[str, str], bool], gold: str, reply: str) -> tuple[bool, float]:
    """A verdict, and the seconds that it took; nothing is remembered."""
    answers_equal.cache_clear()
    started = time.perf_counter()
    verdict = judge(gold, reply)
    return verdict, time.perf_counter() - started


def compared(name: str, judge: Callable[[str, str], bool]) -> None:
    """Print where a judge differs from the table, and how long it takes."""
    outcomes = [(gold, reply, right, *timed(judge, gold, reply)) for gold, reply, right in cases()]
    differ = [
        f"  {gold} | {reply} | {'taken' if verdict else 'refused'}"
        for gold, reply, right, verdict, _ in outcomes
        if verdict is not right
    ]
    seconds = [outcome[-1] for outcome in outcomes]
    log.info("%s agrees with %d of %d cases:", name, len(outcomes) - len(differ), len(outcomes))
    log.info("%s", "\n".join(differ))
    log.info("  median %.2f ms, slowest %.2f s", 1e3 * statistics.median(seconds), max(seconds))


def main() -> None:
    """Measure and print."""
    quiet()
    started = time.perf_counter()
    load_library()
    log.info("math-verify is loaded in %.1f s", time.perf_counter() - started)
    compared("the grader", grade)
    compared("math-verify alone", library_alone)
    seconds = [timed(grade, gold, reply)[1] for gold, reply in hostile()]
    slow = [second for second in seconds if second > 0.05]
    log.info("%d hostile replies: %d over 50 ms, slowest %.2f s", len(seconds), len(slow), max(seconds))
    seconds = [timed(grade, gold, f"\\boxed{{{reply}}}")[1] for gold, reply in TIRING]
    log.info("%d formulas made to tire SymPy: slowest %.2f s", len(seconds), max(seconds))
    for name, formula in STALLING.items():
        log.info("%s: math-verify alone %.1f s", name, timed(library_alone, "1", f"\\boxed{{{formula}}}")[1])


if __name__ == "__main__":
    main()
