"""The evaluations that a run's folder keeps, one line each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from es_lightning.analysis.comparison.runs import AXES, Evaluated, Sample
from es_lightning.errors import UsageError
from es_lightning.journal.schema import from_json, without_torn_end
from es_lightning.system.fields import COUNT, NUMBER, TEXT, fault, list_of, mapping_of
from es_lightning.system.files import read_lines

EVALUATIONS = "evaluations.jsonl"
_LINE = {"step": COUNT, "split": TEXT, "prompts": list_of(TEXT), "rewards": list_of(NUMBER)}
_MAY_HAVE = {"scores": mapping_of(NUMBER), "cost": mapping_of(NUMBER)}


def read_evaluated(path: Path) -> tuple[Evaluated, ...]:
    """Read the evaluations in the order of updates; of two of the same moment the later one counts.

    Raises:
        UsageError: the file is damaged.
    """
    found: dict[tuple[int, str], Evaluated] = {}
    for number, line in enumerate(without_torn_end(read_lines(path), path), start=1):
        try:
            values = from_json(line)
            wrong = fault(values, _LINE, _MAY_HAVE)
        except ValueError as error:
            values, wrong = {}, str(error).removeprefix("it ")
        if not wrong and not 0 < len(values["rewards"]) == len(values["prompts"]):
            wrong = f"has {len(values['prompts'])} prompts and {len(values['rewards'])} rewards"
        if wrong:
            raise UsageError(f"{path} is damaged in line {number}: it {wrong}. Leave this run out.")
        found[values["step"], values["split"]] = _evaluated(values)
    return tuple(sorted(found.values(), key=lambda each: each.step))


def _evaluated(values: dict[str, Any]) -> Evaluated:
    cost = values.get("cost", {})
    return Evaluated(
        step=values["step"],
        split=values["split"],
        rewards=dict(zip(values["prompts"], map(float, values["rewards"]), strict=True)),
        scores=values.get("scores", {}),
        cost={axis: float(cost[axis]) for axis in AXES if axis in cost},
        samples=tuple(
            Sample(str(each["prompt"]), str(each["completion"]), float(each["reward"]))
            for each in values.get("samples", [])
        ),
    )
