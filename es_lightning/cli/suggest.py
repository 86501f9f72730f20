"""Error messages of the command line: one line, with the nearest valid name for a mistyped one."""

import difflib
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping


def with_suggestion(message: str, sections: Mapping[str, type], bases: Iterable[type]) -> str:
    """Return a parser's message on one line, with a suggestion for a mistyped name.

    Args:
        message: the parser's message.
        sections: first parts of the options, each with the class whose arguments are its second parts.
        bases: base classes; their subclasses, and the arguments of these, are valid names too.
    """
    text = " ".join(message.split())
    unknown_class = re.search(r'Parser key "([\w.]+)":.*Expected a dot import path string: (\S+)', text)
    if unknown_class:
        text = f"{unknown_class[1]}: there is no class {unknown_class[2]}."
    options = {
        f"{section}.{argument}" for section, owner in sections.items() for argument in _arguments(owner)
    }
    nearest = _nearest(text, {*sections, *options, *_names(bases)})
    return f"{text.rstrip('.')}. Did you mean {nearest}?" if nearest else text


def _names(bases: Iterable[type]) -> Iterator[str]:
    """Yield the names of all subclasses of these bases, and of their constructor arguments."""
    for base in bases:
        for plug_in in _subclasses(base):
            yield plug_in.__name__
            yield from _arguments(plug_in)


def _arguments(owner: type) -> list[str]:
    return [name for name in inspect.signature(owner.__init__).parameters if name != "self"]  # type: ignore[misc]


def _subclasses(base: type) -> Iterator[type]:
    children: list[type] = base.__subclasses__()
    for child in children:
        yield from _subclasses(child)
        yield child


def _nearest(text: str, known: set[str]) -> str | None:
    """Return the known name that is closest to any unknown word of the text."""
    words = [word.lstrip("-") for word in re.findall(r"[\w.-]*\w", text)]
    words = [word for word in words if word not in known and not _is_prefix(word, known)]
    pairs = [
        (word, match) for word in words for match in difflib.get_close_matches(word, known, n=1, cutoff=0.8)
    ]
    scored = [(difflib.SequenceMatcher(None, word, match).ratio(), match) for word, match in pairs]
    return max(scored)[1] if scored else None


def _is_prefix(word: str, known: set[str]) -> bool:
    return any(name.startswith(f"{word}.") for name in known)
