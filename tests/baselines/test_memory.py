"""What TRL takes beside the engine: the formulas against autograd and against a cache, and the refusals."""

from collections.abc import Sequence
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


def test_gradients_and_samples_are_not_held_together() -> None:
    found = needed(SIZE, SETTINGS, prompts=5, length=7, halved=False)
    assert found == Needed(4 * 3 * 240, 4 * 6 * 7 * 15, 4 * 240 + KEPT * 14 * 7 * 2)
    assert found.total == found.always + max(found.sampling, found.learning)


def test_memory_grows_with_a_reference_and_with_copies_in_bfloat16() -> None:
    plain = needed(SIZE, SETTINGS, prompts=5, length=7, halved=False)
    priced = needed(SIZE, replace(SETTINGS, beta=0.1), prompts=5, length=7, halved=False)
    assert priced == plain._replace(always=4 * 4 * 240)
    halved = needed(SIZE, SETTINGS, prompts=5, length=7, halved=True)
    assert halved == Needed(plain.always + 2 * 40, plain.sampling, 4 * 240 + KEPT_HALVED * 14 * 7 * 2)


@pytest.mark.parametrize(("at_once", "rows"), [(None, 15), (4, 4), (15, 15), (100, 15)])
def test_the_cache_is_of_what_is_sampled_at_once(at_once: int | None, rows: int) -> None:
    settings = replace(SETTINGS, generate_at_once=at_once)
    assert needed(SIZE, settings, prompts=5, length=7, halved=False).sampling == 4 * 6 * 7 * rows


@pytest.mark.parametrize("halved", [False, True])
def test_autograd_keeps_at_least_what_is_counted_and_the_cache_is_float32(halved: bool) -> None:
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
    counted = needed(size, settings, prompts=1, length=100, halved=halved)
    copies = counted.always - 3 * 4 * size.parameters
    learning = counted.learning - 4 * size.parameters + copies
    assert 0.6 * found < learning < found
    with autocast, torch.no_grad():
        cache = model(ids, use_cache=True).past_key_values
    held = [each for layer in cache.layers for each in (layer.keys, layer.values)]
    assert {each.dtype for each in held} == {torch.float32}
    assert sum(each.nbytes for each in held) == counted.sampling


# Refusals


def refusal(
    free: int, options: Sequence[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> str:
    monkeypatch.setattr("es_lightning.cli.baseline.require_trl", lambda: None)
    monkeypatch.setattr("es_lightning.cli.baseline.free_memory", lambda device: free)
    monkeypatch.setattr(HFEngine, "start", lambda *_: pytest.fail("the engine was started"))
    with pytest.raises(SystemExit) as stopped:
        main(["baseline", "-c", "mine.yaml", *options])
    assert stopped.value.code == 2
    return capsys.readouterr().err


MINIBATCH, AT_ONCE = "baseline.minibatch", "baseline.generate_at_once"
MANY = ["--baseline.group", "20000"]


@pytest.mark.parametrize(
    ("free", "options", "way_out"),
    [
        (1000, [], "take a smaller model."),
        (2_000_000, [], f"take a smaller model, or lower {MINIBATCH}."),
        (1_000_000_000, MANY, f"take a smaller model, or lower {AT_ONCE} (or baseline.group)."),
        (1_000_000_000, [*MANY, f"--{AT_ONCE}", "70000"], f"take a smaller model, or lower {AT_ONCE}."),
        (2_000_000, MANY, f"take a smaller model, or lower {MINIBATCH} and {AT_ONCE} (or baseline.group)."),
    ],
)
def test_memory_that_is_too_small_is_refused_before_the_engine_starts(
    free: int,
    options: list[str],
    way_out: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(CONFIG)
    said = refusal(free, options, capsys, monkeypatch)
    assert f"{free / 1e9:.1f} GB are free: {way_out}" in said
    assert "(115,264 parameters in float32" in said


def test_how_many_are_sampled_at_once_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(CONFIG)
    said = refusal(1000, [*MANY, f"--{AT_ONCE}", "500"], capsys, monkeypatch)
    assert "500 completions sampled at once, 8 in a backward pass" in said
