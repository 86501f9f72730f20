"""Random perturbations of one model at several noise scales: what the landscape around it looks like.

The experiment of arXiv 2602.00170, appendix G, with per-prompt rewards kept, and seeds from which any
candidate can be made again.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from es_lightning.algorithm.population import Population
from es_lightning.errors import UsageError
from es_lightning.landscape.landscape import Landscape
from es_lightning.landscape.probing.results import Candidate, ProbeResults
from es_lightning.landscape.probing.store import ProbeStore, check_begun
from es_lightning.records import Member

log = logging.getLogger(__name__)
T = TypeVar("T")
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class ProbeSettings:
    """What a probe draws and evaluates.

    Args:
        sigmas: noise scales, in units of the weights.
        members: candidates M of a batch at each sigma.
        batches: independent batches S, between which results vary. A probe may be continued with more.
        prompts: number P of prompts, the same for all candidates.
        split: whose problems are taken: ``train`` (with the objective of ``data.objective``), ``val`` or
            ``test``.
        pool_seed: which of the split's problems are taken.
        seed: of the candidates' noise. A batch has the same seeds at every sigma.
        antithetic: whether candidates come in pairs with opposite signs.
        largest: N_max of best-of-N, at most M.

    Raises:
        UsageError: a value is outside its range, or there are fewer candidates than N_max.
    """

    sigmas: Sequence[float] = (0.001, 0.002, 0.004, 0.008)
    members: int = 240
    batches: int = 3
    prompts: int = 64
    split: str = "train"
    pool_seed: int = 0
    seed: int = 1234
    antithetic: bool = False
    largest: int = 50

    def __post_init__(self) -> None:
        """Refuse what no probe can do."""
        if not self.sigmas or any(not 0 < sigma < math.inf for sigma in self.sigmas):
            raise UsageError(f"probe.sigmas is {list(self.sigmas)}: give numbers above 0.")
        if len(set(self.sigmas)) < len(self.sigmas):
            raise UsageError(f"probe.sigmas is {list(self.sigmas)}: give every sigma once.")
        for name, least in (("members", 2), ("batches", 1), ("prompts", 1), ("largest", 1)):
            if getattr(self, name) < least:
                raise UsageError(f"probe.{name} is {getattr(self, name)}: give at least {least}.")
        if self.split not in SPLITS:
            raise UsageError(f"probe.split is {self.split}: give train, val or test.")
        # Of pairs, best-of-N takes the members of one sign at a time.
        independent = self.members // 2 if self.antithetic else self.members
        if self.largest > independent:
            what = "pairs" if self.antithetic else "members"
            raise UsageError(
                f"probe.largest is {self.largest}, but a batch has {independent} {what}, of which no "
                f"{self.largest} can be drawn: raise probe.members, or lower probe.largest."
            )
        Population(self.members, antithetic=self.antithetic)  # refuses half a pair

    def batch(self, index: int) -> tuple[Member, ...]:
        """Return the members of a batch, the same at every sigma."""
        return Population(self.members, self.seed, self.antithetic).members(index)

    def choose(self, problems: Sequence[T]) -> list[T]:
        """Return the prompts of the probe, in their own order.

        Args:
            problems: all of the split.

        Raises:
            UsageError: there are fewer than ``prompts``.
        """
        if len(problems) < self.prompts:
            raise UsageError(
                f"probe.prompts is {self.prompts}, but split {self.split} has {len(problems)} problems: "
                "lower it, or take another split."
            )
        chosen = random.Random(self.pool_seed).sample(range(len(problems)), self.prompts)
        return [problems[index] for index in sorted(chosen)]

    def header(self) -> dict[str, Any]:
        """Return what has to be the same for a probe to go on; ``largest`` is of the report alone."""
        kept = asdict(self) | {"sigmas": list(self.sigmas)}
        del kept["largest"]
        return kept

    def check_begun(self, folder: Path) -> None:
        """Refuse a folder whose probe was begun with other settings, before an engine is started for it.

        Args:
            folder: of the probe; it need not be there.

        Raises:
            UsageError: it holds another probe, or the file is damaged.
        """
        check_begun(folder, self.header())

    @property
    def total(self) -> int:
        """Number of candidates of the whole probe."""
        return len(self.sigmas) * self.members * self.batches


@dataclass(frozen=True)
class Group:
    """The candidates of one batch at one sigma.

    Args:
        batch: its index.
        sigma: noise scale.
        first: number of its first candidate.
        members: seeds and signs.
    """

    batch: int
    sigma: float
    first: int
    members: tuple[Member, ...]

    def chunks(self, size: int) -> Iterator[tuple[int, tuple[Member, ...]]]:
        """Yield the number of the first candidate, and the members, of what is evaluated together."""
        for start in range(0, len(self.members), size):
            yield self.first + start, self.members[start : start + size]


class Probe:
    """Evaluates the candidates of a probe, goes on after a kill, and checks that nothing has moved.

    Args:
        landscape: the model on its prompts, or a landscape with known answers.
        settings: what is drawn.
        folder: where lines and table go.
        about: model, task, sampling and prompts, as plain JSON; a folder with others is refused.
        writes: whether this rank reads and writes the folder; all ranks evaluate.
    """

    def __init__(
        self,
        landscape: Landscape,
        settings: ProbeSettings,
        folder: Path,
        about: Mapping[str, Any] | None = None,
        writes: bool = True,
    ) -> None:
        self.landscape, self.settings, self.folder = landscape, settings, folder
        self.header = settings.header() | dict(about or {})
        self.writes = writes

    def groups(self) -> Iterator[Group]:
        """Yield batches and sigmas in their order: a probe that is stopped early has seen every sigma."""
        sigmas, members = self.settings.sigmas, self.settings.members
        for batch in range(self.settings.batches):
            for place, sigma in enumerate(sigmas):
                first = (batch * len(sigmas) + place) * members
                yield Group(batch, sigma, first, self.settings.batch(batch))

    def run(self, tell: Callable[[int, int], None] | None = None) -> ProbeResults:
        """Evaluate what is missing, and write the table.

        Args:
            tell: called with the number of candidates that are done, and of all.

        Returns:
            The results, as they are on disk.

        Raises:
            UsageError: the folder holds another probe, or no candidate of a whole batch has changed the
                reward of any prompt.
            RuntimeError: the centre has changed meanwhile, which would be a fault of this library.
        """
        store = ProbeStore(
            self.folder, self.header, self.landscape.at_once, self.writes, self.landscape.share
        )
        checksum, centre = self.landscape.checksum(), self.landscape.centre()
        if store.centre is None:
            store.add_centre(centre, checksum)
        self._same(store, centre, checksum, "before")
        for group in self.groups():
            if group.batch:  # every sigma has been seen
                self._require_change(store)
            for first, members in group.chunks(self.landscape.at_once):
                if first < len(store.candidates):
                    continue
                rewards = self.landscape.members(members, group.sigma)
                store.add(
                    [
                        Candidate(first + n, group.sigma, group.batch, each.seed, each.sign, tuple(row))
                        for n, (each, row) in enumerate(zip(members, rewards.tolist(), strict=True))
                    ]
                )
                if tell is not None:
                    tell(len(store.candidates), self.settings.total)
        self._require_change(store)
        after = self.landscape.centre()
        self._same(store, after, self.landscape.checksum(), "after")
        return store.results(after)

    def _require_change(self, store: ProbeStore) -> None:
        """Refuse to go on where all candidates so far earn what the centre earns, prompt by prompt.

        One batch at every sigma decides: sigmas stand in any order, and a reward in steps may change at the
        largest alone.
        """
        assert store.centre is not None
        centre = tuple(store.centre["centre"])
        if any(each.rewards != centre for each in store.candidates):
            return
        smallest, largest = min(self.settings.sigmas), max(self.settings.sigmas)
        raise UsageError(
            f"none of {len(store.candidates)} candidates at sigma {smallest:g} to {largest:g} earns anything "
            "else than the centre on any prompt, so more of them would tell nothing: give larger sigmas, "
            "another task, or a reward with more steps, such as --data.objective log_likelihood, and another "
            "--output."
        )

    def _same(self, store: ProbeStore, centre: np.ndarray, checksum: str, when: str) -> None:
        """Compare weights and rewards of the centre with those on disk: restored exactly, and no drift."""
        assert store.centre is not None
        if checksum != store.centre["checksum"]:
            raise RuntimeError(
                f"the centre's checksum is {checksum} {when} the candidates, and was "
                f"{store.centre['checksum']} when the probe began: the base model has changed."
            )
        drift = float(np.mean(centre) - np.mean(store.centre["centre"]))
        if centre.tolist() != store.centre["centre"]:
            log.warning(
                "The same centre earns %+.4g %s the candidates, on %d of %d prompts something else: the "
                "engine does not repeat itself, and changes as small as this say nothing.",
                drift,
                when,
                int((centre != np.asarray(store.centre["centre"])).sum()),
                len(centre),
            )
