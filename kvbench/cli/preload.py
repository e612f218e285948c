"""Import the modules of the report while the worker loads a model and this process waits."""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvbench.records.events import Event

__all__ = ["REPORT", "Preload"]

REPORT = (
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
    "jinja2",
)
"""Modules that a report imports late: they take most of a second."""


class Preload:
    """A listener of a sweep's events that imports modules, never while a generation is timed.

    Args:
        modules: what to import.
    """

    def __init__(self, modules: Sequence[str] = REPORT) -> None:
        self._modules = modules
        self._thread: threading.Thread | None = None

    def __call__(self, event: Event) -> None:
        """Start when the first model begins to load, and finish before the first sample."""
        from kvbench.records.events import ModelLoading, SampleStarted

        if isinstance(event, ModelLoading) and self._thread is None:
            self._thread = threading.Thread(target=self._import, daemon=True)
            self._thread.start()
        elif isinstance(event, SampleStarted) and self._thread is not None:
            self._thread.join()

    def _import(self) -> None:
        for name in self._modules:
            # A module that cannot be imported fails where it is needed, with its own error.
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
