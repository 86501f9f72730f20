"""A run that version 0.1.0 made, before its modules moved: it replays, resumes and repeats bit for bit.

``tests/data/run_of_0_1_0`` is what ``es-lightning fit -c config.yaml`` left: SGD with momentum, a schedule,
antithetic pairs, and an EarlyPeak that went back to an earlier centre. The run does not depend on the last
bits of a logit: wherever a token was chosen, the two best logits are at least 2e-4 apart.
"""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from es_lightning.journal.entry import read_journal
from es_lightning.journal.replay import replay
from es_lightning.system.moved import ATTRIBUTES, MOVED, NAMES
from tests.helpers.fits import module
from tests.helpers.ranks import CONTEXT

OLD = Path(__file__).parent / "data" / "run_of_0_1_0"
RUN = Path("runs", "compat")  # as config.yaml has it


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's folder with the old run in it."""
    shutil.copytree(OLD, tmp_path / RUN)
    return tmp_path


def lines(path: Path) -> list[str]:
    """The entries of a journal, without what a clock decides.

    Of the drift twelve digits: since 0.1.0 its squares are added in another order, the same on every device.
    """
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[1:]]
    for entry in entries:
        entry["drift"] = f"{entry['drift']:.12g}"
        entry.get("scores", {}).pop("completion_longest", None)  # later versions measure it, too
    later = {"seconds", "rollouts", "prompt_tokens"}
    return [json.dumps({key: entry[key] for key in entry if key not in later}) for entry in entries]


def fit(folder: Path, *arguments: str) -> None:
    """``es-lightning fit`` in a process of its own, which forks from a warm one."""
    process = CONTEXT.Process(
        target=_fit, args=(folder, [*arguments, "--trainer.enable_progress_bar", "false"])
    )
    process.start()
    process.join(120)
    process.kill()
    assert process.exitcode == 0, (folder / "log.txt").read_text(encoding="utf-8")


def _fit(folder: Path, arguments: list[str]) -> None:
    from es_lightning.cli import main

    os.chdir(folder)
    log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = ["es-lightning"]
    main(["fit", "-c", str(RUN / "config.yaml"), *arguments])


def test_the_run_holds_what_it_is_kept_for() -> None:
    header, entries = read_journal(OLD / "journal.jsonl")
    assert header["optimizer"]["settings"]["momentum"] > 0
    assert len({entry.hyper["lr"] for entry in entries}) == len(entries), "a schedule"
    assert all([member.sign for member in entry.members] == [1, -1] * 3 for entry in entries)
    assert any(json.loads(line).get("after") is not None for line in lines(OLD / "journal.jsonl"))


def test_it_replays(tmp_path: Path) -> None:
    entry = replay(OLD / "journal.jsonl", tmp_path / "model")  # compares the checksum of every generation
    assert entry.checksum == json.loads(lines(OLD / "journal.jsonl")[-1])["checksum"]


def test_it_resumes_with_its_journal(folder: Path) -> None:
    before = [(folder / RUN / name).read_text() for name in ("journal.jsonl", "rewards.jsonl")]
    fit(folder, "--ckpt_path", "last")
    assert [(folder / RUN / name).read_text() for name in ("journal.jsonl", "rewards.jsonl")] == before


@pytest.mark.slow
def test_it_resumes_from_its_checkpoint_alone(folder: Path) -> None:
    for name in ("journal.jsonl", "rewards.jsonl"):
        (folder / RUN / name).unlink()
    fit(folder, "--ckpt_path", "last")
    assert lines(folder / RUN / "journal.jsonl") == lines(OLD / "journal.jsonl")


@pytest.mark.slow
def test_its_configuration_gives_the_same_run_again(folder: Path) -> None:
    fit(folder, "--overwrite", "true")
    told = (folder / "log.txt").read_text()
    for old, new in {"noise": "algorithm.noise", "strategy": "distributed.strategy"}.items():
        assert told.count(f"DeprecationWarning: es_lightning.{old} is es_lightning.{new} now") == 1
    assert lines(folder / RUN / "journal.jsonl") == lines(OLD / "journal.jsonl")
    assert (folder / RUN / "rewards.jsonl").read_text() == (OLD / "rewards.jsonl").read_text()


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_an_old_name_leads_to_the_module_itself(old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, f"es_lightning.{old}", raising=False)
    with pytest.warns(DeprecationWarning, match=f"es_lightning.{old} is es_lightning.{new} now") as warned:
        module = importlib.import_module(f"es_lightning.{old}")
    assert module is importlib.import_module(f"es_lightning.{new}")
    assert module.__name__ == module.__spec__.name == f"es_lightning.{new}"
    assert len(warned) == 1


def test_the_warning_names_the_place_of_the_import(tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text("import es_lightning\n\nfrom es_lightning.generation import Prompt\n")
    command = [sys.executable, "-W", "always", "user.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "user.py:3: DeprecationWarning: es_lightning.generation is es_lightning.records now" in done.stderr


def test_a_name_that_never_was_is_still_unknown() -> None:
    with pytest.raises(ModuleNotFoundError, match="es_lightning.nonsense"):
        importlib.import_module("es_lightning.nonsense")


@pytest.mark.parametrize(("module", "name"), [(module, name) for module in NAMES for name in NAMES[module]])
def test_an_old_name_in_a_module_leads_to_the_thing_itself(module: str, name: str) -> None:
    home, _, new = NAMES[module][name].rpartition(".")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old = getattr(importlib.import_module(f"es_lightning.{module}"), name)
    assert old is getattr(importlib.import_module(f"es_lightning.{home}"), new)


def test_an_old_name_in_a_module_that_stayed_warns() -> None:
    with pytest.warns(
        DeprecationWarning, match="journal.read is es_lightning.journal.entry.read_journal now"
    ):
        assert importlib.import_module("es_lightning.journal").read is read_journal
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = importlib.import_module("es_lightning.journal").nonsense


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_an_old_attribute_of_the_module_says_where_it_is_now(name: str) -> None:
    tuned, wanted = module(), rf"module.{name} of version 0.1.0 is module.{ATTRIBUTES[name]} now"
    with pytest.raises(AttributeError, match=re.escape(wanted)):
        getattr(tuned, name)
    with pytest.raises(AttributeError, match=re.escape(wanted)):
        setattr(tuned, name, None)


def test_the_command_is_where_it_was() -> None:
    code = "from es_lightning.cli import main; main(['--help'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "Fine-tune language models by evolution strategies" in done.stdout
