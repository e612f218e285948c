"""Read a user-supplied file: only a regular file, and only up to a size limit."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from kvbench.errors import UserError

__all__ = ["check_regular", "read_regular", "read_text"]

_CHUNK_BYTES = 1 << 20


def read_regular(path: Path, limit: int, what: str) -> bytes:
    """Return the bytes of a regular file of at most `limit` bytes; `what` names it in errors.

    Raises:
        UserError: it is a device, a pipe or similar, or it is larger.
        OSError: it does not exist or cannot be read.
    """
    # Open without blocking: opening a pipe without a writer would hang before it can be refused.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise UserError(
                f"{path}: not a regular file, so not a {what}.", kind="not_a_file", path=path
            )
        found = bytearray()
        # Count while reading: some files report no size (in /proc), and others grow.
        while chunk := file.read(_CHUNK_BYTES):
            found += chunk
            if len(found) > limit:
                raise UserError(
                    f"{path}: larger than {limit >> 20} MiB, so not a {what}.",
                    kind="too_large",
                    path=path,
                )
    return bytes(found)


def read_text(path: Path, limit: int, what: str) -> str:
    """Return the text of a file with every line ending as one newline; see `read_regular`.

    Raises:
        UserError: it does not exist, cannot be read, is larger, or is not UTF-8 text.
    """
    try:
        # A byte-order mark is not part of the text.
        text = read_regular(path, limit, what).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such {what}.", kind="not_found", path=path) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text.", kind="not_text", path=path) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"{path}: the {what} cannot be read: {reason}.", kind="unreadable", path=path
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def check_regular(path: Path, what: str) -> None:
    """Refuse an existing path that is not a regular file, such as a device or a pipe.

    Raises:
        UserError: it is not one. A missing file is left to the caller.
    """
    if path.exists() and not path.is_file():
        raise UserError(
            f"{path}: not a regular file, so not a {what}.", kind="not_a_file", path=path
        )
