"""Tests of kvbench/run/order.py."""

from __future__ import annotations

import random
from collections import Counter

from kvbench.methods.each import EACH
from kvbench.run.order import shuffled
from tests.fakes import make_case

CASES = tuple(
    make_case(cache=cache, max_new_tokens=tokens)
    for tokens in (10, 50, 100, 200, 400)
    for cache in ("off", "dynamic")
)


def test_over_many_rounds_each_arm_comes_first_about_as_often() -> None:
    rng = random.Random(3)
    first = Counter(pair[0].cache for _ in range(200) for pair in shuffled(EACH.groups(CASES), rng))
    assert first["off"] + first["dynamic"] == 1000
    assert 430 < first["off"] < 570


def test_over_many_rounds_each_pair_comes_first_about_as_often() -> None:
    rng = random.Random(4)
    first = Counter(shuffled(EACH.groups(CASES), rng)[0][0].max_new_tokens for _ in range(1000))
    assert set(first) == {10, 50, 100, 200, 400}
    assert all(150 < count < 250 for count in first.values())
