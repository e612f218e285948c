"""Tests of kvbench/measure/workloads/chat.py: what a turn puts through the model, and its reply."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kvbench.measure.engine import LocalEngine
from kvbench.methods import JobResult, jobs_of, rows_of
from kvbench.plan.case import Case
from kvbench.plan.plan import Plan
from kvbench.records.sample import Sample
from tests.tiny import GPT2, LLAMA, MISTRAL, T5, checkpoint, task

USER, REPLY, TURNS = 6, 4, 3
CHAT = f"chat:turns={TURNS}:user={USER}:reply={REPLY}"
EXACT = ("dynamic", "static", "concat", "prealloc", "per-head", "blocks", "disk")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    return checkpoint(tmp_path_factory.mktemp("llama"), LLAMA)


def turns_of(model: str, cache: str, reuse: str, workload: str = CHAT) -> tuple[Case, ...]:
    """Return the cases of the turns of one conversation."""
    keys = {"model": model, "device": "cpu", "cache": cache, "reuse": reuse, "workload": workload}
    return Plan.parse(keys).cases()


def played(
    engine: LocalEngine, model: str, cache: str, reuse: str, workload: str = CHAT
) -> tuple[Sample, ...]:
    """Play a conversation, and return the row of each turn."""
    cases = turns_of(model, cache, reuse, workload)
    if engine._open is None:
        engine.open(cases[0].model_key)
    (job,) = jobs_of([task(case) for case in cases])
    return tuple(sample for sample, _ in rows_of(job, engine.run(job)))


class Fed:
    """Record how many tokens each forward of the open model is fed."""

    def __init__(self, engine: LocalEngine) -> None:
        self.counts: list[int] = []
        assert engine._open is not None
        model: Any = engine._open.loaded.model
        self._handle = model.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, _module: Any, _args: Any, options: dict[str, Any]) -> None:
        self.counts.append(options["input_ids"].shape[1])

    def turns(self) -> list[list[int]]:
        """Return the tokens of each step, by turn."""
        self._handle.remove()
        return [self.counts[n : n + REPLY] for n in range(0, len(self.counts), REPLY)]


@pytest.fixture
def engine() -> Iterator[LocalEngine]:
    found = LocalEngine()
    yield found
    found.close()


def test_a_turn_feeds_the_whole_history_unless_its_cache_is_kept(
    engine: LocalEngine, llama: str
) -> None:
    engine.open(turns_of(llama, "off", "none")[0].model_key)
    fed = {}
    for cache, reuse in (("off", "none"), ("dynamic", "turn"), ("dynamic", "conversation")):
        watch = Fed(engine)
        rows = played(engine, llama, cache, reuse)
        fed[reuse] = watch.turns()
        assert [row.prompt_tokens for row in rows] == [6, 16, 26]
        kept = [0, 9, 19] if reuse == "conversation" else [0, 0, 0]
        assert [row.cached_positions for row in rows] == kept
        assert {row.generation_id for row in rows} == {rows[-1].sample_id}
    assert fed["none"] == [[6, 7, 8, 9], [16, 17, 18, 19], [26, 27, 28, 29]]
    assert fed["turn"] == [[6, 1, 1, 1], [16, 1, 1, 1], [26, 1, 1, 1]]
    # The new message, and the last token of the reply, which was never fed.
    assert fed["conversation"] == [[6, 1, 1, 1], [7, 1, 1, 1], [7, 1, 1, 1]]


@pytest.mark.parametrize("config", [LLAMA, MISTRAL, GPT2], ids=["llama", "mistral", "gpt2"])
def test_replies_do_not_depend_on_what_is_reused(
    engine: LocalEngine, tmp_path: Path, config: dict[str, Any]
) -> None:
    model = checkpoint(tmp_path, config)
    expected = [row.output_sha256 for row in played(engine, model, "off", "none")]
    assert len(set(expected)) == TURNS
    ran = set()
    for cache in EXACT:
        for reuse in ("turn", "conversation"):
            rows = played(engine, model, cache, reuse)
            if {row.status for row in rows} == {"unsupported"}:
                continue
            assert [row.output_sha256 for row in rows] == expected, (cache, reuse)
            ran.add(cache)
    assert {"dynamic", "static"} <= ran


def test_a_buffer_holds_the_whole_conversation(engine: LocalEngine, llama: str) -> None:
    kept = played(engine, llama, "static", "conversation")
    alone = played(engine, llama, "static", "turn")
    # From the start the size of the last turn, whose last token is never fed.
    assert {row.cache_allocated_bytes for row in kept} == {alone[-1].cache_allocated_bytes}
    assert alone[0].cache_allocated_bytes != alone[-1].cache_allocated_bytes


def test_the_turns_before_a_failure_have_results(engine: LocalEngine, tmp_path: Path) -> None:
    model = checkpoint(tmp_path, GPT2)
    rows = played(engine, model, "dynamic", "conversation", "chat:turns=4:user=20:reply=10")
    assert [row.status for row in rows] == ["ok", "ok", "unsupported", "unsupported"]
    assert [row.prompt_tokens for row in rows] == [20, 50, 80, 110]
    assert rows[1].ttft_s is not None and rows[3].error == rows[2].error


def test_of_a_lost_conversation_only_the_last_turn_has_a_row(llama: str) -> None:
    (job,) = jobs_of([task(case) for case in turns_of(llama, "dynamic", "turn")])
    lost = JobResult("crashed", "2026-01-01T00:00:00.000+00:00", {"stage": "decode", "error": "x"})
    ((row, _),) = rows_of(job, lost)
    assert (row.turn, row.status) == (TURNS, "crashed")


@pytest.mark.parametrize(
    ("config", "cache", "reuse", "kinds"),
    [
        (LLAMA, "paged", "conversation", {"unsupported"}),
        (LLAMA, "quantized:backend=fp8", "conversation", {"ok"}),
        (T5, "dynamic", "turn", {"unsupported"}),
    ],
    ids=["paged", "quantized", "encoder"],
)
def test_what_cannot_be_kept_says_so(
    engine: LocalEngine,
    tmp_path: Path,
    config: dict[str, Any],
    cache: str,
    reuse: str,
    kinds: set[str],
) -> None:
    rows = played(engine, checkpoint(tmp_path, config), cache, reuse)
    assert {row.status for row in rows} == kinds


def test_different_replies_are_looked_at_along_the_kept_cache(
    engine: LocalEngine, llama: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = turns_of(llama, "dynamic", "conversation")[1]
    engine.open(case.model_key)
    (check,) = engine.verify_output(case)
    # Nothing differs when it is looked at again.
    assert (check.verdict, check.prompt_tokens, check.agreement) == ("inconclusive", 16, 1.0)
    _forget_the_first_position(monkeypatch)
    (check,) = engine.verify_output(case)
    assert check.verdict == "fail"


def _forget_the_first_position(monkeypatch: pytest.MonkeyPatch) -> None:
    from kvbench.measure.kept import Kept

    take = Kept.take

    def faulty(self: Kept, cache: Any) -> None:
        for layer in cache.layers:
            layer.keys[:, :, :1] = 0
        take(self, cache)

    monkeypatch.setattr(Kept, "take", faulty)
