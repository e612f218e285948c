"""A worker process: ask it over its socket, within a time limit, and end it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

from kvbench.records.sample import Stage
from kvbench.run.engine import Interrupted
from kvbench.run.launch import launch
from kvbench.run.loss import Lost, cause_of, oom_kills
from kvbench.run.messages import Reached, Reply, Request, Started

__all__ = ["Worker"]

_START_TIMEOUT_S = 300.0
"""Time for a new worker's imports before the limit of its first request starts."""

_POLL_S = 0.2
_LAST_WORDS_BYTES = 16_384


class Worker:
    """One child process with its socket and its log."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        # Unnamed, so it disappears with the two processes that hold it.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self._started = False
        self._kills = oom_kills()
        # Above the standard streams, which Popen sets up in the child: if they are closed here, a
        # new socket gets one of their numbers.
        descriptor = fcntl.fcntl(theirs.fileno(), fcntl.F_DUPFD_CLOEXEC, 3)
        theirs.close()
        try:
            self.process = launch(descriptor, self._log)
        finally:
            os.close(descriptor)
        self._connection = Connection(ours.detach())

    def ask(self, request: Request, timeout_s: float | None, stop: Callable[[], bool]) -> Reply:
        """Return the reply to a request.

        Raises:
            Interrupted: `stop` returned True; the process is still at work.
            Lost: the process ended, or there was no reply after `timeout_s` seconds.
        """
        # Imports take seconds, more on a busy machine; they do not count as part of the request.
        deadline = _deadline(timeout_s, 0.0 if self._started else _START_TIMEOUT_S)
        stage: Stage | None = None
        self._kills = oom_kills()
        try:
            self._connection.send(request)
            while True:
                if self._connection.poll(_wait_s(deadline)):
                    message: Reply | Reached | Started = self._connection.recv()
                    if isinstance(message, Started):
                        self._started = True
                        deadline = _deadline(timeout_s)
                    elif isinstance(message, Reached):
                        stage = message.stage
                    else:
                        return message
                elif deadline is not None and time.monotonic() >= deadline:
                    raise Lost("timeout", f"no result after {timeout_s:g} s", "", stage)
                elif stop():
                    raise Interrupted
                elif self.process.poll() is not None:
                    # A child process started by a library may keep the socket open.
                    raise EOFError
        except (EOFError, OSError):
            # The socket closes when the process ends, for whatever reason.
            self.process.wait()
            log = self._last_words()
            status, error = cause_of(self.process.returncode, log, self._kills)
            raise Lost(status, error, log, stage) from None

    def is_lost(self) -> bool:
        """Return whether the process has ended. Call it only between two requests.

        A killed process cannot be waited for until its last thread is gone, which takes a moment if
        it held a GPU. Between requests a worker sends nothing, so a readable socket is a closed
        one.
        """
        return self.process.poll() is not None or self._connection.poll()

    def end(self) -> None:
        """Kill the process if it still runs: it holds nothing that needs a clean shutdown."""
        self._connection.close()
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        if self.process.stdin:
            self.process.stdin.close()
        self._log.close()

    def _last_words(self) -> str:
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - _LAST_WORDS_BYTES))
        return self._log.read().decode("utf-8", "replace")


def _deadline(timeout_s: float | None, more_s: float = 0.0) -> float | None:
    return None if timeout_s is None else time.monotonic() + timeout_s + more_s


def _wait_s(deadline: float | None) -> float:
    return _POLL_S if deadline is None else min(_POLL_S, max(0.0, deadline - time.monotonic()))
