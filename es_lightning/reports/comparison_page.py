"""The report of a comparison: one HTML file that needs no network and no script."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from es_lightning.analysis.comparison.comparing import Comparison
from es_lightning.analysis.comparison.differences import Difference
from es_lightning.analysis.comparison.hacking import KL_LIMIT
from es_lightning.analysis.comparison.runs import Evaluated, Run
from es_lightning.analysis.intervals import Estimate
from es_lightning.journal.evaluations import Sample
from es_lightning.reports.comparison_cells import Table, signed
from es_lightning.reports.comparison_picture import Drawn
from es_lightning.reports.comparison_tables import SPLITS, UNITS
from es_lightning.reports.rollout_page import excerpt, templates

SAMPLES = 8
"""Prompts that are shown."""


@dataclass(frozen=True)
class Flag:
    """A run that is suspected of a hacked reward."""

    arm: str
    run: str
    signs: Sequence[str]


def page(found: Comparison, tables: Sequence[Table], pictures: Sequence[Drawn], kl_limit: float) -> str:
    """Write the report.

    Args:
        found: the comparison.
        tables: of it.
        pictures: of it; each is in the page twice, for light and for dark.
        kl_limit: that suspicions were raised with.

    Returns:
        HTML in which all that a run, a task or a model wrote is escaped.
    """
    return (
        templates()
        .get_template("comparison_page.html.jinja")
        .render(
            title=title(found),
            lines=lines(found),
            flags=flags(found),
            method=method(found, kl_limit),
            figures=[
                (each.title, each.width, address(each.svg), address(each.dark_svg)) for each in pictures
            ],
            tables=tables,
            samples=[
                (
                    excerpt(prompt),
                    [(label, f"{each.reward:.4g}", excerpt(each.completion)) for label, each in row],
                )
                for prompt, row in samples(found)
            ],
        )
    )


def address(drawing: bytes) -> str:
    """Return an SVG as a data URI: within an image, no script of it would run."""
    return f"data:image/svg+xml;base64,{b64encode(drawing).decode()}"


def title(found: Comparison) -> str:
    """Say what is compared."""
    runs = len(found.runs)
    return f"{found.task}: {len(found.arms)} arm{'' if len(found.arms) == 1 else 's'}, {runs} runs"


def lines(found: Comparison) -> list[str]:
    """Say in sentences how every arm compares with the first, at equal cost and at the end."""
    first, *others = found.arms
    told = []
    for index, arm in enumerate(others, start=1):
        parts = [
            f"at equal {each.axis} {_verdict(each.reached[index].versus)}"
            for each in found.budgets
            if each.axis in ("rollouts", "seconds") or len(found.budgets) == 1
        ]
        parts.append(f"at the end ({SPLITS[found.ends[0]]}) {_verdict(found.ends[1][index].versus)}")
        told.append(f"{arm.label} against {first.label}: {'; '.join(parts)}.")
    told += [f"Nothing at equal {UNITS[axis]}: {reason}." for axis, reason in found.apart.items()]
    machines = dict.fromkeys(run.machine or "one that is not known" for run in found.runs)
    if len(machines) > 1 and "seconds" not in found.apart:
        told.append(f"At equal seconds machines are compared as well: {'; '.join(machines)}.")
    alone = [arm.label for arm in found.arms if arm.seeds == 1]
    if alone:
        told.append(
            f"One seed only, so no band and nothing about other seeds: {'; '.join(alone)}. Repeat them with "
            "another --seed_everything."
        )
    return told


def _verdict(versus: Difference | None) -> str:
    if versus is None:
        return "was not evaluated"
    estimate = versus.estimate
    alone = " for these seeds only" if min(versus.seeds) == 1 else ""
    if estimate.low > 0:
        return f"better by {estimate}{alone}"
    if estimate.high < 0:
        return f"worse by {Estimate(-estimate.value, -estimate.high, -estimate.low)}{alone}"
    return f"no difference can be told, {signed(estimate)}{alone}"


def flags(found: Comparison) -> list[Flag]:
    """Return the runs that are suspected of a hacked reward."""
    return [
        Flag(arm.label, run, signs)
        for arm, suspected in zip(found.arms, found.suspicions, strict=True)
        for run, signs in suspected.items()
    ]


def method(found: Comparison, kl_limit: float = KL_LIMIT) -> list[str]:
    """Say how the numbers were made."""
    return [
        "Bands and intervals in brackets are 95 % intervals. Those of an arm are Student's over its seeds; "
        "with one seed there is none.",
        "Differences are paired by problem: rewards are averaged over the seeds of an arm, and subtracted "
        "problem by problem. Their intervals add up two sources of error, problems and seeds, with "
        "Satterthwaite's degrees of freedom; an arm with one seed adds no error over seeds, so that the "
        "interval says nothing of its other seeds. Intervals are not adjusted for the number of comparisons.",
        "Curves are steps: the reward of an evaluation holds until the next one, and nothing is "
        "interpolated. The dotted line is the budget of the table at equal cost.",
        "A hacked reward is suspected where the training reward has risen (last third of the run against "
        "its first) while the held-out reward or the accuracy has fallen, or the model is more than "
        f"{kl_limit:g} nats per token from the base model. That is a reason to read the samples, and no "
        "proof.",
    ]


def samples(found: Comparison) -> Iterator[tuple[str, list[tuple[str, Sample]]]]:
    """Yield the first prompts that all arms have kept a completion of, with that of each arm's first run."""
    kept = [_kept(arm.runs[0]) for arm in found.arms]
    shared = [prompt for prompt in kept[0] if all(prompt in each for each in kept)]
    for prompt in shared[:SAMPLES]:
        yield prompt, [(arm.label, each[prompt]) for arm, each in zip(found.arms, kept, strict=True)]


def _kept(run: Run) -> dict[str, Sample]:
    """Return the first sample of each prompt in the last evaluation that kept some."""
    last: Evaluated | None = next((each for each in reversed(run.evaluations) if each.samples), None)
    found: dict[str, Sample] = {}
    for sample in last.samples if last else ():
        found.setdefault(sample.prompt, sample)
    return found
