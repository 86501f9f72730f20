"""Engines that compute with other weights than they were given."""

import os
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from es_lightning.errors import UsageError
from es_lightning.rollout import HFEngine


class Drops(HFEngine):
    """Keeps the first weights of every tensor whose name holds a word.

    Args:
        word: in the names.
        dtype: precision of the weights.
        rank: the only rank that does so; None for all.
    """

    def __init__(self, word: str, dtype: str = "float32", rank: int | None = None) -> None:
        super().__init__(dtype, device="cpu")  # type: ignore[arg-type]
        self.word, self.rank = word, rank

    def load_weights(self, named_tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Load what the engine does not drop."""
        kept = {name: tensor.clone() for name, tensor in self.model.named_parameters()}
        drops = self.rank in (None, int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))))
        super().load_weights(
            (name, kept[name] if drops and self.word in name else tensor) for name, tensor in named_tensors
        )


class SwapsExperts(HFEngine):
    """Takes two experts of the last layer in the wrong order."""

    def load_weights(self, named_tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Swap the first two."""
        super().load_weights(
            (name, tensor[[1, 0, *range(2, len(tensor))]] if "layers.1.mlp.experts" in name else tensor)
            for name, tensor in named_tensors
        )


class OtherKernels(HFEngine):
    """Is right, and rounds in another way than transformers does by default."""

    def start(self, folder: Path, max_length: int) -> None:
        """Take another implementation of attention."""
        super().start(folder, max_length)
        self.model.set_attn_implementation("eager")


class StaleHead(HFEngine):
    """Multiplies with a copy of the tied head that was made at the start."""

    def start(self, folder: Path, max_length: int) -> None:
        """Copy the head."""
        super().start(folder, max_length)
        head = self.model.get_output_embeddings()
        kept = head.weight.detach().clone()
        head.forward = lambda hidden: torch.nn.functional.linear(hidden, kept)


class OneBehind(HFEngine):
    """Takes new experts or MLPs one load too late."""

    _late: dict[str, Tensor] | None = None

    def load_weights(self, named_tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Load the MLPs of the time before."""
        new = dict(named_tensors)
        late = {name: tensor.clone() for name, tensor in new.items() if "mlp" in name}
        super().load_weights((new | (self._late or late)).items())
        self._late = late


class Raises(HFEngine):
    """Knows no names of its model."""

    def load_weights(self, named_tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Fail as a library does."""
        raise ValueError("There is no module or parameter named\n'layers.0.mlp' in MixtralModel.")


class NotFinite(HFEngine):
    """Gives NaN where the model does not."""

    def logprobs(self, sequences: object) -> list[Tensor]:
        """Spoil the last one."""
        rows = super().logprobs(sequences)  # type: ignore[arg-type]
        rows[-1][-1] = torch.nan
        return rows


class InPlace(HFEngine):
    """Has a second way to load weights, with a fault in it.

    Args:
        fault: "" for none; "nothing" leaves all weights as they are, "raises" raises; a part of names keeps
            these weights as they were.
        dtype: precision of the weights.
        insists: whether the user has asked for this way.
    """

    may_write_in_place = True

    def __init__(self, fault: str = "", dtype: str = "float32", insists: bool = False) -> None:
        super().__init__(dtype, device="cpu")  # type: ignore[arg-type]
        self.fault, self.insists = fault, insists
        self.ways: list[bool] = []

    def load_weights(self, named_tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Load rightly, or with the fault."""
        self.ways.append(self.in_place)
        if self.in_place and self.fault == "raises":
            raise ValueError("shapes\ndiffer")
        own = {name: tensor.clone() for name, tensor in self.model.named_parameters()}
        is_kept = {"": "no name", "nothing": ""}.get(self.fault, self.fault)
        super().load_weights(
            (name, own[name] if self.in_place and is_kept in name else tensor)
            for name, tensor in named_tensors
        )

    def refuse_in_place(self, reason: str) -> None:
        """End the run if the user has asked for it."""
        if self.insists:
            raise UsageError(f"engine.load is in_place, but {reason}: take auto or reload.")
        super().refuse_in_place(reason)
