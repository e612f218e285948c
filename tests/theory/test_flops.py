"""Tests of kvbench/theory/flops.py: the closed form equals torch's count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from kvbench.catalogue import CATALOGUE
from kvbench.errors import UserError
from kvbench.models.load import LoadedModel
from kvbench.theory.architecture import Architecture
from kvbench.theory.flops import (
    generation_flops,
    kv_projection_flops,
    step_flops,
)
from tests.theory.families import TINY, architecture, loaded, prompt
from tests.tiny import run

REFUSED = ("gemma3n", "mamba", "mamba2", "qwen3_next")
COUNTED = [name for name in TINY if name not in REFUSED]


def counted_steps(model: LoadedModel, batch: int, tokens: int, new: int, cache: str) -> list[int]:
    """Return torch's count for each forward of the decoder, with the encoder in the first."""
    counts: list[int] = []
    counter = FlopCounterMode(display=False)
    sums = [0]

    def after(*_: Any) -> None:
        sums.append(counter.get_total_flops())
        counts.append(sums[-1] - sums[-2])

    hook = model.model.register_forward_hook(after)
    with counter:
        run(model, prompt(model, batch, tokens), cache, new)
    hook.remove()
    assert sum(counts) == counter.get_total_flops()
    return counts


def eager(path: Path, name: str) -> LoadedModel:
    """Load the model with kernels that the counter can see."""
    model = loaded(path, name, attention="eager")
    if hasattr(model.model, "set_experts_implementation"):
        model.model.set_experts_implementation("eager")
    return model


@pytest.mark.parametrize("name", COUNTED)
def test_each_step_is_what_torch_counts(tmp_path: Path, name: str) -> None:
    model, known = eager(tmp_path, name), architecture(name)
    # Below the window, over it in the middle, and above it from the start.
    for batch, tokens, new in ((1, 4, 4), (3, 8, 2)):
        for cache in ("off", "dynamic"):
            steps = [step_flops(known, cache, batch, tokens, step) for step in range(new)]
            assert counted_steps(model, batch, tokens, new, cache) == steps
            assert generation_flops(known, cache, batch, tokens, new) == sum(steps)


def test_llama_7b_keys_and_values_once() -> None:
    known = Architecture.from_config(CATALOGUE["llama-2-7b"].config)
    # Two products of 4096 x 4096 in 32 layers for 2 x 4096 positions.
    assert 2 * 2 * 4096**2 * 32 * (2 * 4096) == 17_592_186_044_416
    assert kv_projection_flops(known, 2, 4096) == 17_592_186_044_416


def test_gpt2_with_a_thousand_new_tokens() -> None:
    known = Architecture.from_config(CATALOGUE["gpt2"].config)
    # Each of 12 layers: 12 * 768^2 weights in its matrices, and 4 * 768 for a query and a key.
    layers, pair, head = 12 * 2 * 12 * 768**2, 12 * 4 * 768, 2 * 768 * 50257
    lengths = range(6, 1006)
    off = sum(layers * length + pair * length**2 + head for length in lengths)
    on = 6 * layers + 36 * pair + head + sum(layers + pair * n + head for n in lengths[1:])
    assert generation_flops(known, "off", 1, 6, 1000) == off == 98_437_996_032_000
    assert generation_flops(known, "dynamic", 1, 6, 1000) == on == 266_549_268_480


def test_the_sums_are_no_loops() -> None:
    known, new = architecture("mistral"), 10**12
    off, on = (generation_flops(known, cache, 1, 1, new) for cache in ("off", "dynamic"))
    # Two layers, 4 heads, keys and values of 12: all pairs, and at most 6 keys for each query.
    assert 2 * 4 * 4 * 12 * new**3 < 3 * off < 2 * 4 * 4 * 12 * new**3 * (1 + 1e-6)
    assert on < 10**6 * new


@given(
    st.sampled_from(COUNTED),
    st.sampled_from(["off", "dynamic"]),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 60),
)
@settings(max_examples=300, deadline=None)
def test_the_sums_are_those_of_a_loop(
    name: str, cache: str, batch: int, tokens: int, new: int
) -> None:
    known = architecture(name)
    loop = sum(step_flops(known, cache, batch, tokens, step) for step in range(new))
    assert generation_flops(known, cache, batch, tokens, new) == loop


@given(st.sampled_from(COUNTED), st.integers(1, 40), st.integers(1, 60))
@settings(max_examples=100, deadline=None)
def test_a_cache_never_costs_work(name: str, tokens: int, new: int) -> None:
    known = architecture(name)
    off = generation_flops(known, "off", 1, tokens, new)
    on = generation_flops(known, "dynamic", 1, tokens, new)
    assert (off == on) if new == 1 else (off > on)


@pytest.mark.parametrize("name", REFUSED)
def test_layers_that_cannot_be_counted_are_refused_by_name(name: str, snapshot: object) -> None:
    for refused in (
        lambda known: generation_flops(known, "off", 1, 2, 3),
        lambda known: step_flops(known, "dynamic", 1, 2, 1),
        lambda known: kv_projection_flops(known, 1, 2),
    ):
        with pytest.raises(UserError) as caught:
            refused(architecture(name))
        assert str(caught.value) == snapshot


def test_sizes_that_make_no_work_are_refused(snapshot: object) -> None:
    known = architecture("gpt2")
    with pytest.raises(UserError) as caught:
        step_flops(known, "off", 1, 1, -1)
    assert str(caught.value) == snapshot
    with pytest.raises(UserError) as caught:
        generation_flops(known, "off", 1, 1, 0)
    assert str(caught.value) == snapshot
    with pytest.raises(UserError) as caught:
        kv_projection_flops(known, 1, 0)
    assert str(caught.value) == snapshot
