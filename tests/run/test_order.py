"""Tests of kvbench/run/order.py."""

from __future__ import annotations

import random
from collections import Counter

from kvbench.methods.each import EACH
from kvbench.plan.case import Prompt
from kvbench.run.order import shuffled
from tests.fakes import make_case

CASES = tuple(
    make_case(cache=cache, max_new_tokens=tokens)
    for tokens in (10, 50, 100, 200, 400)
    for cache in ("off", "dynamic")
)


def test_cases_that_differ_in_the_cache_alone_stand_together() -> None:
    off, on = make_case(cache="off"), make_case()
    big_on, big_off = make_case(batch_size=2), make_case(batch_size=2, cache="off")
    assert EACH.groups(iter([off, big_on, on, big_off])) == ((off, on), (big_on, big_off))


def test_a_case_without_a_partner_is_a_pair_of_one() -> None:
    other = make_case(cache="off", prompt=Prompt.of_tokens(6))
    assert EACH.groups([make_case(), other]) == ((make_case(),), (other,))


def test_no_cases_make_no_pairs() -> None:
    assert EACH.groups([]) == ()


def test_shuffling_loses_and_doubles_nothing() -> None:
    mixed = shuffled(EACH.groups(CASES), random.Random(1))
    assert Counter(case for pair in mixed for case in pair) == Counter(CASES)
    assert {frozenset(pair) for pair in mixed} == {frozenset(pair) for pair in EACH.groups(CASES)}


def test_the_same_seed_gives_the_same_order_and_another_another() -> None:
    pairs = EACH.groups(CASES)
    assert shuffled(pairs, random.Random(1)) == shuffled(pairs, random.Random(1))
    assert shuffled(pairs, random.Random(1)) != shuffled(pairs, random.Random(2))


def test_the_generator_moves_on_from_round_to_round() -> None:
    rng = random.Random(1)
    rounds = {shuffled(EACH.groups(CASES), rng) for _ in range(10)}
    assert len(rounds) > 5


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


def test_the_pairs_that_were_given_are_left_as_they_are() -> None:
    pairs = list(EACH.groups(CASES))
    before = list(pairs)
    shuffled(pairs, random.Random(1))
    assert pairs == before
