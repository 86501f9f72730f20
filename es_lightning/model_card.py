"""The README.md of an exported model: where it comes from, how it was made, what it measured."""

import json
from collections.abc import Mapping
from typing import Any

from es_lightning import __version__


def model_card(summary: Mapping[str, Any]) -> str:
    """The card's text, with the front matter that the hub reads.

    Args:
        summary: what ``summary.json`` holds.
    """
    settings = "\n".join(f"| {key} | {value} |" for key, value in summary["settings"].items())
    return f"""---
base_model: {json.dumps(summary["base"])}
library_name: transformers
pipeline_tag: text-generation
tags: [evolution-strategies, es-lightning]
---

# {summary["base"]}, fine-tuned on {summary["task"]} by evolution strategies

All weights of the base model were tuned with es_lightning {__version__}: no gradients, a population of
perturbed copies, scored by the task's reward.

| held-out reward ({summary["held_out_split"]}) | |
|---|---|
| before | {summary["held_out_before"]} |
| after | {summary["held_out_after"]} |

| setting | |
|---|---|
{settings}
| generations | {summary["generations"]} |
| centre checksum | {summary["centre_checksum"]} |
"""
