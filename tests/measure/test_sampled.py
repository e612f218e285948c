"""Tests of kvbench/measure/sampled.py: steps timed inside of short generations."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from kvbench.analysis.positions import blocks_of, start_tokens
from kvbench.caches import strategy
from kvbench.errors import UserError
from kvbench.measure import sampled as module
from kvbench.measure.sampled import measure_steps
from kvbench.models.load import LoadedModel
from tests.tiny import ARCHITECTURES, config_folder, inputs_of, load

LENGTHS = (6, 20, 40)
PROMPT = [5, 17, 9, 300, 44]


@pytest.fixture(scope="module", params=["gpt2", "mistral"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    path = tmp_path_factory.mktemp(request.param)
    return load(config_folder(path, ARCHITECTURES[request.param]))


@pytest.fixture
def forwards(model: LoadedModel) -> Iterator[list[tuple[int, ...]]]:
    """Shapes of the ids that each forward is fed."""
    seen: list[tuple[int, ...]] = []

    def note(_module: Any, _args: Any, options: dict[str, Any]) -> None:
        seen.append(tuple(options["input_ids"].shape))

    handle = model.model.register_forward_pre_hook(note, with_kwargs=True)
    yield seen
    handle.remove()


def steps(model: LoadedModel, cache: str, batch_size: int = 1, **options: Any) -> module.Sampled:
    inputs = inputs_of(model, [PROMPT] * batch_size)
    return measure_steps(
        model, inputs, strategy(cache), LENGTHS, synchronise=lambda: None, **options
    )


@pytest.mark.parametrize("cache", ["off", "dynamic"])
def test_each_position_is_measured_once(model: LoadedModel, cache: str) -> None:
    found = steps(model, cache).measured
    asked = blocks_of(LENGTHS, cached=cache != "off")
    assert sorted((b.first, len(b.seconds)) for b in found.blocks) == sorted(
        (block.start, len(block)) for block in asked
    )
    assert all(seconds > 0 for block in found.blocks for seconds in block.seconds)
    assert [len(start) for start in found.starts] == [start_tokens(LENGTHS)] * 2
    assert found.tail > 0


def test_without_a_cache_a_step_is_a_forward_over_all_tokens(
    model: LoadedModel, forwards: list[tuple[int, ...]]
) -> None:
    steps(model, "off", batch_size=2)
    start = start_tokens(LENGTHS)
    shapes = forwards[start:-start]
    # Token k is made by a forward over the prompt and the k - 1 tokens before it.
    wanted = [(2, len(PROMPT) + k - 1) for block in blocks_of(LENGTHS, cached=False) for k in block]
    assert sorted(shapes) == sorted(wanted)


def test_with_a_cache_a_step_is_one_token_against_the_positions_so_far(
    model: LoadedModel, forwards: list[tuple[int, ...]]
) -> None:
    steps(model, "dynamic")
    start = start_tokens(LENGTHS)
    shapes = forwards[start:-start]
    blocks = blocks_of(LENGTHS, cached=True)
    prefills = [shape for shape in shapes if shape[1] > 1]
    assert sorted(prefills) == sorted((1, len(PROMPT) + block.start - 2) for block in blocks)
    assert len(shapes) - len(prefills) == sum(len(block) for block in blocks)


def test_the_starts_are_generated_from_the_prompt_itself(
    model: LoadedModel, forwards: list[tuple[int, ...]]
) -> None:
    found = steps(model, "dynamic")
    start = start_tokens(LENGTHS)
    assert forwards[0] == forwards[-start] == (1, len(PROMPT))
    assert found.start.new_tokens == start


def test_where_asked_each_step_is_made_once_before_it_is_timed(
    model: LoadedModel, forwards: list[tuple[int, ...]]
) -> None:
    steps(model, "off")
    once = len(forwards)
    forwards.clear()
    found = steps(model, "off", warm_up=True)
    starts = 2 * start_tokens(LENGTHS)
    assert len(forwards) - starts == 2 * (once - starts)
    assert len(found.measured.blocks) == len(blocks_of(LENGTHS, cached=False))


def test_the_order_of_the_positions_is_mixed_and_repeatable(model: LoadedModel) -> None:
    first, again, other = (
        [block.first for block in steps(model, "off", seed=seed).measured.blocks]
        for seed in (0, 0, 1)
    )
    assert first == again != sorted(first)
    assert other != first and sorted(other) == sorted(first)


class Ticking:
    """A clock on which each look takes a second, but for forwards, which take 100."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


@pytest.mark.parametrize("cache", ["off", "dynamic"])
def test_a_step_is_what_it_is_inside_of_a_generation(
    model: LoadedModel, cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Ticking()

    def work(_module: Any, _args: Any, _output: Any) -> None:
        clock.now += 100.0

    monkeypatch.setattr("time.perf_counter", clock)
    handle = model.model.register_forward_hook(work)
    try:
        found = steps(model, cache).measured
    finally:
        handle.remove()
    # Begin of the forward, the forward, the stamp: as between two tokens of the starts.
    (gap,) = {after - before for s in found.starts for before, after in itertools.pairwise(s)}
    assert {seconds for block in found.blocks for seconds in block.seconds} == {gap}


def test_a_generation_that_stood_still_is_made_again(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch, forwards: list[tuple[int, ...]]
) -> None:
    plain = steps(model, "off")
    once = len(forwards)
    forwards.clear()
    answers = itertools.chain([False, True, False], itertools.repeat(False))
    monkeypatch.setattr(module, "paused", lambda *_: next(answers))
    again = steps(model, "off")
    assert len(forwards) > once
    assert len(again.measured.blocks) == len(plain.measured.blocks)
    assert (plain.paused, again.paused) == (False, False)
    monkeypatch.setattr(module, "paused", lambda *_: True)
    assert steps(model, "off").paused


def test_nothing_is_left_on_the_model(model: LoadedModel) -> None:
    before = len(model.model._forward_pre_hooks)
    steps(model, "off")
    assert len(model.model._forward_pre_hooks) == before


def test_a_model_with_an_encoder_is_refused(tmp_path: Path) -> None:
    model = load(config_folder(tmp_path / "t5", ARCHITECTURES["t5"]))
    inputs = inputs_of(model, [PROMPT])
    with pytest.raises(UserError, match="--method each"):
        measure_steps(model, inputs, strategy("off"), (4,), synchronise=lambda: None)


def test_filler_tokens_are_those_of_the_vocabulary(model: LoadedModel) -> None:
    seen: list[torch.Tensor] = []

    def note(_module: Any, _args: Any, options: dict[str, Any]) -> None:
        seen.append(options["input_ids"])

    handle = model.model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        steps(model, "off")
    finally:
        handle.remove()
    longest = max(seen, key=lambda ids: ids.shape[1])
    assert longest[0, : len(PROMPT)].tolist() == PROMPT
    # Not one token again and again: a mixture of experts would take the same way each time.
    assert len(set(longest[0].tolist())) > 10
