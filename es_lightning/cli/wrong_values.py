"""Sentences about values that an option does not take; see ``explain``."""

from __future__ import annotations

import re
from dataclasses import is_dataclass

from es_lightning.cli.case import Case
from es_lightning.cli.suggest import suggestion
from es_lightning.cli.vocabulary import classes, hint, options_of

TYPES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "list": "a list",
    "NoneType": "null",
    "timedelta": "a time",
}


def not_among(case: Case, option: str, listed: str, value: str) -> str:
    """None of the few words that an option takes."""
    names = re.findall(r"'([^']*)'", listed)
    value = value.strip()
    key = case.key if case.key == option else f"{case.key}: {option}"
    allowed = f"{', '.join(names[:-1])} or {names[-1]}"
    return f"{case.place_of(value)}{key} is {value}: give {allowed}.{suggestion(value, names)}"


def wrong_type(case: Case, option: str, kind: str, value: str) -> str:
    """A value of a wrong type."""
    value = value.strip()
    key = case.key if case.key == option else f"{case.key}.{option}"
    wanted = TYPES.get(kind.rpartition(".")[2], kind)
    return f"{case.place_of(value)}{key} is {value}: give {wanted}."


def no_type_of_several(case: Case, kinds: str, kind: str, value: str) -> str:
    """A value of a wrong type, where the parser had tried several."""
    value = " ".join(value.split())
    place = case.place_of(value) or case.at(case.key)
    if kinds.startswith("list["):
        return f"{place}{case.key} {_a_list(case, case.key, value)}"
    owners = classes(hint(case.sections, case.key)) if "<class 'es_lightning." in kinds else []
    if owners and kind == "list":
        return f"{place}{case.key} holds a list: name one class, without a dash before it."
    if owners and is_dataclass(owners[0]):
        example = f"{case.key}.{options_of(owners[0])[0]}"
        return f"{place}{case.key} is {value}: give its options, such as {example}."
    if owners and kind == "str":  # the name of a base
        names = list(case.named(case.key))[:2]
        return f"{place}{case.key} is {value}: name a class, such as {' or '.join(names)}."
    expected = re.findall(r"Expected a <class '([\w.]+)'>", case.message)
    wanted = " or ".join(dict.fromkeys(TYPES.get(each.rpartition(".")[2], each) for each in expected))
    return f"{place}{case.key} is {value}: give {wanted or 'another value'}."


def no_list(case: Case, option: str, value: str) -> str:
    """One value, where an option of a class takes a list."""
    place = case.place_of(value) or case.at(case.key)
    return f"{place}{case.key}.{option} {_a_list(case, f'{case.key}.{option}', value)}"


def _a_list(case: Case, key: str, value: str) -> str:
    shown = value if re.fullmatch(r"[^\s{}\[\]]+", value) else "..."
    known = case.named(key)
    near = "" if shown in known else suggestion(shown, known)
    return f"takes a list: give --{key}+={shown}, or in YAML a dash before each entry.{near}"


def no_callable(case: Case, value: str) -> str:
    """Neither a function nor a class, where one is wanted."""
    path = re.search(r"class_path='([\w.]+)'", value)
    value = path[1] if path else value
    place = case.place_of(value) or case.at(case.key)
    return f"{place}{case.key} is {value}: name a function, or a class that can stand for one."
