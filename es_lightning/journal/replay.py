"""Rebuild the centre of any generation from a base model and a journal, bit for bit, without rollouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from es_lightning.algorithm.noise import Noise, noise_of
from es_lightning.algorithm.regularisers import Regulariser
from es_lightning.algorithm.shares import Shards
from es_lightning.algorithm.tensors import StoredWeights, checksum
from es_lightning.algorithm.update import apply_update
from es_lightning.errors import UsageError
from es_lightning.journal.entry import FORMAT, MENDING, Entry, lineage, read_journal
from es_lightning.journal.header import differences, replayed_from
from es_lightning.journal.hyper import set_hyper_parameters
from es_lightning.journal.parts import optimizer_of, regulariser_of
from es_lightning.journal.schema import replay_fault
from es_lightning.models import BaseModel
from es_lightning.models.card import rebuilt_card


def replay(
    journal: Path,
    output: Path,
    generation: int | None = None,
    base: str | None = None,
    trust_remote_code: bool = False,
) -> Entry:
    """Rebuild the Hugging Face model of a generation and write it to a folder.

    Args:
        journal: a run's journal.jsonl.
        output: folder to write; must not exist yet.
        generation: index of the last generation whose update the model has; None takes the journal's last.
        base: where the base model is, if it is no longer where the run had it.
        trust_remote_code: run Python code that comes with the model, and optimizers from outside torch.

    Returns:
        The journal's entry of that generation; its checksum is that of the model.

    Raises:
        UsageError: the journal, the base model, the optimizer or the noise cannot reproduce the run bit for
            bit; the message says which of them differs.
    """
    if output.exists():
        raise UsageError(f"{output} exists already: give another --output, or remove it.")
    rebuilt = rebuild(journal, generation, base, trust_remote_code)
    rebuilt.write(output)
    return rebuilt.entry


@dataclass(frozen=True)
class Rebuilt:
    """A centre that was rebuilt from a journal.

    Args:
        model: the base model.
        centre: float32 parameters under the base model's names.
        header: the journal's first line.
        entry: the journal's entry of the last update; its checksum is the centre's.
    """

    model: BaseModel
    centre: nn.Module
    header: Mapping[str, Any]
    entry: Entry

    def write(self, folder: Path, dtype: torch.dtype | None = None) -> None:
        """Write the centre as a Hugging Face folder, which is replaced as a whole.

        Args:
            folder: where to write.
            dtype: precision of the parameters in the files; None takes the base model's.
        """
        entry = self.entry
        card = rebuilt_card(self.header, entry.generation, entry.checksum, entry.reward["mean"])
        self.model.export(self.centre, folder, card, dtype=dtype)


def rebuild(
    journal: Path,
    generation: int | None = None,
    base: str | None = None,
    trust_remote_code: bool = False,
) -> Rebuilt:
    """Rebuild the centre of a generation in memory.

    Args:
        journal: a run's journal.jsonl.
        generation: index of the last generation whose update it has; None takes the journal's last.
        base: where the base model is, if it is no longer where the run had it.
        trust_remote_code: run Python code that comes with the model, and optimizers from outside torch.

    Raises:
        UsageError: see ``replay``.
    """
    header, entries = read_journal(journal)
    if wrong := replay_fault(header):
        raise UsageError(f"{journal} is damaged in line 1: its header {wrong}. {MENDING}")
    wanted = up_to(entries, generation, journal)
    model, noise = BaseModel(base or header["base"], trust_remote_code), noise_of(header["noise"])
    present = {**header, "es_lightning_journal": FORMAT, **replayed_from(model, noise)}
    if different := differences(header, present):
        raise UsageError(f"this is not what the run was made with: {different}. Give its base with --base.")
    centre = model.load()
    optimizer = optimizer_of(header["optimizer"], centre, trust_remote_code)
    regularisers = [regulariser_of(each, trust_remote_code) for each in header.get("regularisers", [])]
    for entry in wanted:
        repeat(entry, centre, optimizer, noise, model.weights, regularisers)
        actual = checksum(centre.named_parameters())
        if actual != entry.checksum:
            raise UsageError(
                f"generation {entry.generation} came out with checksum {actual}, the journal has "
                f"{entry.checksum}: replay on the kind of device and with the versions of the run, "
                f"{header['versions']} on {header.get('device')}."
            )
    return Rebuilt(model, centre, header, wanted[-1])


def up_to(entries: Sequence[Entry], generation: int | None, journal: Path) -> list[Entry]:
    """Return the updates that lead to the centre after a generation, in order.

    Args:
        entries: all entries of a journal.
        generation: index of the last update; None takes the journal's last.
        journal: the file, for messages.

    Raises:
        UsageError: the journal has no such generation.
    """
    if not entries:
        raise UsageError(f"{journal} holds no generation yet: there is nothing to replay.")
    last = entries[-1].generation if generation is None else generation
    if not 0 <= last < len(entries):
        raise UsageError(
            f"{journal} holds generations 0 to {len(entries) - 1}: choose --generation among them."
        )
    return lineage(entries, last)


def repeat(
    entry: Entry,
    centre: nn.Module,
    optimizer: Optimizer,
    noise: Noise,
    base: StoredWeights | None = None,
    regularisers: Sequence[Regulariser] = (),
    shards: Shards | None = None,
) -> None:
    """Repeat the update of a generation.

    Args:
        entry: the generation's entry.
        centre: the centre before that update, changed in place.
        optimizer: the centre's optimizer, in its state before that update.
        noise: the run's noise.
        base: weights of the base model, which are read only if a regulariser needs them.
        regularisers: the run's parts that change the update.
        shards: which tensors of the centre are here.
    """
    set_hyper_parameters(optimizer, entry.hyper)
    if not entry.skipped:
        named = centre.named_parameters()
        base = base if any(part.needs_base for part in regularisers) else None
        apply_update(optimizer, named, entry.members, entry.weights, noise, base, regularisers, shards=shards)
