"""The hand-written caches: how verification judges them, and what they do not support."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvbench.measure.engine import LocalEngine
from kvbench.measure.verify import verify
from kvbench.records.events import ModelLoaded
from tests.fakes import run_task
from tests.measure import by_hand
from tests.tiny import LLAMA, case, checkpoint, config_folder, load, task


@pytest.mark.parametrize("name", by_hand.LOSSY)
def test_a_lossy_strategy_is_exempt_and_nothing_else_is_wrong(tmp_path: Path, name: str) -> None:
    loaded = load(checkpoint(tmp_path, LLAMA), weights="pretrained")
    rows = verify(loaded, name, new_tokens=16, generations=3)
    found = {(row.check, row.verdict) for row in rows}
    assert found == {
        ("tokens", "exempt"),
        ("logits", "exempt"),
        ("shape", "pass"),
        ("leak", "pass"),
    }, [(row.check, row.verdict, row.detail) for row in rows]


# What is not met


def test_16_bits_under_16_bits_are_refused_with_the_reason(tmp_path: Path) -> None:
    engine = LocalEngine()
    one = case(config_folder(tmp_path, LLAMA), cache="half", dtype="bfloat16")
    assert isinstance(engine.open(one.model_key), ModelLoaded)
    try:
        sample = run_task(engine, task(one))[0]
    finally:
        engine.close()
    assert sample.status == "unsupported"
    assert sample.error == "half: this model already runs in 16 bits; half needs float32 weights."
