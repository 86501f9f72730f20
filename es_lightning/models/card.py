"""The README.md of an exported model: where it comes from, how it was made, what it measured."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from es_lightning.system.version import __version__

UPDATE = """\
## How it was made

```
eps_n    = standard normal noise, a pure function of the seed that the journal has for member n
reward_n = mean reward of what theta + sigma * sign_n * eps_n answers
theta   += lr / N * sum_n weights_n * sign_n * eps_n        weights = shaping(rewards)
```

The sum is the direction that the optimizer named below takes its step in (arXiv 2509.24372)."""


@dataclass(frozen=True)
class Export:
    """What a card says of a centre that was written while, or after, a run was under way.

    Args:
        base: the base model as the user named it.
        task: short name.
        updates: updates that the centre has seen.
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
    if summary.get("centre_of_generation", facts["generations"]) != facts["generations"]:
        facts = {"put back to the centre before generation": summary["centre_of_generation"], **facts}
    return _joined(
        [
            _head(summary["base"], summary["task"]),
            *([_table(f"held-out reward ({split})", held_out)] if split else []),
            UPDATE,
            _table("setting", {**summary["settings"], **facts}),
            _loading("model"),
        ]
    )


def export_card(export: Export) -> str:
    """The card of an exported centre, with the front matter that the hub reads."""
    facts = {"updates done": export.updates, "centre checksum": export.checksum, "dtype": export.dtype}
    metrics = {name: f"{value:.6g}" for name, value in export.metrics.items()}
    return _joined(
        [
            _head(export.base, export.task),
            _table("this model", facts),
            *([_table("measured last", metrics)] if metrics else []),
            UPDATE,
            _table("setting", export.settings),
            _loading(export.place),
            _replaying(export.journaled),
        ]
    )


def _joined(parts: Sequence[str]) -> str:
    return "\n\n".join(parts) + "\n"


def _head(base: str, task: str) -> str:
    # The hub refuses a base_model that is none of its own.
    is_id = base.count("/") == 1 and not base.startswith((".", "/", "~")) and not Path(base).exists()
    named = f"base_model: {json.dumps(base)}\n" if is_id else ""
    return (
        f"---\n{named}library_name: transformers\npipeline_tag: text-generation\n"
        "tags: [evolution-strategies, es-lightning]\n---\n\n"
        f"# {base}, fine-tuned on {task} by evolution strategies\n\n"
        f"All weights of the base model were tuned with es_lightning {__version__}: no gradients, a "
        "population of\nperturbed copies, scored by the task's reward."
    )


def _table(title: str, rows: Mapping[str, Any]) -> str:
    lines = [f"| {_cell(name)} | {_cell(value)} |\n" for name, value in rows.items()]
    return f"| {title} | |\n|---|---|\n{''.join(lines)}".rstrip("\n")


def _cell(value: Any) -> str:
    return " ".join(str(value).replace("|", "\\|").split())


def _loading(place: str) -> str:
    return f"""## Load it

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained({json.dumps(place)}, dtype="auto")
tokenizer = AutoTokenizer.from_pretrained({json.dumps(place)})
```

```
vllm serve {shlex.quote(place)}
```"""


def _replaying(journaled: int | None) -> str:
    if journaled is None:
        return (
            "## Make it again\n\nNo update of the journal beside this file ended in these weights: they are "
            "the base model's, or were\naveraged."
        )
    return f"""## Make it again

The journal beside this file holds seeds and weights of every update. Base model and journal give these
weights again, bit for bit, on the kind of device and with the versions that its first line names:

```
es-lightning replay --journal journal.jsonl --generation {journaled} --output rebuilt
```"""
