"""make bench --quick: every key is there, and ratios lie within wide bounds. No test looks at seconds."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

ROOT = Path(__file__).parents[2]
VARIANTS = ("gaussian", "rademacher", "low_rank", "adapters")
PHASES = ("perturb", "load", "generate", "reward", "gather", "update", "rest")


def _script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A script as a module; benchmarks are no package."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.vllm
def test_a_quick_run_writes_every_figure(tmp_path: Path) -> None:
    output = tmp_path / "bench.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "bench.py"), "--quick", "--output", str(output)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
    assert found["cpu"]["name"]
    assert found["settings"]["seed"] == 0
    assert found["versions"]["torch"]
    assert found["dtype"] == {"engine": "float32", "original": "float32"}
    assert found["raw_tokens_per_second"] > 0 < found["original_tokens_per_second"]
    # A generation costs less than twenty times as much per token as generating alone, and so on.
    assert 0.01 < found["adapter_share"] < 3
    for name in VARIANTS:
        variant = found["variants"][name]
        parts = [variant["seconds"][phase] for phase in PHASES]
        assert min(parts) >= 0
        assert sum(parts) == pytest.approx(variant["seconds"]["total"])
        assert 0 < variant["overhead_fraction"] < 1
        assert 0.005 < variant["tokens_per_second"] / found["raw_tokens_per_second"] < 2
        assert 0.02 < variant["speedup"] < 50
        assert f"{name}: share outside generate" in found["targets"]
        assert f"| {name} | " in done.stderr


def test_the_originals_noise_is_taken_away_again_and_its_step_is_the_papers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original: Any = _script("original", monkeypatch)
    model = nn.Linear(4, 3)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    original.shift(model, 7, 0.5)
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    original.shift(model, 7, -0.5)
    for a, b in zip(before, model.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    original.update(model, [3, 4], [1.0, -1.0], lr=0.1)
    for a, b in zip(before, model.parameters(), strict=True):
        step = 0.1 / 2 * (original.drawn(a, 3) - original.drawn(a, 4))
        torch.testing.assert_close(b.detach(), a + step)


def test_stragglers_leave_places_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: Any = _script("_jobs", monkeypatch)
    assert jobs.straggling([[4, 4], [2, 2]]) == 0
    assert jobs.straggling([[2, 4], [1, 8]]) == pytest.approx(1 - 15 / 24)
