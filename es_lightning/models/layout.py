"""How the tensors of a model's files become those of the model in memory, and back.

Files may give a tensor another name, or hold its parts: one for each expert, say, where the model has one for
all experts. transformers has a mapping for each family. Here it is applied to one tensor at a time, so that
no second model is held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel
    from transformers.core_model_loading import WeightConverter, WeightRenaming

    from es_lightning.models.weights import Stored

Read = Callable[[Sequence[str]], list["Tensor"]]


@dataclass(frozen=True)
class Piece:
    """Stored tensors and what they become together.

    Args:
        stored: their names in the files, in the mapping's order.
        patterns: for each, the pattern of the mapping that it fits.
        renamed: for each, its name after renaming and before it is joined with others or split.
        target: the name under which the mapping collects them.
        converter: joins, splits or turns them; None where the one stored tensor is the model's.
        shapes: what comes out, by the model's names.
    """

    stored: tuple[str, ...]
    patterns: tuple[str, ...]
    renamed: tuple[str, ...]
    target: str
    converter: WeightConverter | None
    shapes: Mapping[str, tuple[int, ...]]


class Layout:
    """The mapping between the tensors of a model's files and those of the model.

    Args:
        model: the model in memory; it may be on the meta device. It is kept, and only its names count.
        entries: what the files hold, by name.

    Raises:
        Exception: whatever transformers raises where parts do not fit together.
    """

    def __init__(self, model: PreTrainedModel, entries: Mapping[str, Stored]) -> None:
        self._model, self.unused = model, set[str]()
        self._pieces_of = {name: piece for piece in self._pieces(entries) for name in piece.shapes}
        self._stands_for: dict[str, str] = {}
        for first, *others in _shared(model):  # a tied tensor may be stored under any of its names
            held = next((name for name in others if name in self._pieces_of), None)
            if first not in self._pieces_of and held is not None:
                self._stands_for[first] = held

    def __contains__(self, name: str) -> bool:
        return self._held(name) in self._pieces_of

    def _held(self, name: str) -> str:
        return self._stands_for.get(name, name)

    def piece(self, name: str) -> Piece:
        """Return the stored tensors that a tensor of the model is made of."""
        return self._pieces_of[self._held(name)]

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape that a tensor of the model has according to the files."""
        return self.piece(name).shapes[self._held(name)]

    def read(self, name: str, read: Read) -> Tensor:
        """Return one tensor of the model.

        Args:
            name: in the model.
            read: returns stored tensors by their names.
        """
        piece = self.piece(name)
        tensors = read(piece.stored)
        if piece.converter is None:
            return tensors[0]
        made = self._convert(piece.converter, piece.target, piece.stored, piece.patterns, tensors)
        return made[self._held(name)]

    def stored(self, piece: Piece, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Turn tensors of the model into those that the files hold.

        Args:
            piece: what belongs together.
            tensors: all tensors that the piece becomes, by the model's names.

        Raises:
            ValueError: transformers' mapping does not lead back.
        """
        from transformers.core_model_loading import rename_source_key

        held = {self._held(name): tensor for name, tensor in tensors.items()}
        if piece.converter is None:
            return {piece.stored[0]: held[piece.target]}
        reverse: Any = piece.converter.reverse_transform()
        first = ""
        for name in piece.shapes:
            collected, pattern = rename_source_key(name, [], [reverse], reverse=True)
            first = first or collected
            reverse.add_tensor(collected, name, pattern, held[name])
        made = _single(reverse.convert(first, model=self._model, config=self._model.config))
        return self._named_as_stored(piece, made)

    def _named_as_stored(self, piece: Piece, made: Mapping[str, Tensor]) -> dict[str, Tensor]:
        prefix = f"{self._model.base_model_prefix}."
        names: dict[str, str] = {}
        for renamed, stored in zip(piece.renamed, piece.stored, strict=True):
            # The files of a model without its head lack the prefix.
            names |= dict.fromkeys((renamed, prefix + renamed, renamed.removeprefix(prefix)), stored)
        if len(made) != len(piece.stored) or {names.get(name) for name in made} != set(piece.stored):
            raise ValueError(f"transformers makes {', '.join(list(made)[:2])} of {piece.target}")
        return {names[name]: tensor for name, tensor in made.items()}

    def _convert(
        self,
        converter: WeightConverter,
        target: str,
        names: Iterable[str],
        patterns: Iterable[str],
        tensors: Iterable[Tensor],
    ) -> dict[str, Tensor]:
        fresh: Any = deepcopy(converter)
        for name, pattern, tensor in zip(names, patterns, tensors, strict=True):
            fresh.add_tensor(target, name, pattern, tensor)
        return _single(fresh.convert(target, model=self._model, config=self._model.config))

    def _pieces(self, entries: Mapping[str, Stored]) -> list[Piece]:
        """Sort the stored tensors by what they become, as transformers' loader does."""
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key

        mapping = get_model_conversion_mapping(self._model)
        renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
        converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
        by_pattern = {pattern: each for each in converters for pattern in each.source_patterns}
        names = _Names(self._model, renamings, converters)
        found: dict[str, list[tuple[str, str, str]]] = {}
        for stored in sorted(entries, key=dot_natural_key):
            target, pattern, renamed = names.of(stored)
            if target is None:
                self.unused.add(stored)
            else:
                found.setdefault(target, []).append((stored, pattern or "", renamed))
        return [self._piece(target, parts, by_pattern, entries) for target, parts in found.items()]

    def _piece(
        self,
        target: str,
        parts: Sequence[tuple[str, str, str]],
        by_pattern: Mapping[str, WeightConverter],
        entries: Mapping[str, Stored],
    ) -> Piece:
        converter = by_pattern.get(parts[0][1])
        if converter is None:
            stored, _, before = parts[0]
            return Piece((stored,), ("",), (before,), target, None, {target: entries[stored].shape})
        names, patterns, renamed = (tuple(part[place] for part in parts) for place in range(3))
        empty = [torch.empty(entries[name].shape, device="meta") for name in names]
        made = self._convert(converter, target, names, patterns, empty)
        shapes = {name: tuple(tensor.shape) for name, tensor in made.items()}
        return Piece(names, patterns, renamed, target, converter, shapes)


class _Names:
    """The model's name for each stored one, in the order of the files: some renamings depend on it."""

    def __init__(
        self,
        model: PreTrainedModel,
        renamings: Sequence[WeightRenaming],
        converters: Sequence[WeightConverter],
    ) -> None:
        self._known, self._prefix = model.state_dict(), model.base_model_prefix
        self._renamings, self._converters = renamings, converters
        self._again = deepcopy(renamings)  # they keep what they have seen

    def of(self, stored: str) -> tuple[str | None, str | None, str]:
        """Return the name in the model, or None; the converter's pattern; and the name after renaming."""
        from transformers.core_model_loading import rename_source_key

        place = (self._prefix, self._known)
        target, pattern = rename_source_key(stored, self._renamings, self._converters, *place)
        renamed, _ = rename_source_key(stored, self._again, [])
        if target not in self._known and stored in self._known:  # saved under the names in memory
            target, pattern = rename_source_key(stored, [], [], *place)
            renamed = stored
        return (target if target in self._known else None), pattern, renamed


def tensors_of(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return what a model's files hold of it, by name: parameters, tied ones once, and persistent buffers."""
    return {**dict(model.named_parameters()), **persistent_buffers(model)}


def persistent_buffers(model: torch.nn.Module) -> dict[str, Tensor]:
    """Return the buffers that belong to a model as its parameters do, such as the bias of a router."""
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    state = model.state_dict().items()
    return {name: held for name, held in state if name not in parameters and isinstance(held, torch.Tensor)}


def _shared(model: PreTrainedModel) -> list[list[str]]:
    """Return the names of each tied tensor; the first one is that of ``named_parameters``."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [group for group in names.values() if len(group) > 1]


def _single(made: Mapping[str, Any]) -> dict[str, Tensor]:
    """Unpack what the mapping leaves in lists of one."""
    return {name: held[0] if isinstance(held, list) else held for name, held in made.items()}
