"""A generation the way the first Hugging Face implementation of ES for language models does it.

Run: python benchmarks/original.py [--dtype bfloat16] [--members 16] [--prompts 16] [--tokens 64] [--forced].
Written from the paper's description (arXiv 2509.24372) and from notes on its code, not from the code. For
each member, noise from ``torch.randn`` is added to every tensor in place, in the model's own precision;
transformers generates all prompts in one padded batch until the last has ended; the same noise is drawn again
and subtracted. Rewards are z-scored, and the update is summed tensor by tensor in that precision, from noise
that is drawn once more. Its faults (rounding that stays behind, noise that repeats) are left as they are: its
time is what counts.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from _jobs import LR, SEED, SIGMA, Job, prompts_for, straggling, task, whole
from torch import Tensor, nn

from es_lightning.models import BaseModel
from es_lightning.records import Prompt

log = logging.getLogger("benchmarks.original")


class Original:
    """A model, and generations of it.

    Args:
        base: the base model.
        dtype: of its weights and of all that is done to them.
    """

    def __init__(self, base: BaseModel, dtype: torch.dtype) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(base.folder, padding_side="left")
        model: Any = AutoModelForCausalLM.from_pretrained(base.folder, dtype=dtype)
        self.model: Any = model.eval().requires_grad_(False)
        self.base, self.task = base, task()

    def generation(self, job: Job, index: int) -> dict[str, Any]:
        """Run one generation; returns the seconds of all members by phase, tokens, and the stragglers' share.

        Args:
            job: what to do.
            index: of the generation, which decides the seeds.
        """
        seeds = [1000 * index + number for number in range(job.members)]
        prompts = prompts_for(self.base, job.prompts)
        split, rewards, batches = dict.fromkeys(("perturb", "generate", "reward", "update"), 0.0), [], []
        begun = time.perf_counter()

        def lap(phase: str) -> None:
            nonlocal begun
            now = time.perf_counter()
            split[phase] += now - begun
            begun = now

        for seed in seeds[: job.sample]:
            shift(self.model, seed, SIGMA)
            lap("perturb")
            texts, lengths = self.complete(prompts, job)
            lap("generate")
            scores = [self.task.reward(*pair)["reward"] for pair in zip(prompts, texts, strict=True)]
            rewards.append(sum(scores) / len(scores))
            batches.append(lengths)
            lap("reward")
            shift(self.model, seed, -SIGMA)
            lap("perturb")
        for phase in ("perturb", "generate", "reward"):
            split[phase] *= job.scale
        weights = z_scores((rewards * job.members)[: job.members])
        begun = time.perf_counter()
        update(self.model, seeds, weights, LR)
        lap("update")
        tokens = sum(map(sum, batches)) * job.scale
        return {"seconds": split, "tokens": tokens, "straggling": straggling(batches)}

    @torch.inference_mode()
    def complete(self, prompts: Sequence[Prompt], job: Job) -> tuple[list[str], list[int]]:
        """Generate greedily, all prompts in one batch; returns texts, and how many tokens each has."""
        rows = [list(prompt.token_ids) for prompt in prompts]
        batch = self.tokenizer.pad({"input_ids": rows}, return_tensors="pt")
        least = {"min_new_tokens": job.tokens} if job.forced else {}
        end, pad = self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
        found = self.model.generate(
            **batch, max_new_tokens=job.tokens, do_sample=False, eos_token_id=end, pad_token_id=pad, **least
        )
        new = found[:, batch["input_ids"].shape[1] :]
        ended = [(row == end).nonzero().flatten().tolist() for row in new]
        lengths = [ends[0] + 1 if ends and not job.forced else new.shape[1] for ends in ended]
        return self.tokenizer.batch_decode(new, skip_special_tokens=True), lengths

    def measured(self, job: Job, generations: int) -> dict[str, Any]:
        """Return the median seconds of a whole generation by phase, and what it generated."""
        self.generation(Job(2, 2, 2, True, 1), 0)  # warms up
        found = [self.generation(job, 1 + index) for index in range(generations)]
        return whole(found, job)


@torch.no_grad()
def shift(model: nn.Module, seed: int, scale: float) -> None:
    """Add a member's noise to every tensor in place; the opposite scale takes it away, up to rounding."""
    for parameter in model.parameters():
        parameter.add_(drawn(parameter, seed), alpha=scale)


@torch.no_grad()
def update(model: nn.Module, seeds: Sequence[int], weights: Sequence[float], lr: float) -> None:
    """Take the step: theta += lr / N * sum_n weight_n eps_n, all of it in the model's precision."""
    for parameter in model.parameters():
        total = torch.zeros_like(parameter)
        for seed, weight in zip(seeds, weights, strict=True):
            total.add_(drawn(parameter, seed), alpha=weight)
        parameter.add_(total, alpha=lr / len(seeds))


def drawn(parameter: Tensor, seed: int) -> Tensor:
    """Draw the noise of one tensor in its precision, from a generator that begins anew."""
    generator = torch.Generator(parameter.device).manual_seed(seed + SEED)
    return torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


def z_scores(rewards: Sequence[float]) -> list[float]:
    """Return (R - mean) / (std + 1e-8)."""
    values = torch.tensor(rewards, dtype=torch.float64)
    scored: list[float] = ((values - values.mean()) / (values.std(correction=0) + 1e-8)).tolist()
    return scored


def main() -> None:
    """Measure one job and log it as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--order", help="of benchmarks/bench.py, as JSON; the other options do nothing then")
    parser.add_argument("--base", default="embedded")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--members", type=int, default=16)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--sample", type=int, help="members that are evaluated; default: all")
    parser.add_argument("--generations", type=int, default=2)
    parser.add_argument("--forced", action="store_true", help="all tokens, whatever the model says")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if given.order:
        order = json.loads(given.order)
        original = Original(BaseModel(order["base"]), getattr(torch, order["dtype"]))
        found: dict[str, Any] = {
            name: original.measured(Job(**job), order["generations"]) for name, job in order["jobs"].items()
        }
        Path(order["output"]).write_text(json.dumps({**found, "dtype": order["dtype"]}), encoding="utf-8")
        return
    job = Job(given.members, given.prompts, given.tokens, given.forced, given.sample or given.members)
    original = Original(BaseModel(given.base), getattr(torch, given.dtype))
    log.info("%s", json.dumps(original.measured(job, given.generations), indent=1))


if __name__ == "__main__":
    main()
