"""What probes have written, as others take it: rewards for the statistics, and the problems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from es_lightning.errors import UsageError
from es_lightning.journal.identity import digest
from es_lightning.landscape.probing.results import ProbeResults
from es_lightning.landscape.probing.summary import ProbeTable
from es_lightning.records import Prompt


def probe_tables(results: Sequence[ProbeResults]) -> list[ProbeTable]:
    """Return the rewards of probes, under the names of their models, or of their folders if those repeat.

    Args:
        results: of probes that have ended.
    """
    models = [str(each.header.get("model") or each.folder.resolve().name) for each in results]
    folders = [each.folder.resolve().name for each in results]
    names = models if len(set(models)) == len(models) else folders
    return [probe_table(each, name) for each, name in zip(results, names, strict=True)]


def probe_table(results: ProbeResults, name: str) -> ProbeTable:
    """Return the rewards of a probe.

    Args:
        results: of a probe that has ended.
        name: of the model, for tables.
    """
    header = results.header
    return ProbeTable(
        name=name,
        centre=results.centre,
        rewards={sigma: results.rewards(sigma) for sigma in results.sigmas},
        pairs=header["antithetic"],
        most=header.get("largest_reward"),
        parameters=header.get("parameters"),
        task=header.get("task", ""),
    )


def probed_problems(problems: Sequence[Prompt], results: ProbeResults) -> list[Prompt]:
    """Return the problems that a probe was made on, in its order.

    Args:
        problems: of the split that the probe took them from, as a config has them.
        results: of the probe.

    Raises:
        UsageError: the config has other ones.
    """
    known = {prompt.id: prompt for prompt in problems}
    return found_problems([(each, known) for each in results.header["prompt_ids"]], results)


def found_problems(
    sources: Sequence[tuple[str, Mapping[str, Prompt]]], results: ProbeResults
) -> list[Prompt]:
    """Return problems by their ids, if they are those that a probe was made on.

    Args:
        sources: for each problem of the probe, in its order, its id and the problems among which it is.
        results: of the probe.

    Raises:
        UsageError: they are other ones.
    """
    missing = next((each for each, known in sources if each not in known), None)
    problems = [] if missing else [known[each] for each, known in sources]
    if missing is not None or digest(problems) != results.header["prompt_digest"]:
        raise UsageError(
            f"the candidates in {results.folder} were measured on other prompts than this config has"
            f"{f' ({missing} is missing)' if missing else ''}: give the config that made them."
        )
    return problems
