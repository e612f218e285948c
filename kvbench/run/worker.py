"""The worker: a process that owns the device, asked over a socket and lost without harm.

Started by `kvbench.run.supervisor` in a fresh interpreter, as multiprocessing's spawn would do, but
without running the caller's script again.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import threading
import traceback
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from kvbench.errors import UserError
from kvbench.run.messages import Failed, Reached, Refused, Reply, Request, Result, Started

if TYPE_CHECKING:
    from kvbench.measure.engine import LocalEngine

__all__ = ["main"]


def main(descriptor: int) -> None:
    """Answer requests over a socket until the other end is closed."""
    faulthandler.enable()
    # The workers and compilers that a library may start are not to hold the socket open.
    os.set_inheritable(descriptor, False)
    threading.Thread(target=_end_with_the_supervisor, daemon=True).start()
    connection = Connection(descriptor)
    engine: LocalEngine | None = None
    # The supervisor hung up.
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            request: Request = connection.recv()
            try:
                if engine is None:
                    engine = _engine(connection, request)
                    connection.send(Started())
                reply = _answer(engine, request)
            except UserError as error:
                reply = Refused(error)
            except Exception:
                # A fault of ours or of a library's outside of what a sample may do: told whole.
                reply = Failed(traceback.format_exc())
            connection.send(reply)


def _engine(connection: Connection, request: Request) -> LocalEngine:
    # Seconds of imports, so that an idle worker costs nothing but a Python.
    from kvbench.measure.engine import LocalEngine

    return LocalEngine(
        seed=request.seed,
        trust_remote_code=request.trust_remote_code,
        on_stage=lambda stage: connection.send(Reached(stage)),
    )


def _answer(engine: LocalEngine, request: Request) -> Reply:
    method: Any = getattr(engine, request.method)
    value = method(*request.arguments)
    return Result(value, healthy=engine.healthy)


def _end_with_the_supervisor() -> None:
    """End this process when the supervisor dies, also in the middle of a long generation.

    Standard input is a pipe that the supervisor holds open and never writes to.
    """
    while os.read(0, 1):
        pass
    os._exit(1)
