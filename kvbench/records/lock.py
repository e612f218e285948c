"""Allow one writer for a run folder at a time, and record who it is."""

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
    """Hold a run folder until `release`. The system releases it when the process dies.

    Raises:
        UserError: another process holds it, or the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = FileLock(folder / _LOCK)
        try:
            # Checking whether it is held takes the lock for a moment.
            self._lock.acquire(timeout=_PATIENCE_S)
            # Next to the lock and not in it: older releases of filelock empty the file when another
            # process tries. Replaced: what exists there may be a link that leads out of the folder.
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
        """Release the folder to other writers."""
        with contextlib.suppress(OSError):
            # While it is held: filelock notices that a file it opened is gone.
            (self._folder / _HOLDER).unlink(missing_ok=True)
            (self._folder / _LOCK).unlink(missing_ok=True)
        self._lock.release()

    @staticmethod
    def owns(path: Path) -> bool:
        """Return whether a file in a run folder belongs to its lock."""
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
    """Return whether a process is writing to the run folder now."""
    if not (folder / _LOCK).exists():
        return False
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:
        # A folder that cannot be written to has no writer of ours.
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
