"""Tests of kvbench/records/inspection.py: derived values."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from kvbench.records.inspection import CacheLayers, Shape, as_json
from tests.fakes import make_inspection, make_step

PAIR: Shape = (1, 2, 5, 8)


@pytest.mark.parametrize(
    ("cache", "shape"),
    [
        ((), None),
        ((CacheLayers(count=3, keys=PAIR, values=PAIR),), (3, 2, 1, 2, 5, 8)),
        ((CacheLayers(count=3, keys=PAIR, values=(1, 2, 5, 4)),), None),
        ((CacheLayers(count=3, keys=PAIR, values=PAIR, states=((1, 4),)),), None),
        ((CacheLayers(count=3, keys=None, values=None, states=((1, 4),)),), None),
        ((CacheLayers(count=3, keys=PAIR, values=PAIR),) * 2, None),
    ],
)
def test_one_shape_stands_for_a_cache_of_equal_layers_only(
    cache: tuple[CacheLayers, ...], shape: Shape | None
) -> None:
    assert make_step(1, 5, True, cache=cache).cache_shape == shape


def test_counted_flops_go_before_those_of_theory() -> None:
    both = make_step(1, 5, True, flops_counted=7, flops_theory=8)
    assert both.flops == 7
    assert replace(both, flops_counted=None).flops == 8
    assert replace(both, flops_counted=None, flops_theory=None).flops is None


def test_a_step_without_flops_leaves_no_total() -> None:
    seen = make_inspection()
    assert seen.totals(seen.cached).flops == 6_000_000
    last = replace(seen.cached.steps[-1], flops_counted=None, flops_theory=None)
    arm = replace(seen.cached, steps=(*seen.cached.steps[:-1], last))
    assert seen.totals(arm).flops is None


def test_tokens_are_compared_in_all_rows() -> None:
    seen = make_inspection()
    assert seen.same_tokens
    last = replace(seen.cached.steps[-1], token_ids=(99,))
    arm = replace(seen.cached, steps=(*seen.cached.steps[:-1], last))
    other = replace(seen, cached=arm)
    assert (other.same_tokens, as_json(other)["same_tokens"]) == (False, False)
    assert other.cached.token_ids == ((4, 5, 99),)


def test_json_is_json() -> None:
    known = json.loads(json.dumps(as_json(make_inspection()), allow_nan=False))
    assert known["cached"]["steps"][1]["cache_shape"] == [3, 2, 1, 2, 5, 8]
    assert known["off"]["steps"][1]["cache_shape"] is None
    assert known["off"]["totals"]["made_again"] == 9
