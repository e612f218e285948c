"""A real GPU: matched by UUID, memory and energy read, stamps complete, out of memory survived."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pynvml
import pytest
import torch

from kvbench.caches import strategy
from kvbench.devices.nvml import NVML_USED, NVML_USED_AND_RESERVED, Nvml, NvmlUnavailable
from kvbench.measure.clock import TokenClock
from kvbench.measure.engine import LocalEngine
from kvbench.measure.environment import read_environment
from kvbench.measure.generate import Generation, generate
from kvbench.models.load import LoadedModel
from kvbench.plan.case import Case, Prompt
from kvbench.records.events import ModelLoaded
from kvbench.records.sample import Sample
from tests.fakes import run_task
from tests.tiny import (
    ARCHITECTURES,
    GPT2,
    LLAMA,
    case,
    checkpoint,
    config_folder,
    inputs_of,
    load,
    task,
)

pytestmark = pytest.mark.cuda

MIB = 2**20
PROMPT = [5, 17, 9, 300, 44]

# Run in a separate process. For each way to choose visible devices, a child of it, which has not
# used CUDA yet, prints how many there are, torch's UUID of the first, and the UUID that NVML gives
# for the handle found by it.
LOOK = """
import os, sys
import pynvml, torch
from kvbench.devices.nvml import Nvml

def look(visible):
    os.environ["CUDA_VISIBLE_DEVICES"] = visible
    uuid = str(torch.cuda.get_device_properties(0).uuid)
    found = pynvml.nvmlDeviceGetUUID(Nvml().device(uuid)._handle)
    found = found.decode() if isinstance(found, bytes) else found
    print("seen", torch.cuda.device_count(), uuid, found, flush=True)

for visible in sys.argv[1:]:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            look(visible)
            code = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)
    if os.waitpid(pid, 0)[1]:
        sys.exit(f"CUDA_VISIBLE_DEVICES={visible} failed")
"""


class CheckedClock(TokenClock):
    """A clock that checks at each stamp whether the device is done, and then waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.idle: list[bool] = []

    def put(self, value: Any) -> None:
        self.idle.append(torch.cuda.current_stream().query())
        torch.cuda.synchronize()
        super().put(value)


@pytest.fixture
def needs_nvml() -> None:
    try:
        Nvml().close()
    except NvmlUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture
def needs_board(needs_nvml: None) -> None:
    """Skip on a part of a board, which has neither clocks nor a temperature."""
    if nvml_uuid(str(torch.cuda.get_device_properties(0).uuid)).startswith("MIG-"):
        pytest.skip("a MIG instance")


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Let the allocator have 256 MiB more than it holds."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    allowed = torch.cuda.memory_reserved(0) + 256 * MIB
    torch.cuda.set_per_process_memory_fraction(allowed / total, 0)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0, 0)


def cuda_case(model: str, **changes: Any) -> Case:
    return case(model, **({"device": "cuda"} | changes))


def measured(engine: LocalEngine, one: Case) -> Sample:
    """A timed sample of a case after a warm-up; its model is opened."""
    opened = engine.open(one.model_key)
    assert isinstance(opened, ModelLoaded), opened
    run_task(engine, task(one, "warmup"))
    return run_task(engine, task(one))[0]


def nvml_uuid(uuid: str) -> str:
    """Return NVML's name of a device that torch knows by a UUID: of a board or of a part of one."""
    pynvml.nvmlInit()
    try:
        pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
    except pynvml.NVMLError:
        return f"MIG-{uuid}"
    finally:
        pynvml.nvmlShutdown()
    return f"GPU-{uuid}"


def generated(loaded: LoadedModel, cache: str, count: int, clock: TokenClock) -> Generation:
    return generate(
        loaded,
        inputs_of(loaded, [PROMPT] * 2),
        strategy(cache),
        count,
        clock=clock,
        synchronise=torch.cuda.synchronize,
    )


@pytest.mark.usefixtures("needs_nvml")
def test_the_handle_is_that_of_the_visible_device() -> None:
    count = torch.cuda.device_count()
    uuids = [str(torch.cuda.get_device_properties(index).uuid) for index in range(count)]
    given = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
    names = [name.strip() for name in given.split(",")][:count]
    # The last: where there are several, its index here is not that in the processes below.
    choices = [names[-1], nvml_uuid(uuids[-1])]
    if count > 1:
        choices.append(",".join(reversed(names)))
    # kvbench may not be installed, nor be in the current directory.
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    done = subprocess.run(
        [sys.executable, "-c", LOOK, *choices],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    said = f"{done.stdout}\n{done.stderr}"
    assert done.returncode == 0, said
    # Libraries may print their own lines.
    seen = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("seen ")]
    expected = [
        [str(len(choice.split(","))), uuids[-1], nvml_uuid(uuids[-1])] for choice in choices
    ]
    assert seen == expected, said


def test_memory_columns_are_filled(engine: LocalEngine, tmp_path: Path) -> None:
    sample = measured(engine, cuda_case(config_folder(tmp_path, GPT2), batch_size=4))
    assert sample.status == "ok", sample.error
    assert sample.weights_bytes is not None
    assert sample.torch_before_bytes is not None
    assert sample.torch_peak_allocated_bytes is not None
    assert sample.torch_peak_reserved_bytes is not None
    assert sample.torch_before_bytes >= sample.weights_bytes
    assert sample.torch_peak_allocated_bytes > sample.torch_before_bytes
    assert sample.torch_peak_reserved_bytes >= sample.torch_peak_allocated_bytes
    assert sample.kv_cache_bytes == 2 * 2 * 4 * 64 * (5 + 8 - 1) * 4
    assert (sample.rss_before_bytes, sample.rss_peak_bytes) == (None, None)


@pytest.mark.usefixtures("needs_nvml")
def test_nvml_sees_at_least_what_torch_holds(engine: LocalEngine, tmp_path: Path) -> None:
    one = cuda_case(config_folder(tmp_path, GPT2), batch_size=4)
    loaded = engine.open(one.model_key)
    assert isinstance(loaded, ModelLoaded), loaded
    assert loaded.notices == ()
    sample = run_task(engine, task(one))[0]
    assert sample.memory_method in (NVML_USED, NVML_USED_AND_RESERVED)
    assert sample.nvml_before_bytes is not None
    assert sample.nvml_peak_bytes is not None
    assert sample.torch_peak_reserved_bytes is not None
    assert sample.nvml_before_bytes > 0
    assert sample.nvml_peak_bytes >= sample.torch_peak_reserved_bytes


@pytest.mark.usefixtures("needs_board")
def test_trust_fields_are_filled(engine: LocalEngine, tmp_path: Path) -> None:
    sample = measured(engine, cuda_case(config_folder(tmp_path, GPT2)))
    assert sample.gpu_throttle_reasons
    assert (sample.gpu_sm_clock_mhz or 0) > 0
    assert (sample.gpu_temperature_c or 0) > 0
    # Null where the list of processes is hidden, else without this one.
    assert sample.gpu_other_processes is None or sample.gpu_other_processes >= 0
    assert sample.nvml_process_bytes is None or sample.nvml_process_bytes > 0


def test_a_peak_is_that_of_its_own_run(engine: LocalEngine, tmp_path: Path) -> None:
    name = config_folder(tmp_path, GPT2)
    large = measured(engine, cuda_case(name, batch_size=2048, max_new_tokens=30))
    small = run_task(engine, task(cuda_case(name)))[0]
    assert large.torch_peak_allocated_bytes is not None
    assert small.torch_peak_allocated_bytes is not None
    assert large.kv_cache_bytes is not None
    # Not what was reserved: a surviving block keeps its whole segment, whose free space a later run
    # fills first.
    freed = large.torch_peak_allocated_bytes - small.torch_peak_allocated_bytes
    assert freed >= large.kv_cache_bytes / 2


@pytest.mark.parametrize("cache", ["off", "dynamic"])
def test_a_stamp_marks_a_token_that_is_done(tmp_path: Path, cache: str) -> None:
    loaded = load(config_folder(tmp_path, LLAMA), device="cuda")
    clock = CheckedClock()
    out = generated(loaded, cache, 20, clock)
    # Before our own synchronization: the copy to the host has waited for it.
    assert clock.idle == [True] * 21  # The prompt and 20 tokens.
    assert len(out.token_times) == out.new_tokens == 20
    stamps = (0.0, *out.token_times, out.total_s)
    assert all(earlier < later for earlier, later in itertools.pairwise(stamps))


@pytest.mark.parametrize("cache", ["off", "dynamic"])
def test_stamps_are_as_many_as_tokens_and_inside_the_run(tmp_path: Path, cache: str) -> None:
    loaded = load(config_folder(tmp_path, LLAMA), device="cuda")
    out = generated(loaded, cache, 20, TokenClock())
    stamps = (0.0, *out.token_times, out.total_s)
    assert len(out.token_times) == 20
    assert all(earlier < later for earlier, later in itertools.pairwise(stamps))


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_both_arms_say_the_same(engine: LocalEngine, tmp_path: Path, kind: str) -> None:
    name = checkpoint(tmp_path, ARCHITECTURES[kind])
    off, dynamic = (
        measured(
            engine,
            cuda_case(name, weights="pretrained", cache=cache, batch_size=2, max_new_tokens=30),
        )
        for cache in ("off", "dynamic")
    )
    assert off.status == dynamic.status == "ok", (off.error, dynamic.error)
    assert off.output_sha256 == dynamic.output_sha256
    assert (off.cache_class, off.kv_cache_bytes) == (None, 0)
    assert dynamic.cache_class is not None


def test_random_weights_are_made_on_the_device_from_the_seed(tmp_path: Path) -> None:
    name = config_folder(tmp_path, GPT2)
    first, again, other = (load(name, seed=seed, device="cuda") for seed in (0, 0, 1))
    weights = [next(one.model.parameters()) for one in (first, again, other)]
    assert weights[0].device.type == "cuda"
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("cache", ["off", "dynamic"])
def test_out_of_memory_is_a_sample_and_the_next_one_works(
    engine: LocalEngine, tmp_path: Path, little_memory: None, cache: str
) -> None:
    name = config_folder(tmp_path, LLAMA)
    small = cuda_case(name, cache=cache)
    expected = measured(engine, small)
    # 4096 rows of 120 tokens: 120 MiB for each tensor as wide as the model.
    large = cuda_case(name, cache=cache, batch_size=4096, prompt=Prompt.of_tokens(120))
    failed, times = run_task(engine, task(large))
    assert (failed.status, failed.stage) == ("oom", "prefill")
    assert "out of memory" in (failed.error or "")
    assert (failed.oom_bytes or 0) >= 16 * MIB
    assert engine.healthy
    assert (failed.prompt_tokens, failed.total_s, times) == (120, None, ())
    sample = run_task(engine, task(small))[0]
    assert sample.status == "ok", sample.error
    assert sample.output_sha256 == expected.output_sha256


def test_positions_past_a_table_leave_the_device_alive(engine: LocalEngine, tmp_path: Path) -> None:
    name = config_folder(tmp_path, GPT2)
    assert measured(engine, cuda_case(name, max_new_tokens=61)).status == "unsupported"
    sample = run_task(engine, task(cuda_case(name, max_new_tokens=60)))[0]
    assert sample.status == "ok", sample.error


def test_energy_is_null_under_a_second(engine: LocalEngine, tmp_path: Path) -> None:
    sample = measured(engine, cuda_case(config_folder(tmp_path, GPT2), max_new_tokens=2))
    assert sample.status == "ok", sample.error
    assert sample.energy_j is None
    assert sample.energy_method in (None, "none: window under 1 s", "none: no counter")


def test_closing_gives_the_memory_back(engine: LocalEngine, tmp_path: Path) -> None:
    one = cuda_case(config_folder(tmp_path, GPT2))
    # Run once before: cuBLAS keeps the workspace from its first call.
    measured(engine, one)
    engine.close()
    before = torch.cuda.memory_allocated()
    measured(engine, one)
    assert torch.cuda.memory_allocated() > before
    engine.close()
    assert torch.cuda.memory_allocated() <= before


def test_the_environment_names_the_device() -> None:
    found = read_environment()
    properties = torch.cuda.get_device_properties(0)
    gpu = found.devices[1]
    assert (gpu.name, gpu.hardware) == ("cuda", properties.name)
    assert gpu.uuid == str(properties.uuid)
    assert gpu.memory_bytes == properties.total_memory
