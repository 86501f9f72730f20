"""The recipes of configs/recipes/, made into modules as the command line makes them."""

from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from es_lightning.module import EvolutionStrategies

FOLDER = Path(__file__).parents[2] / "configs" / "recipes"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))


def recipe(name: str, **options: Any) -> EvolutionStrategies:
    """A module with the options of a recipe, and others in place of some of them, as in YAML."""
    values = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))["model"]
    engine = {"class_path": "HFEngine", "init_args": {"dtype": "float32", "device": "cpu"}}
    defaults = {"base": "tiny", "engine": engine, "sampling": {"max_tokens": 6}}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(EvolutionStrategies, "model")
    config = parser.parse_object({"model": values | defaults | options})
    made: EvolutionStrategies = parser.instantiate(config).model
    return made
