"""The uncached reference is made once per model, however many strategies are compared."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch

from kvbench.measure.verify import reference, verify
from kvbench.measure.verify.reference import forward_over, uncached
from kvbench.measure.verify.runs import Run, Work, make_work
from kvbench.records.check import failed
from tests.tiny import LLAMA, config_folder, load


@pytest.mark.parametrize(("dtype", "times"), [("float32", 1), ("bfloat16", 2)])
def test_the_second_strategy_finds_it_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, times: int
) -> None:
    loaded = load(config_folder(tmp_path, LLAMA), dtype=dtype)
    made: list[tuple[int, torch.dtype]] = []
    greedy = reference.greedy

    def counting(work: Work, *more: object) -> Run:
        made.append((work.batch_size, loaded.model.dtype))
        return greedy(work, *more)

    monkeypatch.setattr(reference, "greedy", counting)
    for name in ("dynamic", "static"):
        assert not failed(verify(loaded, name, new_tokens=8, generations=1))
        assert len(made) == len(set(made)) == 2 * times


def test_it_goes_with_the_model(tmp_path: Path) -> None:
    loaded = load(config_folder(tmp_path, LLAMA))
    uncached(make_work(loaded, 1, 4, 0))
    before = len(reference._KNOWN)
    del loaded
    gc.collect()
    assert len(reference._KNOWN) == before - 1


def test_other_prompts_and_lengths_are_others(tmp_path: Path) -> None:
    loaded = load(config_folder(tmp_path, LLAMA))
    works = [
        make_work(loaded, batch, tokens, seed)
        for batch, tokens, seed in [(1, 4, 0), (1, 5, 0), (2, 4, 0), (1, 4, 1)]
    ]
    runs = [uncached(work) for work in works]
    assert len({id(run) for run in runs}) == 4
    for work, run in zip(works, runs, strict=True):
        assert isinstance(run, Run)
        assert uncached(work) is run
        assert forward_over(work, run) is forward_over(work, run)


def test_what_could_not_be_made_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = make_work(load(config_folder(tmp_path, LLAMA)), 1, 4, 0)
    greedy = reference.greedy

    def scarce(*_: object) -> Run:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(reference, "greedy", scarce)
    assert not isinstance(uncached(work), Run)
    monkeypatch.setattr(reference, "greedy", greedy)
    assert isinstance(uncached(work), Run)
