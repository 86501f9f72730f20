"""The code that README.md, CONTRIBUTING.md and docs/ show runs as it is printed there."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from mlflow.tracking import MlflowClient
from scipy import stats

from es_lightning.journal.replay import replay
from es_lightning.records import Prompt
from es_lightning.system.moved import MOVED
from es_lightning.task import Task
from es_lightning.tasks import PythonRewards
from tests.helpers.fits import Letters, fit

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.DOTALL)


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_stands_beside_a_command_is_a_comment(page: Path) -> None:
    """So that whole lines can be copied into a shell."""
    command = r"^(?:es-lightning|make|python|pip|pytest|torchrun|  --)[^|#\n]*[^ \n]   +[^ #\n].*$"
    assert not re.findall(command, page.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.fixture
def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """All shown plug-ins, written to files as a contributor would."""
    monkeypatch.syspath_prepend(str(tmp_path))
    module = ModuleType("shown")
    for number, block in enumerate(BLOCKS):
        (tmp_path / f"shown_{number}.py").write_text(block)
        vars(module).update(vars(__import__(f"shown_{number}")))
        monkeypatch.delitem(sys.modules, f"shown_{number}")
    return module


def test_there_is_one_of_each_kind() -> None:
    assert len(BLOCKS) == 5
    assert all(len(block.splitlines()) <= 40 for block in BLOCKS)


def test_the_task(shown: ModuleType, tmp_path: Path) -> None:
    task: Task = shown.AddTwo(size=8)
    prompt = task.problems("val")[0]
    assert task.reward(prompt, f"First 1, then {prompt.reference}.") == 1
    assert task.reward(prompt, "no number") == 0
    assert len({p.text for split in ("train", "val", "test") for p in task.problems(split)}) == 24
    _, records = fit(task, tmp_path, steps=1)
    assert records.generations[0].rewards.shape == (4, 8)


def test_the_callback(shown: ModuleType, tmp_path: Path) -> None:
    class Same(shown.AddTwo):  # type: ignore[misc, name-defined]
        def reward(self, prompt: Prompt, completion: str) -> float:
            return 0.5

    tuned, records = fit(Same(size=2), tmp_path, steps=9, callbacks=[shown.DeadGeneration(patience=3)])
    assert len(records.generations) == 3
    assert float(tuned.trainer.callback_metrics["population/dead_run"]) == 3


def test_the_noise(shown: ModuleType, tmp_path: Path) -> None:
    noise = shown.UniformNoise()
    eps = noise.sample(5, "w", (300, 300))
    assert stats.kstest(eps.flatten().numpy(), stats.uniform(-(3**0.5), 2 * 3**0.5).cdf).pvalue > 1e-4
    assert noise.table().double().square().mean() == pytest.approx(1, abs=1e-6)
    assert torch.equal(eps, noise.sample(5, "w", (300, 300)))
    _, records = fit(shown.AddTwo(size=2), tmp_path, steps=1, noise=noise)
    assert len(records.generations) == 1


def test_the_shaping(shown: ModuleType, tmp_path: Path) -> None:
    rewards = torch.tensor([[1.0, 3.0], [0.0, 0.0], [5.0, 4.0], [1.0, 0.0]])
    assert shown.best_half(rewards).tolist() == [2.0, 0.0, 2.0, 0.0]
    _, records = fit(Letters(), tmp_path, steps=1, shaping=shown.best_half)
    assert records.generations[0].weights.tolist() == shown.best_half(records.generations[0].rewards).tolist()


def test_the_regulariser(shown: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned, _ = fit(Letters(), tmp_path, steps=2, regularisers=[shown.NearBase(most=1e-3)])
    before = tuned.base_model.weights
    moved = [(tensor - before.read(name)).abs() for name, tensor in tuned.centre.named_parameters()]
    assert max(float(each.max()) for each in moved) == pytest.approx(1e-3, rel=1e-3)
    for number, block in enumerate(BLOCKS):  # a replay imports it again
        (tmp_path / f"shown_{number}.py").write_text(block)
    entry = replay(tmp_path / "journal.jsonl", tmp_path / "model", trust_remote_code=True)
    assert entry.checksum == tuned.checksum()


def test_the_reward_functions_of_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "tasks.md").read_text(), re.DOTALL)
    [block] = [each for each in blocks if "my_rewards.py" in each]
    (tmp_path / "my_rewards.py").write_text(block)
    (tmp_path / "rows.jsonl").write_text('{"prompt": "Name a prime above 10.", "answer": "11"}\n')
    monkeypatch.delitem(sys.modules, "my_rewards", raising=False)  # of another test
    monkeypatch.syspath_prepend(str(tmp_path))
    options = {"rewards": ["my_rewards.exact", "my_rewards.polite"], "weights": [1.0, 0.2]}
    task = PythonRewards(str(tmp_path / "rows.jsonl"), **options)
    [prompt] = [p for split in ("train", "val", "test") for p in task.problems(split)]
    assert task.reward(prompt, "11") == {"reward": 1.0, "exact": 1.0, "polite": 0, "polite/words": 1}
    assert task.reward(prompt, "Please wait")["reward"] == pytest.approx(0.2)


PARTS = (ROOT / "docs" / "parts.md").read_text(encoding="utf-8")
EVALUATE, REPLAY, READ = re.findall(r"```python\n(.*?)```", PARTS, re.DOTALL)
OLD_RUN = ROOT / "tests" / "data" / "run_of_0_1_0"


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a journal where the page's examples look for one."""
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    shutil.copy(OLD_RUN / "journal.jsonl", tmp_path / "runs" / "demo")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_block(code: str) -> dict[str, Any]:
    """The names that a printed example has defined in the end."""
    names: dict[str, Any] = {}
    exec(compile(code, "docs/parts.md", "exec"), names)
    return names


@pytest.mark.slow
def test_the_parts_evaluate_a_population_without_a_trainer() -> None:
    assert 'BaseModel("embedded")' in EVALUATE
    names = run_block(EVALUATE.replace("embedded", "tiny"))
    rewards, outcome = names["rewards"], names["outcome"]
    assert rewards.shape == (4, 8)
    assert rewards.dtype == torch.float64
    assert rewards.isfinite().all()
    assert [len(outcome.evaluations[member.index].completions) for member in names["members"]] == [8] * 4


@pytest.mark.slow
def test_the_parts_go_back_to_an_earlier_centre(demo: Path) -> None:
    recorded = json.loads((OLD_RUN / "journal.jsonl").read_text().splitlines()[1 + 3])
    assert run_block(REPLAY)["checksum"] == recorded["checksum"]
    assert (demo / "model-3" / "model.safetensors").is_file()


def test_the_parts_read_a_journal(demo: Path) -> None:
    names = run_block(READ)
    first, *_ = recorded = [
        json.loads(line) for line in (OLD_RUN / "journal.jsonl").read_text().splitlines()[1:]
    ]
    assert names["sigma"] == first["sigma"]
    assert names["curve"] == [entry["reward"]["mean"] for entry in recorded]
    assert len(names["seeds"]) == len(first["signs"])


def test_the_page_lists_every_module_that_has_moved() -> None:
    assert dict(re.findall(r"`([\w.]+)` -> `([\w.]+)`", PARTS)) == MOVED


README = (ROOT / "README.md").read_text(encoding="utf-8")
SMOKE = str(ROOT / "configs" / "smoke_cpu.yaml")
DEAD = "trainer: {callbacks: [{class_path: my_monitors.DeadGeneration, init_args: {patience: 2}}]}"


def command_line(folder: Path, code: str, config: str) -> dict[str, list[tuple[int, float]]]:
    """A fit from a user's own folder; returns what MLflow has of it, by metric."""
    (folder / "my_monitors.py").write_text(code)
    (folder / "my_run.yaml").write_text(config)
    command = [str(Path(sys.executable).with_name("es-lightning")), "fit", "-c", SMOKE, "-c", "my_run.yaml"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    [run] = client.search_runs([each.experiment_id for each in client.search_experiments()])
    histories = {key: client.get_metric_history(run.info.run_id, key) for key in run.data.metrics}
    return {key: [(metric.step, metric.value) for metric in each] for key, each in histories.items()}


@pytest.mark.slow
@pytest.mark.callbacks
def test_the_monitor_of_the_readme_runs_from_a_users_folder(tmp_path: Path) -> None:
    code = next(b for b in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "my_monitors.py" in b)
    config = next(b for b in re.findall(r"```yaml\n(.*?)```", README, re.DOTALL) if "my_monitors" in b)
    assert len(code.splitlines()) <= 32
    logged = command_line(tmp_path, code, config)
    assert [step for step, _ in logged["health/different"]] == [0, 1, 2]
    completions = 4 * 8
    assert all(1 / completions <= share <= 1 for _, share in logged["health/different"])
    assert any(key.startswith("health/agreement") for key in logged), "PopulationHealth stands beside it"


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.callbacks
def test_the_callback_runs_from_a_users_folder(tmp_path: Path) -> None:
    code = next(block for block in BLOCKS if "DeadGeneration" in block)
    logged = command_line(tmp_path, code, DEAD)
    assert logged["population/dead_run"] == [(0, 0.0), (1, 0.0), (2, 0.0)]
