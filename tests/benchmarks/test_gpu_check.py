"""The check of an accelerator: its table and verdicts, and all of it with a CPU in place of the device."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.gpu_check import __main__ as script
from benchmarks.gpu_check import bits, engines, launches, ranks
from benchmarks.gpu_check.rows import AGREES, DIFFERS, FAILED, MEASURED, SKIPPED, Row, Settings, table
from benchmarks.gpu_check.section import SECTIONS
from es_lightning.algorithm.noise import GaussianNoise

ROOT = Path(__file__).parents[2]
TINY = Settings("cpu", base="tiny", dtype="float32", sigma=0.2, members=4, prompts=4, tokens=6)


def test_without_an_accelerator_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: None)
    for arguments in ([], ["--device", "cuda"]):
        assert script.main(arguments) == 2
        told = capsys.readouterr()
        assert told.err == "No accelerator found: run with --device cpu to try the script itself.\n"
        assert not told.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sections", "nose"], "invalid choice: 'nose'"),
        (["--sigma", "much"], "invalid float value: 'much'"),
    ],
)
def test_bad_options_end_in_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        script.main(arguments)
    assert caught.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert words in line


def test_the_table_counts_and_escapes() -> None:
    text = table({"a": [Row("b", "1 | 2 <x>\x1b", AGREES), Row("c", "4 s")], "d": [Row("e", "f", FAILED)]})
    assert text.splitlines() == [
        "**1 rows differ or failed, 1 agree.**",
        "",
        "| part | what | result | verdict |",
        "|---|---|---|---|",
        "| a | b | 1 \\| 2 &lt;x>\\x1b | agrees |",
        "| a | c | 4 s |  |",
        "| d | e | f | failed |",
    ]


def test_noise_that_differs_or_fails_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def digest(tensor: torch.Tensor) -> str:
        calls.append(tensor)
        return "other" if len(calls) == 25 + 3 else "same"  # the third tensor, as eager code makes it

    def gaussian(compile: bool) -> GaussianNoise:
        if compile:
            raise RuntimeError("no compiler\nhere")
        return GaussianNoise(False)

    monkeypatch.setattr(bits, "KINDS", {"Gaussian": gaussian})
    monkeypatch.setattr(bits, "digest", digest)
    assert list(bits.noise_rows(TINY)) == [
        Row(
            "Gaussian, eager",
            "24 of 25 have the same bits; the first that has not: member of scalar in torch.bfloat16",
            DIFFERS,
        ),
        Row("Gaussian, compiled", "failed: RuntimeError: no compiler here", FAILED),
    ]


@pytest.mark.slow
def test_updates_of_a_cpu_agree_with_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bits, "KINDS", {name: bits.KINDS[name] for name in ("Gaussian", "rank 1")})
    rows = list(bits.update_rows(TINY))
    assert {row.verdict for row in rows} == {AGREES}
    assert len(rows) == 3 + 4 * (len(bits.OPTIMIZERS) + 1)


@pytest.mark.slow  # it compiles
def test_launches_are_counted() -> None:
    rows = {row.what: row.result for row in launches.rows(TINY)}
    assert len(rows) == 8
    eager, compiled = (
        float(rows[f"perturb, Gaussian, {how}, per tensor and member"].split()[0])
        for how in ("eager", "compiled")
    )
    assert compiled < eager / 5


NUMBERS = engines.Numbers(
    dtype="float32",
    logprobs={"centre": [-1.0, -2.0, -3.0], "member 0": [-1.5, -2.5, -3.5]},
    tokens={"centre": [[1, 2]], "member 0": [[3, 4]]},
)


def moved(by: float, dtype: str = "float32", token: int = 4) -> engines.Numbers:
    logprobs = {name: [each + by for each in row] for name, row in NUMBERS.logprobs.items()}
    return replace(
        NUMBERS, dtype=dtype, logprobs=logprobs, tokens=NUMBERS.tokens | {"member 0": [[3, token]]}
    )


@pytest.mark.parametrize(
    ("device", "found", "own", "verdicts"),
    [
        ("cpu", moved(1e-5), 0.0, [AGREES, AGREES, AGREES]),
        ("cpu", moved(2e-3), 0.0, [DIFFERS, DIFFERS, AGREES]),
        ("cpu", moved(0.0, token=5), 0.0, [AGREES, AGREES, DIFFERS]),
        ("cpu", moved(float("nan")), 0.0, [DIFFERS, DIFFERS, AGREES]),
        ("cuda", moved(5e-3, token=5), 0.0, [AGREES, AGREES, MEASURED]),
        ("cuda", moved(5e-2), 0.0, [DIFFERS, DIFFERS, MEASURED]),
        ("cuda", moved(0.25, "bfloat16"), 0.1, [AGREES, AGREES, MEASURED]),
        ("cuda", moved(0.35, "bfloat16"), 0.1, [DIFFERS, DIFFERS, MEASURED]),
    ],
)
def test_engines_are_judged_by_what_their_precision_allows(
    device: str, found: engines.Numbers, own: float, verdicts: list[str]
) -> None:
    others = {engines.REFERENCE: NUMBERS, engines.YARDSTICK: moved(own, found.dtype), "other": found}
    rows = list(engines.compare(replace(TINY, device=device), "other", found, others))
    assert [row.verdict for row in rows] == verdicts
    assert "this member moves them by 5.0e-01" in rows[1].result


def test_a_section_that_dies_or_hangs_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sections = tmp_path / "benchmarks" / "gpu_check"
    sections.mkdir(parents=True)
    (sections / "section.py").write_text(
        "import os, pathlib, signal, sys, time\n"
        "folder = pathlib.Path(sys.argv[2])\n"
        '(folder / \'rows.jsonl\').write_text(\'{"what": "first", "result": "1", "verdict": "agrees"}\\n\')\n'
        "print('out of memory', flush=True)\n"
        "time.sleep(60) if sys.argv[1] == 'hangs' else os.kill(os.getpid(), signal.SIGKILL)\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(script, "ROOT", tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    dead = script.run("dies", TINY, tmp_path / "dies", limit=20)
    assert [row.verdict for row in dead] == [AGREES, FAILED]
    assert dead[1].result == "failed: out of memory (exit code -9)"
    hung = script.run("hangs", TINY, tmp_path / "hangs", limit=2)
    assert hung[1].result == "failed: took longer than 2 s"


def test_one_device_is_not_enough_for_two_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    [row] = ranks.rows(replace(TINY, device="cuda"))
    assert (row.result, row.verdict) == ("skipped: one device", SKIPPED)


def check(folder: Path, *sections: str) -> list[list[str]]:
    """Run the script as a person would; the table's cells."""
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--device", "cpu", "--base", "tiny"]
    command += [
        "--dtype",
        "float32",
        "--members",
        "4",
        "--prompts",
        "4",
        "--output",
        str(folder / "table.md"),
    ]
    done = subprocess.run(
        [*command, "--sections", *sections],
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == (folder / "table.md").read_text("utf-8")
    return [line.strip("| ").split(" | ") for line in done.stdout.splitlines()[4:]]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.ddp
def test_everything_without_vllm(tmp_path: Path) -> None:
    sections = [name for name in SECTIONS if "VLLM" not in name]
    cells = check(tmp_path, *sections)
    assert {row[0] for row in cells} == set(sections)
    assert ["two ranks", "shared and plain update"] in [row[:2] for row in cells]
    settings = next(row[2] for row in cells if row[:2] == ["machine", "settings"])
    assert json.dumps(settings)
    assert "seed 0" in settings


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.vllm
def test_engines_of_vllm(tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    fit = "fit: VLLMAdapterEngine, rank 1"
    cells = check(
        tmp_path, engines.REFERENCE, "VLLMEngine, V1", "VLLMEngine, V2", "VLLMAdapterEngine, V1", fit
    )
    verdicts = {(row[0], row[1]): row[-1] for row in cells}
    for engine in ("VLLMEngine, V1", "VLLMAdapterEngine, V1"):
        for weights in ("centre", "thin 0", "thin 1"):
            assert verdicts[engine, f"log-probabilities, {weights}"] == AGREES
        assert verdicts[engine, "greedy texts"] == AGREES
    assert verdicts["VLLMEngine, V1", "log-probabilities, member 1"] == AGREES
    assert verdicts[fit, "check of the engine before the fit"] == AGREES
