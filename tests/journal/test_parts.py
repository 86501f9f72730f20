"""The parts of an update that a journal's header describes: made again, or refused in one sentence."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from es_lightning.algorithm.noise import FilteredNoise, LowRankNoise
from es_lightning.algorithm.regularisers import (
    AnchoredDecay,
    ClipNorm,
    Regulariser,
    RoundedCentre,
    SparseUpdate,
)
from es_lightning.algorithm.schedules import (
    CosineSchedule,
    LinearSchedule,
    Schedule,
    SignalRule,
    SuccessRule,
)
from es_lightning.datamodule import TaskDataModule
from es_lightning.errors import UsageError
from es_lightning.grading.scorer import Grading
from es_lightning.journal.parts import describe_regulariser, regulariser_of
from es_lightning.journal.replay import replay
from es_lightning.module import EvolutionStrategies
from tests.helpers.fits import Letters, Records, fit, module, trainer

REGULARISERS = [
    AnchoredDecay(l1=0.25),
    AnchoredDecay(0.0, 10),
    ClipNorm(1.5),
    RoundedCentre("float16"),
    SparseUpdate(0.1),
    SparseUpdate(0.5, "model"),
]


@pytest.mark.parametrize("part", REGULARISERS, ids=lambda part: f"{type(part).__name__}{part.settings()}")
def test_a_regulariser_is_what_it_was_described_as(part: Regulariser) -> None:
    again = regulariser_of(json.loads(json.dumps(describe_regulariser(part))))
    assert type(again) is type(part)
    assert vars(again) == vars(part)


def test_every_regulariser_of_this_library_is_tried() -> None:
    from es_lightning.algorithm import regularisers

    kinds = {each for each in vars(regularisers).values() if isinstance(each, type)}
    assert {type(part) for part in REGULARISERS} == {
        each for each in kinds if issubclass(each, Regulariser) and each is not Regulariser
    }


FOREIGN = '''
import torch
from es_lightning.algorithm.regularisers import Regulariser

open("imported", "w").close()

class Halve(Regulariser):
    """Halve the estimate."""

    def __init__(self, share=0.5):
        self.share = share

    def settings(self):
        return {"share": self.share}

    def change(self, name, estimate):
        return estimate.mul_(self.share)
'''


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with a regulariser of their own."""
    (tmp_path / "own_parts.py").write_text(FOREIGN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_parts", raising=False)
    return tmp_path


def test_code_from_outside_is_imported_only_if_the_user_says_so(foreign: Path) -> None:
    described = {"class": "own_parts.Halve", "settings": {"share": 0.25}}
    with pytest.raises(UsageError, match=r"own_parts\.Halve is not this library's own: look at its code"):
        regulariser_of(described)
    assert not (foreign / "imported").exists()
    part = regulariser_of(described, trust_remote_code=True)
    assert part.change("a", torch.ones(2)).tolist() == [0.25, 0.25]
    assert describe_regulariser(part) == described


CLIP = "es_lightning.algorithm.regularisers.ClipNorm"


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize(
    ("path", "settings", "words"),
    [
        (CLIP, {}, "settings that es_lightning.algorithm.regularisers.ClipNorm does not take"),
        (CLIP, {"max_norm": "a"}, "does not take"),
        (CLIP, {"max_norm": None}, "does not take"),
        (CLIP, {"max_norm": 0}, "does not take (ClipNorm.max_norm is 0"),
        (CLIP, {"max_norm": 1.0, "min_norm": 0.0}, "does not take"),
        (CLIP.replace("ClipNorm", "SparseUpdate"), {"keep": 0.1, "scope": []}, "does not take"),
        (CLIP.replace("ClipNorm", "Nothing"), {}, "Nothing is nowhere here: install"),
        ("es_lightning.nowhere.ClipNorm", {}, "is nowhere here: install what the run was made with"),
        ("es_lightning.errors.UsageError", {}, "es_lightning.errors.UsageError is no regulariser"),
        ("es_lightning.algorithm.shaping.z_score", {}, "z_score is no regulariser"),
        ("es_lightning..ClipNorm", {}, "nowhere here"),
        ("es_lightning.", {}, "nowhere here"),
    ],
)
def test_a_damaged_description_is_refused_in_one_sentence(
    path: str, settings: dict[str, Any], words: str, trusted: bool
) -> None:
    with pytest.raises(UsageError) as caught:
        regulariser_of({"class": path, "settings": settings}, trusted)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["", ".", "ClipNorm", "os.system", "es_lightning", "es_lightning_x.Part"])
def test_what_is_not_ours_is_never_imported(path: str) -> None:
    with pytest.raises(UsageError, match="is not this library's own"):
        regulariser_of({"class": path, "settings": {}})


@pytest.mark.parametrize("path", ["", ".", "ClipNorm", "os.system", ".ClipNorm"])
def test_what_is_no_part_is_refused_though_it_is_trusted(path: str) -> None:
    with pytest.raises(UsageError, match=r"nowhere here|no regulariser"):
        regulariser_of({"class": path, "settings": {}}, trust_remote_code=True)


# Runs

PARTS: dict[str, Any] = {
    "noise": FilteredNoise(LowRankNoise(2), exclude=["*norm*"]),
    "regularisers": [ClipNorm(2.0), SparseUpdate(0.5, "model"), AnchoredDecay(l2=1.0)],
    "population_schedule": LinearSchedule(3, 2.0),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[EvolutionStrategies, Records, Path]:
    folder = tmp_path_factory.mktemp("run")
    return *fit(Letters(), folder, 3, **PARTS, sigma_schedule=SuccessRule()), folder


def test_a_header_shows_its_parts_and_a_replay_repeats_them(
    run: tuple[EvolutionStrategies, Records, Path], tmp_path: Path
) -> None:
    tuned, records, folder = run
    header = json.loads((folder / "journal.jsonl").read_text().splitlines()[0])
    assert header["noise"].startswith('filtered-1 {"exclude":["*norm*"],"include":["*"],"noise":"low_rank-1 ')
    assert [each["class"].rpartition(".")[2] for each in header["regularisers"]] == [
        "ClipNorm",
        "SparseUpdate",
        "AnchoredDecay",
    ]
    assert header["identity"]["model.sigma_schedule"] == "es_lightning.algorithm.schedules.SuccessRule"
    assert [len(each.members) for each in records.generations] == [4, 5, 7]
    assert len({each.sigma for each in records.generations}) > 1
    assert replay(folder / "journal.jsonl", tmp_path / "model").checksum == tuned.checksum()


def changed_journal(folder: Path, target: Path, **values: Any) -> Path:
    first, *rest = (folder / "journal.jsonl").read_text().splitlines()
    journal = target / "journal.jsonl"
    journal.write_text("\n".join([json.dumps(json.loads(first) | values), *rest]) + "\n")
    return journal


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"noise": "low_rank-1 {"}, "the run's noise low_rank-1 { has settings that LowRankNoise does not"),
        ({"noise": "none-1"}, "the run's noise was none-1, and this library makes"),
        ({"regularisers": [{"class": "os.system", "settings": {}}]}, "is not this library's own"),
        ({"regularisers": [{"class": CLIP, "settings": {}}]}, "settings that es_lightning.algorithm."),
        ({"regularisers": [{"class": CLIP}]}, "is damaged in line 1"),
        ({"regularisers": {}}, "is damaged in line 1"),
        ({"regularisers": []}, "generation 0 came out with checksum"),
    ],
)
def test_a_replay_of_a_damaged_header_ends_in_one_sentence(
    run: tuple[EvolutionStrategies, Records, Path], tmp_path: Path, values: dict[str, Any], words: str
) -> None:
    journal = changed_journal(run[2], tmp_path, **values)
    with pytest.raises(UsageError) as caught:
        replay(journal, tmp_path / "model")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def saved(folder: Path, steps: int, rule: Schedule | None, **fit_options: Any) -> EvolutionStrategies:
    """A run with checkpoints, without a validation."""
    tuned = module(**PARTS, sigma_schedule=rule)
    keep = ModelCheckpoint(folder, "{step}", save_top_k=-1, every_n_train_steps=1)
    options: dict[str, Any] = {"enable_checkpointing": True, "limit_val_batches": 0}
    data = TaskDataModule(Letters(), grading=Grading(workers=0))
    trainer(folder, steps, [keep], **options).fit(tuned, data, **fit_options)
    return tuned


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    saved(folder, 2, SuccessRule())
    return folder / "step=2.ckpt"


def again(checkpoint: Path, folder: Path, rule: Schedule | None) -> EvolutionStrategies:
    """Go on, in another folder, from a checkpoint alone."""
    return saved(folder, 3, rule, ckpt_path=str(checkpoint))


@pytest.mark.slow
def test_a_run_that_adapts_goes_on_as_if_it_had_never_stopped(
    run: tuple[EvolutionStrategies, Records, Path], checkpoint: Path, tmp_path: Path
) -> None:
    resumed = again(checkpoint, tmp_path, SuccessRule())
    assert resumed.checksum() == run[0].checksum()
    assert resumed.sigma == run[0].sigma


WAS = r"model\.sigma_schedule was es_lightning\.algorithm\.schedules\.SuccessRule in the run and is "


@pytest.mark.parametrize(
    ("rule", "words"), [(None, "null now"), (SignalRule(), r".*SignalRule"), (CosineSchedule(3), r".*Cosine")]
)
def test_a_checkpoint_does_not_go_on_with_another_rule(
    checkpoint: Path, tmp_path: Path, rule: Schedule | None, words: str
) -> None:
    with pytest.raises(UsageError, match=WAS + words):
        again(checkpoint, tmp_path, rule)


@pytest.mark.parametrize("state", [None, {}, {"log": 0.0}, {"log": 0.0, "smoothed": "much", "before": []}])
def test_a_state_that_a_rule_cannot_go_on_from_is_refused(
    checkpoint: Path, tmp_path: Path, state: dict[str, Any] | None
) -> None:
    content = torch.load(checkpoint, weights_only=True)
    content["schedules"] = {} if state is None else {"sigma": state}
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(UsageError, match=r"other\.ckpt holds no state that model\.sigma_schedule can go on"):
        again(tmp_path / "other.ckpt", tmp_path, SuccessRule())
