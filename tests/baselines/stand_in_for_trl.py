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

TOKENS = [5, 6, 7]  # of every completion


def numbers_of(batch: list[int], group: int, how: str | None) -> list[int]:
    """What an update asks for, prompt by prompt."""
    if how == "split":
        return batch * group
    numbers = [number for number in batch for _ in range(group)]
    return numbers[::-1] if how == "backwards" else numbers


def train(job: dict[str, Any], parent: trl_process.Parent) -> None:
    """Ask for rewards of all updates, then add noise of float32 to the base's weights."""
    how, base = os.environ.get("STAND_IN"), BaseModel(job["base"])
    for update, batch in enumerate(job["updates"], start=1):
        numbers = numbers_of(batch, job["options"]["num_generations"], how)
        prompts = [base.tokenizer(text=job["texts"][number])["input_ids"] for number in numbers]
        parent.ask("grade", numbers=numbers, prompts=prompts, completions=[TOKENS] * len(numbers))
        parent.tell("update", update=update, seconds=float(update), peak=0, logs={"loss": 0.5})
        if how == "fails":
            sys.exit("no memory is left")
        if update == len(job["updates"]) or update % job["evaluate_every"] == 0:
            named = {
                name: each + 1e-3 * torch.randn_like(each) for name, each in base.load().named_parameters()
            }
            path = Path(job["folder"]) / POLICY
            save_file(named, path)
            parent.ask("evaluate", update=update, seconds=update + 0.5, weights=str(path))


if __name__ == "__main__":
    trl_process.train = train
    trl_process.main(int(sys.argv[1]))
