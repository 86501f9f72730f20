"""``es-lightning analyze`` on a model that was tuned by hand, against transformers."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy import stats
from torch import Tensor
from transformers import AutoModelForCausalLM

from es_lightning.cli import main
from es_lightning.cli.analyze import _checksum_of_run, _logged_in, short_name
from es_lightning.evaluation.beside_base import BesideBase
from es_lightning.evaluation.parts import Parts
from es_lightning.models import BaseModel

CONFIG = """
model: {base: tiny, engine: {class_path: HFEngine, init_args: {dtype: float32}}, sampling: {max_tokens: 5}}
data: {task: Conciseness, test_prompts: 6, grading: {workers: 0}}
trainer: {accelerator: cpu, devices: 1, logger: false}
analyze:
  kl_prompts: 4
  sample: 5
  grading: {workers: 0}
  tasks:
    piqa: {class_path: MultipleChoice, init_args: {dataset: piqa, data: sample, mode: loglikelihood}}
"""
FROZEN = "model.norm.weight"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config, and the folder of a model whose weights differ from the base's in all but one tensor."""
    root = tmp_path_factory.mktemp("analyze")
    (root / "mine.yaml").write_text(CONFIG)
    shutil.copytree(BaseModel("tiny").folder, root / "mine" / "model")
    [file] = (root / "mine" / "model").glob("*.safetensors")
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: tensor
        if name == FROZEN
        else (tensor.float() + 0.1 * torch.randn(tensor.shape, generator=generator)).to(tensor.dtype)
        for name, tensor in load_file(file).items()
    }
    save_file(weights, file, metadata={"format": "pt"})
    return root


def given(root: Path, output: Path) -> list[str]:
    return [str(root / "mine"), "-c", str(root / "mine.yaml"), "--output", str(output)]


def analyze(root: Path, output: Path) -> None:
    main(["analyze", *given(root, output)])


def terms(row: dict[str, Any], p: Any, q: Any) -> Tensor:
    """log p - log q of a completion's tokens, in float64."""
    ids = torch.tensor([row["token_ids"]])
    with torch.no_grad():
        logs = [
            model(ids).logits[0, :-1].double().log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
            for model in (p, q)
        ]
    return (logs[0] - logs[1])[row["given"] - 1 :]


def test_every_number_is_that_of_the_two_models(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    analyze(root, tmp_path)
    told = json.loads((tmp_path / "analysis.json").read_text())
    lines = (tmp_path / "analysis.jsonl").read_text().splitlines()[1:]
    kept = {row["what"]: row["found"] for row in map(json.loads, lines)}
    folders = [BaseModel("tiny").folder, root / "mine" / "model"]
    base, tuned = (AutoModelForCausalLM.from_pretrained(each, dtype=torch.float32) for each in folders)

    # Weights: the frozen tensor is the only one that has not changed.
    pairs = list(zip(base.named_parameters(), tuned.parameters(), strict=True))
    squares = sum((b.double() - a.double()).square().sum() for (_, a), b in pairs)
    assert told["geometry"]["all"]["norm"] == pytest.approx(squares.item() ** 0.5)
    equal = sum(int((a == b).sum()) for (_, a), b in pairs) / sum(a.numel() for (_, a), _ in pairs)
    assert told["geometry"]["all"]["sparsity_ulp"] == pytest.approx(equal)

    # Divergences: each model's own samples under both.
    for name, drawn, p, q in (
        ("kl_base_tuned", "base/samples", base, tuned),
        ("kl_tuned_base", "tuned/samples", tuned, base),
    ):
        ratios = [terms(row, p, q) for row in kept[drawn]]
        sums, counts = np.array([each.sum() for each in ratios]), np.array([len(each) for each in ratios])
        assert len(ratios) == told["divergence"]["prompts"] == 4
        assert told["divergence"][name] == pytest.approx(sums.sum() / counts.sum(), abs=1e-4)
        assert told["divergence"][f"{name}_completion"] == pytest.approx(sums.mean(), abs=1e-4)
        assert told["divergence"][f"{name}_completion_se"] == pytest.approx(stats.sem(sums), abs=1e-4)

    # Rewards: paired differences of what both earned.
    for what, row in (("task", told["reward"]), ("prior/piqa", told["forgetting"]["piqa"])):
        rewards = [np.array(kept[f"{model}/{what}"]["rewards"]) for model in ("base", "tuned")]
        assert row["base"] == pytest.approx(rewards[0].mean())
        assert row["change"] == pytest.approx((rewards[1] - rewards[0]).mean())
        assert row["change_se"] == pytest.approx(stats.sem(rewards[1] - rewards[0]))
    assert (told["reward"]["problems"], told["forgetting"]["piqa"]["problems"]) == (6, 5)

    # The table has all of it, and the terminal says where.
    with (tmp_path / "analysis.csv").open() as file:
        table = {(row["part"], row["of"], row["quantity"]): row for row in csv.DictReader(file)}
    assert float(table["prior", "piqa", "reward"]["change"]) == told["forgetting"]["piqa"]["change"]
    assert float(table["weights", "norm", "share_changed"]["change"]) < 1
    shown = capsys.readouterr().out
    assert "KL(tuned||base)" in shown
    assert "left out" not in shown

    # One that was killed goes on: nothing that is on disk is measured again.
    whole = (tmp_path / "analysis.jsonl").read_bytes()
    (tmp_path / "analysis.jsonl").write_bytes(whole[: whole.index(b"tuned/task") + 20])
    analyze(root, tmp_path)
    assert (tmp_path / "analysis.jsonl").read_bytes() == whole
    assert json.loads((tmp_path / "analysis.json").read_text()) == told
    monkeypatch.setattr(Parts, "start", lambda *_: pytest.fail("nothing is left to measure"))
    analyze(root, tmp_path)
    assert json.loads((tmp_path / "analysis.json").read_text()) == told

    # A line that is none, and other settings, are refused.
    (tmp_path / "analysis.jsonl").write_bytes(whole + b'{"what":"tuned/prior/x","found":{"rewards":[]}}\n')
    assert f"is damaged in line {len(lines) + 2}" in refused(given(root, tmp_path), capsys)
    (tmp_path / "analysis.jsonl").write_bytes(whole)
    options = ["--analyze.kl_seed", "1"]
    assert "holds an analysis with other settings: kl was" in refused(
        [*given(root, tmp_path), *options], capsys
    )


@pytest.mark.slow
def test_a_second_model_takes_what_is_known_of_the_base(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    analyze(root, tmp_path / "first")
    shutil.copytree(root / "mine" / "model", tmp_path / "other")
    [file] = (tmp_path / "other").glob("*.safetensors")
    halved = {name: tensor / 2 if name == FROZEN else tensor for name, tensor in load_file(file).items()}
    save_file(halved, file, metadata={"format": "pt"})

    def other(output: str, *options: str) -> list[str]:
        return [str(tmp_path / "other"), *given(root, tmp_path / output)[1:], *options]

    measure, measured = BesideBase._measured, list[str]()
    monkeypatch.setattr(
        BesideBase, "_measured", lambda self, what, how: measured.append(what) or measure(self, what, how)
    )
    known = ["--base_from", str(tmp_path / "first")]
    main(["analyze", *other("taken", *known)])
    assert [what for what in measured if what.startswith("base/")] == ["base/kl_tuned_base"]
    main(["analyze", *other("alone")])
    taken, alone = (
        json.loads((tmp_path / each / "analysis.json").read_text()) for each in ("taken", "alone")
    )
    assert taken == alone
    no_analysis = refused(other("none", "--base_from", str(root)), capsys)
    assert "holds no analysis: give another --base_from" in no_analysis
    other_settings = refused(other("none", *known, "--analyze.kl_seed", "1"), capsys)
    assert "--base_from, or the old value" in other_settings
    assert not (tmp_path / "none" / "analysis.jsonl").exists(), "it can be given again with other settings"


@pytest.mark.slow
def test_the_base_itself_has_not_moved_and_what_is_left_out_is_said(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "alone.yaml"
    config.write_text(CONFIG.partition("analyze:")[0])
    options = ["--base", "tiny", "--output", str(tmp_path), "--data.test_prompts", "2", "--split", "val"]
    main(["analyze", str(BaseModel("tiny").folder), "-c", str(config), *options, "--analyze.kl_prompts", "2"])
    told = json.loads((tmp_path / "analysis.json").read_text())
    assert told["geometry"]["all"]["norm"] == 0
    assert {value for name, value in told["divergence"].items() if name != "prompts"} == {0.0}
    assert (told["reward"]["change"], told["reward"]["split"], told["forgetting"]) == (0, "val", {})
    assert "No forgetting: the config names no prior tasks under analyze.tasks." in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.ddp
def test_two_ranks_find_what_one_finds(root: Path, tmp_path: Path) -> None:
    analyze(root, tmp_path / "one")
    options = [*given(root, tmp_path / "two"), "--trainer.devices", "2"]
    command = [sys.executable, "-m", "es_lightning", "analyze", *options]
    subprocess.run(command, check=True, cwd=tmp_path, timeout=200)
    tables = [
        [row for row in csv.reader((tmp_path / each / "analysis.csv").open()) if row[0] != "divergence"]
        for each in ("one", "two")
    ]
    for one, two in zip(*tables, strict=True):
        assert [_number(cell) for cell in one] == [pytest.approx(_number(cell), rel=1e-12) for cell in two]
    told = [
        json.loads((tmp_path / each / "analysis.json").read_text())["divergence"] for each in ("one", "two")
    ]
    assert told[0].keys() == told[1].keys(), "of other samples, which depend on what is sampled in one batch"


def _number(cell: str) -> float | str:
    """A cell as a number, if it is one: the last digit of a norm depends on how many threads add it up."""
    try:
        return float(cell)
    except ValueError:
        return cell


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(["analyze", *arguments])
    assert stopped.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give the tuned model first, as in es-lightning analyze runs/demo"),
        (["nowhere"], "give a config with -c FILE"),
        (["nowhere", "-c", "x", "--split", "train"], "invalid choice: 'train'"),
        (["nowhere", "-c", "x", "--bsae", "y"], "there is no option --bsae. Did you mean base?"),
    ],
)
def test_bad_options_end_in_one_sentence(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(arguments, capsys)


@pytest.mark.slow
def test_other_models_and_values_are_refused_before_the_engine_starts(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Parts, "start", lambda *_: pytest.fail("the engine is started"))
    shutil.copytree(root / "mine" / "model", tmp_path / "deeper")
    config = json.loads((tmp_path / "deeper" / "config.json").read_text())
    config["num_hidden_layers"] += 1
    (tmp_path / "deeper" / "config.json").write_text(json.dumps(config))
    shutil.copytree(root / "mine" / "model", tmp_path / "torn")
    [file] = (tmp_path / "torn").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:1000])
    shutil.copytree(root / "mine" / "model", tmp_path / "broken")
    [file] = (tmp_path / "broken").glob("*.safetensors")
    save_file(
        load_file(file) | {FROZEN: load_file(file)[FROZEN] * torch.nan}, file, metadata={"format": "pt"}
    )
    for model, options, message in (
        ("deeper", [], "is no model of the kind of model.base tiny: model.layers."),
        ("torn", [], "Get the model's files anew"),
        ("broken", [], f"has numbers in {FROZEN} that are not finite"),
        ("nowhere", [], "no model at"),
        ("torn", ["--base", str(tmp_path / "nowhere")], "no model at"),
        ("torn", ["--analyze.sample", "0"], "analyze.sample is 0: give at least 1 problem"),
        ("torn", ["--analyze.kl_prompts", "0"], "analyze.kl_prompts is 0"),
        ("torn", ["--analyze.sampel", "3"], "Did you mean analyze.sample?"),
    ):
        assert message in refused(
            [str(tmp_path / model), *given(root, tmp_path / "out")[1:], *options], capsys
        )
    assert not (tmp_path / "out" / "analysis.csv").exists()


def test_an_analysis_in_the_runs_own_folder_names_the_runs_final_centre(root: Path, tmp_path: Path) -> None:
    (root / "mine" / "summary.json").write_text('{"centre_checksum": "c0ffee"}')
    assert _checksum_of_run(str(root / "mine"), root / "mine") == "c0ffee"
    assert _checksum_of_run(str(root / "mine" / "model"), root / "mine") == "c0ffee"
    assert _checksum_of_run(f"{root / 'mine'}:3", root / "mine") is None
    assert _checksum_of_run(str(root / "mine"), tmp_path) is None


def test_an_analysis_in_a_runs_folder_is_not_logged_into_the_fits_own_run(tmp_path: Path) -> None:
    assert _logged_in("runs/demo", tmp_path) == tmp_path
    (tmp_path / "journal.jsonl").touch()
    assert _logged_in("runs/demo", tmp_path) == tmp_path / "analysis-demo"


def test_a_folder_is_named_after_the_model() -> None:
    names = {"runs/demo": "demo", "runs/demo/model": "demo", "runs/demo:7": "demo-7", "Qwen/Q-1.5B": "Q-1.5B"}
    assert {each: short_name(each) for each in names} == names
