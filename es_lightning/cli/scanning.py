"""What the command ``scan`` does: open the models, measure the points, write a CSV and a picture."""

from __future__ import annotations

import json
import logging
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np

from es_lightning.cli.opened import opened
from es_lightning.cli.run_loggers import loggers_for, logging_to
from es_lightning.cli.scan_output import labels, tell_point, words, write_table
from es_lightning.errors import UsageError
from es_lightning.evaluation.parts import Parts
from es_lightning.journal.identity import described, digest
from es_lightning.journal.opening import TunedModel, digest_of, open_centres
from es_lightning.landscape.arrays import Array
from es_lightning.landscape.scans import kinds
from es_lightning.landscape.scans.directions import Direction, Towards, inner_products
from es_lightning.landscape.scans.kinds import BASE, TUNED, Scan, Table
from es_lightning.landscape.scans.measure import Measured, measure
from es_lightning.landscape.scans.scan import barrier, grid
from es_lightning.models import BaseModel
from es_lightning.reports.scan_picture import barrier_picture, line_picture, plane_picture, radial_picture
from es_lightning.rollout.engine import model_dtype
from es_lightning.system.folders import check_writable
from es_lightning.system.lock import hold
from es_lightning.tracking.artifacts import log_artifact

log = logging.getLogger(__name__)


def scan(options: Namespace, arguments: list[str]) -> None:
    """Open the models, start the engine and scan.

    Args:
        options: of this command.
        arguments: options of ``fit``.
    """
    check_writable(options.output, "--output")
    scratch = options.output / "rebuilt"
    with ExitStack() as until_end:
        parts = until_end.enter_context(opened(arguments))
        ranks, rollouts = parts.ranks, parts.rollouts
        if ranks.rank == 0:
            until_end.callback(hold(options.output, "--output"))
            until_end.callback(rmtree, scratch, ignore_errors=True)
        # So that rewards differ through the weights alone.
        rollouts.sampling = replace(rollouts.sampling, temperature=0.0, n=1, pass_k=1)
        models = open_centres(options.tuned, parts.base, scratch, ranks)
        files = Scanner(options, parts, models).run()
        if files:
            asked = parts.config["trainer"].get("logger")
            with logging_to(loggers_for(asked, options.output, "scan"), {}) as loggers:
                for path in files:
                    log_artifact(loggers, path, "scan")


class Scanner:
    """Scans around a base model, on all ranks.

    Args:
        options: of the command ``scan``.
        parts: the base model, the task and an engine, which need not be started yet.
        models: the tuned models of this scan.

    Raises:
        UsageError: there are too few prompts, or the folder holds a scan with other settings.
    """

    def __init__(self, options: Namespace, parts: Parts, models: Sequence[TunedModel]) -> None:
        self.options, self.parts = options, parts
        self.noise = parts.noise  # a start may freeze some of it, for engines that hold adapters
        self.grid = grid(options.start, options.stop, options.step, (0.0, 1.0))
        self.prompts = parts.prompts(options.split, options.prompts)
        if len(self.prompts) < 2:
            raise UsageError(
                f"split {options.split} of {parts.task.name} has {len(self.prompts)} problem, and a scan "
                "needs at least 2, since errors are over problems: give another --split."
            )
        _check_different(models, parts.base)
        names = labels([model.name for model in models])
        self.towards = [Towards(name, model.weights) for name, model in zip(names, models, strict=True)]
        settings, path = self._settings(models), self._file("jsonl")
        self.measured = Measured(path, settings, len(self.prompts), parts.ranks)
        self.title = f"{parts.task.name}, {options.split}, {len(self.prompts)} prompts"

    def run(self) -> list[Path]:
        """Start the engine, measure what is not measured yet, and write. All ranks have to call it.

        Returns:
            What rank 0 has written: a CSV, a picture, and the rewards of every prompt; nothing elsewhere.
        """
        self.centre = self.parts.start(members=self.parts.ranks.lane.count)
        ways: dict[str, Callable[..., None]] = {
            "line": self._line,
            "between": self._between,
            "radial": self._radial,
            "plane": self._plane,
        }
        ways[self.options.kind](*self.towards)
        if self.parts.ranks.rank:
            return []
        log.info("%s has the picture, and %s its numbers.", self._file("png"), self._file("csv"))
        return [self._file(ending) for ending in ("csv", "png", "jsonl")]

    def _file(self, ending: str) -> Path:
        return Path(self.options.output / f"{self.options.kind}.{ending}")

    def _settings(self, models: Sequence[TunedModel]) -> dict[str, Any]:
        """Return what decides the reward of a point, in plain JSON."""
        options, base, rollouts = self.options, self.parts.base, self.parts.rollouts
        dtype = model_dtype(rollouts.engine.dtype_name, base.dtype, self.parts.device)
        drawn = options.kind == "radial" or (options.kind == "plane" and len(models) == 1)
        return {
            "kind": options.kind,
            "base": base.hashes(),
            "models": [model.digest for model in models],
            "task": described("data.task", self.parts.task, self.parts.task.name),
            "objective": self.parts.data.objective,
            "split": options.split,
            "prompts": digest(self.prompts),
            "max_tokens": rollouts.sampling.max_tokens,
            "stop": list(rollouts.sampling.stop),
            "engine": f"{type(rollouts.engine).__name__}, {str(dtype).removeprefix('torch.')}",
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
            line_picture(self._file("png"), self.title, table, marks, axis)
            for name, at in marks.items():
                tell_point(name, table, table["t"] == at)

    def _between(self, first: Towards, second: Towards) -> None:
        products = self._products([first, second])
        rewards = self._rewards(kinds.between(first, second, self.grid))
        found = barrier(self.grid, rewards)
        table = kinds.between_table(self.grid, rewards, found)
        marks = {first.name: 0.0, second.name: 1.0}
        if self._write(table):
            apart = float(np.sqrt(products[0, 0] - 2 * products[0, 1] + products[1, 1]))
            title = f"{self.title}; {apart:.4g} apart, cosine of their changes {_cosine(products):.1g}"
            barrier_picture(self._file("png"), title, table, marks, words(found))
            for name, at in marks.items():
                tell_point(name, table, table["t"] == at)
            log.info("%s.", words(found))

    def _radial(self, tuned: Towards) -> None:
        drawn = kinds.random_directions(self.noise, self.options.seed, self.options.directions)
        lengths = self._lengths([tuned, *drawn])
        scan = kinds.radial(tuned, drawn, self.grid, lengths)
        table = kinds.radial_table(scan.points, self._rewards(scan), lengths[0])
        if self._write(table):
            radial_picture(self._file("png"), self.title, table, tuned.name, lengths[0])
            at = (table["direction"] == TUNED) & (table["radius"] == 1)
            tell_point(tuned.name, table, at)
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
            title = f"{self.title}; cosine of the directions {_cosine(products):.1g}"
            axes = (
                f"towards {first.name}, in units of {found.length:.4g}",
                f"across, on the side of {other.name}",
            )
            plane_picture(self._file("png"), title, table, found.marks, axes)
            for name in found.marks:
                tell_point(name, table, table["model"] == name)

    # Their parts ----------------------------------------------------------------------------------

    def _products(self, directions: Sequence[Direction]) -> Array:
        mine = inner_products(self.centre, directions, self.parts.ranks.shards).tolist()
        # Other numbers of threads may sum in another order: all ranks take those of the first.
        products = np.array(json.loads(self.parts.ranks.from_first(json.dumps(mine).encode())))
        for direction, square in zip(directions, np.diag(products), strict=True):
            if not square > 0:
                raise UsageError(
                    f"{direction.name} has the weights of the base model: there is nothing to scan."
                )
        return products

    def _lengths(self, directions: Sequence[Direction]) -> list[float]:
        # One after the other: a tensor of each at once would be too much for large models.
        return [float(np.sqrt(self._products([each])[0, 0])) for each in directions]

    def _rewards(self, scan: Scan) -> Array:
        def tell(done: int, of: int, reward: float) -> None:
            log.info("%d of %d points, reward %.3f", done, of, reward)

        told = tell if self.parts.ranks.rank == 0 else None
        where = (scan.directions, scan.points, self.prompts, self.measured)
        return measure(self.parts.evaluator(), self.centre, *where, told)

    def _write(self, table: Table) -> bool:
        """Write the CSV on rank 0; returns whether this rank also draws."""
        if self.parts.ranks.rank:
            return False
        write_table(self._file("csv"), table)
        return True


def _check_different(models: Sequence[TunedModel], base: BaseModel) -> None:
    """Refuse a model that is the base model, or one that is given twice.

    Raises:
        UsageError: the message names it.
    """
    known = {digest_of(base): base.name}
    for model in models:
        if model.digest in known:
            raise UsageError(
                f"{model.name} has the weights of {known[model.digest]}: there is nothing to scan. Give "
                "another --tuned."
            )
        known[model.digest] = model.name


def _cosine(products: Array) -> float:
    return float(products[0, 1] / np.sqrt(products[0, 0] * products[1, 1]))
