"""Cores for ranks: blocks of their own."""

import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from es_lightning.system.affinity import allowed
from es_lightning.system.cores import bind, share_of, use_one_thread_if_tiny


@given(st.integers(1, 64), st.integers(1, 64), st.none() | st.integers(1, 8))
def test_cores_are_shared_out_evenly(count: int, ranks: int, threads: int | None) -> None:
    cores = list(range(10, 10 + count))
    shares = [share_of(cores, rank, ranks, threads) for rank in range(ranks)]
    assert all(share and set(share) <= set(cores) for share in shares)
    assert max(map(len, shares)) <= min(threads or count, count)
    if ranks <= count:
        assert len({core for share in shares for core in share}) == sum(map(len, shares))
        assert threads or max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no threads")
def test_cores_that_were_taken_are_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    made: list[int] = []  # vLLM leaves a function in its place that does nothing
    monkeypatch.setattr(torch, "set_num_threads", made.append)
    before, threads = allowed(), torch.get_num_threads()
    undo = bind([min(before)])
    during, told = allowed(), os.environ["OMP_NUM_THREADS"]
    undo()
    assert (during, told) == ({min(before)}, "1")
    assert (allowed(), os.environ["OMP_NUM_THREADS"]) == (before, "7")
    assert made == [1, threads]


@pytest.mark.parametrize(("width", "calls"), [(8, [1]), (2048, [])])
def test_a_tiny_model_takes_one_thread(width: int, calls: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", made.append)
    use_one_thread_if_tiny(nn.Linear(width, width))
    assert made == calls
