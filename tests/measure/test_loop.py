"""The bare loop puts exactly the tokens of `generate` through the model, at the same positions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kvbench.caches import PACKAGES, Situation, expand, strategy
from kvbench.errors import UserError
from kvbench.measure.cache import allocated_bytes, cache_bytes, cache_class, cache_layers
from kvbench.measure.caches import Call, Driver, situation_of
from kvbench.measure.clock import TokenClock
from kvbench.measure.engine import LocalEngine
from kvbench.measure.generate import driver_of
from kvbench.measure.loop import Loop
from kvbench.measure.packages import installed
from kvbench.measure.verify.runs import Work, greedy, make_work
from kvbench.models.load import LoadedModel
from tests.fakes import run_task
from tests.tiny import GPT2, LLAMA, MISTRAL, T5, Config, case, checkpoint, group, load, task

SHORT = ("window:size=6", "sink-window:sink=2:size=6", "knorm:budget=6", "random:budget=6")
GROUPED = ("quantized:backend=quanto:group=16:residual=4", "quantized:backend=hqq:group=16")
ON_CPU = Situation(device="cpu", versions=installed(PACKAGES), driver="loop")
# Of the needs, only the model's are left out here.
CACHES = tuple(
    name
    for name in dict.fromkeys([*expand(["all"]), *SHORT, *GROUPED])
    if strategy(name).unmet_here(ON_CPU) is None and not name.startswith("paged")
)
GEMMA3: Config = MISTRAL | {
    "model_type": "gemma3_text",
    "layer_types": ["sliding_attention", "full_attention"],
    "query_pre_attn_scalar": 16,
    "pad_token_id": 0,
}
# Layers that keep a state next to layers that keep keys and values.
QWEN3_NEXT: Config = LLAMA | {
    "model_type": "qwen3_next",
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "num_experts": 2,
    "num_experts_per_tok": 1,
    "moe_intermediate_size": 64,
    "shared_expert_intermediate_size": 64,
}
BLOOM: Config = {
    "model_type": "bloom",
    "n_layer": 2,
    "hidden_size": 64,
    "n_head": 4,
    "vocab_size": 503,
}
CONFIGS = {
    "gpt2": GPT2,
    "llama": LLAMA,
    "mistral": MISTRAL,
    "gemma3": GEMMA3,
    "qwen3_next": QWEN3_NEXT,
    "bloom": BLOOM,
    "t5": T5,
    "mamba": {"model_type": "mamba", "num_hidden_layers": 2, "hidden_size": 64, "vocab_size": 503},
}
NEW = 12


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LoadedModel]:
    root = tmp_path_factory.mktemp("models")
    return {
        name: load(checkpoint(root / name, config), "pretrained")
        for name, config in CONFIGS.items()
    }


@dataclass
class Forward:
    """What one call of the model was given, and what the mask lets each new position see."""

    ids: list[list[int]]
    real: list[list[int]] | None
    positions: list[list[int]] | None
    logits: int


@contextlib.contextmanager
def forwards(loaded: LoadedModel) -> Iterator[list[Forward]]:
    found: list[Forward] = []

    def hook(_module: Any, _args: Any, given: dict[str, Any], output: Any) -> None:
        positions = given.get("position_ids")
        found.append(
            Forward(
                given["input_ids"].tolist(),
                real_of(given.get("attention_mask")),
                None if positions is None else positions.tolist(),
                output.logits.shape[1],
            )
        )

    handle = loaded.model.register_forward_hook(hook, with_kwargs=True)
    try:
        yield found
    finally:
        handle.remove()


def real_of(mask: Any) -> list[list[int]] | None:
    """The mask; an empty one where `generate` has made one of each layer beforehand."""
    if isinstance(mask, torch.Tensor) and mask.ndim == 2:
        return mask.tolist()
    return None if mask is None else []


def runs_here(loaded: LoadedModel, cache: str) -> bool:
    return strategy(cache).unmet(situation_of(loaded, "loop")) is None


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3"])
def test_both_drivers_do_the_same_work(
    models: dict[str, LoadedModel], name: str, cache: str, batch: int
) -> None:
    loaded = models[name]
    if not runs_here(loaded, cache):
        pytest.skip("it cannot run here")
    assert_same_work(loaded, cache, batch)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("cache", ["off", "dynamic"])
@pytest.mark.parametrize("name", ["mistral", "qwen3_next", "bloom"])
def test_models_with_windows_states_or_no_position_ids_as_well(
    models: dict[str, LoadedModel], name: str, cache: str, batch: int
) -> None:
    assert_same_work(models[name], cache, batch)


def assert_same_work(loaded: LoadedModel, cache: str, batch: int) -> None:
    """The same ids, positions, masks and number of logits in each forward, and the same tokens."""
    # The rows of a batch have prompts of different lengths.
    work = make_work(loaded, batch, NEW, seed=0)
    assert bool(work.inputs.attention_mask.all()) == (batch == 1)
    seen, runs = [], []
    for driver in ("generate", "loop"):
        with forwards(loaded) as found:
            runs.append(greedy(replace(work, driver=driver), strategy(cache)))
        seen.append(found)
    theirs, ours = seen
    assert len(ours) == len(theirs) == NEW
    for step, (their, our) in enumerate(zip(theirs, ours, strict=True)):
        assert our.ids == their.ids
        assert our.positions == their.positions
        assert our.logits == their.logits
        if batch == 1:
            # Nothing is padding: no mask at all, or a causal one made beforehand.
            assert our.real is None
            assert not their.real
        else:
            assert our.real is not None
            assert their.real in ([], our.real)
            assert len(our.real[0]) == 8 + step
    assert torch.equal(runs[0].sequences, runs[1].sequences)
    torch.testing.assert_close(runs[0].logits, runs[1].logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cache", CACHES)
def test_both_drivers_keep_the_same_and_stamp_each_token(
    models: dict[str, LoadedModel], cache: str
) -> None:
    loaded = models["llama"]
    if not runs_here(loaded, cache):
        pytest.skip("it cannot run here")
    kept = []
    for driver in ("generate", "loop"):
        clock = TokenClock()
        with prepared(make_work(loaded, 4, NEW, seed=0), cache, driver) as it:
            cache_object = it.run(clock=clock).cache
        assert clock.tokens == NEW
        # The prompt, each token, the end.
        assert len(clock.ticks) == NEW + 2
        assert clock.ticks == sorted(clock.ticks)
        kept.append(
            (
                cache_class(cache_object),
                cache_layers(cache_object),
                cache_bytes(cache_object),
                allocated_bytes(cache_object),
            )
        )
    assert kept[0] == kept[1]


def test_the_loop_can_be_led_and_looked_at(models: dict[str, LoadedModel]) -> None:
    work = make_work(models["llama"], 4, NEW, seed=0)
    along = torch.arange(4 * NEW).reshape(4, NEW)
    seen: list[list[torch.Tensor]] = [[], []]
    for driver, kept in zip(("generate", "loop"), seen, strict=True):
        with prepared(work, "dynamic", driver) as it:
            led = it.run(along=along, look=lambda logits, kept=kept: kept.append(logits.clone()))
        assert torch.equal(led.sequences[:, 8:], along)
    torch.testing.assert_close(torch.stack(seen[0]), torch.stack(seen[1]), rtol=1e-4, atol=1e-4)


@contextlib.contextmanager
def prepared(work: Work, cache: str, driver: str) -> Iterator[Driver]:
    arm = strategy(cache)
    with contextlib.closing(
        driver_of(work.loaded, arm, work.inputs, work.new_tokens, driver)
    ) as found:
        yield found


# What the loop does not take is a row with the reason


@pytest.mark.parametrize(
    ("name", "cache"), [("t5", "dynamic"), ("t5", "off"), ("mamba", "dynamic"), ("llama", "paged")]
)
def test_what_the_loop_cannot_drive_is_unsupported(
    tmp_path: Path, engine: LocalEngine, snapshot: Any, name: str, cache: str
) -> None:
    folder = checkpoint(tmp_path / name, CONFIGS[name])
    one = case(folder, weights="pretrained", cache=cache, driver="loop")
    engine.check([group(one)])
    engine.open(one.model_key)
    sample = run_task(engine, task(one))[0]
    assert sample.status == "unsupported"
    assert sample.error == snapshot
    # With generate all of these run.
    assert run_task(engine, task(replace(one, driver="generate")))[0].status == "ok"


def test_a_strategy_that_needs_more_of_generate_is_refused(
    models: dict[str, LoadedModel], snapshot: Any
) -> None:
    work = make_work(models["llama"], 1, NEW, seed=0)
    call = Call(work.loaded, work.inputs, NEW)
    with pytest.raises(UserError) as caught:
        Loop(call, {"cache_implementation": "static"}, use_cache=True)
    assert caught.value.kind == "driver_unmet"
    assert str(caught.value) == snapshot


# Verification


@pytest.mark.parametrize("cache", ["off", "dynamic"])
def test_the_tokens_of_a_wrong_loop_are_not_explained_by_rounding(
    tmp_path: Path, engine: LocalEngine, monkeypatch: pytest.MonkeyPatch, cache: str
) -> None:
    one = case(checkpoint(tmp_path, LLAMA), weights="pretrained", cache=cache, driver="loop")
    engine.open(one.model_key)
    (sound,) = engine.verify_output(one)
    # Nothing differs, so there is nothing to judge.
    assert (sound.verdict, sound.agreement) == ("inconclusive", 1)
    forward = Loop._forward

    def shifted(self: Loop, ids: Any, mask: Any, positions: Any) -> torch.Tensor:
        return forward(self, ids, mask, positions * 2)

    monkeypatch.setattr(Loop, "_forward", shifted)
    (wrong,) = engine.verify_output(one)
    assert (wrong.verdict, wrong.case_id) == ("fail", one.id)
    # What generate makes is as sound as before.
    assert engine.verify_output(replace(one, driver="generate"))[0].agreement == 1
