"""Tests of kvbench/measure/inspection.py, observers.py and count.py, on tiny real models.

Observations are compared with the configuration, with the weights of the requested layer, and with
torch's counts or the closed form; never with another observation.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AttentionInterface, Cache

from kvbench.errors import UserError
from kvbench.measure import inspection as inspection_module
from kvbench.measure.caches.concat import ConcatLayer
from kvbench.measure.engine import LocalEngine
from kvbench.measure.inspection import inspect
from kvbench.measure.observers import watching
from kvbench.models.load import LoadedModel
from kvbench.plan.case import Case, Prompt
from kvbench.records.events import ModelLoaded
from kvbench.records.inspection import Inspection, Step, as_json
from kvbench.theory.cache import held_bytes
from tests.theory.families import TINY, WINDOW, architecture
from tests.tiny import (
    BART,
    GPT2,
    LLAMA,
    Config,
    case,
    checkpoint,
    config_folder,
    inputs_of,
    key,
    load,
    run,
    word_tokenizer,
)

PROMPT, NEW, BATCH = 4, 5, 2
SEEN = PROMPT + NEW - 1
"""Positions fed in total: the last new token is never fed."""

PLAIN: dict[str, tuple[int, int, int]] = {
    # heads, heads of keys and values, size of each
    "gpt2": (4, 4, 8),
    "llama": (4, 2, 12),
    "qwen2": (4, 2, 12),
    "qwen3": (4, 2, 12),
    "qwen3_moe": (4, 2, 12),
    "gemma": (4, 2, 12),
    "smollm3": (4, 2, 12),
    "olmo2": (4, 2, 12),
    "mixtral": (4, 2, 12),
    "gpt_neox": (4, 4, 8),
    "opt": (4, 4, 8),
}
"""Families whose layers are all alike, according to their configurations in tests/theory."""

SLIDING = ("mistral", "gemma2", "gemma3", "gpt_oss", "phi3", "llama4")
"""Families with windows of WINDOW positions; in each of them layer 0 has one."""

COUNTED = [
    name
    for name in TINY
    if not name.startswith("falcon") and name not in ("gemma3n", "mamba", "mamba2", "qwen3_next")
]
"""Families for which both theory and torch's counter have a number."""


HERE = (
    "quantized:backend=fp8",
    "window:size=4",
    "paged:page=4",
    "concat",
    "per-head",
    "blocks:size=4",
    "half",
    "tiered:block=2:recent=2",
    "knorm:budget=4",
    "disk:recent=2",
)
"""Strategies that run on a CPU, one of each form in which they keep keys and values."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(autouse=True)
def nothing_stays_behind() -> Iterator[None]:
    before = AttentionInterface.get_interface, Cache.update
    yield
    assert (AttentionInterface.get_interface, Cache.update) == before


def look(model: str | LoadedModel, layer: int = 0, new: int = NEW, **changes: Any) -> Inspection:
    """Inspect both generations of a model on BATCH rows of PROMPT fixed ids."""
    loaded = load(model) if isinstance(model, str) else model
    rows = changes.pop("rows", [list(range(10, 10 + PROMPT))] * BATCH)
    one = case(loaded.key.model, max_new_tokens=new, dtype=loaded.key.dtype, **changes)
    return inspect(loaded, inputs_of(loaded, rows), one, layer, lambda ids: None)


def tiny(folders: Path, name: str) -> str:
    return config_folder(folders / name, TINY[name])


def fed(steps: tuple[Step, ...]) -> list[tuple[int, ...]]:
    return [step.input_ids for step in steps]


def hooks(loaded: LoadedModel) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks)
        for module in loaded.model.modules()
    )


# Shapes


@pytest.mark.parametrize("name", PLAIN)
def test_the_shapes_are_those_of_the_configuration(folders: Path, name: str) -> None:
    heads, kv_heads, size = PLAIN[name]
    layers = TINY[name].get("num_hidden_layers", 2)
    seen = look(tiny(folders, name), layer=layers - 1)
    assert (seen.layer, seen.layers, seen.first_positions) == (layers - 1, layers, PROMPT)
    lengths = range(PROMPT, SEEN + 1)
    assert fed(seen.off.steps) == [(BATCH, n) for n in lengths]
    assert fed(seen.cached.steps) == [(BATCH, PROMPT), *[(BATCH, 1)] * (NEW - 1)]
    for off, cached, n in zip(seen.off.steps, seen.cached.steps, lengths, strict=True):
        new = PROMPT if n == PROMPT else 1
        everything = (BATCH, kv_heads, n, size)
        assert off.query == (BATCH, heads, n, size)
        assert cached.query == (BATCH, heads, new, size)
        assert off.made_keys == off.made_values == off.keys == off.values == everything
        assert cached.keys == cached.values == everything
        assert cached.made_keys == cached.made_values == (BATCH, kv_heads, new, size)
        assert (off.cache, off.cache_bytes, off.cache_shape) == ((), 0, None)
        assert cached.cache_shape == (layers, 2, BATCH, kv_heads, n, size)
        assert cached.cache_bytes == 2 * layers * BATCH * kv_heads * n * size * 4
    assert seen.same_tokens
    assert seen.largest_difference is not None and seen.largest_difference < 1e-4
    assert seen.notes == ()


@pytest.mark.parametrize("name", SLIDING)
def test_a_window_keeps_its_last_positions_only(folders: Path, name: str, snapshot: object) -> None:
    seen = look(tiny(folders, name))
    # A query sees WINDOW positions including its own, and the cache keeps one less for the next.
    assert [step.keys and step.keys[2] for step in seen.cached.steps] == [4, 5, 6, 6, 6]
    assert [step.keys and step.keys[2] for step in seen.off.steps] == [4, 5, 6, 7, 8]
    kept = {one.keys and one.keys[2] for one in seen.cached.steps[-1].cache}
    everywhere = name in ("mistral", "phi3")
    assert kept == ({WINDOW - 1} if everywhere else {WINDOW - 1, SEEN})
    layers = TINY[name]["num_hidden_layers"]
    assert sum(one.count for one in seen.cached.steps[-1].cache) == layers
    assert (seen.cached.steps[-1].cache_shape is None) is not everywhere
    assert seen.same_tokens
    assert seen.largest_difference is not None and seen.largest_difference < 1e-4
    assert len(seen.notes) == 1
    assert seen.notes[0] == snapshot


def test_latent_attention_keeps_something_else_than_it_attends_to(folders: Path) -> None:
    seen = look(tiny(folders, "deepseek_v3"))
    config, last = TINY["deepseek_v3"], seen.cached.steps[-1]
    assert last.made_keys == (BATCH, 1, 1, config["kv_lora_rank"])
    assert last.made_values == (BATCH, 1, 1, config["qk_rope_head_dim"])
    assert last.keys == (BATCH, 4, SEEN, config["qk_nope_head_dim"] + config["qk_rope_head_dim"])
    assert last.values == (BATCH, 4, SEEN, config["v_head_dim"])
    assert (last.cache_shape, len(last.cache)) == (None, 1)
    assert "(latent attention)" in seen.notes[0]


def test_a_layer_that_uses_the_keys_of_another_hands_the_cache_nothing(
    folders: Path, snapshot: object
) -> None:
    model = load(tiny(folders, "gemma3n"))
    own, shared = look(model, layer=3), look(model, layer=5)
    assert own.cached.steps[-1].made_keys == (BATCH, 2, 1, 12)
    last = shared.cached.steps[-1]
    assert (last.made_keys, last.made_values) == (None, None)
    assert last.keys == (BATCH, 2, SEEN, 12)
    assert set(shared.notes) - set(own.notes) == snapshot


@pytest.mark.parametrize("name", ["mamba", "mamba2", "qwen3_next"])
def test_a_layer_with_a_state_has_no_keys(folders: Path, name: str, snapshot: object) -> None:
    seen = look(tiny(folders, name))
    for step in (*seen.off.steps, *seen.cached.steps):
        assert (step.query, step.keys, step.values, step.made_keys) == (None,) * 4
    first, last = seen.cached.steps[0].cache, seen.cached.steps[-1].cache
    assert first[0].states == last[0].states != ()
    assert last[0].keys is None
    assert seen.largest_difference is None
    assert seen.notes == snapshot


def test_a_hybrid_has_keys_where_it_has_attention(folders: Path) -> None:
    seen = look(tiny(folders, "qwen3_next"), layer=3)
    assert seen.cached.steps[-1].keys == (BATCH, 2, SEEN, 12)
    assert seen.notes == ()


def test_what_does_not_use_the_interface_is_not_guessed_at(folders: Path, snapshot: object) -> None:
    seen = look(tiny(folders, "falcon"))
    last = seen.cached.steps[-1]
    assert (last.query, last.keys, last.values) == (None, None, None)
    assert seen.off.steps[-1].made_keys is None
    # What the cache receives, and the cache itself, can be observed for any model.
    assert last.made_keys == (BATCH, 1, 1, 8)
    assert last.cache_shape == (2, 2, BATCH, 1, SEEN, 8)
    assert seen.notes[0] == snapshot
    # Attention that is not made of matrix products cannot be counted.
    assert last.flops_counted is None
    assert last.flops == last.flops_theory is not None


@pytest.mark.parametrize("config", [TINY["t5"], BART], ids=["t5", "bart"])
def test_of_an_encoder_decoder_the_decoder_is_shown(
    tmp_path: Path, config: Config, snapshot: object
) -> None:
    heads, size = (4, 12) if config is not BART else (4, 16)
    seen = look(config_folder(tmp_path / "model", config), layer=1)
    assert seen.first_positions == 1
    assert fed(seen.off.steps) == [(BATCH, n) for n in range(1, NEW + 1)]
    assert fed(seen.cached.steps) == [(BATCH, 1)] * NEW
    last = seen.cached.steps[-1]
    # Self-attention to its own positions, not to the four of the encoder.
    assert last.query == last.made_keys == (BATCH, heads, 1, size)
    assert last.keys == (BATCH, heads, NEW, size)
    assert [(one.count, one.keys, one.cross) for one in last.cache] == [
        (2, (BATCH, heads, NEW, size), False),
        (2, (BATCH, heads, PROMPT, size), True),
    ]
    assert last.cache_shape is None
    assert seen.same_tokens
    assert seen.notes[0] == snapshot


# It is the requested layer, and observing changes nothing


def test_the_tensors_are_those_of_the_layer_asked_for(tmp_path: Path) -> None:
    loaded = load(config_folder(tmp_path / "model", LLAMA | {"num_hidden_layers": 3}))
    inputs = inputs_of(loaded, [[5, 6, 7]])
    made: dict[int, torch.Tensor] = {}
    handles = [
        layer.self_attn.v_proj.register_forward_hook(
            lambda _module, _args, out, index=index: made.__setitem__(index, out)
        )
        for index, layer in enumerate(loaded.model.model.layers)
    ]
    for layer in range(3):
        with watching(loaded.model, layer) as watch:
            run(loaded, inputs, "off", 1)
        assert watch.last is not None
        # [batch, positions, kv_heads * head_dim] as the projection makes them.
        values = watch.last[1].transpose(1, 2).flatten(2)
        same = [torch.equal(values, made[index]) for index in range(3)]
        assert same == [index == layer for index in range(3)]
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("cache", ["off", "dynamic"])
@pytest.mark.parametrize("name", ["gpt2", "gemma3", "deepseek_v3", "t5"])
def test_looking_changes_no_bit_of_what_comes_out(folders: Path, name: str, cache: str) -> None:
    loaded = load(tiny(folders, name))
    inputs = inputs_of(loaded, [[5, 6, 7, 8]])

    def logits(watched: bool) -> list[torch.Tensor]:
        rows: list[torch.Tensor] = []
        handle = loaded.model.register_forward_hook(lambda m, a, out: rows.append(out.logits))
        if watched:
            with watching(loaded.model, 0):
                run(loaded, inputs, cache, NEW)
        else:
            run(loaded, inputs, cache, NEW)
        handle.remove()
        return rows

    pairs = zip(logits(False), logits(True), strict=True)
    assert all(torch.equal(plain, watched) for plain, watched in pairs)


@pytest.mark.parametrize("name", ["gpt2", "mixtral", "gpt_oss", "t5"])
def test_nothing_stays_on_the_model(folders: Path, name: str) -> None:
    loaded = load(tiny(folders, name))
    config = loaded.config
    before = hooks(loaded), config._attn_implementation, config._experts_implementation
    tokens = run(loaded, inputs_of(loaded, [[5, 6, 7]]), "dynamic", NEW).new_ids
    seen = look(loaded, rows=[[5, 6, 7]])
    now = hooks(loaded), config._attn_implementation, config._experts_implementation
    assert now == before
    assert seen.attention == before[1]
    assert seen.cached.token_ids == tuple(map(tuple, tokens.tolist()))


def test_nothing_stays_behind_when_the_model_fails(tmp_path: Path) -> None:
    loaded = load(config_folder(tmp_path / "model", GPT2))
    calls = itertools.count()

    def fail(*_: Any) -> None:
        if next(calls) == 2:
            raise RuntimeError("it broke")

    handle = loaded.model.register_forward_pre_hook(fail)
    before = hooks(loaded)
    with pytest.raises(RuntimeError, match="it broke"):
        look(loaded)
    assert hooks(loaded) == before
    handle.remove()


# The work done, and the tokens


@pytest.mark.parametrize("name", COUNTED)
def test_what_torch_counts_is_what_theory_says(folders: Path, name: str) -> None:
    seen = look(tiny(folders, name))
    for step in (*seen.off.steps, *seen.cached.steps):
        assert step.flops_counted == step.flops_theory == step.flops is not None
    assert seen.off.steps[0].flops == seen.cached.steps[0].flops
    off, cached = (seen.totals(arm).flops for arm in (seen.off, seen.cached))
    assert off is not None and cached is not None and off > cached


def test_llama_flops_by_hand(tmp_path: Path) -> None:
    seen = look(config_folder(tmp_path / "model", LLAMA), rows=[[5, 6, 7]], new=2)
    # Of both layers: 64 x 64 for Q and the output, 64 x 32 for K and V, three of 64 x 128.
    row = 2 * 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128)
    # A query of 4 heads of 16 meets a key, and its weight a value.
    pair, head = 2 * 2 * 4 * (16 + 16), 2 * 64 * LLAMA["vocab_size"]
    assert [step.flops for step in seen.off.steps] == [
        3 * row + 9 * pair + head,
        4 * row + 16 * pair + head,
    ]
    assert seen.cached.steps[1].flops == row + 4 * pair + head


def test_totals(folders: Path) -> None:
    seen = look(tiny(folders, "gpt2"))
    off, cached = seen.totals(seen.off), seen.totals(seen.cached)
    assert (off.positions, off.made_again, off.cache_bytes) == (4 + 5 + 6 + 7 + 8, 22, 0)
    assert (cached.positions, cached.made_again) == (PROMPT + NEW - 1, 0)
    assert cached.cache_bytes == 2 * 2 * BATCH * 4 * 8 * 8 * 4


@pytest.mark.parametrize("name", HERE)
def test_any_strategy_shows_what_it_keeps_at_each_step(folders: Path, name: str) -> None:
    """In whatever form: the tensors of a layer are its part of the cache, or a note says why."""
    seen = look(tiny(folders, "llama"), cache=name)
    for number, step in enumerate(seen.cached.steps, 1):
        known = held_bytes(architecture("llama"), name, BATCH, PROMPT, number, "float32")
        assert step.cache_bytes == known.attended
        kept = sum(
            one.count * math.prod(one.shape) * getattr(torch, one.dtype).itemsize
            for one in step.kept
        )
        if seen.notes:
            # A pool has no layers: its driver shows nothing of them.
            assert (step.kept, step.keys) == ((), None)
        else:
            assert kept == step.cache_bytes // seen.layers


def test_a_strategy_that_cannot_run_says_so(engine: LocalEngine, folders: Path) -> None:
    folder = tiny(folders, "llama")
    engine.open(key(folder))
    with pytest.raises(UserError) as caught:
        engine.inspect(case(folder, cache="offloaded"), 0)
    assert caught.value.kind == "cache_unmet"


def test_a_failure_to_count_costs_the_count_only(
    folders: Path, monkeypatch: pytest.MonkeyPatch, snapshot: object
) -> None:
    def fail(*_: Any) -> None:
        raise NotImplementedError("no such kernel")

    monkeypatch.setattr(inspection_module, "count_flops", fail)
    seen = look(tiny(folders, "gpt2"))
    assert seen.off.steps[0].flops_counted is None
    assert seen.off.steps[0].flops == seen.off.steps[0].flops_theory is not None
    assert seen.notes == snapshot


def test_bfloat16_halves_the_cache(folders: Path) -> None:
    path = tiny(folders, "llama")
    full, half = look(path), look(load(path, dtype="bfloat16"))
    assert (full.dtype_bytes, half.dtype_bytes) == (4, 2)
    sizes = zip(full.cached.steps, half.cached.steps, strict=True)
    assert all(a.cache_bytes == 2 * b.cache_bytes > 0 for a, b in sizes)


def test_a_cache_that_loses_a_key_is_seen(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Cache.update

    def spoil(self: Any, keys: Any, values: Any, *rest: Any, **more: Any) -> Any:
        return original(self, torch.zeros_like(keys), values, *rest, **more)

    path = tiny(folders, "llama")
    monkeypatch.setattr(Cache, "update", spoil)
    seen = look(path, new=2)
    # The first token comes from a corrupted prefill as well.
    assert not seen.same_tokens or (seen.largest_difference or 0) > 0.1
    monkeypatch.undo()
    assert look(path, new=2).same_tokens


def test_rows_with_padding_are_not_compared(tmp_path: Path) -> None:
    loaded = load(config_folder(tmp_path / "model", LLAMA))
    inputs = inputs_of(loaded, [[5, 6, 7], [0, 6, 7]])
    inputs.attention_mask[1, 0] = 0
    one = case(loaded.key.model, max_new_tokens=NEW)
    assert inspect(loaded, inputs, one, 0, lambda ids: None).largest_difference is None


def test_as_json_has_what_follows_from_the_fields(folders: Path) -> None:
    seen = look(tiny(folders, "gpt2"))
    known = as_json(seen)
    assert known["same_tokens"] is True
    assert known["cached"]["totals"]["positions"] == SEEN
    assert known["cached"]["steps"][-1]["cache_shape"] == (2, 2, BATCH, 4, SEEN, 8)
    assert {f.name for f in dataclasses.fields(Step)} < set(known["off"]["steps"][0])


# The engine


@pytest.fixture
def engine() -> Iterator[LocalEngine]:
    engine = LocalEngine()
    yield engine
    engine.close()


def opened(engine: LocalEngine, one: Case) -> LocalEngine:
    assert isinstance(engine.open(one.model_key), ModelLoaded)
    return engine


@pytest.mark.parametrize("layer", [-1, 2, 99])
def test_a_layer_out_of_range_is_one_sentence(
    engine: LocalEngine, tmp_path: Path, layer: int, snapshot: object
) -> None:
    one = case(config_folder(tmp_path / "model", GPT2))
    with pytest.raises(UserError) as caught:
        opened(engine, one).inspect(one, layer)
    assert str(caught.value) == snapshot


def test_the_last_position_is_used_and_none_past_it(
    engine: LocalEngine, tmp_path: Path, snapshot: object
) -> None:
    path = config_folder(tmp_path / "model", GPT2 | {"n_positions": 10})
    fits, too_long = (case(path, prompt=Prompt.of_tokens(6), max_new_tokens=new) for new in (5, 6))
    assert opened(engine, fits).inspect(fits, 0).off.steps[-1].positions == 10
    with pytest.raises(UserError) as caught:
        engine.inspect(too_long, 0)
    assert str(caught.value) == snapshot


def test_a_model_that_fails_is_one_sentence(
    engine: LocalEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snapshot: object
) -> None:
    one = case(config_folder(tmp_path / "model", GPT2))

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("a shape\nis wrong")

    monkeypatch.setattr(inspection_module, "generate", fail)
    with pytest.raises(UserError) as caught:
        opened(engine, one).inspect(one, 0)
    assert str(caught.value) == snapshot


def test_tokens_have_texts_where_there_is_a_tokenizer(engine: LocalEngine, tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "model", GPT2)
    word_tokenizer(tmp_path / "model")
    one = case(path, weights="pretrained", prompt=Prompt.of_text("w5 w17 w9"), batch_size=2)
    seen = opened(engine, one).inspect(one, 1)
    assert seen.prompt_ids == ((5, 17, 9), (5, 17, 9))
    for step in (*seen.off.steps, *seen.cached.steps):
        assert step.texts == tuple(f"w{token}" for token in step.token_ids)
    assert len({token for row in seen.off.token_ids for token in row}) > 2


def test_without_a_tokenizer_there_are_ids(engine: LocalEngine, tmp_path: Path) -> None:
    one = case(config_folder(tmp_path / "model", GPT2))
    assert opened(engine, one).inspect(one, 0).off.steps[0].texts is None


# Which keys


@pytest.mark.parametrize(
    ("cache", "kept"),
    [
        ("dynamic", [range(4), range(5), range(6)]),
        ("static", [[0, 1, 2, 3, None, None], [0, 1, 2, 3, 4, None], range(6)]),
        ("sink-window:sink=1:size=3", [range(4), [0, 2, 3, 4], [0, 3, 4, 5]]),
        ("half", [range(4), range(5), range(6)]),
    ],
)
def test_keys_are_recognized_whatever_the_cache_keeps(
    tmp_path: Path, cache: str, kept: list[Any]
) -> None:
    found = look(config_folder(tmp_path, LLAMA), cache=cache, new=3)
    assert [step.key_positions for step in found.cached.steps] == [tuple(one) for one in kept]
    assert [step.key_positions for step in found.off.steps] == [tuple(range(n)) for n in (4, 5, 6)]
    for off, cached in zip(found.off.steps, found.cached.steps, strict=True):
        for position, numbers in zip(cached.key_positions or (), cached.key_numbers, strict=True):
            expected = (0.0,) * 8 if position is None else off.key_numbers[position]
            # A lossy cache goes on with a text of its own.
            if position is None or position < PROMPT:
                assert numbers == pytest.approx(expected, rel=0.01, abs=1e-3)


def test_each_head_may_keep_positions_of_its_own(tmp_path: Path) -> None:
    """The cache holds the numbers of what it kept: those of the first head are shown."""
    found = look(config_folder(tmp_path, LLAMA), cache="random:budget=3", new=4)
    for step in found.cached.steps[1:]:
        assert step.key_positions is not None
        assert len(step.key_positions) == 4
        assert list(step.key_positions) == sorted(set(step.key_positions))


def test_keys_that_nobody_made_are_not_given_a_position(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = ConcatLayer.append

    def spoil(*given: Any) -> tuple[torch.Tensor, ...]:
        return tuple(9 - held for held in original(*given))

    monkeypatch.setattr(ConcatLayer, "append", spoil)
    found = look(config_folder(tmp_path, LLAMA), cache="concat", new=2)
    assert [step.key_positions for step in found.cached.steps] == [None, None]
