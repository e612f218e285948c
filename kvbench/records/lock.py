"""One writer for a run folder at a time, and who it is."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from kvbench.errors import UserError
from kvbench.input_file import read_regular
from kvbench.records.files import write_atomically
from kvbench.records.sample import utc_now
from kvbench.text import clip

__all__ = ["RunLock", "held", "is_in_use"]

_LOCK, _HOLDER = ".lock", ".lock-holder"
_MAX_HOLDER_BYTES = 4096
_PATIENCE_S = 0.5


class RunLock:
    """Holds a run folder until `release`. The system gives it back when the process dies.

    Raises:
        UserError: another process holds it, or the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = FileLock(folder / _LOCK)
        try:
            # Who only looks whether it is held holds it for a moment.
            self._lock.acquire(timeout=_PATIENCE_S)
            # Beside the lock and not in it: older releases of filelock empty the file when another
            # process tries.
            # Replaced: what lies there may be a link that leads out of the folder.
            write_atomically(folder / _HOLDER, _this_process())
        except Timeout as error:
            raise UserError(
                f"{folder} is in use by {_holder(folder)}: wait for it, or choose another --name.",
                kind="in_use",
                path=folder,
            ) from error
        except OSError as error:
            self._lock.release()
            raise UserError(
                f"{folder} is not writable: {error.strerror or error}.",
                kind="unwritable",
                path=folder,
            ) from error

    def release(self) -> None:
        """Let others write."""
        with contextlib.suppress(OSError):
            # While it is held: filelock notices that a file it has opened is no longer there.
            (self._folder / _HOLDER).unlink(missing_ok=True)
            (self._folder / _LOCK).unlink(missing_ok=True)
        self._lock.release()

    @staticmethod
    def owns(path: Path) -> bool:
        """Whether a file in a run folder is part of its lock."""
        return path.name in (_LOCK, _HOLDER)


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a run folder while the block runs.

    Raises:
        UserError: another process holds it, or the folder cannot be written.
    """
    lock = RunLock(folder)
    try:
        yield
    finally:
        lock.release()


def is_in_use(folder: Path) -> bool:
    """Whether a process is writing the run folder now."""
    if not (folder / _LOCK).exists():
        return False
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:
        # A folder that cannot be written has no writer of ours.
        return False
    lock.release()
    return False


def _this_process() -> str:
    return f"process {os.getpid()} on {platform.node() or 'this machine'} since {utc_now()}"


def _holder(folder: Path) -> str:
    try:
        holder = read_regular(folder / _HOLDER, _MAX_HOLDER_BYTES, "note on who holds a run")
    except (OSError, UserError):
        return "another process"
    return clip(holder.decode("utf-8", "replace"), 200) or "another process"
