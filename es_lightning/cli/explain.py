"""A parser's message as one sentence: what is wrong, where, and the nearest word that may stand there."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from es_lightning.cli.case import Case
from es_lightning.cli.configs import packaged_configs
from es_lightning.cli.given import Given
from es_lightning.cli.suggest import suggestion
from es_lightning.cli.vocabulary import Sections, classes, hint, options_of, plug_ins
from es_lightning.cli.wrong_values import (
    no_callable,
    no_list,
    no_type_of_several,
    not_among,
    wrong_type,
)

FEW = 9  # names that a sentence may list


def explained(message: str, sections: Sections, options: Sequence[str], given: Sequence[Given] = ()) -> str:
    """Return a parser's message as one sentence, with a suggestion if a valid word is near.

    Args:
        message: the parser's message.
        sections: first parts of the options, each with the class whose arguments are its second parts.
        options: options that are in no section.
        given: what the user gave.
    """
    case = Case(message, sections, options, given)
    for pattern, sentence in SENTENCES:
        if found := re.search(pattern, message, re.DOTALL):
            return sentence(case, *found.groups())
    return " ".join(message.split())


def _unknown_option(case: Case, on_command_line: str | None, in_file: str | None) -> str:
    word = (on_command_line or in_file or "").partition("=")[0]
    if on_command_line and not word.startswith("-"):
        return f"{word} is no option: options begin with --, and a config file comes after -c."
    key = word.lstrip("-").rstrip("+")
    return f"{case.at(key) if in_file else ''}there is no option {key}.{_nearest_option(case, key)}"


def _nearest_option(case: Case, key: str) -> str:
    section, _, rest = key.partition(".")
    first = rest.partition(".")[0]
    if section in case.sections:
        return suggestion(first, options_of(case.sections[section]), f"{section}.")
    if rest:
        having = [name for name, owner in case.sections.items() if first in options_of(owner)]
        return suggestion(section, having, after=f".{rest}")
    elsewhere = [f"{name}.{key}" for name, owner in case.sections.items() if key in options_of(owner)]
    return f" Did you mean {elsewhere[0]}?" if elsewhere else suggestion(key, [*case.options, *case.sections])


def _unknown_argument(case: Case, word: str) -> str:
    """A plug-in does not have this argument."""
    given = [each for each in case.given if each.key.endswith(f".{word}") and each.key.startswith(case.key)]
    key = case.key or (_without_init_args(given[-1].key.removesuffix(f".{word}")) if given else "")
    owner = _owner(case, given[-1] if given else None, key)
    place = given[-1].place if given else ""
    first, named = word.partition(".")[0], case.named(key)
    if first in named:
        return (
            f"{place}{key}: {first} is a class: write class_path: {first}, and its options below init_args."
        )
    if first != word:  # a mapping where none belongs, such as a mistyped init_args
        return f"{place}{key}: {first} may not stand here.{suggestion(first, ['class_path', 'init_args'])}"
    if word == "class_path":
        return f"{place}{key}: beside class_path stands init_args alone: write the options below that."
    if owner is None:
        having = " or ".join(name for name, kind in named.items() if word in options_of(kind))
        return f"{place}{key} has no option {word}{f': name its class, {having}, first' if having else ''}."
    return f"{place}{key}: {owner.__name__} has no option {word}.{suggestion(word, options_of(owner))}"


def _owner(case: Case, given: Given | None, key: str) -> type | None:
    """The class that an argument was meant for: the one named for it, or the only one possible."""
    named = case.named(key)
    if given is not None:
        mapping = _without_init_args(given.key.rpartition(".")[0])
        homes = {key, mapping, f"{mapping}.class_path", f"{key}.class_path"}
        before = case.given[: list(case.given).index(given)]
        for each in reversed([*case.given, *before]):
            name = (each.value or "").rpartition(".")[2]
            if each.key in homes and name in named:
                owner: type = named[name]
                return owner
    possible = classes(hint(case.sections, key))
    return possible[0] if len(possible) == 1 and possible[0].__name__ in named else None


def _without_init_args(key: str) -> str:
    return key.removesuffix(".init_args")


def _unknown_class(case: Case, name: str) -> str:
    if name.lower() in ("nan", "inf"):  # no number in YAML, so the parser looked for a class
        keys = [each.key for each in case.given if each.value == name and each.key.startswith(case.key)]
        return f"{case.place_of(name)}{[case.key, *keys][-1]} is {name}: give a number."
    known = case.named(case.key)
    near = suggestion(name, known)
    if not near and 0 < len(known) <= FEW:
        near = f" There are {', '.join(known)}."
    what = "" if any(map(inspect.isfunction, known.values())) else "class "
    return f"{case.place_of(name)}{case.key}: there is no {what}{name}.{near}"


def _missing_argument(case: Case, names: str) -> str:
    names = " ".join(names.split())
    value = re.search(r"class_path='([\w.]+)'", case.message)
    module, _, owner = value[1].rpartition(".") if value else ("", "", "the class")
    if inspect.isfunction(getattr(sys.modules.get(module), owner, None)):
        return f"{case.at(case.key)}{case.key}: {owner} is a function: name it without class_path."
    first = names.partition(",")[0]
    return f"{case.at(case.key)}{case.key}: {owner} needs {names}: give --{case.key}.{first}, or init_args."


def _missing_option(case: Case, option: str) -> str:
    return f"{option} is missing: give --{option}, or a config file with -c."


def _no_attribute(case: Case, module: str, name: str) -> str:
    named = plug_ins(hint(case.sections, case.key))
    inside = vars(importlib.import_module(module)).items()
    known = [each for each, what in inside if each in named or getattr(what, "__module__", "") == module]
    place = case.place_of(f"{module}.{name}")
    return f"{place}{case.key}: {module} has no {name}.{suggestion(name, known)}"


def _not_importable(case: Case, path: str, why: str) -> str:
    return f"{case.place_of(path)}{case.key}: {path} cannot be imported: {' '.join(why.split())}."


def _no_subclass(case: Case, path: str, base: str) -> str:
    return f"{case.place_of(path)}{case.key}: {path} is no {base}."


def _abstract(case: Case, path: str) -> str:
    names = sorted(plug_ins(hint(case.sections, case.key)))
    return f"{case.at(case.key)}{case.key}: name a class first, such as {' or '.join(names)}."


def _no_file(case: Case, path: str) -> str:
    packaged = [Path(name).stem for name in packaged_configs()]
    near = suggestion(Path(path).stem, packaged, after=".yaml, which comes with the package")
    return f"there is no config file {path.removeprefix(f'{Path.cwd()}/')}.{near}"


def _bad_yaml(case: Case, why: str) -> str:
    import yaml

    for path in case.files:
        try:
            yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            return f"{path}, line {line}: this is no valid YAML: {error.problem}."
    return f"this is no valid YAML: {' '.join(why.split())}."


def _no_mapping(case: Case, text: str) -> str:
    shown = " ".join(text.split())[:60]
    what = f"holds '{shown}'" if shown else "is empty"
    names = [str(path) for path in case.files if path.read_text(encoding="utf-8").strip() == text.strip()]
    return (
        f"{[*names, 'a config file'][0]} {what}, and must be a mapping of options, as configs/demo.yaml is."
    )


def _no_value(case: Case, option: str) -> str:
    return f"{option} needs a value after it."


SENTENCES: list[tuple[str, Callable[..., str]]] = [
    (r"^unrecognized arguments: (\S+)|^Subcommand '\w+' does not accept option '([\w.]+)'", _unknown_option),
    (r"File does not exist: '(.*?)'", _no_file),
    (r"^Problems parsing config: (.*)", _bad_yaml),
    (r"^Unexpected config: (.*)", _no_mapping),
    (r"argument (--[\w.]+): expected one argument", _no_value),
    (r"Option '([\w.]+)' is not accepted", _unknown_argument),
    (r"Expected a dot import path string: (\S+)", _unknown_class),
    (r"Import path (\S+) does not correspond to a subclass of (\w+)", _no_subclass),
    (r"module '([\w.]+)' has no attribute '(\w+)'", _no_attribute),
    (
        r'Parser key "([\w.]+)":\s+Expected a typing\.Literal\[([^]]*)\]\. Got value: (.*?)(?:\n|\Z)',
        not_among,
    ),
    (r"Expected an instantiatable class, but ([\w.]+) is abstract", _abstract),
    (r"^the following arguments are required: \w+\.([\w.]+)", _missing_option),
    (r"the following arguments are required: (.*?)(?:\n|\. Got value|\Z)", _missing_argument),
    (
        r"\s+Parser key \"(\w+)\":\s+Expected a <class '([\w.]+)'>\. Got value: (.*?)(?:\n|\. Got|\Z)",
        wrong_type,
    ),
    (r"^Parser key \"([\w.]+)\":\s+Expected a <class '([\w.]+)'>\. Got value: (.*)", wrong_type),
    (
        r"\s+Parser key \"(\w+)\":\s+Does not validate against any.*?Subtypes: \[list\[.*?"
        r"Given value: (.*?)\n",
        no_list,
    ),
    (r"Problem with given class_path '(.*?)':(.*?)(?:\n  -|\Z)", _not_importable),
    (
        r"^Parser key \"[\w.]+\":.*?Does not validate against any.*?Subtypes: \[(.*?)\]\n.*"
        r"Given value type: <class '(\w+)'>\s+Given value: (.*)",
        no_type_of_several,
    ),
    (r"expects a function or a callable class:.*?Got value: (.*)", no_callable),
]
"""What the parser says, and what is made of it; the first that fits counts."""
