"""Which point trial number k tries: a function of the settings, k and what is known of the trials before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from es_lightning.sweeps.settings import SweepSettings
from es_lightning.sweeps.space import Choices, Range, Value, grid_points

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial


def propose(settings: SweepSettings, number: int, before: Sequence[FrozenTrial]) -> dict[str, Value]:
    """Return the point of a trial.

    The sampler is made anew for every trial, with a seed of its own, and sees the trials before in a study
    of its own. So a sweep that was killed asks again and gets the same answer, and nothing is kept of a
    sampler's state.

    Args:
        settings: of the sweep.
        number: of the trial, from 0.
        before: all trials with a smaller number; only ``tpe`` looks at them.
    """
    import optuna

    if settings.sampler == "grid":
        return grid_points(settings.space)[number]
    study = optuna.create_study(direction="maximize", sampler=_sampler(settings, number))
    if settings.sampler == "tpe":
        study.add_trials(before)
    trial = study.ask({key: each.distribution() for key, each in settings.space.items()})
    return {key: _exact(settings.space[key], trial.params[key]) for key in settings.space}


def _sampler(settings: SweepSettings, number: int) -> BaseSampler:
    from optuna.samplers import RandomSampler, TPESampler

    seed = int(np.random.SeedSequence([settings.seed, number]).generate_state(1)[0])
    return RandomSampler(seed) if settings.sampler == "random" else TPESampler(seed=seed)


def _exact(dimension: Choices | Range, value: Value) -> Value:
    """Return the value of a range with a step that Optuna's sum, with its rounding error, stands for."""
    if isinstance(dimension, Choices) or dimension.step is None:
        return value
    assert isinstance(value, int | float)
    return dimension.points()[round((value - dimension.low) / dimension.step)]
