"""The share of a device that vLLM takes without a memory_fraction; no engine is started."""

import pytest
import torch

from es_lightning.analysis.room import CPU_FRACTION
from es_lightning.errors import UsageError
from es_lightning.rollout.vllm_environment import CPU_SHARE, free_share


@pytest.mark.parametrize(
    ("free", "left_free", "share"),
    [
        (79.0e9, 0, 0.967),  # 79 / 80 - 0.02, rounded down
        (48.5e9, 4_360_000_000, 0.531),  # beside 7B in float32: (48.5 - 4.36) / 80 - 0.02
        (79.0e9, 3_150_000_000, 0.928),
    ],
)
def test_vllm_takes_what_is_free_and_leaves_what_updates_need(
    monkeypatch: pytest.MonkeyPatch, free: float, left_free: int, share: float
) -> None:
    monkeypatch.setattr(torch.accelerator, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.accelerator, "get_memory_info", lambda: (int(free), int(80e9)))
    assert free_share(left_free) == share
    assert free_share(left_free) * 80e9 <= free - left_free, "vLLM asks for no more than is free"


def test_a_full_device_ends_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.accelerator, "get_memory_info", lambda: (int(3e9), int(80e9)))
    with pytest.raises(UsageError, match=r"3 GB of the device's 80 GB are free, of which updates need 4 GB"):
        free_share(4_000_000_000)


def test_the_plan_and_the_engine_take_the_same_share_of_a_cpu() -> None:
    assert CPU_SHARE == CPU_FRACTION
