"""Which lettered option a reply chooses."""

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from string import ascii_lowercase, ascii_uppercase

_TAIL = 10_000  # characters; a long reply is mostly reasoning, and the answer comes last
_STATEMENTS = 50
_AROUND = " \t\r\n*_$"
_TEXT = 2000  # characters of an option that is named by its text

_LOWER = str.maketrans(ascii_uppercase, ascii_lowercase)  # str.lower turns a Kelvin sign into k

_OPTION = r"(?i:(?:the\s{1,3})?(?:(?:correct|right|best)\s{1,3})?(?:option|choice|letter)\b[\s:]{1,3})"
_STATEMENT = re.compile(
    r"(?i:\b(?:answer|(?:correct|right|best)\s{1,3}(?:option|choice|letter))\b)(?i:\s{1,3}(?:choice|option)\b)?"
    r"[\s*_]{0,6}(?:(?i:(?:is|would be|should be|must be)\b)|[:=]|-\s)"
    rf"[\s*_:\"'`]{{0,8}}(?i:(?:therefore|thus|hence|clearly|probably|definitely)\b[\s,]{{1,3}})?(?:{_OPTION}[*_\"'`]{{0,2}})?",
    re.ASCII,
)
_IS_CORRECT = re.compile(
    r"(?<!nor )(?<!and )(?<!or )(?<!if )(?i:(?:option|choice|letter)\s{1,3}[*_(]{0,3}|(?=\())"
    r"\(?([A-Z])[)*_]{0,3}\s{1,3}is\s{1,3}(?:the\s{1,3})?(?:correct|right|best)\b",
    re.ASCII,
)
_IT_IS = re.compile(r"(?i:\bit(?: is|'s))\s{1,3}[*_]{0,2}\(([A-Z])\)", re.ASCII)
_BOXED = re.compile(r"\\f?box(?:ed)?\{(?:\\(?:text|textbf|mathrm|mathbf)\{)?([^{}]{1,2000}+)\}")
_TAGGED = re.compile(r"<answer>((?:(?!</?answer>).){0,2000}+)</answer>", re.DOTALL)

_BRACKETED = r"\\?[(\[{]\s?[*_]{0,2}([A-Za-z])[*_]{0,2}\s?\\?[)\]}]"
# A and I are words too: without brackets, they count only before a mark that no article and no pronoun has
# behind it, before a word of reason, or at the end of a line or a clause. Small letters count at ends alone.
_END = r"(?=[*_$\"'`]{0,3}[ \t]{0,3}(?:[.,;:!?)\]}<]|[\r\n]|\Z))"
_REASON = (
    r"(?=[ \t]{1,3}(?:[-\u2013\u2014(\[=]|(?:because|since|as|due|rather|which|where|and|but|not|so)\b))"
)
_BARE = rf"([B-HJ-Z])(?![\w+#&/-]|'\w|[^\x00-\x7f])|([AI])(?:(?=[*_$\"`])|{_END}|{_REASON})|([a-z]){_END}"
_LETTER = re.compile(rf"\$?(?:{_BRACKETED}|{_BARE})", re.ASCII)
_ANOTHER = re.compile(
    r"[\s*_$)\]}]{0,4}"
    rf"(?:(?:[,;/&]|(?i:or|and)\b)\s{{0,3}}(?:(?i:or|and)\s{{1,3}})?[*_]{{0,2}}{_LETTER.pattern}|{_BRACKETED})",
    re.ASCII,
)
_ALONE = re.compile(
    rf"(?:{_OPTION})?[*_\"'`$]{{0,4}}(?:{_BRACKETED}|([A-Z])(?=[*_\s.:)\"'`$]|\Z)|([a-z])(?=[*_.:)\"'`$]|\Z))"
    r"[*_\"'`$]{0,4}[.:)]?",
    re.ASCII,
)
_OPTION_LINE = re.compile(r"^[ \t*_(\-]{0,4}([A-Z])(?:[)*_.:]|[ \t]{0,3}$)", re.ASCII | re.MULTILINE)


def chosen(reply: str, options: Sequence[str]) -> str | None:
    """Return the letter of the option that a reply chooses; None if it chooses none.

    The first of these rules that finds something decides, even if what it finds is not an option's letter:

    1. The last statement of the answer: ``answer is X``, ``Answer: X``, ``the correct option is X``,
       ``option X is correct``, ``\\boxed{X}`` or ``<answer>X</answer>``. X is a letter, a letter and the text
       of its option, or the text of exactly one option if it fills the rest of the line, the sentence or the
       block. A statement of anything else is skipped. One that goes on to a second letter, such as "(A) or
       (B)", chooses nothing.
    2. The whole reply is a letter, such as ``B``, ``(B)``, ``'B'`` or ``option B``, or a letter and the text
       of its option, such as ``B) text``.
    3. The whole reply is the text of exactly one option.
    4. The first or the last line is a letter, or a letter and the text of its option, and no line begins with
       another letter, as in a list of the options.
    5. The last "it is (X)" or "it's (X)".

    Small letters count in brackets, and at the end of a clause or line. In a statement, A and I without
    brackets are letters unless a word follows, so that the article and the pronoun do not count: "A (red)",
    "A - red" and "A because" are letters, "A dog" is not. Texts are compared without regard to ASCII case,
    white space, quotes, emphasis and closing punctuation. Statements are searched for in the last 10,000
    characters, and the last 50 are read.

    Args:
        reply: what the model wrote.
        options: the options' texts, in the order of their letters; 26 at most.
    """
    texts = [_comparable(option) for option in options]
    whole = reply.strip()
    tail = whole[-_TAIL:]
    letter = next(_statements(tail, texts), None)
    if letter is None and len(whole) <= _TAIL:
        letter = _whole(whole, texts) or _line(whole, texts)
    if letter is None:
        letter = [None, *_IT_IS.findall(tail)][-1]
    return letter if letter and letter in ascii_uppercase[: len(texts)] else None


def _statements(text: str, texts: Sequence[str]) -> Iterator[str]:
    """Yield what each statement of the answer chooses, the last first: a letter, or "" for more than one."""
    cues = (_STATEMENT, _IS_CORRECT, _BOXED, _TAGGED)
    matches = [match for cue in cues for match in cue.finditer(text)]
    for match in islice(sorted(matches, key=lambda match: -match.start()), _STATEMENTS):
        rest = text[match.end() : match.end() + _TEXT]
        said = _stated(rest, texts) if match.re is _STATEMENT else _whole(match[1].strip(), texts)
        if said is not None:
            yield said


def _stated(rest: str, texts: Sequence[str]) -> str | None:
    """Return what the words after "answer is" choose: a letter, "" for more than one, or None."""
    line = rest.lstrip().split("\n", 1)[0]
    named = _whole(line, texts, with_text=True) or _whole(line.split(". ", 1)[0], texts, with_text=True)
    match = _LETTER.match(rest)
    if named or match is None:
        return named
    return "" if _ANOTHER.match(rest, match.end()) else _letter(match)


def _whole(text: str, texts: Sequence[str], with_text: bool = False) -> str | None:
    """Return the letter that a text chooses if it is nothing but an answer, else None.

    It is one option's text, or a letter with its option's text, or a letter alone unless ``with_text``.
    """
    comparable = _comparable(text) if len(text) <= 2 * _TEXT else ""
    if texts.count(comparable) == 1 and comparable not in {"", *ascii_lowercase}:
        return ascii_uppercase[texts.index(comparable)]
    match = _ALONE.match(text)
    if match is None:
        return None
    letter, rest = _letter(match), text[match.end() :].strip(_AROUND)
    ours = texts[ascii_uppercase.index(letter) :][:1]
    return letter if (ours == [_comparable(rest)] if rest else not with_text) else None


def _line(text: str, texts: Sequence[str]) -> str | None:
    """Return the letter that the last line, or else the first, is; None if lines begin with several."""
    if len(set(_OPTION_LINE.findall(text))) > 1:
        return None
    lines = text.split("\n")
    return _whole(lines[-1].strip(), texts) or _whole(lines[0].strip(), texts)


def _letter(match: re.Match[str]) -> str:
    return next(group for group in match.groups() if group).upper()


def _comparable(text: str) -> str:
    """Reduce a text to what is compared of it."""
    return " ".join(text.translate(_LOWER).split()).strip("*_\"'` ").rstrip(".!,;: *_\"'`")
