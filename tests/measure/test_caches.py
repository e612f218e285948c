"""Each cache strategy is what its name says: its class, its bytes, its special behavior."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Cache

from kvbench.caches import PACKAGES, STRATEGIES, Situation, strategy
from kvbench.measure.cache import (
    allocated_bytes,
    cache_bytes,
    cache_class,
    cache_layers,
    disk_bytes,
)
from kvbench.measure.caches import Call, situation_of
from kvbench.measure.caches.paged import ContinuousBatching
from kvbench.measure.caches.replayed import Replayed
from kvbench.measure.compiling import counting_compilations
from kvbench.measure.engine import LocalEngine
from kvbench.measure.generate import driver_of
from kvbench.measure.packages import installed
from kvbench.measure.verify import verify
from kvbench.measure.verify.runs import Work, forced, greedy
from kvbench.models.load import LoadedModel
from kvbench.models.prompts import Inputs
from kvbench.records.events import ModelLoaded
from kvbench.theory.architecture import Architecture
from kvbench.theory.cache import held_bytes
from tests.fakes import run_task
from tests.measure import by_hand
from tests.measure.bodies import OFFLOADED, allow_here
from tests.theory.families import TINY
from tests.tiny import (
    GPT2,
    LLAMA,
    MISTRAL,
    T5,
    Config,
    case,
    checkpoint,
    config_folder,
    inputs_of,
    load,
    run,
    task,
)

QWEN3: Config = LLAMA | {"model_type": "qwen3"}
GEMMA3: Config = LLAMA | {
    "model_type": "gemma3_text",
    "num_hidden_layers": 4,
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "query_pre_attn_scalar": 16,
    "pad_token_id": 0,
}
MIXTRAL: Config = LLAMA | {
    "model_type": "mixtral",
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
}
FAMILIES = {
    "gpt2": GPT2,
    "llama": LLAMA,
    "qwen3": QWEN3,
    "gemma3": GEMMA3,
    "t5": T5,
    "mixtral": MIXTRAL,
}
ROWS = [[5, 17, 9, 300, 44]] * 2
NEW = 12
FP8 = "quantized:backend=fp8"
EXACT_HERE = ["dynamic", "static", "dynamic-full", "paged", *by_hand.EXACT]
QUANTO = "quantized:backend=quanto:group=16:residual=4"
QUANTO_2 = "quantized:backend=quanto:group=16:nbits=2:residual=4"
HQQ = "quantized:backend=hqq:group=16:residual=4"
GROUPED = [QUANTO, QUANTO_2, HQQ]
WINDOW = "window:size=6"
PAGED = "paged:page=4"
SINKS = "sink-window:sink=2:size=6"
HERE = [*EXACT_HERE, FP8, *GROUPED, WINDOW, SINKS, *by_hand.LOSSY]
ON_CUDA = ["static-compiled", "offloaded", "offloaded-static", "paged-graphs"]


def generated(folder: str, cache: str, tokens: int = NEW) -> Any:
    """Return the cache object after a generation on a fresh model."""
    loaded = load(folder)
    return run(loaded, inputs_of(loaded, ROWS), cache, tokens).cache


# Behavior of only one strategy


def assert_static(folder: str) -> None:
    """The length is fixed from the start, and exactly what the generation needs."""
    loaded = load(folder)
    lengths: list[int] = []
    handle = loaded.model.register_forward_hook(
        lambda _module, _args, output: lengths.append(
            output.past_key_values.layers[0].keys.shape[2]
        )
    )
    cache = run(loaded, inputs_of(loaded, ROWS), "static", NEW).cache
    handle.remove()
    assert lengths == [5 + NEW - 1] * NEW
    assert cache_class(cache) == "StaticCache"
    assert cache_layers(cache) == "StaticLayer x2"
    assert allocated_bytes(cache) == cache_bytes(cache) == 2 * 2 * (2 * 2 * (5 + NEW - 1) * 16 * 4)
    assert not hasattr(loaded.model, "_compiled_call")


def assert_dynamic_full(folder: str) -> None:
    """It grows past the window, in layers that have one."""
    cache = generated(folder, "dynamic-full", 40)
    assert cache_class(cache) == "DynamicCache"
    assert cache_layers(cache) == "DynamicLayer x4"
    assert {layer.keys.shape[2] for layer in cache.layers} == {5 + 40 - 1}
    assert cache_bytes(cache) == 4 * (2 * 2 * 2 * (5 + 40 - 1) * 16 * 4)


def assert_fp8(folder: str) -> None:
    """One byte per number, and a later step sees keys that differ from those passed in."""
    loaded = load(folder)
    cache = run(loaded, inputs_of(loaded, ROWS), FP8, NEW).cache
    assert cache_class(cache) == "QuantizedCache"
    assert cache_layers(cache) == "Fp8QuantizedLayer x2"
    exact = run(loaded, inputs_of(loaded, ROWS), "dynamic", NEW).cache
    assert allocated_bytes(cache) == cache_bytes(cache) == cache_bytes(exact) // 4
    layer = cache.layers[0]
    met = layer._dequantize(layer._quantized_keys)[:, :, :5]
    handed = exact.layers[0].keys[:, :, :5]
    assert met.shape == handed.shape
    assert 0 < (met - handed).abs().max() < 0.1 * handed.abs().max()


def assert_in_groups(name: str, layer_class: str, bits: int, most: float) -> Callable[[str], None]:
    """Packed, with the last positions exact: `most` is how far off a number may be."""

    def check(folder: str) -> None:
        loaded = load(folder)
        cache = run(loaded, inputs_of(loaded, ROWS), name, NEW).cache
        assert cache_class(cache) == "QuantizedCache"
        assert cache_layers(cache) == f"{layer_class} x2"
        # 5 positions at once, and 11 more, 4 at a time.
        packed, fresh = 5 + 8, 3
        numbers, groups = 2 * 2 * 2 * packed * 2 * 16, 2 * 2 * 2 * packed * 2
        held = numbers * bits // 8 + 2 * groups * 4 + 2 * 2 * 2 * fresh * 2 * 16 * 4
        assert allocated_bytes(cache) == cache_bytes(cache) == held
        layer = cache.layers[0]
        exact = run(loaded, inputs_of(loaded, ROWS), "dynamic", NEW).cache.layers[0]
        met = layer._dequantize(layer._quantized_keys)[:, :, :5]
        handed = exact.keys[:, :, :5]
        assert met.shape == handed.shape
        assert 0 < (met - handed).abs().max() < most * handed.abs().max()

    return check


def assert_window(folder: str) -> None:
    """Older positions are dropped, and steps match a mask over the remaining ones."""
    loaded = load(folder)
    inputs = padded_inputs(loaded)
    cache = run(loaded, inputs, WINDOW, 20).cache
    assert cache_layers(cache) == "WindowLayer x2"
    assert cache.get_seq_length() == 8 + 20 - 1
    assert {layer.keys.shape[2] for layer in cache.layers} == {6 - 1}
    assert cache_bytes(cache) == 2 * 2 * (3 * 2 * 5 * 16 * 4)
    assert_attends_as_masked(loaded, inputs, WINDOW, size=6, sink=0)


def assert_sink_window(folder: str) -> None:
    """The first real positions of each row stay next to the last ones, at their own positions."""
    loaded = load(folder)
    inputs = padded_inputs(loaded)
    cache = run(loaded, inputs, SINKS, 20).cache
    assert cache_layers(cache) == "WindowLayer x2"
    assert cache.get_seq_length() == 8 + 20 - 1
    assert allocated_bytes(cache) == cache_bytes(cache) == 2 * 2 * (3 * 2 * (2 + 5) * 16 * 4)
    assert_attends_as_masked(loaded, inputs, SINKS, size=6, sink=2)
    # Keys of the first layer do not depend on attention.
    exact = run(loaded, inputs, "dynamic", 8).cache.layers[0].keys
    for row, start in enumerate([0, 3, 6]):
        kept = cache.layers[0].keys[row, :, :2]
        torch.testing.assert_close(kept, exact[row, :, start : start + 2])


def padded_inputs(loaded: LoadedModel) -> Inputs:
    """Three rows of 8, 5 and 2 tokens, padded on the left."""
    ids = torch.tensor(
        [[5, 17, 9, 300, 44, 8, 91, 6], [0, 0, 0, 7, 21, 33, 400, 2], [0] * 6 + [61, 77]]
    )
    return Inputs(ids, (ids > 0).long())


def assert_attends_as_masked(
    loaded: LoadedModel, inputs: Inputs, name: str, size: int, sink: int
) -> None:
    """Each step has the logits of one eager forward with a hand-made mask."""
    made = greedy(Work(loaded, inputs, 20), strategy(name))
    tokens = made.sequences[:, :-1]
    prompt, count = inputs.tokens, tokens.shape[1]
    seen = torch.zeros(len(tokens), 1, count, count, dtype=torch.bool)
    for row, mask in enumerate(inputs.attention_mask):
        start = prompt - int(mask.sum())
        for query in range(start, count):
            for key in range(start, query + 1):
                near = query < prompt or key > query - size
                seen[row, 0, query, key] = near or key < start + sink
    # A padding query sees itself: a row without any key would be NaN.
    seen |= torch.eye(count, dtype=torch.bool)
    starts = prompt - inputs.attention_mask.sum(1)
    places = (torch.arange(count)[None] - starts[:, None]).clamp(min=0)
    loaded.model.set_attn_implementation("eager")
    with torch.no_grad():
        full = loaded.model(
            input_ids=tokens,
            attention_mask=torch.where(seen, 0.0, torch.finfo(torch.float32).min),
            position_ids=places,
            use_cache=False,
        ).logits[:, prompt - 1 :]
    assert full.shape == made.logits.shape
    torch.testing.assert_close(made.logits, full, rtol=1e-4, atol=1e-4 * float(full.std()))


def assert_paged(folder: str) -> None:
    """The pool just holds the requests, each of which takes pages as it grows."""
    loaded = load(folder)
    inputs = padded_inputs(loaded)
    used: list[int] = []

    def look(logits: torch.Tensor) -> None:
        assert logits.shape == (3, 503)
        used.append(driver._manager.batch_processor.cache.pool.num_free_sectors)

    with contextlib.closing(driver_of(loaded, strategy(PAGED), inputs, NEW)) as driver:
        assert isinstance(driver, ContinuousBatching)
        output = driver.run(look=look)
    cache = output.cache
    assert cache_class(cache) == "PagedCache"
    # Rows of 8, 5 and 2 tokens and 11 more, 4 to a page.
    assert (cache.page_size, cache.pages, cache.used_pages) == (4, 5 + 4 + 4, 5 + 4 + 4)
    assert cache.occupancy == 1.0
    assert used[0] == 13 - (2 + 2 + 1) and used[-1] == 0
    assert cache_bytes(cache) == 2 * (2 * 2 * (19 + 16 + 13) * 16 * 4)
    # Two more pages, in which nothing is kept.
    assert allocated_bytes(cache) == 2 * (2 * 2 * (13 + 2) * 4 * 16 * 4)
    exact = run(loaded, inputs, "dynamic", NEW)
    assert torch.equal(output.sequences[:, 8:], exact.new_ids)
    assert loaded.model.config._attn_implementation == "sdpa"


def assert_offloaded(name: str, of_dynamic: bool) -> Callable[[str], None]:
    """Each update fetches the layer after this one, and puts this one away."""

    def check(folder: str) -> None:
        moves: list[tuple[str, int]] = []
        with pytest.MonkeyPatch.context() as patch:
            allow_here(patch, name)
            for move in ("prefetch", "offload"):
                patch.setattr(Cache, move, noting(getattr(Cache, move), move, moves))
            cache = generated(folder, name)
        one = [("prefetch", 1), ("offload", 0), ("prefetch", 2), ("offload", 1)]
        assert moves == one * NEW
        kind = "Dynamic" if of_dynamic else "Static"
        assert (cache_class(cache), cache_layers(cache)) == (f"{kind}Cache", f"{kind}Layer x2")
        assert allocated_bytes(cache) == 2 * 2 * (2 * 2 * (5 + NEW - 1) * 16 * 4)

    return check


def noting(method: Any, name: str, moves: list[tuple[str, int]]) -> Any:
    def noted(self: Any, layer_idx: int, *more: Any) -> None:
        moves.append((name, layer_idx))
        method(self, layer_idx, *more)

    return noted


def assert_compiled(folder: str) -> None:
    """The first generation compiles, a later one of the same length does not; the tokens are those
    of `static`.
    """
    loaded = load(folder)
    plain = run(loaded, inputs_of(loaded, ROWS), "static", NEW)
    counts = []
    with pytest.MonkeyPatch.context() as patch:
        allow_here(patch, "static-compiled")
        for _ in range(2):
            with counting_compilations(True) as compiled:
                again = run(loaded, inputs_of(loaded, ROWS), "static-compiled", NEW)
            counts.append((compiled.count, compiled.seconds))
            assert again.output_sha256 == plain.output_sha256
    assert counts[0][0] >= 1 and counts[0][1] > 0
    assert counts[1] == (0, 0.0)
    assert cache_class(again.cache) == "StaticCache"
    assert allocated_bytes(again.cache) == allocated_bytes(plain.cache)


BEHAVIORS: dict[str, tuple[Config, Callable[[str], None]]] = {
    "static": (LLAMA, assert_static),
    "dynamic-full": (GEMMA3, assert_dynamic_full),
    FP8: (LLAMA, assert_fp8),
    QUANTO: (LLAMA, assert_in_groups(QUANTO, "QuantoQuantizedLayer", 4, 0.2)),
    QUANTO_2: (LLAMA, assert_in_groups(QUANTO_2, "QuantoQuantizedLayer", 2, 0.7)),
    HQQ: (LLAMA, assert_in_groups(HQQ, "HQQQuantizedLayer", 4, 0.2)),
    WINDOW: (LLAMA, assert_window),
    SINKS: (LLAMA, assert_sink_window),
    PAGED: (LLAMA, assert_paged),
    "offloaded": (LLAMA, assert_offloaded("offloaded", of_dynamic=True)),
    "offloaded-static": (LLAMA, assert_offloaded("offloaded-static", of_dynamic=False)),
    "static-compiled": (LLAMA, assert_compiled),
    **by_hand.BEHAVIORS,
}


def test_every_strategy_is_looked_at_somewhere() -> None:
    names = {"off", "dynamic", *BEHAVIORS, *ON_CUDA}
    assert {name.split(":")[0] for name in names} == set(STRATEGIES)


@pytest.mark.parametrize("name", BEHAVIORS)
def test_a_strategy_is_what_its_name_says(tmp_path: Path, name: str) -> None:
    skip_without_packages(name)
    config, check = BEHAVIORS[name]
    check(config_folder(tmp_path, config))


@pytest.mark.parametrize("name", BEHAVIORS)
def test_the_body_of_dynamic_would_be_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    skip_without_packages(name)
    head = name.split(":")[0]
    entry = dataclasses.replace(STRATEGIES[head], body=strategy("dynamic").body)
    monkeypatch.setitem(STRATEGIES, head, entry)
    config, check = BEHAVIORS[name]
    with pytest.raises(AssertionError):
        check(config_folder(tmp_path, config))


# Bytes


def skip_without_packages(name: str) -> None:
    # Strategies for a GPU are looked at here, too.
    reason = strategy(name).unmet_here(Situation(device="cuda", versions=installed(PACKAGES)))
    if reason is not None:
        pytest.skip(reason)


def skip_unmet(loaded: LoadedModel, name: str) -> None:
    reason = strategy(name).unmet(situation_of(loaded))
    if reason is not None:
        pytest.skip(reason)


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("name", HERE)
def test_theory_knows_the_bytes(tmp_path: Path, name: str, kind: str) -> None:
    loaded = load(config_folder(tmp_path, FAMILIES[kind]))
    skip_unmet(loaded, name)
    cache = run(loaded, inputs_of(loaded, ROWS), name, NEW).cache
    architecture = Architecture.from_config(loaded.config.to_dict())
    said = held_bytes(architecture, name, 2, 5, NEW, "float32")
    assert cache_bytes(cache) == said.attended
    assert (disk_bytes(cache) or 0, said.host) == (said.disk, 0)
    if name != "paged":
        assert allocated_bytes(cache) == said.device
    elif not situation_of(loaded).windows:
        # Not every release of Transformers has pages for padding.
        assert said.attended <= allocated_bytes(cache) <= said.device


# The same work


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("name", EXACT_HERE)
def test_an_exact_strategy_does_the_same_work(tmp_path: Path, name: str, kind: str) -> None:
    loaded = load(checkpoint(tmp_path, FAMILIES[kind]), weights="pretrained")
    skip_unmet(loaded, name)
    rows = verify(loaded, name, new_tokens=16, generations=3)
    assert {row.check for row in rows} == {"tokens", "logits", "shape", "leak"}
    wrong = [(row.check, row.batch_size, row.verdict, row.detail) for row in rows]
    assert {row.verdict for row in rows} <= {"pass", "near_tie"}, wrong


OTHERS: dict[str, Config] = {
    **{name: TINY[name] for name in ("falcon-old", "deepseek_v3", "gemma2", "mamba", "qwen3_next")},
    "bloom": {"model_type": "bloom", "n_layer": 2, "hidden_size": 32, "n_head": 4},
    "gpt_neo": {
        "model_type": "gpt_neo",
        "num_layers": 2,
        "hidden_size": 32,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 6,
    },
}


@pytest.mark.parametrize("family", OTHERS)
def test_a_strategy_suits_another_family_or_says_why_not(
    tmp_path: Path, family: str, snapshot: object
) -> None:
    loaded = load(config_folder(tmp_path, {"vocab_size": 97} | OTHERS[family]))
    # One of each kind that has requirements of its own.
    names = ["static", "dynamic-full", FP8, WINDOW, "knorm:budget=6", "blocks:size=4", PAGED]
    why = {name: strategy(name).unmet(situation_of(loaded)) for name in names}
    rows = [
        (name, row)
        for name, reason in why.items()
        if reason is None
        for row in verify(loaded, name, new_tokens=4, generations=3)
    ]
    assert [(name, row.detail) for name, row in rows if row.verdict == "fail"] == []
    reasons = [reason for reason in why.values() if reason is not None]
    assert sorted(reasons) == snapshot


# Nothing is left behind


LEAVING = ["off", "dynamic", "static", "dynamic-full", FP8, *GROUPED, WINDOW, SINKS, PAGED]
LEAVING += [*OFFLOADED, "static-compiled"]


def left_on(model: Any) -> dict[str, Any]:
    """Return what is on the model object and its modules besides weights: names, sizes, numbers."""
    found: dict[str, Any] = {"attention": model.config._attn_implementation}
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, torch.Tensor):
                found[f"{path}.{name}"] = tuple(value.shape)
            elif isinstance(value, dict):
                found[f"{path}.{name}"] = len(value)
            elif isinstance(value, (bool, int, float, str, type(None))):
                found[f"{path}.{name}"] = value
            else:
                found[f"{path}.{name}"] = type(value).__name__
    return found


def after_long_and_short(folder: str, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what is on a fresh model after a short generation, and after one long and one more
    short.
    """
    loaded = load(folder)
    inputs = inputs_of(loaded, ROWS)
    run(loaded, inputs, name, 4)
    before = left_on(loaded.model)
    threads = threading.active_count()
    run(loaded, inputs, name, 100)
    run(loaded, inputs, name, 4)
    assert threading.active_count() == threads
    return before, left_on(loaded.model)


@pytest.mark.parametrize("name", LEAVING)
def test_nothing_is_left_on_the_model_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    skip_without_packages(name)
    allow_here(monkeypatch, name)
    config = GEMMA3 if name == "dynamic-full" else LLAMA
    before, after = after_long_and_short(config_folder(tmp_path, config), name)
    assert before == after
    assert not [one for one in after if one.endswith(("_max_cache_length", "_batching_manager"))]


def test_what_transformers_leaves_would_be_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = "tests.measure.bodies:transformers_static"
    monkeypatch.setitem(STRATEGIES, "static", dataclasses.replace(STRATEGIES["static"], body=body))
    before, after = after_long_and_short(config_folder(tmp_path, LLAMA), "static")
    assert before != after


@pytest.mark.parametrize("name", LEAVING[1:])
def test_a_long_case_leaves_nothing_to_a_short_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    skip_without_packages(name)
    allow_here(monkeypatch, name)
    engine = LocalEngine()
    folder = config_folder(tmp_path, GEMMA3 if name == "dynamic-full" else LLAMA)
    short = case(folder, cache=name, max_new_tokens=4)
    assert isinstance(engine.open(short.model_key), ModelLoaded)
    try:
        before = run_task(engine, task(short))[0]
        assert before.status == "ok", before.error
        long = run_task(engine, task(dataclasses.replace(short, max_new_tokens=100)))[0]
        after = run_task(engine, task(short))[0]
    finally:
        engine.close()
    assert long.status == after.status == "ok"
    assert long.cache_allocated_bytes is not None and after.cache_allocated_bytes is not None
    grew = long.cache_allocated_bytes > 5 * after.cache_allocated_bytes
    assert grew == ("window" not in name)
    assert after.cache_allocated_bytes == before.cache_allocated_bytes
    assert after.output_sha256 == before.output_sha256


def test_a_window_is_kept_within_its_window(tmp_path: Path) -> None:
    cache = generated(config_folder(tmp_path, MISTRAL), "static", 40)
    assert cache_layers(cache) == "StaticSlidingWindowLayer x2"
    assert cache.layers[0].keys.shape[2] == 8


# Continuous batching


def test_equal_prompts_are_each_computed(tmp_path: Path) -> None:
    loaded = load(config_folder(tmp_path, LLAMA))
    fed: list[int] = []
    handle = loaded.model.register_forward_hook(
        lambda _module, _args, options, _output: fed.append(options["input_ids"].numel()),
        with_kwargs=True,
    )
    run(loaded, inputs_of(loaded, [[5, 17, 9, 300, 44] * 3] * 4), PAGED, 4)
    handle.remove()
    assert fed == [4 * 15, 4, 4, 4]


def test_a_continuous_batch_goes_along_given_tokens(tmp_path: Path) -> None:
    loaded = load(checkpoint(tmp_path, LLAMA), weights="pretrained")
    work = Work(loaded, padded_inputs(loaded), 6)
    along = torch.tensor([[9, 8, 7, 6, 5, 4], [1, 2, 3, 4, 5, 6], [70, 60, 50, 40, 30, 20]])
    led, exact = forced(work, strategy(PAGED), along), forced(work, strategy("dynamic"), along)
    assert torch.equal(led.new_ids, along)
    torch.testing.assert_close(led.logits, exact.logits, rtol=1e-4, atol=1e-4)


def test_replayed_steps_are_looked_at_in_eager_ones(tmp_path: Path) -> None:
    loaded = load(checkpoint(tmp_path, LLAMA), weights="pretrained")
    call = Call(loaded, padded_inputs(loaded), 6, strategy(PAGED).settings)
    seen: list[int] = []
    handle = loaded.model.register_forward_hook(lambda *_: seen.append(1))
    # Without graphs, which only a GPU has; hooks must not see these steps all the same.
    options = {"use_cuda_graph": False, "use_async_batching": False}
    with contextlib.closing(Replayed(call, **options)) as driver:
        made = driver.run(keep_logits=True)
    handle.remove()
    assert len(seen) == 6
    exact = greedy(Work(loaded, call.inputs, 6), strategy("dynamic"))
    assert torch.equal(made.sequences, exact.sequences)
    assert made.logits is not None
    torch.testing.assert_close(made.logits, exact.logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_what_a_request_fails_with_is_the_row(tmp_path: Path, attention: str) -> None:
    engine = LocalEngine()
    one = case(config_folder(tmp_path, LLAMA), cache=PAGED, attention=attention)
    assert isinstance(engine.open(one.model_key), ModelLoaded)
    model = engine._model.loaded.model
    steps = itertools.count()

    def fail(*_: Any) -> None:
        if next(steps) == 2:
            raise RuntimeError("the third step broke")

    handle = model.register_forward_pre_hook(fail)
    try:
        broken = run_task(engine, task(one))[0]
        handle.remove()
        fine, times = run_task(engine, task(one))
    finally:
        engine.close()
    assert broken.status == "crashed"
    assert "the third step broke" in (broken.error or "")
    assert fine.status == "ok", fine.error
    assert len(times) == 8 and list(times) == sorted(times) and times[0] > 0
    assert model.config._attn_implementation == attention
    assert (fine.cache_page_size, fine.cache_occupancy) == (4, 1.0)


# What is not met


@pytest.mark.parametrize("name", ON_CUDA)
def test_a_strategy_that_needs_a_gpu_is_a_row_without_one(tmp_path: Path, name: str) -> None:
    engine = LocalEngine()
    one = case(config_folder(tmp_path, LLAMA), cache=name)
    assert isinstance(engine.open(one.model_key), ModelLoaded)
    try:
        assert engine.verify(name) == ()
        sample = run_task(engine, task(one))[0]
    finally:
        engine.close()
    assert (sample.status, sample.cache) == ("unsupported", name)
    assert sample.error == f"{name}: it needs a CUDA device."


@pytest.mark.parametrize(
    ("name", "config", "said"),
    [
        ("dynamic-full", LLAMA, "dynamic-full: this model has no sliding window"),
        (WINDOW, MISTRAL, f"{WINDOW}: each layer of this model already has a window"),
        (WINDOW, T5, f"{WINDOW}: encoder-decoder models are not supported."),
        (
            "quantized:backend=quanto:group=24",
            LLAMA,
            "quantized:backend=quanto:group=24: the keys of one position do not divide",
        ),
        (FP8, T5, f"{FP8}: encoder-decoder models are not supported."),
        (FP8, GEMMA3, f"{FP8}: the quantized cache of Transformers does not support"),
    ],
)
def test_what_a_model_lacks_is_said(tmp_path: Path, name: str, config: Config, said: str) -> None:
    skip_without_packages(name)
    loaded = load(config_folder(tmp_path, config))
    assert (strategy(name).unmet(situation_of(loaded)) or "").startswith(said)


@pytest.mark.parametrize(
    ("backend", "packages"), [("quanto", "optimum and optimum-quanto"), ("hqq", "hqq")]
)
def test_a_package_that_is_not_there_is_named(backend: str, packages: str) -> None:
    name = f"quantized:backend={backend}"
    said = f"{name}: it needs {packages}: install with pip install 'kvbench[{backend}]'."
    assert strategy(name).unmet_here(Situation(device="cpu")) == said


# Compiling


def test_nothing_is_counted_where_it_is_not_wanted() -> None:
    with counting_compilations(False) as compiled:
        pass
    assert (compiled.count, compiled.seconds) == (0, 0.0)


# Torch's compiler warns that float32 products could be made coarser.
@pytest.mark.filterwarnings("ignore:TensorFloat32")
@pytest.mark.cuda
@pytest.mark.parametrize("name", ON_CUDA)
def test_a_strategy_on_a_gpu_is_what_its_name_says(tmp_path: Path, name: str) -> None:
    engine = LocalEngine()
    folder = checkpoint(tmp_path, LLAMA)
    options = {"weights": "pretrained", "device": "cuda", "max_new_tokens": 20}
    one = case(folder, cache=name, **options)
    assert isinstance(engine.open(one.model_key), ModelLoaded)
    try:
        first, second = (run_task(engine, task(one))[0] for _ in range(2))
        exact = run_task(engine, task(case(folder, cache="dynamic", **options)))[0]
    finally:
        engine.close()
    assert first.status == second.status == "ok", first.error
    assert first.output_sha256 == second.output_sha256 == exact.output_sha256
    held = 2 * 2 * 2 * (5 + 20 - 1) * 16 * 4
    if name == "paged-graphs":
        assert (first.cache_class, first.cache_page_size) == ("PagedCache", 256)
        assert first.kv_cache_bytes == held
        assert first.compilations is None
        return
    assert first.cache_allocated_bytes == held
    if name == "static-compiled":
        assert (first.compilations or 0) >= 1 and (first.compile_s or 0) > 0
        assert second.compilations == 0
        assert second.cache_host_bytes == 0
    else:
        assert first.compilations is None
        # The layer that is in use is on the device.
        assert (first.cache_host_bytes or 0) > 0
