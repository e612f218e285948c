"""Tests of kvbench/plan/ranges.py."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvbench.errors import UserError
from kvbench.plan.ranges import MAX_SIZE, parse_sizes


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("10", (10,)),
        ("10,110,210", (10, 110, 210)),
        ("10-910+100", (10, 110, 210, 310, 410, 510, 610, 710, 810, 910)),
        ("16-1024*2", (16, 32, 64, 128, 256, 512, 1024)),
        ("3-6", (3, 4, 5, 6)),
        ("7-7", (7,)),
        ("1-10*1.5", (1, 2, 3, 5, 7)),
        ("1,16-64*2,5", (1, 16, 32, 64, 5)),
        ("2,1,2", (2, 1, 2)),
        ("0", (0,)),
        ("0-4+2", (0, 2, 4)),
        ("007", (7,)),
        (str(MAX_SIZE), (MAX_SIZE,)),
    ],
)
def test_sizes_are_expanded_in_the_order_written(text: str, sizes: tuple[int, ...]) -> None:
    assert parse_sizes(text) == sizes


def test_the_last_of_a_range_is_left_out_when_the_steps_pass_it() -> None:
    assert parse_sizes("10-100+40") == (10, 50, 90)
    assert parse_sizes("10-100*3") == (10, 30, 90)


def test_spaces_around_an_entry_do_not_matter() -> None:
    assert parse_sizes(" 10 , 20-40+10 ") == (10, 20, 30, 40)


def test_a_small_factor_gives_each_size_once() -> None:
    sizes = parse_sizes("1-20*1.1")
    assert list(sizes) == sorted(set(sizes))
    assert sizes[:5] == (1, 2, 3, 4, 5)


@pytest.mark.parametrize(
    ("kind", "texts"),
    {
        "not_a_size": [
            *("", "x", "10,", ",10", "10 20", "10\n20", "nan", "inf", "1_000", "0x10", "١", "²"),
            *("-5", "+5", "1.5", "1e3", "10-", "10-20+", "10-20*", "10-20/2"),
            *("10--20", "10-20-30", "10-20+-1"),
        ],
        "bad_range": [
            *("5-1", "5-1+1", "100-10*2", "5-0"),
            *("1-5+0", "1-5*1", "1-5*0", "1-5*0.5", "0-5*2", "1-5+0.0"),
        ],
        "too_large": [str(MAX_SIZE + 1), "9" * 5000, f"1-{MAX_SIZE + 1}"],
        "range_too_long": ["1-2000000", "0-2147483647", "1-60000,1-60000"],
    }.items(),
)
def test_what_is_not_a_size_is_refused_with_an_example(kind: str, texts: list[str]) -> None:
    for text in texts:
        with pytest.raises(UserError) as caught:
            parse_sizes(text)
        assert caught.value.kind == kind, text


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "text", ["1000-2000+0.00000000000000000001", "1-2147483647+0.00000001", "1-9999999*1.00000001"]
)
def test_steps_too_small_to_move_end_in_time(text: str) -> None:
    """Either the sizes or a sentence, but not a command that hangs."""
    try:
        sizes = parse_sizes(text)
    except UserError as error:
        assert str(error).endswith(".")
    else:
        assert list(sizes) == sorted(set(sizes))


def test_leading_zeros_do_not_count() -> None:
    assert parse_sizes("0" * 5000 + "1") == (1,)


@pytest.mark.parametrize(
    "text", ["x", "5-1", "1-5*1", "2147483648", "1-2000000", "1-60000,1-60000"]
)
def test_the_sentence_begins_with_the_name_of_the_list(text: str, snapshot: object) -> None:
    with pytest.raises(UserError) as caught:
        parse_sizes(text, "batch_size")
    assert caught.value.fields["name"] == "batch_size"
    assert str(caught.value) == snapshot


def test_a_long_entry_is_cut_in_the_sentence() -> None:
    with pytest.raises(UserError) as caught:
        parse_sizes("y" * 10_000)
    assert len(str(caught.value)) < 200


def test_a_long_step_is_cut_in_the_sentence() -> None:
    with pytest.raises(UserError) as caught:
        parse_sizes("1-5+0." + "0" * 10_000)
    assert len(str(caught.value)) < 200


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 5000), st.integers(0, 5000), st.integers(1, 700))
def test_adding_is_python_range(first: int, extent: int, by: int) -> None:
    last = first + extent
    assert parse_sizes(f"{first}-{last}+{by}") == tuple(range(first, last + 1, by))


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 1000), st.integers(0, 10**6), st.integers(2, 20))
def test_multiplying_is_a_geometric_series(first: int, extent: int, by: int) -> None:
    last, expected, value = first + extent, [], first
    while value <= last:
        expected.append(value)
        value *= by
    assert parse_sizes(f"{first}-{last}*{by}") == tuple(expected)
