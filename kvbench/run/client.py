"""The client of a worker: start one when it is needed, ask it, and drop it once it is lost."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from kvbench.errors import UserError
from kvbench.plan.case import ModelKey
from kvbench.run.loss import Lost, last_line
from kvbench.run.messages import Failed, Refused, Request
from kvbench.run.process import Worker

__all__ = ["Client"]


class Client:
    """Ask a worker to call a method of its engine; after a loss, ask a new one.

    Args:
        seed: seed of random weights and prompt ids.
        trust_remote_code: let Transformers run code that comes with a model.
        stop: called during requests that can be stopped; return True to end one at once.
        memory_limit: bytes that each worker may use on the host; None for no limit.

    Attributes:
        worker: the current worker; None while there is none.
        started: the number of workers started so far.
        open_model: the model that the current worker has open.
    """

    def __init__(
        self,
        seed: int,
        trust_remote_code: bool,
        stop: Callable[[], bool],
        memory_limit: int | None = None,
    ) -> None:
        self._seed = seed
        self._trust_remote_code = trust_remote_code
        self._stop = stop
        self._memory_limit = memory_limit
        self._log = ""
        self.worker: Worker | None = None
        self.started = 0
        self.open_model: ModelKey | None = None

    def ask_twice(self, method: str, *arguments: Any) -> Any:
        """Ask again if the worker is lost: it may have been killed for unrelated reasons.

        Raises:
            UserError: the worker refused the request, or was lost twice.
            Interrupted: the sweep should stop.
        """
        with contextlib.suppress(Lost):
            return self.ask(method, *arguments)
        try:
            return self.ask(method, *arguments)
        except Lost as lost:
            raise UserError(f"Nothing can be measured: {lost.error}", kind="worker_lost") from lost

    def ask(
        self,
        method: str,
        *arguments: Any,
        timeout_s: float | None = None,
        stoppable: bool = True,
    ) -> Any:
        """Call a method of the worker's engine.

        Raises:
            UserError: the worker refused the request.
            Interrupted: the sweep should stop.
            Lost: there is no answer, and the worker is gone.
        """
        if self.worker is None:
            self.worker = Worker()
            self.started += 1
        stop = self._stop if stoppable else lambda: False
        request = Request(
            method, arguments, self._seed, self._trust_remote_code, self._memory_limit
        )
        try:
            reply = self.worker.ask(request, timeout_s, stop)
        except Lost as lost:
            self._lose(lost.log)
            raise
        except BaseException:
            # Interrupted by the sweep or at the keyboard: nobody waits for its current work.
            self._lose("")
            raise
        if isinstance(reply, Refused):
            raise reply.error
        if isinstance(reply, Failed):
            # The worker is there, but its state is unknown.
            self._lose(reply.traceback)
            raise Lost("crashed", last_line(reply.traceback), reply.traceback)
        if not reply.healthy:
            # Its result is returned; a CUDA context with a fault is not used again.
            self._lose("")
        return reply.value

    def take_log(self) -> str:
        """Return the last output of the last lost worker, once."""
        log, self._log = self._log, ""
        return log

    def close(self) -> None:
        """End the worker, and release everything it holds of the device."""
        self.open_model = None
        if self.worker is not None:
            worker, self.worker = self.worker, None
            worker.end()

    def _lose(self, log: str) -> None:
        self._log = log
        self.close()
