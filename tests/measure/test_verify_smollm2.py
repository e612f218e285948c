"""The real SmolLM2-135M on the CPU passes each check."""

from __future__ import annotations

import pytest

from kvbench.measure.verify import verify
from tests.tiny import load

pytestmark = pytest.mark.weights


def test_real_weights_pass() -> None:
    checks = verify(load("smollm2-135m", "pretrained"), "dynamic", new_tokens=8, generations=2)
    assert {check.verdict for check in checks} == {"pass"}, [check.detail for check in checks]
    shape = next(check for check in checks if check.check == "shape")
    # 30 layers, 3 heads of 64; 8 tokens of prompt, 7 of the 8 new ones fed back.
    assert shape.detail.endswith("(30 layers, 8 steps), final shape [1, 3, 15, 64].")
    logits = [check for check in checks if check.check == "logits"]
    assert all(check.rms_over_std < 1e-5 for check in logits)
