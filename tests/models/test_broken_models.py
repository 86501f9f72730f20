"""Model folders that are broken, each in another way: one sentence, soon, and before anything starts."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from es_lightning.errors import UsageError
from es_lightning.evaluation import Rollouts
from es_lightning.models import BaseModel
from es_lightning.models.embedded import tiny_folder
from es_lightning.models.export import export
from es_lightning.records import Prompt
from es_lightning.rollout import HFEngine, Sampling, chat, encode

SECRET = "the key of a house"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the tiny model, to be broken."""
    return Path(shutil.copytree(tiny_folder(), tmp_path / "base"))


def started(folder: Path) -> Rollouts:
    """Rollouts after everything that a run reads of its base model, in the run's order."""
    base, rollouts = BaseModel(folder), Rollouts(HFEngine(), Sampling(max_tokens=4))
    base.check()
    rollouts.reserve(base, [Prompt("a", "Hello"), Prompt("b", "Good day", system="Be brief.")])
    base.load()
    rollouts.start(base)
    return rollouts


def config(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        content = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))

    return change


def text(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(content) and None


def without(*names: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).unlink() for name in names] and None


def template(content: str) -> Callable[[Path], None]:
    return text("chat_template.jinja", content)


def truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        held = load_file(folder / "model.safetensors")
        change(held)
        save_file(held, folder / "model.safetensors", metadata={"format": "pt"})

    return rewrite


def one_shard_of_two(folder: Path) -> None:
    held = load_file(folder / "model.safetensors")
    names = {name: f"model-0000{1 + index % 2}-of-00002.safetensors" for index, name in enumerate(held)}
    first = {name: tensor for name, tensor in held.items() if "00001-of" in names[name]}
    save_file(first, folder / "model-00001-of-00002.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": names}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("weights")


NORM = "model.norm.weight"
BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "a file": (a_file, "base is a file"),
    "an empty folder": (empty, "no config.json in "),
    "no configuration": (without("config.json"), "no config.json in "),
    "a configuration that is no JSON": (text("config.json", "{"), "config.json of the model"),
    "an empty configuration": (text("config.json", ""), "config.json of the model"),
    "a configuration that is a list": (text("config.json", "[]"), "holds a list"),
    "no kind of model": (config(model_type=None), "names no model_type"),
    "an unknown kind of model": (config(model_type="lama"), "lama"),
    "a kind of model that writes no text": (config(model_type="vit"), "config.json of the model"),
    "a size that is a word": (config(hidden_size="many"), "config.json of the model"),
    "a size of nothing": (config(hidden_size=0), "config.json|do not fit"),
    "another size": (config(hidden_size=128), "do not fit its config.json"),
    "a size beyond any machine": (config(hidden_size=2**40), "do not fit its config.json"),
    "a vocabulary beyond any machine": (config(vocab_size=2**50), "do not fit its config.json"),
    "a million layers": (config(num_hidden_layers=10**6), "num_hidden_layers is 1000000"),
    "one layer more": (config(num_hidden_layers=3), "tensors are missing"),
    "no weights": (without("model.safetensors"), "there are no weights in"),
    "weights cut short": (truncated, "model.safetensors of the model"),
    "weights that are text": (text("model.safetensors", "weights"), "model.safetensors of the model"),
    "empty weights": (text("model.safetensors", ""), "model.safetensors of the model"),
    "weights without a tensor": (tensors(lambda held: held.pop(NORM)), f"the first is {NORM}"),
    "a tensor of another shape": (
        tensors(lambda held: held.update({NORM: torch.ones(1)})),
        f"{NORM} is \\[1\\] in the file and \\[64\\]",
    ),
    "one file of weights of two": (one_shard_of_two, "lacks model-00002-of-00002.safetensors"),
    "an index that is no JSON": (text("model.safetensors.index.json", "{"), "index.json of the model"),
    "no tokenizer": (without("tokenizer.json", "tokenizer_config.json"), "the tokenizer of the model"),
    "no vocabulary": (without("tokenizer.json"), "the tokenizer of the model"),
    "a tokenizer that is no JSON": (text("tokenizer.json", "{"), "the tokenizer of the model"),
    "a tokenizer without a model": (text("tokenizer.json", "{}"), "the tokenizer of the model"),
    "a template that raises": (
        template("{{ raise_exception('only for the pure') }}"),
        "the chat template of .*only for the pure",
    ),
    "a template with a fault": (template("{% for %}"), "the chat template of "),
    "a template that never ends": (
        template("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"),
        "not finished after 0.5 s",
    ),
    "a template of 3 MB": (template("a" * 3 * 10**6), "has 3,000,000 characters"),
    "a template that writes 3 MB": (template("{{ 'a' * 3000000 }}"), "adds 2,999,995 characters to prompt a"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_model_is_one_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    monkeypatch.setattr(chat, "MOST_SECONDS", 0.5)
    change, words = BROKEN[fault]
    change(folder)
    begun = time.monotonic()
    with pytest.raises(UsageError, match=words) as caught:
        started(folder)
    assert time.monotonic() - begun < 60
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)


def test_a_tokenizer_with_more_words_than_the_model_is_refused(folder: Path) -> None:
    config(vocab_size=20, pad_token_id=None, eos_token_id=None)(folder)
    tensors(lambda held: held.update({"model.embed_tokens.weight": torch.ones(20, 64)}))(folder)
    with pytest.raises(UsageError, match="the model has 20 tokens, and its tokenizer"):
        started(folder)


def test_the_whole_model_is_refused_by_nobody(folder: Path) -> None:
    prompts = encode([Prompt("a", "Hello")], BaseModel(folder).tokenizer)
    assert len(started(folder).complete(prompts)) == 1


def test_an_export_does_not_follow_links_out_of_the_model(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET)
    (folder / "vocab.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(UsageError, match=r"vocab.txt is a link to .*secret, outside the model"):
        started(folder)
    with pytest.raises(UsageError, match="outside the model"):
        export(BaseModel("tiny").load(), folder, tmp_path / "model", torch.float32, "")
    assert not (tmp_path / "model").exists()


def test_links_within_a_model_and_within_the_hubs_cache_work(folder: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models--own--tiny"
    blobs, snapshot = repository / "blobs", repository / "snapshots" / "abc"
    shutil.copytree(folder, blobs)
    snapshot.mkdir(parents=True)
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(Path("../../blobs") / path.name)
    (snapshot / "again.json").symlink_to("config.json")
    started(snapshot)
    export(BaseModel(snapshot).load(), snapshot, tmp_path / "model", torch.float32, "")
    assert (tmp_path / "model" / "again.json").read_text() == (folder / "config.json").read_text()
    assert not (tmp_path / "model" / "config.json").is_symlink()


def test_what_is_no_file_is_not_copied(folder: Path, tmp_path: Path) -> None:
    (folder / "more.json").mkdir()
    export(BaseModel("tiny").load(), folder, tmp_path / "model", torch.float32, "")
    assert not (tmp_path / "model" / "more.json").exists()
