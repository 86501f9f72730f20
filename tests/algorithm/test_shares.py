"""Tensors divided among ranks: each once, evenly, and never much of them held at once."""

from hypothesis import given
from hypothesis import strategies as st

from es_lightning.algorithm.shares import owners, rounds

SIZES = st.dictionaries(st.text("abc", min_size=1, max_size=4), st.integers(0, 1000), max_size=30)


@given(sizes=SIZES, world=st.integers(1, 9))
def test_every_tensor_is_made_once_and_no_rank_holds_more_than_the_largest(
    sizes: dict[str, int], world: int
) -> None:
    divided = rounds(sizes, world)
    assert sorted(name for each in divided for _, name in each) == sorted(sizes)
    for each in divided:
        assert all(0 <= rank < world for rank, _ in each)
        held = [sum(sizes[name] for rank, name in each if rank == mine) for mine in range(world)]
        assert max(held) == max(sizes[name] for _, name in each)
    assert rounds(dict(reversed(sizes.items())), world) == divided


@given(sizes=SIZES, ranks=st.integers(1, 9))
def test_every_tensor_has_one_owner_and_no_rank_holds_much_more_than_another(
    sizes: dict[str, int], ranks: int
) -> None:
    found = owners(sizes, ranks)
    assert list(found) == list(sizes)
    loads = [sum(sizes[name] for name, rank in found.items() if rank == mine) for mine in range(ranks)]
    assert sum(loads) == sum(sizes.values())
    assert max(loads) - min(loads) <= max(sizes.values(), default=0)
    assert owners(dict(reversed(sizes.items())), ranks) == found


def test_a_transformer_divides_evenly() -> None:
    """The tensors of SmolLM2-135M, whose embedding is a fifth of it."""
    layer = {"q": 576 * 576, "k": 192 * 576, "v": 192 * 576, "o": 576 * 576, "norm": 576}
    layer |= {"gate": 1536 * 576, "up": 1536 * 576, "down": 1536 * 576, "norm 2": 576}
    sizes = {f"{index} {name}": size for index in range(30) for name, size in layer.items()}
    sizes |= {"embedding": 49152 * 576, "norm": 576}
    whole = sum(sizes.values())
    for world in (1, 2, 3, 4):
        # In every round all wait for the rank that has most, which has as much as the largest tensor.
        waited = sum(max(sizes[name] for _, name in each) for each in rounds(sizes, world))
        assert whole <= world * waited < 1.01 * whole
        held = owners(sizes, world)
        most = max(sum(sizes[name] for name in sizes if held[name] == rank) for rank in range(world))
        assert whole <= world * most < 1.01 * whole
