"""The engine in this process: samples, failures as samples, freed memory."""

from __future__ import annotations

import dataclasses
import functools
import gc
import itertools
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from transformers import GPT2LMHeadModel

from kvbench.devices import host, rapl
from kvbench.errors import UserError
from kvbench.measure import engine as engine_module
from kvbench.measure import taken as taken_module
from kvbench.measure.engine import LocalEngine
from kvbench.measure.environment import read_environment
from kvbench.plan.case import AUTO, Case, Prompt
from kvbench.records.events import LoadFailed, ModelLoaded
from kvbench.records.sample import Sample
from kvbench.run.warmup import warmup_tokens
from tests.fakes import run_task
from tests.tiny import (
    ARCHITECTURES,
    BART,
    GPT2,
    LLAMA,
    OPT,
    VOCABULARY,
    case,
    checkpoint,
    config_folder,
    group,
    hub_cache,
    key,
    task,
    word_tokenizer,
)

needs_mark = pytest.mark.skipif(
    not host.high_water_mark_works(), reason="the high-water mark cannot be reset here"
)

ON_CPU = {"rss_before_bytes", "rss_peak_bytes", "memory_method", "load_average"}
OF_THE_WORK = {"attention_used", "new_tokens", "output_sha256", "kv_cache_bytes", "weights_bytes"}
OF_THE_TIME = {"total_s", "ttft_s", "itl_s", "tokens_per_s"}


@pytest.fixture
def gpt2(tmp_path: Path) -> str:
    return config_folder(tmp_path / "gpt2", GPT2)


def measure(engine: LocalEngine, one: Case, **changes: Any) -> Sample:
    """Return the first timed sample of a case whose model is open."""
    return run_task(engine, task(one, **changes))[0]


def opened(engine: LocalEngine, one: Case) -> ModelLoaded:
    loaded = engine.open(one.model_key)
    assert isinstance(loaded, ModelLoaded), loaded
    return loaded


def measured(engine: LocalEngine, one: Case, **changes: Any) -> Sample:
    """Return the first timed sample of a case."""
    opened(engine, one)
    return measure(engine, one, **changes)


def filled(sample: Sample) -> set[str]:
    return {name for name, value in dataclasses.asdict(sample).items() if value is not None}


def refusal(engine: LocalEngine, *cases: Case) -> str:
    with pytest.raises(UserError) as caught:
        engine.check([group(*cases)])
    text = str(caught.value)
    assert "\n" not in text
    return text


def before_each_pass(monkeypatch: pytest.MonkeyPatch, act: Callable[[int], None]) -> None:
    """Call a function before each forward pass of GPT-2, with the pass's number, from 0."""
    original = GPT2LMHeadModel.forward
    numbers = itertools.count()

    @functools.wraps(original)
    def forward(self: Any, *arguments: Any, **keywords: Any) -> Any:
        act(next(numbers))
        return original(self, *arguments, **keywords)

    monkeypatch.setattr(GPT2LMHeadModel, "forward", forward)


def fail_at(monkeypatch: pytest.MonkeyPatch, number: int, error: Exception) -> None:
    """Make one forward pass of GPT-2 raise."""

    def act(now: int) -> None:
        if now == number:
            raise error

    before_each_pass(monkeypatch, act)


# What a sample holds


@needs_mark
def test_a_sample_has_all_that_a_cpu_can_tell(engine: LocalEngine, gpt2: str) -> None:
    one = case(gpt2, batch_size=2, max_new_tokens=12)
    sample = measured(engine, one)
    assert (sample.status, sample.stage, sample.error) == ("ok", None, None)
    assert filled(sample) >= ON_CPU | OF_THE_WORK | OF_THE_TIME
    assert (sample.cache_class, sample.cache_layers) == ("DynamicCache", "DynamicLayer x2")
    assert (sample.prompt_tokens, sample.new_tokens) == (5, 12)
    assert sample.kv_cache_bytes == 2 * 2 * 2 * 64 * (5 + 12 - 1) * 4
    assert sample.memory_method == "vmhwm"


def test_a_sample_has_nothing_that_a_cpu_cannot_tell(engine: LocalEngine, gpt2: str) -> None:
    names = filled(measured(engine, case(gpt2)))
    assert not {name for name in names if name.startswith(("torch_", "nvml_", "gpu_"))}
    assert "compile_s" not in names


def test_a_sample_on_a_cpu_has_its_energy_or_says_why_not(
    engine: LocalEngine, gpt2: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(rapl, "_POWERCAP", tmp_path / "powercap")
    monkeypatch.setattr(rapl, "MIN_SECONDS", 0.0)
    without = measured(engine, case(gpt2))
    assert (without.energy_j, without.energy_method) == (None, "none: no RAPL counter")
    zone = tmp_path / "powercap" / "intel-rapl:0"
    zone.mkdir(parents=True)
    for name, text in (("name", "package-0"), ("max_energy_range_uj", "9" * 12), ("energy_uj", 7)):
        (zone / name).write_text(f"{text}\n")
    with_counter = measured(engine, case(gpt2))
    assert (with_counter.energy_j, with_counter.energy_method) == (0.0, "rapl-package")


def test_a_sample_says_which_task_it_was(engine: LocalEngine, gpt2: str) -> None:
    one = case(gpt2, cache="off", batch_size=3)
    wanted = dataclasses.replace(task(one), round=4, repeat=2)
    engine.open(one.model_key)
    sample = run_task(engine, wanted)[0]
    assert (sample.sample_id, sample.case_id) == (wanted.sample_id, one.id)
    assert (sample.round, sample.repeat, sample.phase) == (4, 2, "measure")
    assert (sample.cache, sample.use_cache, sample.batch_size) == ("off", False, 3)


def test_times_hang_together(engine: LocalEngine, gpt2: str) -> None:
    one = case(gpt2, batch_size=2, max_new_tokens=12)
    engine.open(one.model_key)
    sample, times = run_task(engine, task(one))
    assert sample.total_s is not None
    assert len(times) == 12
    assert sample.ttft_s == times[0]
    assert 0 < times[0] < times[-1] <= sample.total_s
    assert sample.itl_s == pytest.approx((sample.total_s - times[0]) / 11)
    assert sample.tokens_per_s == pytest.approx(2 * 12 / sample.total_s)


def test_one_token_has_no_time_between_tokens(engine: LocalEngine, gpt2: str) -> None:
    sample = measured(engine, case(gpt2, max_new_tokens=1))
    assert sample.status == "ok"
    assert sample.itl_s is None
    assert sample.ttft_s is not None


def test_without_a_cache_there_is_none(engine: LocalEngine, gpt2: str) -> None:
    sample = measured(engine, case(gpt2, cache="off"))
    assert (sample.cache_class, sample.cache_layers, sample.kv_cache_bytes) == (None, None, 0)
    assert not sample.use_cache
    assert "cache_not_as_asked" not in (sample.flags or "")


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_both_arms_have_one_hash(engine: LocalEngine, tmp_path: Path, kind: str) -> None:
    name = checkpoint(tmp_path, ARCHITECTURES[kind])
    arms = [
        case(name, weights="pretrained", cache=cache, batch_size=2, max_new_tokens=30)
        for cache in ("off", "dynamic")
    ]
    off, dynamic = (measured(engine, arm) for arm in arms)
    assert off.status == dynamic.status == "ok"
    assert off.output_sha256 == dynamic.output_sha256
    longer = dataclasses.replace(arms[0], max_new_tokens=31)
    assert measure(engine, longer).output_sha256 != off.output_sha256


def test_a_warm_up_is_short(engine: LocalEngine, gpt2: str) -> None:
    one = case(gpt2, max_new_tokens=50)
    engine.open(one.model_key)
    sample, times = run_task(engine, task(one, "warmup", warmup_tokens(one, "auto")))
    assert (sample.status, sample.phase) == ("ok", "warmup")
    assert (sample.new_tokens, sample.max_new_tokens, len(times)) == (16, 50, 16)
    assert sample.total_s is not None


@needs_mark
def test_the_peak_holds_the_cache(engine: LocalEngine, gpt2: str) -> None:
    one = case(gpt2, batch_size=256, max_new_tokens=60)
    sample = measured(engine, one)
    assert sample.rss_peak_bytes is not None
    assert sample.rss_before_bytes is not None
    assert sample.kv_cache_bytes == 2 * 2 * 256 * 64 * 64 * 4  # 16 MiB
    assert sample.rss_peak_bytes - sample.rss_before_bytes > 0.9 * sample.kv_cache_bytes


# Without a high-water mark


@pytest.fixture
def no_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "high_water_mark_works", lambda: False)


@needs_mark
def test_with_a_high_water_mark_no_memory_pass_is_needed(engine: LocalEngine, gpt2: str) -> None:
    loaded = opened(engine, case(gpt2))
    assert not loaded.needs_memory_pass
    assert loaded.notices == ()


@pytest.mark.usefixtures("no_mark")
def test_a_memory_pass_has_a_peak_and_no_time(engine: LocalEngine, gpt2: str) -> None:
    loaded = opened(engine, case(gpt2))
    assert loaded.needs_memory_pass
    assert len(loaded.notices) == 1
    sample, times = run_task(engine, task(case(gpt2), phase="memory"))
    assert times == ()
    assert (sample.status, sample.phase, sample.memory_method) == ("ok", "memory", "rss-polled")
    assert (sample.rss_peak_bytes or 0) >= (sample.rss_before_bytes or 0) > 0
    assert not filled(sample) & OF_THE_TIME


@pytest.mark.usefixtures("no_mark")
def test_a_timed_run_has_no_peak_there(engine: LocalEngine, gpt2: str) -> None:
    sample = measured(engine, case(gpt2))
    assert sample.total_s is not None
    assert (sample.rss_peak_bytes, sample.memory_method) == (None, None)


@pytest.mark.usefixtures("no_mark")
def test_a_memory_pass_that_failed_does_not_watch_the_next_run(
    engine: LocalEngine, gpt2: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at(monkeypatch, 0, RuntimeError("broken"))
    threads = threading.active_count()
    watched: list[int] = []
    assert measured(engine, case(gpt2), phase="memory").status == "crashed"
    before_each_pass(monkeypatch, lambda _: watched.append(threading.active_count() - threads))
    sample = measure(engine, case(gpt2))
    assert set(watched) == {0}
    assert sample.memory_method is None


# Positions


@pytest.mark.parametrize("config", [GPT2, OPT], ids=["gpt2", "opt"])
def test_a_table_of_positions_can_be_used_to_its_end(
    engine: LocalEngine, tmp_path: Path, config: dict[str, Any]
) -> None:
    name = config_folder(tmp_path, config)
    # The last token is not fed back: 5 + 60 - 1 = 64.
    for cache in ("off", "dynamic"):
        sample = measured(engine, case(name, cache=cache, max_new_tokens=60))
        assert (sample.status, sample.error) == ("ok", None)
        assert "past_positions" not in (sample.flags or "")


@pytest.mark.parametrize("config", [GPT2, OPT], ids=["gpt2", "opt"])
def test_past_a_table_of_positions_is_unsupported(
    engine: LocalEngine, tmp_path: Path, config: dict[str, Any], snapshot: object
) -> None:
    name = config_folder(tmp_path, config)
    sample = measured(engine, case(name, max_new_tokens=61))
    assert sample.status == "unsupported"
    assert sample.error == snapshot
    assert sample.total_s is None


def test_a_warm_up_is_refused_where_its_case_will_be(engine: LocalEngine, gpt2: str) -> None:
    one = case(gpt2, max_new_tokens=61)
    engine.open(one.model_key)
    assert (
        run_task(engine, task(one, "warmup", warmup_tokens(one, "auto")))[0].status == "unsupported"
    )


@pytest.mark.parametrize(
    ("prompt", "new_tokens", "status"),
    [(5, 64, "ok"), (64, 3, "ok"), (5, 65, "unsupported"), (65, 3, "unsupported")],
)
def test_an_encoder_has_a_table_of_its_own(
    engine: LocalEngine, tmp_path: Path, prompt: int, new_tokens: int, status: str
) -> None:
    name = config_folder(tmp_path, BART)
    one = case(name, prompt=Prompt.of_tokens(prompt), max_new_tokens=new_tokens)
    assert measured(engine, one).status == status


LED: dict[str, Any] = {
    "model_type": "led",
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "vocab_size": 97,
    "max_encoder_position_embeddings": 64,
    "max_decoder_position_embeddings": 48,
    "attention_window": 8,
}


@pytest.mark.parametrize(
    ("prompt", "new_tokens", "status"),
    [(64, 48, "ok"), (8, 60, "unsupported"), (65, 3, "unsupported")],
)
def test_each_side_of_led_has_a_table_under_a_name_of_its_own(
    engine: LocalEngine,
    tmp_path: Path,
    prompt: int,
    new_tokens: int,
    status: str,
    snapshot: object,
) -> None:
    name = config_folder(tmp_path, LED)
    one = case(name, prompt=Prompt.of_tokens(prompt), max_new_tokens=new_tokens)
    sample = measured(engine, one)
    assert (sample.status, sample.error) == (status, snapshot)


@pytest.mark.parametrize("cache", ["off", "dynamic"])
def test_past_rotary_positions_runs_on_and_is_flagged(
    engine: LocalEngine, tmp_path: Path, cache: str
) -> None:
    name = config_folder(tmp_path, LLAMA, max_position_embeddings=16)
    inside = measured(engine, case(name, cache=cache, max_new_tokens=12))
    past = measured(engine, case(name, cache=cache, max_new_tokens=13))
    assert inside.status == past.status == "ok"
    assert "past_positions" not in (inside.flags or "").split()
    assert "past_positions" in (past.flags or "").split()


# Failures are samples


@pytest.mark.parametrize("cache", ["off", "dynamic"])
@pytest.mark.parametrize(("number", "stage"), [(0, "prefill"), (1, "decode"), (5, "decode")])
def test_a_crash_has_its_stage(
    engine: LocalEngine,
    gpt2: str,
    monkeypatch: pytest.MonkeyPatch,
    cache: str,
    number: int,
    stage: str,
) -> None:
    fail_at(monkeypatch, number, RuntimeError("broken\nin two lines"))
    one = case(gpt2, cache=cache)
    engine.open(one.model_key)
    sample, times = run_task(engine, task(one))
    assert (sample.status, sample.stage) == ("crashed", stage)
    assert sample.error == "RuntimeError: broken in two lines"
    assert sample.prompt_tokens == 5
    assert not filled(sample) & OF_THE_TIME
    # The stamps until then: a trace reads its shorter lengths off them.
    assert len(times) == number


def test_out_of_memory_is_told_apart(
    engine: LocalEngine, gpt2: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
    fail_at(monkeypatch, 3, error)
    sample = measured(engine, case(gpt2))
    assert (sample.status, sample.stage) == ("oom", "decode")
    assert sample.oom_bytes == 20 << 20


@pytest.mark.parametrize(
    ("error", "status", "healthy"),
    [
        (RuntimeError("CUDA error: device-side assert triggered"), "crashed", False),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "crashed", False),
        (RuntimeError("broken"), "crashed", True),
        (torch.OutOfMemoryError("CUDA out of memory."), "oom", True),
        # The device may also report missing memory, which does not end its context.
        (RuntimeError("CUDA error: out of memory"), "oom", True),
    ],
)
def test_a_device_that_gave_up_is_not_healthy(
    engine: LocalEngine,
    gpt2: str,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    status: str,
    healthy: bool,
) -> None:
    fail_at(monkeypatch, 1, error)
    assert engine.healthy
    assert measured(engine, case(gpt2)).status == status
    assert engine.healthy is healthy


@pytest.mark.parametrize(
    ("broken_at", "stages"),
    [
        (99, ["load", "prefill", "decode"]),
        (4, ["load", "prefill", "decode"]),
        (0, ["load", "prefill"]),
    ],
)
def test_stages_are_told_as_they_are_reached(
    gpt2: str, monkeypatch: pytest.MonkeyPatch, broken_at: int, stages: list[str]
) -> None:
    told: list[str] = []
    engine = LocalEngine(on_stage=told.append)
    engine.open(key(gpt2))
    assert told == []
    fail_at(monkeypatch, broken_at, RuntimeError("broken"))
    run_task(engine, task(case(gpt2)))
    assert told == stages


def test_a_stage_is_told_before_what_it_is_about(
    gpt2: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    seen: list[str] = []
    before_each_pass(monkeypatch, lambda number: seen.append(told[-1]))
    engine = LocalEngine(on_stage=told.append)
    engine.open(key(gpt2))
    run_task(engine, task(case(gpt2), new_tokens=3))
    assert seen == ["prefill", "decode", "decode"]


def test_a_crash_does_not_spoil_the_next_run(
    engine: LocalEngine, gpt2: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = measured(engine, case(gpt2)).output_sha256
    fail_at(monkeypatch, 2, RuntimeError("broken"))
    assert measure(engine, case(gpt2)).status == "crashed"
    sample = measure(engine, case(gpt2))
    assert (sample.status, sample.output_sha256) == ("ok", expected)


def test_what_a_crash_held_is_freed(
    engine: LocalEngine, gpt2: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ghosts: list[weakref.ref[torch.Tensor]] = []

    def hold_and_raise(number: int) -> None:
        held = torch.ones(10)
        ghosts.append(weakref.ref(held))
        # An error that its own frame refers to is a cycle, which only the collector frees.
        error = RuntimeError(f"broken with {held}")
        raise error

    before_each_pass(monkeypatch, hold_and_raise)
    assert measured(engine, case(gpt2)).status == "crashed"
    assert [ghost() for ghost in ghosts] == [None]


def test_an_interrupt_is_no_sample(
    engine: LocalEngine, gpt2: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(number: int) -> None:
        raise KeyboardInterrupt

    before_each_pass(monkeypatch, interrupt)
    engine.open(key(gpt2))
    with pytest.raises(KeyboardInterrupt):
        run_task(engine, task(case(gpt2)))


def test_too_few_tokens_are_a_mismatch_and_no_time(
    engine: LocalEngine, gpt2: str, monkeypatch: pytest.MonkeyPatch, snapshot: object
) -> None:
    real = taken_module.generate

    def one_less(*arguments: Any, **keywords: Any) -> Any:
        *others, tokens = arguments
        return real(*others, tokens - 1, **keywords)

    monkeypatch.setattr(taken_module, "generate", one_less)
    sample = measured(engine, case(gpt2, max_new_tokens=8))
    assert (sample.status, sample.stage) == ("mismatch", "decode")
    assert sample.error == snapshot
    assert sample.new_tokens == 7
    assert not filled(sample) & OF_THE_TIME


def test_missing_stamps_are_a_mismatch(
    engine: LocalEngine, gpt2: str, monkeypatch: pytest.MonkeyPatch, snapshot: object
) -> None:
    real = taken_module.generate

    def unstamped(*arguments: Any, **keywords: Any) -> Any:
        out = real(*arguments, **keywords)
        return dataclasses.replace(out, token_times=out.token_times[:-1])

    monkeypatch.setattr(taken_module, "generate", unstamped)
    sample = measured(engine, case(gpt2, max_new_tokens=8))
    assert sample.status == "mismatch"
    assert sample.error == snapshot


def test_what_cannot_run_has_no_checks_but_a_reason(
    engine: LocalEngine, tmp_path: Path, snapshot: object
) -> None:
    engine.open(key(config_folder(tmp_path / "m", GPT2)))
    assert engine.verify("static-compiled") == ()
    assert engine.unmet("static-compiled") == snapshot
    assert engine.unmet("dynamic") is None


def test_a_text_without_tokens_is_unsupported(engine: LocalEngine, tmp_path: Path) -> None:
    name = config_folder(tmp_path, GPT2)
    word_tokenizer(tmp_path)
    sample = measured(engine, case(name, prompt=Prompt.of_text("")))
    assert (sample.status, sample.stage) == ("unsupported", "load")
    assert "no tokens" in (sample.error or "")


# Flags


def test_another_attention_than_asked_for_is_flagged(
    engine: LocalEngine, gpt2: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = engine_module.load_model

    def eager(*arguments: Any, **keywords: Any) -> Any:
        return dataclasses.replace(real(*arguments, **keywords), attention="eager")

    monkeypatch.setattr(engine_module, "load_model", eager)
    assert (
        "attention_is_eager" in (measured(engine, case(gpt2, attention="sdpa")).flags or "").split()
    )


def test_attention_left_to_transformers_is_recorded_and_no_flag(
    engine: LocalEngine, gpt2: str
) -> None:
    sample = measured(engine, case(gpt2, attention=AUTO))
    assert (sample.attention, sample.attention_used) == ("auto", "sdpa")
    assert "attention_is_" not in (sample.flags or "")


@pytest.mark.parametrize("cache", ["off", "dynamic"])
def test_another_cache_than_asked_for_is_flagged(
    engine: LocalEngine, gpt2: str, monkeypatch: pytest.MonkeyPatch, cache: str
) -> None:
    real = taken_module.generate

    def swapped(*arguments: Any, **keywords: Any) -> Any:
        out = real(*arguments, **keywords)
        return dataclasses.replace(out, cache=object() if out.cache is None else None)

    one = case(gpt2, cache=cache)
    assert "cache_not_as_asked" not in (measured(engine, one).flags or "").split()
    monkeypatch.setattr(taken_module, "generate", swapped)
    assert "cache_not_as_asked" in (measure(engine, one).flags or "").split()


def test_a_cache_that_holds_nothing_is_flagged(engine: LocalEngine, tmp_path: Path) -> None:
    # This architecture ignores use_cache: it receives a cache object and leaves it empty.
    config = {"model_type": "openai-gpt", "n_layer": 1, "n_embd": 64, "n_head": 4}
    name = config_folder(tmp_path, config, vocab_size=VOCABULARY, n_positions=64)
    sample = measured(engine, case(name, attention="eager"))
    assert (sample.status, sample.kv_cache_bytes) == ("ok", 0)
    assert "cache_not_as_asked" in (sample.flags or "").split()


def test_busy_processors_are_flagged(
    engine: LocalEngine, gpt2: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host.CpuShare, "others", lambda self: 0.5)
    sample = measured(engine, case(gpt2))
    assert sample.flags == "busy_cpu"
    assert sample.other_cpu_share == 0.5


# Opening, closing, checking


def test_opening_tells_what_was_loaded(engine: LocalEngine, gpt2: str) -> None:
    loaded = opened(engine, case(gpt2))
    assert loaded.model == key(gpt2)
    assert loaded.parameters == 136_384
    assert loaded.weights_bytes == 4 * loaded.parameters
    assert loaded.seconds > 0


def test_what_a_person_can_mend_fails_to_load_as_unsupported(
    engine: LocalEngine, gpt2: str
) -> None:
    failed = engine.open(key(gpt2, "pretrained"))
    assert isinstance(failed, LoadFailed)
    assert failed.model == key(gpt2, "pretrained")
    assert failed.status == "unsupported"
    assert "no safetensors weights" in failed.error


def test_a_model_too_large_to_make_fails_to_load_as_oom(
    engine: LocalEngine, tmp_path: Path
) -> None:
    failed = engine.open(key(config_folder(tmp_path, GPT2, vocab_size=2**40)))
    assert isinstance(failed, LoadFailed)
    assert failed.status == "oom"
    assert failed.oom_bytes == 2**40 * 64 * 4


def test_a_model_that_breaks_in_its_own_code_fails_to_load_as_crashed(
    engine: LocalEngine, gpt2: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> None:
        raise AttributeError("no such thing")

    monkeypatch.setattr(GPT2LMHeadModel, "__init__", broken)
    # This is no reason to refuse the other models of a plan.
    engine.check([group(case(gpt2))])
    failed = engine.open(key(gpt2))
    assert isinstance(failed, LoadFailed)
    assert (failed.status, failed.error) == ("crashed", "AttributeError: no such thing")
    assert not failed.died


def test_a_device_that_gives_up_while_a_model_loads_is_not_healthy(
    engine: LocalEngine, gpt2: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(GPT2LMHeadModel, "__init__", broken)
    assert isinstance(engine.open(key(gpt2)), LoadFailed)
    assert not engine.healthy


def test_after_a_failed_load_another_model_can_be_opened(engine: LocalEngine, gpt2: str) -> None:
    assert isinstance(engine.open(key(gpt2, "pretrained")), LoadFailed)
    with pytest.raises(RuntimeError, match="no model is open"):
        run_task(engine, task(case(gpt2)))
    assert measured(engine, case(gpt2)).status == "ok"


def test_the_environment_is_that_of_this_process(engine: LocalEngine) -> None:
    environment = engine.environment()
    assert environment == read_environment()
    assert environment.threads == torch.get_num_threads()


def test_the_seed_makes_the_weights(gpt2: str) -> None:
    engines = [LocalEngine(seed=seed) for seed in (0, 0, 1)]
    hashes = [measured(engine, case(gpt2)).output_sha256 for engine in engines]
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.fixture
def ghosts(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return weak references to the loaded models."""
    found: list[Any] = []
    real = engine_module.load_model

    def noted(*arguments: Any, **keywords: Any) -> Any:
        assert [ghost() for ghost in found] == [None] * len(found), "two models at once"
        loaded = real(*arguments, **keywords)
        found.append(weakref.ref(loaded.model))
        return loaded

    monkeypatch.setattr(engine_module, "load_model", noted)
    return found


def test_closing_frees_the_model(engine: LocalEngine, gpt2: str, ghosts: list[Any]) -> None:
    measured(engine, case(gpt2))
    assert ghosts[0]() is not None
    engine.close()
    assert ghosts[0]() is None
    engine.close()


def test_a_model_is_freed_before_the_next_is_loaded(
    engine: LocalEngine, gpt2: str, ghosts: list[Any]
) -> None:
    measured(engine, case(gpt2))
    engine.open(key(gpt2, dtype="bfloat16"))
    assert [ghost() is None for ghost in ghosts] == [True, False]


def test_a_generation_is_not_kept(
    engine: LocalEngine, gpt2: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    caches: list[Any] = []
    real = taken_module.generate

    def noted(*arguments: Any, **keywords: Any) -> Any:
        out = real(*arguments, **keywords)
        caches.append(weakref.ref(out.cache))
        return out

    monkeypatch.setattr(taken_module, "generate", noted)
    measured(engine, case(gpt2))
    gc.collect()
    assert [cache() for cache in caches] == [None]


def test_a_sound_plan_passes_the_check(engine: LocalEngine, gpt2: str) -> None:
    engine.check([group(case(gpt2)), group(case("gpt2")), group(case("smollm2-135m"))])


def test_weights_that_do_not_fit_are_refused(engine: LocalEngine, tmp_path: Path) -> None:
    name = config_folder(tmp_path, GPT2, vocab_size=2**40)
    text = refusal(engine, case(name, dtype="bfloat16"))
    assert "131072.0 GiB" in text and "bfloat16" in text


def test_a_model_that_does_not_generate_is_refused(engine: LocalEngine, tmp_path: Path) -> None:
    assert "encoder" in refusal(engine, case(config_folder(tmp_path, {"model_type": "bert"})))


def test_a_model_that_is_not_there_is_refused(engine: LocalEngine, snapshot: object) -> None:
    one = case("someone/some-model", weights="pretrained")
    assert refusal(engine, one) == snapshot


def test_a_text_that_nothing_can_read_is_refused(engine: LocalEngine) -> None:
    one = case("gpt2", prompt=Prompt.of_text("Something else"))
    assert "no tokenizer" in refusal(engine, case("gpt2"), one)


def test_a_prompt_longer_than_the_positions_is_refused(
    engine: LocalEngine, tmp_path: Path, gpt2: str, snapshot: object
) -> None:
    text = refusal(engine, case(gpt2, prompt=Prompt.of_tokens(65)))
    assert text == snapshot
    rotary = config_folder(tmp_path / "llama", LLAMA, max_position_embeddings=16)
    engine.check([group(case(rotary, prompt=Prompt.of_tokens(65)))])


@pytest.mark.parametrize(
    "wrong", [{"n_head": 5}, {"activation_function": "nonesuch"}, {"n_layer": "two"}]
)
def test_a_config_that_makes_no_model_is_refused(
    engine: LocalEngine, tmp_path: Path, wrong: dict[str, Any]
) -> None:
    text = refusal(engine, case(config_folder(tmp_path, GPT2, **wrong)))
    assert text.startswith("model: ")


def test_what_became_of_quantized_weights_is_a_notice(engine: LocalEngine, tmp_path: Path) -> None:
    config = {"quant_method": "mxfp4", "modules_to_not_convert": []}
    name = config_folder(tmp_path, LLAMA, quantization_config=config)
    loaded = engine.open(key(name))
    assert isinstance(loaded, ModelLoaded)
    assert any("quantized with mxfp4" in notice for notice in loaded.notices)


def test_quantized_weights_may_fit_where_the_same_in_full_would_not(
    engine: LocalEngine, tmp_path: Path
) -> None:
    name = config_folder(
        tmp_path, GPT2, vocab_size=2**40, quantization_config={"quant_method": "gptq", "bits": 4}
    )
    engine.check([group(case(name, weights="pretrained"))])
    assert "GiB" in refusal(engine, case(name))


def test_weights_that_were_not_fetched_are_refused_beforehand(
    engine: LocalEngine, tmp_path: Path
) -> None:
    name = config_folder(tmp_path, GPT2)
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    assert "Git LFS pointer" in refusal(engine, case(name, weights="pretrained"))
    engine.check([group(case(name))])


def test_the_commit_of_a_hub_id_is_in_each_row(
    engine: LocalEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "c" * 40
    checkpoint(tmp_path / "model", GPT2)
    hub_cache(tmp_path / "hub", "someone/tiny", {commit: tmp_path / "model"}, v1=commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    one = case("someone/tiny@v1", weights="pretrained")
    engine.check([group(one)])
    assert measured(engine, one).model_commit == commit
    failed = measure(engine, dataclasses.replace(one, max_new_tokens=100))
    assert (failed.status, failed.model_commit) == ("unsupported", commit)
    local = case(str(tmp_path / "model"), weights="pretrained")
    assert measured(engine, local).model_commit is None
