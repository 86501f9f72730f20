"""How far the tuned model's distributions have moved from the base model's, in both directions."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal, get_args

import lightning.pytorch as pl

from es_lightning.analysis import divergence
from es_lightning.callbacks.monitor import Monitor, Tuning, tuning, write_table
from es_lightning.callbacks.periodic import Periodic
from es_lightning.errors import UsageError
from es_lightning.evaluation.gather import digest
from es_lightning.evaluation.problems import check_names, choose, problems_of
from es_lightning.evaluation.samples import Samples, drawn_samples, log_ratios_of, sequences
from es_lightning.records import Prompt
from es_lightning.reports import plots
from es_lightning.reports.divergence_picture import draw_divergence
from es_lightning.system.text import metric_name
from es_lightning.task import Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

Direction = Literal["base_tuned", "tuned_base"]
TABLE = "kl_drift.json"
SUFFIXES = ("", "_se", "_completion", "_completion_se")


class KLDrift(Periodic, Monitor):
    """Measures KL(base||tuned) and KL(tuned||base) per task, in nats, with the engine's weights.

    - ``kl_base_tuned/<task>``: the base model samples completions once, and every centre scores them
      (2605.30148). This shows what the base model would say and the tuned one no longer would.
    - ``kl_tuned_base/<task>``: the centre samples new completions at each measurement, and the base model
      scores them (2604.01499). This shows what the tuned model says and the base model would not.
    - ``kl_tuned_base_k3/<task>``: the never-negative estimator on the same samples (2509.24372).

    The two directions answer different questions and cannot be compared. These numbers are nats per token;
    ``_completion`` has nats per completion, and ``_se`` is a standard error over prompts. With ``positions``,
    ``kl_base_tuned_full/<task>`` and ``kl_tuned_base_full/<task>`` compare whole vocabularies: the exact
    divergence of the two next-token distributions, averaged over positions of the same completions.

    ``tables/kl_drift.json`` has all of them by generation.

    Completions are sampled at temperature 1 from the full distribution. Only the mean over samples of p
    itself is a divergence of p, and another temperature is another distribution. The value at generation 0,
    for the unchanged centre, is the noise floor: 0 if the engine reproduces its numbers bit by bit.

    Args:
        tasks: tasks whose prompts are completed, by the names that they get in metrics; None takes the run's
            task. Problems come from val, or else from test or train. Problems with choices are left out,
            since nothing is generated for them.
        prompts: number of problems of each task.
        max_tokens: most new tokens of a completion.
        every: generations from one measurement to the next.
        seed: seed of the choice of problems, and of the sampler.
        directions: ``base_tuned``, ``tuned_base``, or both.
        positions: tokens of each task's completions, drawn at random, at which the whole vocabularies are
            compared, with an engine that tells them; 0 compares none. Each takes 4 bytes per token of the
            vocabulary in memory.

    Raises:
        UsageError: a value is outside its range.
    """

    picture = "kl_drift.png"

    def __init__(
        self,
        tasks: dict[str, Task] | None = None,
        prompts: int = 50,
        max_tokens: int = 256,
        every: int = 25,
        seed: int = 0,
        directions: Sequence[Direction] = ("base_tuned", "tuned_base"),
        positions: int = 0,
    ) -> None:
        super().__init__(every)
        if prompts < 1 or max_tokens < 1:
            raise UsageError(
                f"KLDrift.prompts is {prompts} and max_tokens {max_tokens}: give at least 1 of each."
            )
        if not directions or not set(directions) <= set(get_args(Direction)):
            raise UsageError(
                f"KLDrift.directions is {list(directions)}: give base_tuned, tuned_base or both."
            )
        if positions < 0:
            raise UsageError(f"KLDrift.positions is {positions}: give 0 (none) or more.")
        check_names("KLDrift", tasks or {}, SUFFIXES)
        self.tasks, self.size, self.max_tokens, self.positions = tasks, prompts, max_tokens, positions
        self.seed, self.directions = seed, tuple(dict.fromkeys(directions))
        self.samples: dict[str, Samples] = {}
        """Per task the base model's completions, with its log-probabilities of their tokens."""
        self.asked: dict[str, str] = {}
        """Per task what the completions depend on: a digest of the prompts, and the number of tokens."""
        self._prompts: dict[str, list[Prompt]] = {}
        self._whole: dict[str, list[Tensor]] = {}  # the base model's distributions on its own completions

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Reserve room for the prompts in the engine.

        Raises:
            UsageError: a task has no problems that are answered by generating text, or the engine does not
                tell the distributions that are asked for.
        """
        if stage != "fit":
            return
        module = tuning(pl_module)
        if self.positions and not module.rollouts.engine.gives_distributions:
            raise UsageError(
                f"KLDrift.positions is {self.positions}, and {type(module.rollouts.engine).__name__} does "
                "not tell the log-probabilities of the whole vocabulary: set positions to 0, or model.engine "
                "to HFEngine."
            )
        own = module.data.task
        for name, task in (self.tasks or {metric_name(own.name): own}).items():
            _, problems = problems_of(task, ["val", "test", "train"])
            problems = [prompt for prompt in problems if not prompt.choices]
            if not problems:
                raise UsageError(
                    f"KLDrift finds no problem of task {name} that is answered in words: under tasks, list "
                    "tasks that generate text, for example with mode: generate."
                )
            # One more token: vLLM has to generate one when it is asked for log-probabilities.
            self._prompts[name] = module.reserve(choose(problems, self.size, self.seed), self.max_tokens + 1)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure the base model, or make the measurement that an interruption has cut off.

        Raises:
            UsageError: a resumed run has other prompts than before.
        """
        asked = {
            name: f"{digest(prompts)}, {self.max_tokens} tokens" for name, prompts in self._prompts.items()
        }
        if any(self.asked.get(name, now) != now for name, now in asked.items()):
            raise UsageError(
                "KLDrift has other prompts than before the run was stopped: give the tasks, prompts, "
                "max_tokens and seed that it began with."
            )
        self.asked |= asked
        super().on_train_start(trainer, pl_module)

    def acted(self, trainer: pl.Trainer) -> bool:
        """Whether there is a row for this number of updates already."""
        return self.has_row(trainer.global_step)

    def act(self, trainer: pl.Trainer, module: Tuning) -> None:
        """Measure the centre."""
        self.keep(trainer, self._divergences(module))
        if trainer.is_global_zero:
            write_table(trainer, TABLE, {"rows": self.rows})

    def _divergences(self, module: Tuning) -> dict[str, float]:
        """Compute the divergences of centre and base model, by the names they are logged under."""
        metrics: dict[str, float] = {}
        if "base_tuned" in self.directions:
            self._ask_base(module)
        module.rollouts.hold_centre(module.centre)
        if "base_tuned" in self.directions:
            for name in self._prompts:
                metrics |= self._compared(module, "kl_base_tuned", name, self.samples[name], self._whole)
        if "tuned_base" in self.directions:
            # Sample for all tasks first, so that the base model is loaded once and not per task.
            own = {name: self._sample(module, name) for name in self._prompts}
            whole = self._distributions(module, own)
            module.rollouts.hold_base(module.base_model, module.centre)
            for name, samples in own.items():
                metrics |= self._compared(module, "kl_tuned_base", name, samples, whole)
        return metrics

    def _ask_base(self, module: Tuning) -> None:
        """Let the base model complete the prompts, once; a resumed run asks for its distributions again."""
        missing = [name for name in self._prompts if name not in self.samples]
        if missing or (self.positions and not self._whole):
            module.rollouts.hold_base(module.base_model, module.centre)
            self.samples |= {name: self._sample(module, name) for name in missing}
            self._whole = self._distributions(module, self.samples)

    def _compared(
        self, module: Tuning, group: str, name: str, samples: Samples, whole: dict[str, list[Tensor]]
    ) -> dict[str, float]:
        """Compare the model that sampled with the one that the engine holds, by the names of the metrics."""
        ratios = log_ratios_of(module.evaluator, samples)
        metrics = divergence.named(f"{group}/{name}", ratios)
        if group == "kl_tuned_base":
            metrics |= divergence.named(f"{group}_k3/{name}", divergence.k3(ratios))
        if whole:
            asked = self._places(samples)
            terms = module.evaluator.divergences(whole[name], sequences(samples), asked)
            metrics |= divergence.told(f"{group}_full/{name}", divergence.token_weighted(terms))
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """The rows so far, and the base model's completions."""
        return {**super().state_dict(), "samples": self.samples, "asked": self.asked}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        super().load_state_dict(state_dict)
        self.samples = {
            name: [dict(one) for one in samples] for name, samples in state_dict["samples"].items()
        }
        self.asked = dict(state_dict["asked"])

    def _sample(self, module: Tuning, name: str) -> Samples:
        """Sample completions from the engine's weights, with log-probabilities under the same weights."""
        return drawn_samples(module.evaluator, self._prompts[name], self.max_tokens, self.seed)

    def _distributions(self, module: Tuning, drawn: dict[str, Samples]) -> dict[str, list[Tensor]]:
        """Compute the engine's distributions at the places of each task; empty if none are asked for."""
        if not self.positions:
            return {}
        return {
            name: module.evaluator.distributions(sequences(samples), self._places(samples))
            for name, samples in drawn.items()
        }

    def _places(self, samples: Samples) -> list[list[int]]:
        """Draw tokens of the completions; per sample their positions in its sequence, in order."""
        ends = list(accumulate(len(one["token_ids"]) - one["given"] for one in samples))
        chosen = random.Random(self.seed).sample(range(ends[-1]), min(self.positions, ends[-1]))
        places: list[list[int]] = [[] for _ in samples]
        for place in sorted(chosen):
            row = bisect_right(ends, place)
            places[row].append(len(samples[row]["token_ids"]) - (ends[row] - place))
        return places

    def figure(self, trainer: pl.Trainer) -> Figure:
        """Draw a curve per task, with one standard error around it, and a panel per direction."""
        columns = len(self.directions)
        figure, row = plots.sheet(self.title(trainer), columns, width=3.0 + 3.6 * columns, height=4.0)
        for axes, direction in zip(row, self.directions, strict=True):
            draw_divergence(axes, self.rows, direction, list(self._prompts))
        return figure
