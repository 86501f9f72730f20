"""What a kind of noise is: a pure function eps(seed, name, shape) that gives the same bits everywhere.

There is no generator state. A member's noise is keyed by its 64-bit seed, a tensor's by the seed and the
Hugging Face parameter name, an element's by its row-major index. Every engine, rank, number of threads and
slicing therefore sees the same perturbation.
Notation: n elements in a tensor, N members; the update sums w_n eps_n (Salimans et al. 2017, equation 1).
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from es_lightning.errors import UsageError

Device = torch.device | str


def hash64(text: str) -> int:
    """Return the 64-bit key of a text, the same in every process and on every machine."""
    # blake2b (RFC 7693) instead of hash(), which Python salts anew in every process.
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def member_seed(run_seed: int, generation: int, index: int) -> int:
    """Hash (run seed, generation, member) to the 64-bit key of a member's noise.

    Any integers will do, 0 and negative ones included. Neighbouring run seeds give unrelated noise.

    Returns:
        0 to 2^64 - 1.
    """
    return hash64(f"member/{run_seed}/{generation}/{index}")


class Noise(ABC):
    """A distribution of eps with mean 0 and variance 1, and the two operations that ES needs.

    A new kind defines ``version`` and ``sample``, and ``settings`` if its constructor takes any that change
    the bits. It overrides ``perturbed`` and ``accumulate_`` if it can do without a full tensor of eps, and
    ``perturbs`` if it leaves parameters alone. A kind whose eps are thin products sets ``rank`` and defines
    ``factors``, with which an engine can hold many members at once. One that draws many members faster
    together than one by one overrides ``accumulate_all_``.
    """

    version: ClassVar[str]
    """Identifies the bits. If the bits change, the version must change, so that a replay can refuse it."""

    rank: int = 0
    """Columns of the thin matrices whose product eps is, for every matrix; 0 if it is no such product."""

    def settings(self) -> dict[str, Any]:
        """Return the constructor's arguments that change the bits, in types that JSON has."""
        return {}

    @property
    def identity(self) -> str:
        """What the journal's header records: the version, and the settings as JSON if there are any."""
        settings = self.settings()
        text = json.dumps(settings, sort_keys=True, separators=(",", ":"))
        return f"{self.version} {text}" if settings else self.version

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """Make the kind of noise that has these settings; the opposite of ``settings``."""
        return cls(**settings)

    def perturbs(self, name: str, shape: Sequence[int]) -> bool:
        """Tell whether a parameter gets noise at all; one that does not is frozen."""
        return True

    def check(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Refuse a model of which nothing would be perturbed.

        Args:
            shapes: the model's parameters, by their Hugging Face names.

        Raises:
            UsageError: every parameter is frozen.
        """
        if not any(self.perturbs(name, shape) for name, shape in shapes.items()):
            raise UsageError(
                f"model.noise leaves nothing to tune: all {len(shapes)} parameters are frozen. Let it "
                f"perturb some of them, for example {next(iter(shapes), 'none')}."
            )

    @abstractmethod
    def sample(self, seed: int, name: str, shape: Sequence[int], device: Device = "cpu") -> Tensor:
        """Return eps of one tensor of one member.

        Args:
            seed: 64-bit key of the member, see ``member_seed``; 0 is as good as any other.
            name: the parameter's Hugging Face name.
            shape: the parameter's shape.
            device: where to put the result; it does not change the bits.

        Returns:
            float32 of that shape.
        """

    def factors(
        self, seed: int, name: str, shape: Sequence[int], device: Device = "cpu"
    ) -> tuple[Tensor, Tensor]:
        """Return thin matrices of one matrix, whose product is eps, if ``rank`` is above 0.

        Args:
            seed: 64-bit key of the member.
            name: the parameter's Hugging Face name.
            shape: [..., m, n].
            device: where to put them.

        Returns:
            float32 [..., m, r] and [..., n, r]; eps is the product of the first with the second transposed.

        Raises:
            TypeError: eps is no product.
        """
        raise TypeError(f"eps of {type(self).__name__} is no product of thin matrices")

    def all_factors(
        self, seed: int, shapes: Mapping[str, Sequence[int]], device: Device = "cpu"
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Return the thin matrices of many matrices by their names; a kind may draw them all at once.

        Args:
            seed: 64-bit key of the member.
            shapes: of the parameters, by their Hugging Face names.
            device: where to put them.
        """
        return {name: self.factors(seed, name, shape, device) for name, shape in shapes.items()}

    def perturbed(self, seed: int, name: str, centre: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
        """Return a new tensor ``centre + scale * eps``, cast after product and sum each round to float32.

        Args:
            seed: 64-bit key of the member.
            name: the parameter's Hugging Face name.
            centre: float32; it is not changed.
            scale: sign * sigma, in units of the weights.
            dtype: of the result.

        Returns:
            A contiguous tensor of the centre's shape, on the centre's device.

        Raises:
            TypeError: the centre is not float32.
        """
        require_float32(centre)
        eps = self.sample(seed, name, centre.shape, centre.device)
        return (centre.detach().contiguous() + eps * scale).to(dtype)

    def accumulate_(self, seed: int, name: str, total: Tensor, weight: float) -> None:
        """Add ``weight * eps`` to ``total`` in place; product and sum each round to float32.

        Args:
            seed: 64-bit key of the member.
            name: the parameter's Hugging Face name.
            total: float32, contiguous.
            weight: the member's weight in the update.

        Raises:
            TypeError: ``total`` is not float32.
            ValueError: ``total`` is not contiguous.
        """
        require_float32(total)
        total.add_(self.sample(seed, name, total.shape, total.device) * weight)

    def accumulate_all_(
        self, seeds: Sequence[int], name: str, total: Tensor, weights: Sequence[float]
    ) -> None:
        """Do the same for many members in their order, with the same bits; a kind may draw them all at once.

        Args:
            seeds: 64-bit keys of the members.
            name: the parameter's Hugging Face name.
            total: float32, contiguous.
            weights: the members' weights in the update.
        """
        for seed, weight in zip(seeds, weights, strict=True):
            self.accumulate_(seed, name, total, weight)


def require_float32(tensor: Tensor) -> None:
    """Refuse a tensor in any other precision, since noise is added in float32.

    Raises:
        TypeError: the tensor is not float32.
    """
    if tensor.dtype != torch.float32:
        raise TypeError(f"noise is added in float32, not {tensor.dtype}; keep the centre in float32")


def noise_of(identity: str) -> Noise:
    """Return the kind of noise that an identity stands for, with its settings; see ``Noise.identity``.

    Raises:
        UsageError: this library has no kind with that version, or the kind does not take these settings, or
            it has others.
    """
    # Abstract kinds, such as TableNoise, have no version.
    kinds = {kind.version: kind for kind in _kinds(Noise) if hasattr(kind, "version")}
    version, _, text = identity.partition(" ")
    if version not in kinds:
        raise UsageError(
            f"the run's noise was {_short(version)}, and this library makes {', '.join(sorted(kinds))}: use "
            "the version that the run was made with."
        )
    kind: type[Noise] = kinds[version]
    try:
        noise = kind.from_settings(json.loads(text or "{}"))
        if noise.identity != identity:  # as where a setting is missing: what it was then is not known
            raise ValueError(f"it would be {_short(noise.identity)}")
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise UsageError(
            f"the run's noise {_short(identity)} has settings that {kind.__name__} does not take "
            f"({error}): use the version that the run was made with."
        ) from error
    return noise


def _short(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:117]}..."


def _kinds(kind: type) -> Iterator[type]:
    children: list[type] = kind.__subclasses__()
    for child in children:
        yield child
        yield from _kinds(child)
