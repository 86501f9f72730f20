"""The journal of a run in progress: after a crash it supplies what the newest checkpoint lacks."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from es_lightning.errors import RankError, UsageError
from es_lightning.journal.entry import JOURNAL, MENDING, REWARDS, Entry, parse, read_lines_of_journal
from es_lightning.journal.header import REPLAY_KEYS
from es_lightning.journal.identity import changed
from es_lightning.journal.schema import from_json, rewards_fault, without_torn_end
from es_lightning.records import Generation, Prompt
from es_lightning.system.files import Lines, read_lines, to_json, unreadable

log = logging.getLogger(__name__)

_WITHOUT_REWARDS = (
    "Take a copy of it, or move it away: the generations after the checkpoint are then evaluated again."
)


@dataclass(frozen=True)
class Past:
    """A generation that an earlier process finished after the checkpoint that this process started from.

    Args:
        entry: the generation's entry in the journal.
        rewards: float64 [N, P].
    """

    entry: Entry
    rewards: Tensor

    def record(self, prompts: Sequence[Prompt], samples: int = 1) -> Generation:
        """Make the generation's record, as it is before the update.

        Args:
            prompts: the batch, P encoded prompts.
            samples: completions of each prompt.
        """
        entry = self.entry
        return Generation(
            index=entry.generation,
            members=entry.members,
            prompts=tuple(prompts),
            rewards=self.rewards,
            weights=entry.weights,
            sigma=entry.sigma,
            lr=entry.hyper["lr"],
            skipped=entry.skipped,
            update_norm=0.0,
            drift=entry.drift,
            scores=entry.scores,
            tokens=entry.tokens,
            seconds=entry.seconds,
            lane_seconds=(),
            evaluations={},
            samples=samples,
        )


class RunJournal:
    """The journal of a run; it grows by one line per generation, which is on disk before the next one starts.

    Rank 0 writes the files, and all ranks hold the lines in memory.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._past: dict[int, Past] = {}
        self._journal: Lines | None = None
        self._rewards: Lines | None = None
        self._saved: Sequence[str] | None = None

    def open(
        self,
        folder: Path,
        header: Mapping[str, Any],
        generation: int,
        saved: Sequence[str] | None,
        writes: bool,
        share: Callable[[bytes], bytes],
    ) -> None:
        """Start a journal, or continue one.

        Args:
            folder: the run's folder.
            header: the header that this process would write.
            generation: index of the next generation; the centre is in its state before that generation.
            saved: journal lines from a checkpoint; [] resumes from the journal alone, None starts a new run.
            writes: whether this rank writes the files.
            share: gives rank 0's bytes to every rank; all ranks call it.

        Raises:
            UsageError: the folder holds the journal of another run, or of this run with other settings.
            RankError: rank 0 starts from another generation.
        """
        if len(self.lines) == generation + 1 and saved is self._saved:
            return  # a second fit of the same module
        state: dict[str, Any] = {}
        if writes:
            state = self._restore(folder, header, generation, saved)
        state = json.loads(share(to_json(state).encode()))
        if state["generation"] != generation:
            raise RankError(
                f"rank 0 starts from generation {state['generation']} and this rank from {generation}: "
                f"let all machines see the same {folder}, or give the --ckpt_path of one checkpoint."
            )
        _, entries = parse(state["lines"], folder / JOURNAL)
        tail = zip(entries[generation:], state["rewards"], strict=True)
        self._past = {
            entry.generation: Past(entry, torch.tensor(rewards, dtype=torch.float64))
            for entry, rewards in tail
        }
        self.lines, self._saved = state["lines"][: generation + 1], saved
        if self._past and writes:
            log.info("Generations %d to %d come from the journal.", generation, len(entries) - 1)

    def past(self, generation: int) -> Past | None:
        """Return, once, a generation that an earlier process finished; None if none did."""
        return self._past.pop(generation, None)

    def knows(self, generation: int) -> bool:
        """Whether the journal holds a generation that is still to be repeated."""
        return generation in self._past

    @property
    def known(self) -> int:
        """How many generations there are, with those that are still to be repeated."""
        return len(self.lines) - 1 + len(self._past)

    def append(self, entry: Entry, rewards: Tensor) -> None:
        """Add a generation; it is on disk when this returns.

        Raises:
            StorageError: the disk is full or the folder cannot be written.
        """
        if self._journal is not None and self._rewards is not None:
            # Rewards first: where the journal has a line, its rewards are on disk too.
            self._rewards.append(_rewards_line(entry.generation, rewards.tolist()))
            self._journal.append(entry.line())
        self.lines.append(entry.line())

    def repeat(self, past: Past, checksum: str) -> None:
        """Add a repeated generation, whose line is in the files already, after checking its centre.

        Raises:
            UsageError: the repeated update has led to another centre.
        """
        entry = past.entry
        if checksum != entry.checksum:
            raise UsageError(
                f"generation {entry.generation} came out of the journal as centre {checksum}, but was "
                f"{entry.checksum}: library, device or callbacks have changed since. Move {JOURNAL} and "
                f"{REWARDS} away to go on from the checkpoint alone."
            )
        self.lines.append(entry.line())

    def _restore(
        self, folder: Path, header: Mapping[str, Any], generation: int, saved: Sequence[str] | None
    ) -> dict[str, Any]:
        """Cut both files after the last generation that both of them hold; returns what all ranks need."""
        path = folder / JOURNAL
        lines = read_lines_of_journal(path)
        if saved is None and len(lines) > 1:
            raise UsageError(
                f"{path} is the journal of another run: resume that run from a checkpoint of its own, or "
                "choose another folder with default_root_dir."
            )
        if saved is None:
            lines = []  # the file has a header only: that run ended before its first generation
        if lines:
            parse(lines, path)  # before the checkpoint's lines, so that damage is found where it is
        lines = _joined(lines, list(saved or []), path)
        if lines:
            recorded, entries = parse(lines, path)
            _refuse_other_settings(recorded, header, path)
        else:
            lines, entries = [to_json(header)], []
        rewards = _read_rewards(folder / REWARDS, entries)
        end = generation
        while end < len(entries) and end in rewards:
            end += 1
        lines = lines[: end + 1]
        self._journal = Lines(path, lines)
        known = [_rewards_line(g, rewards[g]) for g in range(end) if g in rewards]
        self._rewards = Lines(folder / REWARDS, known)
        tail = [rewards[g] for g in range(generation, end)]
        return {"generation": generation, "lines": lines, "rewards": tail}


def _refuse_other_settings(recorded: Mapping[str, Any], present: Mapping[str, Any], path: Path) -> None:
    """Refuse a run that would go on with other settings; another engine gets a warning.

    Raises:
        UsageError: the message names each setting that differs.
    """
    missing = [name for name in REPLAY_KEYS if name in present and name not in recorded]
    if missing:
        raise UsageError(f'{path} is damaged in line 1: its header has no "{missing[0]}". {MENDING}')
    if different := changed(recorded, present):
        raise UsageError(
            f"{path} cannot go on with other settings: {'; '.join(different)}. Give the old "
            f"value{'s' if len(different) > 1 else ''}, or start a new run in another folder with "
            "--trainer.default_root_dir."
        )
    was, now = (header.get("settings", {}).get("engine") for header in (recorded, present))
    if was and was != now:
        log.warning(
            "The run's completions were made by %s and are made by %s from now on: rewards may differ a "
            "little. Set model.engine and its dtype to keep the old one.",
            was,
            now,
        )


def _joined(written: list[str], saved: list[str], path: Path) -> list[str]:
    """Return the longer of the file's lines and the checkpoint's; the lines that both have must be equal."""
    common = min(len(written), len(saved))
    if written[1:common] != saved[1:common]:
        raise UsageError(
            f"{path} and the checkpoint tell of different runs: choose another folder with default_root_dir."
        )
    return written if len(written) >= len(saved) else saved


def _read_rewards(path: Path, entries: Sequence[Entry]) -> dict[int, list[list[float]]]:
    """Return the members' rewards by generation.

    Raises:
        UsageError: the file is damaged.
    """
    if reason := unreadable(path):
        raise UsageError(f"{path} {reason}, and not the run's rewards: {_WITHOUT_REWARDS}")
    rewards: dict[int, list[list[float]]] = {}
    for number, line in enumerate(without_torn_end(read_lines(path), path), start=1):
        try:
            row = from_json(line)
            wrong = rewards_fault(row)
        except ValueError:
            wrong = "is no JSON"
        if not wrong and row["generation"] <= max(rewards, default=-1):
            wrong = f"holds generation {row['generation']} after {max(rewards)}"
        if not wrong and row["generation"] < len(entries):
            members = len(entries[row["generation"]].members)
            if len(row["rewards"]) != members:
                wrong = f"has the rewards of {len(row['rewards'])} members, of which there were {members}"
        if wrong:
            raise UsageError(f"{path} is damaged in line {number}: it {wrong}. {_WITHOUT_REWARDS}")
        rewards[row["generation"]] = row["rewards"]
    return rewards


def _rewards_line(generation: int, rewards: list[list[float]]) -> str:
    return to_json({"generation": generation, "rewards": rewards})
