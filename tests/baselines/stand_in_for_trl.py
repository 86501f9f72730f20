"""In the place of TRL's process: it speaks as that does, and trains by adding noise.

The environment says what else it does. STAND_IN is ``backwards``: it asks for the prompts in the wrong order;
``split``: for the first completions of all groups, then for the second; ``fails``: after the first update.
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from es_lightning.baselines import trl_process
from es_lightning.baselines.files import POLICY
from es_lightning.models import BaseModel


def numbers_of(batch: list[int], group: int, how: str | None) -> list[int]:
    """What an update asks for, prompt by prompt."""
    if how == "split":
        return batch * group
    numbers = [number for number in batch for _ in range(group)]
    return numbers[::-1] if how == "backwards" else numbers


def train(job: dict[str, Any], parent: trl_process.Parent) -> None:
    """Ask for completions and rewards of each update, then add noise of float32 to the weights."""
    how, base = os.environ.get("STAND_IN"), BaseModel(job["base"])
    path = Path(job["folder"]) / POLICY
    named = dict(base.load().named_parameters())
    for update, batch in enumerate(job["updates"], start=1):
        numbers = numbers_of(batch, job["options"]["num_generations"], how)
        prompts = [base.tokenizer(text=job["texts"][number])["input_ids"] for number in numbers]
        save_file(named, path)
        completions = parent.ask("sample", prompts=prompts, weights=str(path))["completions"]
        parent.ask("grade", numbers=numbers, prompts=prompts, completions=completions)
        parent.tell("update", update=update, seconds=float(update), peak=0, logs={"loss": 0.5})
        if how == "fails":
            sys.exit("no memory is left")
        named = {name: each + 1e-3 * torch.randn_like(each) for name, each in named.items()}
        if update == len(job["updates"]) or update % job["evaluate_every"] == 0:
            save_file(named, path)
            parent.ask("evaluate", update=update, seconds=update + 0.5, weights=str(path))


if __name__ == "__main__":
    trl_process.train = train
    trl_process.main(int(sys.argv[1]))
