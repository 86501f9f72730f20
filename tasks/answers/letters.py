"""Which lettered option a reply chooses."""

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from string import ascii_lowercase, ascii_uppercase

_TAIL = 10_000  # characters; a long reply is mostly reasoning, and the answer comes last
_STATEMENTS = 50
_TEXT = 2000  # characters of an option that is named by its text

_LOWER = str.maketrans(ascii_uppercase, ascii_lowercase)  # str.lower turns a Kelvin sign into k

_STATEMENT = re.compile(
    r"(?i:\banswer\b)[\s*_]{0,6}(?:(?i:is\b)|:)[\s*_:\"'`]{0,8}(?:(?i:option|choice|letter)\s{1,3}[*_]{0,2})?",
    re.ASCII,
)
_IT_IS = re.compile(r"(?i:\bit(?: is|'s))\s{1,3}[*_]{0,2}\(([A-Z])\)", re.ASCII)
_BOXED = re.compile(r"\\boxed\{(?:\\(?:text|textbf|mathrm|mathbf)\{)?([^{}]{1,2000}+)\}")
_TAGGED = re.compile(r"<answer>((?:(?!</?answer>).){0,2000}+)</answer>", re.DOTALL)

_BRACKETED = r"\\?[(\[{]\s?[*_]{0,2}([A-Za-z])[*_]{0,2}\s?\\?[)\]}]"
# A and I are words too: without brackets, they count only at the end of a line or a clause.
_BARE = r"([B-HJ-Z])(?![\w'+#&/-]|[^\x00-\x7f])|([AI])(?=[*_$\"`]|[ \t]{0,3}(?:[.,;:!?)\]}<]|[\r\n]|\Z))"
_LETTER = re.compile(rf"\$?(?:{_BRACKETED}|{_BARE})", re.ASCII)
_ANOTHER = re.compile(
    rf"[\s*_$)\]}}]{{0,4}}(?:[,/&]|(?i:or|and)\b)\s{{0,3}}(?:(?i:or|and)\s{{1,3}})?[*_]{{0,2}}{_LETTER.pattern}",
    re.ASCII,
)
_ALONE = re.compile(rf"[*_]{{0,2}}(?:{_BRACKETED}|([A-Z])(?=[*_\s.:)]|\Z))[*_]{{0,2}}[.:)]?", re.ASCII)


def chosen(reply: str, options: Sequence[str]) -> str | None:
    """Return the letter of the option that a reply chooses; None if it chooses none.

    The first of these rules that finds something decides, even if what it finds is not an option's letter:

    1. The last statement of the answer: ``answer is X``, ``Answer: X``, ``\\boxed{X}`` or
       ``<answer>X</answer>``, where X is a letter, or the text of exactly one option if it fills the rest
       of the line, the sentence or the block. A statement of anything else is skipped. One that goes on to a
       second letter, such as "(A) or (B)", chooses nothing.
    2. The whole reply is a letter, such as ``B``, ``(B)``, ``B.`` or ``**B**``, or a letter and the text of
       its option, such as ``B) text``.
    3. The whole reply is the text of exactly one option.
    4. The last "it is (X)" or "it's (X)".

    Letters are ASCII capitals; in brackets, small letters count too. In a statement, A and I without brackets
    count only at the end of a clause or line, so that the article and the pronoun do not count. Texts are
    compared without regard to ASCII case, white space, quotes, emphasis and closing punctuation. Statements
    are searched for in the last 10,000 characters, and the last 50 are read.

    Args:
        reply: what the model wrote.
        options: the options' texts, in the order of their letters; 26 at most.
    """
    texts = [_comparable(option) for option in options]
    whole = reply.strip()
    tail = whole[-_TAIL:]
    letter = next(_statements(tail, texts), None)
    if letter is None and len(whole) <= _TAIL:
        letter = _whole(whole, texts)
    if letter is None:
        letter = next((match[1] for match in reversed(list(_IT_IS.finditer(tail)))), None)
    return letter if letter and letter in ascii_uppercase[: len(texts)] else None


def _statements(text: str, texts: Sequence[str]) -> Iterator[str]:
    """Yield what each statement of the answer chooses, the last first: a letter, or "" for more than one."""
    matches = [match for cue in (_STATEMENT, _BOXED, _TAGGED) for match in cue.finditer(text)]
    for match in islice(sorted(matches, key=lambda match: -match.start()), _STATEMENTS):
        if match.re is _STATEMENT:
            said = _stated(text[match.end() : match.end() + _TEXT], texts)
        else:
            said = _whole(match[1].strip(), texts)
        if said is not None:
            yield said


def _stated(rest: str, texts: Sequence[str]) -> str | None:
    """Return what the words after "answer is" choose: a letter, "" for more than one, or None."""
    line = rest.lstrip().split("\n", 1)[0]
    named = _named(line, texts) or _named(line.split(". ", 1)[0], texts)
    if named is not None:
        return named
    match = _LETTER.match(rest)
    if match is None:
        return None
    return "" if _ANOTHER.match(rest, match.end()) else _letter(match)


def _whole(text: str, texts: Sequence[str]) -> str | None:
    """Return the letter that a text chooses if it is nothing but an answer, else None."""
    named = _named(text, texts)
    match = None if named else _ALONE.match(text)
    if match is None:
        return named
    letter, rest = _letter(match), text[match.end() :].strip(" \t\r\n*_$")
    index = ascii_uppercase.index(letter)
    return letter if not rest or (index < len(texts) and _comparable(rest) == texts[index]) else None


def _letter(match: re.Match[str]) -> str:
    return next(group for group in match.groups() if group).upper()


def _named(text: str, texts: Sequence[str]) -> str | None:
    """Return the letter of the one option with this text, else None; single letters are left to others."""
    if len(text) > 2 * _TEXT:
        return None
    comparable = _comparable(text)
    if texts.count(comparable) != 1 or (len(comparable) == 1 and comparable in ascii_lowercase):
        return None
    return ascii_uppercase[texts.index(comparable)] if comparable else None


def _comparable(text: str) -> str:
    """Reduce a text to what is compared of it."""
    return " ".join(text.translate(_LOWER).split()).strip("*_\"'` ").rstrip(".!,;: *_\"'`")
