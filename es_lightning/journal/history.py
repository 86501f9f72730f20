"""The history of a run: its journal, its present centre, and how to restore an earlier one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from es_lightning.algorithm.noise import Noise
from es_lightning.algorithm.regularisers import Regulariser
from es_lightning.algorithm.tensors import StoredWeights, checksum
from es_lightning.distributed.ranks import Ranks
from es_lightning.errors import UsageError
from es_lightning.journal.entry import JOURNAL, Entry, lineage, parse
from es_lightning.journal.evaluations import RunEvaluations
from es_lightning.journal.restore import go_back
from es_lightning.journal.run import Past, RunJournal
from es_lightning.records import Generation
from es_lightning.system.files import to_json

log = logging.getLogger(__name__)


class History:
    """The generations of a run, known to all ranks; rank 0 writes each to disk before the next one starts.

    A generation that an earlier process finished is repeated from the journal, without rollouts.
    """

    def __init__(self) -> None:
        self.journal = RunJournal()
        self.evaluations = RunEvaluations()
        self.saved: list[str] | None = None
        """Journal lines from a checkpoint; [] resumes a run from its journal alone, None starts a new run."""
        self.parent: int | None = None
        """Generation whose centre the next update starts from, if not the previous one; -1 is the base."""
        self.checksum = ""
        """Checksum of the present centre; empty until the run has begun."""
        self._path = Path(JOURNAL)

    @property
    def lines(self) -> list[str]:
        """The lines of the journal so far, the header first, without newlines."""
        return self.journal.lines

    @property
    def entries(self) -> list[Entry]:
        """The journal's entries so far, one per generation."""
        return parse(self.lines, self._path)[1]

    @property
    def header(self) -> dict[str, Any]:
        """The journal's first line."""
        return parse(self.lines, self._path)[0]

    def lineage(self) -> list[Entry]:
        """The updates that led from the base model to the present centre, in order."""
        entries = self.entries
        return lineage(entries, len(entries) - 1 if self.parent is None else self.parent)

    # Beginning ------------------------------------------------------------------------------------

    def open(
        self, folder: Path, header: Callable[[], Mapping[str, Any]], generation: int, ranks: Ranks
    ) -> None:
        """Start a journal, or continue one.

        Args:
            folder: the run's folder.
            header: makes the journal's first line; called on rank 0 only, since it hashes the base model.
            generation: index of the next generation; the centre is in its state before that generation.
            ranks: the run's ranks, of which rank 0 writes the files.

        Raises:
            UsageError: the folder holds the journal of another run, or of this run with other settings; or
                the checkpoint is ahead of its journal.
            RankError: rank 0 starts from another generation.
        """
        self._path = folder / JOURNAL
        writes = ranks.rank == 0
        self.journal.open(
            folder=folder,
            header=header() if writes else {},
            generation=generation,
            saved=self.saved,
            writes=writes,
            share=ranks.from_first,
        )
        self._require(generation)
        resumes = self.saved is not None or generation > 0
        self.evaluations.open(folder, self.journal.known, resumes, writes)

    def open_without_files(self, header: Callable[[], Mapping[str, Any]], generation: int) -> None:
        """Start the journal in memory only, for a trial run (``fast_dev_run``) that leaves no files."""
        self.journal.lines = list(self.saved or [to_json(header())])
        self._require(generation)

    def _require(self, generation: int) -> None:
        known = len(self.entries)
        if known < generation:
            raise UsageError(
                f"the checkpoint has seen {generation} generations and its journal {known}: it "
                "was written after a failure. Give an earlier --ckpt_path."
            )

    # One generation -------------------------------------------------------------------------------

    def past(self, generation: int) -> Past | None:
        """Return, once, a generation that an earlier process finished; None if none did."""
        return self.journal.past(generation)

    def knows(self, generation: int) -> bool:
        """Whether a generation is still to be repeated from the journal."""
        return self.journal.knows(generation)

    def add(
        self, record: Generation, hyper: Mapping[str, Any], centre: str, past: Past | None = None
    ) -> None:
        """Add a generation after its update; it is on disk when this returns.

        Args:
            record: the generation's record.
            hyper: the optimizer's settings in the update.
            centre: checksum of the centre after the update.
            past: what ``past`` returned, if the generation was repeated from the journal.

        Raises:
            StorageError: the disk is full or the folder cannot be written.
            UsageError: a repeated update has led to another centre.
        """
        if past is None:
            self.journal.append(Entry.of(record, hyper, centre, self.parent), record.rewards)
        else:
            self.journal.repeat(past, centre)
        self.checksum, self.parent = centre, None

    # Going back -----------------------------------------------------------------------------------

    def restore(
        self,
        generation: int,
        centre: nn.Module,
        optimizer: Optimizer,
        noise: Noise,
        base: StoredWeights,
        folders: Iterable[Path] = (),
        ranks: Ranks | None = None,
        regularisers: Sequence[Regulariser] = (),
    ) -> None:
        """Put centre and optimizer back in their state before a generation; all ranks have to call it.

        Args:
            generation: number of updates that the wanted centre has seen; 0 is the base model.
            centre: float32 parameters, changed in place.
            optimizer: the centre's optimizer; its learning rates and other settings stay as they are.
            noise: the run's noise.
            base: weights of the base model.
            folders: folders with checkpoints, which save repeating the updates before them.
            ranks: the run's ranks.
            regularisers: the run's parts that change the update.

        Raises:
            UsageError: the journal does not lead to that centre.
        """
        entries = self.entries
        if not 0 <= generation <= len(entries):
            raise UsageError(
                f"the centre of generation {generation} cannot be restored: it is still to come."
            )
        path = lineage(entries, generation - 1)
        ranks = ranks or Ranks()
        go_back(path, centre, optimizer, noise, base, folders, ranks, regularisers)
        self.checksum = checksum(centre.named_parameters(), ranks.shards)
        if path and self.checksum != path[-1].checksum:
            raise UsageError(
                f"the journal leads to centre {self.checksum} before generation {generation}, where "
                f"{path[-1].checksum} was: library or device have changed since the run began."
            )
        self.parent = None if generation == len(entries) else generation - 1
