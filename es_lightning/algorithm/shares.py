"""Which rank makes the gradient of which tensor, where ranks divide the noise of an update among them."""

from collections.abc import Mapping


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
