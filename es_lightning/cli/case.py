"""A parser's message with all that is known about it."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from es_lightning.cli.given import Given
from es_lightning.cli.short_names import short_names
from es_lightning.cli.vocabulary import Sections, hint, plug_ins


@dataclass(frozen=True)
class Case:
    """A message with all that is known about it; see ``explained``."""

    message: str
    sections: Sections
    options: Sequence[str]
    given: Sequence[Given]

    @property
    def key(self) -> str:
        """The option that the message is about, such as ``model.engine``; empty if it names none."""
        found = re.match(r'Parser key "([\w.]+)"', self.message)
        return found[1] if found else ""

    @property
    def files(self) -> list[Path]:
        """The config files."""
        return [Path(each.value or "") for each in self.given if each.key == "config"]

    def named(self, key: str) -> dict[str, Any]:
        """What may stand for an option's value, by its short name."""
        paths = {name: path.rpartition(".") for name, path in short_names(key).items()}
        known = {name: getattr(importlib.import_module(path[0]), path[2]) for name, path in paths.items()}
        return {**plug_ins(hint(self.sections, key)), **known}

    def at(self, key: str) -> str:
        """Where an option was given last."""
        places = [each.place for each in self.given if each.key == key or each.key == f"{key}.class_path"]
        return places[-1] if places else ""

    def place_of(self, value: str) -> str:
        """Where a value was given last, to the option or to one below it."""
        places = [each.place for each in self.given if each.value == value and each.key.startswith(self.key)]
        return places[-1] if places else ""
