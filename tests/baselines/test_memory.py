"""What TRL takes beside the engine: the formulas against autograd, and the refusals."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from es_lightning.baselines.memory import KEPT, KEPT_HALVED, Needed, needed
from es_lightning.baselines.settings import BaselineSettings
from es_lightning.cli import main
from es_lightning.models import BaseModel
from es_lightning.models.size import ModelSize, size_of
from es_lightning.rollout import HFEngine
from tests.baselines.test_baselines import CONFIG

SIZE = ModelSize({"embed": (50, 4), "up": (10, 4)}, 6, 1, 1, torch.bfloat16, frozenset({"up"}))
SETTINGS = BaselineSettings(group=3, minibatch=2)


def test_weights_moments_gradients_and_what_a_backward_pass_keeps_are_held_together() -> None:
    found = needed(SIZE, SETTINGS, length=7, halved=False)
    assert found == Needed(4 * 3 * 240, 4 * 240 + KEPT * 14 * 7 * 2)
    assert found.total == found.always + found.learning


def test_memory_grows_with_a_reference_and_with_copies_in_bfloat16() -> None:
    plain = needed(SIZE, SETTINGS, length=7, halved=False)
    priced = needed(SIZE, replace(SETTINGS, beta=0.1), length=7, halved=False)
    assert priced == plain._replace(always=4 * 4 * 240)
    halved = needed(SIZE, SETTINGS, length=7, halved=True)
    assert halved == Needed(plain.always + 2 * 40, 4 * 240 + KEPT_HALVED * 14 * 7 * 2)


@pytest.mark.parametrize("halved", [False, True])
def test_autograd_keeps_at_least_what_is_counted(halved: bool) -> None:
    base = BaseModel("tiny")
    model = base.load().requires_grad_(True)
    ids, own = torch.ones(4, 100, dtype=torch.long), {id(each) for each in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if id(tensor) not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    autocast = torch.autocast("cpu", torch.bfloat16, enabled=halved)
    with autocast, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.base_model(ids, attention_mask=ids, use_cache=False)
    found = sum(each.untyped_storage().nbytes() for each in kept.values())
    size = size_of(base.config, base.blueprint)
    settings = BaselineSettings(group=4, minibatch=4)
    counted = needed(size, settings, length=100, halved=halved)
    copies = counted.always - 3 * 4 * size.parameters
    learning = counted.learning - 4 * size.parameters + copies
    assert 0.6 * found < learning < found


# Refusals


def refusal(free: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("es_lightning.cli.baseline.require_trl", lambda: None)
    monkeypatch.setattr("es_lightning.cli.baseline.free_memory", lambda device: free)
    monkeypatch.setattr(HFEngine, "start", lambda *_: pytest.fail("the engine was started"))
    with pytest.raises(SystemExit) as stopped:
        main(["baseline", "-c", "mine.yaml"])
    assert stopped.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("free", "way_out"),
    [
        (1000, "take a smaller model."),
        (2_000_000, "take a smaller model, or lower baseline.minibatch."),
    ],
)
def test_memory_that_is_too_small_is_refused_before_the_engine_starts(
    free: int,
    way_out: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(CONFIG)
    said = refusal(free, capsys, monkeypatch)
    assert f"{free / 1e9:.1f} GB are free: {way_out}" in said
    assert "(115,264 parameters in float32" in said
    assert "8 completions in a backward pass" in said
