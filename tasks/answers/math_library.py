r"""math-verify's verdict on two formulas, within bounds, and not where it takes a wrong one for a right one.

math-verify reads LaTeX with a grammar (ANTLR), which runs nothing, and compares SymPy's objects. It is never
given plain text, which SymPy would run as Python code. Before it is asked:

- Every name becomes one small letter: math-verify reads capitals as small letters, ``I(0)`` as a product with
  the imaginary unit, and ``\frac{dx}{dt}`` as 0. The right answer and the given one must have the same names.
- Formulas that could keep it busy, or make it fill the memory, are refused: long or deeply nested ones, huge
  powers, sums, integrals, whatever has a command that is not in ``_COMMANDS``.
- Formulas whose values differ at three points are different. math-verify takes ``e^{-50}`` for ``2e^{-50}``,
  and searches for seconds for a proof that two long formulas are equal when they are not.

Letters are positive if roots or logarithms are compared, as in most problems. Letters beside a floor such as
``\lfloor n/2 \rfloor`` are whole numbers, and two such formulas are equal if they are so at twelve of them,
since no library proves it.
"""

import logging
import re
from functools import lru_cache
from typing import Any

from es_lightning.system.steps import OutOfStepsError, Steps
from es_lightning.tasks.answers.math_text import depth

MAX_CHARS = 200
SPARE_CHARS = 50  # by which an answer may be longer than twice the right one
MAX_DEPTH = 5
MAX_BITS = 50_000  # of any number that SymPy may have to write out
_PRECISION = 1e-9  # relative difference of values that count as equal
_WHOLE = (0, 1, 2, 3, 5, 9, 14, 33, 88, 143, 377, 1596)
_DECIMAL = 5e-7  # half a unit of the sixth decimal, to which math-verify rounds

_COMMANDS = frozenset(
    re.findall(
        r"\w+",
        "frac sqrt cdot times div binom lfloor rfloor lceil rceil pi sin cos tan cot sec csc"
        " arcsin arccos arctan sinh cosh tanh log ln exp",
    )
)
_OURS = frozenset(["le", "ge", "ne", "lvert", "rvert"])
_INDEX = r"_(?:\{(?:[^{}]|\\text\{[^{}]*\}){1,20}\}|\w|\\text\{[^{}]*\}|\\[A-Za-z]+)"
_NAME = re.compile(
    rf"\\(?:{'|'.join(sorted(_COMMANDS))})(?![A-Za-z])|"
    r"(?P<base>\\(?:vec|bar|overline|hat|dot|tilde|text)\{[^{}]{1,20}\}|\\[A-Za-z]+|[A-Za-z])"
    rf"(?P<marks>(?:{_INDEX})?'*)(?P<call>\((?:\d{{1,9}}|[a-z])\)|(?<=[fghFGHPQ'])\([^()]{{1,40}}\)|(?=\())?",
    re.ASCII,
)
_LETTERS = "xyzabcnkmprstuvwjlq"
_REFUSED = re.compile(
    r"\d{40}|\d_|[¶&#@\"?~«»,;:∧∨]|!.?!|\d[eE]\d|(?:.*\|){6}|(?:.*/){5}|\^[^{]?\^|(?<!sqrt)\[|\{\{\{|\(\(\("
    r"|\\binom(?!\{[\w+-]{1,4}\}\{[\w+-]{1,4}\})|\\sqrt\[(?!\w{1,2}\])"
    r"|\\(?:sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|ln|log(?:_\w|_\{\w+\})?) ?(?:[-+*/)=]|\\cdot|$)"
)


def names(text: str) -> frozenset[str]:
    """Return the names of variables and functions in a cleaned formula."""
    return frozenset(filter(None, map(_name, _NAME.finditer(text))))


def _name(match: re.Match[str]) -> str:
    """Return a name, or a value such as f(x), in one spelling; nothing for commands, e and i."""
    base, marks = match["base"], match["marks"]
    if not base or (base in ("e", "i") and not marks and not match["call"]):
        return ""
    terms = sorted(re.findall(r"[-+]?[^-+]+", re.sub(r"^\((?!-)", "(+", match["call"] or "")[1:-1]))
    return re.sub(r"\\text|[{} ]", "", base + marks + "".join(f"({term})" for term in terms))


def _in_letters(text: str) -> str:
    """Write every name as a letter of its own.

    Raises:
        ValueError: there are too many names, or functions of functions.
    """
    letters = dict(zip(sorted(names(text)), _LETTERS, strict=False))
    if len(letters) < len(names(text)) or re.search(r"[fghFGHPQ']\([^()]*\(", text):
        raise ValueError("too many names, or a function of a function")

    def letter(match: re.Match[str]) -> str:
        name = _name(match)
        if not name:
            return {"e": " e ", "i": "(I)"}.get(match[0], match[0])
        return f" {letters[name]} " + r"\cdot " * (match["call"] == "")

    return _NAME.sub(letter, text)


@lru_cache(maxsize=4096)
def _parsed(text: str) -> Any:
    """Return the SymPy object of a cleaned formula or relation; None if it is none, or is refused."""
    parse, config, _ = _library()
    from sympy import Expr
    from sympy.core.relational import Relational

    if len(text) > MAX_CHARS or _REFUSED.search(text) or depth(text) > MAX_DEPTH:
        return None
    try:
        latex = re.sub(r"\^(\d{2,})", r"^{\1}", _in_letters(text))
        latex = re.sub(r"\|([^|]*)\|", r"\\lvert \1\\rvert ", latex)
        latex = latex.replace("≤", r"\le ").replace("≥", r"\ge ").replace("≠", r"\ne ")
        if "'" in latex or not {*re.findall(r"\\([A-Za-z]+)", latex)} <= _COMMANDS | _OURS:
            return None
        found = parse(f"${latex}$", config, parsing_timeout=None, fallback_mode="no_fallback")
        fits = found and isinstance(found[0], Expr | Relational) and _bits(found[0]) <= MAX_BITS
        return found[0] if fits else None
    except Exception:  # SymPy raises whatever it likes on formulas that make no sense
        return None


def _bits(expression: Any) -> float:
    """Return a bound on the binary digits of the numbers that a formula amounts to; letters count as one."""
    from sympy import Pow, exp, factorial

    if expression.is_Rational:
        return float(abs(expression.p).bit_length() + expression.q.bit_length() - 1)
    parts = [_bits(part) for part in expression.args]
    if not isinstance(expression, Pow | exp | factorial) or expression.args[-1].is_Symbol:
        return sum(parts, 1.0)
    exponent = expression.args[-1]
    size = float(abs(exponent)) if exponent.is_Rational else 2.0 ** min(parts[-1], 99)
    return (parts[0] if isinstance(expression, Pow | factorial) else 2.0) * max(size, 1.0)


def formulas_equal(gold: str, answer: str, steps: Steps, tolerance: float | None = None) -> bool:
    """Return math-verify's verdict on two cleaned formulas or relations; False if one of them is refused.

    Args:
        gold: the right formula.
        answer: the formula to judge.
        steps: what the verdict may take; False if it takes more.
        tolerance: largest absolute difference between two numbers that the benchmark allows, if any.
    """
    if names(gold) != names(answer) or len(answer) > 2 * len(gold) + SPARE_CHARS:
        return False
    load_library()  # imports are no steps
    try:
        with steps:
            right, ours = _parsed(gold), _parsed(answer)
            if right is None or ours is None or right.is_Relational != ours.is_Relational:
                return False
            return (
                _relations_equal(right, ours)
                if right.is_Relational
                else _values_equal(right, ours, tolerance)
            )
    except (Exception, OutOfStepsError):  # as above
        return False


def _relations_equal(gold: Any, answer: Any) -> bool:
    """Whether two equations or inequalities are the same up to a constant factor."""
    ours, theirs = (_values(side.lhs - side.rhs) for side in (gold, answer))
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    return all(_close(ratio, ratios[0]) for ratio in ratios) and _verified(gold, answer)


def _values_equal(gold: Any, answer: Any, tolerance: float | None) -> bool:
    from sympy import Abs, Float, Pow, Symbol, ceiling, floor, log

    symbols, pair = gold.free_symbols, (gold, answer)
    whole = bool(symbols) and all(side.has(floor, ceiling) for side in pair)
    ours, theirs = _values(gold, whole), _values(answer, whole)
    if tolerance is not None and not symbols:
        return bool(abs(ours[0] - theirs[0]) <= tolerance)
    slack = _DECIMAL if gold.has(Float) != answer.has(Float) else 0.0
    if whole or not all(_close(one, other, slack) for one, other in zip(ours, theirs, strict=True)):
        return whole and ours == theirs
    rooted = all(side.has(log) or any(not p.exp.is_integer for p in side.atoms(Pow)) for side in pair)
    if rooted and not any(side.has(Abs) for side in pair):
        positive = {symbol: Symbol(symbol.name, positive=True) for symbol in symbols}
        gold, answer = gold.xreplace(positive), answer.xreplace(positive)
    return _verified(gold, answer)


def _values(expression: Any, whole: bool = False) -> list[Any]:
    """Return the values of a formula where its letters are certain positive numbers."""
    symbols = sorted(expression.free_symbols, key=str)
    points = [[0.7 + 0.618034 * n * k % 1 for k, _ in enumerate(symbols, 1)] for n in (2, 3, 5)]
    if whole:
        points = [[n * k + k for k, _ in enumerate(symbols, 1)] for n in _WHOLE]
    return [expression.evalf(15, subs=dict(zip(symbols, point, strict=True))) for point in points]


def _close(one: Any, other: Any, slack: float = 0.0) -> bool:
    scale = max(abs(one), abs(other))
    return bool(abs(one - other) <= max(_PRECISION * scale, slack * min(scale, 1)))


# The library


@lru_cache(maxsize=1)
def load_library() -> None:
    """Import math-verify and let it judge a few formulas, which takes two seconds the first time."""
    for formula in (r"\frac{x+1}{2}", r"(x+1)^2\sqrt{3}", r"\sin 2x", r"|y|+\ln x", r"\binom{n}{2}!"):
        _values_equal(_parsed(formula), _parsed(f"{formula}+0"), None)
    _relations_equal(_parsed("2x=y"), _parsed("x=\\frac{y}{2}"))


def library_alone(gold: str, reply: str) -> bool:
    """Return what math-verify alone says of the LaTeX in a reply; it may take long.

    Args:
        gold: the right answer, as the data set writes it.
        reply: the whole reply, of which the last 2,000 characters are read.
    """
    from math_verify import LatexExtractionConfig

    parse, _, verify = _library()
    texts, config = (f"${gold}$", reply[-2000:]), [LatexExtractionConfig()]
    try:
        return bool(verify(*(parse(t, config, parsing_timeout=None) for t in texts), timeout_seconds=None))
    except Exception:  # as above
        return False


def _verified(gold: Any, answer: Any) -> bool:
    return bool(_library()[2](gold, answer, timeout_seconds=None))


@lru_cache(maxsize=1)
def _library() -> tuple[Any, Any, Any]:
    """Return ``parse``, its configuration and ``verify``, imported when first needed."""
    from latex2sympy2_extended import NormalizationConfig  # type: ignore[import-untyped]
    from math_verify import LatexExtractionConfig, parse, verify

    for name in ("math_verify.parser", "math_verify.grader"):
        logging.getLogger(name).addFilter(_not_about_time)
    # Units are ours: the library's list has single letters, and would take 3s for 3.
    normal = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none", equations=False
    )
    return parse, [LatexExtractionConfig(normalization_config=normal)], verify


def _not_about_time(record: logging.LogRecord) -> bool:
    """Drop the library's remarks on time-outs, which we have switched off."""
    return not record.getMessage().startswith("Timeout")
