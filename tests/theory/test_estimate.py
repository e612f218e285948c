"""Tests of kvbench/theory/estimate.py."""

from __future__ import annotations

import re
from typing import Any

import pytest

from kvbench.catalogue import CATALOGUE
from kvbench.errors import UserError
from kvbench.theory.advice import needed_bytes
from kvbench.theory.architecture import Architecture
from kvbench.theory.cache import cache_bytes
from kvbench.theory.estimate import (
    Estimate,
    Work,
    estimate,
    formula,
    max_positions,
    parse_bytes,
)
from kvbench.theory.floors import floor
from kvbench.theory.peaks import published
from kvbench.theory.weights import weights_bytes
from tests.theory.families import TINY, WINDOW, architecture

GIB = 2**30
T4 = published("Tesla T4")


def of(name: str, *, work: Work | None = None, **more: Any) -> Estimate:
    known = Architecture.from_config(CATALOGUE[name].config)
    return estimate(name, known, work or Work(), **more)


def test_the_worked_case_of_llama_7b(snapshot: object) -> None:
    """Batch 2, length 4096, float16: the arithmetic is in docs/theory.md."""
    work = Work(batch=2, prompt_tokens=1, new_tokens=4096, dtype="float16")
    found = of("llama-2-7b", work=work)
    assert found.positions == 4096
    assert found.cache_bytes == 2 * 2 * 32 * 4096 * 2 * 4096 == 4_294_967_296
    assert found.weights_bytes == 13_476_831_232
    assert found.kv_projection_flops == 17_592_186_044_416
    assert found.formula == snapshot


def test_the_worked_case_of_gpt2() -> None:
    found = of("gpt2")
    assert (found.positions, found.cache_bytes_per_token) == (1005, 73_728)
    assert found.cache_bytes == 1005 * 73_728
    assert found.notes == ()


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_formula_comes_to_the_bytes_of_the_cache(name: str, dtype: str) -> None:
    """Each line is a product that can be checked by hand; together they are the cache."""
    known = architecture(name)
    for prompt, new in ((1, 1), (3, 2), (WINDOW, 4)):
        work = Work(batch=3, prompt_tokens=prompt, new_tokens=new, dtype=dtype)
        lines = formula(known, work)
        totals = [int(line.split("= ")[1].split()[0].replace(",", "")) for line in lines]
        assert sum(totals) == cache_bytes(known, "dynamic", 3, prompt, new, dtype)
        for line, total in zip(lines, totals, strict=True):
            if "another" not in line:
                assert _product(line.split(" = ")[0]) == total


def _product(text: str) -> int:
    """Evaluate the numbers of a formula: sums in brackets, windows are remarks."""
    text = re.sub(r" \(window[^)]*\)", "", text).replace(",", "")
    total = 1
    for factor in text.split(" x "):
        total *= sum(int(number) for number in re.findall(r"\d+", factor))
    return total


def test_what_fits_is_the_most_that_fits() -> None:
    work = Work(batch=2, prompt_tokens=100, new_tokens=400, dtype="bfloat16")
    found = of("llama-3.2-1b", work=work, memory_bytes=24 * GIB)
    known = Architecture.from_config(CATALOGUE["llama-3.2-1b"].config)
    room = 24 * GIB - weights_bytes(known, "bfloat16")

    def batch(n: int) -> int:
        return needed_bytes(known, work.with_batch(n), "dynamic")

    def context(n: int) -> int:
        return needed_bytes(known, work.with_context(n), "dynamic")

    for size, most in ((batch, found.largest_batch), (context, found.longest_context)):
        assert most is not None
        assert size(most) <= int(0.9 * room) < size(most + 1)


def test_what_does_not_fit_is_told(snapshot: object) -> None:
    found = of("llama-2-7b", memory_bytes=16 * GIB)
    assert (found.largest_batch, found.longest_context) == (0, 0)
    assert " ".join(found.notes) == snapshot
    assert of("gpt2").largest_batch is None


def test_a_longer_context_has_a_longer_prompt_and_the_same_new_tokens() -> None:
    work = Work(prompt_tokens=6, new_tokens=10)
    assert work.with_context(100) == Work(prompt_tokens=91, new_tokens=10)
    # With too few positions for all new tokens, there are fewer of these.
    assert work.with_context(4) == Work(prompt_tokens=1, new_tokens=4)
    assert work.with_context(4, encoder=True) == Work(prompt_tokens=6, new_tokens=4)


def test_a_state_of_constant_size_has_a_longer_context_than_what_grows() -> None:
    state, grows = (
        estimate("m", architecture(name), Work(), memory_bytes=GIB) for name in ("mamba", "llama")
    )
    assert state.longest_context and grows.longest_context
    assert state.longest_context > 2 * grows.longest_context


def test_the_floors_are_those_of_theory() -> None:
    assert T4 is not None
    found = of("gpt2", rates=[T4])
    known = Architecture.from_config(CATALOGUE["gpt2"].config)
    (told,) = found.floors
    off, on = (floor(known, s, 1, 6, 1000, "float32", T4) for s in ("off", "dynamic"))
    assert (told.off_s, told.on_s) == (off.seconds, on.seconds)
    assert told.speedup == off.seconds / on.seconds > 1
    assert (told.off_limit, told.on_limit) == ("arithmetic", "bandwidth")
    assert told.pays_from is not None


def test_what_theory_cannot_tell_is_a_note_and_the_rest_is_told(snapshot: object) -> None:
    assert T4 is not None
    found = estimate("m", architecture("mamba"), Work(), rates=[T4])
    assert (found.flops_off, found.flops_on, found.floors) == (None, None, ())
    assert found.cache_bytes > 0 and found.weights_bytes
    assert sum("FLOPs cannot be counted" in note for note in found.notes) == 1
    narrow = of("gpt2", work=Work(dtype="bfloat16"), rates=[T4])
    assert narrow.floors == ()
    assert narrow.notes[0] == snapshot


def test_more_positions_than_the_model_has_are_told(snapshot: object) -> None:
    found = of("gpt2", work=Work(new_tokens=1020), max_positions=1024)
    assert found.notes == snapshot
    assert of("gpt2", work=Work(new_tokens=1019), max_positions=1024).notes == ()


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        (CATALOGUE["gpt2"].config, 1024),
        (CATALOGUE["mistral-7b"].config, 32768),
        ({"text_config": {"max_position_embeddings": 7}}, 7),
        ({}, None),
        ({"max_position_embeddings": None}, None),
    ],
)
def test_the_positions_of_a_model(config: dict[str, Any], positions: int | None) -> None:
    assert max_positions(config) == positions


@pytest.mark.parametrize(
    "work", [Work(batch=0), Work(prompt_tokens=0), Work(new_tokens=0), Work(dtype="int3")]
)
def test_work_of_no_size_is_refused(work: Work) -> None:
    with pytest.raises(UserError):
        of("gpt2", work=work)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("80GiB", 80 * GIB),
        ("24 GB", 24 * 10**9),
        ("16000000000", 16 * 10**9),
        ("1.5gib", 3 * GIB // 2),
    ],
)
def test_a_size_is_read(text: str, size: int) -> None:
    assert parse_bytes("--x", text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1GiB", "0", "80 apples", "nan", "80"])
def test_what_is_no_size_is_a_sentence(text: str, snapshot: object) -> None:
    with pytest.raises(UserError) as caught:
        parse_bytes("--x", text)
    assert str(caught.value) == snapshot


def test_no_more_positions_are_named_than_the_model_has() -> None:
    unknown = of("gpt2", memory_bytes=80 * GIB).longest_context
    assert unknown is not None and unknown > 1024
    config = CATALOGUE["gpt2"].config
    known = Architecture.from_config(config)
    whole = estimate("m", known, Work(), memory_bytes=80 * GIB, max_positions=max_positions(config))
    assert (whole.longest_context, whole.max_positions) == (1024, 1024)
    tight = estimate("m", known, Work(), memory_bytes=GIB // 2 + 2**25, max_positions=1024)
    assert tight.longest_context is not None and tight.longest_context < 1024


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        ({"model_type": "gpt2"}, 1024),
        ({"model_type": "opt"}, 2048),
        ({"model_type": "gpt2", "n_positions": 64}, 64),
        ({"model_type": "led", "max_decoder_position_embeddings": 48}, 48),
        ({"model_type": "mpt", "max_seq_len": 90}, 90),
        ({"model_type": "x", "text_config": {"max_position_embeddings": 7}}, 7),
        ({"model_type": "x", "max_position_embeddings": -1}, None),
        ({"model_type": "mamba"}, None),
    ],
)
def test_positions_are_found_under_each_spelling(
    config: dict[str, Any], positions: int | None
) -> None:
    assert max_positions(config) == positions
