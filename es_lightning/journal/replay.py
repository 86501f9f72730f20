"""From a base model and a journal to the centre of any generation, bit for bit and without rollouts."""

import importlib
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from es_lightning.algorithm.noise import Noise, noise_of
from es_lightning.algorithm.tensors import checksum
from es_lightning.algorithm.update import apply_update
from es_lightning.errors import UsageError
from es_lightning.journal.entry import FORMAT, Entry, lineage, read_journal
from es_lightning.journal.header import differences
from es_lightning.journal.hyper import set_hyper_parameters
from es_lightning.models import base_model
from es_lightning.models.card import rebuilt_card
from es_lightning.models.export import export


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
        generation: index of the generation after whose update the model is wanted; None takes the last.
        base: where the base model is, if not where the run had it.
        trust_remote_code: run Python code that comes with the model, and optimizers from outside torch.

    Returns:
        The journal's entry of that generation, whose checksum the model has.

    Raises:
        UsageError: the journal, the base model, the optimizer or the noise cannot give the run's bits; says
            which differs.
    """
    if output.exists():
        raise UsageError(f"{output} exists already: give another --output, or remove it.")
    header, entries = read_journal(journal)
    wanted = _up_to(entries, generation, journal)
    folder = base_model.resolve(base or header["base"])
    dtype = base_model.load_config(folder, trust_remote_code).dtype or torch.float32
    noise = noise_of(header["noise"])
    _check(header, folder, dtype, noise)
    centre = base_model.load_model(folder, trust_remote_code)
    optimizer = _optimizer(header["optimizer"], centre, trust_remote_code)
    for entry in wanted:
        repeat(entry, centre, optimizer, noise)
        found = checksum(centre.named_parameters())
        if found != entry.checksum:
            raise UsageError(
                f"generation {entry.generation} came out with checksum {found}, the journal has "
                f"{entry.checksum}: replay on the kind of device and with the versions of the run, "
                f"{header['versions']} on {header.get('device')}."
            )
    last = wanted[-1]
    card = rebuilt_card(header, last.generation, last.checksum, last.reward["mean"])
    export(centre, folder, output, dtype, card)
    return last


def _up_to(entries: Sequence[Entry], generation: int | None, journal: Path) -> list[Entry]:
    if not entries:
        raise UsageError(f"{journal} holds no generation yet: there is nothing to replay.")
    last = entries[-1].generation if generation is None else generation
    if not 0 <= last < len(entries):
        raise UsageError(
            f"{journal} holds generations 0 to {len(entries) - 1}: choose --generation among them."
        )
    return lineage(entries, last)


def _check(header: dict[str, Any], folder: Path, dtype: torch.dtype, noise: Noise) -> None:
    present = {
        **header,
        "es_lightning_journal": FORMAT,
        "base_files": base_model.file_hashes(folder),
        "dtype": str(dtype).removeprefix("torch."),
        "noise": noise.version,
    }
    if different := differences(header, present):
        raise UsageError(f"this is not what the run was made with: {different}. Give its base with --base.")


def repeat(entry: Entry, centre: nn.Module, optimizer: Optimizer, noise: Noise) -> None:
    """Make the update of a generation once more.

    Args:
        entry: of the generation.
        centre: as it was before, changed in place.
        optimizer: over the centre, in the state it was in before.
        noise: the run's.
    """
    set_hyper_parameters(optimizer, entry.hyper)
    if not entry.skipped:
        apply_update(optimizer, centre.named_parameters(), entry.members, entry.weights, noise)


def _optimizer(described: dict[str, Any], centre: nn.Module, trust_remote_code: bool) -> Optimizer:
    module, _, name = described["class"].rpartition(".")
    if not f"{module}.".startswith("torch.optim.") and not trust_remote_code:
        raise UsageError(
            f"the run's optimizer {described['class']} is not torch's own: look at its code, then give "
            "--trust_remote_code true to import it."
        )
    if described["groups"] != 1:
        raise UsageError("the run's optimizer has several parameter groups, which a journal does not hold.")
    kind = getattr(importlib.import_module(module), name)
    known = inspect.signature(kind.__init__).parameters
    settings = {key: value for key, value in described["settings"].items() if key in known}
    optimizer: Optimizer = kind(centre.parameters(), **settings)
    return optimizer
