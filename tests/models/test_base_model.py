"""Finding models, holding them, and writing them so that others can read them."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, PreTrainedModel

from es_lightning.algorithm.tensors import checksum, distance_squared
from es_lightning.errors import UsageError
from es_lightning.models import BaseModel
from es_lightning.models.base_model import resolve
from es_lightning.models.embedded import tiny_folder
from es_lightning.models.export import export
from es_lightning.models.weights import BaseWeights


@pytest.fixture
def centre() -> PreTrainedModel:
    return BaseModel(tiny_folder()).load()


def moved(centre: PreTrainedModel) -> PreTrainedModel:
    """The centre after a step that bfloat16 can hold in part only."""
    generator = torch.Generator().manual_seed(3)
    for parameter in centre.parameters():
        parameter.data += 1e-3 * torch.randn(parameter.shape, generator=generator)
    return centre


def test_the_centre_holds_the_base_weights_in_float32(centre: PreTrainedModel) -> None:
    base = BaseWeights(tiny_folder())
    for name, parameter in centre.named_parameters():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, base.read(name).float())


def test_a_part_of_the_centre_holds_its_tensors_alone(centre: PreTrainedModel) -> None:
    names = [name for name, _ in centre.named_parameters()]
    for mine in (names[::2], names[1::2]):
        part = BaseModel("tiny").load(held=set(mine).__contains__)
        assert [name for name, _ in part.named_parameters()] == names, "a tied head is no tensor of its own"
        assert [name for name, each in part.named_parameters() if not each.is_meta] == mine
        for name in names:
            assert part.get_parameter(name).shape == centre.get_parameter(name).shape
        for name in mine:
            assert torch.equal(part.get_parameter(name), centre.get_parameter(name))
        for (name, buffer), (other, whole) in zip(part.named_buffers(), centre.named_buffers(), strict=True):
            assert name == other
            assert torch.equal(buffer, whole), "buffers are everywhere"


def test_export_loads_in_transformers_with_the_centres_logits(
    centre: PreTrainedModel, tmp_path: Path
) -> None:
    export(moved(centre), tiny_folder(), tmp_path / "model", torch.float32, "a card")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    ids = torch.arange(40).view(2, 20)
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, centre(ids).logits, atol=1e-6, rtol=0)
    assert (tmp_path / "model" / "README.md").read_text() == "a card"
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(tiny_folder()).chat_template


def test_export_keeps_the_base_models_dtype(centre: PreTrainedModel, tmp_path: Path) -> None:
    export(moved(centre), tiny_folder(), tmp_path / "model", torch.bfloat16, "")
    exported, base = BaseWeights(tmp_path / "model"), BaseWeights(tiny_folder())
    for name, parameter in centre.named_parameters():
        assert exported.read(name).dtype == base.read(name).dtype == torch.bfloat16
        assert torch.equal(exported.read(name), parameter.bfloat16())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_an_export_loads_in_its_own_precision_unless_told_otherwise(
    centre: PreTrainedModel, tmp_path: Path, dtype: torch.dtype
) -> None:
    assert BaseModel("tiny").dtype == torch.bfloat16
    export(moved(centre), tiny_folder(), tmp_path / "model", dtype, "")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype="auto").dtype == dtype
    assert BaseModel(str(tmp_path / "model")).dtype == dtype


def test_large_models_are_written_in_shards(
    centre: PreTrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("es_lightning.models.export.SHARD_BYTES", 100_000)
    export(moved(centre), tiny_folder(), tmp_path / "model", torch.float32, "")
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 1
    index = json.loads((tmp_path / "model" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == {name for name, _ in centre.named_parameters()}
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    assert checksum(loaded.named_parameters()) == checksum(centre.named_parameters())


def test_export_replaces_an_older_model_as_a_whole(centre: PreTrainedModel, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "qkv_proj.safetensors").write_text("stale")
    export(centre, tiny_folder(), tmp_path / "model", torch.float32, "")
    assert not (tmp_path / "model" / "qkv_proj.safetensors").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@given(st.integers(0, 2**30), st.integers(0, 31))
@pytest.mark.slow
def test_any_flipped_bit_changes_the_checksum(position: int, bit: int) -> None:
    tensor = torch.linspace(-1, 1, 300_000)
    before = checksum([("w", tensor)])
    bits = tensor.view(torch.int32)
    bits[position % 300_000] ^= (1 << bit) if bit < 31 else -(2**31)
    assert checksum([("w", tensor)]) != before


def test_names_shapes_and_order_count_in_the_checksum() -> None:
    a, b = torch.ones(4, 2), torch.zeros(3)
    sums = {
        checksum([("a", a), ("b", b)]),
        checksum([("b", b), ("a", a)]),
        checksum([("a", a.view(2, 4)), ("b", b)]),
        checksum([("c", a), ("b", b)]),
        checksum([("a", a)]),
    }
    assert len(sums) == 5


def test_the_checksum_does_not_depend_on_threads() -> None:
    tensor, threads = torch.randn(2_000_000), torch.get_num_threads()
    sums = set()
    for count in (1, 2):
        torch.set_num_threads(count)
        sums.add(checksum([("w", tensor)]))
    torch.set_num_threads(threads)
    assert len(sums) == 1


def test_distance_is_the_euclidean_one() -> None:
    a, b = torch.randn(700_000), torch.randn(700_000).bfloat16()
    assert distance_squared(a, b) == pytest.approx(float((a.double() - b.double()).norm() ** 2), rel=1e-6)


def test_an_unknown_folder_says_what_was_looked_for_and_offers_the_embedded_model(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no config.json in .*nowhere.*es-lightning fetch"):
        resolve(str(tmp_path / "nowhere"))


def test_an_unknown_hub_id_says_that_the_hub_was_asked() -> None:
    with pytest.raises(UsageError, match=r"no folder .*nobody/nothing, and the hub gave no nobody/nothing"):
        resolve("nobody/nothing")


def test_the_embedded_model_is_asked_for_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ES_LIGHTNING_CACHE", str(tmp_path))
    with pytest.raises(UsageError, match="run `es-lightning fetch`"):
        resolve("embedded")


def test_the_tiny_model_is_the_same_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ES_LIGHTNING_CACHE", str(tmp_path))
    made = BaseModel("tiny").load()
    assert checksum(made.named_parameters()) == "7318cc2efea6b040"
    assert [path.name for path in tmp_path.iterdir()] == ["tiny-random-v1"]


@pytest.mark.parametrize(
    ("heads", "shared", "size", "fine"), [(4, 2, 2, True), (4, 2, 4, True), (4, 2, 3, False)]
)
def test_heads_must_divide(heads: int, shared: int, size: int, fine: bool) -> None:
    base = BaseModel("tiny")
    base.config = LlamaConfig(num_attention_heads=heads, num_key_value_heads=shared, hidden_size=64)
    if fine:
        base.check_heads(size)
    else:
        with pytest.raises(
            UsageError, match="tensor_parallel_size is 3, but the model has 4 attention heads"
        ):
            base.check_heads(size)


def test_nothing_is_looked_for_before_it_is_asked_for() -> None:
    base = BaseModel("nobody/nothing")
    assert base.name == "nobody/nothing"
    with pytest.raises(UsageError, match="nobody/nothing"):
        _ = base.folder


def test_precision_and_configuration_stay_those_of_the_files_when_the_centre_is_loaded() -> None:
    base = BaseModel("tiny")
    centre = base.load()
    assert {parameter.dtype for parameter in centre.parameters()} == {torch.float32}
    assert base.dtype == base.config.dtype == torch.bfloat16
    assert base.max_length == 1024
    assert base.load().config.dtype == torch.float32


def test_hashes_are_those_of_the_files() -> None:
    base = BaseModel(tiny_folder())
    assert base.hashes() == {
        name: hashlib.sha256((tiny_folder() / name).read_bytes()).hexdigest()
        for name in ("config.json", "model.safetensors")
    }
