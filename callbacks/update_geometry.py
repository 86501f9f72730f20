"""How a run has changed the weights: norms, sparsity, largest changes, and a random walk to compare with."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor

from es_lightning.algorithm.noise import Noise
from es_lightning.analysis.geometry import (
    GROUPS,
    brief,
    changes,
    check_geometry,
    labels,
    metrics,
    table,
    total,
)
from es_lightning.analysis.random_walk import compared, independent, random_walk
from es_lightning.callbacks.monitor import Monitor, Tuning, exhaust, history_of, put_back, tuning, write_table
from es_lightning.callbacks.periodic import Periodic
from es_lightning.errors import UsageError
from es_lightning.models import BaseModel
from es_lightning.models.snapshot import Snapshot
from es_lightning.models.weights import BaseWeights
from es_lightning.reports import plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)
TABLE, SNAPSHOT = "update_geometry.json", "update_geometry.scratch"


class UpdateGeometry(Periodic, Monitor):
    """Measures theta - theta_0 every few generations and at the end of a run, in one pass over the weights.

    Rank 0 measures, and sends the numbers to the other ranks. ``tables/update_geometry.json`` has all of
    them, by layer and module group too. ``plots/update_geometry.png`` compares the norm with that of a random
    walk: what the journal's own weights w would give if the rewards had nothing to do with the noise,
    sqrt(d sum_t (alpha_t / N_t)^2 sum_e W_te^2). d counts the entries that the noise perturbs, and W_te is
    the sum of w times sign over the members with noise e. It holds for any lr, population, pairs and shaping
    under plain SGD without regularisers. For z-scores without pairs, at a constant alpha and N, it is
    alpha sqrt(T d / N).

    Args:
        every: generations between two measurements.
        thresholds: sparsity is the share of entries with |delta| no larger than these.
        top: how many tensors to list, by relative norm and by largest single change.
        steps: whether to measure the last update's own norms too. This takes 4 bytes of disk per parameter,
            in the run's folder, during each generation that is measured.
        direction: Hugging Face folder or hub id of a model tuned from the same base by other means; the
            centre's change is projected on the change of that model.

    Raises:
        UsageError: a value is outside its range, or ``direction`` is not another tuning of the run's base.
    """

    picture = "update_geometry.png"
    at_start = False  # nothing has changed yet

    def __init__(
        self,
        every: int = 10,
        thresholds: tuple[float, ...] = (1e-6, 1e-4),
        top: int = 20,
        steps: bool = False,
        direction: str | None = None,
    ) -> None:
        super().__init__(every)
        check_geometry("UpdateGeometry", thresholds, top)
        self.top, self.steps, self.direction = top, steps, direction
        self.thresholds = tuple(float(threshold) for threshold in thresholds)
        self.latest: dict[str, Any] = {}
        self.history: list[dict[str, Any]] = []
        self._target: BaseWeights | None = None
        self._before: Snapshot | None = None
        self._start: int | None = None  # parent of the update that ``_before`` was written for
        self._told: set[str] = set()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a bad ``direction`` before the engine starts."""
        if stage != "fit":
            return
        tuned = tuning(pl_module)
        tuned.configure_model()
        if self.direction is not None:
            trust = tuned.base_model.trust_remote_code
            self._target = BaseModel(self.direction, trust).weights
            _require_other_tuning(self._target, tuned)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Copy the centre to disk before an update that is to be measured."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        tuned = tuning(pl_module)
        if self.steps and (tuned.generation + 1) % (self.every or 1) == 0:
            named = tuned.ranks.whole(tuned.centre)
            if trainer.is_global_zero:
                self._before = Snapshot(Path(trainer.default_root_dir) / SNAPSHOT)
                self._start = _parent(tuned)
                self._before.write(named)
            else:
                exhaust(named)

    def acted(self, trainer: pl.Trainer) -> bool:
        """Whether there is a row for this number of updates already."""
        return self.has_row(trainer.global_step)

    def is_known(self, module: Tuning) -> bool:
        """Whether the last measurement was of the present centre, or there was no update yet."""
        return not module.generation or self.latest.get("checksum") == module.centre_checksum

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Remove the copy of the centre."""
        self._forget()

    def state_dict(self) -> dict[str, Any]:
        """The measurements so far, for a resumed run."""
        return {**super().state_dict(), "latest": self.latest, "history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        super().load_state_dict(state_dict)
        self.latest, self.history = dict(state_dict["latest"]), list(state_dict["history"])

    # Measuring ------------------------------------------------------------------------------------

    def act(self, trainer: pl.Trainer, module: Tuning) -> None:
        """Measure the centre on rank 0, and give its numbers to all ranks.

        Sums on different devices may differ in the last bit, and all ranks have to decide alike.
        """
        named, payload = module.ranks.whole(module.centre), b""
        if trainer.is_global_zero:
            payload = json.dumps(self._measure(module, named)).encode()
        else:
            exhaust(named)
        told = json.loads(module.ranks.exchange(payload)[0])
        place = {"generation": trainer.global_step, "checksum": module.centre_checksum}
        self.latest = {**place, **told["table"]}
        self.history.append({"generation": trainer.global_step, **brief(self.latest)})
        if trainer.is_global_zero:
            content = {**self.latest, "metrics": told["metrics"], "history": self.history}
            write_table(trainer, TABLE, content)
        self.keep(trainer, told["metrics"])

    def _measure(self, module: Tuning, named: Iterable[tuple[str, Tensor]]) -> dict[str, Any]:
        history, noise = history_of(module), getattr(module, "noise", None)
        updates = history.lineage() if history else []
        # The copy is of use only if the last update started from it: another callback may have put an earlier
        # centre back since.
        fresh = not put_back(module) and (updates[-1].parent if updates else None) == self._start
        before = self._before if fresh else None
        parts = changes(named, module.base_model.weights, self.thresholds, before, self._target)
        rows = table(parts, labels(self.thresholds), self.top, steps=before is not None)
        self._forget()
        walk = random_walk(history.header, updates) if history else None
        if walk is None:
            self._tell(
                "the law of the random walk holds only for SGD without momentum and weight decay, "
                "and without regularisers."
            )
        if self._target and not independent(noise):
            self._tell("a projection's z-score needs noise that is independent in every entry.")
        tuned = total(parts[name] for name in _tuned(module, noise))
        laws = compared(total(parts.values()), tuned, walk, independent(noise))
        return {"table": rows, "metrics": metrics(rows) | laws}

    def _tell(self, what: str) -> None:
        if what not in self._told:
            log.warning("UpdateGeometry leaves out what does not apply: %s", what)
            self._told.add(what)

    def _forget(self) -> None:
        if self._before is not None:
            self._before.remove()
            self._before = None

    # The picture ----------------------------------------------------------------------------------

    def figure(self, trainer: pl.Trainer) -> Figure:
        """Draw the norm and the random walk on the left, how far each layer has moved on the right."""
        figure, [left, right] = plots.sheet(self.title(trainer), columns=2, width=9.6, height=3.8)
        steps, norms = self.column("geometry/norm")
        label, walked = "measured", [row for row in self.rows if "geometry/norm_ratio" in row]
        if walked:
            expected = [row["geometry/norm"] / row["geometry/norm_ratio"] for row in walked]
            _draw_walk(left, [0.0, *(row["generation"] for row in walked)], [0.0, *expected])
            label = f"measured, {walked[-1]['geometry/norm_ratio']:.3f} times that at the end"
        left.plot([0.0, *steps], [0.0, *norms], marker="o", ms=3, lw=1.4, label=label)
        left.set_xlabel("generations done")
        left.set_ylabel("norm of (centre - base)")
        left.set_ylim(bottom=0)
        left.legend()
        _draw_layers(right, self.latest)
        return figure

    def numbers(self) -> dict[str, Sequence[Mapping[str, Any]]]:
        """Return the rows with the norm of the random walk, and how far each layer has moved."""
        rows = [
            row | {"geometry/random_walk": row["geometry/norm"] / row["geometry/norm_ratio"]}
            if "geometry/norm_ratio" in row
            else row
            for row in self.rows
        ]
        layers = sorted(self.latest["layers"], key=int)
        moved = {layer: self.latest["layers"][layer]["groups"] for layer in layers}
        named = [("", self.latest["groups"]), *moved.items()]  # no layer: the group in the whole model
        found = [
            {"layer": layer, "group": group, "norm_relative": cell["norm_relative"]}
            for layer, groups in named
            for group, cell in groups.items()
        ]
        return {"": rows, "_layers": found}


def _tuned(module: Tuning, noise: Noise | None) -> list[str]:
    """Return the parameters that the noise perturbs; all where another method than ES tunes them."""
    named = module.centre.named_parameters()
    return [name for name, each in named if noise is None or noise.perturbs(name, each.shape)]


def _parent(module: Tuning) -> int | None:
    """Return the generation whose centre the next update starts from, if it is not the previous one."""
    history = history_of(module)
    return None if history is None else history.parent


def _require_other_tuning(target: BaseWeights, module: Tuning) -> None:
    same = True
    for name, parameter in module.centre.named_parameters():
        if name not in target or target.read(name).shape != parameter.shape:
            raise UsageError(
                f"direction {target.folder} has no tensor {name} of shape {tuple(parameter.shape)}: give a "
                f"model tuned from {module.base_model.name}."
            )
        same = same and torch.equal(target.read(name).float(), module.base_model.weights.read(name).float())
    if same:
        raise UsageError(
            f"direction {target.folder} is {module.base_model.name} itself: give a model tuned from it."
        )


def _draw_walk(axes: Axes, steps: list[float], norms: list[float]) -> None:
    """Draw a dashed line whose square grows linearly between two measurements."""
    fine = np.linspace(0, steps[-1], 200)
    squares = np.interp(fine, steps, np.square(norms))
    label = "random walk: the journal's weights,\nrewards unrelated to the noise"
    axes.plot(fine, np.sqrt(squares), color=plots.INK, ls="--", lw=1, zorder=3, label=label)


def _draw_layers(axes: Axes, rows: dict[str, Any]) -> None:
    """Draw relative norms: a line per module group, and a dotted one for tensors outside the layers."""
    layers = sorted(rows["layers"], key=int)
    for group, color in zip(GROUPS, (*plots.PALETTE, plots.INK, plots.QUIET), strict=True):
        cells = [rows["layers"][layer]["groups"].get(group, {}).get("norm_relative") for layer in layers]
        if any(cells):
            values = [cell or np.nan for cell in cells]
            axes.plot(
                [int(layer) for layer in layers], values, color=color, marker="o", ms=2.5, lw=1.2, label=group
            )
        elif relative := rows["groups"].get(group, {}).get("norm_relative"):
            axes.axhline(relative, color=color, ls=":", lw=1.2, label=group)
    axes.set_yscale("log")
    axes.set_xlabel("layer")
    axes.set_ylabel("norm of (centre - base) / norm of base")
    above: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": 7}
    if axes.get_lines():  # none where every generation was skipped
        axes.legend(columnspacing=1, handlelength=1.3, **above)
