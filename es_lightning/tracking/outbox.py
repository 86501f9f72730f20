"""An outbox: a queue that one thread sends in order, and a file that keeps it while the receiver is away.

A parcel may be sent twice if nobody knows whether it has arrived, so the receiver must store it only once.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

from es_lightning.tracking.secrets import root_cause, without_password

LONGEST_PAUSE = 30.0  # seconds
THREAD = "outbox"

log = logging.getLogger(__name__)


@dataclass
class Parcel:
    """One thing to send: ``kind`` names what it is, ``data`` are the arguments for sending it."""

    run_id: str
    kind: str
    data: dict[str, Any]
    on_disk: bool = False

    def line(self) -> str:
        """Return the parcel as a line of the spool file."""
        return json.dumps({"run_id": self.run_id, "kind": self.kind, "data": self.data}) + "\n"


class Outbox:
    """Sends parcels in order from a thread of its own, and retries what failed, with growing pauses.

    Args:
        send: called with a run, a kind and the data of several parcels of both; sends them. If that has made
            the run, it returns the run's id, which takes the place of the run's name in later parcels.
        may_pass: whether an error means that the receiver is away, and not that it refuses what it was sent.
        receiver: the receiver's name in messages.
        spool: file that keeps what is pending while the receiver is away; if None, only memory keeps it.
        per_request: kinds of parcels, and how many parcels of each kind one call of ``send`` may take.
        large: kinds that may take long; while they cannot be sent, others may overtake them.
    """

    def __init__(
        self,
        send: Callable[[str, str, list[dict[str, Any]]], str | None],
        may_pass: Callable[[Exception], bool],
        receiver: str,
        spool: Path | None,
        per_request: dict[str, int],
        large: Collection[str],
    ) -> None:
        self.send, self.may_pass, self.receiver, self.spool = send, may_pass, receiver, spool
        self.per_request, self.large = per_request, large
        self.closed = True  # until the first parcel
        self._pending: deque[Parcel] = deque()
        self._made: dict[str, str] = {}  # a run's name before it was made -> its id
        self._changed = threading.Condition()  # guards every attribute and the file; never held while sending
        self._wake = threading.Event()  # ends the pause between two attempts
        self._sender: threading.Thread | None = None
        self._failures = 0  # since something was sent
        self._in_flight = ""
        self._warned: set[str] = set()

    def recover(self) -> None:
        """Queue what an earlier process left in the file."""
        if self.spool is None or not self.spool.exists():
            return
        text = self.spool.read_text(encoding="utf-8", errors="replace")
        parcels = [parcel for line in text.splitlines() if (parcel := self._parse(line))]
        if text and not text.endswith("\n"):
            self._write("\n")  # else the next parcel would be appended to the torn line
        log.info("Delivering %d entries that an earlier process left in %s.", len(parcels), self.spool)
        self.add(parcels)

    def waiting_run(self) -> str | None:
        """Return the name of a run in the file that an earlier process began and could not make."""
        if self.spool is None or not self.spool.exists():
            return None
        with self.spool.open(encoding="utf-8", errors="replace") as file:
            parcels = (self._parse(line, quiet=True) for line in file)
            return next((parcel.run_id for parcel in parcels if parcel and parcel.kind == "run"), None)

    def add(self, parcels: Collection[Parcel]) -> None:
        """Queue parcels; during an outage they are on disk when this returns."""
        with self._changed:
            self._rename(parcels)
            self._pending.extend(parcels)
            if self._outage:
                self._save(parcels)
            self.closed = False
            if self._sender is None:
                self._sender = threading.Thread(target=self._work, name=THREAD, daemon=True)
                self._sender.start()
            self._changed.notify_all()

    def close(self, patience: float) -> None:
        """Wait up to ``patience`` seconds until all is sent, then stop until ``add`` opens the outbox again.

        A large parcel may take longer, as long as nothing fails.
        """
        with self._changed:
            if self.closed:
                return
            self._failures = min(self._failures, 2)  # short pauses again
            self._wake.set()  # and no pause now
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
                    log.info("%s is still receiving a %s.", self.receiver, self._in_flight)
                told = True

    @property
    def _outage(self) -> bool:
        return self._failures > 1

    def _work(self) -> None:
        while batch := self._next_batch():
            try:
                made = self._deliver(batch)
            except Exception as error:
                self._failed(batch, error)
            else:
                self._delivered(batch, made)

    def _next_batch(self) -> list[Parcel]:
        with self._changed:
            self._changed.wait_for(lambda: self._pending or self.closed)
            if self.closed:
                self._sender = None
                return []
            first = self._pending[0]
            self._in_flight = first.kind
            alike = takewhile(lambda p: (p.run_id, p.kind) == (first.run_id, first.kind), self._pending)
            return list(islice(alike, self.per_request[first.kind]))

    def _deliver(self, batch: list[Parcel]) -> str | None:
        try:
            return self.send(batch[0].run_id, batch[0].kind, [parcel.data for parcel in batch])
        except Exception as error:
            if self.may_pass(error):
                raise
            refusal = error
        if len(batch) == 1:
            self._refused(batch[0], refusal)
            return None
        middle = len(batch) // 2  # refused as a whole: halve it until the culprit is on its own
        self._deliver(batch[:middle])
        return self._deliver(batch[middle:])

    def _delivered(self, batch: list[Parcel], made: str | None) -> None:
        with self._changed:
            for _ in batch:
                self._pending.popleft()
            if made is not None:
                self._made[batch[0].run_id] = made
                self._rename(self._pending)
            if self._pending and self._outage:
                return
            if self._outage:
                log.info("%s answers again, and has all entries.", self.receiver)
            self._failures = 0
            if not self._pending:
                self._delete()
                self._changed.notify_all()

    def _rename(self, parcels: Iterable[Parcel]) -> None:
        for parcel in parcels:
            if (
                parcel.kind != "run"
            ):  # it may come a second time, from the file, and goes by its name then too
                parcel.run_id = self._made.get(parcel.run_id, parcel.run_id)

    def _failed(self, batch: list[Parcel], error: Exception) -> None:
        with self._changed:
            self._failures += 1
            if self._failures == 1:
                return  # perhaps a stale connection: try once more, at once
            if self._failures == 2:
                message = "%s accepts no entries (%s): training goes on, and %s keeps them until it does."
                log.warning(message, self.receiver, root_cause(error), self.spool or "memory alone")
            self._save(self._pending)
            if batch[0].kind in self.large:
                self._pending.rotate(-len(batch))  # to the end: only the store of artifacts may be down
            pause = min(LONGEST_PAUSE, 2 ** (self._failures - 2))
        self._wake.wait(pause)
        self._wake.clear()

    def _refused(self, parcel: Parcel, error: Exception) -> None:
        name = parcel.data.get("key") or parcel.data.get("path") or ""
        level = logging.DEBUG if parcel.kind in self._warned else logging.WARNING
        self._warned.add(parcel.kind)
        message = "%s refuses the %s %s, so it is dropped (later ones without a warning): %s"
        log.log(level, message, self.receiver, parcel.kind, name, without_password(error))

    def _parse(self, line: str, quiet: bool = False) -> Parcel | None:
        """Return the parcel of a line of the spool file; None if the line is torn, with a warning."""
        try:
            parcel = Parcel(**json.loads(line), on_disk=True)
            self.per_request[parcel.kind]  # KeyError for an unknown kind
        except (ValueError, TypeError, KeyError):
            if not quiet:
                log.warning("A torn line of %s is dropped: %s", self.spool, line[:80])
            return None
        return parcel

    def _save(self, parcels: Iterable[Parcel]) -> None:
        fresh = [parcel for parcel in parcels if not parcel.on_disk]
        if fresh and self.spool and self._write("".join(parcel.line() for parcel in fresh)):
            for parcel in fresh:
                parcel.on_disk = True

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
        with suppress(OSError):  # then the next process sends the parcels once more
            if self.spool:
                self.spool.unlink(missing_ok=True)
