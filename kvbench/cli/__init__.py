"""The command line: one file per command. Options in, one library call, text out."""

from __future__ import annotations

from kvbench.cli.app import app, main

__all__ = ["app", "main"]
