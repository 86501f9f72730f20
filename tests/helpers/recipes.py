"""The recipes of configs/recipes/, made into modules as the command line makes them."""

from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from es_lightning.module import EvolutionStrategies

FOLDER = Path(__file__).parents[2] / "configs" / "recipes"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))


SHORT = {"generations": 4, "T_max": 4, "eta_min": 0.01, "lr": 0.05}


def read(name: str) -> dict[str, Any]:
    """The options of a recipe, by part."""
    values: dict[str, Any] = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    return values


def recipe(name: str, **options: Any) -> EvolutionStrategies:
    """A module with the options of a recipe, and others in place of some of them, as in YAML."""
    values = read(name)["model"]
    engine = {"class_path": "HFEngine", "init_args": {"dtype": "float32", "device": "cpu"}}
    defaults = {"base": "tiny", "engine": engine, "sampling": {"max_tokens": 6}}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(EvolutionStrategies, "model")
    config = parser.parse_object({"model": values | defaults | options})
    made: EvolutionStrategies = parser.instantiate(config).model
    return made


def short_run(name: str) -> EvolutionStrategies:
    """A module with the parts of a recipe, and numbers for four generations of the tiny model."""
    values = read(name)["model"]
    options = {key: _short(value) for key, value in values.items() if isinstance(value, dict)}
    noise = values.get("noise", "GaussianNoise")
    noise = {"class_path": noise} if isinstance(noise, str) else noise
    noise["init_args"] = noise.get("init_args", {}) | {"compile": False}
    options |= {"noise": noise, "population": min(4, values.get("population", 4)), "sigma": 0.05}
    return recipe(name, **options)


def _short(part: dict[str, Any]) -> dict[str, Any]:
    settings = part.get("init_args", {})
    return part | {"init_args": settings | {key: SHORT[key] for key in settings if key in SHORT}}
