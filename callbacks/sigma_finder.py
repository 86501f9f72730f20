"""Find the sigma that makes a step gain most, before the first generation, as LearningRateFinder does lr."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from es_lightning.algorithm.noise import member_seed
from es_lightning.algorithm.shaping import comparable, reward_statistics
from es_lightning.analysis.sigma_sweep import SweepVerdict, judge
from es_lightning.callbacks.monitor import Evolving, Monitor, evolving, write_table
from es_lightning.errors import UsageError
from es_lightning.evaluation.metrics import evaluation_means
from es_lightning.records import Member
from es_lightning.reports import plots
from es_lightning.reports.plots import ACCENT, INK, QUIET
from es_lightning.reports.step_picture import draw_scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)
TABLE = Path("tables") / "sigma_finder.json"
TOLD = ("sigma", "score", "score_low", "score_high", "reward", "max", "completion_truncated")
RED, GREEN = plots.PALETTE[1:3]


class SigmaFinder(Monitor):
    """Evaluates the same few pairs at several sigmas on the base model, and suggests one of these sigmas.

    The score of a sigma is -Cov(R+, R-) / Var(R), with the covariance of the two members of a pair and the
    variance over all members, and without what holds for single prompts only. It is a cautious estimate of
    ||E[Z eps]||^2, the share of the rewards' variance that is linear in the noise. This share decides what a
    step of given length gains (see ``es_lightning.analysis.sigma_sweep.score``). The score itself is no
    share: it is minus the correlation of the two rewards of a pair, below 0 where curvature decides. The
    highest score is suggested: of 5 sigmas or more after each was averaged with its neighbours, 1 : 2 : 1.

    The sweep takes as long as ``num * 2 * pairs + 1`` members. A resumed run does not repeat it.

    Args:
        sigmas: noise scales to try, at least 3; None takes ``num`` of them around the run's sigma.
        factor: the lowest sigma is the run's divided by this, the highest the run's times this.
        num: how many sigmas, with a constant ratio from one to the next.
        pairs: antithetic pairs, the same at every sigma, at least 4.
        prompts: how many of the first generation's prompts to use; None takes all. The score is always that
            for the run's own number of prompts.
        apply: whether the run uses the suggestion.
        keep_ratio: whether lr then changes with sigma, so that lr / sigma stays what it was.
        stop: whether to end after the sweep, before the first generation.
        seed: seed of the pairs' noise, together with the run's seed.

    Raises:
        UsageError: a value is outside its range.
    """

    picture = "sigma_finder.png"

    def __init__(
        self,
        sigmas: list[float] | None = None,
        factor: float = 8.0,
        num: int = 7,
        pairs: int = 8,
        prompts: int | None = None,
        apply: bool = False,
        keep_ratio: bool = True,
        stop: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        least = {"num": (num, 3), "pairs": (pairs, 4), "prompts": (prompts, 2), "seed": (seed, 0)}
        _check_settings(sigmas, factor, least)
        self.sigmas, self.factor, self.num, self.pairs = sigmas, factor, num, pairs
        self.prompts, self.seed = prompts, seed
        self.apply, self.keep_ratio, self.stop = apply, keep_ratio, stop
        self.suggestion: float | None = None
        self.found: dict[str, Any] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a batch that is too small, before anything is loaded.

        Raises:
            UsageError: there are fewer prompts than asked for, or than two.
        """
        size = evolving(pl_module).data.batch_size if stage == "fit" else None
        if size is not None and size < (self.prompts or 2):
            raise UsageError(
                f"SigmaFinder needs {self.prompts or 2} prompts, and a generation has {size}: raise "
                "data.prompts_per_generation" + (" or lower its prompts." if self.prompts else ".")
            )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Sweep, unless this run did so before it was interrupted."""
        module = evolving(pl_module)
        if self.found or trainer.global_step > 0:
            return
        if not self._known(trainer, module):
            self._sweep(module)
            self._report(trainer)
        if self.apply and self.suggestion is not None:
            factor = self.suggestion / module.sigma if self.keep_ratio else None
            module.adjust(sigma=self.suggestion, lr_factor=factor)
            log.info("SigmaFinder: sigma is now %g and lr %g.", module.sigma, module.lr)
        if self.stop:
            trainer.should_stop = True

    def _known(self, trainer: pl.Trainer, module: Evolving) -> bool:
        """Read the sweep from its table, in a run that is resumed from its journal without a checkpoint."""
        path = Path(trainer.default_root_dir) / TABLE
        if module.history.saved is None:
            return False
        there = trainer.is_global_zero and path.exists()
        told = module.ranks.exchange(path.read_bytes() if there else b"")[0]
        if told:
            self.load_state_dict(json.loads(told))
        return bool(told)

    # The sweep ------------------------------------------------------------------------------------

    def _sweep(self, module: Evolving) -> None:
        batch = module.data.batch(module.generation)
        count = self.prompts or len(batch)
        # Evenly spaced over the batch, so that all tasks of a mixture are among them.
        prompts = [batch[i * len(batch) // count] for i in range(count)]
        module.rollouts.hold_centre(module.centre)
        evaluation = module.evaluator.evaluate(prompts, penalise=module.centre)
        centre = evaluation_means(evaluation, "centre")
        members, tables = self._members(module), []
        for sigma in self._sigmas(module.sigma):
            outcome = module.evaluator.members(
                module.centre, members, module.noise, sigma, prompts, module.centre_checksum
            )
            tables.append(outcome.rewards)
            self.rows.append({"sigma": sigma, **outcome.scores, **_described(outcome.rewards)})
        groups, weights = [prompt.group for prompt in prompts], module.data.task.group_weights()
        if weights:
            tables = [comparable(table, groups, weights) for table in tables]
        self._conclude(judge(tables, len(batch), groups, self.seed))
        self.found |= {"configured": module.sigma, "pairs": self.pairs, "prompts": count, "centre": centre}

    def _conclude(self, verdict: SweepVerdict) -> None:
        for row, score, low, high in zip(self.rows, verdict.scores, verdict.low, verdict.high, strict=True):
            row.update(score=score, score_low=low, score_high=high)
        for row, smooth in zip(self.rows, verdict.smooth, strict=bool(verdict.smooth)):
            row["smoothed"] = smooth
        sigmas = self._values("sigma")
        self.suggestion = sigmas[verdict.best] if verdict.is_significant else None
        self.found = {"p_value": verdict.p_value, "between": [sigmas[i] for i in verdict.between]}

    def _members(self, module: Evolving) -> list[Member]:
        """Make pairs that no generation has: their seeds are those of generation -1 - seed."""
        seeds = [member_seed(module.population.run_seed, -1 - self.seed, pair) for pair in range(self.pairs)]
        return [Member(2 * k + side, seed, 1 - 2 * side) for k, seed in enumerate(seeds) for side in (0, 1)]

    def _sigmas(self, configured: float) -> list[float]:
        if self.sigmas is not None:
            return sorted(set(self.sigmas))
        powers = torch.linspace(-1, 1, self.num, dtype=torch.float64).tolist()
        return [float(f"{configured * self.factor**power:.6g}") for power in powers]

    # What it leaves -------------------------------------------------------------------------------

    @rank_zero_only
    def _report(self, trainer: pl.Trainer) -> None:
        write_table(trainer, TABLE.name, self.state_dict())
        if self.suggestion is not None:
            for logger in trainer.loggers:
                logger.log_metrics({"health/suggested_sigma": self.suggestion}, step=trainer.global_step)
        self.draw(trainer, now=True)
        for row in self.rows:
            log.info("SigmaFinder: %s.", ", ".join(f"{key} {row[key]:.4g}" for key in TOLD))
        log.info(self._sentence())

    def _sentence(self) -> str:
        if self.suggestion is None:
            return (
                "SigmaFinder suggests no sigma: no direction is better than its opposite beyond chance "
                f"(p = {self.found['p_value']:.2f}). Give it more pairs, more prompts or other sigmas."
            )
        first, last = self.found["between"]
        edges = (self.rows[0]["sigma"], self.rows[-1]["sigma"])
        wider = " It is the last one tried: try more on that side." if self.suggestion in edges else ""
        return (
            f"SigmaFinder suggests sigma {self.suggestion:.4g} (90 % interval {first:.4g} to {last:.4g}); "
            f"the run's is {self.found['configured']:.4g}.{wider}"
        )

    def figure(self, trainer: pl.Trainer) -> Figure:
        """Draw the score per sigma with its interval, and the members' rewards against the centre's."""
        module = evolving(trainer.lightning_module)
        verdict = "no sigma suggested" if self.suggestion is None else f"suggested {self.suggestion:.4g}"
        title = f"{module.data.task.name} on {module.base_model.name}: {self.found['pairs']} pairs, "
        title += f"{self.found['prompts']} prompts; {verdict}, configured {self.found['configured']:.4g}"
        figure, [left, right] = plots.sheet(title, columns=2)
        sigmas, high = self._values("sigma"), self._values("score_high")
        draw_scores(left, self.rows, ACCENT)
        left.axhline(0, color=QUIET, lw=0.8)
        left.set_ylim(min(-0.05, *self._values("score_low")) - 0.03, max(0.1, *high) + 0.03)
        left.set_ylabel("score: minus the correlation of R+ and R-")
        low, high = self._values("min"), self._values("max")
        right.fill_between(sigmas, low, high, color=GREEN, alpha=0.15, lw=0, label="worst to best")
        right.plot(sigmas, self._values("reward"), color=GREEN, lw=1.6, marker="o", ms=3.5, label="mean")
        right.axhline(self.found["centre"]["centre/reward"], color=INK, lw=1.2, label="centre")
        right.set_ylabel("reward of the members (higher is better)")
        for axes in (left, right):
            axes.set_xscale("log")
            axes.set_xlabel("sigma (units of the weights)")
            shown = sigmas[:: 1 + len(sigmas) // 6]
            axes.set_xticks(shown, [f"{sigma:.2g}" for sigma in shown])
            axes.minorticks_off()
            axes.axvline(self.found["configured"], color=QUIET, lw=1.2, ls=":", label="configured")
            if self.suggestion is not None:
                axes.axvline(self.suggestion, color=RED, lw=1.2, ls="--", label="suggested")
            axes.legend(fontsize=7)
        return figure

    def _values(self, key: str) -> list[float]:
        return [row[key] for row in self.rows]

    def state_dict(self) -> dict[str, Any]:
        """The sweep's result, which is also the content of its table."""
        return {"suggestion": self.suggestion, **self.found, **super().state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the sweep that the run has made."""
        super().load_state_dict(state_dict)
        self.suggestion = state_dict["suggestion"]
        self.found = {key: value for key, value in state_dict.items() if key not in ("suggestion", "rows")}


def _check_settings(
    sigmas: list[float] | None, factor: float, least: dict[str, tuple[int | None, int]]
) -> None:
    if sigmas is not None and (len(set(sigmas)) < 3 or not all(0 < sigma < math.inf for sigma in sigmas)):
        raise UsageError(f"SigmaFinder.sigmas is {sigmas}: give at least 3 different numbers above 0.")
    if not 1 < factor < math.inf:
        raise UsageError(f"SigmaFinder.factor is {factor}: give a number above 1, for example 8.")
    for name, (value, lowest) in least.items():
        if value is not None and value < lowest:
            raise UsageError(f"SigmaFinder.{name} is {value}: give at least {lowest}.")


def _described(rewards: Tensor) -> dict[str, float]:
    """Compute the statistics of the members' rewards; their mean is called reward."""
    statistics = reward_statistics(rewards)
    return {"reward": statistics.pop("mean"), **statistics}
