"""All callbacks together on two ranks: the ranks agree, and the run is that of one rank without any."""

import json
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import Callback

from tests.contracts.test_callbacks import CASES, comparable
from tests.helpers.ranks import Run
from tests.helpers.ranks import fit as fit_ranks


class Dump(Callback):
    """Writes down what the other callbacks know in the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Write a digest of each state."""
        states = {type(each).__name__: each.state_dict() for each in trainer.callbacks if each is not self}
        digests = {name: blake2b(comparable(state)).hexdigest() for name, state in states.items()}
        (self.folder / f"states-{trainer.global_rank}.json").write_text(json.dumps(digests))


class Watched(Run):
    """A run with every callback."""

    def module(self) -> Any:
        """The module, which brings them along."""
        tuned = super().module()
        made = [CASES[name].make() for name in CASES]
        tuned.configure_callbacks = lambda: [*made, Dump(self.folder)]
        return tuned

    def states(self, rank: int) -> dict[str, str]:
        """Digests of what a rank's callbacks know, without those that measure time."""
        found = json.loads((self.folder / f"states-{rank}.json").read_text())
        return {name: found[name] for name in CASES if not CASES[name].measures_time}


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.long
def test_two_ranks_with_all_callbacks_agree(tmp_path: Path) -> None:
    bare, watched = Run(tmp_path / "bare", steps=4), Watched(tmp_path / "watched", steps=4)
    assert fit_ranks(bare) == [0], bare.log()
    assert fit_ranks(watched, world=2, seconds=120) == [0, 0], watched.log()
    assert watched.states(0) == watched.states(1)
    assert watched.lines() == bare.lines()
    written = {path.relative_to(watched.folder).as_posix() for path in watched.folder.rglob("*")}
    assert {file for case in CASES.values() for file in case.files} <= written
