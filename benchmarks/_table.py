"""What the pieces of benchmarks/bench.py come to: ratios, targets, and a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

OVERHEAD = {"gaussian": 0.15, "rademacher": 0.10, "low_rank": 0.10, "adapters": 0.05}
SPEEDUP = {"gaussian": 3.0, "adapters": 6.0}
TWO_RANKS, SHARE = 1.3, 0.85
Found = Mapping[str, Any]


def summary(pieces: Found) -> dict[str, Any]:
    """Return the figures that bench.json is read for.

    Args:
        pieces: what has been measured, by the names of the pieces.
    """
    theirs, raw = pieces["original"], pieces["swaps"]["raw"]
    alone, *others = raw.values()
    together = others[0] if others else alone
    variants = {name: _variant(name, pieces) for name in OVERHEAD}
    adapters = pieces["adapters"]["variants"]["adapters"]["forced"]
    spent, tokens = adapters["seconds"], adapters["tokens_per_second"] * adapters["seconds"]["total"]
    generating = tokens / spent["generate"]
    rate = tokens / (spent["generate"] + spent["load"] + spent["perturb"])
    [beside] = pieces["adapters"]["raw"].values()
    found = {
        "dtype": {"engine": pieces["swaps"]["dtype"], "original": theirs["dtype"]},
        "tried": {name: piece["rate"] for name, piece in pieces.items() if " in " in name},
        "raw_tokens_per_second": alone,
        "raw_tokens_per_second_by_requests": raw,
        "variants": variants,
        "original_tokens_per_second": theirs["forced"]["tokens_per_second"],
        "original": {name: theirs[name] for name in ("forced", "natural")},
        "adapter_share": rate / together,
        "adapter_share_generating": generating / together,
        "adapter_share_of_same_engine": rate / beside,
    }
    if "compiled" in pieces:
        found["compiled"] = _compiled(pieces)
    return {**found, "targets": dict(_targets(found))}


def _variant(name: str, pieces: Found) -> dict[str, Any]:
    piece = "adapters" if name == "adapters" else "swaps"
    forced, natural = (pieces[piece]["variants"][name][job] for job in ("forced", "natural"))
    speedup = natural["prompts_per_second"] / pieces["original"]["natural"]["prompts_per_second"]
    found = {key: forced[key] for key in ("tokens_per_second", "overhead_fraction", "seconds")}
    found |= {"speedup": speedup, "natural": natural}
    if f"{piece} on ranks" in pieces:
        several = pieces[f"{piece} on ranks"]["variants"][name]["forced"]
        gain = several["tokens_per_second"] / forced["tokens_per_second"]
        found["ranks"] = {**several, "times_one_rank": gain}
    return found


def _compiled(pieces: Found) -> dict[str, Any]:
    fast, slow = pieces["compiled"], pieces["swaps"]
    gaussian, eager = fast["variants"]["gaussian"], pieces["swaps"]["variants"]["gaussian"]
    natural = gaussian["natural"]["prompts_per_second"]
    return {
        "start_seconds": {"eager": slow["start_seconds"], "compiled": fast["start_seconds"]},
        "raw_tokens_per_second": {"eager": slow["raw"], "compiled": fast["raw"]},
        "gaussian": gaussian,
        "times_eager": {
            job: gaussian[job]["tokens_per_second"] / eager[job]["tokens_per_second"] for job in gaussian
        },
        "speedup": natural / pieces["original"]["natural"]["prompts_per_second"],
    }


def _targets(found: Found) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each target with what was reached."""
    variants = found["variants"]
    for name, most in OVERHEAD.items():
        value = variants[name]["overhead_fraction"]
        yield f"{name}: share outside generate", {"most": most, "reached": value, "met": value <= most}
    floors = {
        f"{name}: prompts/s over the original's": (least, variants[name]["speedup"])
        for name, least in SPEEDUP.items()
    }
    floors |= {
        f"{name}: several ranks over one": (TWO_RANKS, each["ranks"]["times_one_rank"])
        for name, each in variants.items()
        if "ranks" in each
    }
    floors["adapters: share of the base's tokens/s"] = SHARE, found["adapter_share"]
    for what, (least, value) in floors.items():
        yield what, {"least": least, "reached": value, "met": value >= least}


def table(found: Found) -> str:
    """Return the figures as Markdown."""
    return "\n".join(_lines(found))


def _lines(found: Found) -> Iterator[str]:
    cpu, dtype = found["cpu"], found["dtype"]
    yield f"{cpu['name']}; flags {', '.join(cpu['flags'])}"
    yield f"{found['base']}; vLLM in {dtype['engine']}, the original in {dtype['original']}"
    counts = ", ".join(
        f"{rate:.0f} with {count} requests"
        for count, rate in found["raw_tokens_per_second_by_requests"].items()
    )
    yield f"static weights: {counts} tokens/s"
    yield ""
    phases = list(found["variants"]["gaussian"]["seconds"])
    yield _row("forced job", *phases, "outside generate", "tokens/s", "of one rank")
    yield _row("---", *["---:"] * (len(phases) + 3))
    for name, each in found["variants"].items():
        yield _forced_row(name, each, "")
        if "ranks" in each:
            yield _forced_row(f"{name}, on ranks", each["ranks"], f"{each['ranks']['times_one_rank']:.2f}")
    yield ""
    yield _row("natural job", *phases, "prompts/s", "of the original", "stragglers")
    yield _row("---", *["---:"] * (len(phases) + 3))
    for name, each in [*found["variants"].items(), ("original", {"natural": found["original"]["natural"]})]:
        natural = each["natural"]
        rate, times = natural["prompts_per_second"], each.get("speedup", 1.0)
        ends = (f"{rate:.2f}", f"{times:.2f}", f"{natural['straggling']:.0%}")
        yield _row(name, *(f"{natural['seconds'].get(phase, 0.0):.2f}" for phase in phases), *ends)
    if "compiled" in found:
        yield ""
        yield from _compiled_lines(found["compiled"])
    yield ""
    yield _row("target", "wanted", "reached", "met")
    yield _row("---", "---:", "---:", "---")
    for what, each in found["targets"].items():
        wanted = f"at most {each['most']:.0%}" if "most" in each else f"at least {each['least']:g}"
        reached = f"{each['reached']:.1%}" if "most" in each else f"{each['reached']:.2f}"
        yield _row(what, wanted, reached, "yes" if each["met"] else "no")


def _compiled_lines(compiled: Found) -> Iterator[str]:
    start, raw = compiled["start_seconds"], compiled["raw_tokens_per_second"]
    yield _row("vLLM", "start, s", *(f"tokens/s, {count} requests" for count in raw["compiled"]))
    yield _row("---", *["---:"] * (len(raw["compiled"]) + 1))
    for how in ("eager", "compiled"):
        rates = (f"{raw[how][count]:.0f}" for count in raw["compiled"])
        yield _row(how, f"{start[how]:.0f}", *rates)
    gain = ", ".join(f"{times:.2f} in the {job} job" for job, times in compiled["times_eager"].items())
    outside = compiled["gaussian"]["forced"]["overhead_fraction"]
    yield f"Gaussian, compiled: {compiled['speedup']:.2f} times the original's prompts/s in the natural job;"
    yield f"of eager's tokens/s {gain}; {outside:.1%} outside generate."


def _forced_row(name: str, each: Found, gain: str) -> str:
    seconds = (f"{value:.2f}" for value in each["seconds"].values())
    return _row(name, *seconds, f"{each['overhead_fraction']:.1%}", f"{each['tokens_per_second']:.0f}", gain)


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"
