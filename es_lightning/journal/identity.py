"""What makes a run this run and no other: settings by their names in YAML, in plain JSON.

A run goes on only with the settings that it began with. What decides neither prompts, rewards nor updates may
change: engine, ranks, devices, length, callbacks, loggers.
"""

import hashlib
import inspect
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from es_lightning.algorithm.noise import Noise
from es_lightning.records import Prompt
from es_lightning.system.fields import FLAG, NOTHING, NUMBER, TEXT
from es_lightning.task import Task

PROBLEMS = "data.task.problems"  # a digest of the training problems

_PLAIN = NOTHING | FLAG | NUMBER | TEXT
_LENGTH = 120  # a longer text or list is recorded as a digest
# What a scheduler counts, and what only held-out problems depend on.
_OTHER = frozenset({"last_epoch", "verbose", "n_val", "n_test"})

# Names of settings in headers of version 0.1.0, which have no identity -> their names in YAML.
_OF_0_1_0 = {
    "population": "model.population",
    "sigma": "model.sigma",
    "antithetic": "model.antithetic",
    "seed": "model.seed",
    "shaping": "model.shaping",
    "prompts_per_generation": "data.prompts_per_generation",
    "max_tokens": "model.sampling.max_tokens",
    "temperature": "model.sampling.temperature",
}


# Settings that headers have only since they can be set -> what they were before.
_SINCE: dict[str, Any] = {
    "model.chat_template_kwargs": "{}",
    "model.sigma_schedule": None,
    "model.population_schedule": None,
    "model.regularisers": [],
    "model.keep_centre": False,
    "model.sampling.pass_k": 1,
    "model.kl_penalty.weight": None,
    "data.objective": "reward",
    "data.draw": "passes",
}


def described(name: str, thing: Any, title: str | None = None) -> dict[str, Any]:
    """Describe an object by its class, those of its constructor's arguments that it keeps, and its functions.

    A text with a slash in it is left out: it says where something is, and not what.

    Args:
        name: what its settings are called in YAML, for example ``data.task``.
        thing: the object; None if there is none.
        title: what to call it; None takes its class.
    """
    settings: dict[str, Any] = {name: title or _class(thing)}
    arguments = inspect.signature(type(thing).__init__).parameters.keys() - _OTHER
    for key, value in getattr(thing, "__dict__", {}).items():
        if key in arguments or (not key.startswith("_") and _is_functions(value)):
            settings |= _flat(f"{name}.{key}", value)
    # Schedulers that are made of others keep them here.
    for index, part in enumerate(getattr(thing, "_schedulers", ())):
        settings |= described(f"{name}.{index}", part)
    return settings


def named(thing: Any) -> str:
    """Return a function's name, or an object's class and arguments as it keeps them: ``Clip(max=2)``."""
    if hasattr(thing, "__name__"):
        return str(thing.__name__)
    settings = described("", thing, "")
    told = ", ".join(f"{name[1:]}={value}" for name, value in settings.items() if name)
    return f"{type(thing).__name__}({told})" if told else type(thing).__name__


def digest(prompts: Iterable[Prompt]) -> str:
    """Hash what prompts say, but not how a model encodes it."""
    whole = hashlib.sha256()
    for prompt in prompts:
        choices = [(choice.before, choice.text) for choice in prompt.choices]
        texts = (prompt.id, prompt.text, prompt.system, prompt.prefill, prompt.chat, prompt.group, choices)
        line = json.dumps(
            (texts, prompt.reference), skipkeys=True, default=lambda value: type(value).__name__
        )
        whole.update(line.encode())
    return whole.hexdigest()[:16]


def identity_of(header: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a header records, by their names in YAML."""
    settings = header.get("settings", {})
    identity = header.get("identity") or {
        **{name: settings[old] for old, name in _OF_0_1_0.items() if old in settings},
        **_present(header, {"data.task": "task"}),
    }
    optimizer = header.get("optimizer", {})
    return {
        **_SINCE,
        **_present(
            header,
            {
                "model.base": "base_files",
                "model.base's dtype": "dtype",
                "model.noise": "noise",
                "model.regularisers": "regularisers",
            },
        ),
        **identity,
        **_present(optimizer, {"model.optimizer": "class", "model.optimizer.groups": "groups"}),
        **{f"model.optimizer.{name}": value for name, value in optimizer.get("settings", {}).items()},
    }


def _present(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {name: values[key] for name, key in names.items() if key in values}


def changed(recorded: Mapping[str, Any], present: Mapping[str, Any]) -> list[str]:
    """Say of each setting that both headers have, and in which they differ, what it was and what it is.

    Args:
        recorded: the header of the run.
        present: the header that this process would write.
    """
    was, now = identity_of(recorded), identity_of(present)
    names = [name for name in was if name in now and was[name] != now[name]]
    if "model.base" in names and same_files(was["model.base"], now["model.base"]):
        names.remove("model.base")
    if "identity" not in recorded:  # a callback may have set these before the header was written
        steered = {f"model.{name}": present.get("settings", {}).get(name) for name in ("population", "sigma")}
        names = [name for name in names if was[name] != steered.get(name, now[name])]
    if any(name.startswith(("data.task", "data.objective")) and name != PROBLEMS for name in names):
        names = [name for name in names if name != PROBLEMS]  # as those settings make them
    # Where the class is another, its settings say nothing more.
    names = [name for name in names if not any(name.startswith(f"{other}.") for other in names)]
    return [_sentence(name, was[name], now[name], recorded, present) for name in names]


def same_files(was: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether a base model's files are what they were.

    Args:
        was: digests by file name. Headers of version 0.1.0 have those of files that are not the model, too.
        now: digests of the files that are.
    """
    return all(was.get(file) == digest for file, digest in now.items())


def _sentence(name: str, was: Any, now: Any, recorded: Mapping[str, Any], present: Mapping[str, Any]) -> str:
    if name == "model.base":
        files = ", ".join(sorted(file for file in {**was, **now} if was.get(file) != now.get(file)))
        names = _word(recorded.get("base")), _word(present.get("base"))
        where = "" if names[0] == names[1] else f" ({names[0]} in the run, {names[1]} now)"
        return f"the files of {name}{where} have changed: {files}"
    if name == PROBLEMS:
        return "the training problems of data.task were others in the run than now"
    label = f"seed_everything ({name})" if name in ("model.seed", "data.seed") else name
    return f"{label} was {_word(was)} in the run and is {_word(now)} now"


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _flat(name: str, value: Any) -> dict[str, Any]:
    """A setting as plain JSON under its name, or its parts under theirs; nothing for what cannot be told."""
    if isinstance(value, str) and "/" in value:
        return {}
    if _PLAIN.fits(value) or value == "":
        return {name: _bounded(value)}
    if isinstance(value, Mapping):
        return _merged(_flat(f"{name}.{key}", item) for key, item in value.items())
    if isinstance(value, list | tuple):
        if all(_PLAIN.fits(item) for item in value):
            return {name: _bounded(list(value))}
        return _merged(_flat(f"{name}.{index}", item) for index, item in enumerate(value))
    if inspect.isfunction(value) or inspect.isclass(value):
        return {name: value.__qualname__}
    if isinstance(value, Noise):
        return described(name, value, type(value).__name__)
    return described(name, value, value.name) if isinstance(value, Task) else {}


def _merged(parts: Iterator[dict[str, Any]]) -> dict[str, Any]:
    return {name: value for part in parts for name, value in part.items()}


def _bounded(value: Any) -> Any:
    text = json.dumps(value)
    return value if len(text) <= _LENGTH else f"sha256 {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _is_functions(value: Any) -> bool:
    items = list(value.values()) if isinstance(value, Mapping) else [value]
    return bool(items) and all(map(inspect.isfunction, items))


def _class(thing: Any) -> str | None:
    kind = type(thing)
    return None if thing is None else f"{kind.__module__}.{kind.__qualname__}"
