"""The pairs of a finished curvature run, as a probe of one objective: log-likelihood or reward."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from es_lightning.errors import UsageError
from es_lightning.landscape.probing.results import ProbeResults
from es_lightning.records import Prompt
from es_lightning.task import Task
from es_lightning.tasks import LogLikelihood

PAIRS = "pairs"
"""Folder of the pairs, a probe, in the folder of a curvature run."""


def is_curvature_run(folder: Path) -> bool:
    """Tell whether a folder is that of ``es-lightning curvature``, finished or not."""
    return (folder / PAIRS).is_dir()


def of_objective(pairs: ProbeResults, objective: str) -> ProbeResults:
    """Return what was measured under one objective.

    Args:
        pairs: all that a curvature run has measured: by candidate the log-likelihood of P problems, unless
            that was left out, and the reward of the same P, if it was asked for.
        objective: ``reward`` or ``log_likelihood``.

    Returns:
        A probe of P prompts. Its table has no means over prompts, which were those of both objectives.

    Raises:
        UsageError: it was not measured under this objective.
    """
    from pyarrow.compute import list_slice

    count, ids = pairs.header["prompts"], pairs.header["prompt_ids"]
    alone = has_rewards_alone(pairs)
    if alone and objective == "log_likelihood":
        raise UsageError(
            f"{pairs.folder.parent} has no log-likelihoods, since it was measured with curvature.likelihood "
            "false: test its rewards with --data.objective reward."
        )
    first = 0 if alone or objective == "log_likelihood" else count
    if first == len(ids):
        raise UsageError(
            f"{pairs.folder.parent} has no rewards prompt by prompt, since it was measured with "
            "curvature.rewards false: test its log-likelihoods with --data.objective log_likelihood, or "
            "measure with rewards into another --output."
        )
    own = list_slice(pairs.table["rewards"], first, first + count)
    table = pairs.table.drop_columns(["reward", "change", "rewards"]).append_column("rewards", own)
    header = {**pairs.header, "prompt_ids": ids[first : first + count], "objective": objective}
    return replace(pairs, header=header, centre=pairs.centre[first : first + count], table=table)


def has_rewards_alone(pairs: ProbeResults) -> bool:
    """Tell whether a curvature run has measured the task's reward, and no log-likelihood."""
    return bool(pairs.header.get("objective") == "reward")


def problems_of_pairs(pairs: ProbeResults, task: Task) -> list[tuple[str, Mapping[str, Prompt]]]:
    """Return the id of each prompt of a curvature run, in its order, with the problems that it is one of.

    Args:
        pairs: all that the run has measured.
        task: whose reward and log-likelihood they are.

    Raises:
        UsageError: log-likelihoods were measured, and the task knows no right answers.
    """
    ids, count = pairs.header["prompt_ids"], pairs.header["prompts"]
    asked = {prompt.id: prompt for prompt in task.problems("train")}
    if has_rewards_alone(pairs):
        return [(each, asked) for each in ids]
    right = {prompt.id: prompt for prompt in LogLikelihood(task).problems("train")}
    return [(each, right if place < count else asked) for place, each in enumerate(ids)]
