"""Folders that are no whole text model are refused in one sentence; others are read as transformers does."""

import hashlib
import json
import shutil
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BartConfig,
    BartForConditionalGeneration,
    PreTrainedModel,
)

from es_lightning.algorithm.tensors import checksum
from es_lightning.errors import UsageError
from es_lightning.journal.header import differences
from es_lightning.journal.identity import changed
from es_lightning.models import BaseModel
from es_lightning.models.base_model import resolve
from es_lightning.rollout import HFEngine
from tests.helpers.families import FAMILIES, Family, make

WEIGHTS, HEAD, EMBEDDING = "model.safetensors", "lm_head.weight", "model.embed_tokens.weight"
Change = Callable[[Path], Any]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose head is a tensor of its own."""
    path = tmp_path_factory.mktemp("llama")
    make(FAMILIES["Llama"], path)
    return path


@pytest.fixture
def folder(llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(llama, tmp_path / "base"))


def config(**values: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Change:
    def rewrite(folder: Path) -> None:
        held = load_file(folder / WEIGHTS)
        save_file(change(held) or held, folder / WEIGHTS, metadata={"format": "pt"})

    return rewrite


def without(*names: str) -> Change:
    return tensors(lambda held: {name: each for name, each in held.items() if name not in names})


def renamed(of: Callable[[str], str]) -> Change:
    return tensors(lambda held: {of(name): each for name, each in held.items()})


def with_tensor(name: str) -> Change:
    return tensors(lambda held: held | {name: torch.ones(1)})


def as_format(name: str) -> Change:
    return lambda folder: (folder / WEIGHTS).rename(folder / name)


def no_index(folder: Path) -> None:
    in_shards(folder)
    (folder / f"{WEIGHTS}.index.json").unlink()


def in_a_subfolder(folder: Path) -> None:
    (folder / "last").mkdir()
    as_format(f"last/{WEIGHTS}")(folder)


def named_bin(folder: Path) -> None:
    only_bin(folder)
    config(transformers_weights="pytorch_model.bin")(folder)


def index_of_a_bin(folder: Path) -> None:
    """As the hub gives it, without the files."""
    as_format("pytorch_model.bin.index.json")(folder)


def classification(folder: Path) -> None:
    AutoModelForSequenceClassification.from_pretrained(folder).save_pretrained(folder)


def classification_by_tensors(folder: Path) -> None:
    """As a folder whose config.json has lost its architectures."""
    classification(folder)
    config(architectures=None)(folder)


def only_bin(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def only_gguf(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "own.gguf")


def only_a_variant(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "model.fp16.safetensors")


def adapter(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(b"")


def adapter_in_a_model(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "elsewhere"}')


def codes(folder: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    tensors(lambda held: held.update({name: held[name].to(torch.float8_e4m3fn)}))(folder)


def encoder_decoder(folder: Path) -> None:
    small = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 260}
    heads = {"encoder_attention_heads": 1, "decoder_attention_heads": 1, "encoder_ffn_dim": 8}
    bart = BartConfig(**small, **heads, decoder_ffn_dim=8)
    BartForConditionalGeneration(bart).save_pretrained(folder)


def index_out_of_the_folder(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder.parent / "secret.safetensors")
    index = {"weight_map": {HEAD: "../secret.safetensors"}}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))


NO_HEAD = f"1 of the model's 21 tensors are missing in .*, the first is {HEAD}.*no text can be written"
QUANTISED = "is quantised .*in config.json's quantization_config.*dequantise it once"
REFUSED: dict[str, tuple[Change, str]] = {
    "no head": (without(HEAD), NO_HEAD),
    "no norm": (without("model.norm.weight"), r"the first is model\.norm\.weight.*random ones would take"),
    "no layer": (
        without("model.layers.1.mlp.up_proj.weight"),
        r"first is model\.layers\.1\.mlp\.up_proj",
    ),
    "compiled": (
        renamed("_orig_mod.{}".format),
        r"21 of .* a compiled model: save model\._orig_mod",
    ),
    "wrapped": (renamed("module.{}".format), r"such as module\.lm_head\.weight.*puts module\. before"),
    "wrapped by FSDP": (renamed("_fsdp_wrapped_module.{}".format), r"puts _fsdp_wrapped_module\. before"),
    "compiled layer by layer": (
        renamed(lambda name: name.replace(".0.", ".0._orig_mod.")),
        r"9 of .* a compiled model",
    ),
    "within an adapter's wrapper": (renamed("base_model.model.{}".format), "puts base_model.model. before"),
    "an adapter that is not merged": (
        renamed(lambda name: name.replace("q_proj", "q_proj.base_layer")),
        r"such as model\.layers\.0.*q_proj\.base_layer\.weight: they are of an adapter that is not merged",
    ),
    "an adapter beside": (with_tensor("model.layers.0.self_attn.q_proj.lora_A.weight"), "is not merged"),
    "scales": (with_tensor("model.layers.0.mlp.up_proj.weight_scale_inv"), "belongs to codes"),
    "a classifier beside": (with_tensor("score.weight"), r"score\.weight, a head that writes no text"),
    "other names": (renamed(lambda name: name.replace("self_attn", "attn")), r"the first is .*\.self_attn\."),
    "classification": (classification, "is a LlamaForSequenceClassification, which has no head that writes"),
    "classification by its tensors": (classification_by_tensors, NO_HEAD),
    "tokens": (config(architectures=["LlamaForTokenClassification"]), "LlamaForTokenClassification"),
    "answers": (config(architectures=["LlamaForQuestionAnswering"]), "LlamaForQuestionAnswering"),
    "reward model": (config(architectures=["LlamaForRewardModel"]), "LlamaForRewardModel"),
    "pytorch_model.bin": (
        only_bin,
        r"are pytorch_model\.bin, and only safetensors are read: convert",
    ),
    "gguf": (only_gguf, r'are own\.gguf, .*dtype="auto", gguf_file="own\.gguf"\)\.save_pretrained'),
    "an index of .bin": (
        index_of_a_bin,
        r"are pytorch_model\.bin\.index\.json, and only safetensors are read",
    ),
    "a .bin named in config.json": (
        named_bin,
        r"names pytorch_model\.bin as its weights \(transformers_weights",
    ),
    "TensorFlow": (as_format("tf_model.h5"), r"tf_model\.h5 is not a file that transformers takes"),
    "Flax": (as_format("flax_model.msgpack"), r"flax_model\.msgpack is not a file that"),
    "Meta's own": (as_format("consolidated.00.pth"), r"consolidated\.00\.pth is not a file that"),
    "parts without an index": (
        no_index,
        r"model-00001-of-0\d+\.safetensors, but not model\.safetensors\.index",
    ),
    "a folder too high": (in_a_subfolder, r"last/model\.safetensors is not a file that transformers takes"),
    "a variant": (
        only_a_variant,
        r"no weights in .*model\.fp16\.safetensors is not a file that",
    ),
    "an adapter": (adapter, r"holds an adapter \(adapter_config\.json\).*merge_and_unload"),
    "an adapter in a model": (adapter_in_a_model, r"holds an adapter \(adapter_config\.json\)"),
    "fp8": (config(quantization_config={"quant_method": "fp8"}), QUANTISED),
    "gptq": (config(quantization_config={"quant_method": "gptq", "bits": 4}), QUANTISED),
    "awq": (config(quantization_config={"quant_method": "awq", "bits": 4}), QUANTISED),
    "bitsandbytes": (config(quantization_config={"quant_method": "bitsandbytes"}), QUANTISED),
    "mxfp4": (config(quantization_config={"quant_method": "mxfp4"}), QUANTISED),
    "compressed": (config(compression_config={"format": "dense"}), "config.json's compression_config"),
    "quantised text part": (config(text_config={"quantization_config": {"quant_method": "fp8"}}), QUANTISED),
    "codes without a word": (codes, r"holds F8_E4M3 numbers \(model\.layers\.0\.mlp\.up_proj\.weight\)"),
    "an empty quantization": (config(quantization_config={}), "is quantised"),
    "an architecture alone": (
        config(architectures="LlamaForTokenClassification"),
        "LlamaForTokenClassification",
    ),
    "an encoder of words": (config(model_type="bert"), r"is an encoder \(bert\)"),
    "codes of images": (config(vq_config={"codes": 1}), "also takes images"),
    "LLaVA": (config(mm_vision_tower="clip"), "also takes images"),
    "a thinker": (config(thinker_config={"a": 1}), "also takes images and sound"),
    "images": (config(vision_config={"depth": 1}), "also takes images"),
    "sound": (config(audio_config={"depth": 1}), "also takes sound"),
    "an encoder": (encoder_decoder, "is an encoder with a decoder"),
    "a named file that is not there": (
        config(transformers_weights="other.safetensors"),
        "names other.safetensors as its weights",
    ),
    "a file outside": (
        index_out_of_the_folder,
        r"names \.\./secret\.safetensors, which is not in",
    ),
    "two different heads": (config(tie_word_embeddings=True), f"says that {HEAD} is {EMBEDDING}.*different"),
}


def started(folder: Path) -> None:
    """All that a run reads of its base model's weights before an engine starts."""
    base = BaseModel(folder)
    base.check()
    base.load()


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_whole_text_model_is_refused(folder: Path, kind: str) -> None:
    change, words = REFUSED[kind]
    change(folder)
    with pytest.raises(UsageError, match=words) as caught:
        started(folder)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_files_of_images_and_of_unknown_kinds_are_refused(tmp_path: Path) -> None:
    for kind in ("qwen2_vl", "vit", "t5"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "config.json").write_text(json.dumps({"model_type": kind}))
        with pytest.raises(UsageError, match="config.json of the model|an encoder with a decoder"):
            BaseModel(tmp_path / kind).check()


@pytest.mark.parametrize("name", ["Mixtral", "DeepSeek-V3"])
def test_a_missing_part_of_a_joined_tensor_is_refused(name: str, tmp_path: Path) -> None:
    make(FAMILIES[name], tmp_path)
    part = next(each for each in load_file(tmp_path / WEIGHTS) if ".experts.1." in each)
    without(part)(tmp_path)
    with pytest.raises(UsageError, match="do not fit its config.json"):
        BaseModel(tmp_path).check()


def test_tensors_without_a_place_are_told(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    BaseModel(folder).check()
    tensors(lambda held: held.update({"rotary_emb.inv_freq": torch.ones(1)}))(folder)
    BaseModel(folder).check()
    assert caplog.text == ""
    config(num_hidden_layers=1)(folder)
    BaseModel(folder).check()
    assert "9 tensors in " in caplog.text
    assert "the first is model.layers.1.input_layernorm.weight: they are not tuned" in caplog.text


def test_a_missing_buffer_is_refused(tmp_path: Path) -> None:
    make(FAMILIES["DeepSeek-V3"], tmp_path)
    without("model.layers.1.mlp.gate.e_score_correction_bias")(tmp_path)
    with pytest.raises(UsageError, match="the first is .*e_score_correction_bias"):
        BaseModel(tmp_path).check()


def test_an_absent_tied_head_is_fine(tmp_path: Path) -> None:
    make(Family("llama", {"tie_word_embeddings": True}), tmp_path)
    assert HEAD not in load_file(tmp_path / WEIGHTS)
    base = BaseModel(tmp_path)
    base.check()
    assert checksum(base.load().named_parameters()) == checksum(loaded(tmp_path).named_parameters())


def test_the_engine_draws_nothing_at_random(folder: Path) -> None:
    without(HEAD)(folder)
    with pytest.raises(UsageError, match=f"the first is {HEAD}, and random ones would take their place"):
        HFEngine(device="cpu").start(folder, 16)


def loaded(folder: Path) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model


def in_shards(folder: Path) -> None:
    loaded(folder).save_pretrained(folder, max_shard_size="100KB")
    (folder / WEIGHTS).unlink(missing_ok=True)


def named_by_the_configuration(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "own.safetensors")
    config(transformers_weights="own.safetensors")(folder)


@pytest.mark.parametrize("layout", [lambda folder: None, in_shards, named_by_the_configuration])
def test_other_files_are_not_the_model(folder: Path, layout: Change) -> None:
    layout(folder)
    names = set(BaseModel(folder).hashes())
    stray = {name: torch.zeros_like(each) for name, each in loaded(folder).state_dict().items()}
    for name in ("zzz.safetensors", "model.fp16.safetensors", "consolidated.safetensors"):
        save_file(stray, folder / name, metadata={"format": "pt"})
    base = BaseModel(folder)
    assert checksum(base.load().named_parameters()) == checksum(loaded(folder).named_parameters())
    assert set(base.hashes()) == names == {"config.json", *(path.name for path in base.weights.stored.files)}
    assert base.hashes() == {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def test_files_of_one_name_in_two_folders_are_told_apart(folder: Path) -> None:
    in_shards(folder)
    index = json.loads((folder / f"{WEIGHTS}.index.json").read_text())
    for name in set(index["weight_map"].values()):
        (folder / name.split(".")[0]).mkdir()
        (folder / name).rename(folder / name.split(".")[0] / "part.safetensors")
    places = {key: f"{name.split('.')[0]}/part.safetensors" for key, name in index["weight_map"].items()}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    assert set(BaseModel(folder).hashes()) == {"config.json", *places.values()}
    assert checksum(BaseModel(folder).load().named_parameters()) == checksum(
        loaded(folder).named_parameters()
    )


def test_an_export_of_a_file_of_its_own_name_loads(folder: Path, tmp_path: Path) -> None:
    named_by_the_configuration(folder)
    base = BaseModel(folder)
    base.export(base.load(), tmp_path / "model", "")
    assert checksum(loaded(tmp_path / "model").named_parameters()) == checksum(
        loaded(folder).named_parameters()
    )


def test_one_file_comes_before_an_index(folder: Path) -> None:
    whole = checksum(loaded(folder).named_parameters())
    other = folder.parent / "other"
    shutil.copytree(folder, other)
    tensors(lambda held: {name: each * 2 for name, each in held.items()})(other)
    in_shards(other)
    for path in [*other.glob("model-*"), other / f"{WEIGHTS}.index.json"]:
        shutil.copy(path, folder)
    assert checksum(BaseModel(folder).load().named_parameters()) == whole


def test_a_journal_that_hashed_strays_is_of_the_same_files() -> None:
    was = {"base_files": {"config.json": "1", WEIGHTS: "2", "consolidated.safetensors": "3"}, "base": "b"}
    now = {"base_files": {"config.json": "1", WEIGHTS: "2"}, "base": "b"}
    other = {"base_files": {"config.json": "1", WEIGHTS: "4"}, "base": "b"}
    assert differences(was, now) == ""
    assert changed(was, now) == []
    assert "base_files was" in differences(was, other)
    assert f"have changed: consolidated.safetensors, {WEIGHTS}" in changed(was, other)[0]
    assert "base_files was" in differences(now, was)


def test_code_is_got_from_the_hub_only_where_it_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def snapshot(name: str, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        assert not any(fnmatch(WEIGHTS, pattern) for pattern in ignore_patterns)
        assert any(fnmatch("consolidated.safetensors", pattern) for pattern in ignore_patterns)
        asked.append(allow_patterns)
        return str(resolve("tiny"))

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    for trust in (False, True):
        assert BaseModel("me/model", trust_remote_code=trust).folder == resolve("tiny")
    assert ["*.py" in patterns for patterns in asked] == [False, True]
