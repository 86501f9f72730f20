"""A thousand completions made to stall, crash or fool a grader: the same ones for every task."""

import random
from collections.abc import Iterator

SIZE = 1_000
MEGABYTE = 2**20

_OPENERS = (
    "(",
    "[",
    "{",
    "<answer>",
    "<think>",
    "\\boxed{",
    "\\frac{",
    "\\sqrt{",
    "\\left(",
    "((",
    "-",
    "+",
    "~",
    "not ",
    "{{",
    "[[",
    '{"a":',
    "f(",
    "\\text{",
    "$",
    "$$",
    "\\(",
    "**",
    "|",
    "1+(",
    "lambda:",
)
_CLOSERS = {"(": ")", "[": "]", "{": "}", "<answer>": "</answer>", "\\boxed{": "}", "\\frac{": "}{2}"}
_ATOMS = (
    "9**9**9**9",
    "9^{9^{9^{9}}}",
    "10^{10^{10}}",
    "1e999999999",
    "99999999999!",
    "(10!)!",
    "2^" * 40 + "2",
    "٣",
    "３",
    "²",
    "Ⅷ",
    "½",
    "𝟙",
    "૭૮",
    "\ud800",
    "\udfff\ud800",
    "\x00",
    "\x00\x00 1",
    "\u202e1",
    "\ufeff",
    "1/0",
    "0/0",
    "-0",
    "nan",
    "inf",
    "-Infinity",
    "1_000",
    "0x10",
    "1e5",
    ".",
    "..",
    ",",
    ",,,",
    "%",
    "%%",
    "__import__('os').system('false')",
    "().__class__.__bases__[0].__subclasses__()",
    "exec('1')",
    "eval('1')",
    "open('/dev/zero').read()",
    "[i for i in range(10**9)]",
    "'a'*10**9",
    "(lambda f: f(f))(lambda f: f(f))",
    "{{7*7}}",
    "{0.__class__}",
    "%s%s%s%n",
    "\\input{x}",
    "\\def\\x{\\x\\x}\\x",
    "\\boxed",
    "\\boxed{",
    "\\frac",
    "<answer></answer>",
    "</answer><answer>",
    "<answer><answer>",
    "####",
    "#### ####",
    "The answer is",
    "answer:",
    "True False Unknown",
    "A B C D",
    "(A)(B)",
    "yes no",
    "true",
    "null",
    "[]",
    "{}",
    "()",
    '""',
    "{1,2,3}",
    "x=5",
    "\\{1,2\\}",
    "[1,2)",
    "(-\\infty, 1]",
    "\\frac12",
    "50\\%",
    "1,000,000",
    "3.14159",
    "x^2+2x+1",
)
_REPEATED = (
    "a",
    " ",
    "\n",
    "7",
    "\x00",
    "\ud800",
    "answer is ",
    "#### 1 ",
    "</answer>",
    "<answer></answer>",
    "<answer><think>",
    "Unknown",
    "\\boxed{1} ",
    "(A) ",
    "<",
)
_WRAPPERS = (
    "{}",
    "\\boxed{{{}}}",
    "<answer>{}</answer>",
    "</think><answer>{}</answer>",
    "#### {}",
    "The answer is {}.",
    "Answer: {}",
    "${}$",
    "<think>{}</think>",
    "```\n{}\n```",
    "\\[{}\\]",
    "**{}**",
)


def completions() -> list[str]:
    """The thousand, the same in every process."""
    rng = random.Random(0)
    texts = list(_large(rng))
    while len(texts) < SIZE:
        texts.append(rng.choice(_WRAPPERS).format(_payload(rng)))
    return texts


def _payload(rng: random.Random) -> str:
    kind = rng.randrange(6)
    atom = rng.choice(_ATOMS)
    if kind == 0:
        return atom
    if kind == 1:
        return _nested(rng.choice(_OPENERS), atom, rng.choice((2, 10, 30, 100, 1_000, 10_000)))
    if kind == 2:
        return rng.choice(("+", "*", "-", "^", "**", "/", ",", " ", ";", "=", "\n")).join(
            rng.choices(_ATOMS, k=rng.choice((2, 5, 50, 500)))
        )
    if kind == 3:
        return "".join(chr(rng.choice((rng.randrange(128), rng.randrange(0x110000)))) for _ in range(200))
    if kind == 4:
        return str(rng.randrange(10)) * rng.choice((20, 400, 5_000, 50_000))
    return "".join(rng.choices("0123456789+-*/^(){}[]\\.,=xyABCD <>", k=rng.choice((10, 40, 100, 300))))


def _nested(opener: str, atom: str, depth: int) -> str:
    """Opened many times, closed as often, too seldom, or not at all, which the depth decides."""
    return opener * depth + atom + _CLOSERS.get(opener, "") * (depth - depth % 3)


def _large(rng: random.Random) -> Iterator[str]:
    """A megabyte each."""
    for unit in (*_OPENERS, *_REPEATED):
        text = (unit * (MEGABYTE // len(unit) + 1))[:MEGABYTE]
        yield rng.choice(_WRAPPERS[:8]).format(text)
