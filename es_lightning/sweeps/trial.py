"""One trial: a fit for each seed, one after the other, watched from outside and stopped where it is worse."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from es_lightning.journal.evaluations import EVALUATIONS
from es_lightning.sweeps.objective import Point, intermediate, mean_and_error, read_points, worth
from es_lightning.sweeps.process import FitProcess
from es_lightning.sweeps.settings import SweepSettings
from es_lightning.sweeps.space import Value, word
from es_lightning.sweeps.store import TrialStore

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

SEEDS, ERROR, GENERATION = "seeds", "error", "generation"
"""Keys of a trial's notes in the study: worth by seed, why it failed, the last validated generation."""
NEVER_VALIDATED = "the run was never validated: give a smaller trainer.val_check_interval"

Environment = Callable[[int, int], Mapping[str, str]]
"""Variables for the run of a trial's number and a seed."""


def name_of(number: int) -> str:
    """Return the name of a trial's folder."""
    return f"trial-{number:03d}"


def words_of(settings: SweepSettings, params: Mapping[str, Value], seed: int | None = None) -> list[str]:
    """Return the options of a trial's fit, without those that say where it is.

    Args:
        settings: of the sweep.
        params: the trial's point.
        seed: None leaves the config's own.
    """
    files = [part for file in settings.config for part in ("-c", file)]
    keys = {**settings.overrides, **params}
    seeded = [] if seed is None else [f"--seed_everything={seed}"]
    return [*files, *(word(key, value) for key, value in keys.items()), *seeded]


@dataclass
class ActiveTrial:
    """A trial that has not ended; what it has done stands in the study and in its folder.

    Args:
        known: the trial in the study.
        settings: of the sweep.
        store: the study.
        cores: that it has for itself; none if it has all.
        added: options behind those of the trial.
        environment: of its runs.
    """

    known: FrozenTrial
    settings: SweepSettings
    store: TrialStore
    cores: Sequence[int]
    added: Sequence[str]
    environment: Environment

    def __post_init__(self) -> None:
        """Take over what an earlier process of this sweep has noted."""
        from optuna.trial import TrialState

        self._states = TrialState
        self.number, self.params = self.known.number, self.known.params
        self.done: list[float] = list(self.known.user_attrs.get(SEEDS, []))
        self._process: FitProcess | None = None
        self._read = 0  # validations of the run that are reported
        self._stamp: tuple[Path, int, int] | None = None
        self._seen: list[Point] = []

    @property
    def folder(self) -> Path:
        """Where the run under way is."""
        return self.settings.output / name_of(self.number) / f"seed-{self._seed}"

    def _reported(self, last: int) -> dict[int, float]:
        """Return the intermediate values in the study up to a step."""
        values = self.store.trials[self.number].intermediate_values
        return {step: value for step, value in values.items() if step <= last}

    @property
    def _seed(self) -> int:
        return self.settings.seeds[len(self.done)]

    def look(self) -> bool:
        """Read what the run has measured, and act on it; returns whether the trial has ended."""
        if len(self.done) == len(self.settings.seeds):
            return self._complete()
        code = None if self._process is None else self._process.poll()  # before its file is read
        points = self._points()
        if self._prune(points):
            return True
        if self._process is None:
            self._start()
        elif code is not None:
            return self._ended(code, points)
        return False

    def ask_to_stop(self) -> None:
        """Let the run end with a checkpoint; the trial goes on with the sweep."""
        if self._process is not None:
            self._process.ask_to_stop()

    def stop(self) -> None:
        """Wait until the run has ended, which was asked to stop before."""
        if self._process is not None:
            self._process.stop()

    def _points(self) -> Sequence[Point]:
        """Return the validations of the run under way; their file is read where it has changed."""
        path = self.folder / EVALUATIONS
        stamp = (path, path.stat().st_size, path.stat().st_mtime_ns) if path.exists() else None
        if stamp != self._stamp:
            self._stamp, self._seen = stamp, read_points(self.folder, self.settings.objective)
        return self._seen

    def _start(self) -> None:
        """Start the run, or go on with what a killed sweep has left of it."""
        words = ["fit", *words_of(self.settings, self.params, self._seed), *self.added]
        words += [f"--trainer.default_root_dir={self.folder}", "--trainer.enable_progress_bar=false"]
        self._process = FitProcess(
            [*words, "--ckpt_path=last"],  # of a folder without a run it means: begin
            self.folder.with_name(f"{self.folder.name}.log"),
            self.cores,
            self.environment(self.number, self._seed),
        )

    def _prune(self, points: Sequence[Point]) -> bool:
        """Report new validations in their order, and end the trial at the first that is worse than the rule.

        The rule sees nothing of later validations, however late this process looks: so the trial ends at
        the same one whenever the sweep was killed.
        """
        values = intermediate(self.done, points, self.settings.take)
        for count, (step, value) in enumerate(values.items(), 1):
            if count <= self._read:
                continue
            self._read = count
            self.store.report(self.number, step, value)
            if self.settings.median_prunes and self.store.is_worse(self._reported(step)):
                self.stop()
                self.store.note(self.number, GENERATION, points[count - 1][0])
                self.store.end(self.number, self._states.PRUNED)
                return True
        return False

    def _ended(self, code: int, points: Sequence[Point]) -> bool:
        """Note what a run is worth, or that it failed; returns whether the trial has ended."""
        assert self._process is not None
        error = self._process.error if code else "" if points else NEVER_VALIDATED
        if error:
            self.store.note(self.number, ERROR, error)
            self.store.end(self.number, self._states.FAIL)
            return True
        self.done.append(worth(points, self.settings.take))
        self.store.note(self.number, GENERATION, points[-1][0])
        self.store.note(self.number, SEEDS, self.done)
        self._process, self._read, self._stamp, self._seen = None, 0, None, []
        return False

    def _complete(self) -> bool:
        self.store.end(self.number, self._states.COMPLETE, mean_and_error(self.done)[0])
        return True
