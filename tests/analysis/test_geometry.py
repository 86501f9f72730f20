"""Norms, sparsity and their table, against numpy in float64."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from es_lightning.analysis import geometry
from es_lightning.analysis.geometry import (
    GROUPS,
    Change,
    brief,
    change,
    changes,
    group_of,
    layer_of,
    table,
    total,
)
from es_lightning.errors import StorageError
from es_lightning.models.snapshot import Snapshot

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
THRESHOLDS = (1e-6, 1e-4)


@pytest.mark.parametrize(
    ("name", "group", "layer"),
    [
        ("model.embed_tokens.weight", "embedding", None),
        ("model.layers.12.self_attn.q_proj.weight", "q", 12),
        ("model.layers.12.self_attn.q_proj.bias", "q", 12),
        ("model.layers.0.self_attn.k_proj.weight", "k", 0),
        ("model.layers.0.self_attn.v_proj.bias", "v", 0),
        ("model.layers.7.self_attn.o_proj.weight", "o", 7),
        ("model.layers.7.self_attn.q_norm.weight", "norm", 7),
        ("model.layers.7.mlp.gate_proj.weight", "mlp", 7),
        ("model.layers.101.mlp.down_proj.weight", "mlp", 101),
        ("model.layers.7.post_attention_layernorm.weight", "norm", 7),
        ("model.norm.weight", "norm", None),
        ("lm_head.weight", "head", None),
        ("model.layers.3.self_attn.qkv_proj.weight", "qkv", 3),
        ("model.layers.3.mlp.gate_up_proj.weight", "mlp", 3),
        ("model.layers.3.mlp.experts.17.up_proj.weight", "mlp", 3),
        ("model.layers.3.mlp.experts.gate_up_proj", "mlp", 3),
        ("model.layers.3.mlp.gate.weight", "mlp", 3),
        ("model.layers.3.block_sparse_moe.experts.5.w2.weight", "mlp", 3),
        ("model.layers.3.self_attn.q_a_proj.weight", "q", 3),
        ("model.layers.3.self_attn.kv_a_proj_with_mqa.weight", "qkv", 3),
        ("model.layers.3.self_attn.kv_a_layernorm.weight", "norm", 3),
        ("model.layers.3.self_attn.sinks", "other", 3),
        ("model.layers.3.mixer.A_log", "other", 3),
        ("transformer.wte.weight", "embedding", None),
        ("transformer.wpe.weight", "embedding", None),
        ("transformer.h.5.attn.c_attn.bias", "qkv", 5),
        ("transformer.h.5.attn.c_proj.weight", "o", 5),
        ("transformer.h.5.mlp.c_proj.weight", "mlp", 5),
        ("transformer.h.5.mlp.c_fc.weight", "mlp", 5),
        ("transformer.h.5.ln_1.weight", "norm", 5),
        ("transformer.ln_f.bias", "norm", None),
        ("gpt_neox.embed_in.weight", "embedding", None),
        ("gpt_neox.layers.2.attention.query_key_value.weight", "qkv", 2),
        ("gpt_neox.layers.2.attention.dense.weight", "o", 2),
        ("gpt_neox.layers.2.mlp.dense_4h_to_h.weight", "mlp", 2),
        ("embed_out.weight", "head", None),
        ("model.decoder.layers.4.self_attn.out_proj.weight", "o", 4),
        ("model.decoder.layers.4.fc1.weight", "mlp", 4),
        ("model.decoder.layers.4.final_layer_norm.weight", "norm", 4),
    ],
)
def test_a_name_tells_module_group_and_layer(name: str, group: str, layer: int | None) -> None:
    assert (group_of(name), layer_of(name)) == (group, layer)
    assert group in GROUPS


def tensors(seed: int, size: int, dtype: torch.dtype, scale: float, count: int = 1) -> tuple[Tensor, ...]:
    """A base as stored, and centres that differ from it by about ``scale``."""
    generator = torch.Generator().manual_seed(seed)
    base = (0.05 * torch.randn(size, generator=generator)).to(dtype)
    return base, *(base.float() + scale * torch.randn(size, generator=generator) for _ in range(count))


def wide(tensor: Tensor) -> Any:
    return tensor.float().numpy().astype(np.float64)


@given(
    seed=st.integers(0, 10**6),
    size=st.integers(1, 400),
    dtype=st.sampled_from(DTYPES),
    exponent=st.floats(-9, 0),
    chunk=st.sampled_from([1, 7, 64, 2**18]),
)
def test_sums_are_those_of_numpy_whatever_the_chunk(
    seed: int, size: int, dtype: torch.dtype, exponent: float, chunk: int
) -> None:
    base, theta, before, target = tensors(seed, size, dtype, 10**exponent, count=3)
    with patch.object(geometry, "CHUNK", chunk):
        found = change(theta, base, THRESHOLDS, before, target.to(dtype))
    delta, direction = wide(theta) - wide(base), wide(target.to(dtype)) - wide(base)
    assert found.entries == size
    assert found.squares == pytest.approx((delta**2).sum(), rel=1e-12)
    assert found.norm == pytest.approx(np.linalg.norm(delta), rel=1e-12)
    assert found.relative == pytest.approx(np.linalg.norm(delta) / np.linalg.norm(wide(base)), rel=1e-12)
    assert found.absolute == pytest.approx(np.abs(delta).sum(), rel=1e-12)
    assert found.largest == np.abs(delta).max()
    assert found.within == tuple((np.abs(delta) <= each).sum() for each in THRESHOLDS)
    assert found.step_squares == pytest.approx(((wide(theta) - wide(before)) ** 2).sum(), rel=1e-12)
    assert found.along == pytest.approx((delta * direction).sum(), rel=1e-9, abs=1e-12 * found.norm)
    assert found.target_squares == pytest.approx((direction**2).sum(), rel=1e-12)


def representable(dtype: torch.dtype) -> Any:
    """Every finite number of a 16-bit dtype, ascending, made from bits by numpy alone."""
    bits = np.arange(2**16, dtype=np.uint32)
    if dtype == torch.float16:
        values = bits.astype(np.uint16).view(np.float16).astype(np.float64)
    else:
        with np.errstate(invalid="ignore"):
            values = (bits << 16).view(np.float32).astype(np.float64)
    return np.unique(values[np.isfinite(values)])


@pytest.mark.parametrize("dtype", DTYPES[:2])
@pytest.mark.parametrize("scale", [1e-7, 1e-5, 1e-4, 1e-3])
def test_unchanged_are_entries_whose_nearest_representable_number_is_the_base(
    dtype: torch.dtype, scale: float
) -> None:
    base, theta = tensors(3, 20_000, dtype, scale)
    numbers, exact = representable(dtype), wide(theta)
    place = np.searchsorted(numbers, exact).clip(1, len(numbers) - 1)
    low, high = numbers[place - 1], numbers[place]
    even = (place - 1 - np.flatnonzero(numbers == 0)) % 2 == 0  # whether the bits of ``low`` are
    down = (exact - low < high - exact) | ((exact - low == high - exact) & even)
    nearest = np.where(down, low, high)
    assert change(theta, base, ()).unchanged == (nearest == wide(base)).sum()


@pytest.mark.parametrize(("dtype", "digits"), [(torch.bfloat16, 8), (torch.float16, 11), (torch.float32, 24)])
def test_unchanged_means_less_than_half_a_unit_in_the_last_place(dtype: torch.dtype, digits: int) -> None:
    base, _ = tensors(5, 5_000, dtype, 0.0)
    mantissa, exponent = np.frexp(wide(base))
    ordinary = torch.from_numpy((np.abs(mantissa) != 0.5) & (np.abs(wide(base)) > 2**-10))
    unit = np.ldexp(1.0, exponent - digits)  # at powers of two, half of that towards zero
    for share, expected in ((0.49, True), (0.51, False)):
        theta = torch.from_numpy(wide(base) + share * unit).float()[ordinary]
        if dtype == torch.float32 and expected:
            theta = base[ordinary]
        elif dtype == torch.float32:
            theta = torch.nextafter(base[ordinary], torch.tensor(np.inf))
        found = change(theta, base[ordinary], ())
        assert found.unchanged == (found.entries if expected else 0)


def test_changes_whose_squares_vanish_in_fp16_are_counted() -> None:
    base = torch.zeros(100_000, dtype=torch.float16)
    theta = torch.full((100_000,), 1e-5)
    assert float((theta.half() - base).square().sum()) == 0.0
    assert change(theta, base, ()).norm == pytest.approx(1e-5 * math.sqrt(100_000), rel=1e-6)


def test_a_base_of_zeros_has_no_relative_norm() -> None:
    found = {"model.layers.0.self_attn.q_proj.bias": change(torch.ones(3), torch.zeros(3), ())}
    assert table(found, [], 1, steps=False)["groups"]["q"]["norm_relative"] is None


NAMES = {
    "model.embed_tokens.weight": (20, 4),
    "model.layers.0.self_attn.q_proj.weight": (4, 4),
    "model.layers.0.self_attn.q_proj.bias": (4,),
    "model.layers.0.mlp.up_proj.weight": (30, 4),
    "model.layers.1.self_attn.q_proj.weight": (4, 4),
    "model.layers.1.self_attn.q_proj.bias": (4,),
    "model.layers.1.mlp.up_proj.weight": (30, 4),
}


class Held(dict[str, Tensor]):
    """Weights in memory."""

    def read(self, name: str) -> Tensor:
        """The tensor of a name."""
        return self[name]


def model() -> tuple[dict[str, Tensor], Held, Held]:
    generator = torch.Generator().manual_seed(1)
    base, before, theta = Held(), Held(), {}
    for place, (name, shape) in enumerate(NAMES.items()):
        base[name] = (0.05 * torch.randn(shape, generator=generator)).bfloat16()
        before[name] = base[name].float() + 1e-5 * (place + 1) * torch.randn(shape, generator=generator)
        theta[name] = before[name] + 1e-4 * torch.randn(shape, generator=generator)
    return theta, base, before


def reference(names: list[str]) -> dict[str, float]:
    """A row of the table, by numpy."""
    theta, base, before = model()
    delta = [(wide(theta[name]) - wide(base[name])).ravel() for name in names]
    step = np.concatenate([(wide(theta[name]) - wide(before[name])).ravel() for name in names])
    start, flat = np.concatenate([wide(base[name]).ravel() for name in names]), np.concatenate(delta)
    return {
        "tensors": len(names),
        "entries": flat.size,
        "norm": np.linalg.norm(flat),
        "norm_relative": np.linalg.norm(flat) / np.linalg.norm(start),
        "mean_change": np.abs(flat).mean(),
        "max_change": np.abs(flat).max(),
        "step_norm": np.linalg.norm(step),
        "sparsity_1e-4": (np.abs(flat) <= 1e-4).mean(),
        "sparsity_1e-4_tensors": np.mean([(np.abs(part) <= 1e-4).mean() for part in delta]),
    }


def measured() -> dict[str, Any]:
    theta, base, before = model()
    return table(changes(theta.items(), base, (1e-4,), before), ["1e-4"], 2, steps=True)


def matches(row: Mapping[str, Any], expected: Mapping[str, float]) -> bool:
    return {key: row[key] for key in expected} == pytest.approx(expected, rel=1e-12)


def test_rows_of_the_table_are_numpys() -> None:
    rows = measured()
    assert matches(rows["all"], reference(list(NAMES)))
    assert list(rows["groups"]) == ["q", "mlp", "embedding"]
    assert matches(rows["groups"]["q"], reference([name for name in NAMES if "q_proj" in name]))
    assert list(rows["layers"]) == ["0", "1"]
    assert matches(rows["layers"]["1"], reference([name for name in NAMES if "layers.1." in name]))
    cell = rows["layers"]["1"]["groups"]["q"]
    assert matches(cell, reference([name for name in NAMES if "layers.1.self_attn" in name]))
    assert rows["groups"]["q"]["sparsity_1e-4"] != rows["groups"]["q"]["sparsity_1e-4_tensors"]


def test_the_largest_changes_come_first() -> None:
    rows = measured()
    for kind, key in (("largest_relative", "norm_relative"), ("largest_change", "max_change")):
        expected = sorted(NAMES, key=lambda name: reference([name])[key], reverse=True)[:2]
        assert [row["tensor"] for row in rows[kind]] == expected


def test_a_brief_row_has_the_norms_by_group_and_layer() -> None:
    rows = measured()
    found = brief(rows)
    assert found["norm"] == rows["all"]["norm"]
    assert found["layers"]["1"] == {
        key: rows["layers"]["1"][key] for key in ("norm", "norm_relative", "step_norm")
    }


def test_a_total_of_tensors_is_that_of_all_their_entries() -> None:
    base, theta = tensors(0, 1000, torch.bfloat16, 1e-4)
    parts = [change(theta[i:j], base[i:j], THRESHOLDS) for i, j in ((0, 10), (10, 400), (400, 1000))]
    whole, split = change(theta, base, THRESHOLDS), total(parts)
    assert isinstance(split, Change)
    assert (split.entries, split.unchanged, split.within) == (whole.entries, whole.unchanged, whole.within)
    assert split.largest == whole.largest
    assert split.squares == pytest.approx(whole.squares, rel=1e-12)


# A copy on disk ----------------------------------------------------------------------------------------


def test_a_snapshot_gives_back_every_bit(tmp_path: Path) -> None:
    named = {name: torch.randn(shape) for name, shape in [*NAMES.items(), ("scalar", ())]}
    named["column"] = torch.randn(3, 4).t()
    kept = Snapshot(tmp_path / "folder" / "copy")
    kept.write(named.items())
    assert all(torch.equal(kept.read(name), tensor) for name, tensor in named.items())
    kept.remove()
    assert not kept.path.exists()


def test_a_snapshot_that_has_no_room_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="measure without steps"):
        Snapshot(tmp_path / "file" / "copy").write([])
