"""The sweep: trials are begun in the order of their numbers, watched, and gone on with after a kill."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from es_lightning.sweeps.proposals import propose
from es_lightning.sweeps.results import Rows, best_row, trial_rows
from es_lightning.sweeps.settings import SweepSettings
from es_lightning.sweeps.store import TrialStore
from es_lightning.sweeps.trial import ActiveTrial, Environment
from es_lightning.system.affinity import allowed
from es_lightning.system.cores import share_of
from es_lightning.system.signals import Interrupted

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2


class Sweep:
    """All trials of one sweep; the caller holds its folder.

    Args:
        settings: of the sweep.
        added: options behind those of every trial's fit.
        environment: variables of the runs.
        tell: gets the rows of all trials whenever one has ended.
    """

    def __init__(
        self,
        settings: SweepSettings,
        added: Sequence[str],
        environment: Environment,
        tell: Callable[[Rows], None],
    ) -> None:
        self.settings, self.added, self.environment, self.tell = settings, added, environment, tell
        self.store = TrialStore(settings.output, settings)
        self.active: dict[int, ActiveTrial] = {}  # by slot: the place among the trials at once

    @property
    def rows(self) -> Rows:
        """What is known of every trial."""
        return trial_rows(self.settings, self.store.trials)

    def run(self) -> Rows:
        """Run what is left of the sweep; returns the rows of all trials.

        Stopped by a signal, it lets the runs end with checkpoints; the same sweep then goes on with them.
        """
        try:
            while self._fill():
                ended = [slot for slot, trial in self.active.items() if trial.look()]
                for slot in ended:
                    self._say_end(self.active.pop(slot).number)
                    self.tell(self.rows)
                if not ended:
                    time.sleep(POLL_SECONDS)
        except Interrupted:
            log.info("Stopping the trials under way; the same command goes on with them.")
            raise
        finally:
            for trial in self.active.values():
                trial.ask_to_stop()
            for trial in self.active.values():
                trial.stop()
        return self.rows

    def _fill(self) -> bool:
        """Give every free slot a trial, as far as there are any; returns whether one is active."""
        for slot in range(self.settings.at_once):
            if slot not in self.active:
                number = self._next()
                if number is None:
                    break
                known = self.store.trials[number]
                cores = cores_of(self.settings, slot)
                trial = ActiveTrial(known, self.settings, self.store, cores, self.added, self.environment)
                self.active[slot] = trial
                log.info("trial %d of %d: %s", number, self.settings.count, _shown(trial.params))
        return bool(self.active)

    def _next(self) -> int | None:
        """Return the trial to go on with: one that a killed sweep left, else a new one, else none."""
        trials, taken = self.store.trials, {trial.number for trial in self.active.values()}
        left = [each.number for each in trials if not each.state.is_finished() and each.number not in taken]
        if left:
            return int(left[0])
        number = len(trials)
        if number >= self.settings.count:
            return None
        self.store.begin(propose(self.settings, number, trials))
        return number

    def _say_end(self, number: int) -> None:
        rows = self.rows
        row, best = rows[number], best_row(rows)
        told = f"{self.settings.objective} {row['objective']:.4g}" if row["objective"] is not None else ""
        more = row["error"] or told or f"after generation {row['generation']}"
        ahead = "" if best is None else f"; best so far: trial {best['trial']}, {best['objective']:.4g}"
        log.info("trial %d is %s: %s%s", number, row["state"], more, ahead)


def cores_of(settings: SweepSettings, slot: int) -> list[int]:
    """Return the CPU cores that the trials of a slot have for themselves; none if they have all.

    Args:
        settings: of the sweep.
        slot: place among the trials at once.
    """
    if settings.at_once == 1 and settings.cores is None:
        return []
    return share_of(sorted(allowed()), slot, settings.at_once, settings.cores)


def _shown(params: object) -> str:
    assert isinstance(params, dict)
    return ", ".join(f"{key} {value}" for key, value in params.items())
