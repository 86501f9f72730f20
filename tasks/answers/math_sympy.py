r"""Whether two formulas are equal: by their values or, if there are none, by math-verify (ANTLR, SymPy).

math-verify alone takes seconds for a hundred parentheses (``benchmarks/maths.py``), has to be stopped by its
alarm on ``9^{9^{9^9}}``, and searches long for a proof if two formulas differ. It is therefore asked only if
the right answer has no values here, such as ``f(x+1)``, and only about replies of the same shape. So neither
a clock nor a signal is needed, and the verdict is the same on a slow machine, and in any thread.
"""

import logging
import re
from fractions import Fraction
from functools import lru_cache
from typing import Any

from es_lightning.tasks.answers.math_formula import values
from es_lightning.tasks.answers.math_functions import Value, Values

MAX_CHARS = 60  # of a formula that math-verify is given

# Formulas with any of these are not given to math-verify.
_SHAPE = re.compile(r"\d{4}|\^.?.?\d\d|\^.*\^|!|[¶&#@$%`\"?|]|\\(?:sum|int|prod|lim|exp|binom)")
_PRECISION = 1e-9  # relative difference of values that count as equal
_DECIMAL = 5e-7  # half a unit of the sixth decimal, to which math-verify rounds


def formulas_equal(gold: str, answer: str, tolerance: float | None = None) -> bool:
    """Whether two cleaned formulas or equations are equal; False if they are too complex to tell.

    Args:
        gold: the right formula.
        answer: the formula to judge.
        tolerance: largest absolute difference between two numbers that the benchmark allows, if any.
    """
    left, right = gold.split("="), answer.split("=")
    if len(left) == len(right) == 2:
        return _equations_equal(left, right)
    ours = values(gold)
    if ours is None:
        return _verified(gold, answer)
    theirs = values(answer)
    if theirs is None:
        return False
    if tolerance is not None and len({*ours}) == len({*theirs}) == 1:
        return abs(complex(ours[0]) - complex(theirs[0])) <= tolerance
    decimal = ("." in gold) != ("." in answer)
    return all(_close(one, other, decimal) for one, other in zip(ours, theirs, strict=True))


def _close(one: Value, other: Value, decimal: bool = False) -> bool:
    """Whether two values are equal: exactly if both are exact, and to six places for decimals."""
    if isinstance(one, Fraction) and isinstance(other, Fraction):
        return one == other
    one, other = complex(one), complex(other)
    scale = min(abs(one), 1.0) if decimal else abs(one)
    return abs(one - other) <= (_DECIMAL if decimal else _PRECISION) * scale


def _equations_equal(gold: list[str], answer: list[str]) -> bool:
    """Whether two equations are the same up to a constant factor."""
    ours, theirs = _difference(*gold), _difference(*answer)
    if ours is None or theirs is None or not all(ours) or not all(theirs):
        return False
    ratios = [complex(one) / complex(other) for one, other in zip(ours, theirs, strict=True)]
    return len({*ours}) > 1 and all(_close(ratio, ratios[0]) for ratio in ratios)


def _difference(left: str, right: str) -> Values | None:
    return values(f"({left})-({right})")


# The library


def load_library() -> None:
    """Import math-verify and let it read one formula, which takes most of a second the first time."""
    library_verdict("1", r"\boxed{\frac{1}{2}}")


def library_verdict(gold: str, reply: str) -> bool:
    """Return what math-verify alone says of a reply, with its own defaults; it may take long.

    Args:
        gold: the right answer, as the data set writes it.
        reply: the whole reply, of which the last 2,000 characters are read.
    """
    parse, _, verify = _library()
    try:
        right, ours = (parse(text, parsing_timeout=None) for text in (f"${gold}$", reply[-2000:]))
        return bool(verify(right, ours, timeout_seconds=None))
    except Exception:  # see _verified
        return False


def _verified(gold: str, answer: str) -> bool:
    """Return the verdict of math-verify; False if the formulas are too long or not alike."""
    if not (_is_short(gold) and _is_alike(gold, answer)):
        return False
    left, right = _parsed(gold), _parsed(answer)
    if left is None or right is None:
        return False
    try:
        return bool(_library()[2](left, right, timeout_seconds=None))
    except Exception:  # SymPy raises whatever it likes on formulas that make no sense
        return False


def _is_short(text: str) -> bool:
    return len(text) <= MAX_CHARS and not _SHAPE.search(text)


def _is_alike(gold: str, answer: str) -> bool:
    """Whether an answer has the letters and signs of the right one, in any order, and about its length."""
    return (
        _is_short(answer)
        and len(answer) <= len(gold) + 8
        and _letters(gold) == _letters(answer)
        and answer.count("(") <= gold.count("(") + 1
        and answer.count(" ") <= gold.count(" ")
    )


def _letters(text: str) -> list[str]:
    return sorted(re.sub(r"[-+\d() ]", "", text))


@lru_cache(maxsize=4096)
def _parsed(text: str) -> Any:
    """Return the SymPy object of a cleaned formula; None if it is not a formula."""
    latex = text.replace("«", r"\{").replace("»", r"\}").replace("≤", r"\le ").replace("≥", r"\ge ")
    # With "0+" before it, it cannot be an interval or a set, which spares the parser its costliest choice.
    latex = latex if re.search(r"[=<>«\[≤≥]|\\[a-z]+", text) else f"0+{latex}"
    parse, config = _library()[:2]
    try:
        parsed = parse(f"${latex}$", config, parsing_timeout=None, fallback_mode="no_fallback")
    except Exception:
        return None
    return parsed[0] if parsed else None


@lru_cache(maxsize=1)
def _library() -> tuple[Any, Any, Any]:
    """Return ``parse``, its configuration and ``verify``, imported when first needed."""
    from latex2sympy2_extended import NormalizationConfig  # type: ignore[import-untyped]
    from math_verify import LatexExtractionConfig, parse, verify

    for name in ("math_verify.parser", "math_verify.grader"):
        logging.getLogger(name).addFilter(_not_about_time)
    # We handle units ourselves: the library's list has single letters, and would take 3s for 3.
    normal = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none", equations=False
    )
    return parse, [LatexExtractionConfig(normalization_config=normal)], verify


def _not_about_time(record: logging.LogRecord) -> bool:
    """Drop the library's remarks on time-outs: what could run long is refused beforehand."""
    return not record.getMessage().startswith("Timeout")
