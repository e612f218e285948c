"""Tests of kvbench/theory/advice.py: what it advises is run where memory is limited, and fits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kvbench.theory.advice import needed_bytes, what_fits
from kvbench.theory.architecture import Architecture
from kvbench.theory.cache import cache_bytes
from kvbench.theory.estimate import Work
from tests.tiny import LLAMA, config_folder

FP8 = "quantized:backend=fp8"

# Much cache and little work: 256 KiB for each position of each sequence.
WIDE = LLAMA | {"num_hidden_layers": 8, "num_attention_heads": 16, "num_key_value_heads": 16}
WIDE |= {"head_dim": 256}
KNOWN = Architecture.from_config(WIDE)
WORK = Work(batch=32, prompt_tokens=8, new_tokens=33)
ROOM = 316 << 20


def test_the_case_that_is_advised_on_does_not_fit() -> None:
    assert cache_bytes(KNOWN, "dynamic", 32, 8, 33, "float32") == 32 * 40 * (256 << 10) > ROOM


def test_the_largest_batch_comes_first_and_then_what_needs_least() -> None:
    found = what_fits(KNOWN, WORK, "dynamic", ROOM, others=("off", "static", "dynamic", FP8))
    assert [(one.cache, one.batch) for one in found] == [("dynamic", found[0].batch), (FP8, 32)]
    assert 1 < found[0].batch < 32
    for one in found:
        assert one.needs_bytes <= 0.9 * ROOM == 0.9 * one.room_bytes
    larger = Work(batch=found[0].batch + 1, prompt_tokens=8, new_tokens=33)
    assert needed_bytes(KNOWN, larger, "dynamic") > 0.9 * ROOM


def test_a_cache_that_grows_needs_twice_its_size_and_a_buffer_does_not() -> None:
    grown, buffer = (needed_bytes(KNOWN, WORK, name) for name in ("dynamic", "static"))
    assert grown - buffer == cache_bytes(KNOWN, "dynamic", 32, 8, 33, "float32")


def test_nothing_is_advised_where_nothing_fits_or_theory_sees_no_reason() -> None:
    assert what_fits(KNOWN, WORK, "dynamic", 1 << 20, others=(FP8,)) == ()
    assert what_fits(KNOWN, WORK, "dynamic", 1 << 40, others=(FP8,)) == ()


def test_one_sequence_has_no_smaller_batch() -> None:
    alone = Work(batch=1, prompt_tokens=8, new_tokens=1000)
    found = what_fits(KNOWN, alone, "dynamic", ROOM, others=(FP8,))
    assert [one.cache for one in found] == [FP8]


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")
def test_what_is_advised_fits_under_the_limit_that_the_case_ran_into(tmp_path: Path) -> None:
    model = config_folder(tmp_path, WIDE)
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, model, str(ROOM)],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["failed"] == "oom"
    advised = what_fits(KNOWN, WORK, "dynamic", ROOM, others=(FP8,))
    assert said["advised"] == [[one.cache, one.batch, "ok"] for one in advised]
    assert len(advised) == 2


_PROGRAM = """
import json, resource, sys
from tests.tiny import case, key, task
from tests.theory.test_advice import FP8, KNOWN, WORK
from kvbench.measure.engine import LocalEngine
from kvbench.methods import Job
from kvbench.plan.case import Prompt
from kvbench.theory.advice import what_fits

model, room = sys.argv[1], int(sys.argv[2])
engine = LocalEngine()
engine.open(key(model))

def status(cache, batch):
    one = case(
        model, cache=cache, batch_size=batch, prompt=Prompt.of_tokens(WORK.prompt_tokens),
        max_new_tokens=WORK.new_tokens,
    )
    return engine.run(Job((task(one),), "each")).status

# Once small, so that what libraries load at first use is there.
for cache in ("dynamic", FP8):
    assert status(cache, 1) == "ok"
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + room, used + room))
failed = status("dynamic", WORK.batch)
advised = what_fits(KNOWN, WORK, "dynamic", room, others=(FP8,))
print(json.dumps({
    "failed": failed,
    "advised": [[one.cache, one.batch, status(one.cache, one.batch)] for one in advised],
}))
"""
