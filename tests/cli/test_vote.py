"""``es-lightning vote`` on a probe of the tiny model."""

import csv
import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from es_lightning.baselines.vote import best_candidates
from es_lightning.baselines.voters import Voters, given_answers, held_out_prompts
from es_lightning.cli import main
from es_lightning.cli.opened import opened
from es_lightning.cli.probe import about_probe
from es_lightning.errors import UsageError
from es_lightning.evaluation.parts import Parts
from es_lightning.journal.identity import digest
from es_lightning.landscape.landscape import ModelLandscape
from es_lightning.landscape.probing.candidate_model import write_candidate
from es_lightning.landscape.probing.probe import Probe, ProbeSettings
from es_lightning.landscape.probing.results import ProbeResults
from es_lightning.records import Prompt
from es_lightning.tasks import Conciseness

CONFIG = """
model: {base: tiny, engine: {class_path: HFEngine, init_args: {dtype: float32}}, sampling: {max_tokens: 3}}
data: {task: Conciseness, val_prompts: 8}
trainer: {accelerator: cpu, devices: 1, logger: false}
"""
SETTINGS = ProbeSettings(sigmas=(0.1, 0.3), members=4, batches=1, prompts=3, largest=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished probe of the tiny model, beside its config."""
    root = tmp_path_factory.mktemp("vote")
    (root / "mine.yaml").write_text(CONFIG)
    with opened(["-c", str(root / "mine.yaml")]) as parts:
        problems = SETTINGS.choose(parts.data.prompts("train"))
        prompts = parts.rollouts.reserve(parts.base, problems)
        centre = parts.start(4)
        about = about_probe(parts, prompts, sum(each.numel() for each in centre.parameters()))
        Probe(ModelLandscape(parts, centre, prompts), SETTINGS, root / "probe", about).run()
    return root / "probe"


def config(folder: Path) -> list[str]:
    return ["-c", str(folder.parent / "mine.yaml")]


def vote(folder: Path, *arguments: str) -> None:
    main(["vote", str(folder), *config(folder), *arguments])


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()[1:]]


def test_the_table_is_what_the_replies_say(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "vote"
    vote(folder, "--top", "3", "--output", str(output))
    summary = json.loads((output / "vote.json").read_text())
    results = ProbeResults.read(folder)
    ranked = sorted(range(8), key=lambda n: (-results.table["reward"][n].as_py(), n))
    assert [voter["candidate"] for voter in summary["voters"]] == ranked[:3]
    assert (summary["prompts"], summary["rollouts_of_ranking"]) == (8, 8 * 3)
    replies = {row["candidate"]: row for row in lines(output / "replies.jsonl")}
    assert list(replies) == [-1, *ranked[:3]]
    votes = []
    for prompt in range(8):
        texts = [str(replies[n]["texts"][prompt]).strip() for n in ranked[:3]]  # type: ignore[index]
        counts = Counter(filter(None, texts))
        winner = next((n for n, text in enumerate(texts) if counts[text] == max(counts.values())), 0)
        votes.append(replies[ranked[winner]]["rewards"][prompt])  # type: ignore[index]
    [last] = [row for row in summary["rows"] if row["models"] == "top 3"]
    assert last["vote"] == pytest.approx(np.mean(votes))
    with (output / "vote.csv").open() as file:
        assert [row["models"] for row in csv.DictReader(file)] == ["centre", "best single", "top 2", "top 3"]
    assert "best single" in capsys.readouterr().out
    # One that was killed goes on: what is there is not repeated, and what is missing is made again.
    whole = (output / "replies.jsonl").read_bytes()
    (output / "replies.jsonl").write_bytes(whole[: whole.rindex(b'{"candidate"') + 20])
    vote(folder, "--top", "3", "--output", str(output))
    assert (output / "replies.jsonl").read_bytes() == whole
    assert json.loads((output / "vote.json").read_text()) == summary
    monkeypatch.setattr(Parts, "start", lambda *_: pytest.fail("nothing is left to evaluate"))
    vote(folder, "--top", "2", "--output", str(output))
    assert json.loads((output / "vote.json").read_text())["rows"] == summary["rows"][:3]


def test_candidates_and_centre_reply_as_in_the_probe(folder: Path, tmp_path: Path) -> None:
    results = ProbeResults.read(folder)
    candidates = best_candidates(results, 2, 0.3)
    assert [each.sigma for each in candidates] == [0.3, 0.3]
    with opened(config(folder)) as parts:
        seen = [each for each in parts.prompts("train") if each.id in results.header["prompt_ids"]]
        centre, replies = Voters(parts, results, seen, tmp_path / "replies.jsonl").replies(candidates)
    assert centre.rewards == pytest.approx(results.centre.tolist())
    for candidate, reply in zip(candidates, replies, strict=True):
        assert reply.rewards == pytest.approx(candidate.rewards)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.ddp
def test_two_ranks_find_what_one_finds(folder: Path, tmp_path: Path) -> None:
    vote(folder, "--top", "2", "--output", str(tmp_path / "one"))
    options = ["--top", "2", "--output", str(tmp_path / "two"), "--trainer.devices", "2"]
    command = [sys.executable, "-m", "es_lightning", "vote", str(folder), *config(folder), *options]
    subprocess.run(command, check=True, cwd=tmp_path, timeout=200)
    for name in ("replies.jsonl", "vote.csv"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_prompts_that_chose_the_candidates_are_refused(folder: Path) -> None:
    results = ProbeResults.read(folder)
    with opened(config(folder)) as parts:
        held_out = parts.data.prompts("val")
        seen = {"split": "val", "prompt_ids": [held_out[2].id], "prompt_digest": digest(held_out[2:3])}
        same = replace(results, header={**results.header, **seen})
        with pytest.raises(UsageError, match=f"split val holds {held_out[2].id}, a prompt by which"):
            held_out_prompts(parts, same, "val")
        # The same question under another name.
        parts.data._prompts["test"] = [replace(held_out[2], id="another"), *parts.data.prompts("test")]
        with pytest.raises(UsageError, match="split test holds another, a prompt by which"):
            held_out_prompts(parts, same, "test")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vote"], "give the folder of a finished probe first, as in es-lightning vote"),
        (["vote", "nowhere"], "give a config with -c FILE"),
        (["vote", "nowhere", "--top", "0", "-c", "x"], "--top is 0: give at least 1"),
        (["vote", "nowhere", "-c", "x.yaml"], "nowhere holds no probe"),
    ],
)
def test_bad_input_ends_in_one_sentence(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--top", "9"], "has 8 candidates: give 1 to 8"),
        (["--top", "5", "--sigma", "0.1"], "has 4 candidates at sigma 0.1: give 1 to 4"),
        (["--sigma", "0.2"], "--sigma is 0.2, and the probe has 0.1, 0.3"),
        (["--data.task.wrong_costs", "1"], "data.task.wrong_costs was 0.0 in the probe"),
        (["--data.task", "Sums"], "data.task was Conciseness in the probe"),
        (["--model.base", "embedded"], "134,515,008 parameters, and the model of the probe"),
        (["--data.val_prompts", "1"], "split val has one prompt"),
    ],
)
def test_what_does_not_belong_to_the_probe_is_refused(
    folder: Path, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        vote(folder, "--output", str(tmp_path / "vote"), *arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_a_model_of_the_same_size_with_other_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    write_candidate(folder, 0, tmp_path / "other")
    results = ProbeResults.read(folder)
    with opened([*config(folder), "--model.base", str(tmp_path / "other")]) as parts:
        prompts = held_out_prompts(parts, results, "val")
        with pytest.raises(UsageError, match="give the base model of the probe with --model.base"):
            Voters(parts, results, prompts, tmp_path / "replies.jsonl").replies(best_candidates(results, 1))


def test_a_task_that_fails_on_a_completion_costs_a_vote_alone(caplog: pytest.LogCaptureFixture) -> None:
    class Fragile(Conciseness):
        def given_answer(self, prompt: Prompt, completion: str) -> str | None:
            return str(int(completion))

    task = Fragile()
    prompts = task.problems("val")[:3]
    assert given_answers(task, prompts, ["07", "seven", "7"]) == ["7", None, "7"]
    assert prompts[1].id in caplog.text
