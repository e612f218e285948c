"""The command line: one file per command. Options in, one library call, text out."""

from __future__ import annotations

import time

LOADED = time.time()
"""When kvbench's own code began to run: what follows takes a good part of a short command."""

from kvbench.cli.app import app, main  # noqa: E402

__all__ = ["LOADED", "app", "main"]
