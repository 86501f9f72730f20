"""Cores for ranks: blocks of their own."""

from hypothesis import given
from hypothesis import strategies as st

from es_lightning.system.cores import share_of


@given(st.integers(1, 64), st.integers(1, 64), st.none() | st.integers(1, 8))
def test_cores_are_shared_out_evenly(count: int, ranks: int, threads: int | None) -> None:
    cores = list(range(10, 10 + count))
    shares = [share_of(cores, rank, ranks, threads) for rank in range(ranks)]
    assert all(share and set(share) <= set(cores) for share in shares)
    assert max(map(len, shares)) <= min(threads or count, count)
    if ranks <= count:
        assert len({core for share in shares for core in share}) == sum(map(len, shares))
        assert threads or max(map(len, shares)) - min(map(len, shares)) <= 1
