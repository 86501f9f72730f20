"""Which rank makes the gradient of which tensor, and which rank holds which, where ranks divide the work."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
P = TypeVar("P", bound=Tensor)
Make = Callable[[str], Tensor]
"""From a parameter's name to its gradient."""
Change = Callable[[str, Tensor], Tensor]
"""From a parameter's name and its value to what is wanted of it."""


def rounds(sizes: Mapping[str, int], world: int) -> list[list[tuple[int, str]]]:
    """Divide tensors among ranks in rounds, after each of which they exchange what they have made.

    A round begins with the largest tensor that is left, and every other rank takes tensors until it has about
    as many elements. So no rank waits long, and none holds more than two of the largest tensor at once.

    Args:
        sizes: number of elements by name.
        world: number of ranks.

    Returns:
        Rounds of pairs of a rank and a name; every name once, the same on every rank.
    """
    left = sorted(sizes, key=lambda name: (-sizes[name], name))
    divided = []
    while left:
        limit, loads, taken = sizes[left[0]], [0] * world, list[tuple[int, str]]()
        for name in left:
            rank = loads.index(min(loads))
            if loads[rank] + sizes[name] > limit:
                continue
            loads[rank] += sizes[name]
            taken.append((rank, name))
        chosen = {name for _, name in taken}
        left = [name for name in left if name not in chosen]
        divided.append(taken)
    return divided


def owners(sizes: Mapping[str, int], ranks: int) -> dict[str, int]:
    """Divide tensors among the ranks of a lane for a whole run: the largest first, each to the emptiest rank.

    Args:
        sizes: number of elements by name.
        ranks: how many.

    Returns:
        The rank of every name, counted from 0, in the order of ``sizes``. No rank holds more than another
        does by more than the largest tensor.
    """
    loads, found = [0] * ranks, dict[str, int]()
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        found[name] = rank = loads.index(min(loads))
        loads[rank] += sizes[name]
    return {name: found[name] for name in sizes}


@dataclass(frozen=True)
class Shards:
    """Which tensors of the centre this process holds: all of them, and it makes all of an update.

    Ranks that divide the centre or the update have a class of their own, ``es_lightning.distributed.shards``.
    Then all ranks that hold a centre together have to call the same method at the same time, and to exhaust
    what it yields.

    Args:
        device: that this process computes on, if its tensors are elsewhere, in host memory; else None.
    """

    device: torch.device | None = field(default=None, kw_only=True)

    @property
    def divided(self) -> bool:
        """Whether there are parameters whose values are elsewhere."""
        return False

    def here(self, tensor: Tensor) -> Tensor:
        """Return a tensor on the device that this process computes on.

        From page-locked memory the copy runs beside Python; the device does not read it before it is whole.
        """
        return tensor.to(self.device, non_blocking=True)

    def holds(self, name: str) -> bool:
        """Whether this process holds a parameter's values, and updates them."""
        return True

    def held(self, named: Iterable[tuple[str, P]]) -> dict[str, P]:
        """Return the parameters whose values are here."""
        return {name: parameter for name, parameter in named if self.holds(name)}

    def gathered(self, found: Mapping[str, T]) -> dict[str, T]:
        """Return what was found of all parameters, given what was found of those that are here.

        Args:
            found: plain values that JSON has, by the parameter's name.
        """
        return dict(found)

    def stream(
        self, named: Iterable[tuple[str, Tensor]], change: Change, dtype: torch.dtype
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield every parameter with a change, in their order.

        Args:
            named: all parameters; those that are elsewhere have shapes alone.
            change: from a parameter's name and its value to what is wanted of it, in the same shape.
            dtype: of what ``change`` returns.
        """
        for name, parameter in named:
            yield name, change(name, parameter)

    def gradients(self, parameters: Mapping[str, Tensor], make: Make) -> Iterator[tuple[str, Tensor]]:
        """Yield the gradients of the parameters that are here, in any order.

        Args:
            parameters: all that are tuned, by name.
            make: from a name to the gradient, contiguous float32 of the parameter's shape.
        """
        for name in self.held(parameters.items()):
            yield name, make(name)

    def all_gradients(self, parameters: Mapping[str, Tensor], make: Make) -> Iterator[tuple[str, Tensor]]:
        """Yield the gradients of all parameters, for those who look before anything is changed."""
        return self.stream(parameters.items(), lambda name, _: make(name), torch.float32)
