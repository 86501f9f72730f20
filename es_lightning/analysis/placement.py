"""Where the centre of a run is: on the device beside the engine, or in host memory; the standard library."""

from dataclasses import replace
from typing import Literal, NamedTuple

from es_lightning.analysis.room import Case, in_gb

Where = Literal["auto", "device", "cpu"]
LEAST_CACHE = 8
"""Sequences that there has to be room for, if the run has as many; with fewer, a device would idle."""


class Placement(NamedTuple):
    """Where a centre is.

    Args:
        on_host: whether it is in host memory, and its tensors pass through the device one at a time.
        why: in words, for the log and for ``es-lightning plan``.
    """

    on_host: bool
    why: str


def place(case: Case, where: Where) -> Placement:
    """Decide where the centre is, from what is known before anything is loaded.

    On a CPU the host is the device. With ``auto`` the centre is on the device if it fits there together with
    the optimizer's state, the engine, and a key-value cache for eight of the longest sequences.

    Args:
        case: with the centre on the device.
        where: what ``model.centre_device`` says.
    """
    if case.is_cpu:
        return Placement(False, "there is no other memory")
    if where != "auto":
        return Placement(where == "cpu", f"model.centre_device is {where}")
    # As if all sequences were as long as the longest: their mean is not known before they are generated.
    longest = replace(case, tokens=case.longest, context=case.longest)
    least = _least(longest)
    needed = longest.total - max(longest.cache, 0.0) + longest.cache_of(least * longest.longest)
    what = (
        f"centre, engine and a cache for {least} sequences of {longest.longest:.0f} tokens need "
        f"{in_gb(needed)} of its {in_gb(case.device.memory)}"
    )
    if is_good(longest):
        return Placement(False, what)
    problems = longest.problems() if needed <= case.device.memory else []
    return Placement(True, problems[0] if problems else what)


def placed(case: Case, where: Where) -> Case:
    """Return a case with its centre where ``place`` puts it."""
    return replace(case, on_host=place(case, where).on_host)


def is_good(case: Case) -> bool:
    """Whether a run fits, with as many sequences at once as a device needs to be busy."""
    return not case.problems() and case.held >= _least(case)


def _least(case: Case) -> int:
    return min(LEAST_CACHE, case.sequences, case.engine.at_once)
