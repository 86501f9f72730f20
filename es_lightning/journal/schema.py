"""What the lines of a run's two files have to be; each check returns words for what is wrong, or none."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from es_lightning.system.fields import (
    COUNT,
    FLAG,
    INTEGER,
    MAPPING,
    NOTHING,
    NUMBER,
    POSITIVE,
    TEXT,
    Kind,
    fault,
    like,
    list_of,
    mapping_of,
)

log = logging.getLogger(__name__)

_OPTIMIZER = {"class": TEXT, "settings": MAPPING, "groups": COUNT}
_PART = {"class": TEXT, "settings": MAPPING}
_HEADER = {
    "versions": mapping_of(TEXT),
    "base": TEXT,
    "base_files": mapping_of(TEXT),
    "dtype": TEXT,
    "noise": TEXT,
    "optimizer": Kind(
        'a mapping with "class", "settings" and "groups"', lambda value: not fault(value, _OPTIMIZER)
    ),
    "regularisers": list_of(
        Kind('a mapping with "class" and "settings"', lambda value: not fault(value, _PART))
    ),
    "task": TEXT,
    "settings": MAPPING,
    "device": TEXT,
    "engine_check": MAPPING,
    "ranks": COUNT,
    "machine": TEXT,
    "identity": MAPPING,
}
_REPLAYED = ("versions", "base", "base_files", "dtype", "noise", "optimizer", "task", "settings")

_SIGNS = Kind("a text of +, - and 0", lambda value: TEXT.fits(value) and not set(value) - set("+-0"))
_ENTRY = {
    "generation": COUNT,
    "seeds": TEXT,
    "signs": _SIGNS,
    "weights": TEXT,
    "sigma": POSITIVE,
    "lr": NUMBER,
    "reward": mapping_of(NUMBER, "mean", "std", "min", "max"),
    "scores": mapping_of(NUMBER),
    "tokens": COUNT,
    "seconds": mapping_of(NUMBER),
    "skipped": FLAG,
    "drift": NUMBER | NOTHING,
    "checksum": TEXT,
}
# Version 0.1.0 called the parent "after", and the journal format has kept that key.
_MAY_HAVE = {"after": INTEGER | NOTHING, "rollouts": COUNT, "prompt_tokens": COUNT}


def header_fault(values: Any) -> str:
    """Say what is wrong with a header, of which only the format is needed to read the journal."""
    return fault(values, {"es_lightning_journal": INTEGER}, _HEADER)


def replay_fault(header: Mapping[str, Any]) -> str:
    """Say what a header lacks for a replay."""
    return fault(header, {name: _HEADER[name] for name in _REPLAYED})


def entry_fault(values: Any) -> str:
    """Say what is wrong with an entry, except for what its neighbours and the header decide."""
    if wrong := fault(values, _ENTRY, _MAY_HAVE):
        return wrong
    parent, generation = values.get("after"), values["generation"]
    if parent is not None and not -1 <= parent < generation:
        return f'has {parent} as "after", which has to be an earlier generation, or -1 for the base model'
    return ""


def hyper_fault(hyper: Mapping[str, Any], header: Mapping[str, Any]) -> str:
    """Say which of an entry's optimizer settings is not of the kind that the header has for it."""
    starts = header.get("optimizer", {}).get("settings", {})
    plain = NOTHING | FLAG | NUMBER
    kinds = {name: like(starts[name]) if name in starts else plain | list_of(plain) for name in hyper}
    return fault(hyper, kinds)


def evaluation_fault(values: Any) -> str:
    """Say what is wrong with a line of evaluations.jsonl."""
    if wrong := fault(values, _EVALUATION, {"centre": _ANY_TEXT, "solved": list_of(_SHARE)}):
        return wrong
    prompts, rewards, solved = (len(values.get(name, ())) for name in ("prompts", "rewards", "solved"))
    if prompts != rewards:
        return f"has {prompts} prompts and {rewards} rewards"
    return "" if solved in (0, prompts) else f'has {prompts} prompts and {solved} items in "solved"'


def rewards_fault(values: Any) -> str:
    """Say what is wrong with a line of rewards."""
    return fault(values, {"generation": COUNT, "rewards": _MATRIX})


def _is_matrix(value: Any) -> bool:
    rows = Kind("", lambda row: list_of(NUMBER).fits(row) and len(row) > 0)
    return list_of(rows).fits(value) and len({len(row) for row in value}) == 1


_SHARE = Kind("a number from 0 to 1", lambda value: NUMBER.fits(value) and 0 <= value <= 1)
_ANY_TEXT = Kind("a text", lambda value: isinstance(value, str))
_COSTS = {"rollouts": COUNT, "tokens": COUNT, "seconds": NUMBER, "flops": NUMBER}
_SAMPLE = {"prompt": _ANY_TEXT, "completion": _ANY_TEXT, "reward": NUMBER}


def _only(names: Mapping[str, Kind]) -> Kind:
    words = f"a mapping with {', '.join(names)} alone"
    return Kind(words, lambda value: not fault(value, names) and set(value) == set(names))


_EVALUATION = {
    "step": COUNT,
    "split": TEXT,
    "prompts": list_of(TEXT),
    "rewards": list_of(NUMBER),
    "scores": mapping_of(NUMBER),
    "tokens": COUNT,
    "cost": _only(_COSTS),
    "samples": list_of(_only(_SAMPLE)),
}
_MATRIX = Kind("a list of the members' rewards, each a list of equally many numbers", _is_matrix)


def from_json(line: str) -> Any:
    """Read a line of JSON.

    Raises:
        ValueError: it is none.
    """
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError("it is no JSON") from error


def without_torn_end(lines: Sequence[str], path: Path) -> list[str]:
    """Leave out, with a warning, the lines at the end that hold no mapping: a crash leaves blanks, or parts.

    Args:
        lines: of a file of mappings.
        path: the file, for the warning.
    """
    kept = list(lines)
    while kept and not _is_mapping(kept[-1]):
        kept.pop()
    if len(kept) < len(lines):
        log.warning(
            "%s: lines %d to %d are what a crash leaves, and are dropped.", path, len(kept) + 1, len(lines)
        )
    return kept


def _is_mapping(line: str) -> bool:
    try:
        return isinstance(from_json(line), dict)
    except ValueError:
        return False
