"""Tests of kvbench/measure/verify/expected.py and shapes.py."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, Cache

from kvbench.caches import strategy
from kvbench.measure.verify.arms import Arms
from kvbench.measure.verify.check_pages import pages_contradict, wrong_pages
from kvbench.measure.verify.check_shapes import describe_shapes, wrong_shape
from kvbench.measure.verify.expected import LayerPlan, cross_layers, decoder_layers
from kvbench.measure.verify.judge import judge_shape
from kvbench.measure.verify.runs import Run, Work, greedy, make_work, watching
from kvbench.measure.verify.shapes import (
    CacheShape,
    Handed,
    LayerShape,
    PagedLayer,
    cache_of,
    noting_what_is_handed_over,
    read_shape,
)
from tests.tiny import GPT2, LLAMA, MISTRAL, T5, Config, config_folder, load

DYNAMIC = strategy("dynamic")
FULL = LayerPlan("full", None, 2, 16)
ALTERNATING: Config = LLAMA | {
    "model_type": "qwen3_next",
    "layer_types": ["linear_attention", "full_attention"],
}


@pytest.mark.parametrize(
    ("config", "plans"),
    [
        (GPT2, [LayerPlan("full", None, 4, 16)] * 2),
        (LLAMA, [FULL] * 2),
        (MISTRAL, [LayerPlan("window", 8, 2, 16)] * 2),
        (MISTRAL | {"sliding_window": None}, [FULL] * 2),
        (ALTERNATING, [LayerPlan("state"), FULL]),
        (
            LLAMA
            | {"model_type": "gemma3_text", "layer_types": ["sliding_attention"] * 2}
            | {"sliding_window": 6},
            [LayerPlan("window", 6, 2, 16)] * 2,
        ),
        (
            LLAMA
            | {"model_type": "llama4_text", "attention_chunk_size": 5}
            | {"layer_types": ["chunked_attention", "full_attention"]},
            [LayerPlan("window", 5, 2, 16), FULL],
        ),
        ({"model_type": "gpt_bigcode", "n_layer": 1}, [LayerPlan("full", None, 1, 64)]),
        (
            {"model_type": "falcon", "num_hidden_layers": 1, "new_decoder_architecture": True},
            [LayerPlan("full", None, None, 64)],
        ),
        (
            {"model_type": "deepseek_v2", "num_hidden_layers": 1, "first_k_dense_replace": 0},
            [LayerPlan("full")],
        ),
        (T5 | {"num_decoder_layers": 1}, [LayerPlan("full", None, 4, 16)]),
        ({"model_type": "bart", "decoder_layers": 1}, [LayerPlan("full", None, 16, 64)]),
    ],
)
def test_the_layers_follow_from_the_configuration(config: Config, plans: list[LayerPlan]) -> None:
    assert decoder_layers(AutoConfig.for_model(**config)) == tuple(plans)


def test_layers_that_differ_in_more_than_their_type() -> None:
    config = AutoConfig.for_model(
        "gemma4_text",
        num_hidden_layers=4,
        num_key_value_heads=2,
        head_dim=16,
        global_head_dim=32,
        sliding_window=12,
        num_kv_shared_layers=2,
        layer_types=["sliding_attention", "full_attention"] * 2,
    )
    first, second, *shared = decoder_layers(config)
    assert (first.kind, first.window, first.head_dim) == ("window", 12, 16)
    assert (second.kind, second.window, second.head_dim) == ("full", None, 32)
    assert shared == [LayerPlan("none")] * 2


def test_layer_types_that_are_not_known_are_not_judged_by_length() -> None:
    config = AutoConfig.for_model(**(LLAMA | {"model_type": "llama"}))
    config.layer_types = ["something_new", "full_attention"]
    assert [plan.kind for plan in decoder_layers(config)] == ["unknown", "full"]


def test_cross_attention_sees_all_there_is() -> None:
    config = AutoConfig.for_model(**T5)
    assert cross_layers(config) == (LayerPlan("full", None, 4, 16),) * 2


@pytest.mark.parametrize(("seen", "kept"), [(1, 1), (6, 6), (7, 7), (8, 7), (100, 7)])
def test_a_window_keeps_one_less_than_it_shows(seen: int, kept: int) -> None:
    assert DYNAMIC.positions_kept(seen, 8) == kept
    assert DYNAMIC.positions_kept(seen, None) == seen


def watched(path: Path, config: Config) -> tuple[Work, list[CacheShape]]:
    """Return a healthy generation of four tokens and its caches."""
    work = make_work(load(config_folder(path, config)), 1, 4, 0)
    steps: list[CacheShape] = []

    def look(output: Any, given: dict[str, Any]) -> None:
        steps.append(read_shape(cache_of(output, given)))

    with watching(work.loaded.model, look):
        greedy(work, DYNAMIC)
    return work, steps


def altered(steps: list[CacheShape], step: int, part: str, **changes: Any) -> list[CacheShape]:
    """Return the same with another second layer at one step."""
    first, second = getattr(steps[step], part)
    layers = (first, dataclasses.replace(second, **changes))
    return [*steps[:step], dataclasses.replace(steps[step], **{part: layers}), *steps[step + 1 :]]


def test_what_a_layer_looks_like(tmp_path: Path) -> None:
    work, steps = watched(tmp_path, LLAMA)
    assert steps[2].layers[0] == LayerShape((1, 2, 10, 16), (1, 2, 10, 16), 10, False, ())
    assert steps[2].cross == ()
    assert wrong_shape(work, DYNAMIC, steps) is None
    told = "cache layers match the configuration (2 layers, 4 steps), final shape [1, 2, 11, 16]"
    assert describe_shapes(work, steps) == told


@pytest.mark.parametrize(
    ("step", "changes"),
    [
        (0, {"keys": (2, 2, 8, 16)}),
        (1, {"values": (1, 4, 9, 16)}),
        (2, {"keys": (1, 2, 9, 16)}),
        (3, {"values": (1, 2, 11, 8)}),
        (1, {"keys": (1, 9, 32)}),
        (1, {"keys": None}),
        (2, {"length": 9}),
        (1, {"states": ((1, 4),)}),
    ],
)
def test_the_first_thing_that_is_wrong_is_told(
    tmp_path: Path, step: int, changes: dict[str, Any], snapshot: object
) -> None:
    work, steps = watched(tmp_path, LLAMA)
    found = wrong_shape(work, DYNAMIC, altered(steps, step, "layers", **changes))
    assert found is not None
    assert found == snapshot


def test_cross_attention_must_not_grow(tmp_path: Path) -> None:
    work, steps = watched(tmp_path, T5)
    assert wrong_shape(work, DYNAMIC, steps) is None
    grown = altered(steps, 2, "cross", keys=(1, 4, 9, 16))
    told = "cross-attention layer 1 after step 2: keys are [1, 4, 9, 16], expected [1, 4, 8, 16]"
    assert wrong_shape(work, DYNAMIC, grown) == told


def test_a_layer_too_few_or_too_many_is_wrong(tmp_path: Path, snapshot: object) -> None:
    work, steps = watched(tmp_path, LLAMA)
    few = [dataclasses.replace(step, layers=step.layers[:1]) for step in steps]
    many = [dataclasses.replace(step, layers=(*step.layers, step.layers[0])) for step in steps]
    assert wrong_shape(work, DYNAMIC, few) == snapshot
    told = "layer 2 after the prefill: it has keys [1, 2, 8, 16], expected none"
    assert wrong_shape(work, DYNAMIC, many) == told


def test_a_forward_too_few_cannot_be_judged(tmp_path: Path, snapshot: object) -> None:
    work, steps = watched(tmp_path, LLAMA)
    nothing = torch.zeros(1, 4, 503)
    run = Run(torch.zeros(1, 12), torch.zeros(1, 4), nothing)
    outcome = judge_shape(work, DYNAMIC, Arms(run, run, nothing, nothing, tuple(steps[:-1])))
    assert outcome.verdict == "inconclusive"
    assert outcome.detail == snapshot


def test_what_was_handed_over_is_noted_once_for_each_update(tmp_path: Path) -> None:
    work = make_work(load(config_folder(tmp_path, LLAMA)), 1, 4, 0)
    before = Cache.update
    with noting_what_is_handed_over() as handed:
        greedy(work, DYNAMIC)
    assert Cache.update is before
    assert sorted(layer for _, layer in handed) == [0, 1]
    assert set(handed.values()) == {Handed((1, 2, 16), (1, 2, 16), 11)}


def test_a_buffer_must_be_long_enough_and_stay(tmp_path: Path) -> None:
    work, steps = watched(tmp_path, LLAMA)

    def buffers(*lengths: int) -> list[CacheShape]:
        layers = [
            LayerShape((1, 2, n, 16), (1, 2, n, 16), 8 + i, True, ()) for i, n in enumerate(lengths)
        ]
        return [CacheShape((layer, layer)) for layer in layers]

    assert wrong_shape(work, DYNAMIC, buffers(11, 11, 11, 11)) is None
    assert wrong_shape(work, DYNAMIC, buffers(11, 11, 12, 12)) is not None
    assert wrong_shape(work, DYNAMIC, buffers(10, 10, 10, 10)) is not None
    assert len(steps) == 4


def test_a_packed_layer_is_judged_by_what_it_says(tmp_path: Path, snapshot: object) -> None:
    work, _ = watched(tmp_path, LLAMA)
    packed = [LayerShape(None, None, 8 + step, False, ()) for step in range(4)]
    assert wrong_shape(work, DYNAMIC, [CacheShape((layer, layer)) for layer in packed]) is None
    wrong = wrong_shape(work, DYNAMIC, [CacheShape((layer, layer)) for layer in [packed[0]] * 4])
    assert wrong == snapshot


def test_a_cache_without_layers_is_named() -> None:
    assert read_shape([1, 2]) == CacheShape((), unreadable="list")


# Pages


HANDED = Handed((1, 2, 16), (1, 2, 16), 9 + 6)
PAGES = PagedLayer((2, 16), 4, ((0, 2, 4), (1, 3)), handed=HANDED)
"""Two sequences of 9 and 6 positions, in pages of 4."""


@pytest.mark.parametrize(
    ("changes", "contradicts"),
    [
        # The configuration says otherwise, but the cache holds what it received.
        ({"slot": (4, 16), "handed": dataclasses.replace(HANDED, keys=(1, 4, 16))}, False),
        ({"slot": (4, 16)}, True),
        ({"slot": (2, 8)}, True),
        ({"tables": ((0, 2, 4),)}, True),
        ({"tables": ((0, 2), (1, 3))}, True),
        ({"tables": ((0, 2, 4), (1, 3, 5))}, True),
        ({"tables": ((0, 2, 4), (1, 2))}, True),
        ({"handed": dataclasses.replace(HANDED, positions=14)}, True),
    ],
)
def test_wrong_pages_are_found(
    changes: dict[str, Any], contradicts: bool, snapshot: object
) -> None:
    wrong = dataclasses.replace(PAGES, **changes)
    assert wrong_pages([FULL] * 2, [PAGES, wrong], [9, 6]) == snapshot
    assert pages_contradict([PAGES, wrong], [9, 6]) == contradicts


def test_pages_that_are_right(snapshot: object) -> None:
    assert wrong_pages([FULL] * 2, [PAGES] * 2, [9, 6]) is None
    assert not pages_contradict([PAGES] * 2, [9, 6])
    ring = dataclasses.replace(PAGES, tables=((0, 1), (2, 3)), window=6)
    assert wrong_pages([LayerPlan("window", 6, 2, 16)], [ring], [9, 6]) is None
    assert not pages_contradict([ring], [9, 6])
    assert wrong_pages([FULL], [PAGES] * 2, [9, 6]) == snapshot
