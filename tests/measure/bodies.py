"""What only tests have: a body, and what lets strategies that need a GPU run without one."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import pytest
import torch
from transformers import CompileConfig

from kvbench.caches import STRATEGIES
from kvbench.measure.caches import Call, static

OFFLOADED = ["offloaded", "offloaded-static"]


def transformers_static(call: Call) -> dict[str, Any]:
    """The static cache that `generate` makes itself."""
    return {"cache_implementation": "static", "disable_compile": True}


class NoStream(contextlib.nullcontext[None]):
    """A stream of a device that does not exist: the host does one thing after another."""

    def wait_stream(self, other: object) -> None:
        """Do nothing."""


def allow_here(patch: pytest.MonkeyPatch, name: str) -> None:
    """Let a strategy that needs a GPU run without one; others are unchanged.

    Offloading moves everything from the host to the host. Compilation is by dynamo alone.
    """
    if name in OFFLOADED:
        patch.setattr(torch, "Stream", NoStream)
        patch.setattr(torch.cuda, "default_stream", lambda device: NoStream())
    elif name == "static-compiled":
        config = CompileConfig(backend="eager", mode=None)
        # Transformers' own tests have no other way either.
        config._compile_all_devices = True
        body = static.compiled
        patch.setattr(static, "compiled", lambda call: body(call) | {"compile_config": config})
    else:
        return
    patch.setitem(STRATEGIES, name, dataclasses.replace(STRATEGIES[name], needs=()))
