"""Each cache strategy really is what its name says: its class, its bytes, and what only it does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kvbench.caches import STRATEGIES, strategy
from kvbench.measure.cache import (
    allocated_bytes,
    cache_bytes,
    cache_class,
    cache_layers,
    disk_bytes,
)
from kvbench.measure.caches import situation_of
from kvbench.measure.compiling import counting_compilations
from kvbench.measure.engine import LocalEngine
from kvbench.measure.verify import verify
from kvbench.measure.verify.runs import Work, greedy
from kvbench.models.load import LoadedModel
from kvbench.models.prompts import Inputs
from kvbench.records.events import ModelLoaded
from kvbench.theory.architecture import Architecture
from kvbench.theory.cache import cache_bytes as expected_bytes
from tests.measure import by_hand
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
EXACT_HERE = ["dynamic", "static", "dynamic-full", *by_hand.EXACT]
WINDOW = "window:size=6"
HERE = [*EXACT_HERE, FP8, WINDOW, *by_hand.LOSSY]
ON_CUDA = ["static-compiled", "offloaded", "offloaded-static"]


def generated(folder: str, cache: str, tokens: int = NEW) -> Any:
    """The cache object after a generation on a fresh model."""
    loaded = load(folder)
    return run(loaded, inputs_of(loaded, ROWS), cache, tokens).cache


# What only one strategy does


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
    """It goes on past the window, in layers that have one."""
    cache = generated(folder, "dynamic-full", 40)
    assert cache_class(cache) == "DynamicCache"
    assert cache_layers(cache) == "DynamicLayer x4"
    assert {layer.keys.shape[2] for layer in cache.layers} == {5 + 40 - 1}
    assert cache_bytes(cache) == 4 * (2 * 2 * 2 * (5 + 40 - 1) * 16 * 4)


def assert_fp8(folder: str) -> None:
    """A byte a number, and a later step meets other keys than were handed in."""
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


def assert_window(folder: str) -> None:
    """Older positions are dropped, and steps give what a mask over those that are left gives."""
    loaded = load(folder)
    inputs = padded_inputs(loaded)
    cache = run(loaded, inputs, WINDOW, 20).cache
    assert cache_layers(cache) == "WindowLayer x2"
    assert cache.get_seq_length() == 8 + 20 - 1
    assert {layer.keys.shape[2] for layer in cache.layers} == {6 - 1}
    assert cache_bytes(cache) == 2 * 2 * (3 * 2 * 5 * 16 * 4)
    assert_attends_as_masked(loaded, inputs, WINDOW, size=6, sink=0)


def padded_inputs(loaded: LoadedModel) -> Inputs:
    """Three rows of 8, 5 and 2 tokens, padded on the left."""
    ids = torch.tensor(
        [[5, 17, 9, 300, 44, 8, 91, 6], [0, 0, 0, 7, 21, 33, 400, 2], [0] * 6 + [61, 77]]
    )
    return Inputs(ids, (ids > 0).long())


def assert_attends_as_masked(
    loaded: LoadedModel, inputs: Inputs, name: str, size: int, sink: int
) -> None:
    """Each step of a generation has the logits of one eager forward with a mask made by hand."""
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
    # A query of padding sees itself: a row without any is not a number.
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


BEHAVIORS: dict[str, tuple[Config, Callable[[str], None]]] = {
    "static": (LLAMA, assert_static),
    "dynamic-full": (GEMMA3, assert_dynamic_full),
    FP8: (LLAMA, assert_fp8),
    WINDOW: (LLAMA, assert_window),
    **by_hand.BEHAVIORS,
}


def test_every_strategy_is_looked_at_somewhere() -> None:
    names = {"off", "dynamic", *BEHAVIORS, *ON_CUDA}
    assert {name.split(":")[0] for name in names} == set(STRATEGIES)


@pytest.mark.parametrize("name", BEHAVIORS)
def test_a_strategy_is_what_its_name_says(tmp_path: Path, name: str) -> None:
    config, check = BEHAVIORS[name]
    check(config_folder(tmp_path, config))


@pytest.mark.parametrize("name", BEHAVIORS)
def test_the_body_of_dynamic_would_be_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    head = name.split(":")[0]
    entry = dataclasses.replace(STRATEGIES[head], body=strategy("dynamic").body)
    monkeypatch.setitem(STRATEGIES, head, entry)
    config, check = BEHAVIORS[name]
    with pytest.raises(AssertionError):
        check(config_folder(tmp_path, config))


# Bytes


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
    said = expected_bytes(architecture, name, 2, 5, NEW, "float32")
    assert cache_bytes(cache) == said
    # A growing window allocates what it was concatenated from.
    assert allocated_bytes(cache) + (disk_bytes(cache) or 0) >= said


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


# Nothing is left behind


@pytest.mark.parametrize("name", ["dynamic", "static", FP8, WINDOW])
def test_a_long_case_leaves_nothing_to_a_short_one(tmp_path: Path, name: str) -> None:
    engine = LocalEngine()
    folder = config_folder(tmp_path, LLAMA)
    short = case(folder, cache=name, max_new_tokens=4)
    assert isinstance(engine.open(short.model_key), ModelLoaded)
    try:
        before = engine.measure(task(short))[0]
        assert before.status == "ok", before.error
        long = engine.measure(task(dataclasses.replace(short, max_new_tokens=100)))[0]
        after = engine.measure(task(short))[0]
    finally:
        engine.close()
    assert long.status == after.status == "ok"
    assert long.cache_allocated_bytes is not None and after.cache_allocated_bytes is not None
    grew = long.cache_allocated_bytes > 5 * after.cache_allocated_bytes
    assert grew == (not name.startswith("window"))
    assert after.cache_allocated_bytes == before.cache_allocated_bytes
    assert after.output_sha256 == before.output_sha256


def test_a_window_is_kept_within_its_window(tmp_path: Path) -> None:
    cache = generated(config_folder(tmp_path, MISTRAL), "static", 40)
    assert cache_layers(cache) == "StaticSlidingWindowLayer x2"
    assert cache.layers[0].keys.shape[2] == 8


# What is not met


@pytest.mark.parametrize("name", ON_CUDA)
def test_a_strategy_that_needs_a_gpu_is_a_row_without_one(tmp_path: Path, name: str) -> None:
    engine = LocalEngine()
    one = case(config_folder(tmp_path, LLAMA), cache=name)
    assert isinstance(engine.open(one.model_key), ModelLoaded)
    try:
        assert engine.verify(name) == ()
        sample = engine.measure(task(one))[0]
    finally:
        engine.close()
    assert (sample.status, sample.cache) == ("unsupported", name)
    assert sample.error == f"{name}: it needs a CUDA device."


@pytest.mark.parametrize(
    ("name", "config", "said"),
    [
        ("dynamic-full", LLAMA, "dynamic-full: this model has no sliding window"),
        (WINDOW, MISTRAL, f"{WINDOW}: each layer of this model has a window of its own"),
        (WINDOW, T5, f"{WINDOW}: it does not take encoder-decoder models."),
        (FP8, T5, f"{FP8}: it does not take encoder-decoder models."),
        (FP8, GEMMA3, f"{FP8}: Transformers' quantized cache knows no sliding windows."),
    ],
)
def test_what_a_model_lacks_is_said(tmp_path: Path, name: str, config: Config, said: str) -> None:
    loaded = load(config_folder(tmp_path, config))
    assert (strategy(name).unmet(situation_of(loaded)) or "").startswith(said)


# Compiling


def test_compilations_are_counted_and_later_runs_have_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = "tests.measure.bodies:compiled_anywhere"
    entry = dataclasses.replace(strategy("static-compiled"), body=body, needs=())
    monkeypatch.setitem(STRATEGIES, "static-compiled", entry)
    loaded = load(config_folder(tmp_path, LLAMA))
    plain = run(loaded, inputs_of(loaded, ROWS), "static", NEW)
    counts = []
    for _ in range(2):
        with counting_compilations(True) as compiled:
            again = run(loaded, inputs_of(loaded, ROWS), "static-compiled", NEW)
        counts.append((compiled.count, compiled.seconds))
        assert again.output_sha256 == plain.output_sha256
    assert counts[0][0] >= 1 and counts[0][1] > 0
    assert counts[1] == (0, 0.0)


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
        first, second = (engine.measure(task(one))[0] for _ in range(2))
        exact = engine.measure(task(case(folder, cache="dynamic", **options)))[0]
    finally:
        engine.close()
    assert first.status == second.status == "ok", first.error
    assert first.output_sha256 == second.output_sha256 == exact.output_sha256
    held = 2 * 2 * 2 * (5 + 20 - 1) * 16 * 4
    assert first.cache_allocated_bytes == held
    if name == "static-compiled":
        assert (first.compilations or 0) >= 1 and (first.compile_s or 0) > 0
        assert second.compilations == 0
        assert second.cache_host_bytes == 0
    else:
        assert first.compilations is None
        # The layer that is in use is on the device.
        assert (first.cache_host_bytes or 0) > 0
