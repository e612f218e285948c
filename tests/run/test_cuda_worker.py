"""Workers on a real GPU: out of memory is a row, and a killed one gives its memory back."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from kvbench.api import sweep
from kvbench.case import Case
from kvbench.plan import Plan
from kvbench.records.run import load_run
from kvbench.records.sample import latest
from kvbench.run.supervisor import WorkerEngine
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


@pytest.fixture
def endless(tmp_path: Path) -> Case:
    """A case of a model of 1 GiB whose generation takes an hour."""
    folder = config_folder(tmp_path, HEAVY)
    return case(folder, device=DEVICE, max_new_tokens=900_000)


def free() -> int:
    """Bytes that nobody holds of the device; needs no NVML."""
    return int(torch.cuda.mem_get_info(0)[0])


@pytest.mark.parametrize("moment", ["idle", "decoding"])
def test_a_killed_worker_gives_the_memory_of_the_device_back(
    engine: WorkerEngine, endless: Case, moment: str
) -> None:
    before = free()
    pid = opened(engine, endless)
    assert before - free() >= WEIGHTS
    if moment == "idle":
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: engine.open_model is None, "the loss is seen")
    else:
        sample = measured_over(engine, endless, lambda pid: os.kill(pid, signal.SIGKILL))
        assert (sample.status, sample.stage) == ("crashed", "decode")
        assert (sample.error or "").startswith(KILLED)
        assert engine.open_model is None
    assert is_gone(pid)
    wait_until(lambda: before - free() < 64 * MIB, "the memory is given back")
    # Another one takes its place, on the same device.
    short = case(endless.model, device=DEVICE)
    assert opened(engine, short) != pid
    sample, times = engine.measure(task(short))
    assert (sample.status, sample.new_tokens, len(times)) == ("ok", 8, 8)


def test_closing_gives_the_memory_of_the_device_back(engine: WorkerEngine, endless: Case) -> None:
    before = free()
    opened(engine, endless)
    assert before - free() >= WEIGHTS
    engine.close()
    wait_until(lambda: before - free() < 64 * MIB, "the memory is given back")


def test_out_of_memory_on_the_whole_device_is_a_row_and_the_sweep_goes_on(tmp_path: Path) -> None:
    # The logits alone are half as much again as the device has: one allocation that must fail.
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
    run = load_run(sweep(plan, out=tmp_path / "runs").path)
    assert run.info.state == "finished"
    for cache in ("off", "dynamic"):
        rows = [sample for sample in latest(run.samples) if sample.cache == cache]
        small = [sample for sample in rows if sample.batch_size == 1]
        # A warm-up and two samples, the last of them in the round after memory ran out.
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
    # A failed allocation is no fault of the device: nothing was lost over it.
    assert not [sample for sample in run.samples if sample.status == "crashed"]
