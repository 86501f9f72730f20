"""Faults injected into a running fit: at a moment of a generation, a rank dies, hangs or raises."""

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from es_lightning.distributed.ranks import Ranks
from es_lightning.distributed.strategy import PopulationStrategy
from es_lightning.journal.entry import JOURNAL
from es_lightning.system.files import Lines

MOMENTS = ("perturb", "generate", "gather", "update", "checkpoint")


@dataclass(frozen=True)
class Fault:
    """What goes wrong, where and when.

    Args:
        moment: one of MOMENTS, or ``journal`` (half a line is written), ``validate``, ``send`` (a gradient of
            a shared update), or ``drift`` (the centre is changed behind the run's back, and nothing else
            happens).
        action: ``kill``, ``hang``, ``raise``, or the name of a signal that the process sends itself.
        generation: that is under way; for a checkpoint, the number of generations it has seen.
        rank: which rank.
        times: how often.
    """

    moment: str
    action: str = "kill"
    generation: int = 3
    rank: int = 0
    times: int = 1


def install(fault: Fault, tuned: Any) -> None:
    """Set the trap in this process, if it is the rank that is meant."""
    if int(os.environ.get("LOCAL_RANK", "0")) == fault.rank:
        _Trap(fault, tuned).set()


class _Trap:
    def __init__(self, fault: Fault, tuned: Any) -> None:
        self.fault, self.tuned, self.left = fault, tuned, fault.times

    def set(self) -> None:
        """Put the trap where the moment passes by."""
        moment, tuned = self.fault.moment, self.tuned
        if moment == "perturb":
            self._in_the_middle_of(tuned.rollouts, "perturbed")
        elif moment == "generate":
            self._before(tuned.rollouts.engine, "generate", lambda: tuned.trainer.training)
        elif moment == "validate":
            self._before(tuned.rollouts.engine, "generate", lambda: tuned.trainer.validating)
        elif moment == "gather":
            self._before(Ranks, "exchange", lambda: tuned.trainer.training)
        elif moment == "update":
            self._before(tuned.noise, "accumulate_", lambda: True, calls=7)
        elif moment == "send":  # after the ranks have met; rewards, which are bytes, do not count
            self._before(distributed, "broadcast", lambda: True, of=torch.is_floating_point, calls=3)
        elif moment == "checkpoint" and self.fault.rank == 0:
            self._before(Path, "replace", lambda: True, of=lambda path: path.name.endswith(".ckpt.part"))
        elif moment == "checkpoint":
            self._before(PopulationStrategy, "save_checkpoint", lambda: True)
        elif moment == "drift":
            self._drift()
        elif moment == "journal":
            self._tear_the_journal()
        else:
            raise ValueError(moment)

    def _before(
        self,
        owner: Any,
        name: str,
        when: Callable[[], bool],
        of: Callable[[Any], bool] = lambda _: True,
        calls: int = 1,
    ) -> None:
        original, seen = getattr(owner, name), 0

        def trapped(*args: Any, **options: Any) -> Any:
            nonlocal seen
            if self._is_due() and when() and of(args[0] if args else None):
                seen += 1
                if seen >= calls:
                    self._strike()
            return original(*args, **options)

        setattr(owner, name, trapped)

    def _in_the_middle_of(self, owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def trapped(*args: Any) -> Iterator[Any]:
            for index, item in enumerate(original(*args)):
                if self._is_due() and index == 3:
                    self._strike()
                yield item

        setattr(owner, name, trapped)

    def _tear_the_journal(self) -> None:
        original = Lines.append

        def trapped(lines: Lines, line: str) -> None:
            if lines.path.name == JOURNAL and f'"generation":{self.fault.generation},' in line:
                with lines.path.open("a") as file:
                    file.write(line[: len(line) // 2])
                self._strike()
            original(lines, line)

        Lines.append = trapped  # type: ignore[method-assign]

    def _drift(self) -> None:
        original = self.tuned._update

        def trapped(*args: Any) -> Any:
            result = original(*args)
            if self._is_due():
                next(self.tuned.centre.parameters()).data.view(-1)[0] += 1e-6
            return result

        self.tuned._update = trapped

    def _is_due(self) -> bool:
        return bool(self.left and self.tuned._trainer and self.tuned.generation == self.fault.generation)

    def _strike(self) -> None:
        self.left -= 1
        if self.fault.action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.fault.action == "hang":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif self.fault.action == "raise":
            raise RuntimeError("injected")
        else:
            os.kill(os.getpid(), getattr(signal, self.fault.action))
