"""The command line: one file per command. Each reads options, calls the library, and prints."""

from __future__ import annotations

import time

LOADED = time.time()
"""When kvbench's own code started: the imports that follow take much of a short command's time."""

from kvbench.cli.app import app, main  # noqa: E402

__all__ = ["LOADED", "app", "main"]
