"""Tests of kvbench/theory/floors.py."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from kvbench.catalogue import CATALOGUE
from kvbench.errors import UserError
from kvbench.records.rates import Rates
from kvbench.theory.architecture import Architecture
from kvbench.theory.cache import cache_bytes
from kvbench.theory.floors import Floor, floor, pays_from
from kvbench.theory.flops import step_flops
from kvbench.theory.layers import Experts
from kvbench.theory.weights import parameters, weights_bytes
from tests.theory.families import WINDOW, architecture
from tests.theory.test_flops import COUNTED

RATES = Rates(
    device="cuda",
    hardware="a board",
    source="published",
    read_bytes_per_s=1e12,
    flops_per_s={"float32": 1e13, "float16": 1e14},
)


POSITIONS = 1024 * 768
"""Numbers in GPT-2's table of positions, of which a step reads only its own rows."""


def of(known: Architecture, strategy: str = "dynamic", **sizes: Any) -> Floor:
    work = {"batch": 1, "prompt_tokens": 3, "new_tokens": 5, "dtype": "float32"} | sizes
    return floor(known, strategy, rates=RATES, **work)


def gpt2() -> Architecture:
    return Architecture.from_config(CATALOGUE["gpt2"].config)


@pytest.mark.parametrize("name", COUNTED)
@pytest.mark.parametrize("strategy", ["off", "dynamic"])
def test_the_flops_of_each_step_are_those_of_theory(name: str, strategy: str) -> None:
    """All steps are computed from a few: below, at and past a window."""
    known, new = architecture(name), 3 * WINDOW
    for prompt in (1, WINDOW - 2, WINDOW + 3):
        found = of(known, strategy, batch=2, prompt_tokens=prompt, new_tokens=new)
        steps = [step_flops(known, strategy, 2, prompt, step) for step in range(new)]
        assert found.flops.tolist() == steps


def _reads_the_same_weights(name: str) -> bool:
    """Return whether both strategies read the same: no experts to choose, no encoder."""
    known = architecture(name)
    return not known.encoder and not any(isinstance(one.mlp, Experts) for one in known.layers)


@pytest.mark.parametrize("name", [name for name in COUNTED if _reads_the_same_weights(name)])
def test_the_cache_is_read_as_it_was_before_the_step(name: str) -> None:
    known, new = architecture(name), 3 * WINDOW
    on, off = (of(known, s, batch=1, prompt_tokens=2, new_tokens=new) for s in ("dynamic", "off"))
    kept = [0, *(cache_bytes(known, "dynamic", 1, 2, step, "float32") for step in range(1, new))]
    assert (on.moved - off.moved).tolist() == kept


@pytest.mark.parametrize("new", [1, 2, 3])
def test_few_tokens_are_no_special_case(new: int) -> None:
    known = architecture("llama")
    for strategy in ("off", "dynamic"):
        steps = [step_flops(known, strategy, 1, 3, step) for step in range(new)]
        assert of(known, strategy, new_tokens=new).flops.tolist() == steps


def test_a_tied_embedding_is_read_once_and_an_untied_one_never() -> None:
    tied = gpt2()
    read = weights_bytes(tied, "float32") - 4 * POSITIONS
    assert of(tied, "off").moved.tolist() == [read] * 5
    untied = Architecture.from_config(CATALOGUE["llama-2-7b"].config)
    table = untied.vocabulary * untied.embedding_size
    assert of(untied, "off").moved[0] == 4 * (parameters(untied) - table)


def test_with_a_cache_what_makes_keys_and_values_of_an_encoder_is_read_once() -> None:
    known = architecture("t5")
    off, on = (of(known, name, prompt_tokens=3, new_tokens=3) for name in ("off", "dynamic"))
    crosses = [layer.cross for layer in known.layers]
    made = 4 * sum(one.parameters for cross in crosses if cross for one in cross.key_value)
    kept = [cache_bytes(known, "dynamic", 1, 3, step, "float32") for step in (1, 2)]
    assert made > 0
    assert on.moved[0] == off.moved[0]
    assert (on.moved - off.moved)[1:].tolist() == [size - made for size in kept]


def test_an_encoder_is_read_in_the_first_step_alone() -> None:
    known = architecture("t5")
    moved = of(known, "off").moved
    assert moved[0] - moved[1] == 4 * sum(layer.parameters for layer in known.encoder)


def test_a_step_takes_the_longer_of_two_times() -> None:
    found = Floor(np.array([8.0, 8.0]), np.array([2.0, 100.0]), bytes_per_s=4, flops_per_s=10)
    assert found.steps.tolist() == [2.0, 10.0]
    assert found.seconds == 12.0
    assert found.mbu(24.0) == 16 / 4 / 24
    assert found.mfu(24.0) == pytest.approx(102 / 10 / 24)


@pytest.mark.parametrize(
    ("flops", "seconds", "limit"),
    [
        (0.0, 1.0, "bandwidth"),
        (0.0, 3.0, "bandwidth"),
        (0.0, 3.01, "overhead"),
        (9.0, 9.0, "arithmetic"),
        (9.0, 28.0, "overhead"),
    ],
)
def test_what_limits_a_run(flops: float, seconds: float, limit: str) -> None:
    found = Floor(np.array([1.0]), np.array([flops]), bytes_per_s=1, flops_per_s=1)
    assert found.limited_by(seconds) == limit


def test_the_weights_of_gpt2_set_the_floor_of_its_cached_decode() -> None:
    """498 MB at 1 TB/s: half a millisecond per token, plus the cache."""
    found = of(gpt2(), prompt_tokens=6, new_tokens=1000)
    weights = (weights_bytes(gpt2(), "float32") - 4 * POSITIONS) / 1e12
    assert found.steps[1] == pytest.approx(weights, rel=0.01)
    assert found.steps[-1] == pytest.approx(weights + 73_728 * 1004 / 1e12)
    assert found.limited_by(found.seconds) == "bandwidth"


def test_without_a_cache_arithmetic_is_the_limit_in_the_end() -> None:
    long = of(gpt2(), "off", new_tokens=1000)
    assert long.limited_by(long.seconds) == "arithmetic"
    short = of(gpt2(), "off", prompt_tokens=1, new_tokens=2)
    assert short.limited_by(short.seconds) == "bandwidth"


def test_half_the_width_moves_half_the_bytes() -> None:
    wide, narrow = (of(gpt2(), dtype=dtype) for dtype in ("float32", "float16"))
    assert narrow.moved.tolist() == (wide.moved / 2).tolist()
    assert narrow.flops_per_s == 1e14


def test_of_experts_those_are_read_that_so_many_tokens_choose() -> None:
    known = architecture("mixtral")
    experts = known.layers[0].mlp
    assert isinstance(experts, Experts)
    one = experts.expert.parameters * len(known.layers) * 4
    alone, many = (of(known, batch=n, prompt_tokens=1, new_tokens=2) for n in (1, 10_000))
    cache = cache_bytes(known, "dynamic", 1, 1, 1, "float32")
    # One token reads its own experts; ten thousand read all.
    idle = experts.count - experts.per_token
    more = many.moved[1] - 10_000 * cache - (alone.moved[1] - cache)
    assert more == pytest.approx(idle * one)


# What follows


def naive(off: Floor, on: Floor, overhead: float) -> int | None:
    gains = []
    for n in range(1, len(off.steps) + 1):
        times = [sum(max(s, overhead) for s in arm.steps[:n]) for arm in (off, on)]
        gains.append(times[0] > 1.05 * times[1])
    found = None
    for n in range(len(gains), 0, -1):
        if not gains[n - 1]:
            break
        found = n
    return found


@pytest.mark.parametrize("overhead", [0.0, 1e-3, 5e-3, 1.0])
def test_from_where_a_cache_pays(overhead: float) -> None:
    off, on = (of(gpt2(), s, prompt_tokens=6, new_tokens=300) for s in ("off", "dynamic"))
    assert pays_from(off, on, overhead) == naive(off, on, overhead)


def test_the_more_overhead_the_later_it_pays() -> None:
    off, on = (of(gpt2(), s, prompt_tokens=6, new_tokens=1000) for s in ("off", "dynamic"))
    found = [pays_from(off, on, overhead) for overhead in (0.0, 1e-3, 5e-3, 1.0)]
    assert found[-1] is None
    known = [n for n in found if n is not None]
    assert known == sorted(known)
    assert known[0] < known[-1]


def test_arms_that_are_alike_never_pay() -> None:
    on = of(gpt2())
    assert pays_from(on, on) is None


def test_a_layer_costs_what_was_probed_in_every_step() -> None:
    probed = dataclasses.replace(RATES, device="cpu", layer_s=1e-3)
    work = (1, 6, 10, "float32", probed)
    for name in ("off", "dynamic"):
        found = floor(gpt2(), name, *work)
        assert (found.expected - found.steps).tolist() == pytest.approx([12e-3] * 10)
        assert found.expected_s == pytest.approx(found.seconds + 10 * 12e-3)
    t5 = floor(architecture("t5"), "dynamic", *work)
    layers = len(architecture("t5").layers), len(architecture("t5").encoder)
    assert t5.beyond is not None
    assert t5.beyond[:2].tolist() == pytest.approx([1e-3 * sum(layers), 1e-3 * layers[0]])


def test_a_gpu_works_while_layers_are_launched() -> None:
    """A step takes the longer of the two, not both."""
    quick, slow = (
        dataclasses.replace(RATES, device="cuda", layer_s=seconds, few_rows_s_per_byte=1e-10)
        for seconds in (1e-9, 1.0)
    )
    least = floor(gpt2(), "dynamic", 1, 6, 10, "float32", RATES).seconds
    assert floor(gpt2(), "dynamic", 1, 6, 10, "float32", quick).expected_s == pytest.approx(least)
    assert floor(gpt2(), "dynamic", 1, 6, 10, "float32", slow).expected_s == pytest.approx(120.0)


def test_few_rows_cost_more_and_one_row_does_not() -> None:
    cpu = dataclasses.replace(RATES, device="cpu", layer_s=1e-9)
    probed = dataclasses.replace(cpu, few_rows_s_per_byte=1e-10)
    off, on = (floor(gpt2(), n, 1, 6, 5, "float32", probed) for n in ("off", "dynamic"))
    assert off.beyond is not None and on.beyond is not None
    packed = (weights_bytes(gpt2(), "float32") - 4 * POSITIONS) * 1e-10
    assert off.beyond.tolist() == pytest.approx([packed] * 5, rel=1e-5)
    assert on.beyond.tolist() == pytest.approx([packed, *[12e-9] * 4], rel=1e-5)


def test_what_was_not_probed_is_not_expected() -> None:
    found = of(gpt2())
    assert found.beyond is None
    assert found.expected_s == found.seconds


def test_overhead_of_layers_makes_a_cache_pay_later() -> None:
    """A small model on a fast device, as with launches on a GPU."""
    slow = dataclasses.replace(RATES, layer_s=1e-3)
    plain, probed = (
        [floor(gpt2(), n, 1, 6, 1000, "float32", rates) for n in ("off", "dynamic")]
        for rates in (RATES, slow)
    )
    assert (pays_from(*plain) or 0) < (pays_from(*probed) or 0)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("gpt2", {"dtype": "bfloat16"}),
        ("gpt2", {"new_tokens": 0}),
        ("gpt2", {"batch": 0}),
        ("gemma3n", {}),
        ("mamba", {}),
    ],
)
def test_what_has_no_floor_is_a_sentence(
    name: str, changes: dict[str, Any], snapshot: object
) -> None:
    with pytest.raises(UserError) as caught:
        of(architecture(name), **changes)
    assert str(caught.value) == snapshot
