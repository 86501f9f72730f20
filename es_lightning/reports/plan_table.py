"""A plan as text for a terminal or a pipe, and as JSON for scripts."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from math import floor, log10
from typing import Any

from rich.console import Console
from rich.table import Table

from es_lightning.analysis.cost import DEVICE_OPTIONS, Device
from es_lightning.analysis.plan import Plan
from es_lightning.analysis.room import Part

COMPUTED = "computed, not measured"
WIDTH = 130  # of the text in a pipe
NOTATION = """\
d parameters, m elements of the largest tensor, c bytes of keys and values per token, s bytes of optimizer's
state per parameter; L lanes of k ranks, h = min(k, key-value heads), W ranks; G generations, N members, M of
them on the fullest lane, P prompts; S sequences at once, of p tokens that are read and T that are written. A
device moves B bytes, computes F FLOP and draws R elements of noise per second."""


@dataclass(frozen=True)
class Facts:
    """What a plan was made from, in words.

    Args:
        configs: the files.
        base: the model's name.
        known: where its size comes from.
        dtype: of the engine's weights.
        prompts: where the tokens of the prompts come from.
        left_out: what is not counted.
    """

    configs: Sequence[str]
    base: str
    known: str
    dtype: str
    prompts: str
    left_out: Sequence[str]


Rows = Iterable[tuple[str, str, str]]


def show(plan: Plan, facts: Facts) -> None:
    """Write a plan to the standard output: in colours to a terminal, as plain lines to anything else."""
    console = Console(file=sys.stdout, highlight=False)
    if console.is_terminal:
        _print(console, plan, facts)
        return
    written = StringIO()
    _print(Console(file=written, highlight=False, width=WIDTH, color_system=None), plan, facts)
    lines = written.getvalue().splitlines()
    sys.stdout.write("\n".join(line.rstrip() for line in lines) + "\n")


def _print(console: Console, plan: Plan, facts: Facts) -> None:
    named = " and ".join(facts.configs) or "the defaults"
    console.print(f"Plan for {named}: {COMPUTED}.\n", style="bold")
    for title, rows in _sections(plan, facts).items():
        console.print(title, style="bold")
        console.print(_table(rows))
    console.print("Not counted", style="bold")
    for each in facts.left_out:
        console.print(f"- {each}")
    console.print(f"\n{NOTATION}\n", style="dim", soft_wrap=True)
    problems = plan.problems()
    for problem, ways in problems:
        console.print(f"It does not fit: {problem}.", style="bold red", soft_wrap=True)
        for way in ways:
            console.print(f"  Try {way}", soft_wrap=True)
    if not problems:
        console.print("It fits.", style="bold green")


def _table(rows: Rows) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(width=30)
    table.add_column(justify="right", width=16, no_wrap=True)
    table.add_column(style="dim", overflow="fold")
    for row in (*rows, ("", "", "")):
        table.add_row(*row)
    return table


def _sections(plan: Plan, facts: Facts) -> Mapping[str, Rows]:
    sections: dict[str, Rows] = {
        "The run": _run(plan, facts),
        f"Memory of a {'rank' if plan.case.is_cpu else 'device'}": _memory(plan),
        "Memory of a machine, beside its accelerators": _sizes(plan.host),
        "The run's folder": _sizes(plan.disk),
        f"A generation of {plan.run.members} members": _generation(plan),
        "Time and price": _time(plan),
        "Assumed": _assumed(plan.device),
    }
    return {title: rows for title, rows in sections.items() if rows}


def _run(plan: Plan, facts: Facts) -> Rows:
    run, size, own = plan.run, plan.size, plan.device
    yield "model", f"{size.parameters:,}", f"parameters d of {facts.base}: {facts.known}"
    if size.tuned < size.parameters:
        yield "tuned", f"{size.tuned:,}", "parameters that get noise: d in formulas with R and s"
    yield "largest tensor", f"{size.largest:,}", "elements m"
    yield "keys and values", in_bytes(size.cache_bytes), f"c, per token, in the engine's {facts.dtype}"
    lanes = f"L = {plan.lanes}, k = {plan.engine.ranks}"
    yield "devices", f"{plan.count} x {own.name}", f"W = {plan.count}, {lanes}; {own.source}"
    if not plan.case.is_cpu:
        where = "host memory" if plan.case.on_host else "on the device"
        yield "centre", where, f"--model.centre_device; {plan.placement.why}"
    if plan.engine.adapters:
        held = f"of rank {plan.engine.rank}, which vLLM holds at once; max_loras"
        yield "members as adapters", f"{plan.engine.adapters}", held
    members = " to ".join(dict.fromkeys(map(str, (min(run.populations), run.members))))
    yield "generations", f"{run.generations}", f"G, of N = {members} members and P = {run.prompts} prompts"
    for batch in run.train:
        how = "" if batch.written else ", scored and not continued"
        read = f"S, of p = {batch.read:.0f} tokens{how}; {facts.prompts}"
        yield "sequences of a member", f"{batch.sequences}", read
        if batch.written:
            yield "new tokens of each", f"{batch.written:g}", f"T, --tokens; at most {run.new_tokens}"


def _memory(plan: Plan) -> Rows:
    room = "this machine's memory" if plan.case.is_cpu else "--memory_gb"
    total = ("all of it", in_bytes(plan.case.total), f"of {in_bytes(plan.device.memory)}, {room}")
    return [*_sizes(plan.case.parts), total]


def _sizes(parts: Iterable[Part]) -> list[tuple[str, str, str]]:
    return [(part.what, in_bytes(part.size), part.formula) for part in parts]


def _generation(plan: Plan) -> Rows:
    lines = plan.generation(plan.run.members)
    rows = [(line.what, in_seconds(line.value), line.formula) for line in lines]
    return [*rows, ("all of it", in_seconds(sum(line.value for line in lines)), _turns(plan))]


def _turns(plan: Plan) -> str:
    held, asked = plan.case.held, plan.case.sequences
    if plan.case.problems():
        return "as if everything fitted"
    text = "the fullest lane, then the update"
    return text if held >= asked else f"{text}; about {held} of {asked} sequences at once"


def _time(plan: Plan) -> Rows:
    yield from ((line.what, duration(line.value), line.formula) for line in plan.time)
    hours = f"{plan.count} devices, {three(plan.device_hours)} device-hours"
    yield "all of it", duration(plan.seconds), hours
    if plan.dollars is None:
        yield "price", "not known", "give --dollars_per_hour, the price of one device"
    else:
        yield "price", f"{plan.dollars:,.2f} dollars", f"device-hours * {plan.dollars_per_hour:g}"


def _assumed(device: Device) -> list[tuple[str, str, str]]:
    values = {name: getattr(device, name) for name in DEVICE_OPTIONS}
    known = {name: value for name, value in values.items() if value is not None}
    return [(f"--{name}", f"{value:.4g}", DEVICE_OPTIONS[name]) for name, value in known.items()]


def as_json(plan: Plan, facts: Facts) -> dict[str, Any]:
    """Return a plan as JSON has it: bytes, seconds, hours and dollars."""
    run, case = plan.run, plan.case
    parts = {"device": case.parts, "host": plan.host, "disk": plan.disk}
    return {
        "note": COMPUTED,
        "fits": not plan.problems(),
        "problems": [{"what": what, "try": ways} for what, ways in plan.problems()],
        "configs": list(facts.configs),
        "model": {"base": facts.base, "known": facts.known, "dtype": facts.dtype, **plan.size._asdict()},
        "device": vars(plan.device),
        "count": plan.count,
        "lanes": plan.lanes,
        "centre": {"on_host": case.on_host, "why": plan.placement.why},
        "adapters": plan.engine.adapters,
        "run": {
            "generations": run.generations,
            "populations": {str(members): times for members, times in run.populations.items()},
            "prompts": run.prompts,
            "train": [batch._asdict() for batch in run.train],
            "validations": run.validations,
            "held_out_evaluations": run.evaluations,
        },
        "sequences_at_once": case.held,
        "bytes": {name: [_line(*part) for part in listed] for name, listed in parts.items()},
        "device_bytes": case.total,
        "seconds_per_generation": [_line(*line) for line in plan.generation(run.members)],
        "seconds": [_line(*line) for line in plan.time],
        "total_seconds": plan.seconds,
        "device_hours": plan.device_hours,
        "dollars": plan.dollars,
        "not_counted": list(facts.left_out),
    }


def _line(what: str, value: float, formula: str) -> dict[str, Any]:
    return {"what": what, "value": value, "formula": formula}


def three(value: float) -> str:
    """Return a number with three figures, and at most three decimals."""
    return f"{value:.{min(3, max(0, 2 - floor(log10(value)))) if value else 0}f}"


def in_bytes(count: float) -> str:
    """Return bytes in words."""
    power = min(3, int(log10(count) // 3)) if count >= 1 else 0
    return f"{three(count / 1000**power) if power else round(count)} {('B', 'kB', 'MB', 'GB')[power]}"


def in_seconds(value: float) -> str:
    """Return seconds in words."""
    return f"{three(value)} s"


def duration(value: float) -> str:
    """Return a longer time in words."""
    if value < 120:
        return in_seconds(value)
    return f"{three(value / 60)} min" if value < 7200 else f"{three(value / 3600)} h"
