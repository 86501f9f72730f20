"""How far the tuned model's distributions have moved from the base model's, in both directions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import lightning.pytorch as pl
import torch

from es_lightning.analysis import divergence
from es_lightning.analysis.divergence import Estimate
from es_lightning.callbacks.monitor import Monitor, Tuning, tuning
from es_lightning.callbacks.periodic import Periodic, check_names, choose, problems_of
from es_lightning.errors import UsageError
from es_lightning.evaluation.gather import digest
from es_lightning.records import Prompt
from es_lightning.reports import plots
from es_lightning.task import Task

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

Direction = Literal["base_tuned", "tuned_base"]
TITLES = {
    "base_tuned": "KL(base || tuned)\non completions of the base model",
    "tuned_base": "KL(tuned || base)\non the tuned model's own completions",
}
SUFFIXES = ("", "_se", "_prompts")
LOG_FROM = 30.0  # ratio of the curves' last values above which a linear axis would flatten the lowest curve


class KLDrift(Periodic, Monitor):
    """Measures KL(base||tuned) and KL(tuned||base) per task, in nats per token, with the engine's weights.

    - ``kl_base_tuned/<task>``: the base model samples completions once, and every centre scores them
      (2605.30148). This shows what the base model would say and the tuned one no longer would.
    - ``kl_tuned_base/<task>``: the centre samples new completions at each measurement, and the base model
      scores them (2604.01499). This shows what the tuned model says and the base model would not.
    - ``kl_tuned_base_k3/<task>``: the never-negative estimator on the same samples (2509.24372).

    The two directions answer different questions and cannot be compared. Each metric has two companions:
    ``_se`` is its standard error over prompts, and in ``_prompts`` all prompts count alike instead of all
    tokens.

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
        check_names("KLDrift", tasks or {}, SUFFIXES)
        self.tasks, self.size, self.max_tokens = tasks, prompts, max_tokens
        self.seed, self.directions = seed, tuple(dict.fromkeys(directions))
        self.samples: dict[str, list[dict[str, Any]]] = {}
        """Per task the base model's completions, with its log-probabilities of their tokens."""
        self.asked: dict[str, str] = {}
        """Per task what the completions depend on: a digest of the prompts, and the number of tokens."""
        self._prompts: dict[str, list[Prompt]] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Reserve room for the prompts in the engine.

        Raises:
            UsageError: a task has no problems that are answered by generating text.
        """
        if stage != "fit":
            return
        module = tuning(pl_module)
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

    def _divergences(self, module: Tuning) -> dict[str, float]:
        """Compute the divergences of centre and base model, by the names they are logged under."""
        metrics: dict[str, float] = {}
        missing = [name for name in self._prompts if name not in self.samples]
        if "base_tuned" in self.directions and missing:
            module.rollouts.hold_base(module.base_model, module.centre)
            self.samples |= {name: self._sample(module, name) for name in missing}
        module.rollouts.hold_centre(module.centre)
        if "base_tuned" in self.directions:
            for name in self._prompts:
                metrics |= _both(f"kl_base_tuned/{name}", self._ratios(module, self.samples[name]))
        if "tuned_base" in self.directions:
            # Sample for all tasks first, so that the base model is loaded once and not per task.
            own = {name: self._sample(module, name) for name in self._prompts}
            module.rollouts.hold_base(module.base_model, module.centre)
            for name, samples in own.items():
                ratios = self._ratios(module, samples)
                metrics |= _both(f"kl_tuned_base/{name}", ratios)
                metrics |= _both(f"kl_tuned_base_k3/{name}", divergence.k3(ratios))
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

    def _sample(self, module: Tuning, name: str) -> list[dict[str, Any]]:
        """Sample completions from the engine's weights, with log-probabilities under the same weights."""
        evaluation = module.evaluator.sample(self._prompts[name], self.max_tokens, 1.0, self.seed)
        pairs = zip(evaluation.prompts, evaluation.completions, strict=True)
        samples = [
            {"given": len(prompt.token_ids), "token_ids": [*prompt.token_ids, *completion.token_ids]}
            for prompt, completion in pairs
            if completion.token_ids
        ]
        rows = self._logprobs(module, samples)
        return [{**one, "logprobs": row.tolist()} for one, row in zip(samples, rows, strict=True)]

    def _ratios(self, module: Tuning, samples: list[dict[str, Any]]) -> list[Tensor]:
        """Compute log p - log q per token: p is the model that sampled, q the one that the engine holds."""
        sampled = [torch.tensor(one["logprobs"]) for one in samples]
        return divergence.log_ratios(sampled, self._logprobs(module, samples))

    def _logprobs(self, module: Tuning, samples: list[dict[str, Any]]) -> list[Tensor]:
        """Compute the log-probabilities of the completions' tokens, without those of the prompts."""
        rows = module.evaluator.logprobs([one["token_ids"] for one in samples]) if samples else []
        # Entry i of a row is that of token i + 1, since the first token has none.
        return [row[one["given"] - 1 :] for row, one in zip(rows, samples, strict=True)]

    def figure(self, trainer: pl.Trainer) -> Figure:
        """Draw a curve per task, with one standard error around it, and a panel per direction."""
        columns = len(self.directions)
        figure, row = plots.sheet(self.title(trainer), columns, width=3.0 + 3.6 * columns, height=4.0)
        for axes, direction in zip(row, self.directions, strict=True):
            axes.set_title(TITLES[direction])
            for name in self._prompts:
                self._curve(axes, f"kl_{direction}/{name}", name)
            self._scale(axes, f"kl_{direction}/")
            axes.set_xlabel("generations done")
            axes.set_ylabel("nats per token (band: one standard error)")
            axes.legend()
        return figure

    def _curve(self, axes: Axes, metric: str, label: str) -> None:
        steps, values = self.column(metric)
        errors = [row.get(f"{metric}_se", 0.0) for row in self.rows if metric in row]
        [line] = axes.plot(steps, values, lw=1.6, marker="o", ms=3.5, label=label)
        low = [value - error for value, error in zip(values, errors, strict=True)]
        high = [value + error for value, error in zip(values, errors, strict=True)]
        axes.fill_between(steps, low, high, color=line.get_color(), alpha=0.13, lw=0)

    def _scale(self, axes: Axes, group: str) -> None:
        """Make the axis logarithmic if the curves end far apart; that leaves out the zero at the start."""
        last = [self.column(f"{group}{name}")[1][-1:] for name in self._prompts]
        ends = [value for values in last for value in values]
        if len(ends) > 1 and min(ends) > 0 and max(ends) > LOG_FROM * min(ends):
            axes.set_yscale("log", nonpositive="mask")
        else:
            axes.axhline(0.0, color=plots.INK, lw=0.8)


def metric_name(name: str) -> str:
    """Make a task's name fit into a metric's: characters that loggers do not accept become underscores."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)


def _both(metric: str, terms: Sequence[Tensor]) -> dict[str, float]:
    """Estimate a divergence twice: per token with its standard error, and with all prompts counting alike."""
    if not terms:  # every completion is empty
        return {}
    weighted: Estimate = divergence.token_weighted(terms)
    error = {} if weighted.error is None else {f"{metric}_se": weighted.error}
    return {metric: weighted.value, **error, f"{metric}_prompts": divergence.prompt_averaged(terms).value}
