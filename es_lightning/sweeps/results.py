"""What a sweep leaves: a row for each trial, and which of them is best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from es_lightning.sweeps.objective import mean_and_error
from es_lightning.sweeps.settings import SweepSettings
from es_lightning.sweeps.trial import ERROR, GENERATION, SEEDS

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

Row = Mapping[str, Any]
Rows = Sequence[Row]
STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running"}


def trial_rows(settings: SweepSettings, trials: Sequence[FrozenTrial]) -> Rows:
    """Return a row for each trial: number, state, point, worth by seed, their mean and its standard error.

    Args:
        settings: of the sweep.
        trials: of the study.
    """
    return [_row(settings, trial) for trial in trials]


def best_row(rows: Rows) -> Row | None:
    """Return the row of the complete trial with the highest objective; of equals the first, None of none."""
    complete = [row for row in rows if row["objective"] is not None]
    return max(complete, key=lambda row: row["objective"], default=None)


def _row(settings: SweepSettings, trial: FrozenTrial) -> Row:
    done = trial.user_attrs.get(SEEDS, [])
    worth = dict(zip(settings.seeds, done, strict=False))  # a trial that was ended lacks the last ones
    ended = trial.state.name == "COMPLETE"
    mean, error = mean_and_error(done) if ended else (None, None)
    return {
        "trial": trial.number,
        "state": STATES[trial.state.name],
        **{key: trial.params[key] for key in settings.space},
        **{f"seed {seed}": worth.get(seed) for seed in settings.seeds},
        "objective": mean,
        "standard_error": error if len(settings.seeds) > 1 else None,
        "generation": trial.user_attrs.get(GENERATION),
        "error": trial.user_attrs.get(ERROR),
    }
