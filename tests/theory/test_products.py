"""Tests of kvbench/theory/products.py, and of the lower bounds derived from it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from kvbench.catalogue import CATALOGUE
from kvbench.records.rates import Product
from kvbench.theory.architecture import Architecture
from kvbench.theory.floors import Floor, floor
from kvbench.theory.flops import step_flops
from kvbench.theory.layers import Linear
from kvbench.theory.products import ProductTimes, product_times, used_products
from tests.fakes import make_rates
from tests.theory.families import architecture

GPT2 = Architecture.from_config(CATALOGUE["gpt2"].config)
ROWS, WIDTHS = (1, 16, 128, 1024), (512, 1024, 2048, 4096)
LAUNCH = 400e-6
RATES = make_rates(
    device="cuda",
    read_bytes_per_s=3e12,
    copy_bytes_per_s=3e12,
    flops_per_s={"float32": 50e12},
    layer_s=LAUNCH,
)


def probed(share: float, *, of: tuple[int, ...] = WIDTHS) -> tuple[Product, ...]:
    """Return products that reach a fraction of the best rates, at any width."""
    return tuple(
        Product(
            dtype="float32",
            rows=rows,
            width=width,
            seconds=max(width**2 * 4 / 3e12, 2 * rows * width**2 / 50e12) / share,
        )
        for width in of
        for rows in ROWS
    )


def seconds(times: ProductTimes, rows: float, inputs: int, outputs: int) -> float:
    return float(times.seconds(Linear(inputs, outputs), np.array([rows]))[0])


def test_what_was_probed_takes_what_was_probed() -> None:
    times = ProductTimes(probed(0.5))
    for one in probed(0.5):
        assert seconds(times, one.rows, one.width, one.width) == pytest.approx(one.seconds)


def test_a_matrix_counts_as_the_square_one_with_as_many_weights() -> None:
    times = ProductTimes(probed(0.5))
    assert seconds(times, 128, 512, 2048) == pytest.approx(seconds(times, 128, 1024, 1024))


def test_times_between_are_interpolated_and_those_beyond_keep_the_rate() -> None:
    # Small matrices reach half of what large ones do.
    times = ProductTimes((*probed(0.25, of=(512,)), *probed(0.5, of=(2048,))))
    rate = {w: 2 * 1024 * w**2 / seconds(times, 1024, w, w) for w in (256, 512, 1024, 2048, 8192)}
    assert rate[256] == pytest.approx(rate[512])
    assert rate[512] < rate[1024] < rate[2048] == pytest.approx(rate[8192])
    assert seconds(times, 4096, 2048, 2048) == pytest.approx(4 * seconds(times, 1024, 2048, 2048))
    assert seconds(times, 0.5, 512, 512) == pytest.approx(seconds(times, 1, 512, 512))
    assert seconds(times, 0, 512, 512) == 0.0


def test_of_another_dtype_nothing_is_known() -> None:
    assert product_times(probed(0.5), "bfloat16") is None
    assert product_times((), "float32") is None


@pytest.mark.parametrize("name", ["gpt2", "llama", "t5", "qwen3_moe", "deepseek_v3"])
@pytest.mark.parametrize("cached", [False, True])
def test_matrices_and_attention_are_all_that_a_step_computes(name: str, cached: bool) -> None:
    known = architecture(name)
    start = 1 if known.encoder else 6
    rows = np.full(3, 2) if cached else 2 * (start + np.arange(3))
    rows[0] = 2 * start
    used = list(used_products(known, rows.astype(float), 2, 12, cached))
    for step in range(3):
        products = sum(one.many[step] * one.rows[step] * one.linear.flops for one in used)
        flops = step_flops(known, "dynamic" if cached else "off", 2, 6, step)
        assert 0.3 * flops < products <= flops * (1 + 1e-9)


def of(strategy: str, share: float | None, tokens: int = 1000, device: str = "cuda") -> Floor:
    products = () if share is None else probed(share)
    rates = dataclasses.replace(RATES, products=products, device=device)
    return floor(GPT2, strategy, 1, 6, tokens, "float32", rates)


def test_each_step_takes_the_longer_of_its_launches_and_its_kernels() -> None:
    """With a cache, launches outlast all kernels; without one, kernels do from some step on."""
    off, on = of("off", 0.4), of("dynamic", 0.4)
    launches = 12 * LAUNCH
    assert off.kernels is not None
    assert off.expected.tolist() == pytest.approx(np.maximum(off.kernels, launches).tolist())
    assert off.kernels[0] < launches < off.kernels[-1]
    assert on.expected.tolist() == pytest.approx([launches] * 1000)
    assert off.expected_s / on.expected_s > 1.05
    # At the rate of large products, a step without a cache is hidden by its launches.
    assert of("off", None).expected_s == pytest.approx(of("dynamic", None).expected_s)


def test_what_launches_wait_for_says_what_a_run_is_bound_by() -> None:
    assert of("dynamic", 0.4).launch_bound
    assert of("off", 0.4, tokens=100).launch_bound
    assert not of("off", 0.1).launch_bound
    assert not of("off", 0.4, device="cpu").launch_bound


def test_on_a_cpu_a_step_takes_both() -> None:
    found = of("off", 0.4, tokens=10, device="cpu")
    assert found.kernels is not None and found.launch_s is None
    assert found.expected.tolist() == pytest.approx((found.kernels + 12 * LAUNCH).tolist())


def test_a_growing_cache_is_copied_at_each_step() -> None:
    """Reading it is in the lower bound; a copy reads and writes all of it."""
    fast = dataclasses.replace(RATES, device="cpu", copy_bytes_per_s=4e11)
    slow = dataclasses.replace(fast, copy_bytes_per_s=2e11)
    found = [floor(GPT2, "dynamic", 1, 6, 100, "float32", rates) for rates in (fast, slow)]
    positions = 6 + np.arange(100) - 1.0
    positions[0] = 0
    bytes_copied = 2 * 12 * 768 * 4 * positions
    more = found[1].expected - found[0].expected
    assert more.tolist() == pytest.approx((2 * bytes_copied / 4e11).tolist())
    assert found[1].seconds == found[0].seconds
    off = [floor(GPT2, "off", 1, 6, 100, "float32", rates).expected_s for rates in (fast, slow)]
    assert off[0] == off[1]


def test_products_never_beat_the_lower_bound() -> None:
    assert of("off", 4.0).expected_s == pytest.approx(
        float(np.maximum(of("off", 4.0).steps, 12 * LAUNCH).sum())
    )
