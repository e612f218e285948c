"""Make the images of charts in other processes while this one makes the page."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from kvbench.report.figures.registry import Drawing

__all__ = ["images_ahead"]


@contextlib.contextmanager
def images_ahead(drawings: Sequence[Drawing], kinds: Sequence[str]) -> Iterator[None]:
    """Make images of these kinds in one process each; afterwards the drawings have them.

    A figure cannot be sent to a process, so this one is copied. Only Linux copies one safely, and
    only if it has no other threads: elsewhere this does nothing, and images are made when needed.
    """
    started = [_start(drawings, kind) for kind in kinds] if drawings and _can_copy() else []
    try:
        yield
        for (_, images), kind in zip(started, kinds, strict=False):
            # If the process was lost, the image is made here, with its own error.
            with contextlib.suppress(EOFError):
                for drawing in drawings:
                    drawing.keep(kind, images.recv_bytes())
    finally:
        for process, images in started:
            images.close()
            process.kill()
            process.join()


def _can_copy() -> bool:
    if sys.platform != "linux" or threading.active_count() > 1:
        return False
    # A process of a pool must not have processes of its own.
    return not multiprocessing.current_process().daemon


def _start(drawings: Sequence[Drawing], kind: str) -> tuple[BaseProcess, Connection]:
    context = multiprocessing.get_context("fork")
    images, end = context.Pipe(duplex=False)
    process = context.Process(target=_make, args=(drawings, kind, end, os.getpid()), daemon=True)
    with warnings.catch_warnings():
        # numpy keeps threads of its own, which it stops for a copy.
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        process.start()
    # Only the copy has this end, so that its loss is noticed.
    end.close()
    return process, images


def _make(drawings: Sequence[Drawing], kind: str, end: Connection, parent: int) -> None:
    _die_with(parent)
    # The process that waits says what happened.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with end:
        for drawing in drawings:
            end.send_bytes(drawing.image(kind))


def _die_with(parent: int) -> None:
    """End this process when its parent does, however that ends.

    A copy has all open files of its parent: it would keep the run folder locked and the reader of
    its own pipe open, and so wait forever for somebody to read.

    Source: prctl(2), PR_SET_PDEATHSIG.
    """
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    # It may have ended before that.
    if os.getppid() != parent:
        os._exit(1)
