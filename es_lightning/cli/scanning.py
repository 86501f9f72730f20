"""What the command ``scan`` does: open the models, measure the points, write a CSV and a picture."""

from __future__ import annotations

import csv
import io
import logging
import shutil
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from es_lightning.algorithm.noise import Noise
from es_lightning.cli.configs import with_packaged
from es_lightning.cli.planned import UNUSED, FitSettings
from es_lightning.cli.short_names import read_short_names, with_full_names
from es_lightning.evaluation import Evaluator
from es_lightning.journal.identity import described, digest
from es_lightning.journal.opening import EXPORT, TunedModel, open_centres
from es_lightning.landscape import kinds
from es_lightning.landscape.directions import Direction, Towards, inner_products
from es_lightning.landscape.kinds import BASE, TUNED, Scan, Table
from es_lightning.landscape.measure import Measured, measure
from es_lightning.landscape.scan import Array, Barrier, barrier, grid
from es_lightning.models import BaseModel
from es_lightning.records import Prompt
from es_lightning.reports.scan_picture import barrier_picture, line_picture, plane_picture, radial_picture
from es_lightning.system.files import replacing
from es_lightning.system.folders import check_writable
from es_lightning.task import Task

log = logging.getLogger(__name__)


class ScanSettings(FitSettings):
    """The settings of a fit, with the engine that they ask for."""

    def before_instantiate_classes(self) -> None:
        """Choose no folder."""
        self.asked = self.config
        self.config = self.config.clone()
        for name in UNUSED:
            self.config.trainer[name] = "auto" if name == "strategy" else None


def scan(options: Namespace, arguments: list[str]) -> None:
    """Open the models, start the engine and scan.

    Args:
        options: of this command.
        arguments: options of ``fit``.
    """
    read_short_names()
    settings = ScanSettings(with_full_names(with_packaged(arguments)))
    model, data = settings.model, settings.datamodule
    base, rollouts = model.base_model, model.rollouts
    check_writable(options.output, "--output")
    scratch = options.output / "rebuilt"
    try:
        models = open_centres(options.tuned, base, scratch)
        rollouts.sampling = replace(rollouts.sampling, temperature=0.0, n=1, pass_k=1)
        prompts = rollouts.reserve(
            base, data.prompts(options.split)[: options.prompts], drop_long=data.drop_long_prompts
        )
        centre = base.load()
        rollouts.start(base)
        evaluator = Evaluator(rollouts, data.scorer)
        Scanner(options, base, centre, evaluator, model.noise, data.task, prompts).run(models)
    finally:
        data.scorer.close()
        shutil.rmtree(scratch, ignore_errors=True)


class Scanner:
    """Scans around a base model, on all ranks.

    Args:
        options: of the command ``scan``.
        base: the base model.
        centre: its float32 parameters; not changed.
        evaluator: decodes greedily, with an engine that has been started.
        noise: kind of noise of random directions.
        task: of the prompts.
        prompts: P encoded prompts, at least 2.
    """

    def __init__(
        self,
        options: Namespace,
        base: BaseModel,
        centre: nn.Module,
        evaluator: Evaluator,
        noise: Noise,
        task: Task,
        prompts: Sequence[Prompt],
    ) -> None:
        self.options, self.base, self.centre, self.evaluator = options, base, centre, evaluator
        self.noise, self.task, self.prompts = noise, task, prompts
        self.grid = grid(options.start, options.stop, options.step, (0.0, 1.0))

    def run(self, models: Sequence[TunedModel]) -> list[Path]:
        """Measure what is not measured yet; rank 0 then writes CSV and picture. All ranks have to call it.

        Args:
            models: the tuned models of this scan.

        Returns:
            The files that this rank has written.
        """
        self.folder, kind = self.options.output, self.options.kind
        self.measured = Measured(
            self.folder / f"{kind}.jsonl", self._settings(models), len(self.prompts), self.evaluator.ranks
        )
        names = labels([model.name for model in models])
        towards = [Towards(name, model.weights) for name, model in zip(names, models, strict=True)]
        self.title = f"{self.task.name}, {self.options.split}, {len(self.prompts)} prompts: {kind}"
        {"line": self._line, "between": self._between, "radial": self._radial, "plane": self._plane}[kind](
            *towards
        )
        if self.evaluator.ranks.rank:
            return []
        return [self.folder / f"{kind}.{ending}" for ending in ("csv", "png", "jsonl")]

    def _settings(self, models: Sequence[TunedModel]) -> dict[str, Any]:
        """Return what decides the reward of a point, in plain JSON."""
        options, rollouts = self.options, self.evaluator.rollouts
        engine, precision = type(rollouts.engine).__name__, str(rollouts.engine.dtype).removeprefix("torch.")
        drawn = options.kind == "radial" or (options.kind == "plane" and len(models) == 1)
        return {
            "kind": options.kind,
            "base": self.base.hashes(),
            "models": [model.digest for model in models],
            "task": described("data.task", self.task, self.task.name),
            "split": options.split,
            "prompts": digest(self.prompts),
            "max_tokens": rollouts.sampling.max_tokens,
            "stop": list(rollouts.sampling.stop),
            "engine": f"{engine}, {precision}",
            "chat_template_kwargs": rollouts.chat_template_kwargs,
            **({"noise": self.noise.identity, "seed": options.seed} if drawn else {}),
        }

    # The kinds ------------------------------------------------------------------------------------

    def _line(self, tuned: Towards) -> None:
        length = self._lengths([tuned])[0]
        table = kinds.line_table(self.grid, self._rewards(kinds.line(tuned, self.grid)))
        marks = {BASE: 0.0, tuned.name: 1.0}
        if self._write(table):
            axis = f"t, from base to {tuned.name}, {length:.4g} away"
            line_picture(self._picture, self.title, table, marks, axis)
            for name, at in marks.items():
                _tell(name, table, table["t"] == at)

    def _between(self, first: Towards, second: Towards) -> None:
        products = self._products([first, second])
        rewards = self._rewards(kinds.between(first, second, self.grid))
        found = barrier(self.grid, rewards)
        table = kinds.between_table(self.grid, rewards, found)
        marks = {first.name: 0.0, second.name: 1.0}
        if self._write(table):
            apart = float(np.sqrt(products[0, 0] - 2 * products[0, 1] + products[1, 1]))
            title = f"{self.title}; {apart:.4g} apart, cosine of their changes {_cosine(products):.2g}"
            barrier_picture(self._picture, title, table, marks, words(found))
            for name, at in marks.items():
                _tell(name, table, table["t"] == at)
            log.info("%s.", words(found))

    def _radial(self, tuned: Towards) -> None:
        drawn = kinds.random_directions(self.noise, self.options.seed, self.options.directions)
        lengths = self._lengths([tuned, *drawn])
        scan = kinds.radial(tuned, drawn, self.grid, lengths)
        table = kinds.radial_table(scan.points, self._rewards(scan), lengths[0])
        if self._write(table):
            radial_picture(self._picture, self.title, table, tuned.name, lengths[0])
            at = (table["direction"] == TUNED) & (table["radius"] == 1)
            _tell(tuned.name, table, at)
            log.info(
                "random directions as far: %.3f on average; one more would lie in %.3f to %.3f (95 %%).",
                *(table[name][at][0] for name in ("random", "random_low", "random_high")),
            )

    def _plane(self, first: Towards, second: Towards | None = None) -> None:
        other: Direction = second or kinds.random_directions(self.noise, self.options.seed, 1)[0]
        products = self._products([first, other])
        # A random direction is as good as its opposite: the grid is around it.
        up = self.grid if second else self.grid - (self.grid[0] + self.grid[-1]) / 2
        found = kinds.plane(first, other, products, self.grid, up)
        table = kinds.plane_table(found, self._rewards(found.scan))
        if self._write(table):
            title = f"{self.title}; cosine of the directions {_cosine(products):.2g}"
            axes = (
                f"towards {first.name}, in units of {found.length:.4g}",
                f"across, on the side of {other.name}",
            )
            plane_picture(self._picture, title, table, found.marks, axes)
            for name in found.marks:
                _tell(name, table, table["model"] == name)

    # Their parts ----------------------------------------------------------------------------------

    @property
    def _picture(self) -> Path:
        return Path(self.folder / f"{self.options.kind}.png")

    def _products(self, directions: Sequence[Direction]) -> Array:
        return inner_products(self.centre, directions, self.evaluator.ranks.shards)

    def _lengths(self, directions: Sequence[Direction]) -> list[float]:
        # One after the other: a tensor of each at once would be too much for large models.
        return [float(np.sqrt(self._products([each])[0, 0])) for each in directions]

    def _rewards(self, scan: Scan) -> Array:
        def tell(done: int, of: int, reward: float) -> None:
            log.info("%d of %d points, reward %.3f", done, of, reward)

        work = (self.evaluator, self.centre, scan.directions, scan.points, self.prompts, self.measured)
        return measure(*work, tell) if self.evaluator.ranks.rank == 0 else measure(*work)

    def _write(self, table: Table) -> bool:
        """Write the CSV on rank 0; returns whether this rank also draws."""
        if self.evaluator.ranks.rank:
            return False
        write_table(self.folder / f"{self.options.kind}.csv", table)
        return True


def write_table(path: Path, table: Table) -> None:
    """Write a table as CSV; the file is replaced as a whole, and what is no number there is empty.

    Args:
        path: the file.
        table: columns by name.
    """
    text = io.StringIO()
    lines = kinds.rows(table)
    writer = csv.DictWriter(text, list(table), lineterminator="\n")
    writer.writeheader()
    for row in lines:
        writer.writerow({name: "" if value != value else value for name, value in row.items()})  # nan != nan
    with replacing(path) as file:
        file.write(text.getvalue().encode())


def labels(references: Sequence[str]) -> list[str]:
    """Return short names for models: the last part of each path, or all of it where two would be alike."""
    short = []
    for reference in references:
        path = Path(reference)
        generic = path.name in (EXPORT, "best") and path.parent.name
        short.append(f"{path.parent.name}/{path.name}" if generic else path.name)
    reserved = {BASE, TUNED} & set(short) or len(set(short)) < len(short)
    return list(references) if reserved else short


def words(found: Barrier) -> str:
    """Say what is known of a barrier."""
    ends = f"{found.low:.3f} to {found.high:.3f} (95 %)"
    known = f"largest drop {found.height:.3f} at t = {found.at:g}, true one {ends}"
    return f"a barrier: {known}" if found.is_seen else f"no barrier beyond chance: {known}"


def _cosine(products: Array) -> float:
    return float(products[0, 1] / np.sqrt(products[0, 0] * products[1, 1]))


def _tell(name: str, table: Table, at: np.typing.NDArray[np.bool_]) -> None:
    values: Mapping[str, float] = {column: float(table[column][at][0]) for column in ("reward", "reward_se")}
    log.info("%s: reward %.3f +- %.3f (standard error over prompts).", name, *values.values())
