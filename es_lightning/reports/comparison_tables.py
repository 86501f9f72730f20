"""The tables of a comparison: plain text in rows, for a page and for Markdown alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite, nan

from es_lightning.analysis.comparison.arms import Arm, differing
from es_lightning.analysis.comparison.budgets import SLACK, UPDATES, spent
from es_lightning.analysis.comparison.comparing import AtBudget, Comparison, Reached
from es_lightning.analysis.comparison.runs import AXES, Run, divergence_name
from es_lightning.analysis.intervals import Estimate, Z
from es_lightning.reports.comparison_cells import (
    DIFFERENCE,
    NONE,
    TEST_DIFFERENCE,
    Table,
    number,
    over_seeds,
    signed,
    span,
    versus,
)

SPLITS = {"val": "validation", "test": "test"}
UNITS = {"rollouts": "rollouts", "tokens": "generated tokens", "seconds": "seconds", "flops": "FLOPs"}
UNITS |= {UPDATES: "updates"}


FORMULAS = (
    "Operations are counted by formulas, whatever a run really does: 2 N B P L for a generation, and "
    "14 B G P L for a policy update: 12 for two passes forwards and backwards, 2 for a reference model, none "
    "for the sampling. With it, one pass without a reference model is 8 B G P L."
)


def tables_of(found: Comparison) -> list[Table]:
    """Return all tables that have a row, in the order of a report."""
    every = [
        arms_table(found),
        *(budget_table(found, each) for each in found.budgets),
        end_table(found),
        stability_table(found),
        change_table(found),
        forgetting_table(found),
        cost_table(found),
        settings_table(found),
    ]
    return [each for each in every if each.rows]


def arms_table(found: Comparison) -> Table:
    """What is compared."""
    rows = [
        [
            arm.label,
            arm.runs[0].method,
            str(arm.seeds),
            ", ".join(run.seed or "unknown" for run in arm.runs),
            ", ".join(run.name for run in arm.runs),
        ]
        for arm in found.arms
    ]
    mixed = [
        f"Runs of {arm.label} were put together by hand and differ in {', '.join(arm.mixed)}."
        for arm in found.arms
        if arm.mixed
    ]
    return Table("Arms", ("arm", "method", "runs", "seeds", "folders"), rows, mixed)


def budget_table(found: Comparison, at: AtBudget) -> Table:
    """Rewards at equal cost."""
    held_out, unit, several = SPLITS[found.split], UNITS[at.axis], len(found.arms) > 1
    has_test = found.split != "test" and any(at.test)
    head = ["arm", f"{held_out} reward", *DIFFERENCE[: 3 * several], f"{unit} spent"]
    head += ["test reward", *TEST_DIFFERENCE[:several]] if has_test else []
    rows = []
    for arm, reached, test in zip(found.arms, at.reached, at.test, strict=True):
        row = [arm.label, str(reached.reward), *versus(reached.versus)[: 3 * several]]
        row.append(_spent(reached, at.axis))
        if has_test:
            row += [str(test.reward), *versus(test.versus)[:several]] if test else [NONE] * (1 + several)
        rows.append(row)
    notes = [
        f"The budget is {number(at.budget)} {unit}: the least that a run had spent at its last {held_out} "
        f"evaluation. A run counts with its {held_out} evaluation nearest to it, at most {SLACK:.0%} beyond.",
        *_paired(at.reached),
        *([FORMULAS] if at.axis == "flops" else []),
    ]
    if found.split != "test" and not all(at.test):
        notes.append(
            "A test reward is there where all runs of an arm were tested at that very update: runs with "
            "data.test_with_val at every validation, others at their two ends alone. Elsewhere the "
            "validation reward is the held-out reward."
        )
    return Table(f"At equal {unit}", head, rows, notes)


def end_table(found: Comparison) -> Table:
    """Rewards at the end, whatever they have cost."""
    split, ends = found.ends
    width = 3 * (len(found.arms) > 1)
    head = ["arm", f"{SPLITS[split]} reward", *DIFFERENCE[:width]]
    rows = [
        [
            arm.label,
            str(each.reward),
            *versus(each.versus)[:width],
            *(_spent(each, axis) for axis in (*AXES, UPDATES)),
        ]
        for arm, each in zip(found.arms, ends, strict=True)
    ]
    note = f"The last {SPLITS[split]} evaluation of each run. Runs have not cost the same here."
    columns = [*head, *(UNITS[axis] for axis in (*AXES, UPDATES))]
    return Table("At the end of each run", columns, rows, [note, *_paired(ends)])


def stability_table(found: Comparison) -> Table:
    """How different runs of an arm are."""
    rows = [
        [
            arm.label,
            str(arm.seeds),
            number(each.deviation),
            number(each.worst),
            number(each.best),
            f"{each.below_start} of {arm.seeds}",
            number(each.largest_fall),
        ]
        for arm, each in zip(found.arms, found.stability, strict=True)
    ]
    head = ("arm", "runs", "deviation", "worst", "best", "below their start", "largest fall from the best")
    note = (
        f"Of the last {SPLITS[found.split]} rewards. Whether a run ended below its start is told by problems "
        f"on which the model before its first update was evaluated: {SPLITS[found.split]}, else test."
    )
    late = [run.name for run in found.runs if run.course(found.split)[0].step > 0]
    first = f"Without such an evaluation the start is the first {SPLITS[found.split]}: {', '.join(late)}."
    return Table("Stability over seeds", head, rows, [note, first] if late else [note])


def change_table(found: Comparison) -> Table:
    """What training did to the model: norm, sparsity, divergence, forgetting."""
    columns: dict[str, Callable[[Arm], str]] = {}
    for run in found.runs:
        columns |= _changes(run)
    rows = [[cell(arm) for cell in columns.values()] for arm in found.arms]
    known = [index for index in range(len(columns)) if any(row[index] != NONE for row in rows)]
    names = list(columns)
    note = (
        "At the end of each run, mean over the runs that measured it. norm: of the change of the weights. "
        "sparsity: share of the weights that have changed by no more than that; ulp: that the base's dtype "
        "cannot tell from the base. KL in nats per token. Forgetting: change of the accuracy on a prior "
        "task, or of the reward where it has none; with a single run its interval is over problems."
    )
    picked = [
        [arm.label, *(row[index] for index in known)] for arm, row in zip(found.arms, rows, strict=True)
    ]
    return Table(
        "Change of the model", ["arm", *(names[index] for index in known)], picked if known else [], [note]
    )


def _changes(run: Run) -> dict[str, Callable[[Arm], str]]:
    """Return columns by name, each with what makes its cell."""
    finals = [name for name in run.finals if name.startswith(("norm_", "sparsity_"))]
    divergences = [name for name in run.series if name.startswith("kl_")]
    return {
        "norm": lambda arm: over_seeds(map(_norm, arm.runs)),
        **{name.replace("_", " "): _final(name) for name in finals},
        **{divergence_name(name): _last(name) for name in divergences},
        **{f"forgetting, {task}": _forgotten(task) for task in run.forgotten},
    }


def _final(name: str) -> Callable[[Arm], str]:
    return lambda arm: over_seeds(run.finals.get(name, nan) for run in arm.runs)


def _norm(run: Run) -> float:
    """Return the norm at the end: of its journal, or as ``analyze`` has measured it of any other run."""
    last = run.last("norm")
    return last if isfinite(last) else run.finals.get("norm", nan)


def _last(name: str) -> Callable[[Arm], str]:
    return lambda arm: over_seeds(run.last(name) for run in arm.runs)


def _forgotten(task: str) -> Callable[[Arm], str]:
    """Change of a prior task: over seeds, or over the problems of a single run."""

    def cell(arm: Arm) -> str:
        known = [run.forgotten[task] for run in arm.runs if task in run.forgotten]
        if len(known) != 1 or not isfinite(known[0][1]):
            return over_seeds(change for change, _ in known)
        [(change, error)] = known
        return signed(Estimate(change, change - Z * error, change + Z * error))

    return cell


def forgetting_table(found: Comparison) -> Table:
    """What has been forgotten of prior tasks, and how much less than by the first arm."""
    rows = [
        [
            task,
            arm.label,
            f"{each.change.seeds[0]} of {arm.seeds}",
            signed(each.change.estimate),
            *versus(each.versus),
        ]
        for task, of_arms in found.forgotten.items()
        for arm, each in zip(found.arms, of_arms, strict=True)
        if each is not None
    ]
    problems = sorted({each.change.problems for arms in found.forgotten.values() for each in arms if each})
    note = (
        "Change of the accuracy since the base model, or of the reward where the task does not say what is "
        "right. All models were asked the same problems in the same order: intervals are over the problems ("
        f"{' or '.join(map(str, problems))}) and over the runs measured, and differences are paired."
    )
    head = ("prior task", "arm", "runs measured", "change", *DIFFERENCE)
    return Table("Forgetting, problem by problem", head, rows, [note])


def cost_table(found: Comparison) -> Table:
    """Costs of a whole training, and the most memory."""
    rows = []
    for arm in found.arms:
        lasts = [run.evaluations[-1] for run in arm.runs]
        spans = [span([each.spent(axis) for each in lasts]) for axis in AXES]
        peaks = [run.finals["peak_bytes"] / 2**30 for run in arm.runs if "peak_bytes" in run.finals]
        machines = dict.fromkeys(run.machine for run in arm.runs if run.machine)
        rows.append([arm.label, *spans, span(peaks), "; ".join(machines) or "unknown"])
    head = ["arm", *(UNITS[axis] for axis in AXES), "peak memory, GiB", "machine"]
    note = (
        "Until a run's last evaluation, validations not counted. Seconds are those of the machine. Memory: "
        "of a fit that of its process, engine and cache included; of a baseline that of TRL's process alone, "
        "beside which stands the engine that evaluates. With a GPU only the GPU's memory is counted."
    )
    return Table("Cost of the whole run", head, rows, [note])


def settings_table(found: Comparison) -> Table:
    """The settings in which arms differ."""
    names = differing([run.settings for run in found.runs])
    rows = [[name, *(_setting(arm, name) for arm in found.arms)] for name in names]
    return Table("Settings that differ", ["setting", *(arm.label for arm in found.arms)], rows)


def _setting(arm: Arm, name: str) -> str:
    values = dict.fromkeys(str(run.settings.get(name, NONE)) for run in arm.runs)
    return " / ".join(values)


def _paired(rows: Sequence[Reached]) -> list[str]:
    """Say over how many problems differences are paired."""
    problems = {each.versus.problems for each in rows if each.versus is not None}
    counts = " or ".join(f"{count:,}" for count in sorted(problems))
    return [f"Differences are paired over {counts} problems."] if problems else []


def _spent(reached: Reached, axis: str) -> str:
    return span([spent(each, axis) for each in reached.evaluations])
