"""Tuned models by all their names: folders, runs, generations of a journal; and those that are refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from es_lightning.algorithm.tensors import checksum
from es_lightning.errors import UsageError
from es_lightning.journal.entry import read_journal
from es_lightning.journal.opening import TunedModel, locate, open_centre, open_centres
from es_lightning.journal.replay import replay
from es_lightning.models import BaseModel
from tests.evaluation.test_evaluator import Place as Rank

RUN = Path(__file__).parents[1] / "data" / "run_of_0_1_0"
BASE = BaseModel("tiny")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with its journal, and the export of its fifth generation in the place of the last."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    folder.mkdir()
    shutil.copyfile(RUN / "journal.jsonl", folder / "journal.jsonl")
    replay(folder / "journal.jsonl", folder / "model", 4)
    return folder


def content(opened: TunedModel) -> str:
    """The checksum of a model in float32."""
    names = [name for name, _ in BASE.blueprint.named_parameters()]
    return checksum((name, opened.weights.read(name).float()) for name in names)


def test_a_generation_of_a_journal_is_the_centre_bit_for_bit(run: Path, tmp_path: Path) -> None:
    _, entries = read_journal(run / "journal.jsonl")
    for reference, generation in (
        (f"{run}:2", 2),
        (f"{run}/journal.jsonl:2", 2),
        (f"{run}/journal.jsonl", -1),
    ):
        opened = open_centre(reference, BASE, tmp_path)
        assert content(opened) == opened.digest == entries[generation].checksum
    assert len(list(tmp_path.iterdir())) == 2, "what is there is not rebuilt again"


@pytest.mark.slow
def test_a_run_is_its_export_and_without_one_its_journals_end(run: Path, tmp_path: Path) -> None:
    exported = open_centre(str(run), BASE, tmp_path)
    assert content(exported) == content(open_centre(str(run / "model"), BASE, tmp_path))
    whole, name = open_centre(f"{run}:4", BASE, tmp_path), "model.norm.weight"
    assert torch.equal(exported.weights.read(name), whole.weights.read(name).to(BASE.dtype))
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copyfile(run / "journal.jsonl", bare / "journal.jsonl")
    _, entries = read_journal(run / "journal.jsonl")
    assert open_centre(str(bare), BASE, tmp_path).digest == entries[-1].checksum


@pytest.mark.slow
def test_digests_tell_models_apart(run: Path, tmp_path: Path) -> None:
    names = ("tiny", str(run / "model"), f"{run}:3")
    assert len({open_centre(name, BASE, tmp_path).digest for name in names}) == 3


def test_the_base_model_itself_may_be_one(tmp_path: Path) -> None:
    assert content(open_centre("tiny", BASE, tmp_path)) == checksum(BASE.load().named_parameters())


def test_nothing_is_left_where_there_is_nothing(tmp_path: Path) -> None:
    for wrong in (str(tmp_path), f"{tmp_path}/none:3", f"{tmp_path}:3"):
        with pytest.raises(
            UsageError, match=r"no model and no journal.jsonl in .*: give a Hugging Face folder"
        ):
            locate(wrong)
    with pytest.raises(UsageError, match="no model at"):
        open_centre(str(tmp_path / "none"), BASE, tmp_path)


def test_a_generation_that_is_not_there_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds generations 0 to 11"):
        open_centre(f"{run}:12", BASE, tmp_path)


def test_a_model_of_other_shapes_is_refused_by_its_first_tensor(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(run / "model", other)
    config = json.loads((other / "config.json").read_text())
    config["num_hidden_layers"] = 1
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        UsageError, match=r"other is no model of the kind of model.base tiny: model.layers.1.\S+ is "
    ):
        open_centre(str(other), BASE, tmp_path)


def test_a_model_of_another_base_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    lines = (run / "journal.jsonl").read_text().splitlines()
    header = json.loads(lines[0])
    header["base"], header["base_files"] = "another", dict.fromkeys(header["base_files"], "0" * 64)
    lines[0] = json.dumps(header, separators=(",", ":"))
    (tmp_path / "run" / "journal.jsonl").write_text("\n".join(lines) + "\n")
    shutil.copytree(run / "model", tmp_path / "run" / "model")
    for reference in (tmp_path / "run", tmp_path / "run" / "model", f"{tmp_path / 'run'}:2"):
        with pytest.raises(UsageError, match="was tuned from another, .* give --model.base another"):
            open_centre(str(reference), BASE, tmp_path)


def test_ranks_wait_for_the_first_and_share_its_refusal(run: Path, tmp_path: Path) -> None:
    told = [b""] * 2
    [opened] = open_centres([f"{run}:1"], BASE, tmp_path, Rank(0, 2, told))
    assert [path.name for path in tmp_path.iterdir()] == [opened.digest]
    [other] = open_centres([f"{run}:1"], BASE, tmp_path, Rank(1, 2, told))
    assert other.digest == opened.digest
    for rank in (0, 1):
        with pytest.raises(UsageError, match="holds generations 0 to 11"):
            open_centres([f"{run}:99"], BASE, tmp_path, Rank(rank, 2, told))


def test_other_settings_of_the_config_are_told(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = tmp_path / "other"
    shutil.copytree(run / "model", other)
    config = json.loads((other / "config.json").read_text())
    config |= {"rms_norm_eps": 0.5, "eos_token_id": 7}
    (other / "config.json").write_text(json.dumps(config))
    opened = open_centre(str(other), BASE, tmp_path)
    assert "another rms_norm_eps than that of tiny" in caplog.text
    assert opened.weights.read("model.norm.weight").dtype == BASE.dtype
