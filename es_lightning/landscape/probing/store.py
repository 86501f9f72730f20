"""What a probe has measured, on disk: lines that survive a kill, and a parquet file for analysis.

``probe.jsonl`` begins with the probe's settings. The second line holds the centre's rewards, and every line
after it one candidate; ``candidates.parquet`` is made from it whenever the probe ends:

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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from es_lightning.errors import UsageError
from es_lightning.landscape.arrays import Array
from es_lightning.records import Member
from es_lightning.system.files import Lines, read_lines, replacing, to_json

if TYPE_CHECKING:
    import pyarrow as pa

LINES, TABLE, ABOUT = "probe.jsonl", "candidates.parquet", "probe.json"
FORMAT = 1
Share = Callable[[bytes], bytes]
"""From this rank's bytes to those of rank 0; all ranks have to call it."""


@dataclass(frozen=True)
class Candidate:
    """A perturbed copy that was evaluated.

    Args:
        candidate: running number, by batch, sigma and member.
        sigma: noise scale, in units of the weights.
        batch: from 0.
        seed: of the noise.
        sign: +1 or -1.
        rewards: by prompt.
    """

    candidate: int
    sigma: float
    batch: int
    seed: int
    sign: int
    rewards: tuple[float, ...]

    @property
    def member(self) -> Member:
        """Its seed and sign."""
        return Member(self.candidate, self.seed, self.sign)


class ProbeStore:
    """The lines of a probe; a killed one goes on after its last whole chunk of candidates.

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
        _require_same(self.folder, header, self.header)
        if centre is None:
            return lines[:1]
        groups, rest = divmod(len(found), self.header["members"])
        whole = groups * self.header["members"] + rest // chunk * chunk
        self.centre, self.candidates = centre, found[:whole]
        return lines[: 2 + whole]

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


def table_of(
    header: Mapping[str, Any], centre: Mapping[str, Any], candidates: Sequence[Candidate]
) -> pa.Table:
    """Return the table that candidates.parquet holds.

    Args:
        header: settings of the probe.
        centre: its rewards and checksum.
        candidates: in their order.
    """
    import pyarrow as pa

    base = float(np.mean(centre["centre"]))
    means = [float(np.mean(each.rewards)) for each in candidates]
    columns = {
        "candidate": pa.array([each.candidate for each in candidates], pa.int64()),
        "sigma": pa.array([each.sigma for each in candidates], pa.float64()),
        "batch": pa.array([each.batch for each in candidates], pa.int64()),
        "seed": pa.array([each.seed for each in candidates], pa.uint64()),
        "sign": pa.array([each.sign for each in candidates], pa.int8()),
        "reward": pa.array(means, pa.float64()),
        "change": pa.array([mean - base for mean in means], pa.float64()),
        "rewards": pa.array([each.rewards for each in candidates], pa.list_(pa.float64())),
    }
    return pa.table(columns).replace_schema_metadata({"probe": to_json({**header, **centre})})


@dataclass(frozen=True)
class ProbeResults:
    """What a finished probe has measured.

    Args:
        folder: of the probe.
        header: its settings, the model, the task, the prompts' ids, the centre's checksum.
        centre: the centre's rewards, float64 [P].
        table: the candidates, as documented above.
    """

    folder: Path
    header: Mapping[str, Any]
    centre: Array
    table: pa.Table

    @classmethod
    def read(cls, folder: Path) -> ProbeResults:
        """Read a probe's folder.

        Raises:
            UsageError: it holds no finished probe.
        """
        import pyarrow as pa
        from pyarrow.parquet import read_table

        path = folder / TABLE
        if not path.is_file():
            unfinished = (folder / LINES).exists()
            what = "a probe that has not ended: run its command again" if unfinished else "no probe"
            raise UsageError(f"{folder} holds {what}{'' if unfinished else ': there is no ' + TABLE}.")
        try:
            table = read_table(path)
            header = json.loads(table.schema.metadata[b"probe"])
            centre = np.asarray(header.pop("centre"), dtype=np.float64)
        except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
            raise UsageError(f"{path} is no table of a probe, or is damaged ({error}).") from error
        return cls(folder, header, centre, table)

    @property
    def sigmas(self) -> list[float]:
        """The noise scales, in the order of the settings."""
        return [float(sigma) for sigma in self.header["sigmas"]]

    def rewards(self, sigma: float) -> Array:
        """Return the candidates' rewards at a sigma by batch, member and prompt, [S, M, P]."""
        from pyarrow.compute import equal

        rows = self.table.filter(equal(self.table["sigma"], sigma))
        flat = np.stack([np.asarray(row, dtype=np.float64) for row in rows["rewards"].to_pylist()])
        return flat.reshape(self.header["batches"], self.header["members"], -1)

    def changes(self, sigma: float) -> Array:
        """Return the changes of the mean reward, [S, M]."""
        return np.asarray(self.rewards(sigma).mean(2) - self.centre.mean())

    def candidate(self, number: int) -> Candidate:
        """Return one candidate.

        Raises:
            UsageError: there is none of that number.
        """
        if not 0 <= number < len(self.table):
            raise UsageError(f"there is no candidate {number}: {self.folder} has 0 to {len(self.table) - 1}.")
        row = self.table.slice(number, 1).to_pylist()[0]
        del row["reward"], row["change"]
        return Candidate(**(row | {"rewards": tuple(row["rewards"])}))


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


def _require_same(folder: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    differ = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if differ:
        name = differ[0]
        raise UsageError(
            f"{folder} holds a probe with other settings ({name} {_short(old.get(name))}, and not "
            f"{_short(new.get(name))}): give its settings to go on with it, or another folder."
        )


def _short(value: Any) -> str:
    text = to_json(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
