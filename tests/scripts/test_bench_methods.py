"""Tests of scripts/bench_methods.py on rounds whose truth is known."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from scripts.bench_methods import (
    CACHES,
    LENGTHS,
    Part,
    Round,
    bias,
    curve,
    errors,
    keep,
    left_s,
    planted,
    read_kept,
    walls,
)


def made(count: int, *, trace: float = 1.0, sampled: float = 1.0) -> list[Round]:
    """Rounds with noise of 2 %, and a trace and estimates that are so many times too slow."""
    rng = random.Random(5)

    def part(cache: str, factor: float, share: float) -> Part:
        noise = factor * rng.uniform(0.98, 1.02)
        step = 1e-4 if cache == "off" else 0.0
        stamps, now = [], 0.0
        for token in range(1, LENGTHS[-1] + 1):
            now += noise * (0.01 + step * token)
            stamps.append(now)
        totals = {n: stamps[n - 1] for n in LENGTHS}
        ends = ({n: end * total for n, total in totals.items()} for end in (0.9, 1.1))
        return Part(share * sum(totals.values()), totals, stamps, *ends)

    ways = {"script": (1.0, 1.0), "each": (1.0, 1.0), "trace": (trace, 0.6)}
    ways |= {"sampled": (sampled, 0.1)}
    return [
        {(way, cache): part(cache, *known) for cache in CACHES for way, known in ways.items()}
        for _ in range(count)
    ]


def test_good_methods_are_found_good(capsys: pytest.CaptureFixture[str]) -> None:
    rounds = made(10)
    assert walls(rounds) and bias(rounds, (110, 310)) and planted(rounds, LENGTHS)
    assert errors(rounds, LENGTHS) and curve(rounds)
    assert "NOT MET" not in capsys.readouterr().out


def test_bad_ones_are_found_bad(capsys: pytest.CaptureFixture[str]) -> None:
    assert not bias(made(10, trace=1.06), (110, 310))
    assert not bias(made(9), (110, 310))
    assert not errors(made(10, sampled=1.08), LENGTHS)
    # An interval may begin at zero.
    none = dict.fromkeys(LENGTHS, 0.0)
    wide = [{key: replace(part, low=none) for key, part in one.items()} for one in made(10)]
    assert errors(wide, LENGTHS)
    # What is hidden by a trace that is too fast is not found.
    assert not planted(made(10, trace=0.9), LENGTHS)
    slow = made(10)
    for one in slow:
        for cache in CACHES:
            one["trace", cache] = one["script", cache]
    assert not walls(slow)
    assert capsys.readouterr().out.count("NOT MET") > 3


def test_kept_rounds_are_read_again(tmp_path: Path) -> None:
    file, rounds = tmp_path / "kept", made(2)
    assert read_kept(file, "gpt2", LENGTHS) == []
    for one in rounds:
        keep(file, "gpt2", LENGTHS, one)
    assert read_kept(file, "gpt2", LENGTHS) == rounds
    with pytest.raises(SystemExit):
        read_kept(file, "another", LENGTHS)


def test_the_time_left_is_that_of_the_rounds_to_come() -> None:
    rounds = made(3)
    whole = left_s(rounds, (110, 310), 1, 0)
    assert whole == pytest.approx(sum(part.wall_s for part in rounds[0].values()), rel=0.05)
    assert 0 < left_s(rounds, (110, 310), 0, 1) < whole
