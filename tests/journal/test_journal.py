"""The journal: every bit comes back, torn lines do not, and a replay gives the run's own centres."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import load_file, save_file

from es_lightning.algorithm.noise import GaussianNoise, noise_of
from es_lightning.algorithm.population import Population
from es_lightning.cli import command_line as cli
from es_lightning.datamodule import TaskDataModule
from es_lightning.errors import StorageError, UsageError
from es_lightning.journal.entry import Entry, read_journal
from es_lightning.journal.header import differences
from es_lightning.journal.hyper import describe_optimizer, hyper_parameters, set_hyper_parameters
from es_lightning.journal.replay import replay
from es_lightning.journal.run import RunJournal
from es_lightning.models import BaseModel
from es_lightning.models.base_model import resolve
from es_lightning.records import Member
from es_lightning.system.files import Lines
from tests.helpers.fits import Letters, Records, fit, module, trainer

HEADER = json.dumps({"es_lightning_journal": 1, "versions": {"es_lightning": "0.1.0"}, "base": "tiny"})


def entry(generation: int = 0, size: int = 3, **options: Any) -> Entry:
    fields: dict[str, Any] = {
        "generation": generation,
        "members": Population(size).members(generation),
        "weights": torch.randn(size, dtype=torch.float64),
        "sigma": 0.001,
        "hyper": {"lr": 0.0005},
        "reward": {"mean": 0.1, "std": 0.2, "min": -1.0, "max": 1.0},
        "scores": {"reward": 0.1},
        "tokens": 12,
        "seconds": {"generate": 1.5},
        "skipped": False,
        "drift": 0.25,
        "checksum": "0123456789abcdef",
    }
    return Entry(**(fields | options))


numbers = st.floats(allow_nan=False, allow_infinity=False)


@given(
    st.lists(
        st.tuples(st.integers(0, 2**64 - 1), st.sampled_from([1, 0, -1]), numbers), min_size=1, max_size=9
    ),
    numbers,
    numbers | st.just(math.nan),
)
def test_every_bit_of_an_entry_comes_back(
    members: list[tuple[int, int, float]], number: float, drift: float
) -> None:
    given_entry = entry(
        members=tuple(Member(n, seed, sign) for n, (seed, sign, _) in enumerate(members)),
        weights=torch.tensor([weight for *_, weight in members], dtype=torch.float64),
        hyper={"lr": number, "betas": [number, 0.5]},
        reward={"mean": number, "std": number, "min": number, "max": number},
        drift=drift,
    )
    found = Entry.parse(given_entry.line())
    assert found.members == given_entry.members
    assert torch.equal(found.weights, given_entry.weights)
    assert found.hyper == given_entry.hyper
    assert found.reward == given_entry.reward
    assert found.drift == drift or (math.isnan(found.drift) and math.isnan(drift))
    assert found.line() == given_entry.line()


def test_a_line_is_about_a_kilobyte_at_a_population_of_thirty() -> None:
    assert 900 < len(entry(size=30).line()) < 1200


def test_a_torn_last_line_is_dropped_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text("\n".join([HEADER, entry(0).line(), entry(1).line()[:50]]))
    _, entries = read_journal(path)
    assert [each.generation for each in entries] == [0]
    assert "torn" in caplog.text


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], "there is no journal"),
        (["{}"], "its first line is no header"),
        (["no json"], "its first line is no header"),
        (['{"es_lightning_journal": 99, "versions": {"es_lightning": "9.9"}}'], "use the es_lightning 9.9"),
        ([HEADER, "no json", entry(0).line()], "damaged in line 2"),
        ([HEADER, '{"generation": 0}'], "damaged in line 2"),
        ([HEADER, entry(1).line()], "line 2 holds generation 1, but 0 was to follow"),
    ],
)
def test_a_damaged_journal_is_refused(tmp_path: Path, lines: list[str], words: str) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(UsageError, match=words):
        read_journal(path)


def test_an_appended_line_is_on_disk_before_the_call_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    lines = Lines(tmp_path / "lines", ["one"])
    monkeypatch.setattr("os.fsync", lambda _: synced.append((tmp_path / "lines").read_text()))
    lines.append("two")
    assert synced == ["one\ntwo\n"]


def test_a_full_disk_says_so_and_keeps_what_there_is(tmp_path: Path) -> None:
    lines = Lines(tmp_path / "lines", ["one"])
    lines.path = Path("/dev/full")
    with pytest.raises(StorageError, match=r"No space left on device.*Free space"):
        lines.append("two")
    assert (tmp_path / "lines").read_text() == "one\n"


# Optimizers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "moved"),
    [
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True), {"momentum": 0.8}),
        (lambda p: torch.optim.AdamW(p, lr=0.1), {"betas": (0.5, 0.9)}),
        (lambda p: torch.optim.Adagrad(p, lr=0.1), {"weight_decay": 0.3}),
    ],
)
def test_an_optimizers_settings_go_round_through_json(make: Any, moved: dict[str, Any]) -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    first, second = make([parameter]), make([parameter])
    first.param_groups[0].update(lr=0.05, **moved)
    hyper = json.loads(json.dumps(hyper_parameters(first)))
    assert set(hyper) == {"lr", *moved}
    set_hyper_parameters(second, hyper)
    assert {k: v for k, v in second.param_groups[0].items() if k != "params"} == {
        k: v for k, v in first.param_groups[0].items() if k != "params"
    }
    assert json.loads(json.dumps(describe_optimizer(first)))["groups"] == 1


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adafactor])
def test_a_state_that_was_loaded_is_no_other_setting(kind: Any) -> None:
    first, second = (kind([torch.nn.Parameter(torch.zeros(1))], lr=0.1) for _ in range(2))
    before = describe_optimizer(first), hyper_parameters(first)
    second.load_state_dict(first.state_dict())
    assert (describe_optimizer(second), hyper_parameters(second)) == before
    set_hyper_parameters(second, before[1])
    second.load_state_dict(second.state_dict())
    assert (describe_optimizer(second), hyper_parameters(second)) == before


# Replay -----------------------------------------------------------------------------------------------

OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.05),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, betas=(0.8, 0.9), weight_decay=0.1),
}


def schedule(optimizer: torch.optim.Optimizer) -> Any:
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.05, total_steps=4)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A run's journal and the checksums of its centres."""
    folder = tmp_path_factory.mktemp("run")
    _, records = fit(Letters(), folder, steps=4)
    return folder / "journal.jsonl", records.checksums[1::2]


@pytest.mark.parametrize(
    "name", ["momentum", "Adam", *(pytest.param(each, marks=pytest.mark.slow) for each in ("SGD", "AdamW"))]
)
def test_a_replay_gives_the_runs_own_model(tmp_path: Path, name: str) -> None:
    options: dict[str, Any] = {"optimizer": OPTIMIZERS[name], "antithetic": name == "Adam"}
    if name != "SGD":
        options["lr_scheduler"] = schedule
    tuned, _ = fit(Letters(), tmp_path, steps=4, **options)
    tuned.base_model.export(tuned.centre, tmp_path / "exported", "card")
    found = replay(tmp_path / "journal.jsonl", tmp_path / "replayed")
    assert found.checksum == tuned.checksum()
    exported, replayed = (
        (tmp_path / which / "model.safetensors").read_bytes() for which in ("exported", "replayed")
    )
    assert exported == replayed


def test_any_generation_can_be_had(run: tuple[Path, list[str]], tmp_path: Path) -> None:
    journal, checksums = run
    for generation in (0, 2):
        output = tmp_path / str(generation)
        assert replay(journal, output, generation).checksum == checksums[generation]
        card = (output / "README.md").read_text()
        assert f"generation {generation}" in card
        assert checksums[generation] in card
        assert BaseModel(output).load().config.architectures == ["LlamaForCausalLM"]


def test_the_command_replays(
    run: tuple[Path, list[str]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal, checksums = run
    caplog.set_level("INFO")
    cli.main(["replay", "--journal", str(journal), "--output", str(tmp_path / "out"), "--generation", "1"])
    assert f"checksum {checksums[1]} as recorded" in caplog.text


def test_a_mistyped_option_ends_in_one_line_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["replay", "--jornal", "x", "--output", "y"])
    assert caught.value.code == 2
    assert "Did you mean journal?" in capsys.readouterr().err.strip().splitlines()[-1]


def altered(run: tuple[Path, list[str]], folder: Path, change: Any) -> Path:
    """The run's journal with another header."""
    header, *lines = run[0].read_text().splitlines()
    values = json.loads(header)
    change(values)
    path = folder / "journal.jsonl"
    path.write_text("".join(f"{line}\n" for line in [json.dumps(values), *lines]))
    return path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda h: h["base_files"].update({"model.safetensors": "0"}), "base_files was"),
        (lambda h: h.update(dtype="float16"), 'dtype was "float16" and is "bfloat16"'),
        (lambda h: h.update(noise="gaussian-0"), "noise was gaussian-0, and this library makes"),
        (lambda h: h["optimizer"].update(groups=2), "several parameter groups"),
        (lambda h: h["optimizer"].update({"class": "os.system"}), "is not torch's own"),
        (lambda h: h["optimizer"]["settings"].update(momentum=0.9), "generation 1 came out with checksum"),
        (lambda h: h.update(base="no/such/model"), "no model at"),
    ],
)
def test_what_cannot_give_the_runs_bits_is_refused(
    run: tuple[Path, list[str]], tmp_path: Path, change: Any, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        replay(altered(run, tmp_path, change), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_base_model_is_refused_by_its_files(run: tuple[Path, list[str]], tmp_path: Path) -> None:
    other = tmp_path / "other"
    folder = resolve("tiny")
    other.mkdir()
    for path in folder.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    weights = load_file(folder / "model.safetensors")
    name = next(iter(weights))
    weights[name].view(-1)[0] += 1
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match="base_files was"):
        replay(run[0], tmp_path / "out", base=str(other))


@pytest.mark.parametrize(("generation", "words"), [(4, "generations 0 to 3"), (-1, "generations 0 to 3")])
def test_a_generation_that_never_was_is_refused(
    run: tuple[Path, list[str]], tmp_path: Path, generation: int, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        replay(run[0], tmp_path / "out", generation)


def test_an_existing_folder_is_not_replaced(run: tuple[Path, list[str]], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exists already"):
        replay(run[0], tmp_path)


def test_noise_is_found_by_its_version() -> None:
    assert isinstance(noise_of("gaussian-1"), GaussianNoise)


# The journal of a run ---------------------------------------------------------------------------------


def test_the_header_tells_what_made_the_run(run: tuple[Path, list[str]]) -> None:
    header, entries = read_journal(run[0])
    assert header["base"] == "tiny"
    assert set(header["base_files"]) == {"config.json", "model.safetensors"}
    assert header["noise"] == "gaussian-1"
    assert header["optimizer"]["class"] == "torch.optim.sgd.SGD"
    assert header["settings"]["seed"] == 0
    assert {"torch", "transformers", "es_lightning", "python"} <= set(header["versions"])
    assert [each.checksum for each in entries] == run[1]
    assert entries[0].members == Population(4).members(0)
    assert set(entries[0].reward) == {"mean", "std", "min", "max"}


def test_a_second_run_does_not_write_over_a_journal(tmp_path: Path) -> None:
    fit(Letters(), tmp_path, steps=1)
    before = (tmp_path / "journal.jsonl").read_text()
    with pytest.raises(UsageError, match="the journal of another run"):
        fit(Letters(), tmp_path, steps=1)
    assert (tmp_path / "journal.jsonl").read_text() == before


@pytest.mark.slow
def test_a_run_goes_on_from_its_journal_alone(tmp_path: Path) -> None:
    whole, straight = fit(Letters(), tmp_path / "whole", steps=4)
    fit(Letters(), tmp_path / "run", steps=2)
    resumed, records = module(), Records()
    resumed.history.saved = []
    trainer(tmp_path / "run", 4, [records]).fit(resumed, TaskDataModule(Letters()))
    assert resumed.checksum() == whole.checksum()
    assert [bool(record.evaluations) for record in records.generations] == [False, False, True, True]
    for ours, theirs in zip(records.generations, straight.generations, strict=True):
        assert torch.equal(ours.rewards, theirs.rewards)
        assert ours.scores == theirs.scores
        assert ours.tokens == theirs.tokens
        assert ours.update_norm == theirs.update_norm


def test_a_fast_dev_run_leaves_no_journal(tmp_path: Path) -> None:
    trainer(tmp_path, fast_dev_run=True).fit(module(), TaskDataModule(Letters()))
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_goes_on_in_its_trainers_folder_with_the_module_that_made_it(tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path / "kept", "{step}", every_n_train_steps=2)
    tuned = module()
    trainer(tmp_path / "one", 2, [keep], enable_checkpointing=True).fit(tuned, TaskDataModule(Letters()))
    checkpoint = tmp_path / "kept" / "step=2.ckpt"
    trainer(tmp_path / "two", 3).fit(tuned, TaskDataModule(Letters()), ckpt_path=checkpoint)
    counts = [len(read_journal(tmp_path / each / "journal.jsonl")[1]) for each in ("one", "two")]
    assert counts == [2, 3]


def header_of(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {"es_lightning_journal": 1, "noise": "gaussian-1", "dtype": "bfloat16"}
    return base | changes


def opened(folder: Path, saved: list[str] | None, generation: int = 0, **changes: Any) -> RunJournal:
    journal = RunJournal()
    journal.open(folder, header_of(**changes), generation, saved, True, lambda payload: payload)
    return journal


def test_other_settings_are_refused_on_resume(tmp_path: Path) -> None:
    opened(tmp_path, None).append(entry(0), torch.ones(3, 2))
    with pytest.raises(UsageError, match="model.noise was gaussian-1 in the run and is correlated-1 now"):
        opened(tmp_path, [], noise="correlated-1")


def test_generations_without_their_rewards_are_rolled_out_again(tmp_path: Path) -> None:
    journal = opened(tmp_path, None)
    for generation in range(3):
        journal.append(entry(generation), torch.full((3, 2), float(generation)))
    rewards = (tmp_path / "rewards.jsonl").read_text().splitlines()
    (tmp_path / "rewards.jsonl").write_text("".join(f"{line}\n" for line in rewards[:2]) + rewards[2][:9])
    again = opened(tmp_path, [])
    past = [again.past(generation) for generation in range(3)]
    assert [each is not None for each in past] == [True, True, False]
    assert past[1] is not None
    assert torch.equal(past[1].rewards, torch.ones(3, 2).double())
    assert len(read_journal(tmp_path / "journal.jsonl")[1]) == 2


def test_a_checkpoint_brings_the_journal_to_a_new_folder(tmp_path: Path) -> None:
    journal = opened(tmp_path / "one", None)
    journal.append(entry(0), torch.ones(3, 2))
    moved = opened(tmp_path / "two", journal.lines, generation=1)
    assert (tmp_path / "two" / "journal.jsonl").read_text() == (
        tmp_path / "one" / "journal.jsonl"
    ).read_text()
    moved.append(entry(1), torch.ones(3, 2))
    assert len(read_journal(tmp_path / "two" / "journal.jsonl")[1]) == 2


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    journal = opened(tmp_path / "one", None)
    journal.append(entry(0), torch.ones(3, 2))
    opened(tmp_path / "two", None).append(entry(0), torch.ones(3, 2))
    with pytest.raises(UsageError, match="tell of different runs"):
        opened(tmp_path / "two", journal.lines, generation=1)


def test_a_replay_that_leads_elsewhere_stops_the_resume(tmp_path: Path) -> None:
    journal = opened(tmp_path, None)
    journal.append(entry(0), torch.ones(3, 2))
    again = opened(tmp_path, [])
    past = again.past(0)
    assert past is not None
    with pytest.raises(UsageError, match=r"came out of the journal as centre ffff.*Move journal.jsonl"):
        again.repeat(past, "ffff")


def test_only_what_decides_the_bits_counts_as_a_difference() -> None:
    assert differences(header_of(ranks=1, base="here"), header_of(ranks=8, base="there")) == ""
    assert "dtype" in differences(header_of(), header_of(dtype="float32"))
