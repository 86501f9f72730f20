"""What a run has cost: sums of its journal, the same in a resumed run, and by the papers' formulas."""

import json
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import Callback

from es_lightning.analysis import flops
from es_lightning.datamodule import TaskDataModule
from es_lightning.evaluation.costs import CostMeter, costs_of
from es_lightning.grading.scorer import Grading
from es_lightning.journal.entry import Entry
from es_lightning.module import EvolutionStrategies
from es_lightning.records import Choice, Costs, Prompt
from es_lightning.rollout import Sampling
from tests.helpers.fits import Letters, Records, module, trainer

STEPS, MEMBERS, PROMPTS, SAMPLES = 4, 4, 3, 2


class Back(Callback):
    """Puts an earlier centre back after two generations."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """After an update."""
        if trainer.global_step == 2:
            pl_module.restore(1)


class Metrics(Callback):
    """Keeps what was logged of each generation."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        """After a generation's metrics."""
        self.rows.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def run(folder: Path, resumes: bool = False) -> tuple[EvolutionStrategies, list[dict[str, float]], Records]:
    """A fit, or one that goes on from its journal alone; it goes back on its way."""
    sampling = Sampling(max_tokens=6, n=SAMPLES, temperature=1.0)
    tuned, metrics, records = module(sampling=sampling, population=MEMBERS), Metrics(), Records()
    tuned.history.saved = [] if resumes else None
    data = TaskDataModule(Letters(), grading=Grading(workers=0), prompts_per_generation=PROMPTS)
    steps = STEPS + 1 if resumes else STEPS
    trainer(folder, steps, [metrics, records, Back()], limit_val_batches=0).fit(tuned, data)
    return tuned, metrics.rows, records


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any, Any]:
    folder = tmp_path_factory.mktemp("whole")
    return folder, *run(folder)


def test_a_generation_costs_what_its_completions_say(whole: tuple[Path, Any, Any, Records]) -> None:
    _, tuned, metrics, records = whole
    parameters = sum(each.numel() for each in tuned.centre.parameters())
    rollouts = generated = read = 0
    seconds = 0.0
    for row, record in zip(metrics, records.generations, strict=True):
        evaluations = record.evaluations.values()
        rollouts += sum(len(each.completions) for each in evaluations)
        generated += sum(len(text.token_ids) for each in evaluations for text in each.completions)
        read += sum(SAMPLES * len(p.token_ids) for each in evaluations for p in each.prompts)
        seconds += record.seconds["total"]
        assert row["cost/rollouts"] == rollouts
        assert row["cost/tokens"] == generated
        assert row["cost/flops"] == pytest.approx(2 * parameters * (read + generated), rel=1e-12)
        assert row["cost/seconds"] == pytest.approx(seconds, abs=0.001 * STEPS)
        assert row["cost/peak_bytes"] > 4 * parameters
    assert rollouts == STEPS * MEMBERS * PROMPTS * SAMPLES, "the discarded generation has been paid, too"


@pytest.mark.parametrize("old", [False, True], ids=["", "a journal of 0.1.0"])
def test_a_resumed_run_goes_on_with_the_same_sums(
    whole: tuple[Path, Any, list[dict[str, float]], Any], tmp_path: Path, old: bool
) -> None:
    source, _, wanted, _ = whole
    for name in ("journal.jsonl", "rewards.jsonl"):
        rows = [json.loads(line) for line in (source / name).read_text().splitlines()]
        for row in rows if old else []:
            row.pop("rollouts", None)
            row.pop("prompt_tokens", None)
        (tmp_path / name).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    _, found, _ = run(tmp_path, resumes=True)
    sums = ("cost/rollouts", "cost/tokens", "cost/seconds", "cost/flops")
    assert [[row[name] for name in sums] for row in found[:STEPS]] == [
        [row[name] for name in sums] for row in wanted
    ]
    assert found[STEPS]["cost/rollouts"] == (STEPS + 1) * MEMBERS * PROMPTS * SAMPLES
    assert found[STEPS]["cost/seconds"] > wanted[-1]["cost/seconds"]


def test_lines_are_read_once_and_sums_depend_on_the_journal_alone(whole: tuple[Path, Any, Any, Any]) -> None:
    lines = whole[1].history.lines
    once, stepwise = CostMeter(1000, lambda _: [], 1), CostMeter(1000, lambda _: [], 1)
    for count in range(len(lines) + 1):
        found = stepwise.up_to(lines[:count])
    assert found == once.up_to(lines) == once.up_to(lines)
    assert once.up_to([*lines, "no entry"][: len(lines)]) == found
    assert sum((costs_of(Entry.parse(line), 1000) for line in lines[1:]), Costs()) == found


def test_an_entry_that_does_not_tell_has_no_costs(whole: tuple[Path, Any, Any, Any]) -> None:
    entry = json.loads(whole[1].history.lines[1])
    del entry["prompt_tokens"]
    with pytest.raises(ValueError, match="generation 0 does not tell"):
        costs_of(Entry.parse(json.dumps(entry)), 1000)


def test_operations_are_the_papers() -> None:
    """async-es: 2 N D P L for a generation, 14 B G P L for an update of GRPO."""
    assert flops.of_generation(30, 7, 64, 100.0) == 2 * 30 * 7 * 64 * 100
    assert flops.of_policy_update(8, 7, 64, 100.0) == 14 * 7 * 8 * 64 * 100


def test_choices_are_read_but_for_one_answer() -> None:
    assert Prompt("a", "", token_ids=(1, 2, 3)).tokens_read == 3
    short, long = Choice("x", token_ids=(1, 2, 3), scored=1), Choice("y z", token_ids=(1, 2, 4, 5), scored=2)
    assert Prompt("b", "", token_ids=(1, 2), choices=(long,)).tokens_read == 2
    assert Prompt("c", "", token_ids=(1, 2), choices=(short, long)).tokens_read == 3 + 4 - 2
