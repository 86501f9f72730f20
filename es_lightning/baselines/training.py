"""Train a policy by reinforcement learning, graded and evaluated by the code that evaluates ES."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import GenerationConfig

from es_lightning.algorithm.tensors import checksum
from es_lightning.analysis.flops import of_policy_update
from es_lightning.baselines.child import Child, seeing_only
from es_lightning.baselines.files import LOG, POLICY, UPDATES
from es_lightning.baselines.memory import Needed, needed
from es_lightning.baselines.same_prompts import texts_of
from es_lightning.baselines.settings import BaselineSettings
from es_lightning.errors import DivergenceError, UsageError
from es_lightning.evaluation.metrics import evaluation_means, means
from es_lightning.evaluation.parts import Parts
from es_lightning.evaluation.recorded import recorded
from es_lightning.journal.evaluations import RunEvaluations
from es_lightning.models.size import size_of
from es_lightning.records import Completion, Costs, Evaluation, Prompt
from es_lightning.rollout import Sampling
from es_lightning.rollout.engine import model_dtype
from es_lightning.rollout.text import completed, end_ids
from es_lightning.system.affinity import allowed
from es_lightning.system.files import Lines, to_json
from es_lightning.system.hardware import machine

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

log = logging.getLogger(__name__)


class PolicyTraining:
    """One baseline, from the base model to the trained policy.

    Args:
        parts: base model, engine and task; not started.
        settings: how the policy is trained.
        folder: of the run.
        loggers: get metrics by update, under the names that a fit has.
    """

    def __init__(
        self, parts: Parts, settings: BaselineSettings, folder: Path, loggers: Sequence[Logger] = ()
    ) -> None:
        seed = parts.seed if settings.seed is None else settings.seed
        self.parts, self.settings = parts, replace(settings, seed=seed)
        self.folder, self.loggers = folder, loggers
        self.samples = Sampling(
            parts.rollouts.sampling.max_tokens, settings.temperature, n=settings.group, seed=seed
        )
        self.costs, self.evaluations = Costs(), RunEvaluations()
        self._update: dict[str, float] = {}  # what the update under way has measured
        self._graded = 0  # updates whose completions have been graded

    def prepare(self) -> None:
        """Encode all prompts and refuse what cannot be trained, before anything is started.

        Raises:
            UsageError: the message says what to change.
        """
        data, parts = self.parts.data, self.parts
        self.settings.check_batch(data.batch_size)
        if not data.has("test") and not data.has("val"):
            raise UsageError(
                f"{parts.task.name} has neither test nor validation problems, on which a policy is compared "
                "with its base: keep some of the problems for one of the two."
            )
        for split in ("train", "val", "test"):
            if split == "train" or data.has(split) or (split == "test" and data.test_with_val):
                data.encode(
                    split,
                    lambda prompts: parts.rollouts.reserve(parts.base, prompts, None, data.drop_long_prompts),
                )
        batches = [data.batch(update) for update in range(self.settings.updates)]
        self.prompts = list({prompt.id: prompt for batch in batches for prompt in batch}.values())
        numbers = {prompt.id: number for number, prompt in enumerate(self.prompts)}
        self.batches = [[numbers[prompt.id] for prompt in batch] for batch in batches]
        self.texts = texts_of(self.prompts, parts.base.tokenizer)
        self._end_ids = end_ids(_generation_config(parts.base.folder), parts.base.tokenizer)

    @property
    def held_out(self) -> str:
        """The split on which both ends are evaluated."""
        return "test" if self.parts.data.has("test") else "val"

    @property
    def needed(self) -> Needed:
        """Bytes that TRL takes at the least beside the engine; call ``prepare`` first."""
        parts, base, settings = self.parts, self.parts.base, self.settings
        engine = model_dtype(parts.rollouts.engine.dtype_name, base.dtype, parts.device)
        size, length = size_of(base.config, base.blueprint), parts.rollouts.longest
        return needed(size, settings, length, settings.halved(engine))

    def start(self) -> None:
        """Load the base model and start the engine, which leaves room for TRL; nothing is written yet.

        Raises:
            UsageError: model, engine and device do not go together.
        """
        self.centre = self.parts.start(beside=self.needed.total)

    def run(self) -> dict[str, Any]:
        """Train and evaluate, once everything is started; returns what summary.json holds.

        Raises:
            RolloutError: TRL has failed.
            DivergenceError: a loss or a weight is not finite.
        """
        held_out = self.held_out
        begin = {"baseline": vars(self.settings), "machine": machine()}
        self.rows = Lines(self.folder / UPDATES, [to_json(begin)])
        self.evaluations.open(self.folder, steps=0, resumes=False, writes=True)
        before = self._test(held_out)
        self._validate(0, None)
        begun = perf_counter()
        with Child(self._job(), self.folder / LOG, seeing_only(self.parts.device)) as child:
            for message in child.messages():
                getattr(self, f"_on_{message.pop('kind')}")(child, **message)
        self._weights = load_file(self.folder / POLICY)
        after = self._test(held_out, self._weights, self.settings.updates)
        digits = checksum(self._held().items())
        return {
            "baseline": vars(self.settings),
            "base": self.parts.base.name,
            "task": self.parts.task.name,
            "updates": self.settings.updates,
            "held_out_split": held_out,
            "held_out_before": before,
            "held_out_after": after,
            "rollouts": self.costs.rollouts,
            "tokens": self.costs.tokens,
            "flops": self.costs.flops,
            "training_seconds": self.costs.seconds,
            "seconds_with_validation": round(perf_counter() - begun, 3),
            "centre_checksum": digits,
        }

    def _job(self) -> dict[str, Any]:
        parts, settings = self.parts, self.settings
        max_tokens, engine = parts.rollouts.sampling.max_tokens, parts.rollouts.engine.dtype
        return {
            "base": str(parts.base.folder),
            "trust_remote_code": parts.base.trust_remote_code,
            "texts": self.texts,
            "updates": self.batches,
            "method": settings.method,
            "options": settings.options(parts.data.batch_size, max_tokens, engine),
            "steps": settings.optimizer_steps,
            "evaluate_every": settings.evaluate_every,
            "folder": str(self.folder),
            "device": parts.device.type,
            "threads": len(allowed()),
        }

    # What the child asks --------------------------------------------------------------------------

    def _on_sample(self, child: Child, prompts: Sequence[Sequence[int]], weights: str) -> None:
        """Sample the completions of an update with the policy's weights, in the engine that evaluates.

        They go on to the end of their text, past the stop strings of the config, so that TRL learns from an
        end that the policy has chosen; what is graded ends where the engine would have stopped.

        Raises:
            RuntimeError: these are not the prompts of the update, one group after the other.
        """
        asked, group = [self.prompts[number] for number in self.batches[self._graded]], self.settings.group
        expected = [list(prompt.token_ids) for prompt in asked for _ in range(group)]
        if [list(ids) for ids in prompts] != expected:
            raise RuntimeError(
                f"TRL asks for completions of other prompts than those of update {self._graded + 1}, or not "
                f"in groups of {group}."
            )
        self._hold(load_file(weights))
        completions = self.parts.rollouts.complete(asked, self.samples, generation=self._graded)
        child.answer({"completions": [list(each.token_ids) for each in completions]})

    def _on_grade(
        self,
        child: Child,
        numbers: Sequence[int],
        prompts: Sequence[Sequence[int]],
        completions: Sequence[Sequence[int]],
    ) -> None:
        """Grade completions as those of a member are graded.

        Raises:
            RuntimeError: these are not the prompts of the update, one group after the other, or have other
                tokens. Rewards would be compared across prompts, or the update would not be that of ES.
        """
        group = self.settings.group
        if list(numbers) != [number for number in self.batches[self._graded] for _ in range(group)]:
            raise RuntimeError(
                f"TRL asks for rewards of other prompts than those of update {self._graded + 1}, or not in "
                f"groups of {group}."
            )
        self._graded += 1
        asked = [self.prompts[number] for number in numbers]
        for prompt, ids in zip(asked, prompts, strict=True):
            if tuple(ids) != prompt.token_ids:
                raise RuntimeError(f"TRL read other tokens than the engine for problem {prompt.id}.")
        evaluation = self.grade(asked, completions)
        self._measure(evaluation, [len(ids) for ids in completions])
        child.answer({"rewards": [score["reward"] for score in evaluation.scores]})

    def _on_update(
        self, child: Child, update: int, seconds: float, peak: int, logs: Mapping[str, float]
    ) -> None:
        """Log an update."""
        loss = float(logs["loss"])
        if loss != loss or abs(loss) == float("inf"):
            raise DivergenceError(f"the loss of update {update} is {loss}: lower baseline.lr.")
        self._until(seconds)
        metrics = {
            **self._update,
            "train/loss": loss,
            "train/grad_norm": float(logs.get("grad_norm", 0.0)),
            "train/kl": float(logs.get("kl", 0.0)),
            **self.costs.metrics(),
            "cost/peak_bytes": float(peak),
        }
        self._log(update, metrics)
        reward = self._update["reward/mean"]
        log.info("update %d of %d: reward %.4g, loss %.3g", update, self.settings.updates, reward, loss)

    def _on_evaluate(self, child: Child, update: int, seconds: float, weights: str) -> None:
        """Evaluate the policy on the validation prompts, as ES evaluates its centre."""
        self._until(seconds)
        self._validate(update, load_file(weights))
        child.answer({"go": True})

    def _until(self, seconds: float) -> None:
        """Note how long the training has taken so far."""
        self.costs = replace(self.costs, seconds=round(seconds, 3))

    # Measuring ------------------------------------------------------------------------------------

    def grade(self, prompts: Sequence[Prompt], tokens: Sequence[Sequence[int]]) -> Evaluation:
        """Return texts and scores of sampled tokens, as the engine that sampled them would have them.

        Args:
            prompts: one for each completion.
            tokens: new tokens of each completion.
        """
        base, sampling = self.parts.base, self.parts.rollouts.sampling
        texts: list[Completion] = [
            completed(base.tokenizer, prompt.token_ids, ids, self._end_ids, sampling.stop)
            for prompt, ids in zip(prompts, tokens, strict=True)
        ]
        grading = self.parts.data.scorer.round(len(texts))
        scores = grading.add(prompts, texts, "an update").scores()
        return Evaluation(tuple(prompts), tuple(texts), scores, 1)

    def _measure(self, evaluation: Evaluation, lengths: Sequence[int]) -> None:
        """Note rewards and costs of the completions that an update learns from.

        Args:
            evaluation: of the completions.
            lengths: their tokens, also those behind a stop string, which are learnt from as well.
        """
        rewards = torch.tensor([score["reward"] for score in evaluation.scores], dtype=torch.float64)
        groups = rewards.view(-1, self.settings.group)
        read = [len(prompt.token_ids) for prompt in evaluation.prompts]
        parameters = sum(each.numel() for each in self.centre.parameters())
        length = (sum(lengths) + sum(read)) / len(lengths)
        flops = of_policy_update(self.settings.group, parameters, len(groups), length)
        self.costs += Costs(len(lengths), sum(lengths), flops=flops)
        scores = {name: value for name, value in means(evaluation.scores, "reward").items()}
        scores.pop("reward/reward")
        self._update = {
            **scores,
            "reward/mean": float(rewards.mean()),
            "reward/std": float(groups.std(dim=1, correction=0).mean()),
            "reward/min": float(rewards.min()),
            "reward/max": float(rewards.max()),
            "completion_tokens": sum(lengths) / len(lengths),
        }

    def _test(self, split: str, weights: Mapping[str, Tensor] | None = None, update: int = 0) -> float:
        """Evaluate the model of an end on held-out problems, log that as fits do, and return the reward."""
        found = self.evaluate(split, weights, update)
        ends = {f"held_out/{name}": f"{split}/{name}" for name in ("reward", "accuracy")}
        told = {name: found[key] for name, key in ends.items() if key in found}
        also = found if split == "val" or self.parts.data.test_with_val else {}
        self._log(update, {**told, **also})
        return found[f"{split}/reward"]

    def _validate(self, update: int, weights: Mapping[str, Tensor] | None) -> None:
        """Evaluate on the validation problems, and on those of the test if that was asked for.

        The held-out problems of both ends are evaluated anyway.
        """
        data, inside = self.parts.data, 0 < update < self.settings.updates
        if data.test_with_val and inside:
            self._log(update, self.evaluate("test", weights, update))
        if data.has("val") and (inside or self.held_out == "test"):
            self._log(update, self.evaluate("val", weights, update))

    def evaluate(
        self, split: str, weights: Mapping[str, Tensor] | None = None, update: int = 0
    ) -> dict[str, float]:
        """Evaluate the base model or a policy on a split, and add that to evaluations.jsonl.

        Args:
            split: ``val`` or ``test``.
            weights: of the policy, by name; None is the base model.
            update: number of updates that the policy has seen.
        """
        parts, rollouts = self.parts, self.parts.rollouts
        if weights is not None:
            self._hold(weights)
        else:
            rollouts.hold_centre(self.centre)
        found = parts.evaluator().evaluate(parts.data.prompts(split))
        digits = checksum(self._held().items())
        self.evaluations.add(recorded(found, split, update, digits, self.costs))
        return evaluation_means(found, split)

    def _hold(self, weights: Mapping[str, Tensor]) -> None:
        """Put a policy's weights into the centre and the engine."""
        with torch.no_grad():
            for name, parameter in self.centre.named_parameters():
                parameter.copy_(weights[name])
        self.parts.rollouts.forget()
        self.parts.rollouts.hold_centre(self.centre)

    def _held(self) -> dict[str, Tensor]:
        return dict(self.centre.named_parameters())

    def _log(self, update: int, metrics: Mapping[str, float]) -> None:
        self.rows.append(to_json({"update": update, **metrics}))
        for logger in self.loggers:
            logger.log_metrics(dict(metrics), step=update)


def _generation_config(folder: Path) -> GenerationConfig | None:
    has_one = (folder / "generation_config.json").is_file()
    return GenerationConfig.from_pretrained(folder) if has_one else None
