"""What a finished probe has measured, as a table and as arrays."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from es_lightning.errors import UsageError
from es_lightning.landscape.arrays import Array
from es_lightning.records import Member
from es_lightning.system.files import to_json

if TYPE_CHECKING:
    import pyarrow as pa

LINES, TABLE = "probe.jsonl", "candidates.parquet"


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
        table: the candidates, as ``store`` documents them.
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

    @property
    def seeds(self) -> list[int]:
        """The seeds of all candidates, each once, in the order of the candidates."""
        return list(dict.fromkeys(int(seed) for seed in self.table["seed"].to_pylist()))

    def at(self, sigma: float) -> tuple[Array, Array, list[int]]:
        """Return the candidates at a sigma: changes by prompt, [M, P], signs, [M], and M seeds."""
        from pyarrow.compute import equal

        rows = self.table.filter(equal(self.table["sigma"], sigma))
        changes = np.array(rows["rewards"].to_pylist(), dtype=np.float64) - self.centre
        return changes, np.asarray(rows["sign"], dtype=np.float64), list(map(int, rows["seed"].to_pylist()))

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
