"""What the CPU is good at, and the precision that engines take from it."""

import logging

import pytest
import torch

from es_lightning.rollout.engine import DTypeName, model_dtype
from es_lightning.system import hardware

F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16
CPU, GPU = torch.device("cpu"), torch.device("cuda")
XEON = {"architecture": "x86_64", "avx2": True, "avx512_f": True, "avx512_bf16": True, "amx_bf16": True}
EPYC = {"architecture": "x86_64", "avx2": True, "avx512_f": True, "avx512_bf16": True, "amx_bf16": False}
LAPTOP = {"architecture": "x86_64", "avx2": True, "avx512_f": False, "avx512_bf16": False}
GRAVITON = {"architecture": "aarch64", "neon": True, "bf16": True}
RASPBERRY = {"architecture": "aarch64", "neon": True, "bf16": False}


@pytest.mark.parametrize(
    ("cpu", "fast"),
    [(XEON, True), (EPYC, True), (GRAVITON, True), (LAPTOP, False), (RASPBERRY, False), ({}, False)],
)
@pytest.mark.parametrize(
    ("name", "base", "device", "with_instructions", "without"),
    [
        ("auto", BF16, CPU, BF16, F32),
        ("auto", F32, CPU, F32, F32),  # bfloat16 would lose bits of the base model
        ("auto", F16, CPU, F32, F32),  # as above
        ("auto", BF16, GPU, BF16, BF16),
        ("auto", F16, GPU, F16, F16),
        ("auto", F32, GPU, F32, F32),  # vLLM's own "auto" would take bfloat16
        ("bfloat16", BF16, CPU, BF16, BF16),  # what the user names is taken
        ("float32", BF16, CPU, F32, F32),
        ("float16", BF16, GPU, F16, F16),
    ],
)
def test_auto_takes_the_fastest_precision_that_loses_nothing(
    cpu: dict[str, object],
    fast: bool,
    name: DTypeName,
    base: torch.dtype,
    device: torch.device,
    with_instructions: torch.dtype,
    without: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: cpu)
    assert model_dtype(name, base, device) == (with_instructions if fast else without)


@pytest.mark.parametrize("has", [True, False])
def test_an_old_gpu_computes_in_float16_where_the_base_is_bfloat16(
    has: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has)
    assert model_dtype("auto", BF16, GPU) == (BF16 if has else F16)


def test_the_choice_is_said_with_its_reason_by_the_engine_that_starts(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: LAPTOP)
    with caplog.at_level(logging.INFO):
        model_dtype("auto", BF16, CPU)  # whoever only asks says nothing
        assert not caplog.messages
        model_dtype("auto", BF16, CPU, tell=True)
    assert caplog.messages == ["The engine computes in float32, the fastest on this CPU (avx2)."]


def test_the_machine_is_named_with_its_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: EPYC)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "with avx2, avx512_f, avx512_bf16, " in hardware.machine()


def test_auto_never_asks_for_float64() -> None:
    assert model_dtype("auto", torch.float64, GPU) == torch.float32
    assert model_dtype("auto", torch.float64, CPU) == torch.float32
