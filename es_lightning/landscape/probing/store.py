"""What a probe has measured, on disk: lines that survive a kill, and a parquet file for analysis.

``probe.jsonl`` begins with the probe's settings. The second line holds the centre's rewards, and every line
after it one candidate; ``candidates.parquet`` is made from it whenever the probe ends. A probe that has ended
goes on when more batches are asked for, and its table has those batches that were asked for when it was made:

    candidate  int64          running number, by batch, sigma and member
    sigma      float64        noise scale, in units of the weights
    batch      int64          0 to S-1; a batch has the same seeds at every sigma
    seed       uint64         of the noise
    sign       int8           +1 or -1
    reward     float64        mean over the prompts
    change     float64        reward minus the centre's
    rewards    list<float64>  by prompt, [P]

Its metadata, under the key ``probe``, are the settings, the centre's rewards, and the prompts' ids, as JSON.
``probe.json`` beside it has the same for people and scripts, and what the centre earned at the end:

    centre_rewards        by prompt, [P], before the candidates
    centre_rewards_after  by prompt, [P], after them, by this process
    drift                 mean of the latter minus mean of the former; 0 if the engine repeats itself
    checksum              of the centre, the same before and after
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from es_lightning.errors import UsageError
from es_lightning.landscape.arrays import Array
from es_lightning.landscape.probing.results import LINES, TABLE, Candidate, ProbeResults, table_of
from es_lightning.system.files import Lines, read_lines, replacing, to_json

ABOUT = "probe.json"
FORMAT = 1
Share = Callable[[bytes], bytes]
"""From this rank's bytes to those of rank 0; all ranks have to call it."""


class ProbeStore:
    """The lines of a probe; a killed one goes on after its last whole chunk of candidates.

    One that was asked for fewer batches goes on with those that are missing.

    Args:
        folder: of the probe; it is made.
        header: the settings, the model, the task and the prompts, as plain JSON.
        chunk: candidates of a batch and sigma that are evaluated together, and kept together or not at all.
        writes: whether this rank reads and writes the folder; the others keep everything in memory.
        share: tells the other ranks what rank 0 has read, since machines may not share their disks.

    Raises:
        UsageError: the folder holds another probe, or the file is damaged.
        StorageError: the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        header: Mapping[str, Any],
        chunk: int,
        writes: bool = True,
        share: Share = lambda payload: payload,
    ) -> None:
        self.path, self.folder = folder / LINES, folder
        self.header = {"format": FORMAT, **header}
        self.centre: dict[str, Any] | None = None
        self.candidates: list[Candidate] = []
        text = share("\n".join(read_lines(self.path) if writes else []).encode()).decode()
        old = text.split("\n") if text else []
        lines = self._kept(old, chunk) if old else [to_json(self.header)]
        self._file = Lines(self.path, lines) if writes else None

    def _kept(self, lines: list[str], chunk: int) -> list[str]:
        """Return the lines of whole chunks, and read them."""
        header, centre, found = _parsed(lines, self.path)
        _require_same(self.folder, header, self.header, found)
        first = to_json(self.header)
        if centre is None:
            return [first]
        groups, rest = divmod(len(found), self.header["members"])
        whole = groups * self.header["members"] + rest // chunk * chunk
        self.centre, self.candidates = centre, found[:whole]
        return [first, *lines[1 : 2 + whole]]

    def add_centre(self, rewards: Array, checksum: str) -> None:
        """Write the centre's rewards, [P], and its checksum."""
        self.centre = {"centre": rewards.tolist(), "checksum": checksum}
        self._append([self.centre])

    def add(self, candidates: Sequence[Candidate]) -> None:
        """Write a chunk of candidates, and wait until it is on disk."""
        self._append([vars(each) for each in candidates])
        self.candidates += candidates

    def _append(self, lines: Sequence[Mapping[str, Any]]) -> None:
        if self._file is not None:
            self._file.append("\n".join(map(to_json, lines)))

    def results(self, after: Array) -> ProbeResults:
        """Return what there is, and write it as JSON and parquet, which replace older files as a whole.

        Args:
            after: the centre's rewards now, [P].
        """
        assert self.centre is not None
        table = table_of(self.header, self.centre, self.candidates)
        if self._file is not None:
            with replacing(self.folder / ABOUT) as file:
                file.write(json.dumps(self._about(after), indent=2, ensure_ascii=False).encode())
            from pyarrow.parquet import write_table

            with replacing(self.folder / TABLE) as file:
                write_table(table, file)
        centre = np.asarray(self.centre["centre"], dtype=np.float64)
        header = {**self.header, "checksum": self.centre["checksum"]}
        return ProbeResults(self.folder, header, centre, table)

    def _about(self, after: Array) -> dict[str, Any]:
        assert self.centre is not None
        before = self.centre["centre"]
        return {
            **self.header,
            "checksum": self.centre["checksum"],
            "drift": float(np.mean(after) - np.mean(before)),
            "centre_rewards": before,
            "centre_rewards_after": after.tolist(),
        }


def check_begun(folder: Path, settings: Mapping[str, Any]) -> None:
    """Refuse a folder whose probe has other settings; the model and the prompts are not looked at yet.

    Args:
        folder: of the probe; it need not be there.
        settings: of the new probe, as plain JSON.

    Raises:
        UsageError: the probe there is another, or its file is damaged.
    """
    if lines := read_lines(folder / LINES):
        header, _, found = _parsed(lines, folder / LINES)
        _require_same(folder, {name: header.get(name) for name in settings}, settings, found)


def _parsed(
    lines: Sequence[str], path: Path
) -> tuple[dict[str, Any], dict[str, Any] | None, list[Candidate]]:
    """Return the header, the centre if that was evaluated, and the candidates.

    Raises:
        UsageError: these are no lines of a probe.
    """
    try:
        header, *rest = map(json.loads, lines)
        if header.get("format") != FORMAT:
            raise ValueError(f"format {header.get('format')}")
        centre = rest[0] if rest else None
        found = [Candidate(**(each | {"rewards": tuple(each["rewards"])})) for each in rest[1:]]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path} is no file of a probe, or is damaged ({error}): delete it.") from error
    return header, centre, found


def _require_same(
    folder: Path, old: Mapping[str, Any], new: Mapping[str, Any], found: Sequence[Candidate]
) -> None:
    """Refuse other settings, but for another number of batches, unless fewer are asked for than were begun.

    Raises:
        UsageError: a setting differs, or there would be fewer batches.
    """
    differ = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    # A probe from before it was kept goes on; the task decides it, and is compared itself.
    differ = [name for name in differ if name != "largest_reward" or name in old]
    there, asked = 1 + max((each.batch for each in found), default=-1), new["batches"]
    if differ == ["batches"]:
        if there <= asked:
            return
        raise UsageError(
            f"{folder} holds {there} batches of a probe, and {asked} were asked for: give --probe.batches "
            f"{there} to go on with it, more to add some, or another folder."
        )
    if differ:
        name = differ[0]
        raise UsageError(
            f"{folder} holds a probe with other settings ({name} {_short(old.get(name))}, and not "
            f"{_short(new.get(name))}): give its settings to go on with it, or another folder."
        )


def _short(value: Any) -> str:
    text = to_json(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
