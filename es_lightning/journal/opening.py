"""Open a tuned model by whatever names it: a folder, a hub id, a run, or a generation of a journal."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from es_lightning.algorithm.tensors import StoredWeights
from es_lightning.distributed.ranks import Ranks
from es_lightning.errors import UsageError
from es_lightning.journal.entry import JOURNAL, read_journal
from es_lightning.journal.identity import same_files
from es_lightning.journal.replay import rebuild, up_to
from es_lightning.models import BaseModel

log = logging.getLogger(__name__)

EXPORT = "model"  # the folder of a run's export within that of the run
WAYS = "a Hugging Face folder or hub id, a run's folder, or RUN:GENERATION"
IMMATERIAL = frozenset(
    {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache", "architectures"}
    | {"bos_token_id", "eos_token_id", "pad_token_id"}
)
"""Settings of a config.json that change nothing of what weights compute."""


@dataclass(frozen=True)
class TunedModel:
    """A model with the shapes of a base model, whose tensors are read one at a time.

    Args:
        name: as the user gave it.
        weights: by the base model's names.
        digest: changes with any bit of any weight.
    """

    name: str
    weights: StoredWeights
    digest: str


@dataclass(frozen=True)
class Place:
    """Where a tuned model is.

    Args:
        model: a folder or a hub id; None if it has to be rebuilt from the journal.
        journal: of the run that made it; None if that is not known.
        generation: the last update of the journal that it has; None takes the journal's last.
    """

    model: str | None
    journal: Path | None
    generation: int | None = None


def open_centres(
    references: Sequence[str], base: BaseModel, scratch: Path, ranks: Ranks | None = None
) -> list[TunedModel]:
    """Open tuned models; all ranks have to call it, and the first one rebuilds what a journal tells of.

    Args:
        references: see ``locate``.
        base: the model that all of them were tuned from, or share their shapes with.
        scratch: folder for rebuilt models, float32; the ranks share it. The caller removes it.
        ranks: the ranks; None for a single process.

    Raises:
        UsageError: there is no such model, or it has other shapes or another base; one sentence says which.
    """
    ranks, opened, refusal = ranks or Ranks(), list[TunedModel](), ""
    if ranks.rank == 0:
        try:
            opened = [open_centre(each, base, scratch) for each in references]
        except UsageError as error:
            refusal = str(error)  # raised after the exchange: the other ranks wait for this one
    told = ranks.from_first(refusal.encode()).decode()
    if told:
        raise UsageError(told)
    # Now that the rebuilt models are on disk, the other ranks find them there.
    return opened or [open_centre(each, base, scratch) for each in references]


def open_centre(reference: str, base: BaseModel, scratch: Path) -> TunedModel:
    """Open one tuned model; see ``open_centres``."""
    place = locate(reference)
    if place.journal is not None:
        _check_base(reference, place.journal, base)
    if place.model is None:
        return _rebuilt(reference, place, base, scratch)
    model = BaseModel(place.model, base.trust_remote_code)
    _check_shapes(reference, model, base)
    return TunedModel(reference, model.weights, digest_of(model))


def digest_of(model: BaseModel) -> str:
    """Return the digest of a model's weights, as its files hold them; their names do not count."""
    hashes = sorted(value for name, value in model.hashes().items() if name != "config.json")
    return hashlib.sha256(" ".join(hashes).encode()).hexdigest()[:16]


def locate(reference: str) -> Place:
    """Find out what a reference stands for; nothing is read but the names of files.

    A run's folder stands for its final centre: its export, or without one what its journal leads to. Other
    centres of a run are RUN/best, RUN/exported/step=N and, in float32 and bit for bit, RUN:GENERATION.

    Args:
        reference: a Hugging Face folder or hub id, ``embedded``, a run's folder, its journal.jsonl, or one of
            the last two with ``:GENERATION`` behind it, the last generation whose update the model has.

    Raises:
        UsageError: it leads to none of these.
    """
    path = Path(reference).expanduser()
    before, colon, generation = reference.rpartition(":")
    if colon and not path.exists() and generation.isdecimal():
        return Place(None, _journal_of(before), int(generation))
    if (path / "config.json").is_file():
        beside = path.parent if path.name == EXPORT else path
        return Place(str(path), beside / JOURNAL if (beside / JOURNAL).is_file() else None)
    if (path / EXPORT / "config.json").is_file():
        return locate(str(path / EXPORT))
    if path.exists():
        return Place(None, _journal_of(reference))
    return Place(reference, None)  # the base model's own rules say whether there is one


def _journal_of(reference: str) -> Path:
    path = Path(reference).expanduser()
    journal = path / JOURNAL if path.is_dir() else path
    if not journal.exists():
        raise UsageError(f"there is no model and no {JOURNAL} in {path}: give {WAYS}.")
    return journal


def _rebuilt(reference: str, place: Place, base: BaseModel, scratch: Path) -> TunedModel:
    """Rebuild a centre from its journal, unless that was done, into files: it is not kept in memory."""
    assert place.journal is not None
    _, entries = read_journal(place.journal)
    wanted = up_to(entries, place.generation, place.journal)[-1].checksum
    folder = scratch / wanted
    if not (folder / "config.json").is_file():
        log.info("rebuilding %s from its journal ...", reference)
        rebuild(place.journal, place.generation, base.name, base.trust_remote_code).write(
            folder, torch.float32
        )
    return TunedModel(reference, BaseModel(folder, base.trust_remote_code).weights, wanted)


def _check_base(reference: str, journal: Path, base: BaseModel) -> None:
    header, _ = read_journal(journal)
    files = header.get("base_files")
    if isinstance(files, Mapping) and not same_files(files, base.hashes()):
        raise UsageError(
            f"{reference} was tuned from {header.get('base')}, whose files are not those of model.base "
            f"{base.name}: give --model.base {header.get('base')}, or another model."
        )


def _check_shapes(reference: str, model: BaseModel, base: BaseModel) -> None:
    """Refuse a model whose parameters are others than the base model's, tied ones counted once.

    Raises:
        UsageError: the message names the first that differs.
    """
    theirs, ours = _shapes(model), _shapes(base)
    for name in [*ours, *theirs]:
        if theirs.get(name) != ours.get(name):
            raise UsageError(
                f"{reference} is no model of the kind of model.base {base.name}: {name} is "
                f"{_words(theirs.get(name))} there, and {_words(ours.get(name))} in the base."
            )
    configs = [model.config.to_dict(), base.config.to_dict()]
    names = sorted({*configs[0], *configs[1]} - IMMATERIAL)
    if (others := [name for name in names if configs[0].get(name) != configs[1].get(name)]) and _first():
        log.warning(
            "config.json of %s has another %s than that of %s, which its weights are used with here.",
            *(reference, " and ".join(others), base.name),
        )


def _shapes(model: BaseModel) -> dict[str, list[int]]:
    return {name: list(parameter.shape) for name, parameter in model.blueprint.named_parameters()}


def _words(shape: Any) -> str:
    return "missing" if shape is None else f"of shape {shape}"


def _first() -> bool:
    return os.environ.get("RANK", "0") == "0"
