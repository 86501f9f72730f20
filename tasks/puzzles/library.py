"""Generators of reasoning-gym: opened by name, with checked options, and the same in every process.

Importing the library takes more than a second, so it is imported by the functions that need it.
"""

import contextlib
import dataclasses
import difflib
import io
import random
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from es_lightning.errors import UsageError

_COMPOSITE = "composite"
_ANY_SIZE = 1_000


class _Letters(tuple[str, ...]):
    """Letters in a fixed order; as from a set, some can be subtracted."""

    def __sub__(self, other: Collection[str]) -> "_Letters":
        return _Letters(letter for letter in self if letter not in other)


def check(name: str, config: Mapping[str, Any]) -> None:
    """Check a data set's options without generating anything.

    Raises:
        UsageError: there is no such data set, or it has no such option, or the value is out of range.
    """
    from reasoning_gym.factory import DATASETS

    if name not in DATASETS:
        raise UsageError(f"dataset {name!r} is not in reasoning-gym; {_nearest(name, DATASETS)}")
    options = {field.name for field in dataclasses.fields(DATASETS[name][1])} - {"seed", "size"}
    for key in config:
        if key in ("seed", "size"):
            raise UsageError(
                f"{key} is no option of the data set {name} here; set seed, n_train, n_val and n_test."
            )
        if key not in options:
            raise UsageError(f"the data set {name} has no option {key!r}; {_nearest(key, options)}")
    try:
        validate = getattr(_config(name, {**config, "seed": 0, "size": _ANY_SIZE}), "validate", None)
        if validate is not None:
            validate()
    except UsageError:
        raise
    except Exception as error:  # mostly AssertionError; a TypeError where a value has the wrong type
        raise UsageError(f"the data set {name} refuses {dict(config)}: {error}.") from None


def open_dataset(name: str, seed: int, size: int, config: Mapping[str, Any]) -> Any:
    """Open a data set of the library, indexed by whole numbers below its size."""
    from reasoning_gym.factory import DATASETS

    return _put_in_order(DATASETS[name][0](_config(name, {**config, "seed": seed, "size": size})))


def generate(dataset: Any, index: int) -> dict[str, Any]:
    """Generate the entry at an index, the same every time; what the generator prints is dropped.

    Raises:
        Exception: the generator found no problem for this index; each generator has its own kind.
    """
    with contextlib.redirect_stdout(io.StringIO()), _seeded(f"{dataset.seed}/{index}"):
        entry: dict[str, Any] = dataset[index]
    return entry


def _nearest(word: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"it has {', '.join(sorted(known))}."


def _config(name: str, options: Mapping[str, Any]) -> Any:
    """Build the library's own configuration object from the options."""
    from reasoning_gym.composite import DatasetSpec
    from reasoning_gym.factory import DATASETS

    if name != _COMPOSITE:
        return DATASETS[name][1](**options)
    parts = [DatasetSpec(**{"weight": 1.0, "config": {}, **part}) for part in options.get("datasets") or []]
    for part in parts:
        if part.name == _COMPOSITE:
            raise UsageError("a composite data set cannot be part of another; list its parts instead.")
        check(part.name, part.config)
    return DATASETS[name][1](**{**options, "datasets": parts})


def _put_in_order(dataset: Any) -> Any:
    """Remove what differs from process to process: three generators draw from sets of strings."""
    for part in getattr(dataset, "datasets", {"": dataset}).values():
        if isinstance(getattr(part, "letters", None), set):
            part.letters = _Letters(sorted(part.letters))
        if hasattr(part, "_get_monomials"):
            part._get_monomials = _sorted_by_text(part._get_monomials)
    return dataset


def _sorted_by_text(draw: Callable[[random.Random], Iterable[Any]]) -> Callable[[random.Random], list[Any]]:
    return lambda rng: sorted(draw(rng), key=str)


@contextlib.contextmanager
def _seeded(seed: str) -> Iterator[None]:
    """Seed Python's and NumPy's global random state, which a few generators use; restore it afterwards."""
    import numpy as np

    python, numpy = random.getstate(), np.random.get_state()
    try:
        random.seed(seed)
        np.random.seed(random.getrandbits(32))
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
