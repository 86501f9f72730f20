"""The README.md of an exported model: where it comes from, how it was made, what it measured."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from es_lightning.system.version import __version__


@dataclass(frozen=True)
class Export:
    """What a card says of a centre that was written while, or after, a run was under way.

    Args:
        base: the base model as the user named it.
        task: short name.
        updates: updates that the centre has seen; a generation that was skipped is none.
        checksum: of the float32 centre.
        dtype: precision of the files.
        settings: what decides the run.
        metrics: the latest numbers by name.
        journaled: generation in the journal beside the card after whose update the centre was this one; None
            if none was.
        place: where the model is to be found: a folder, or a hub id.
    """

    base: str
    task: str
    updates: int
    checksum: str
    dtype: str
    settings: Mapping[str, Any]
    metrics: Mapping[str, float]
    journaled: int | None
    place: str


def model_card(summary: Mapping[str, Any]) -> str:
    """The card of a finished run, with the front matter that the hub reads.

    Args:
        summary: what ``summary.json`` holds.
    """
    split = summary["held_out_split"]
    rewards = {"before": summary["held_out_before"], "after": summary["held_out_after"]}
    held_out = {when: "not measured" if reward is None else reward for when, reward in rewards.items()}
    facts = {"generations": summary["generations"], "centre checksum": summary["centre_checksum"]}
    if skipped := summary.get("skipped_generations", 0):
        facts = {"skipped generations, without an update": skipped, **facts}
    if summary.get("centre_of_generation", facts["generations"]) != facts["generations"]:
        facts = {"put back to the centre before generation": summary["centre_of_generation"], **facts}
    return _card(
        summary["base"],
        summary["task"],
        {**summary["settings"], **facts},
        measured={f"held-out reward ({split})": held_out, **_learned(summary)} if split else {},
        place=_quoted("model"),
    )


def export_card(export: Export) -> str:
    """The card of an exported centre, with the front matter that the hub reads."""
    facts = {"updates done": export.updates, "centre checksum": export.checksum, "dtype": export.dtype}
    metrics = {name: f"{value:.6g}" for name, value in export.metrics.items()}
    return _card(
        export.base,
        export.task,
        export.settings,
        measured={"this model": facts, **({"measured last": metrics} if metrics else {})},
        place=_quoted(export.place),
        journal={"generation": export.journaled},
    )


def rebuilt_card(header: Mapping[str, Any], generation: int, checksum: str, reward: float) -> str:
    """The card of a centre that was rebuilt from a journal.

    Args:
        header: the journal's first line.
        generation: whose update gave the centre.
        checksum: of the float32 centre.
        reward: mean of the population in that generation.
    """
    return _card(
        header["base"],
        header["task"],
        header["settings"],
        rebuilt={"generation": generation, "checksum": checksum, "reward": f"{reward:.4g}"},
    )


def _card(
    base: str,
    task: str,
    settings: Mapping[str, Any],
    measured: Mapping[str, Mapping[str, Any]] | None = None,
    place: Mapping[str, str] | None = None,
    journal: Mapping[str, int | None] | None = None,
    rebuilt: Mapping[str, Any] | None = None,
) -> str:
    """Fill in the template; what it is not given, it leaves out."""
    from huggingface_hub import ModelCard, ModelCardData

    data = ModelCardData(
        base_model=base if _is_hub_id(base) and not rebuilt else None,
        library_name="transformers",
        pipeline_tag=None if rebuilt else "text-generation",
        tags=["evolution-strategies", "es-lightning"],
    )
    template = resources.files("es_lightning.models").joinpath("card.md.jinja").read_text(encoding="utf-8")
    card = ModelCard.from_template(
        data,
        template_str=template,
        # Text goes in as values, never as a part of the template: names may hold what jinja2 would run.
        base=base,
        task=task,
        settings=settings,
        measured=measured or {},
        place=place,
        journal=journal,
        rebuilt=rebuilt,
        version=__version__,
        line=_line,
        cell=_cell,
    )
    return f"{card}\n"


def _learned(summary: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """The held-out accuracy and examples of a summary, if it has them, as tables."""
    split, rates = summary["held_out_split"], summary.get("held_out_accuracy") or {}
    words = {
        when: f"{rate['rate']:.3f} ({rate['low']:.2f} to {rate['high']:.2f}, {rate['right']} of {rate['of']})"
        for when, rate in rates.items()
        if rate
    }
    tables = {f"held-out accuracy ({split}), 95 % interval": words} if words else {}
    for row in summary.get("examples", []):
        title = ": ".join(filter(None, (row["kind"], _code(row["prompt"]))))
        tables[title] = {when: _code(row[when]) for when in ("before", "after")}
    return tables


def _code(text: str, width: int = 300) -> str:
    """Text that a model wrote, as a piece of code: what it holds is shown, and steers nothing."""
    line = _line(text).replace("`", "'")
    return f"`{line if len(line) <= width else f'{line[: width - 3]}...'}`" if line else "(nothing)"


def _is_hub_id(base: str) -> bool:
    """Whether the hub may have this model; it refuses a base_model that is none of its own."""
    return base.count("/") == 1 and not base.startswith((".", "/", "~")) and not Path(base).exists()


def _quoted(place: str) -> dict[str, str]:
    """Where the model is, as Python and as the shell write it."""
    return {"python": json.dumps(place), "shell": shlex.quote(place)}


def _line(value: object) -> str:
    """A value on one line, without carriage returns: ModelCard takes its own line breaks from the text."""
    return " ".join(str(value).split())


def _cell(value: object) -> str:
    return _line(value).replace("|", "\\|")
