r"""math-verify's verdict on two formulas, within bounds, and not where it takes a wrong one for a right one.

math-verify reads LaTeX with a grammar (ANTLR), which runs nothing, and compares SymPy's objects. It is never
given plain text, for which it has SymPy's own reader, and that runs Python code. Of a formula in LaTeX this
reader gets single numbers alone. Before math-verify is asked:

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
from collections.abc import Collection
from functools import lru_cache
from typing import Any

from es_lightning.system.steps import OutOfStepsError, Steps
from es_lightning.tasks.answers.math_text import depth

MAX_CHARS = 200
MAX_DEPTH = 5
MAX_BITS = 50_000  # of any number that SymPy may have to write out
_PRECISION = 1e-9  # relative difference of values that count as equal
_EXACT = 1e-50  # the same for numbers without decimals and letters
_ZERO = 1e-100  # SymPy's difference of equal numbers is smaller: it computes 100 digits
_DECIMAL = 5e-7  # half a unit of the sixth decimal, to which math-verify rounds
_SIZES = (0.7, 1.3, 2.9)  # of the values that letters take
_WHOLE = (0, 1, 2, 3, 5, 9, 14, 33, 88, 143, 377, 1596)

_FUNCTIONS = "sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|ln|log"
_COMMANDS = frozenset(
    "frac|sqrt|cdot|times|div|binom|lfloor|rfloor|lceil|rceil|lvert|rvert|exp|pi|le|ge|ne"
    f"|sinh|cosh|tanh|{_FUNCTIONS}".split("|")
)
_INDEX = r"_(?:\{(?:[^{}]|\\text\{[^{}]*\}){1,20}\}|\w|\\text\{[^{}]*\}|\\[A-Za-z]+)"
_CALL = r"\((?:\d{1,9}|[a-z])\)|(?<=[fghFGHPQ'])\([^()]{1,40}\)|(?=\()"  # x(0), f(x+1); a product before "("
_GREEK = (
    r"alpha|beta|[gG]amma|[dD]elta|(?:var)?epsilon|zeta|eta|(?:var)?theta|Theta|iota|kappa|[lL]ambda|mu|nu|[xX]i"
    r"|rho|[sS]igma|tau|(?:var)?phi|Phi|chi|[pP]si|[oO]mega|Pi|hbar|ell|partial|nabla"
)
_NAME = re.compile(
    rf"\\(?!(?:{_GREEK})(?![A-Za-z])|(?:vec|bar|overline|hat|dot|tilde|text)\{{)[A-Za-z]+|"
    r"(?P<base>\\(?:vec|bar|overline|hat|dot|tilde|text)\{[^{}]{1,20}\}|\\[A-Za-z]+|[A-Za-z])"
    rf"(?P<marks>(?:{_INDEX})?'*)(?P<call>{_CALL})?",
    re.ASCII,
)
_LETTERS = "xyzabcnkmprstuvwjlq"
_REFUSED = re.compile(
    r"\d{40}|\d_|[¶&#@%\"?~«»,;:∧∨]|!.?!|\d[eE]\d|(?:.*\|){6}|(?:.*/){5}|\^[^{]?\^|(?<!sqrt)\[|\{\{\{|\(\(\("
    r"|[fghFGHPQ']\([^()]*\("  # a function of a function
    r"|\\binom(?!\{[\w+-]{1,4}\}\{[\w+-]{1,4}\})|\\sqrt\[(?!\w{1,2}\])"
    rf"|\\(?:{_FUNCTIONS})(?:_\w|_\{{\w+\}})? ?(?:[-+*/)=]|\\cdot|$)"  # of nothing
)


def names(text: str) -> frozenset[str]:
    """Return the names of variables and functions in a cleaned formula."""
    return frozenset(filter(None, map(_name, _NAME.finditer(text))))


def _name(match: re.Match[str]) -> str:
    """Return a name, or a value such as f(x), in one spelling; nothing for commands, e and i."""
    base, marks, call = match["base"], match["marks"], match["call"] or ""
    if not base or (base in ("e", "i") and not marks and not call):
        return ""
    terms = sorted(re.findall(r"[-+]?[^-+]+", re.sub(r"^\((?!-)", "(+", call)[1:-1]))
    return re.sub(r"\\(?:text)?|[{} ]", "", base + marks + "".join(f"({term})" for term in terms))


def _in_letters(text: str) -> str:
    """Write every name as a letter of its own; a ValueError if there are too many."""
    letters = dict(zip(sorted(names(text)), _LETTERS, strict=False))
    if len(letters) < len(names(text)):
        raise ValueError("too many names")

    def letter(match: re.Match[str]) -> str:
        if name := _name(match):
            return f" {letters[name]} " + r"\cdot " * (match["call"] == "")
        return {"e": " e ", "i": "(I)"}.get(match[0], match[0])

    return _NAME.sub(letter, text)


@lru_cache(maxsize=4096)
def _parsed(text: str) -> Any:
    """Return the SymPy object of a cleaned formula or relation; None if it is none, or is refused."""
    from math_verify import parse
    from sympy import Expr
    from sympy.core.relational import Relational

    if len(text) > MAX_CHARS or _REFUSED.search(text) or depth(text) > MAX_DEPTH:
        return None
    try:
        latex = re.sub(r"\^(\d{2,})", r"^{\1}", _in_letters(text))
        latex = re.sub(r"\|([^|]*)\|", r"\\lvert \1\\rvert ", latex)
        latex = latex.replace("≤", r"\le ").replace("≥", r"\ge ").replace("≠", r"\ne ")
        if "'" in latex or not {*re.findall(r"\\([A-Za-z]+)", latex)} <= _COMMANDS:
            return None
        found = parse(f"${latex}$", [_config()], parsing_timeout=None, fallback_mode="no_fallback")
        fits = found and isinstance(found[0], Expr | Relational) and _bits(found[0]) <= MAX_BITS
        return found[0] if fits else None
    except Exception:  # SymPy raises whatever it likes on formulas that make no sense
        return None


@lru_cache(maxsize=1)
def _config() -> Any:
    """Return how math-verify reads LaTeX; its units would take 3s for 3."""
    from latex2sympy2_extended import NormalizationConfig  # type: ignore[import-untyped]
    from math_verify import LatexExtractionConfig

    rules = NormalizationConfig(units=False, malformed_operators=True, nits=True, boxed="none")
    return LatexExtractionConfig(normalization_config=rules)


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
    if names(gold) != names(answer):
        return False
    load_library()  # imports are no steps
    try:
        with steps:
            return _equal(_parsed(gold), _parsed(answer), tolerance)
    except (Exception, OutOfStepsError):  # as above
        return False


def _equal(gold: Any, answer: Any, tolerance: float | None = None) -> bool:
    from math_verify import verify
    from sympy import Abs, Float, Pow, Rational, Symbol, ceiling, floor, log

    if gold is None or answer is None or gold.is_Relational != answer.is_Relational:
        return False
    pair, letters = (gold, answer), gold.free_symbols
    whole = bool(letters) and all(side.has(floor, ceiling) for side in pair)
    written = {part for side in pair for n in side.atoms(Rational) for part in (abs(n.p), n.q)}
    ours, theirs = (_values(side, {*_WHOLE, *written} if whole else ()) for side in pair)
    if whole:
        return not gold.is_Relational and all(map(_close, ours, theirs))
    if tolerance is not None and not letters:
        return bool(abs(ours[0] - theirs[0]) <= tolerance)
    if gold.is_Relational:  # the same up to a constant factor
        theirs = [value * ours[0] / theirs[0] for value in theirs]
    exact = not (letters or gold.is_Relational or gold.has(Float) or answer.has(Float))
    if exact and abs((gold - answer).evalf(15)) > _EXACT * max(abs(ours[0]), abs(theirs[0])) + _ZERO:
        return False
    rounded = gold.has(Float) != answer.has(Float)
    if not all(_close(one, other, rounded) for one, other in zip(ours, theirs, strict=True)):
        return False
    if all(side.has(log) or any(not power.exp.is_integer for power in side.atoms(Pow)) for side in pair):
        positive = {letter: Symbol(letter.name, positive=True) for letter in letters}
        if not any(side.has(Abs) or side.is_Relational for side in pair):
            gold, answer = gold.xreplace(positive), answer.xreplace(positive)
    return bool(verify(gold, answer, timeout_seconds=None))


def _values(formula: Any, whole: Collection[int]) -> list[Any]:
    """Return the values of a formula where its letters are certain positive numbers, or ``whole`` ones."""
    symbols, step = sorted(formula.free_symbols, key=str), 1 if whole else 0.618034
    points = [{s: size * (1 + step * k) for k, s in enumerate(symbols)} for size in whole or _SIZES]
    difference = formula.lhs - formula.rhs if formula.is_Relational else formula
    return [difference.evalf(15, subs=point) for point in points]


def _close(one: Any, other: Any, rounded: bool = False) -> bool:
    scale, difference = max(abs(one), abs(other)), abs(one - other)
    noise = 0 in (one, other) and scale < _ZERO
    return bool(
        noise or difference <= _PRECISION * scale or (rounded and difference <= _DECIMAL * min(scale, 1))
    )


@lru_cache(maxsize=1)
def load_library() -> None:
    """Import math-verify and let it judge a few formulas, which takes two seconds the first time."""
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that we have no time-outs
    for formula in (r"\frac{x+1}{2}", r"(x+1)^2\sqrt{3}", r"\sin 2x", r"|y|+\ln x", r"\binom{n}{2}!", "2x=y"):
        _equal(_parsed(formula), _parsed(f"{formula}+0"))


def library_alone(gold: str, reply: str) -> bool:
    """Return what math-verify alone says of the LaTeX in a reply; it may take long.

    Args:
        gold: the right answer, as the data set writes it.
        reply: the whole reply, of which the last 2,000 characters are read.
    """
    from math_verify import LatexExtractionConfig, parse, verify

    texts, config = (f"${gold}$", reply[-2000:]), [LatexExtractionConfig()]
    try:
        return bool(verify(*(parse(t, config, parsing_timeout=None) for t in texts), timeout_seconds=None))
    except Exception:  # as above
        return False
