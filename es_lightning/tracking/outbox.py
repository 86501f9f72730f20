"""An outbox: a queue that one thread works off in order, and a file that keeps it while the receiver is away.

An entry may be sent twice, when nobody knows whether it arrived, so the receiver has to store it once.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

LONGEST_PAUSE = 30.0  # seconds
THREAD = "outbox"

log = logging.getLogger(__name__)


@dataclass
class Entry:
    """One thing to send: ``data`` are the arguments of what ``kind`` names."""

    run_id: str
    kind: str
    data: dict[str, Any]
    on_disk: bool = False

    def line(self) -> str:
        """The entry as a line of the spool file."""
        return json.dumps({"run_id": self.run_id, "kind": self.kind, "data": self.data}) + "\n"


class Outbox:
    """Sends entries in order from a thread of its own, and tries again, with growing pauses, what failed.

    Args:
        send: sends the data of several entries, given their run and kind.
        may_pass: whether an error says that the receiver is away, not that it refuses what it was sent.
        receiver: what the receiver is called in messages.
        spool: file for what is pending while the receiver is away; memory alone keeps it if None.
        per_request: kinds of entries, and how many of each one call of ``send`` may take.
        large: kinds that may take long, and that let others pass while they cannot be sent.
    """

    def __init__(
        self,
        send: Callable[[str, str, list[dict[str, Any]]], None],
        may_pass: Callable[[Exception], bool],
        receiver: str,
        spool: Path | None,
        per_request: dict[str, int],
        large: Collection[str],
    ) -> None:
        self.send, self.may_pass, self.receiver, self.spool = send, may_pass, receiver, spool
        self.per_request, self.large = per_request, large
        self.closed = True  # until the first entry
        self._pending: deque[Entry] = deque()
        self._changed = threading.Condition()  # guards every attribute and the file; never held while sending
        self._wake = threading.Event()  # ends the pause between two attempts
        self._sender: threading.Thread | None = None
        self._failures = 0  # since something was sent
        self._in_flight = ""
        self._warned: set[str] = set()

    def recover(self) -> None:
        """Take over what an earlier process left in the file."""
        if self.spool is None or not self.spool.exists():
            return
        text = self.spool.read_text(encoding="utf-8", errors="replace")
        entries = [entry for line in text.splitlines() if (entry := self._entry(line))]
        if text and not text.endswith("\n"):
            self._write("\n")  # else the next entry would be torn too
        log.info("Delivering %d entries that an earlier process left in %s.", len(entries), self.spool)
        self.add(entries)

    def add(self, entries: Collection[Entry]) -> None:
        """Queue entries; during an outage they are on disk when this returns."""
        with self._changed:
            self._pending.extend(entries)
            if self._outage:
                self._save(entries)
            self.closed = False
            if self._sender is None:
                self._sender = threading.Thread(target=self._work, name=THREAD, daemon=True)
                self._sender.start()
            self._changed.notify_all()

    def close(self, patience: float) -> None:
        """Wait until all is sent, ``patience`` seconds at most, and stop until ``add`` opens it again.

        What is large may take longer, as long as it goes well.
        """
        with self._changed:
            if self.closed:
                return
            self._failures = min(self._failures, 2)  # short pauses again
            self._wake.set()
            self._wait(patience)
            self.closed = True
            self._changed.notify_all()
            self._save(self._pending)
            left = len(self._pending)
        if left:
            fate = (
                f"{self.spool} keeps them, to be delivered when the run is resumed"
                if self.spool
                else "they are lost"
            )
            log.warning("%d entries were not delivered to %s: %s.", left, self.receiver, fate)

    def _wait(self, patience: float) -> None:
        end, told = time.monotonic() + patience, False
        while self._pending and (left := end - time.monotonic()) > 0:
            self._changed.wait(min(left, 1.0))
            if self._in_flight in self.large and self._failures == 0 and end - time.monotonic() < 1:
                end += 1
                if not told:
                    log.info("%s still takes in a %s.", self.receiver, self._in_flight)
                told = True

    @property
    def _outage(self) -> bool:
        return self._failures > 1

    def _work(self) -> None:
        while batch := self._next_batch():
            try:
                self._deliver(batch)
            except Exception as error:
                self._failed(batch, error)
            else:
                self._delivered(batch)

    def _next_batch(self) -> list[Entry]:
        with self._changed:
            self._changed.wait_for(lambda: self._pending or self.closed)
            if self.closed:
                self._sender = None
                return []
            first = self._pending[0]
            self._in_flight = first.kind
            alike = takewhile(lambda e: (e.run_id, e.kind) == (first.run_id, first.kind), self._pending)
            return list(islice(alike, self.per_request[first.kind]))

    def _deliver(self, batch: list[Entry]) -> None:
        try:
            return self.send(batch[0].run_id, batch[0].kind, [entry.data for entry in batch])
        except Exception as error:
            if self.may_pass(error):
                raise
            refusal = error
        if len(batch) == 1:
            return self._refused(batch[0], refusal)
        middle = len(batch) // 2  # refused as a whole: halve it until the culprit is alone
        self._deliver(batch[:middle])
        return self._deliver(batch[middle:])

    def _delivered(self, batch: list[Entry]) -> None:
        with self._changed:
            for _ in batch:
                self._pending.popleft()
            if self._pending and self._outage:
                return
            if self._outage:
                log.info("%s answers again, and has all entries.", self.receiver)
            self._failures = 0
            if not self._pending:
                self._delete()
                self._changed.notify_all()

    def _failed(self, batch: list[Entry], error: Exception) -> None:
        with self._changed:
            self._failures += 1
            if self._failures == 1:
                return  # perhaps a stale connection: once more, at once
            if self._failures == 2:
                message = "%s takes no entries (%s): training goes on, and %s keeps them until it does."
                log.warning(message, self.receiver, root_cause(error), self.spool or "memory alone")
            self._save(self._pending)
            if batch[0].kind in self.large:
                self._pending.rotate(-len(batch))
            pause = min(LONGEST_PAUSE, 2 ** (self._failures - 2))
        self._wake.wait(pause)
        self._wake.clear()

    def _refused(self, entry: Entry, error: Exception) -> None:
        name = entry.data.get("key") or entry.data.get("path") or ""
        level = logging.DEBUG if entry.kind in self._warned else logging.WARNING
        self._warned.add(entry.kind)
        message = "%s refuses the %s %s, which is dropped, as later ones will be without a warning: %s"
        log.log(level, message, self.receiver, entry.kind, name, one_line(error))

    def _entry(self, line: str) -> Entry | None:
        try:
            entry = Entry(**json.loads(line), on_disk=True)
            self.per_request[entry.kind]
        except (ValueError, TypeError, KeyError):
            log.warning("A torn line of %s is dropped: %s", self.spool, line[:80])
            return None
        return entry

    def _save(self, entries: Iterable[Entry]) -> None:
        fresh = [entry for entry in entries if not entry.on_disk]
        if fresh and self.spool and self._write("".join(entry.line() for entry in fresh)):
            for entry in fresh:
                entry.on_disk = True

    def _write(self, text: str) -> bool:
        assert self.spool
        try:
            self.spool.parent.mkdir(parents=True, exist_ok=True)
            with self.spool.open("a", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            if "spool" not in self._warned:
                log.warning("%s cannot be written (%s): memory alone keeps the entries.", self.spool, error)
            self._warned.add("spool")
            return False
        return True

    def _delete(self) -> None:
        with suppress(OSError):  # then the next process sends the entries once more
            if self.spool:
                self.spool.unlink(missing_ok=True)


def root_cause(error: BaseException) -> str:
    """What lies at the bottom of an error that libraries have wrapped, on one line."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return one_line(error) or type(error).__name__


def one_line(message: object) -> str:
    """The beginning of a message, with no password of an address in it."""
    return re.sub(r"//[^/@\s]*@", "//", " ".join(str(message).split()))[:200]
