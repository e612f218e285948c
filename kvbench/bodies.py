"""Find the body of an entry: what it names as `module:name`, so that an entry needs no torch."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["named_body"]


def named_body(path: str) -> Any:
    """Return the object that `module:name` names; its module is imported now."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
