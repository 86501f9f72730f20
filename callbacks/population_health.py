"""Whether a population can tell better directions from worse ones, and in plain words why it cannot."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any
from zlib import crc32

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_only

from es_lightning.algorithm.shaping import comparable
from es_lightning.algorithm.signal import signal
from es_lightning.analysis.diagnosis import against, agreement_bound, sentence, symptoms
from es_lightning.analysis.health import agreement_by_chance, informative, linear_share, variance_shares
from es_lightning.callbacks.monitor import Evolving, Monitor, evolving
from es_lightning.errors import UsageError
from es_lightning.evaluation.metrics import evaluation_means
from es_lightning.records import Evaluation, Generation
from es_lightning.reports import plots
from es_lightning.reports.plots import PALETTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)
UNLOGGED = {"skipped", "ruined", "truncated", "centre_truncated"}  # used only for warnings


class PopulationHealth(Monitor):
    """Measures each generation by its rewards, and warns of what has been wrong for a while.

    Args:
        centre_every: generations from one evaluation of the centre on the batch to the next, before the
            update. Each takes as long as one member. 0 turns this off, and then too large a sigma goes
            unnoticed.
        patience: generations for which something has to be wrong before a warning, and between two warnings
            of the same kind.

    Raises:
        UsageError: a number is too low.
    """

    picture = "population_health.png"

    def __init__(self, centre_every: int = 5, patience: int = 10) -> None:
        super().__init__()
        if centre_every < 0:
            raise UsageError(f"PopulationHealth.centre_every is {centre_every}: give 0 (never) or more.")
        if patience < 1:
            raise UsageError(f"PopulationHealth.patience is {patience}: give at least 1 generation.")
        self.centre_every, self.patience = centre_every, patience
        self.recent: list[dict[str, float]] = []
        self.warned: dict[str, int] = {}
        self._centre: Evaluation | None = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Evaluate the centre on the batch if it is time to, unless the generation is in the journal."""
        module = evolving(pl_module)
        self._centre = None
        if (
            self.centre_every
            and module.generation % self.centre_every == 0
            and not module.history.knows(module.generation)
        ):
            module.rollouts.hold_centre(module.centre)
            self._centre = module.evaluator.evaluate(batch, penalise=module.centre)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure the generation, log it, and warn."""
        record, module = outputs["generation"], evolving(pl_module)
        numbers = {**of_rewards(record, module.data.task.group_weights()), **_of_work(record, module)}
        before = self.recent[-1]["dead_run"] if self.recent else 0.0
        numbers["dead_run"] = before + 1 if record.skipped else 0.0
        if self._centre is not None:
            shapes = evaluation_means(self._centre, "centre")
            cut, characters = shapes["centre/completion_truncated"], shapes["centre/completion_chars"]
            numbers |= against(record, self._centre, cut, characters)
        reading = {**numbers, "truncated": record.scores.get("completion_truncated", 0.0)}
        self.recent = [*self.recent, reading][-self.patience :]
        logged = {f"health/{name}": float(value) for name, value in numbers.items() if name not in UNLOGGED}
        self.keep(trainer, logged, step=record.index)
        self._warn(record, module)

    def _warn(self, record: Generation, module: Evolving) -> None:
        kinds = symptoms(self.recent) if len(self.recent) == self.patience else []
        for kind in kinds:
            if record.index - self.warned.get(kind, -self.patience) >= self.patience:
                self.warned[kind] = record.index
                since = record.index - self.patience + 1
                sampling = module.rollouts.sampling
                how = sampling.temperature, sampling.max_tokens
                _say(f"Since generation {since}, {sentence(kind, self.recent, record, *how)}")

    def figure(self, trainer: pl.Trainer) -> Figure:
        """Draw agreement and SNR, how well members can be told apart, and the shares of reward variance."""
        figure, [left, middle, right] = plots.sheet(self.title(trainer), columns=3, width=9.0, height=3.6)
        self._draw_agreement(left)
        named = {"informative_prompts": "prompts that tell apart", "distinct": "unusual completions"}
        named["above_centre"] = "members above centre"
        for (name, label), color in zip(named.items(), PALETTE[2:], strict=False):
            marker = "o" if name == "above_centre" else ""
            middle.plot(
                *self.column(f"health/{name}"), color=color, lw=1.2, marker=marker, ms=2.5, label=label
            )
        middle.set_ylabel("share")
        shares = [self.column(f"health/{name}_variance") for name in ("member", "residual", "prompt")]
        right.stackplot(
            shares[0][0],
            *(values for _, values in shares),
            labels=("member", "residual", "prompt"),
            colors=(PALETTE[0], PALETTE[3], plots.QUIET),
            alpha=0.75,
        )
        right.set_ylabel("share of reward variance")
        for axes in (middle, right):
            axes.set_ylim(0, 1)
            axes.legend(fontsize=7, loc="lower left", bbox_to_anchor=(-0.02, 1.0))
        for axes in (left, middle, right):
            axes.set_xlabel("generation")
        return figure

    def numbers(self) -> dict[str, Sequence[Mapping[str, Any]]]:
        """Return the rows, with the mean agreement up to each, and what it exceeds if it is not chance."""
        added = {"mean": self._smoothed(), "bound": self._chance()}
        known = {f"agreement_{name}": dict(zip(*curve, strict=True)) for name, curve in added.items()}
        rows = [
            {**row, **{f"health/{name}": curve.get(row["generation"]) for name, curve in known.items()}}
            for row in self.rows
        ]
        return {"": rows}

    def _smoothed(self) -> tuple[list[float], list[float]]:
        """Return generations, and the mean agreement of the latest ``patience`` ones up to each."""
        steps, values = self.column("health/agreement")
        return steps, [fmean(values[max(0, i - self.patience + 1) : i + 1]) for i in range(len(values))]

    def _draw_agreement(self, axes: Axes) -> None:
        steps, values = self.column("health/agreement")
        axes.axhline(0, color=plots.QUIET, lw=0.8)
        axes.plot(steps, values, color=plots.ACCENT, lw=0, marker="o", ms=2, alpha=0.5, label="a generation")
        label = f"mean of {self.patience}"
        axes.plot(*self._smoothed(), color=plots.ACCENT, lw=1.6, label=label)
        axes.plot(*self._chance(), color=plots.INK, lw=1.0, ls=":", label="chance: 95 % of means are below")
        axes.set_ylim(max(-0.5, min([-0.1, *values]) - 0.03), min(0.95, max([0.55, *values]) + 0.05))
        axes.set_ylabel("agreement of prompt halves")
        scale = axes.secondary_yaxis("right", functions=(_snr, _agreement))
        ticks = (0, 0.5, 1, 2, 4, 8, 16)
        scale.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        scale.tick_params(labelsize=8)
        scale.set_ylabel("signal-to-noise ratio")
        axes.legend(fontsize=7, loc="lower left", bbox_to_anchor=(-0.02, 1.0))

    def _chance(self) -> tuple[list[float], list[float]]:
        """Return generations, and what the mean agreement up to each has to exceed to be more than chance."""
        names = ("agreement_null", "agreement_null_sd")
        rows = [row for row in self.rows if f"health/{names[0]}" in row]
        nulls = [{name: row[f"health/{name}"] for name in names} for row in rows]
        bounds = [agreement_bound(nulls[max(0, i - self.patience + 1) : i + 1]) for i in range(len(nulls))]
        return [row["generation"] for row in rows], bounds

    def state_dict(self) -> dict[str, Any]:
        """The rows so far, and what the warnings depend on."""
        return {**super().state_dict(), "recent": self.recent, "warned": self.warned}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        super().load_state_dict(state_dict)
        self.recent = [dict(reading) for reading in state_dict["recent"]]
        self.warned = dict(state_dict["warned"])


def of_rewards(record: Generation, weights: Mapping[str, float]) -> dict[str, float]:
    """Compute the numbers that follow from the rewards alone, without those that cannot be determined.

    Args:
        record: a generation's record.
        weights: weights of the tasks of a mixture; empty if there is only one task.
    """
    groups = [prompt.group for prompt in record.prompts]
    rewards = comparable(record.rewards, groups, weights) if weights else record.rewards
    pairs = any(member.sign < 0 for member in record.members)
    numbers = {f"{name}_variance": share for name, share in variance_shares(rewards).items()}
    numbers |= {"informative_prompts": informative(record.rewards), "skipped": float(record.skipped)}
    measure, share = signal(rewards, groups, pairs), linear_share(rewards) if pairs else None
    if measure is not None:
        null, deviation = agreement_by_chance(*rewards.shape, pairs)
        numbers |= {
            "agreement": measure.agreement,
            "agreement_null": null,
            "agreement_null_sd": deviation,
        }
        numbers |= {"snr": measure.snr} if math.isfinite(measure.snr) else {}
    return numbers if share is None else {**numbers, "linear_share": share}


def _of_work(record: Generation, module: Evolving) -> dict[str, float]:
    """Compute the numbers that need completions or times, which a generation from the journal lacks."""
    if not record.lane_seconds:
        return {}
    own = {index: [_tail(each), _digests(each)] for index, each in record.evaluations.items()}
    told = module.ranks.from_lanes(json.dumps(own).encode())
    known = [value for part in told for value in json.loads(part).values()]
    columns = list(zip(*(digests for _, digests in known), strict=True))
    # Share of the members that gave a prompt's most common completion, averaged over the prompts.
    usual = fmean(Counter(column).most_common(1)[0][1] / len(column) for column in columns)
    tails = [tail for tail, _ in known if tail > 0]
    numbers = {"distinct": 1 - usual} | ({"long_tail": fmean(tails)} if tails else {})
    if len(record.lane_seconds) > 1:
        mean = fmean(record.lane_seconds)
        numbers["lane_imbalance"] = max(record.lane_seconds) / mean - 1 if mean > 0 else 0.0
    return numbers


def _tail(evaluation: Evaluation) -> float:
    """Divide the longest completion by the mean one, in tokens; 0 if nothing was generated."""
    lengths = [len(each.token_ids) for each in evaluation.completions if each.finish_reason != "choice"]
    return max(lengths) / fmean(lengths) if sum(lengths) else 0.0


def _digests(evaluation: Evaluation) -> list[int]:
    """Hash each prompt's completions into one number, to compare them across members and ranks."""
    samples = len(evaluation.completions) // len(evaluation.prompts)
    texts = [completion.text for completion in evaluation.completions]
    return [crc32("\0".join(texts[i : i + samples]).encode()) for i in range(0, len(texts), samples)]


def _snr(agreement: Any) -> Any:
    return 2 * agreement / (1 - agreement)


def _agreement(snr: Any) -> Any:
    return snr / (snr + 2)


@rank_zero_only
def _say(text: str) -> None:
    log.warning(text)
