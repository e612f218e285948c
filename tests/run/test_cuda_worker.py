"""Workers on a real GPU: out of memory is a row, and a killed worker frees its memory.

A worker takes some ten seconds to start there, so one start serves several assertions.
"""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from kvbench import api
from kvbench.plan.plan import Plan
from kvbench.records.run import load_run
from kvbench.records.sample import latest
from kvbench.run.supervisor import WorkerEngine
from tests.fakes import run_task
from tests.run.faults import is_gone, wait_until
from tests.run.test_supervisor import KILLED, measured_over, opened
from tests.tiny import LLAMA, case, config_folder, task

pytestmark = pytest.mark.cuda

MIB = 2**20
DEVICE = "cuda"

# 512 MiB for each of the two ends of the model.
HEAVY = LLAMA | {"vocab_size": 2**21, "max_position_embeddings": 1_000_000}
WEIGHTS = 2 * 2**21 * 64 * 4


@pytest.fixture
def engine() -> Iterator[WorkerEngine]:
    engine = WorkerEngine()
    yield engine
    engine.close()


def free() -> int:
    """Return the free bytes of the device; needs no NVML."""
    return int(torch.cuda.mem_get_info(0)[0])


def wait_for_memory(before: int) -> None:
    wait_until(lambda: before - free() < 64 * MIB, "the memory is given back")


def test_a_killed_worker_gives_the_memory_of_the_device_back(
    engine: WorkerEngine, tmp_path: Path
) -> None:
    short = case(config_folder(tmp_path, HEAVY), device=DEVICE)
    # A generation that takes an hour.
    endless = case(short.model, device=DEVICE, max_new_tokens=900_000)
    before = free()
    first = opened(engine, endless)
    assert before - free() >= WEIGHTS
    # While it waits.
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: engine.open_model is None, "the loss is seen")
    assert is_gone(first)
    wait_for_memory(before)
    # Another one replaces it on the same device.
    second = opened(engine, short)
    assert second != first
    sample, times = run_task(engine, task(short))
    assert (sample.status, sample.new_tokens, len(times)) == ("ok", 8, 8)
    # While it decodes.
    sample = measured_over(engine, endless, lambda pid: os.kill(pid, signal.SIGKILL))
    assert (sample.status, sample.stage) == ("crashed", "decode")
    assert (sample.error or "").startswith(KILLED)
    assert engine.open_model is None
    assert is_gone(second)
    wait_for_memory(before)


def test_out_of_memory_on_the_whole_device_is_a_row_and_the_sweep_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvbench.run.session.build", lambda *arguments: [])
    before = free()
    # The logits alone need one and a half times the device's memory: one allocation that must fail.
    total, batch = torch.cuda.get_device_properties(0).total_memory, 32_768
    vocabulary = math.ceil(1.5 * total / (4 * batch))
    plan = Plan(
        model=(config_folder(tmp_path / "model", LLAMA, vocab_size=vocabulary),),
        weights="random",
        device=(DEVICE,),
        batch_size=(1, batch, batch + 1),
        prompt_tokens=(5,),
        max_new_tokens=(2,),
        repeats=2,
        verify=False,
    )
    run = load_run(api.sweep(plan, out=tmp_path / "runs").path)
    assert run.info.state == "finished"
    for cache in ("off", "dynamic"):
        rows = [sample for sample in latest(run.samples) if sample.cache == cache]
        small = [sample for sample in rows if sample.batch_size == 1]
        # A warm-up and two samples, the last one in the round after memory ran out.
        assert [sample.status for sample in small] == ["ok"] * 3
        large = {sample.batch_size: sample for sample in rows if sample.status != "ok"}
        assert set(large) == {batch, batch + 1}
        assert {sample.status for sample in large.values()} <= {"oom", "skipped_oom"}
        out = [sample for sample in large.values() if sample.status == "oom"]
        assert out
        for sample in out:
            assert sample.stage == "prefill"
            assert "out of memory" in (sample.error or "")
            assert (sample.oom_bytes or 0) > total
            assert (sample.total_s, sample.kv_cache_bytes) == (None, None)
    # A failed allocation is not a device fault: nothing was lost, not even a worker.
    assert not [sample for sample in run.samples if sample.status == "crashed"]
    assert not (run.path / "worker.log").exists()
    # The sweep has closed its engine.
    wait_for_memory(before)
