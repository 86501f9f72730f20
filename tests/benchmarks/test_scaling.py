"""What a generation costs per parameter: no more for a larger model, and with the memory that is promised."""

import sys
from pathlib import Path
from typing import Any

import pytest

from es_lightning.algorithm.noise import GaussianNoise

FOLDER = Path(__file__).parents[2] / "benchmarks"
WIDE = 3.0  # a machine at work on something else


@pytest.fixture
def scaling(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module, beside memory.py that it imports."""
    monkeypatch.syspath_prepend(FOLDER)
    import scaling  # benchmarks are no package

    yield scaling
    for name in ("scaling", "memory"):
        sys.modules.pop(name)


@pytest.mark.slow
def test_a_model_eight_times_as_large_costs_no_more_per_parameter(scaling: Any, tmp_path: Path) -> None:
    costs = {}
    for name, shape in {"small": (64, 192, 4), "large": (192, 512, 6)}.items():
        scaling.VOCABULARY = 1024
        folder = tmp_path / name
        folder.mkdir()
        scaling.make(scaling.Shape(*shape), folder)
        subject = scaling.Subject(folder, GaussianNoise(compile=False))
        found = scaling.timed(subject, rounds=3)
        assert sum(each.numel() for each in subject.centre.parameters()) == scaling.Shape(*shape).parameters
        costs[name] = {part: value / scaling.Shape(*shape).parameters for part, value in found.items()}
    assert scaling.Shape(192, 512, 6).parameters > 8 * scaling.Shape(64, 192, 4).parameters
    assert {
        part: costs["large"][part] < WIDE * costs["small"][part] for part in scaling.PARTS
    } == dict.fromkeys(scaling.PARTS, True)


@pytest.mark.slow
def test_memory_beside_centre_and_engine_is_that_of_two_tensors(
    scaling: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kept = tmp_path / "kept.json"
    arguments = ["scaling.py", "--sizes", "100M", "--rounds", "1", "--output", str(kept)]
    monkeypatch.setattr(sys, "argv", arguments)
    scaling.main()
    found = scaling.json.loads(kept.read_text("utf-8"))["100M"]
    assert found["peak"] <= found["promised"] + scaling.ALLOWANCE
    assert "| 99 M |" in capsys.readouterr().out


def test_exponents_and_what_they_mean(scaling: Any) -> None:
    sizes = [10, 100, 1000, 10000]
    k, half = scaling.exponent(sizes, [3e-9 * size**1.5 for size in sizes])
    assert (k, half) == (pytest.approx(1.5), pytest.approx(0, abs=1e-6))
    assert scaling.verdict(k, half) == "MORE than linear"
    assert scaling.verdict(1.05, 0.01) == scaling.verdict(1.2, 0.25) == "linear"
    assert scaling.verdict(1.0, 0.4) == "open"
    assert scaling.verdict(0.8, 0.1) == "less than linear"
