"""Tests of kvbench/measure/probe.py: how rates are computed, never how fast this machine is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from kvbench.devices import host
from kvbench.measure import engine as engine_module
from kvbench.measure import probe as module
from kvbench.measure.engine import LocalEngine
from kvbench.measure.probe import Effort, probe_device, working_set_bytes
from kvbench.records.rates import Rates
from tests.fakes import make_rates

CPU = torch.device("cpu")
MIB = 1 << 20
SMALL = Effort(
    working_set_bytes=MIB,
    repeats=3,
    seconds=0.0,
    warmup_s=0.0,
    smallest=32,
    product_s=0.0,
    launches=10,
    rows=(1, 2),
    widths=(64,),
    rows_s=0.0,
)


class Ticks:
    """A clock that is one second later each time it is read, or as much as `step` says."""

    def __init__(self, step: float = 1.0) -> None:
        self.now = 0.0
        self.step = step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


@pytest.fixture(scope="module")
def rates() -> Rates:
    """Return a real probe of this processor, too small to be meaningful."""
    return probe_device("cpu", SMALL)


def figures(rates: Rates) -> dict[str, float]:
    assert rates.copy_bytes_per_s is not None and rates.overhead_s is not None
    return {
        "read": rates.read_bytes_per_s,
        "copy": rates.copy_bytes_per_s,
        "overhead": rates.overhead_s,
        **rates.flops_per_s,
    }


def test_every_figure_is_positive_and_within_its_spread(rates: Rates) -> None:
    found = figures(rates)
    assert set(found) == set(rates.spread) >= {"read", "copy", "overhead", "float32"}
    for name, value in found.items():
        low, high = rates.spread[name]
        assert 0 < low <= value <= high < math.inf
        best = rates.best[name]
        assert best <= low if name == "overhead" else high <= best


def test_a_probe_says_what_it_was_taken_on_and_how(rates: Rates) -> None:
    assert (rates.device, rates.source, rates.uuid) == ("cpu", "probe", None)
    assert rates.hardware
    assert rates.threads == torch.get_num_threads()
    assert rates.torch == torch.__version__
    assert rates.repeats == 3
    assert rates.working_set_bytes == MIB
    assert rates.measured_at is not None
    assert "float32 without TF32" in rates.method
    assert rates.reference is None


def test_copied_bytes_count_twice_and_read_ones_once() -> None:
    rates = probe_device("cpu", SMALL, clock=Ticks())
    # One second each: reads of the whole working set, a copy of one half onto the other.
    assert rates.read_bytes_per_s == MIB
    assert rates.copy_bytes_per_s == MIB
    assert rates.flops_per_s["float32"] == 2 * 32**3
    assert rates.overhead_s == 1 / 10
    assert rates.spread["read"] == (MIB, MIB)


def test_a_layer_is_the_difference_of_two_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes 3 s plus 2 s per layer: the 3 s are in both models."""
    clock = Ticks(step=0.0)
    forward = module.LlamaForCausalLM.forward

    def slow(self: Any, *arguments: Any, **named: Any) -> Any:
        clock.now += 3.0 + 2.0 * self.config.num_hidden_layers
        return forward(self, *arguments, **named)

    monkeypatch.setattr(module.LlamaForCausalLM, "forward", slow)
    probe = module._Probe(CPU, SMALL, lambda: None, clock)
    with torch.inference_mode():
        assert probe._layer() == pytest.approx(2.0)


def test_few_rows_cost_what_is_beyond_the_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Ticks(step=0.0)
    linear = torch.nn.functional.linear

    def slow(row: torch.Tensor, matrix: torch.Tensor, *bias: Any) -> torch.Tensor:
        clock.now += 5.0
        return linear(row, matrix, *bias)

    monkeypatch.setattr(module.functional, "linear", slow)
    probe = module._Probe(CPU, SMALL, lambda: None, clock)
    # A read of the whole takes 2 s and its arithmetic nothing: 3 s remain.
    read = module._Figure("mv", MIB, 2.0, 2.0, 2.0, 2.0, 3)
    product = module._Figure("mm", 1e30, 1.0, 1.0, 1.0, 1.0, 3)
    assert probe._few_rows(read, product) == pytest.approx(3.0 / MIB)
    assert probe._few_rows(read, None) is None


def test_a_probe_keeps_to_its_time() -> None:
    """Each run takes 20 ms whatever it does: there are as many as the time allows, and no more."""
    clock = Ticks(step=0.02)
    effort = Effort(working_set_bytes=MIB, smallest=32, product_s=0.0, launches=10)
    rates = probe_device("cpu", effort, clock=clock)
    # Five runs or more of each figure, and 15 s for a whole probe.
    assert rates.repeats >= 5
    assert clock.now < 15.0


def test_products_of_a_decoders_sizes_are_timed_with_other_matrices_in_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    used: list[tuple[int, int, int]] = []
    clock = Ticks(step=0.0)
    linear = torch.nn.functional.linear

    def slow(rows: torch.Tensor, matrix: torch.Tensor, *bias: Any) -> torch.Tensor:
        used.append((len(rows), len(matrix), matrix.data_ptr()))
        clock.now += len(rows)
        return linear(rows, matrix, *bias)

    monkeypatch.setattr(module.functional, "linear", slow)
    effort = Effort(**(vars(SMALL) | {"rows": (1, 2, 64), "widths": (256, 1024), "rows_s": 0.0}))
    probe = module._Probe(CPU, effort, lambda: None, clock)
    # 64 rows would take longer than `longest_s`, and no matrix of 1024 fits into the working set.
    best = module._Figure("mm", 2 * 64 * 256**2 * 3.0, 1.0, 1.0, 1.0, 1.0, 3)
    found = list(probe._sizes_of("float32", best))
    assert [(one.dtype, one.rows, one.width) for one in found] == [
        ("float32", 1, 256),
        ("float32", 2, 256),
    ]
    assert [one.seconds for one in found] == [1.0, 2.0]
    # A MiB has four such matrices.
    assert len({place for rows, _, place in used if rows == 2}) == 4


def test_products_grow_until_one_takes_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    clock = Ticks()
    mm = torch.mm

    def cubic(left: torch.Tensor, right: torch.Tensor, **named: Any) -> torch.Tensor:
        sizes.append(len(left))
        clock.now += (len(left) / 32) ** 3
        return mm(left, right, **named)

    monkeypatch.setattr(torch, "mm", cubic)
    effort = Effort(**(vars(SMALL) | {"product_s": 60.0}))
    rates = probe_device("cpu", effort, clock=clock)
    # 1 + 1, 8 + 1 and 64 + 1 seconds; the last two sizes are timed, the best counts.
    assert set(sizes) == {32, 64, 128}
    assert rates.flops_per_s["float32"] == pytest.approx(2 * 128**3 / 65)
    assert "float32 128 x 128" in rates.method


def test_products_keep_to_a_quarter_of_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    # Four times three matrices of 64 x 64 in float32.
    memory = SimpleNamespace(available=4 * 3 * 64 * 64 * 4)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(
        module, "describe_device", lambda name: SimpleNamespace(hardware="H", uuid=None)
    )
    effort = Effort(**(vars(SMALL) | {"product_s": math.inf}))
    method = probe_device("cpu", effort, clock=Ticks()).method
    assert "float32 64 x 64" in method


@pytest.fixture
def no_half(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Make torch.mm refuse float16, with a message that the test may change."""
    words = ['"addmm" not implemented for Half.\nMore lines.']
    mm = torch.mm

    def refuse(left: torch.Tensor, right: torch.Tensor, **named: Any) -> torch.Tensor:
        if left.dtype == torch.float16:
            raise RuntimeError(words[0])
        return mm(left, right, **named)

    monkeypatch.setattr(torch, "mm", refuse)
    yield words


def test_a_dtype_that_fails_is_left_out_with_a_sentence(no_half: list[str]) -> None:
    rates = probe_device("cpu", SMALL)
    assert set(rates.flops_per_s) == {"float32", "bfloat16"}
    assert "float16" not in rates.spread
    assert [note.split(" skipped: ")[0] for note in rates.notes] == ["float16"]


@pytest.mark.parametrize(
    ("words", "ends"),
    [
        ("CUDA error: an illegal memory access was encountered", True),
        ("CUBLAS_STATUS_EXECUTION_FAILED", True),
        ("CUBLAS_STATUS_NOT_SUPPORTED when calling cublasGemmEx", False),
    ],
)
def test_a_fault_of_the_device_ends_the_probe(no_half: list[str], words: str, ends: bool) -> None:
    no_half[0] = words
    if ends:
        with pytest.raises(RuntimeError, match=words):
            probe_device("cpu", SMALL)
    else:
        assert "float16" not in probe_device("cpu", SMALL).flops_per_s


def test_what_is_emulated_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module._Probe, "_has_bfloat16", lambda self: False)
    rates = probe_device("cpu", SMALL)
    assert set(rates.flops_per_s) == {"float32", "float16"}
    assert [note.split(" skipped: ")[0] for note in rates.notes] == ["bfloat16"]


def test_the_fastest_way_to_read_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Ticks()
    mv = torch.mv

    def slow(matrix: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
        clock.now += 1.0
        return mv(matrix, vector)

    monkeypatch.setattr(torch, "mv", slow)
    rates = probe_device("cpu", SMALL, clock=clock)
    assert rates.read_bytes_per_s == MIB
    assert "Read: linear in float32 over 1 MiB" in rates.method


def test_a_way_to_read_that_is_far_slower_is_left_after_a_quarter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Ticks()
    rows: list[int] = []
    linear = torch.nn.functional.linear

    def slow(row: torch.Tensor, matrix: torch.Tensor, *bias: Any) -> torch.Tensor:
        # The tiny decoders have linear layers too.
        if row.shape == (1, 4096):
            rows.append(len(matrix))
            clock.now += 10.0
        return linear(row, matrix, *bias)

    monkeypatch.setattr(module.functional, "linear", slow)
    probe_device("cpu", SMALL, clock=clock)
    whole = {MIB // 4096 // 4, MIB // 4096 // 2}
    assert set(rows) == {count // 4 for count in whole}


def test_what_is_read_is_neither_zero_nor_denormal_nor_repeated() -> None:
    probe = module._Probe(CPU, Effort(working_set_bytes=40 * MIB), lambda: None, Ticks())
    for dtype in ("float32", "bfloat16"):
        matrix = probe._filled(dtype)
        assert matrix.nbytes == 40 * MIB
        size = matrix.abs().float()
        assert float((size < 1e-30).float().mean()) < 0.01
        assert float(size.max()) <= 1.0
        pages = matrix.view(-1, 4096 // matrix.itemsize)
        assert len(torch.unique(pages[:, :8].float(), dim=0)) == len(pages)


@pytest.mark.parametrize(
    ("cache", "available", "wanted", "short"),
    [
        (0, 64 << 30, 256 * MIB, False),
        (32 * MIB, 64 << 30, 256 * MIB, False),
        (1 << 30, 64 << 30, 4 << 30, False),
        (1 << 30, 8 << 30, 2 << 30, True),
        (0, 400 * MIB, 100 * MIB, True),
    ],
)
def test_the_working_set_is_far_past_the_caches_and_within_the_memory(
    monkeypatch: pytest.MonkeyPatch, cache: int, available: int, wanted: int, short: bool
) -> None:
    monkeypatch.setattr(host, "last_level_cache_bytes", lambda: cache)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=available))
    size, note = working_set_bytes(CPU)
    assert size == wanted <= available // 4
    assert (note is not None) == short
    if note is not None:
        assert f"{wanted / MIB:.0f} MiB" in note


@pytest.mark.parametrize(
    ("cache", "free", "wanted"),
    [
        (50 * MIB, 80 << 30, 1 << 30),
        (126 * MIB, 180 << 30, 16 * 126 * MIB),
        (4 * MIB, MIB, MIB // 4),
    ],
)
def test_the_working_set_of_a_gpu(
    monkeypatch: pytest.MonkeyPatch, cache: int, free: int, wanted: int
) -> None:
    properties = SimpleNamespace(L2_cache_size=cache)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, free))
    assert working_set_bytes(torch.device("cuda"))[0] == wanted


def test_memory_that_is_short_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "working_set_bytes", lambda device: (MIB, "Memory is short."))
    effort = Effort(**(vars(SMALL) | {"working_set_bytes": None}))
    assert "Memory is short." in probe_device("cpu", effort).notes


def test_a_busy_machine_is_a_reason_to_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host.CpuShare, "others", lambda self: 0.5)
    monkeypatch.setattr(host, "load_average", lambda: 1.25)
    rates = probe_device("cpu", SMALL)
    assert rates.flags == ("busy_cpu",)
    assert (rates.other_cpu_share, rates.load_average) == (0.5, 1.25)


def test_a_figure_is_timed_often_and_long_enough() -> None:
    enough, effort = module._enough, Effort(repeats=5, seconds=1.0)
    assert not enough([1.0] * 2, 1, effort)
    assert enough([1.0] * 3, 1, effort)
    assert not enough([0.3] * 4, 1, effort)
    assert enough([0.3] * 5, 1, effort)
    assert not enough([0.01] * 50, 1, effort)
    # A batch of ten.
    assert enough([0.03] * 5, 10, effort)


def test_an_engine_probes_with_no_model_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "probe_device", lambda device: make_rates(device=device))
    assert LocalEngine().probe("cpu") == make_rates()


def caches(root: Path, entries: dict[str, tuple[str, str, str]]) -> Path:
    for place, (level, shared, size) in entries.items():
        folder = root / place
        folder.mkdir(parents=True)
        for name, text in (("level", level), ("shared_cpu_list", shared), ("size", size)):
            (folder / name).write_text(f"{text}\n")
    return root


@pytest.mark.parametrize(
    ("entries", "size"),
    [
        ({}, 0),
        ({"cpu0/cache/index0": ("1", "0", "32K"), "cpu0/cache/index3": ("3", "0-1", "64K")}, 64),
        # Two processors that share a cache, and a third with one of its own.
        (
            {f"cpu{i}/cache/index3": ("3", s, "64K") for i, s in enumerate(("0-1", "0-1", "2"))},
            128,
        ),
        ({"cpu0/cache/index0": ("1", "0", "?"), "cpu1/cache/index2": ("2", "1", "8K")}, 8),
    ],
)
def test_the_last_caches_are_counted_once(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    entries: dict[str, tuple[str, str, str]],
    size: int,
) -> None:
    monkeypatch.setattr(host, "_CPUS", caches(tmp_path, entries))
    assert host.last_level_cache_bytes() == size * 1024


@pytest.mark.cuda
def test_a_gpu_is_probed() -> None:
    rates = probe_device("cuda", Effort(seconds=0.05, warmup_s=0.05, repeats=3))
    assert rates.uuid is not None and rates.threads is None
    for name, value in figures(rates).items():
        low, high = rates.spread[name]
        assert 0 < low <= value <= high < math.inf
    assert rates.working_set_bytes >= 1 << 30
