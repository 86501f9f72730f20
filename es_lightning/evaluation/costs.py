"""What a run's generations have cost, added up from its journal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import fsum

from es_lightning.analysis.flops import of_generation
from es_lightning.journal.entry import Entry
from es_lightning.records import Costs, Prompt


def seconds_of(entry: Entry) -> float:
    """Return the seconds from a generation's first member to the checksum of the updated centre, on rank 0.

    Neither validations and callbacks, nor a later repetition from the journal, are in them.
    """
    return entry.seconds.get("total", fsum(entry.seconds.values()))


def costs_of(entry: Entry, parameters: int) -> Costs:
    """Return what one generation has cost; for its seconds see ``seconds_of``.

    Args:
        entry: of the journal; version 0.1.0 did not write its rollouts and prompt tokens, which have to be
            filled in.
        parameters: of the model.

    Raises:
        ValueError: rollouts or prompt tokens are missing.
    """
    if entry.rollouts is None or entry.prompt_tokens is None:
        raise ValueError(f"generation {entry.generation} does not tell how much its members have read")
    members = len(entry.members)
    length = (entry.prompt_tokens + entry.tokens) / max(entry.rollouts, 1)
    return Costs(
        rollouts=entry.rollouts,
        tokens=entry.tokens,
        seconds=seconds_of(entry),
        flops=of_generation(members, parameters, entry.rollouts // members, length),
    )


class CostMeter:
    """Adds up the costs of all generations of a journal, reading each line once.

    Generations whose updates were discarded, since a callback has put an earlier centre back, stay in the
    sums: they have been paid. So sums depend on the journal alone, and a resumed run goes on with them.

    Args:
        parameters: of the model.
        batch: gives the encoded prompts of a generation, for journals of version 0.1.0.
        samples: completions of each prompt.

    Example::

        meter = CostMeter(parameters, data.batch, samples=1)
        meter.up_to(history.lines).metrics()["cost/rollouts"]
    """

    def __init__(self, parameters: int, batch: Callable[[int], Sequence[Prompt]], samples: int) -> None:
        self._parameters, self._batch, self._samples = parameters, batch, samples
        self._costs, self._read = Costs(), 1  # lines; the first is the header

    def up_to(self, lines: Sequence[str]) -> Costs:
        """Return the costs of all generations so far.

        Args:
            lines: of the journal, the header first; those that were there before have not changed.
        """
        for line in lines[self._read :]:
            self._costs += costs_of(self._filled(Entry.parse(line)), self._parameters)
        self._read = max(self._read, len(lines))
        return self._costs

    def _filled(self, entry: Entry) -> Entry:
        """Return an entry with what version 0.1.0 did not write, made again from the run's prompts."""
        if entry.rollouts is not None and entry.prompt_tokens is not None:
            return entry
        prompts, asked = self._batch(entry.generation), len(entry.members) * self._samples
        read = sum(prompt.tokens_read for prompt in prompts)
        return replace(entry, rollouts=asked * len(prompts), prompt_tokens=asked * read)
