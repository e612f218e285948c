"""Tests of kvbench/measure/state.py: state that a model keeps on its modules is counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kvbench.caches import strategy
from kvbench.measure.cache import cache_bytes
from kvbench.measure.engine import LocalEngine
from kvbench.measure.state import ModuleState, ModuleWatch
from kvbench.measure.verify.leak import find_leak
from kvbench.measure.verify.runs import make_work
from tests.fakes import run_task
from tests.tiny import GPT2, LLAMA, T5, Config, case, config_folder, inputs_of, load, run, task

RECURRENT_GEMMA: Config = {
    "model_type": "recurrent_gemma",
    "num_hidden_layers": 3,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 97,
    "lru_width": 32,
    "attention_window_size": 8,
    "block_types": ["recurrent", "recurrent", "attention"],
}
LAYERS = 2
RECURRENT = 32 * 4
"""Bytes of the recurrent state of one layer and sequence, always in float32."""

CONV = 32 * 3
"""Numbers of the convolution's state of one layer and sequence."""


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize(("dtype", "width"), [("float32", 4), ("bfloat16", 2)])
def test_recurrent_gemma_keeps_its_states_on_its_modules(
    tmp_path: Path, batch_size: int, dtype: str, width: int
) -> None:
    loaded = load(config_folder(tmp_path, RECURRENT_GEMMA), dtype=dtype)
    inputs = inputs_of(loaded, [[3, 4, 5, 6, 7, 8, 9, 10]] * batch_size)
    expected = LAYERS * batch_size * (RECURRENT + CONV * width)
    for _ in range(2):
        generation = run(loaded, inputs, "dynamic", 20)
        assert generation.state == ModuleState(expected)
        # The window keeps seven positions of keys and values, 2 heads of 8.
        assert cache_bytes(generation.cache) == 2 * batch_size * 7 * 16 * width
        assert run(loaded, inputs, "off", 3).state == ModuleState()


def test_a_sample_counts_the_states(tmp_path: Path, engine: LocalEngine) -> None:
    one = case(config_folder(tmp_path, RECURRENT_GEMMA), max_new_tokens=20)
    engine.open(one.model_key)
    sample, _ = run_task(engine, task(one))
    # Transformers #42627: 896 bytes of keys and values, and 1024 that are in no cache object.
    assert sample.kv_cache_bytes == 1920
    assert "state_not_counted" not in (sample.flags or "")


@pytest.mark.parametrize("config", [GPT2, LLAMA, T5], ids=["gpt2", "llama", "t5"])
def test_a_model_with_all_of_it_in_its_cache_keeps_nothing_else(
    tmp_path: Path, config: Config
) -> None:
    loaded = load(config_folder(tmp_path, config))
    assert run(loaded, inputs_of(loaded, [[3, 4, 5]]), "dynamic", 4).state == ModuleState()


class Keeping(torch.nn.Module):
    """Keep a value under a name, as a model's block might."""

    def __init__(self, **kept: Any) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(2, 2))
        self.register_buffer("table", torch.zeros(2, 2))
        self.keep(**kept)

    def keep(self, **kept: Any) -> None:
        vars(self).update(kept)


def after(module: Keeping, object_: Any = None, **kept: Any) -> ModuleState:
    watch = ModuleWatch(torch.nn.Sequential(module))
    module.keep(**kept)
    return watch.state(object_, 2)


def test_what_is_new_counts_once_wherever_it_is_kept() -> None:
    state = torch.zeros(2, 5)
    assert after(Keeping(), ssm_state=state, conv_state=state).bytes == 40
    assert after(Keeping(), states=[torch.zeros(2, 5), torch.zeros(2, 1)]).bytes == 48
    assert after(Keeping(), memory={0: (torch.zeros(2, 5),)}).bytes == 40
    assert after(Keeping(), cache=(state, state), past=None) == ModuleState(40)


def test_what_was_there_before_or_is_in_the_cache_does_not_count() -> None:
    state = torch.zeros(2, 5)
    assert after(Keeping(state=state), state=state) == ModuleState()
    assert after(Keeping(), [state], state=state) == ModuleState()
    changed = Keeping(state=state)
    watch = ModuleWatch(changed)
    state.add_(1)
    assert watch.state(None, 2) == ModuleState(40)


def test_tables_and_whole_numbers_are_no_state() -> None:
    kept = {
        "cos_cached": torch.zeros(2, 5),
        "state_ids": torch.zeros(2, 5, dtype=torch.int64),
        "shared_state": torch.zeros(7, 5),
        "state_sum": torch.zeros(2),
    }
    assert after(Keeping(), **kept) == ModuleState()


def test_what_may_be_state_is_named() -> None:
    assert after(Keeping(), last=torch.zeros(2, 5)) == ModuleState(0, ("Keeping.last",))


def test_a_sample_whose_state_is_not_known_for_sure_is_flagged(
    tmp_path: Path, engine: LocalEngine
) -> None:
    one = case(config_folder(tmp_path, LLAMA), max_new_tokens=3)
    engine.open(one.model_key)
    model = engine._model.loaded.model

    def keep(module: Any, _: Any, output: Any) -> None:
        module.last = output.logits[:, -1]

    with model.register_forward_hook(keep):
        sample, _ = run_task(engine, task(one))
    assert "state_not_counted" in (sample.flags or "").split()


def test_the_leak_check_sees_what_stays_on_modules(tmp_path: Path) -> None:
    work = make_work(load(config_folder(tmp_path, RECURRENT_GEMMA)), 1, 2, 0)
    leak = find_leak(work, strategy("dynamic"), 3)
    assert (leak.state_bytes, leak.found) == (LAYERS * (RECURRENT + CONV * 4), False)


def test_states_that_pile_up_on_modules_are_a_leak(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load(config_folder(tmp_path, RECURRENT_GEMMA))
    block = loaded.model.model.layers[0].temporal_block
    kept: list[torch.Tensor] = []
    block.register_forward_hook(lambda *_: kept.append(block.conv1d_state.clone()))
    leak = find_leak(make_work(loaded, 1, 2, 0), strategy("dynamic"), 3)
    assert leak.found
    # Two forwards per generation, with the state of one convolution each.
    assert leak.tensor_bytes == 3 * 2 * CONV * 4
