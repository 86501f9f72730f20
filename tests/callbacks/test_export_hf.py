"""Exported folders: their weights, their card, and that their journal makes them again."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint
from transformers import AutoModelForCausalLM

from es_lightning.callbacks.export_hf import ExportHF
from es_lightning.datamodule import TaskDataModule
from es_lightning.errors import UsageError
from es_lightning.grading.scorer import Grading
from es_lightning.journal.entry import read_journal
from es_lightning.journal.replay import replay
from es_lightning.models.card import Export, export_card
from es_lightning.models.weights import BaseWeights
from tests.helpers.fits import Letters, Records, fit, module, trainer

pytestmark = [pytest.mark.slow, pytest.mark.callbacks]  # many fits


class Hub:
    """Stands in for the hub."""

    calls: list[tuple[str, dict[str, Any]]] = []
    refuses = ""

    def _called(self, name: str, **options: Any) -> None:
        Hub.calls.append((name, options))
        if Hub.refuses == name:
            raise ConnectionError(f"no {name} today\nand more lines")

    def whoami(self) -> None:
        """Who the token belongs to."""
        self._called("whoami")

    def create_repo(self, repo_id: str, **options: Any) -> None:
        """Make a repository."""
        self._called("create_repo", repo_id=repo_id, **options)

    def upload_folder(self, **options: Any) -> None:
        """Put files into it."""
        files = sorted(path.name for path in Path(options["folder_path"]).iterdir())
        self._called("upload_folder", **options, files=files)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> type[Hub]:
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(Hub, "calls", [])
    monkeypatch.setattr(Hub, "refuses", "")
    return Hub


class Back(Callback):
    """Goes back to an earlier centre after the third generation."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Go back, if this is the moment."""
        if trainer.global_step == 3:
            pl_module.restore(1)


def same_weights(one: Path, other: Path, names: list[str]) -> bool:
    first, second = BaseWeights(one), BaseWeights(other)
    return all(torch.equal(first.read(name), second.read(name)) for name in names)


def test_the_wanted_steps_are_exported_and_the_oldest_removed(tmp_path: Path) -> None:
    watched = ExportHF(every=2, keep=2)
    fit(Letters(), tmp_path, steps=5, callbacks=[watched])
    assert sorted(path.name for path in (tmp_path / "exported").iterdir()) == ["step=4", "step=5"]
    assert watched.state_dict() == {"steps": [4, 5]}


def test_an_export_is_the_centre_and_its_journal_makes_it_again(tmp_path: Path) -> None:
    tuned, records = fit(Letters(), tmp_path, steps=3, callbacks=[ExportHF(every=2, keep=3)])
    names = [name for name, _ in tuned.centre.named_parameters()]
    for step in (2, 3):
        folder = tmp_path / "exported" / f"step={step}"
        _, entries = read_journal(folder / "journal.jsonl")
        assert [entry.generation for entry in entries] == list(range(step))
        replay(folder / "journal.jsonl", tmp_path / f"again{step}", step - 1)
        assert same_weights(folder, tmp_path / f"again{step}", names)
        card = (folder / "README.md").read_text()
        assert records.checksums[2 * step - 1] in card
        assert f"--generation {step - 1} " in card
    last = BaseWeights(tmp_path / "exported" / "step=3")
    for name, parameter in tuned.centre.named_parameters():
        assert torch.equal(last.read(name), parameter.to(tuned.base_model.dtype))
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "exported" / "step=3") is not None


def test_after_a_turn_the_card_names_the_generation_that_made_the_centre(tmp_path: Path) -> None:
    tuned, _ = fit(Letters(), tmp_path, steps=3, callbacks=[Back(), ExportHF()])
    folder = tmp_path / "exported" / "step=3"
    card = (folder / "README.md").read_text()
    assert "--generation 0 " in card
    assert re.search(r"updates done\W+1\b", card)
    replay(folder / "journal.jsonl", tmp_path / "again", 0)
    assert same_weights(folder, tmp_path / "again", [name for name, _ in tuned.centre.named_parameters()])


def test_an_average_is_exported_and_not_said_to_be_in_the_journal(tmp_path: Path) -> None:
    average = EMAWeightAveraging(decay=0.5)
    tuned, _ = fit(Letters(), tmp_path, steps=2, callbacks=[average, ExportHF()])
    folder = tmp_path / "exported" / "step=2"
    assert tuned.checksum() != tuned.centre_checksum
    assert tuned.checksum() in (folder / "README.md").read_text()
    assert "es-lightning replay" not in (folder / "README.md").read_text()
    exported = BaseWeights(folder)
    for name, parameter in tuned.centre.named_parameters():
        assert torch.equal(exported.read(name), parameter.to(tuned.base_model.dtype))


def test_an_export_before_averaging_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has to come after WeightAveraging"):
        fit(Letters(), tmp_path, steps=1, callbacks=[ExportHF(), EMAWeightAveraging()])


def test_a_resumed_run_keeps_as_many(tmp_path: Path) -> None:
    checkpoints = ModelCheckpoint(tmp_path / "checkpoints", "{step}", save_top_k=-1, every_n_train_steps=1)
    data = TaskDataModule(Letters(), grading=Grading(workers=0))
    options: dict[str, Any] = {"enable_checkpointing": True, "limit_val_batches": 0}
    trainer(tmp_path, 2, [ExportHF(every=1, keep=2), checkpoints], **options).fit(module(), data)
    again = trainer(tmp_path, 4, [ExportHF(every=1, keep=2)], limit_val_batches=0)
    again.fit(module(), data, ckpt_path=str(tmp_path / "checkpoints" / "step=2.ckpt"))
    assert sorted(path.name for path in (tmp_path / "exported").iterdir()) == ["step=3", "step=4"]


def test_a_folder_that_cannot_be_written_costs_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    watched, records, tuned = ExportHF(every=1, keep=9), Records(), module()
    monkeypatch.setattr(shutil, "copyfile", full)
    run = trainer(tmp_path, 2, [watched, records])
    run.fit(tuned, TaskDataModule(Letters(), grading=Grading(workers=0)))
    assert len(records.generations) == 2
    assert "No space left on device" in caplog.text
    assert list((tmp_path / "exported").iterdir()) == []


def test_what_was_exported_stays_when_there_is_no_room_for_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(Callback):
        """Fills the disk after the first generation."""

        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            """Fill it."""
            if trainer.global_step == 1:
                monkeypatch.setattr(shutil, "copyfile", full)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    watched = ExportHF(every=1, keep=1)
    fit(Letters(), tmp_path, steps=2, callbacks=[Full(), watched])
    assert [path.name for path in (tmp_path / "exported").iterdir()] == ["step=1"]
    assert watched.state_dict() == {"steps": [1]}


def test_the_last_export_goes_to_the_hub(tmp_path: Path, hub: type[Hub]) -> None:
    fit(Letters(), tmp_path, steps=2, callbacks=[ExportHF(every=1, push_to_hub="me/tuned")])
    whoami, create, upload = hub.calls
    assert whoami[0] == "whoami"
    assert create == ("create_repo", {"repo_id": "me/tuned", "private": True, "exist_ok": True})
    assert upload[1]["repo_id"] == "me/tuned"
    assert upload[1]["folder_path"] == tmp_path / "exported" / "step=2"
    assert {"README.md", "config.json", "journal.jsonl", "model.safetensors"} <= set(upload[1]["files"])
    assert "vllm serve me/tuned" in (tmp_path / "exported" / "step=2" / "README.md").read_text()


@pytest.mark.parametrize("refused", ["create_repo", "upload_folder"])
def test_a_hub_that_fails_leaves_the_model_on_disk(
    tmp_path: Path, hub: type[Hub], refused: str, caplog: pytest.LogCaptureFixture
) -> None:
    hub.refuses = refused
    fit(Letters(), tmp_path, steps=1, callbacks=[ExportHF(push_to_hub="me/tuned")])
    folder = tmp_path / "exported" / "step=1"
    assert (folder / "model.safetensors").is_file()
    (warning,) = [each for each in caplog.records if each.levelname == "WARNING"]
    assert f"hf upload me/tuned {folder}" in warning.getMessage()
    assert f"(no {refused} today)" in warning.getMessage()


def test_a_missing_token_is_found_before_the_run(tmp_path: Path, hub: type[Hub]) -> None:
    hub.refuses = "whoami"
    records = Records()
    with pytest.raises(UsageError, match="needs a token: run `hf auth login` or set HF_TOKEN, or leave"):
        fit(Letters(), tmp_path, steps=1, callbacks=[ExportHF(push_to_hub="me/tuned"), records])
    assert records.checksums == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"every": 0}, "every is 0"),
        ({"keep": 0}, "keep is 0"),
        ({"push_to_hub": "tuned"}, "me/my-model"),
        ({"push_to_hub": "me/"}, "me/my-model"),
        ({"push_to_hub": "me/my model"}, "me/my-model"),
    ],
)
def test_values_that_make_no_sense_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        ExportHF(**options)


@pytest.mark.parametrize(
    ("base", "named"), [("tiny", None), ("org/model", "org/model"), ("tests/helpers/faults.py", None)]
)
def test_the_hub_is_told_of_bases_that_it_has(
    base: str, named: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    settings = {"shaping": "a | b"}
    metrics = {"val/reward": 0.5, "val/a|b": 1.0}
    card = export_card(Export(base, "Task", 3, "abc", "bfloat16", settings, metrics, 2, "the best"))
    card_data = huggingface_hub.ModelCardData(**_front_matter(card))
    assert card_data.base_model == named
    assert card_data.library_name == "transformers"
    assert "| shaping | a \\| b |" in card
    assert "| val/reward | 0.5 |" in card
    assert "| val/a\\|b | 1 |" in card
    assert "vllm serve 'the best'" in card


def _front_matter(card: str) -> dict[str, Any]:
    import yaml

    _, front, _ = card.split("---\n", 2)
    return json.loads(json.dumps(yaml.safe_load(front)))  # type: ignore[no-any-return]
