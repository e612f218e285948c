"""Tests of kvbench/report/walk.py: what each strategy does with each position."""

from __future__ import annotations

import dataclasses

from kvbench.records.inspection import Arm, CacheLayers
from kvbench.report.walk import Act, acts_of, labels_of
from kvbench.report.walk_page import walk_page
from tests.fakes import make_inspection, make_step
from tests.report.walks import dynamic, key, static, window


def kinds(act: Act) -> str:
    """Return the first letter of each cell's kind, in order."""
    return "".join(cell.kind[0] for cell in act.cells)


def test_without_a_cache_all_is_computed_again_and_with_one_it_is_read() -> None:
    shown = dynamic()
    assert [kinds(act) for act in acts_of(shown.off, 4)] == ["nnnn", "aaaan", "aaaaan"]
    assert [kinds(act) for act in acts_of(shown.cached, 4)] == ["nnnn", "rrrrn", "rrrrrn"]


def test_what_a_window_drops_and_what_a_buffer_reserves_is_shown() -> None:
    assert [kinds(act) for act in acts_of(window().cached, 4)] == ["nnnn", "ggrrn", "gggrrn"]
    assert [kinds(act) for act in acts_of(static().cached, 4)] == ["nnnnee", "rrrrne", "rrrrrn"]


def test_a_cell_has_the_numbers_that_attention_sees_in_its_position() -> None:
    for act in acts_of(window().cached, 4):
        for cell in act.cells:
            assert cell.numbers == (() if cell.kind == "gone" else key(cell.position or 0))


def test_each_step_is_a_sentence(snapshot: object) -> None:
    arms = {one.cached.cache: one.cached for one in (dynamic(), window(), static())}
    arms["off"] = dynamic().off
    # Unknown keys: the shapes still say how many there are.
    arms["unknown"] = make_inspection().cached
    state = CacheLayers(count=3, keys=None, values=None, states=((1, 8),))
    unseen = make_step(1, 5, True, cache=(state,), keys=None, values=None)
    arms["state"] = Arm(cache="dynamic", steps=(make_step(4, 4, True, cache=(state,)), unseen))
    arms["pool"] = Arm(
        cache="paged",
        steps=(make_step(4, 4, True, keys=None), make_step(1, 5, True, keys=None)),
    )
    said = {name: [act.sentence for act in acts_of(arm, 4)] for name, arm in arms.items()}
    assert said == snapshot


def test_where_a_strategy_leaves_the_text_is_told() -> None:
    known = window()
    steps = tuple(dataclasses.replace(one, token_ids=(99,)) for one in known.cached.steps)
    parted = dataclasses.replace(known, cached=Arm(cache="window:size=3", steps=steps))
    assert "a different token in step 1." in walk_page([dynamic(), parted])
    assert "a different token" not in walk_page([dynamic(), known])


def test_tokens_are_texts_or_ids() -> None:
    shown = make_inspection(prompt_texts=("What", " is\n", "", "?"))
    assert labels_of(shown) == ["What", "·is⏎", "(empty)", "?", "·word4", "·word5", "·word6"]
    assert labels_of(make_inspection())[:4] == ["7", "8", "9", "10"]
    decoder = dataclasses.replace(shown, first_positions=1)
    assert labels_of(decoder)[:2] == ["start", "·word4"]
