"""Tests of kvbench/theory/peaks.py."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

import pytest

from kvbench.records.environment import Device, Environment
from kvbench.records.rates import Rates
from kvbench.records.run import Resume
from kvbench.theory import peaks as module
from kvbench.theory.peaks import peaks, published, rates_for, rates_of
from tests.fakes import make_environment, make_info, make_rates

H100 = "NVIDIA H100 80GB HBM3"


@pytest.mark.parametrize(
    ("hardware", "gb_per_s", "fp32", "bf16", "fp16"),
    [
        ("Tesla T4", 320, 8.1, None, 65),
        ("Tesla V100-SXM2-16GB", 900, 15.7, None, 125),
        ("Tesla V100-SXM2-32GB", 900, 15.7, None, 125),
        ("Tesla V100-PCIE-16GB", 900, 14, None, 112),
        ("NVIDIA A10", 600, 31.2, 125, 125),
        ("NVIDIA A10G", 600, 35, 70, 70),
        ("NVIDIA L4", 300, 30.3, 121, 121),
        ("NVIDIA L40S", 864, 91.6, 362.05, 362.05),
        ("NVIDIA A40", 696, 37.4, 149.7, 149.7),
        ("NVIDIA RTX A6000", 768, 38.7, 154.8, 154.8),
        ("NVIDIA A100-SXM4-40GB", 1555, 19.5, 312, 312),
        ("A100-SXM4-40GB", 1555, 19.5, 312, 312),
        ("NVIDIA A100-PCIE-40GB", 1555, 19.5, 312, 312),
        ("NVIDIA A100-SXM4-80GB", 2039, 19.5, 312, 312),
        ("NVIDIA A100 80GB PCIe", 1935, 19.5, 312, 312),
        (H100, 3350, 66.9, 989.4, 989.4),
        ("NVIDIA H100 PCIe", 2000, 51.2, 756, 756),
        ("NVIDIA H100 NVL", 3900, 60, 835.5, 835.5),
        ("NVIDIA H200", 4800, 67, 989.5, 989.5),
        ("NVIDIA B200", 8000, 75, 2250, 2250),
        ("NVIDIA GeForce RTX 3090", 936, 35.6, 71, 71),
        ("NVIDIA GeForce RTX 4090", 1008, 82.6, 165.2, 165.2),
        ("NVIDIA GeForce RTX 5090", 1792, 104.8, 209.5, 209.5),
    ],
)
def test_what_is_published_of_a_board(
    hardware: str, gb_per_s: float, fp32: float, bf16: float | None, fp16: float
) -> None:
    rates = published(hardware)
    assert rates is not None
    assert (rates.hardware, rates.source) == (hardware, "published")
    assert rates.reference
    assert rates.read_bytes_per_s == pytest.approx(gb_per_s * 1e9)
    wanted = {"float32": fp32, "bfloat16": bf16, "float16": fp16}
    assert rates.flops_per_s == {
        dtype: pytest.approx(value * 1e12) for dtype, value in wanted.items() if value is not None
    }


@pytest.mark.parametrize(
    "hardware",
    [
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA A100 80GB PCIe MIG 1g.10gb",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA H100",
        "NVIDIA L40X",
        "NVIDIA A100",
        "NVIDIA A10M",
        "GRID T4-16Q",
        "AMD Instinct MI300X",
        "Intel(R) Xeon(R) Processor @ 2.50GHz",
        "NVIDIA",
        "",
    ],
)
def test_a_name_that_is_not_known_to_the_letter_has_no_peaks(hardware: str) -> None:
    assert published(hardware) is None


def test_the_table_is_of_dense_figures_that_fit_together() -> None:
    for peak in peaks():
        assert 100 <= peak.memory_gb_per_s <= 10_000
        assert 5 <= peak.fp32_tflops <= 200
        assert peak.fp16_tflops is not None
        assert peak.bf16_tflops in (None, peak.fp16_tflops)
        # Tensor cores came with float16 only; the others came together.
        assert (peak.tf32_tflops is None) == (peak.bf16_tflops is None)
        if peak.tf32_tflops is not None:
            assert peak.fp16_tflops / peak.tf32_tflops == pytest.approx(2, rel=0.03)
        assert any(year in peak.source for year in map(str, range(2017, 2027)))


def test_boards_that_may_be_confused_are_kept_apart() -> None:
    names = ("NVIDIA A10", "NVIDIA A10G", "NVIDIA L4", "NVIDIA L40", "NVIDIA L40S", "NVIDIA A100")
    found = [published(name) for name in names]
    assert [rates.flops_per_s["float16"] / 1e12 if rates else None for rates in found] == [
        pytest.approx(value) if value else None for value in (125, 70, 121, 181.05, 362.05, None)
    ]


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return a file to read in place of peaks.yaml."""
    monkeypatch.setattr(importlib.resources, "files", lambda package: tmp_path)
    monkeypatch.setattr(module, "peaks", peaks.__wrapped__)
    return tmp_path / "peaks.yaml"


ENTRY = (
    "- {names: [X], memory_gb_per_s: 1, fp32_tflops: 1, tf32_tflops: null, fp16_tflops: 1, "
    "bf16_tflops: null, source: S}\n"
)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (ENTRY + ENTRY, "named twice: x"),
        (ENTRY + ENTRY.replace("[X]", "[NVIDIA x]"), "named twice: x"),
        (ENTRY.replace("[X]", "[]"), "names"),
        (ENTRY.replace("fp16_tflops: 1", "fp16_tflops: -1"), "fp16_tflops"),
        (ENTRY.replace("tf32_tflops: null, ", ""), "tf32_tflops"),
        (ENTRY.replace("source: S", "source: ''"), "source"),
        (ENTRY.replace("source: S", "source: S, colour: red"), "colour"),
    ],
)
def test_a_slip_in_the_table_is_found(table: Path, text: str, problem: str) -> None:
    table.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=problem):
        module.peaks()


def test_what_was_probed_goes_before_what_is_published() -> None:
    probed = make_rates(device="cuda", hardware=H100, threads=None)
    devices = (Device(name="cuda", hardware=H100, uuid="a-b"),)
    known = make_environment(devices=devices, rates=(probed,))
    assert rates_for(known, "cuda") is probed
    assert rates_for(known, "cuda:0") is probed
    found = rates_for(make_environment(devices=devices), "cuda")
    assert found is not None
    assert (found.source, found.device, found.uuid) == ("published", "cuda", "a-b")
    assert found.read_bytes_per_s == 3350e9


def test_rates_are_those_of_the_device_that_was_asked_for() -> None:
    machine = make_environment(rates=(make_rates(),))
    assert rates_for(machine, "cpu") == make_rates()
    # A GPU without published figures, and one that is absent.
    assert rates_for(machine, "cuda") is None
    assert rates_for(machine, "cuda:7") is None


def test_a_processor_that_was_not_probed_has_no_rates() -> None:
    assert rates_for(make_environment(), "cpu") is None


def test_of_a_run_on_two_machines_no_rates_are_told() -> None:
    """Otherwise times of the second would be compared with bounds of the first."""
    here, same = (make_environment(rates=(make_rates(),), cpu=cpu) for cpu in ("One", "Two"))
    faster = make_environment(rates=(make_rates(read_bytes_per_s=4e11),))
    unknown = make_environment(rates=())

    def rates(*later: Environment | None) -> Rates | None:
        resumes = tuple(Resume(started_at="later", environment=other) for other in later)
        return rates_of(make_info(environment=here, resumes=resumes), "cpu")

    assert rates() == rates(None) == rates(same) == make_rates()
    assert rates(faster) is rates(None, unknown) is None
