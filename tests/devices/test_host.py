"""The host: the high-water mark and the poller see freed memory; who uses the CPUs."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest
import torch

from kvbench.devices import host
from kvbench.devices.host import CpuShare, RssPoller

MIB = 2**20
SIZE = 64 * MIB
NEAR = 8 * MIB

needs_mark = pytest.mark.skipif(
    not host.high_water_mark_works(), reason="the high-water mark cannot be reset here"
)


class Loop:
    """Garbage that only the collector can free."""

    itself: Loop


def allocate_and_free(hold_s: float = 0.0) -> None:
    """Touch 64 MiB and free them."""
    block = torch.ones(SIZE // 4)
    time.sleep(hold_s)
    assert block[-1] == 1
    del block


def test_the_resident_set_grows_by_what_is_touched() -> None:
    host.release_memory()
    before = host.rss_bytes()
    block = torch.ones(SIZE // 4)
    grown = host.rss_bytes() - before
    assert abs(grown - SIZE) < NEAR
    del block
    host.release_memory()
    assert abs(host.rss_bytes() - before) < NEAR


@needs_mark
def test_the_high_water_mark_sees_what_was_freed_again() -> None:
    host.release_memory()
    host.reset_peak_rss()
    before = host.rss_bytes()
    allocate_and_free()
    assert abs(host.peak_rss_bytes() - before - SIZE) < NEAR
    assert abs(host.rss_bytes() - before) < NEAR


@needs_mark
def test_a_reset_forgets_an_earlier_peak() -> None:
    allocate_and_free()
    host.release_memory()
    host.reset_peak_rss()
    assert abs(host.peak_rss_bytes() - host.rss_bytes()) < NEAR


@needs_mark
def test_the_high_water_mark_and_the_poller_agree() -> None:
    host.release_memory()
    host.reset_peak_rss()
    with RssPoller() as poller:
        allocate_and_free(hold_s=0.05)
    assert abs(host.peak_rss_bytes() - poller.peak) < NEAR


def test_the_poller_sees_what_was_freed_again() -> None:
    host.release_memory()
    before = host.rss_bytes()
    with RssPoller() as poller:
        allocate_and_free(hold_s=0.05)
    assert abs(poller.peak - before - SIZE) < NEAR


def test_the_poller_sees_what_is_there_at_both_ends() -> None:
    # An interval so long that the thread itself never looks.
    with RssPoller(interval=60.0) as poller:
        block = torch.ones(SIZE // 4)
    assert poller.peak >= SIZE
    del block


def test_the_poller_ends_its_thread() -> None:
    before = threading.active_count()
    with RssPoller() as poller:
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
    assert poller.peak > 0


def test_a_poller_ends_its_thread_when_the_block_fails() -> None:
    before = threading.active_count()
    with pytest.raises(ValueError, match="in the block"), RssPoller():
        raise ValueError("in the block")
    assert threading.active_count() == before


def test_without_clear_refs_there_is_no_high_water_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "_CLEAR_REFS", tmp_path / "no" / "clear_refs")
    assert not host.high_water_mark_works.__wrapped__()


def test_without_vmhwm_there_is_no_high_water_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "_CLEAR_REFS", tmp_path / "clear_refs")
    monkeypatch.setattr(host, "_STATUS", tmp_path / "status")
    (tmp_path / "status").write_text("Name:\tpython\nVmRSS:\t 10 kB\n")
    assert not host.high_water_mark_works.__wrapped__()
    (tmp_path / "status").write_text("Name:\tpython\nVmHWM:\t 10 kB\n")
    assert host.high_water_mark_works.__wrapped__()
    assert host.peak_rss_bytes() == 10 * 1024


@pytest.mark.skipif(host._malloc_trim() is None, reason="this C library cannot trim")
def test_holes_in_the_heap_are_given_back() -> None:
    host.release_memory()
    before = host.rss_bytes()
    # Too small for their own mappings; the last one holds the end of the heap.
    blocks = [b"x" * 60_000 for _ in range(1000)]
    last = blocks.pop()
    blocks.clear()
    host.release_memory()
    assert host.rss_bytes() - before < NEAR
    assert len(last) == 60_000


def test_memory_is_released_without_the_c_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_malloc_trim", lambda: None)
    loop = Loop()
    loop.itself = loop
    ghost = weakref.ref(loop)
    del loop
    host.release_memory()
    assert ghost() is None


def test_a_short_window_says_nothing_of_others() -> None:
    assert CpuShare().others() is None


def test_a_busy_neighbour_shows() -> None:
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        share = CpuShare()
        time.sleep(1.0)
        others = share.others()
    finally:
        busy.kill()
        busy.wait()
    cpus = os.cpu_count() or 1
    assert others is not None
    # One processor of all of them, minus what a loaded machine withholds.
    assert 0.6 / cpus < others <= 1.0


def test_our_own_work_is_not_that_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    # Seconds since some start: wall, busy of all processors, our own.
    readings = iter([(10.0, 100.0, 5.0), (12.0, 103.0, 7.5)])
    monkeypatch.setattr(CpuShare, "_read", staticmethod(lambda: next(readings)))
    monkeypatch.setattr(host.psutil, "cpu_count", lambda: 2)
    # 3 s busy, 2.5 s of them ours, of 4 s there were.
    assert CpuShare().others() == pytest.approx(0.5 / 4)


@pytest.mark.parametrize(("busy", "own", "share"), [(1.0, 1.2, 0.0), (9.0, 0.0, 1.0)])
def test_ticks_cannot_take_the_share_out_of_its_range(
    monkeypatch: pytest.MonkeyPatch, busy: float, own: float, share: float
) -> None:
    readings = iter([(0.0, 0.0, 0.0), (1.0, busy, own)])
    monkeypatch.setattr(CpuShare, "_read", staticmethod(lambda: next(readings)))
    monkeypatch.setattr(host.psutil, "cpu_count", lambda: 2)
    assert CpuShare().others() == share


def test_the_load_average_is_null_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> tuple[float, float, float]:
        raise OSError

    monkeypatch.setattr(os, "getloadavg", missing)
    assert host.load_average() is None
    monkeypatch.setattr(os, "getloadavg", lambda: (1.5, 1.0, 0.5))
    assert host.load_average() == 1.5


def test_the_governor_is_null_where_none_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "scaling_governor"
    monkeypatch.setattr(host, "_GOVERNOR", file)
    assert host.cpu_governor.__wrapped__() is None
    file.write_text("performance\n")
    assert host.cpu_governor.__wrapped__() == "performance"
