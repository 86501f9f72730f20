"""What a puzzle's answer is worth: reasoning-gym's graders, made safe for text that a model wrote.

Some of the library's graders run the answer as Python code, loop as often as a number in it says, or pay for
a text that answers nothing. Here no answer is run, every grade takes bounded time, and what is wrong earns
hardly more than a guess. An answer earns 0 if it is too long, or does not match its puzzle's pattern in
``_ADMITTED``. The graders of ``puzzles.graders`` replace those of the library.
"""

import contextlib
import io
import math
import re
from collections.abc import Mapping
from typing import Any

from es_lightning.tasks.answers.tags import last_block
from es_lightning.tasks.puzzles.graders import GRADERS, Grader, by_library, only_the_answer
from es_lightning.tasks.puzzles.text import same, unwrapped

_SPARE_CHARS = 1_000
_CHARS_WITHOUT_REFERENCE = 2_000
_UNSOLVED = "Integral("  # SymPy has not found the answer; the library then repeats the question
_CASE_MATTERS = {"bf", "codeio"}  # what a program prints

# On other texts, the library would repeat a move as often as the number after it says (the first two), warn
# of a matrix without numbers, try every truth value of every variable, take nan for any number, or pass over
# a minus sign before the numbers of a grid.
_NO_MINUS = re.compile(r"(?:[^-]|-(?!\d))*+")
_ADMITTED = {
    "rubiks_cube": re.compile(r"(?:[^\d\s]++[1-3]?(?:\s++|$)){0,400}+"),
    "rush_hour": re.compile(r"(?:\D|\d{1,2}(?!\d))*+"),
    "pool_matrix": re.compile(r"(?=\D*+\d)[\d\s.eE+-]*+", re.ASCII),
    "propositional_logic": re.compile(r"(?:[∧∨¬→↔()\s]|[A-Z](?!\s*[A-Z])){0,400}+", re.ASCII),
    "number_sorting": re.compile(r"[\d\s.,+'\"\[\]-]*+", re.ASCII),
    **dict.fromkeys(("futoshiki", "kakurasu", "mini_sudoku", "sudoku"), _NO_MINUS),
}


def last_answer(text: str) -> str | None:
    """Return the content of the last complete answer block, stripped, in linear time."""
    block = last_block(text, "answer")
    return None if block is None else block.strip()


def grade(dataset: Any, entry: Mapping[str, Any], answer: str | None) -> float:
    """Return what an answer is worth, from 0 to 1.

    Args:
        dataset: the library's data set that made the entry.
        entry: the problem, as the library gives it.
        answer: what the model answered, or None if it gave no answer.
    """
    if answer is None:
        return 0.0
    reference = entry["answer"]
    puzzle = entry["metadata"]["source_dataset"]
    if isinstance(reference, str) and answer == reference.strip():
        return float(_UNSOLVED not in reference)
    longest = 4 * len(reference) + _SPARE_CHARS if isinstance(reference, str) else _CHARS_WITHOUT_REFERENCE
    if len(answer) > longest:
        return 0.0
    if isinstance(reference, str) and same(answer, reference, puzzle in _CASE_MATTERS):
        return float(_UNSOLVED not in reference)
    answer = unwrapped(answer)
    if puzzle in _ADMITTED and not _ADMITTED[puzzle].fullmatch(answer):
        return 0.0
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # one grader prints what is wrong with a move
            score = float(_grader(puzzle)(dataset, entry, answer))
    except Exception:  # whatever a grader raises here, the cause is malformed text of the model
        return 0.0
    return min(max(score, 0.0), 1.0) if not math.isnan(score) else 0.0


def _grader(puzzle: str) -> Grader:
    """Return our grader or the library's; its default pays for a text in which the reference occurs."""
    from reasoning_gym.dataset import ProceduralDataset
    from reasoning_gym.factory import DATASETS

    default = DATASETS[puzzle][0].score_answer is ProceduralDataset.score_answer
    return GRADERS.get(puzzle, only_the_answer if default else by_library)
