"""TRL in a process of its own: it takes gradient steps, and asks its parent for samples and for rewards.

It speaks JSON lines: the first line that it reads is the job; then it writes ``sample`` (prompts as tokens,
and where the policy's weights lie, answered by completions), ``grade`` (prompts and completions as tokens,
answered by rewards), ``update`` (what an update cost and gave), and ``evaluate`` (where the weights lie; it
goes on when it is answered). It knows no task and no engine. It ends with its parent, also with one that was
killed while this process computes gradients.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from es_lightning.baselines.files import POLICY
from es_lightning.system.memory import peak_bytes
from es_lightning.system.processes import end_with_parent


class Parent:
    """The two pipes to the process that started this one."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)  # whatever libraries print goes to the log, and not between the lines
        self.waited = 0.0
        """Seconds that this process spent on evaluations, which are not training."""

    def read(self) -> dict[str, Any]:
        """Return the next line; the end of the pipe ends this process."""
        line = sys.stdin.readline()
        if not line:
            raise SystemExit(1)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def tell(self, kind: str, **values: Any) -> None:
        """Write a line."""
        self._out.write(json.dumps({"kind": kind, **values}) + "\n")
        self._out.flush()

    def ask(self, kind: str, **values: Any) -> dict[str, Any]:
        """Write a line, and wait for its answer."""
        self.tell(kind, **values)
        return self.read()

    @contextmanager
    def off_the_clock(self) -> Iterator[None]:
        """Do not count the seconds of a ``with`` block as training."""
        begun = time.perf_counter()
        yield
        self.waited += time.perf_counter() - begun


def train(job: dict[str, Any], parent: Parent) -> None:
    """Train as the job says.

    Args:
        job: base, texts of all prompts, for each update the prompts' numbers, options of TRL, folder.
        parent: grades and evaluates.
    """
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer
    from trl.trainer.rloo_config import RLOOConfig
    from trl.trainer.rloo_trainer import RLOOTrainer

    torch.set_num_threads(job["threads"])
    trusted = job["trust_remote_code"]
    tokenizer = AutoTokenizer.from_pretrained(job["base"], trust_remote_code=trusted, padding_side="left")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(job["base"], dtype=torch.float32, trust_remote_code=trusted)
    sample_by(parent, model, Path(job["folder"]) / POLICY, tokenizer.pad_token_id)
    rows = [{"prompt": job["texts"][at], "number": at} for batch in job["updates"] for at in batch]

    def reward(
        prompts: list[str], completion_ids: list[list[int]], number: list[int], **_: Any
    ) -> list[float]:
        tokens = tokenizer(text=prompts)["input_ids"]
        answer = parent.ask("grade", numbers=number, prompts=tokens, completions=completion_ids)
        rewards: list[float] = answer["rewards"]
        return rewards

    kind, config = (RLOOTrainer, RLOOConfig) if job["method"] == "rloo" else (GRPOTrainer, GRPOConfig)
    trainer = kind(
        model=model,
        reward_funcs=reward,
        args=config(
            output_dir=str(Path(job["folder"]) / "trl"),
            use_cpu=job["device"] == "cpu",
            gradient_checkpointing=False,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            shuffle_dataset=False,
            **job["options"],
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[_watch(job, parent)],
    )
    trainer.train()


def sample_by(parent: Parent, model: Any, path: Path, pad: int) -> None:
    """Let a model's ``generate``, which TRL samples by, ask the parent's engine.

    Args:
        parent: samples with the weights of a file.
        model: of transformers.
        path: gets the weights.
        pad: token behind completions that have ended.
    """
    import torch
    from torch.nn import functional

    def generate(input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: Any) -> torch.Tensor:
        prompts = [row[seen.bool()].tolist() for row, seen in zip(input_ids, attention_mask, strict=True)]
        write_weights(model, path)
        completions: list[list[int]] = parent.ask("sample", prompts=prompts, weights=str(path))["completions"]
        longest = max(map(len, completions))
        new = [
            functional.pad(torch.tensor(each), (0, longest - len(each)), value=pad) for each in completions
        ]
        return torch.cat([input_ids, torch.stack(new).to(input_ids.device)], dim=1)

    model.generate = generate


def write_weights(model: Any, path: Path) -> None:
    """Write a policy's weights in float32.

    Args:
        model: of transformers.
        path: gets them.
    """
    from safetensors.torch import save_file

    save_file(
        {name: each.detach().float().cpu().contiguous() for name, each in model.named_parameters()}, path
    )


def _watch(job: dict[str, Any], parent: Parent) -> Any:
    from transformers import TrainerCallback

    steps, every = job["steps"], job["evaluate_every"]

    class Watch(TrainerCallback):  # type: ignore[misc]
        """Tells the parent of every update, and waits while it evaluates the policy."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.begun = time.perf_counter()

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
            update, rest = divmod(state.global_step, steps)
            if rest or "loss" not in logs:
                return
            parent.tell("update", update=update, seconds=self.trained(), peak=peak_bytes(), logs=logs)

        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            update, rest = divmod(state.global_step, steps)
            last = update == len(job["updates"])
            if rest or (update % every and not last):
                return
            seconds, path = self.trained(), Path(job["folder"]) / POLICY
            with parent.off_the_clock():
                write_weights(model, path)
                parent.ask("evaluate", update=update, seconds=seconds, weights=str(path))

        def trained(self) -> float:
            return time.perf_counter() - self.begun - parent.waited

    return Watch()


def main(parent: int) -> None:
    """Train as the first line says, unless the parent has died meanwhile.

    Args:
        parent: its process id.
    """
    end_with_parent()
    if os.getppid() != parent:  # it died before the kernel was told to end this process with it
        return
    pipes = Parent()
    train(pipes.read(), pipes)


if __name__ == "__main__":
    main(int(sys.argv[1]))
