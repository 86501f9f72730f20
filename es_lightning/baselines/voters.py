"""The replies of a probe's best candidates to prompts that did not choose them, one model after the other."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from es_lightning.algorithm.noise import noise_of
from es_lightning.algorithm.tensors import checksum
from es_lightning.baselines.vote import Replies
from es_lightning.errors import UsageError
from es_lightning.evaluation.kept_lines import KeptLines
from es_lightning.evaluation.parts import Parts
from es_lightning.journal.identity import described, digest
from es_lightning.landscape.probing.input import probed_problems
from es_lightning.landscape.probing.results import Candidate, ProbeResults
from es_lightning.records import Prompt
from es_lightning.rollout.engine import model_dtype
from es_lightning.task import Task

log = logging.getLogger(__name__)

KEY, CENTRE = "es_lightning_vote", -1
"""Name of the header, and the number that the centre has among the candidates."""
_OF_PROBE = ("checksum", "noise", "seed", "sigmas", "members", "batches", "antithetic")


def held_out_prompts(parts: Parts, results: ProbeResults, split: str) -> list[Prompt]:
    """Return the encoded prompts of a split, after checking that the probe has seen none of them.

    Args:
        parts: of the probe's config, not started.
        results: of the probe.
        split: ``val`` or ``test``.

    Raises:
        UsageError: the config is of another task, model or prompts than the probe's, the split holds prompts
            of the probe, or it has fewer than two.
    """
    _require_same_task(parts, results)
    seen = probed_problems(parts.data.prompts(results.header["split"]), results)
    prompts = parts.prompts(split)
    ids, asked = {prompt.id for prompt in seen}, set(map(_asked, seen))
    again = next((each for each in prompts if each.id in ids or _asked(each) in asked), None)
    if again is not None:
        raise UsageError(
            f"split {split} holds {again.id}, a prompt by which the probe in {results.folder} has ranked its "
            "candidates, so they would look too good on it: give the other --split, or probe another one."
        )
    if len(prompts) < 2:
        raise UsageError(
            f"split {split} has one prompt, and standard errors are over prompts: take another --split."
        )
    return prompts


def _asked(prompt: Prompt) -> tuple[Any, ...]:
    """Return what a model is asked; a single choice is no question, but the answer that was trained on."""
    choices = prompt.choices if len(prompt.choices) > 1 else ()
    return prompt.system, prompt.text, *((choice.before, choice.text) for choice in choices)


def _require_same_task(parts: Parts, results: ProbeResults) -> None:
    """Refuse a config with another task or another size of model; cheap, before anything is loaded."""
    header = results.header
    now = described("data.task", parts.task, parts.task.name)
    for name in dict.fromkeys([*header["task_settings"], *now]):
        was, own = header["task_settings"].get(name), now.get(name)
        if was != own:
            raise UsageError(
                f"{name} was {was} in the probe in {results.folder} and is {own} in this config: give the "
                "config of the probe."
            )
    parameters = sum(each.numel() for each in parts.base.blueprint.parameters())
    if parameters != header["parameters"]:
        raise UsageError(
            f"{parts.base.name} has {parameters:,} parameters, and the model of the probe in "
            f"{results.folder} had {header['parameters']:,}: give the probe's with --model.base."
        )


class Voters:
    """Evaluates the centre and candidates on held-out prompts; what is on disk is not repeated.

    All ranks have to make the same calls; they share the prompts of a model.

    Args:
        parts: with a greedy sampling, not started.
        results: of the probe.
        prompts: P held-out prompts, encoded.
        path: file of JSON lines for the replies.

    Raises:
        UsageError: the file belongs to another vote.
    """

    def __init__(self, parts: Parts, results: ProbeResults, prompts: Sequence[Prompt], path: Path) -> None:
        self.parts, self.results, self.prompts = parts, results, list(prompts)
        # The probe's own, whatever the config says; an engine of adapters is started with room for it.
        self.noise = parts.noise = noise_of(results.header["noise"])
        is_row = partial(_is_row, prompts=len(self.prompts))
        self._lines = KeptLines(path, KEY, self._settings(), is_row, parts.ranks)
        self._known = {row["candidate"]: row for row in self._lines.rows}

    def _settings(self) -> dict[str, Any]:
        """Return what decides the replies, in plain JSON."""
        rollouts, header = self.parts.rollouts, self.results.header
        dtype = model_dtype(rollouts.engine.dtype_name, self.parts.base.dtype, self.parts.device)
        return {
            "probe": {name: header[name] for name in _OF_PROBE},
            "task": header["task_settings"],
            "prompts": digest(self.prompts),
            "max_tokens": rollouts.sampling.max_tokens,
            "stop": list(rollouts.sampling.stop),
            "engine": f"{type(rollouts.engine).__name__}, {str(dtype).removeprefix('torch.')}",
            "chat_template_kwargs": rollouts.chat_template_kwargs,
        }

    def replies(
        self, candidates: Sequence[Candidate], tell: Callable[[int, int, float], None] | None = None
    ) -> tuple[Replies, list[Replies]]:
        """Return the replies of the centre, and of each candidate.

        Args:
            candidates: in any order.
            tell: called after each model with the number of models that are done, that of all, and the
                model's mean reward; None tells nobody.

        Raises:
            UsageError: the base model is not that of the probe.
            DivergenceError: a candidate gives log-probabilities that are not finite.
        """
        wanted: list[Candidate | None] = [None, *candidates]
        missing = [each for each in wanted if _number(each) not in self._known]
        if missing:
            centre = self._centre()
            for place, candidate in enumerate(missing):
                rewards = self._evaluate(centre, candidate)
                if tell is not None:
                    done = len(wanted) - len(missing) + place + 1
                    tell(done, len(wanted), math.fsum(rewards) / len(rewards))
        found = [self._known[_number(each)] for each in wanted]
        first, *others = [Replies(tuple(row["texts"]), tuple(row["rewards"])) for row in found]
        return first, others

    def _centre(self) -> nn.Module:
        """Start the engine, and return the centre of the probe."""
        centre = self.parts.start(members=self.parts.ranks.lane.count)
        found = checksum(centre.named_parameters(), self.parts.rollouts.shards)
        if found != self.results.header["checksum"]:
            raise UsageError(
                f"{self.parts.base.name} has checksum {found}, and the centre of {self.results.folder} had "
                f"{self.results.header['checksum']}: give the base model of the probe with --model.base."
            )
        return centre

    def _evaluate(self, centre: nn.Module, candidate: Candidate | None) -> list[float]:
        """Let one model reply, and keep what it says; the centre is the model without noise."""
        rollouts = self.parts.rollouts
        if candidate is None:
            rollouts.hold_centre(centre)
        else:
            rollouts.load(rollouts.perturbed(centre, candidate.member, self.noise, candidate.sigma))
        evaluation = self.parts.evaluator().evaluate(self.prompts)
        row = {
            "candidate": _number(candidate),
            "texts": [completion.text for completion in evaluation.completions],
            "rewards": evaluation.rewards,
        }
        self._known[row["candidate"]] = row
        self._lines.add(row)
        return evaluation.rewards


def given_answers(task: Task, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[str | None]:
    """Return the answer that each completion gives, as the task reads it.

    A completion that the task fails on gives none: it was written by a perturbed model, and may be anything.

    Args:
        task: the task.
        prompts: P prompts.
        texts: one completion of each.
    """
    answers = list[str | None]()
    for prompt, text in zip(prompts, texts, strict=True):
        try:
            answers.append(task.given_answer(prompt, text))
        except Exception as error:
            log.warning("%s cannot read the answer to %s, which has no vote: %s", task.name, prompt.id, error)
            answers.append(None)
    return answers


def _number(candidate: Candidate | None) -> int:
    return CENTRE if candidate is None else candidate.candidate


def _is_row(row: Any, prompts: int) -> bool:
    """Whether a row has a model's number, and as many completions and finite rewards as there are prompts."""
    try:
        texts, rewards = row["texts"], row["rewards"]
        fits = len(texts) == len(rewards) == prompts and all(isinstance(text, str) for text in texts)
        return fits and isinstance(row["candidate"], int) and all(map(math.isfinite, rewards))
    except (KeyError, TypeError):
        return False
