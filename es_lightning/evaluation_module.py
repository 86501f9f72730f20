"""A centre that is evaluated: on the splits of the run's task, and on whatever else a callback asks for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor

from es_lightning.centre_module import CentreModule
from es_lightning.evaluation.gather import join_evaluations, pack_evaluation
from es_lightning.evaluation.metrics import means, measured
from es_lightning.grading.scorer import Scorer
from es_lightning.records import Completion, Evaluation, Prompt
from es_lightning.rollout import Sampling, complete
from es_lightning.system.signals import interruptible


class EvaluationModule(CentreModule):
    """Scores, samples and reads log-probabilities with the weights that the engine holds.

    What is named for all ranks has to be called by all of them; the lanes share the prompts out.
    """

    def complete(self, prompts: Sequence[Prompt], sampling: Sampling | None = None) -> list[Completion]:
        """Generate with the weights that the engine holds; on this rank alone."""
        sampling = sampling or self.sampling
        with interruptible():
            return complete(self.engine, prompts, replace(sampling, seed=sampling.seed + self.generation))

    def evaluate(self, split: str) -> Evaluation:
        """Generate and score the problems of a split with the centre; all ranks take part and get all of it.

        Args:
            split: ``train``, ``val`` or ``test``.
        """
        with interruptible():
            self.load(self.unperturbed())
            return self.shared_rollout(self.data.encode(split, self.encode))

    def shared_rollout(
        self, prompts: Sequence[Prompt], scorer: Scorer | None = None, max_tokens: int | None = None
    ) -> Evaluation:
        """Generate and score with the weights that the engines hold; all ranks take part and get all of it.

        Args:
            prompts: encoded prompts.
            scorer: grades them; None takes that of the run's task.
            max_tokens: most new tokens of a completion; None takes those of ``sampling``.
        """
        sampling = replace(self.sampling, max_tokens=max_tokens or self.sampling.max_tokens)
        part = self._rollout(self.lane.share(prompts), scorer or self.data.scorer, sampling)
        return self._joined(part, prompts)

    def sample(self, prompts: Sequence[Prompt], max_tokens: int, temperature: float, seed: int) -> Evaluation:
        """One completion per prompt, ungraded; all ranks take part and get all of it.

        Args:
            prompts: encoded prompts.
            max_tokens: most new tokens of a completion.
            temperature: 0 for greedy decoding.
            seed: of the sampler; the generation's index is added.

        Returns:
            Completions with empty scores.
        """
        sampling = Sampling(max_tokens=max_tokens, temperature=temperature, seed=seed)
        mine = self.lane.share(prompts)
        completions = self.complete(mine, sampling) if mine else []
        return self._joined(
            Evaluation(tuple(mine), tuple(completions), tuple({} for _ in completions)), prompts
        )

    def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
        """Log-probability of each token given those before it; all ranks take part and get all of it.

        Args:
            sequences: token ids, at least 2 in each sequence.

        Returns:
            One float32 tensor [L - 1] of nats per sequence of length L.
        """
        mine = self.lane.share(sequences)
        with interruptible():
            found = [row.tolist() for row in self.engine.logprobs(mine)] if mine else []
        told = self.exchange(json.dumps(found).encode() if self.lane.leads else b"")
        lanes = [json.loads(part) for part in told[:: self.engine.tensor_parallel_size]]
        return [
            torch.tensor(lanes[i % len(lanes)][i // len(lanes)], dtype=torch.float32)
            for i in range(len(sequences))
        ]

    def _joined(self, part: Evaluation, prompts: Sequence[Prompt]) -> Evaluation:
        if self.lane.count == 1:
            return part
        told = self.exchange(pack_evaluation(part) if self.lane.leads else b"")
        return join_evaluations(told[:: self.engine.tensor_parallel_size], prompts)

    def _rollout(self, prompts: Sequence[Prompt], scorer: Scorer, sampling: Sampling) -> Evaluation:
        if not prompts:
            return Evaluation((), (), ())
        completions = self.complete(prompts, sampling)
        with interruptible():
            scores = scorer.round(len(completions)).add(prompts, completions).scores()
        return Evaluation(tuple(prompts), tuple(completions), scores)

    # Lightning's loops ----------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Give the engine the centre."""
        self.centre_has_changed()  # WeightAveraging may have put the average in its place
        self.load_centre()
        # Lightning counts a batch as done after its validation, but the centre has seen the update by now.
        self._count_of_lightning = self._logged_step(self.generation)

    def on_validation_epoch_end(self) -> None:
        """Forget what the engine holds where it was an average, whose place the centre has taken again."""
        if any(isinstance(callback, WeightAveraging) for callback in self.trainer.callbacks):  # type: ignore[attr-defined]
            self.centre_has_changed()

    def on_validation_end(self) -> None:
        """Give Lightning its count back."""
        self._logged_step(self._count_of_lightning)

    def _logged_step(self, step: int) -> int:
        """Set where loggers put what is logged next; returns where that was before."""
        loop = self.trainer.fit_loop.epoch_loop
        before, loop._batches_that_stepped = loop._batches_that_stepped, step
        return before

    def on_test_epoch_start(self) -> None:
        """Give the engine the centre."""
        self.centre_has_changed()  # WeightAveraging has put the average in its place when a fit ended
        self.load_centre()

    def validation_step(self, prompts: list[Prompt], batch_idx: int) -> None:
        """Score the centre on the validation prompts, which come as one batch, and log the means."""
        self._log_means("val", self.shared_rollout(prompts))

    def test_step(self, prompts: list[Prompt], batch_idx: int) -> None:
        """Score the centre on the test prompts, which come as one batch, and log the means."""
        self._log_means("test", self.shared_rollout(prompts))

    def _log_means(self, prefix: str, evaluation: Evaluation) -> None:
        self.log_dict(means(measured(evaluation), prefix), batch_size=len(evaluation.prompts))
