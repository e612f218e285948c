"""Figures of a real GPU, each with a bound: stamps, energy, and the run made by `make gpu`.

They print what they measure; `make gpu` shows it.
"""

from __future__ import annotations

import os
import statistics
import time
from collections import Counter
from collections.abc import Iterator

import pynvml
import pytest
import torch

from kvbench.caches import strategy
from kvbench.devices.cuda import CudaMeter
from kvbench.measure.clock import TokenClock
from kvbench.measure.generate import generate
from kvbench.models.prompts import Encoder
from kvbench.plan.case import Prompt
from kvbench.records.run import Run, load_run
from tests.gpu.memory import MIB
from tests.gpu.runs import cold_cases, growths, timed, wrong_caches
from tests.tiny import load

pytestmark = pytest.mark.cuda

DEVICE = "cuda"


@pytest.fixture
def meter() -> Iterator[CudaMeter]:
    meter = CudaMeter(torch.device(DEVICE))
    yield meter
    meter.close()


@pytest.fixture(scope="module")
def run() -> Run:
    """Return the run that `make gpu` made earlier."""
    folder = os.environ.get("KVBENCH_GPU_RUN")
    if not folder:
        pytest.skip("KVBENCH_GPU_RUN names no run; `make gpu` makes one")
    return load_run(folder)


def keep_busy(meter: CudaMeter, seconds: float, board: object = None) -> list[float]:
    """Multiply for some seconds and return the watts of a board, read every 20 ms."""
    left = torch.randn(8192, 8192, device=DEVICE, dtype=torch.float16)
    watts, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        for _ in range(100):
            torch.mm(left, left)
        while board is not None and not torch.cuda.current_stream().query():
            watts.append(pynvml.nvmlDeviceGetPowerUsage(board) / 1000)
            time.sleep(0.02)
        meter.synchronise()
    return watts


def test_the_energy_counter_agrees_with_the_power_readings(meter: CudaMeter) -> None:
    gpu = meter._gpu
    if gpu is None or gpu.energy_mj() is None:
        pytest.skip("the board has no energy counter, or the container hides it")
    board = gpu._handle
    try:
        pynvml.nvmlDeviceGetPowerUsage(board)
    except pynvml.NVMLError as error:
        pytest.skip(f"no power reading here: {error}")
    # Some boards give the average of the last second.
    keep_busy(meter, 1.5)
    meter.start("measure")
    start = time.perf_counter()
    watts = keep_busy(meter, 4.0, board)
    fields, seconds = meter.finish(), time.perf_counter() - start
    assert fields.energy_method == "nvml-total-energy" and fields.energy_j is not None
    ratio = fields.energy_j / (statistics.fmean(watts) * seconds)
    print(
        f"\nenergy: counter {fields.energy_j:.0f} J over {seconds:.2f} s, {len(watts)} power "
        f"readings of {min(watts):.0f} to {max(watts):.0f} W: ratio {ratio:.3f}"
    )
    # The counter moves every 100 ms or so: up to 3 % of the window.
    assert abs(ratio - 1) <= 0.1


def test_a_stamp_per_token_costs_next_to_nothing() -> None:
    tokens, pairs = 40, 20
    loaded = load("gpt2", device=DEVICE)
    inputs = Encoder(loaded, 0).encode(Prompt.of_tokens(6), 1)

    def seconds(stamped: bool) -> float:
        return generate(
            loaded,
            inputs,
            strategy("dynamic"),
            tokens,
            clock=TokenClock() if stamped else None,
            synchronise=torch.cuda.synchronize,
        ).total_s

    seconds(True), seconds(False)
    ratios = []
    for pair in range(pairs):
        # Alternate the order, so that drift affects neither.
        order = (True, False) if pair % 2 else (False, True)
        times = {stamped: seconds(stamped) for stamped in order}
        ratios.append(times[True] / times[False])
    ratio = statistics.median(ratios)
    print(
        f"\nstamps: GPT-2, {tokens} tokens with a stamp per token over without: median {ratio:.4f} "
        f"of {pairs} pairs ({min(ratios):.3f} to {max(ratios):.3f})"
    )
    assert abs(ratio - 1) <= 0.03


def test_memory_of_the_run_grew_as_the_allocator_says(run: Run) -> None:
    found = growths(run)
    if not found:
        pytest.skip("NVML does not tell the memory in use here")
    assert len(found) == len(timed(run))
    most = max(found, key=lambda one: abs(one.nvml - one.reserved))
    largest = max(found, key=lambda one: one.cache)
    print(
        f"\nmemory: {len(found)} samples, NVML's growth and the allocator's differ by at most "
        f"{abs(most.nvml - most.reserved) / MIB:.0f} MiB; at the largest cache, "
        f"{largest.cache / MIB:.1f} MiB, NVML grew by {largest.nvml / MIB:.1f}, reserved by "
        f"{largest.reserved / MIB:.1f}, allocated by {largest.allocated / MIB:.1f} MiB"
    )
    for one in found:
        assert abs(one.nvml - one.reserved) <= 32 * MIB, one
        assert one.allocated >= one.cache, one


def test_caches_of_the_run_have_the_bytes_of_theory(run: Run) -> None:
    wrong = wrong_caches(run)
    print(f"\ncache: {len(wrong)} cases differ from theory")
    assert wrong == []


def test_no_counted_sample_of_the_run_is_cold(run: Run) -> None:
    cases = Counter(sample.case_id for sample in timed(run))
    if max(cases.values(), default=0) < 2:
        pytest.skip("no case has two samples")
    cold = cold_cases(run)
    first = [
        f"{s.cache} batch {s.batch_size} {s.total_s:.1f} s (after {s.cold_after})"
        for s in run.samples
        if s.cold_after is not None and s.total_s is not None
    ]
    print(f"\nwarm-up: first passes at full length: {'; '.join(first) or 'none'}; cold: {cold}")
    assert cold == []
