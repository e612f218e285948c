"""The worker: a process that owns the device and serves requests; its loss does no harm.

`kvbench.run.launch` starts it in a fresh interpreter, as multiprocessing's spawn does, but
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
    """Answer requests over a socket until the other end closes it."""
    faulthandler.enable()
    # Workers and compilers that a library starts must not hold the socket open.
    os.set_inheritable(descriptor, False)
    threading.Thread(target=_end_with_the_supervisor, daemon=True).start()
    connection = Connection(descriptor)
    engine: LocalEngine | None = None
    # The supervisor closed the connection.
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
                # A fault in kvbench or a library, outside of what a sample may do: report it in
                # full.
                reply = Failed(traceback.format_exc())
            connection.send(reply)


def _engine(connection: Connection, request: Request) -> LocalEngine:
    # Imports take seconds; an idle worker should cost no more than a Python process.
    from kvbench.measure.engine import LocalEngine

    engine = LocalEngine(
        seed=request.seed,
        trust_remote_code=request.trust_remote_code,
        on_stage=lambda stage: connection.send(Reached(stage)),
    )
    if request.memory_limit is not None:
        engine.limit_memory(request.memory_limit)
    return engine


def _answer(engine: LocalEngine, request: Request) -> Reply:
    method: Any = getattr(engine, request.method)
    value = method(*request.arguments)
    return Result(value, healthy=engine.healthy)


def _end_with_the_supervisor() -> None:
    """End this process when the supervisor dies, even in the middle of a long generation.

    Standard input is a pipe that the supervisor holds open and never writes to.
    """
    while os.read(0, 1):
        pass
    os._exit(1)
