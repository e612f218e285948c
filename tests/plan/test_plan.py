"""Tests of kvbench/plan/plan.py and of the files it reads, kvbench/plan/file.py."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from kvbench.catalogue import DEFAULT_PROMPT
from kvbench.errors import UserError
from kvbench.plan.case import Prompt
from kvbench.plan.options import DESCRIPTIONS
from kvbench.plan.plan import CONDUCT, MANY_CASES, QUICKSTART, Plan
from kvbench.plan.ranges import MAX_SIZE

CONFIG = Path(__file__).parents[2] / "kvbench" / "configs" / "quickstart.yaml"


def sentence(keys: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        Plan.parse(keys)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    assert text[-1] in ".?"
    return text


def load(folder: Path, text: str, **options: Any) -> Plan:
    path = folder / "plan.yaml"
    path.write_text(text, encoding="utf-8")
    return Plan.load(path, options)


def yaml_sentence(folder: Path, text: str, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        load(folder, text, **options)
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value)[-1] in ".?"
    return str(caught.value)


# Keys and values


def test_every_key_is_described_and_every_description_is_a_key() -> None:
    assert set(DESCRIPTIONS) == {*Plan.model_fields, "use_cache"}


def test_the_defaults_are_a_small_sweep_of_both_arms() -> None:
    plan = Plan()
    assert plan.model == ("gpt2",)
    assert plan.cache == ("off", "dynamic")
    assert (plan.device, plan.attention) == (("auto",), ("auto",))
    assert (plan.repeats, plan.min_repeats, plan.max_repeats) == (None, 6, 30)
    assert (plan.min_seconds, plan.max_spread, plan.max_case_seconds) == (3.0, 0.05, 600.0)
    assert not plan.trust_remote_code
    assert (plan.case_timeout, plan.keep_going_after_oom, plan.verify) == (None, False, True)


def test_keys_of_conduct_are_keys_of_a_plan() -> None:
    assert {"case_timeout", "keep_going_after_oom", "quality", "verify"} == CONDUCT
    assert Plan.model_fields.keys() > CONDUCT


@pytest.mark.parametrize(
    ("given", "seconds"), [(5, 5.0), ("0.5", 0.5), (1e-9, 1e-9), (None, None), ("7200", 7200.0)]
)
def test_a_time_out_is_a_time_or_none(given: Any, seconds: float | None) -> None:
    assert Plan.parse({"case_timeout": given}).case_timeout == seconds


@pytest.mark.parametrize(
    ("given", "model"),
    [
        ("gpt2", ("gpt2",)),
        ("gpt2,a/b", ("gpt2", "a/b")),
        (["gpt2", "a/b"], ("gpt2", "a/b")),
        (["gpt2, a/b", "c"], ("gpt2", "a/b", "c")),
        (("gpt2",), ("gpt2",)),
    ],
)
def test_a_list_of_names_may_be_written_in_many_ways(given: Any, model: tuple[str, ...]) -> None:
    assert Plan.parse({"model": given}).model == model


@pytest.mark.parametrize(
    ("given", "sizes"),
    [
        (5, (5,)),
        ("5", (5,)),
        ([1, 2], (1, 2)),
        ("1,2", (1, 2)),
        (["1-3", 8, "16-64*2"], (1, 2, 3, 8, 16, 32, 64)),
        (MAX_SIZE, (MAX_SIZE,)),
    ],
)
@pytest.mark.parametrize("key", ["batch_size", "prompt_tokens", "max_new_tokens"])
def test_a_list_of_sizes_may_be_written_in_many_ways(
    key: str, given: Any, sizes: tuple[int, ...]
) -> None:
    assert getattr(Plan.parse({key: given}), key) == sizes


def test_commas_belong_to_a_prompt() -> None:
    assert Plan.parse({"prompt": "a, b"}).prompt == ("a, b",)
    assert Plan.parse({"prompt": ["a, b", "c"]}).prompt == ("a, b", "c")


@pytest.mark.parametrize(("given", "repeats"), [("auto", None), (None, None), (3, 3), ("3", 3)])
def test_repeats_is_a_number_or_left_to_the_rule(given: Any, repeats: int | None) -> None:
    assert Plan.parse({"repeats": given}).repeats == repeats


@pytest.mark.parametrize(
    ("given", "cache"),
    [
        (True, ("dynamic",)),
        (False, ("off",)),
        ([False, True], ("off", "dynamic")),
        ("true,false", ("dynamic", "off")),
        (["Yes", "no", "ON", "off"], ("dynamic", "off", "dynamic", "off")),
    ],
)
def test_use_cache_is_another_spelling_of_cache(given: Any, cache: tuple[str, ...]) -> None:
    assert Plan.parse({"use_cache": given}).cache == cache


@pytest.mark.parametrize("given", [None, 1, "maybe", "", [True, "x"], {}])
def test_use_cache_takes_nothing_but_flags(given: Any) -> None:
    assert sentence({"use_cache": given}).endswith(" is not true or false.")


def test_the_two_spellings_of_one_axis_are_refused_together(snapshot: object) -> None:
    assert sentence({"use_cache": True, "cache": "off"}) == snapshot


@pytest.mark.parametrize(
    "keys",
    [
        {"modle": "x"},
        {"new_tokens": 5},
        {"use_cach": True},
        {"zzz": 1},
        {"dtype": "flaot32"},
        {"dtype": "int8"},
        {"cache": "dynamc"},
        {"cache": "zzz"},
        {"device": "gpu"},
        {"max_new_tokens": "5-1"},
        {"max_repeats": 2},
    ],
)
def test_a_mistake_is_told_in_one_sentence_that_helps(
    keys: dict[str, Any], snapshot: object
) -> None:
    assert sentence(keys) == snapshot


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("weights", "both"),
        ("batch_size", 0),
        ("batch_size", MAX_SIZE + 1),
        ("batch_size", -1),
        ("batch_size", True),
        ("batch_size", 1.5),
        ("batch_size", None),
        ("batch_size", []),
        ("prompt_tokens", 0),
        ("max_new_tokens", "0-10"),
        ("repeats", 0),
        ("repeats", "x"),
        ("repeats", 1.5),
        ("min_repeats", 0),
        ("max_repeats", 100_001),
        ("min_seconds", -1),
        ("min_seconds", float("nan")),
        ("max_spread", float("inf")),
        ("max_case_seconds", 0),
        ("seed", -1),
        ("seed", 2**63),
        ("trust_remote_code", "perhaps"),
        ("model", ""),
        ("model", []),
        ("model", None),
        ("model", 5),
        ("model", {"a": 1}),
        ("attention", ""),
        ("prompt", ""),
        ("prompt", 5),
        ("prompt_file", ""),
        ("device", "cuda:"),
        ("device", "cuda:-1"),
        ("device", "cuda:1234"),
        ("device", "CPU"),
        ("dtype", []),
        ("cache", []),
        ("cache", "off,"),
        *(("case_timeout", v) for v in (0, -1, "x", "", "nan", "inf", True, [5])),
        *(("keep_going_after_oom", v) for v in ("perhaps", "", 2, None, [True])),
        *(("verify", v) for v in ("perhaps", "", 2, None, [True])),
    ],
)
def test_a_wrong_value_is_told_with_its_key(key: str, value: Any) -> None:
    assert sentence({key: value}).startswith(f"{key}: ")


@pytest.mark.parametrize("key", ["model", "attention", "device", "dtype", "cache", "weights"])
def test_a_line_break_in_a_value_does_not_break_the_sentence(key: str) -> None:
    sentence({key: "a\nb"})


def test_a_line_break_in_a_key_does_not_break_the_sentence() -> None:
    sentence({"a\nb": 1})


@pytest.mark.parametrize("key", ["model", "attention"])
def test_control_characters_are_refused_in_names_that_are_printed(
    key: str, snapshot: object
) -> None:
    assert sentence({key: "a\x1b[31mb"}) == snapshot


@pytest.mark.parametrize("key", ["seed", "max_new_tokens", "repeats", "use_cache", "prompt"])
def test_an_integer_too_long_to_print_is_refused_like_any_other(key: str) -> None:
    sentence({key: 1 << 50_000})


def test_a_long_value_is_cut_in_the_sentence() -> None:
    assert len(sentence({"weights": "x" * 10_000})) < 200


@pytest.mark.timeout(60)
def test_a_list_of_ranges_is_bounded_like_one_range() -> None:
    assert "100,000" in sentence({"batch_size": ["1-60000", "1-60000"]})


def test_a_plan_does_not_change() -> None:
    with pytest.raises(ValidationError):
        Plan().seed = 5  # type: ignore[misc]


def test_a_plan_comes_back_from_its_own_dump() -> None:
    plan = Plan.parse({"model": "a,b", "prompt": "x, y", "use_cache": True, "repeats": 3})
    assert Plan.parse(plan.model_dump(mode="json")) == plan


# YAML files and options


def test_without_a_file_the_embedded_default_is_taken() -> None:
    assert Plan.load() == Plan.parse(QUICKSTART)
    assert Plan.load().repeats == 6


def test_options_go_over_the_embedded_default_one_by_one() -> None:
    plan = Plan.load(None, {"repeats": "7"})
    assert (plan.repeats, plan.max_new_tokens) == (7, (10, 25, 50))


@pytest.mark.skipif(not CONFIG.exists(), reason="configs/quickstart.yaml is not there")
def test_the_quickstart_file_is_the_embedded_default() -> None:
    assert Plan.load(CONFIG) == Plan.load()


def test_a_file_is_not_mixed_with_the_embedded_default(tmp_path: Path) -> None:
    assert load(tmp_path, "model: distilgpt2\n") == Plan(model=("distilgpt2",))


def test_a_file_gives_every_key(tmp_path: Path) -> None:
    keys = {
        "model": ["a", "b"],
        "weights": "random",
        "device": ["cpu", "cuda:1"],
        "dtype": ["bfloat16"],
        "attention": ["eager"],
        "cache": ["dynamic"],
        "batch_size": "1-8*2",
        "prompt": ["x, y"],
        "prompt_tokens": [16],
        "max_new_tokens": ["10-30+10"],
        "repeats": "auto",
        "min_repeats": 2,
        "max_repeats": 4,
        "min_seconds": 0.5,
        "max_spread": 0.1,
        "max_case_seconds": 5,
        "seed": 9,
        "trust_remote_code": True,
        "case_timeout": 60,
        "keep_going_after_oom": True,
        "verify": False,
    }
    plan = load(tmp_path, yaml.safe_dump(keys))
    assert plan == Plan.parse(keys)
    assert (plan.batch_size, plan.max_new_tokens) == ((1, 2, 4, 8), (10, 20, 30))


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "\ufeff", "{}"])
def test_an_empty_file_is_the_plan_of_all_defaults(tmp_path: Path, text: str) -> None:
    assert load(tmp_path, text) == Plan()


def test_an_option_replaces_the_whole_axis_of_the_file(tmp_path: Path) -> None:
    plan = load(tmp_path, "batch_size: [1, 2]\nseed: 4\n", batch_size=["8"])
    assert (plan.batch_size, plan.seed) == ((8,), 4)


@pytest.mark.parametrize("option", [{"cache": ["off"]}, {"use_cache": ["false"]}])
@pytest.mark.parametrize("text", ["cache: dynamic", "use_cache: true"])
def test_an_option_replaces_either_spelling_of_the_cache(
    tmp_path: Path, text: str, option: dict[str, Any]
) -> None:
    assert load(tmp_path, text, **option).cache == ("off",)


def test_both_spellings_as_options_are_refused(tmp_path: Path, snapshot: object) -> None:
    assert yaml_sentence(tmp_path, "", cache=["off"], use_cache=["true"]) == snapshot


@pytest.mark.parametrize("text", ["cache: off", "cache: [off, dynamic]", "cache:\n- off\n"])
def test_off_needs_no_quotes_in_yaml(tmp_path: Path, text: str) -> None:
    """YAML 1.1 reads a bare `off` as false, but it is the name of a strategy."""
    assert load(tmp_path, text).cache[0] == "off"


@pytest.mark.parametrize("text", ["use_cache: off", "use_cache: no", "use_cache: false"])
def test_flags_of_yaml_are_flags(tmp_path: Path, text: str) -> None:
    assert load(tmp_path, text).cache == ("off",)


def test_a_prompt_option_replaces_all_prompts_of_the_file(tmp_path: Path) -> None:
    text = "prompt: a\nprompt_file: nowhere.txt\nprompt_tokens: 5\n"
    plan = load(tmp_path, text, prompt_tokens=["7"])
    assert plan.prompts == (Prompt.of_tokens(7),)


def test_a_file_that_is_not_there_is_told_by_its_path(tmp_path: Path, snapshot: object) -> None:
    with pytest.raises(UserError) as caught:
        Plan.load(tmp_path / "no.yaml")
    assert str(caught.value) == snapshot


def test_a_folder_is_not_a_plan(tmp_path: Path, snapshot: object) -> None:
    with pytest.raises(UserError) as caught:
        Plan.load(tmp_path)
    assert str(caught.value) == snapshot


def test_a_path_with_a_nul_is_not_a_plan(snapshot: object) -> None:
    with pytest.raises(UserError) as caught:
        Plan.load("a\0b")
    assert str(caught.value) == snapshot


def test_a_huge_file_is_not_a_plan(tmp_path: Path, snapshot: object) -> None:
    assert yaml_sentence(tmp_path, "#" * (1 << 20) + "\n") == snapshot


def test_bytes_are_not_a_plan(tmp_path: Path, snapshot: object) -> None:
    path = tmp_path / "plan.yaml"
    path.write_bytes(b"model: \xff\xfe")
    with pytest.raises(UserError) as caught:
        Plan.load(path)
    assert str(caught.value) == snapshot


@pytest.mark.parametrize("text", ["[1, 2]", "gpt2", "5", "1: 2", "null: 2", "true: 2"])
def test_a_plan_is_a_mapping_of_words(tmp_path: Path, text: str, snapshot: object) -> None:
    assert yaml_sentence(tmp_path, text) == snapshot


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("model: [gpt2\nseed: 1\n", 2),
        ("seed: 1\n\tmodel: x\n", 2),
        ("model: x\nseed: 1\n---\nseed: 2\n", 3),
        ("seed: 1\nmodel: !thing x\n", 2),
        ("seed: 1\nmodel: !!python/name:os.system x\n", 2),
        ("seed: 1\n? [a]\n: 2\n", 2),
    ],
)
def test_broken_yaml_is_told_with_the_line(
    tmp_path: Path, text: str, line: int, snapshot: object
) -> None:
    assert yaml_sentence(tmp_path, text) == snapshot


@pytest.mark.parametrize(
    "text",
    ["seed: &x 1", "model: &x [a]", "seed: *x", "&x {seed: 1}", "a: &a [1]\nb: [*a, *a]\n"],
)
def test_anchors_and_aliases_are_refused(tmp_path: Path, text: str, snapshot: object) -> None:
    assert yaml_sentence(tmp_path, text) == snapshot


@pytest.mark.parametrize("text", ["seed: 1\nseed: 2\n", "{seed: 1, 'seed': 1}", '"a": 1\na: 2\n'])
def test_a_key_that_stands_twice_is_refused(tmp_path: Path, text: str) -> None:
    assert "duplicate key" in yaml_sentence(tmp_path, text)


def test_a_doubled_key_with_a_line_break_is_told_in_one_line(tmp_path: Path) -> None:
    yaml_sentence(tmp_path, '"a\\nb": 1\n"a\\nb": 2\n')


@pytest.mark.parametrize(
    "text",
    [
        "seed: !!bool x",
        "seed: !!int ''",
        "seed: !!float ''",
        "seed: !!timestamp x",
        "seed: !!timestamp 2026-99-99",
        "seed: 2026-99-99",
        "seed: !!binary é",
        "!!map [a]",
        "!!set [a]",
        "seed: !!omap [a]",
        "seed: 0x" + "f" * 5000,
        "seed: " + "9" * 5000,
        "seed: 1" + ":1" * 200 + ".5",
        "[" * 5000,
        "model: \0",
        r'prompt: "\ud800"',
        r'prompt_file: "\ud800"',
        r'model: "\e[31m"',
    ],
    ids=lambda text: text[:24].encode("unicode_escape").decode(),
)
def test_yaml_made_to_hurt_is_a_user_error(tmp_path: Path, text: str) -> None:
    yaml_sentence(tmp_path, text)


# Prompts


def test_without_a_prompt_there_is_the_default_one() -> None:
    assert Plan().prompts == (Prompt.of_text(DEFAULT_PROMPT),)


def test_prompts_come_as_texts_then_files_then_tokens(tmp_path: Path) -> None:
    file = tmp_path / "p.txt"
    file.write_text("one\n\n  \ntwo\n", encoding="utf-8")
    plan = Plan.parse({"prompt_tokens": 5, "prompt_file": str(file), "prompt": ["x", "y", "x"]})
    assert plan.prompts == (
        Prompt.of_text("x"),
        Prompt.of_text("y"),
        Prompt.of_file("p.txt", ["one", "two"]),
        Prompt.of_tokens(5),
    )


def test_a_prompt_file_is_one_prompt_of_many_texts(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_bytes("明天\r\n降温了".encode())
    plan = Plan.parse({"prompt_file": str(tmp_path / "p.txt")})
    assert [prompt.texts for prompt in plan.prompts] == [("明天", "降温了")]


def test_a_prompt_file_in_yaml_is_looked_for_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "p.txt").write_text("beside the plan\n")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load(tmp_path, "prompt_file: p.txt").prompts[0].texts == ("beside the plan",)


@pytest.mark.parametrize("text", ["prompt_file: [p.txt, q.txt]", "prompt_file:\n- p.txt\n- q.txt"])
def test_a_list_of_prompt_files_in_yaml_is_looked_for_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "p.txt").write_text("p\n")
    (tmp_path / "q.txt").write_text("q\n")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert [prompt.texts for prompt in load(tmp_path, text).prompts] == [("p",), ("q",)]


def test_an_absolute_prompt_file_in_yaml_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("p\n")
    (tmp_path / "sub").mkdir()
    assert load(tmp_path / "sub", f"prompt_file: {tmp_path / 'p.txt'}").prompts[0].texts == ("p",)


def test_a_prompt_file_as_option_is_looked_for_where_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "p.txt").write_text("here\n")
    (tmp_path / "p.txt").write_text("beside the plan\n")
    monkeypatch.chdir(tmp_path / "elsewhere")
    plan = load(tmp_path, "prompt_file: p.txt", prompt_file=["p.txt"])
    assert [prompt.texts for prompt in plan.prompts] == [("here",)]


@pytest.mark.parametrize(
    "content",
    [None, b"", b"\n \n\t\n", b"\xff\xfe"],
)
def test_a_prompt_file_that_gives_no_prompt_is_told(
    tmp_path: Path, content: bytes | None, snapshot: object
) -> None:
    path = tmp_path / "p.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        Plan.parse({"prompt_file": str(path), "device": "cpu"}).cases()
    assert str(path) in str(caught.value)
    assert str(caught.value) == snapshot


def test_a_prompt_file_in_a_path_with_a_line_break_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        _ = Plan.parse({"prompt_file": str(tmp_path / "a\nb")}).prompts
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.skipif(os.name != "posix", reason="needs a sparse file")
def test_a_huge_prompt_file_is_refused_unread(tmp_path: Path, snapshot: object) -> None:
    with (tmp_path / "p.txt").open("wb") as file:
        file.truncate((16 << 20) + 1)
    with pytest.raises(UserError) as caught:
        _ = Plan.parse({"prompt_file": str(tmp_path / "p.txt")}).prompts
    assert str(caught.value) == snapshot


# Cases


def test_the_grid_is_ordered_with_the_cache_innermost() -> None:
    plan = Plan.parse(
        {
            "model": "b,a",
            "device": "cpu",
            "dtype": ["float32", "bfloat16"],
            "batch_size": [2, 1],
            "prompt": ["x", "y"],
            "max_new_tokens": [20, 10],
            "cache": ["dynamic", "off"],
        }
    )
    cases = plan.cases()
    assert len(cases) == 2**6
    order = [
        (c.model, c.dtype, c.batch_size, c.prompt.label, c.max_new_tokens, c.cache) for c in cases
    ]
    assert order[:3] == [
        ("b", "float32", 2, "text:x", 20, "dynamic"),
        ("b", "float32", 2, "text:x", 20, "off"),
        ("b", "float32", 2, "text:x", 10, "dynamic"),
    ]
    assert order[4][3] == "text:y"
    assert order[8][2] == 1
    assert order[16][1] == "bfloat16"
    assert order[32][0] == "a"


def test_what_is_named_twice_is_measured_once() -> None:
    plan = Plan.parse(
        {
            "model": "gpt2,gpt2",
            "device": "cpu,cpu",
            "batch_size": "1,1",
            "max_new_tokens": "5,1-5+4",
            "prompt": ["x", "x"],
            "use_cache": "true,yes",
        }
    )
    assert [case.max_new_tokens for case in plan.cases()] == [5, 1]


@pytest.mark.parametrize(
    ("keys", "weights"),
    [
        ({"model": "gpt2"}, "random"),
        ({"model": "openai-community/gpt2"}, "pretrained"),
        ({"model": "gpt2", "weights": "pretrained"}, "pretrained"),
        ({"model": "openai-community/gpt2", "weights": "random"}, "random"),
    ],
)
def test_a_built_in_architecture_gets_random_weights(keys: dict[str, Any], weights: str) -> None:
    cases = Plan.parse(keys | {"device": "cpu"}).cases()
    assert {case.weights for case in cases} == {weights}


@pytest.mark.parametrize(
    ("wanted", "present", "devices"),
    [
        ("auto", ("cpu",), ["cpu"]),
        ("auto", ("cpu", "cuda", "cuda:1"), ["cpu", "cuda"]),
        ("cuda:1", ("cpu", "cuda", "cuda:1"), ["cuda:1"]),
        ("cuda:0,cuda", ("cpu", "cuda"), ["cuda"]),
        ("cuda,auto", ("cpu", "cuda"), ["cuda", "cpu"]),
        ("cpu", ("cpu", "cuda"), ["cpu"]),
    ],
)
def test_devices_are_resolved_to_those_present(
    wanted: str, present: tuple[str, ...], devices: list[str]
) -> None:
    cases = Plan.parse({"device": wanted, "max_new_tokens": 5, "cache": "off"}).cases(present)
    assert [case.device for case in cases] == devices


@pytest.mark.parametrize("wanted", ["cuda", "cuda:0", "cuda:7", "cpu,cuda"])
def test_a_device_that_is_not_present_is_a_user_error(wanted: str, snapshot: object) -> None:
    with pytest.raises(UserError) as caught:
        Plan.parse({"device": wanted}).cases(("cpu",))
    assert str(caught.value) == snapshot


@pytest.mark.parametrize(("wanted", "needs"), [("cpu", False), ("cpu,cpu", False), ("auto", True)])
def test_a_plan_for_the_cpu_needs_no_look_at_devices(wanted: str, needs: bool) -> None:
    assert Plan.parse({"device": wanted}).needs_devices() is needs


def test_a_grid_over_the_limit_needs_a_word(snapshot: object) -> None:
    plan = Plan.parse({"device": "cpu", "max_new_tokens": f"1-{MANY_CASES // 2 + 1}"})
    with pytest.raises(UserError) as caught:
        plan.cases()
    assert str(caught.value) == snapshot
    assert len(plan.cases(allow_many=True)) == MANY_CASES + 2


def test_a_grid_at_the_limit_is_taken() -> None:
    plan = Plan.parse({"device": "cpu", "max_new_tokens": f"1-{MANY_CASES // 2}"})
    assert len(plan.cases()) == MANY_CASES


def test_a_grid_of_astronomical_size_is_counted_and_not_built() -> None:
    axis = "1-90000"
    keys = {"device": "cpu", "batch_size": axis, "prompt_tokens": axis, "max_new_tokens": axis}
    with pytest.raises(UserError) as caught:
        Plan.parse(keys).cases()
    assert caught.value.kind == "too_many_cases"
    with pytest.raises(UserError) as caught:
        Plan.parse({"device": "cpu", "workload": f"chat:turns={2**31 - 1}"}).cases()
    assert caught.value.fields["count"] == 3 * (2**31 - 1)


@pytest.mark.parametrize(
    ("given", "models"),
    [
        ("a,b", ("a,b",)),
        ("a,b,gpt2", ("a,b", "gpt2")),
        ("gpt2, a,b", ("gpt2", "a,b")),
        ("x,y", ("x", "y")),
        (["a,b", "x,y"], ("a,b", "x", "y")),
        ("./a,b/m,1.gguf,gpt2", ("./a,b/m,1.gguf", "gpt2")),
        ("gpt2," * 40 + "gpt2", ("gpt2",) * 41),
        ("\0,x", ("\0", "x")),
    ],
)
def test_a_comma_in_the_name_of_what_exists_splits_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: Any, models: tuple[str, ...]
) -> None:
    (tmp_path / "a,b").mkdir()
    (tmp_path / "a,b" / "m,1.gguf").touch()
    monkeypatch.chdir(tmp_path)
    if "\0" in given:
        with pytest.raises(UserError) as caught:
            Plan.parse({"model": given})
        assert caught.value.kind == "bad_value"
    else:
        assert Plan.parse({"model": given}).model == models


def test_a_byte_order_mark_is_no_part_of_a_prompt_or_a_plan(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_bytes(b"\xef\xbb\xbfw5 w17\r\nw6\n")
    (tmp_path / "plan.yaml").write_bytes(b"\xef\xbb\xbfprompt_file: p.txt\n")
    (prompt,) = Plan.load(tmp_path / "plan.yaml").prompts
    assert prompt.texts == ("w5 w17", "w6")
