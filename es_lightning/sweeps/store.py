"""The trials on disk: an Optuna study in a journal file, which any of Optuna's tools can read."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from es_lightning.errors import UsageError
from es_lightning.sweeps.settings import SweepSettings
from es_lightning.sweeps.space import Value

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, TrialState

STUDY = "study.journal"
NAME = "sweep"


def require_optuna() -> None:
    """Refuse to begin without Optuna.

    Raises:
        UsageError: it is not installed, or too old.
    """
    try:
        found = version("optuna")
    except PackageNotFoundError as error:
        raise UsageError(
            'sweeps need Optuna, which is not installed: pip install "es-lightning[sweep]".'
        ) from error
    if found.partition(".")[0] != "5":
        raise UsageError(
            f'sweeps were tested with Optuna 5, and {found} is installed: pip install "es-lightning[sweep]".'
        )


class TrialStore:
    """The study of one sweep; the caller holds the sweep's folder, so that nobody else writes.

    Args:
        folder: of the sweep; a study there goes on.
        settings: of the sweep.
    """

    def __init__(self, folder: Path, settings: SweepSettings) -> None:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        path = folder / STUDY
        _mend(path)
        self._settings = settings
        self._storage = JournalStorage(JournalFileBackend(str(path)))
        self._study = optuna.create_study(
            storage=self._storage, study_name=NAME, direction="maximize", load_if_exists=True
        )
        self._id = self._storage.get_study_id_from_name(NAME)

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials so far, by their numbers."""
        return list(self._study.trials)

    def begin(self, params: Mapping[str, Value]) -> None:
        """Add the next trial with its point, in one line of the journal: a kill leaves all of it or none.

        Args:
            params: dotted key -> value.
        """
        from optuna.trial import TrialState, create_trial

        distributions = {key: each.distribution() for key, each in self._settings.space.items()}
        self._study.add_trial(
            create_trial(state=TrialState.RUNNING, params=dict(params), distributions=distributions)
        )

    def report(self, number: int, step: int, value: float) -> None:
        """Keep an intermediate value of a trial; the same again changes nothing."""
        self._storage.set_trial_intermediate_value(self._trial_id(number), step, value)

    def note(self, number: int, key: str, value: Any) -> None:
        """Keep something about a trial, as JSON can hold it."""
        self._storage.set_trial_user_attr(self._trial_id(number), key, value)

    def end(self, number: int, state: TrialState, value: float | None = None) -> None:
        """End a trial.

        Args:
            number: of the trial.
            state: complete, pruned or failed.
            value: of a complete one.
        """
        self._study.tell(number, value, state)

    def is_worse(self, values: Mapping[int, float]) -> bool:
        """Whether the median rule ends a trial (Optuna's ``MedianPruner``, doi 10.1145/3097983.3098043).

        Args:
            values: the trial's intermediate values by step, up to the latest.
        """
        from optuna.pruners import MedianPruner
        from optuna.trial import TrialState, create_trial

        settings = self._settings
        pruner = MedianPruner(settings.prune_after, settings.prune_warmup)
        trial = create_trial(state=TrialState.RUNNING, intermediate_values=dict(values))
        return bool(pruner.prune(self._study, trial))

    def _trial_id(self, number: int) -> int:
        return int(self._storage.get_trial_id_from_study_id_trial_number(self._id, number))


def _mend(path: Path) -> None:
    """Undo what a kill leaves: a lock, and half a line, which would spoil the next one."""
    Path(f"{path}.lock").unlink(missing_ok=True)
    if path.exists():
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with path.open("r+b") as file:
                file.truncate(whole)
