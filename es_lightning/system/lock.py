"""The lock on a run's folder: one living process holds it, and one that died has let go of it.

The kernel lets go of a POSIX record lock when its process ends, however it ends. Unlike ``flock``'s, child
processes do not inherit it, so an engine's process that outlives a killed run holds nothing. NFS has these
locks too. Some cluster file systems have none, or none across machines. So the file names its holder, and the
holder touches the file every few seconds.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from es_lightning.errors import StorageError, UsageError
from es_lightning.system.fields import COUNT, TEXT, fault

log = logging.getLogger(__name__)

LOCK = "run.lock"
BEAT_SECONDS = 10.0
DYING_SECONDS = 2.0  # a killed process may need as long to end
SILENT_SECONDS = 60.0  # a holder on another machine that gave no sign for so long is dead


@dataclass(frozen=True)
class Holder:
    """The process that holds a folder.

    Args:
        host: name of its machine.
        boot: what the machine's kernel calls the time since it was started; no other machine has it.
        pid: its number.
        started: when it was started, in the kernel's ticks; a later process with this number has another.
        since: when it took the folder.
    """

    host: str
    boot: str
    pid: int
    started: int
    since: str

    @classmethod
    def this(cls) -> Holder:
        """This process."""
        now = datetime.now().astimezone().isoformat(" ", "seconds")
        return cls(socket.gethostname(), _boot(), os.getpid(), _started(os.getpid()), now)

    @classmethod
    def read(cls, descriptor: int) -> Holder | None:
        """Read the holder's name; None if there is none, or if it was killed while writing it."""
        kinds = {"host": TEXT, "boot": TEXT, "pid": COUNT, "started": COUNT, "since": TEXT}
        try:
            values = json.loads(os.pread(descriptor, 4096, 0))
        except ValueError:
            return None
        return None if fault(values, kinds) else cls(**{name: values[name] for name in kinds})

    def died(self, locks_work: bool) -> bool | None:
        """Whether the process is dead; None if this machine cannot know.

        Args:
            locks_work: whether the kernel has given its lock to this process, so that nobody here holds it.
        """
        this = Holder.this()
        if self.boot != this.boot:
            return None  # a file system may have locks that other machines do not see
        if locks_work:
            return True
        return _started(self.pid) != self.started if self.host == this.host else None


class _Lock:
    """A folder's lock in the hands of this process."""

    def __init__(self, path: Path, descriptor: int, made: list[Path]) -> None:
        self.users, self.pid = 0, os.getpid()
        self._path, self._descriptor, self._made = path, descriptor, made
        self._released = threading.Event()
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(asdict(Holder.this())).encode(), 0)
        self._thread = threading.Thread(target=self._beat, name="run lock", daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        while not self._released.wait(BEAT_SECONDS):
            with suppress(OSError):  # whatever ails the disk, the run's own files will tell
                os.utime(self._descriptor)

    def release(self) -> None:
        """Let go of the folder, and leave it as it would be without a lock."""
        if self.pid != os.getpid():
            return  # a copy in a forked process, which holds nothing
        self._released.set()
        self._thread.join()
        with suppress(OSError):
            self._path.unlink()  # before the lock is gone, so that it is still this process's own file
        os.close(self._descriptor)
        for folder in self._made:
            with suppress(OSError):  # not empty: the run left something
                folder.rmdir()


# The locks of this process by their folders' numbers. A process never refuses itself: whether a second fit in
# one script or notebook may go on, the journal decides.
_held: dict[tuple[int, int], _Lock] = {}


def hold(folder: Path, option: str = "--trainer.default_root_dir") -> Callable[[], None]:
    """Hold a run's folder against all other processes.

    Args:
        folder: made if it does not exist.
        option: that names the folder, for messages.

    Returns:
        A function that lets go of the folder, if nothing else in this process holds it; a second call does
        nothing.

    Raises:
        UsageError: another process holds it.
        StorageError: the folder cannot be written.
    """
    try:
        made = [each for each in (folder, *folder.parents) if not each.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        status = folder.stat()
        key = (status.st_dev, status.st_ino)
        if key not in _held or _held[key].pid != os.getpid():  # a forked process has a copy of its parent's
            _held[key] = _Lock(folder / LOCK, _take(folder, option), made)
    except OSError as error:
        raise StorageError(
            f"{folder} cannot be written ({error.strerror or error}): mend its permissions, free space, or "
            f"choose another folder with {option}."
        ) from error
    lock = _held[key]
    lock.users += 1
    released = False

    def release() -> None:
        nonlocal released
        if released:
            return
        released, lock.users = True, lock.users - 1
        if not lock.users:
            del _held[key]
            lock.release()

    return release


def _take(folder: Path, option: str) -> int:
    """Return the descriptor of the folder's lock, once no other process holds it.

    A holder on another machine is watched, since clocks differ: while it lives, it touches its file.
    """
    first: float | None = None
    began = time.monotonic()
    while True:
        descriptor, taken = _open(folder / LOCK)
        holder, touched = Holder.read(descriptor), os.fstat(descriptor).st_mtime
        waited = time.monotonic() - began
        died = taken is not False if holder is None else holder.died(taken is True)
        if taken is not False and (died or (died is None and waited > SILENT_SECONDS)):
            return descriptor
        os.close(descriptor)  # before the next look, which then sees what a file server has by then
        lives = taken is False or died is False
        if (lives and waited > DYING_SECONDS) or touched != (touched if first is None else first):
            raise _refusal(folder, holder, option)
        if first is None and holder and not lives:
            words = "%s was held by process %d on %s: waiting for a sign of its life, at most %g s."
            log.info(words, folder, holder.pid, holder.host, SILENT_SECONDS)
        first = touched if first is None else first
        time.sleep(0.2)


def _open(path: Path) -> tuple[int, bool | None]:
    """Open the lock's file and try to lock it.

    Returns:
        Its descriptor, and whether the kernel has given the lock to this process; None where the file system
        has no locks.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # POSIX allows either
            return descriptor, False
        except OSError:
            return descriptor, None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor, True
        os.close(descriptor)  # its holder has removed it between the two calls


def _refusal(folder: Path, holder: Holder | None, option: str) -> UsageError:
    who = (
        f"process {holder.pid} on {holder.host}, since {holder.since}" if holder else "a run that just began"
    )
    return UsageError(
        f"{folder} is in use by another run ({who}): wait until that has ended, stop it, or choose another "
        f"folder with {option}."
    )


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:  # no Linux
        return socket.gethostname()


def _started(pid: int) -> int:
    """Return when a process was started, in the kernel's ticks; 0 if there is none, or if it has ended."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    state, *numbers = status.rpartition(")")[2].split()  # the name before may hold blanks and brackets
    return 0 if state in "ZX" else int(numbers[18])
