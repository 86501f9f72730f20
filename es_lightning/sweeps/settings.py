"""What a sweep's file may say, and what it is refused for before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from es_lightning.errors import UsageError
from es_lightning.sweeps.space import Dimension, Range, Value, grid_points, plain_value, read_space

CHOICES = {
    "sampler": ("grid", "random", "tpe"),
    "take": ("last", "best"),
    "prune": ("none", "median", "early_peak"),
}
OWN_KEYS = {
    "seed_everything": "seeds",
    "trainer.default_root_dir": "output",
    "config": "config",
}
"""Keys of a fit that a sweep sets itself, and the sweep's key to use in their place."""
RESUMING = ("ckpt_path", "overwrite", "checkpoint.dirpath", "print_config")
FREE = ("trials", "at_once", "cores", "output")
"""What may change when a sweep goes on: it decides no trial."""


@dataclass(frozen=True)
class SweepSettings:
    """Which fits a sweep makes, and how it judges them.

    Args:
        config: files of the fit, as after ``-c``; later ones win.
        space: dotted key of the fit's config -> the values that it may take.
        overrides: dotted key -> value, the same in every trial.
        sampler: ``grid`` tries every combination, ``random`` draws independently, ``tpe`` learns from the
            trials before (Optuna's tree-structured Parzen estimator, doi 10.5555/2986459.2986743).
        trials: how many points are tried; None with ``grid`` takes all.
        seed: of the sampler.
        seeds: of the fit; every point is fitted once with each of them.
        objective: ``val/reward``, or ``val/`` and the name of a component of the reward.
        take: ``last`` or ``best`` of a run's validations.
        at_once: trials at the same time, each on CPU cores of its own.
        cores: most cores of a trial; None divides all cores among the trials at once.
        prune: ``median`` ends a trial that is worse than the median of the complete ones at the same
            generation; ``early_peak`` lets each run end itself once its reward has fallen from its peak.
        prune_after: complete trials before ``median`` ends the first.
        prune_warmup: generations of the first seed before ``median`` ends a trial.
        output: folder of the sweep.

    Raises:
        UsageError: a value cannot be used.
    """

    config: tuple[str, ...]
    space: Mapping[str, Dimension]
    overrides: Mapping[str, Value] = field(default_factory=dict)
    sampler: str = "grid"
    trials: int | None = None
    seed: int = 0
    seeds: tuple[int, ...] = (0,)
    objective: str = "val/reward"
    take: str = "last"
    at_once: int = 1
    cores: int | None = None
    prune: str = "none"
    prune_after: int = 5
    prune_warmup: int = 0
    output: Path = Path("runs/sweep")

    def __post_init__(self) -> None:
        """Refuse what no sweep can be made of."""
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise UsageError(f"{name} is {getattr(self, name)!r}: give {', '.join(known)}.")
        for name, least in {"at_once": 1, "seed": 0, "prune_after": 1, "prune_warmup": 0}.items():
            _check_whole(name, getattr(self, name), least)
        for name in ("trials", "cores"):
            if getattr(self, name) is not None:
                _check_whole(name, getattr(self, name), 1)
        _check_files(self.config)
        _check_seeds(self.seeds)
        _check_keys(self.space, self.overrides)
        if not str(self.objective).startswith("val/") or self.objective == "val/":
            raise UsageError(f"objective is {self.objective!r}: give val/reward, or val/ and a component.")
        if self.prune == "early_peak" and self.take == "last":
            raise UsageError(
                "prune: early_peak ends a run once its reward has fallen, so its last validation is not what "
                "it is worth: give take: best."
            )
        self._check_trials()

    def _check_trials(self) -> None:
        if self.sampler != "grid":
            if self.trials is None:
                raise UsageError(f"sampler {self.sampler} has no end: give trials, a number of points.")
            return
        points = len(grid_points(self.space))
        if self.trials is not None and self.trials > points:
            raise UsageError(f"trials is {self.trials}, and the grid has {points} points: give at most that.")

    @property
    def count(self) -> int:
        """How many trials there are."""
        return len(grid_points(self.space)) if self.trials is None else self.trials

    @property
    def median_prunes(self) -> bool:
        """Whether the sweep itself ends trials."""
        return self.prune == "median"

    def plain(self) -> dict[str, Any]:
        """Return everything that decides the trials, as JSON can hold it."""
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in FREE}
        values["config"], values["seeds"] = list(self.config), list(self.seeds)
        values["overrides"] = dict(self.overrides)
        values["space"] = {key: _plain(each) for key, each in self.space.items()}
        return values


def read_settings(given: Any, name: str) -> SweepSettings:
    """Read a sweep's file.

    Args:
        given: what YAML made of it.
        name: of the file, for messages and the default folder.

    Raises:
        UsageError: a key is not known, or a value cannot be used; the message names the file.
    """
    known = [each.name for each in fields(SweepSettings)]
    try:
        if not isinstance(given, Mapping):
            raise UsageError("there are no keys: give config and space at least.")
        if wrong := [str(key) for key in given if key not in known]:
            raise UsageError(f"there is no key {wrong[0]}: give some of {', '.join(known)}.")
        if "config" not in given:
            raise UsageError("config is missing: give the files of the fit, such as [configs/demo.yaml].")
        values = dict(given)
        values["config"] = tuple(map(str, _listed(given["config"])))
        values["space"] = read_space(given.get("space"))
        values["overrides"] = _overrides(given.get("overrides") or {})
        values["seeds"] = tuple(_listed(given.get("seeds", [0])))
        values["output"] = Path(str(given.get("output", f"runs/sweep-{Path(name).stem}")))
        return SweepSettings(**values)
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from error


def _listed(given: Any) -> list[Any]:
    return list(given) if isinstance(given, list | tuple) else [given]


def _overrides(given: Any) -> dict[str, Value]:
    if not isinstance(given, Mapping):
        raise UsageError(f"overrides is {given!r}: give keys with values, such as report.export: false.")
    return {str(key): plain_value(f"overrides: {key}", value) for key, value in given.items()}


def _check_whole(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"{name} is {value!r}: give a whole number of at least {least}.")


def _check_files(files: tuple[str, ...]) -> None:
    if not files:
        raise UsageError("config is empty: give the files of the fit, such as [configs/demo.yaml].")


def _check_seeds(seeds: tuple[int, ...]) -> None:
    if not seeds or len(set(seeds)) < len(seeds):
        raise UsageError(f"seeds is {list(seeds)}: give one seed or several different ones.")
    for seed in seeds:
        _check_whole("seeds", seed, 0)


def _check_keys(space: Mapping[str, Dimension], overrides: Mapping[str, Value]) -> None:
    for key in (*space, *overrides):
        if key in OWN_KEYS:
            raise UsageError(f"{key} is set by the sweep: use its key {OWN_KEYS[key]}.")
        if key in RESUMING:
            raise UsageError(f"{key} is set by the sweep, whose trials resume by themselves: leave it out.")
        if key in space and key in overrides:
            raise UsageError(f"{key} is in space and in overrides: give it once.")


def _plain(each: Dimension) -> Any:
    return vars(each) if isinstance(each, Range) else list(each.values)
