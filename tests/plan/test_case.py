"""Tests of kvbench/plan/case.py."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvbench.plan.case import Case, ModelKey, Prompt, Task, group_cases
from tests.fakes import OTHER, make_case, make_task


def test_a_text_is_one_prompt_labelled_by_itself() -> None:
    assert Prompt.of_text("Hi, you") == Prompt(label="text:Hi, you", texts=("Hi, you",))


def test_tokens_have_a_number_and_no_text() -> None:
    assert Prompt.of_tokens(7) == Prompt(label="tokens:7", texts=(), tokens=7)


def test_a_file_is_labelled_by_its_name_without_its_folder() -> None:
    prompt = Prompt.of_file("/some/where/prompts.txt", ["a", "b"])
    assert prompt.texts == ("a", "b")
    assert prompt.label.startswith("file:prompts.txt#")


def test_an_edited_file_is_another_prompt() -> None:
    assert Prompt.of_file("p.txt", ["a"]).label != Prompt.of_file("p.txt", ["b"]).label
    assert Prompt.of_file("p.txt", ["a"]).label == Prompt.of_file("x/p.txt", ["a"]).label


def test_the_texts_of_a_file_may_come_from_an_iterator() -> None:
    assert Prompt.of_file("p.txt", iter("ab")) == Prompt.of_file("p.txt", ["a", "b"])


def test_the_key_is_pinned(snapshot: object) -> None:
    # A changed key gives all recorded cases new ids: runs would no longer be comparable.
    case = make_case()
    assert case.key == snapshot
    assert case.id == "170424f1d5"


def test_the_id_is_ten_hexadecimal_digits() -> None:
    assert len(make_case().id) == 10
    assert int(make_case().id, 16) >= 0


def test_the_other_values_cover_every_field() -> None:
    assert set(OTHER) == {field.name for field in dataclasses.fields(Case)}


@pytest.mark.parametrize("field", OTHER)
def test_every_field_counts_in_the_key(field: str) -> None:
    assert make_case().key != make_case(**{field: OTHER[field]}).key
    assert make_case().id != make_case(**{field: OTHER[field]}).id


WITHIN_A_GROUP = {"cache", "driver", "reuse", "turn"}


@pytest.mark.parametrize("field", [field for field in OTHER if field not in WITHIN_A_GROUP])
def test_what_makes_another_group_counts_in_the_pair_key(field: str) -> None:
    assert make_case().pair_key != make_case(**{field: OTHER[field]}).pair_key


@pytest.mark.parametrize("field", sorted(WITHIN_A_GROUP))
def test_members_of_a_group_share_the_pair_key(field: str) -> None:
    assert make_case().pair_key == make_case(**{field: OTHER[field]}).pair_key


def test_a_prompt_cannot_pass_for_another_field() -> None:
    sly = Prompt.of_text("x' max_new_tokens=100 prompt='text:x")
    assert make_case(prompt=sly).key != make_case(prompt=Prompt.of_text("x")).key
    assert make_case(prompt=sly).key.count(" max_new_tokens=") == 2
    assert make_case(prompt=sly).key.endswith(" max_new_tokens=100")


def test_a_prompt_with_undecodable_bytes_has_an_id() -> None:
    assert len(make_case(prompt=Prompt.of_text("\udc80")).id) == 10


def test_a_case_is_a_value() -> None:
    assert make_case() == make_case()
    assert {make_case(), make_case()} == {make_case()}
    assert pickle.loads(pickle.dumps(make_case())) == make_case()
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_case().batch_size = 2  # type: ignore[misc]


def test_labels_are_for_people(snapshot: object) -> None:
    assert make_case().label == snapshot
    of_tokens = make_case(prompt=Prompt.of_tokens(16), dtype="bfloat16")
    assert of_tokens.label == snapshot
    assert make_case().model_key.label == snapshot


def test_the_model_key_leaves_sizes_and_cache_out() -> None:
    varied = make_case(cache="off", batch_size=9, prompt=Prompt.of_tokens(3), max_new_tokens=7)
    assert varied.model_key == make_case().model_key
    assert varied.model_key == ModelKey("gpt2", "random", "cpu", "float32", "sdpa")


@pytest.mark.parametrize("field", ["model", "weights", "device", "dtype", "attention"])
def test_what_needs_another_loaded_model_is_another_group(field: str) -> None:
    groups = group_cases([make_case(), make_case(**{field: OTHER[field]})])
    assert [len(group.cases) for group in groups] == [1, 1]


def test_groups_come_in_the_order_of_their_first_case() -> None:
    b1, a1, b2 = (
        make_case(model="b"),
        make_case(model="a"),
        make_case(model="b", cache="off"),
    )
    first, second = group_cases(iter([b1, a1, b2]))
    assert (first.model.model, first.cases) == ("b", (b1, b2))
    assert (second.model.model, second.cases) == ("a", (a1,))


def test_no_cases_make_no_groups() -> None:
    assert group_cases([]) == ()


@pytest.mark.parametrize(("phase", "letter"), [("warmup", "w"), ("measure", "s"), ("memory", "m")])
def test_a_sample_id_is_case_letter_and_repeat(phase: Any, letter: str) -> None:
    task = Task(make_case(), phase=phase, round=9, repeat=12, new_tokens=16)
    assert task.sample_id == f"{make_case().id}-{letter}012"


def test_sample_ids_stay_apart_past_a_thousand() -> None:
    assert make_task(repeat=1000).sample_id != make_task(repeat=100).sample_id


@settings(derandomize=True, database=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["warmup", "measure", "memory"]),
            st.integers(0, 10_000),
            st.integers(0, 50),
        ),
        unique=True,
    )
)
def test_sample_ids_of_different_samples_and_attempts_differ(
    tasks: list[tuple[Any, int, int]],
) -> None:
    ids = {Task(make_case(), p, r, r, 16, attempt).sample_id for p, r, attempt in tasks}
    assert len(ids) == len(tasks)


# What certainly needs no less memory


@pytest.mark.parametrize(
    "larger",
    [
        {},
        {"batch_size": 2},
        {"max_new_tokens": 101},
        {"prompt": Prompt.of_tokens(7)},
        {"batch_size": 9, "max_new_tokens": 400, "prompt": Prompt.of_tokens(90)},
    ],
    ids=str,
)
def test_a_case_that_is_nowhere_smaller_needs_at_least_as_much(larger: dict[str, Any]) -> None:
    proof = make_case(prompt=Prompt.of_tokens(6))
    case = make_case(**{"prompt": Prompt.of_tokens(6)} | larger)
    assert case.needs_at_least(proof)
    assert proof.needs_at_least(case) is (larger == {})


@pytest.mark.parametrize(
    "smaller",
    [
        {"batch_size": 1, "max_new_tokens": 500},
        {"max_new_tokens": 99, "batch_size": 50},
        {"prompt": Prompt.of_tokens(5), "batch_size": 50, "max_new_tokens": 500},
    ],
    ids=str,
)
def test_a_case_that_is_smaller_in_one_way_may_need_less(smaller: dict[str, Any]) -> None:
    proof = make_case(prompt=Prompt.of_tokens(6), batch_size=2)
    case = make_case(**{"prompt": Prompt.of_tokens(6), "batch_size": 2} | smaller)
    assert not case.needs_at_least(proof)


@pytest.mark.parametrize("field", ["model", "weights", "device", "dtype", "attention", "cache"])
def test_another_model_or_strategy_proves_nothing(field: str) -> None:
    other = make_case(**{field: OTHER[field]}, batch_size=8, max_new_tokens=1000)
    assert not other.needs_at_least(make_case())


def test_of_two_texts_it_is_not_known_which_is_longer() -> None:
    short, long = Prompt.of_text("Hi"), Prompt.of_text("Hi, " * 1000)
    assert make_case(prompt=short, batch_size=2).needs_at_least(make_case(prompt=short))
    for one, other in [(short, long), (long, short), (long, Prompt.of_tokens(1))]:
        assert not make_case(prompt=one, batch_size=9).needs_at_least(make_case(prompt=other))
        assert not make_case(prompt=other, batch_size=9).needs_at_least(make_case(prompt=one))


# Few values of each, so that comparable cases are common.
SOME_CASES = st.builds(
    make_case,
    cache=st.sampled_from(["off", "dynamic"]),
    batch_size=st.integers(1, 3),
    max_new_tokens=st.integers(1, 3),
    prompt=st.integers(1, 3).map(Prompt.of_tokens) | st.sampled_from("ab").map(Prompt.of_text),
)


@settings(derandomize=True, database=None, max_examples=500)
@given(SOME_CASES, SOME_CASES, SOME_CASES)
def test_needing_at_least_as_much_is_an_order(a: Case, b: Case, c: Case) -> None:
    assert a.needs_at_least(a)
    if a.needs_at_least(b) and b.needs_at_least(c):
        assert a.needs_at_least(c)
    if a.needs_at_least(b) and b.needs_at_least(a):
        assert a == b
