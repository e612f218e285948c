"""User-supplied caches: each sample gets a new one, and failures in foreign code are rows."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvbench import api
from kvbench.errors import UserError
from kvbench.measure.engine import LocalEngine
from kvbench.plan.plan import Plan
from kvbench.records.events import ModelLoaded
from kvbench.records.run import load_info
from kvbench.records.sample import Sample
from tests.fakes import run_task
from tests.in_process import InProcess
from tests.tiny import LLAMA, T5, case, config_folder, task

MINE = """
from transformers import DynamicCache

MADE = []

def factory(config, positions, batch_size, gift, share=0.5, loud=False):
    MADE.append((positions, batch_size, gift, share, loud))
    return DynamicCache(config=config)

def broken(config):
    raise RuntimeError("not today")

def number():
    return 7

ONE = DynamicCache()

def same():
    return ONE
"""

BOTH = """
from transformers import DynamicCache, EncoderDecoderCache

def factory(config):
    return EncoderDecoderCache(DynamicCache(config=config), DynamicCache(config=config))
"""


@pytest.fixture
def mine(tmp_path: Path) -> str:
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    return str(file)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return config_folder(tmp_path / "model", LLAMA)


@pytest.fixture
def engine(folder: str) -> Iterator[LocalEngine]:
    engine = LocalEngine()
    assert isinstance(engine.open(case(folder).model_key), ModelLoaded)
    yield engine
    engine.close()


def measured(engine: LocalEngine, folder: str, cache: str) -> Sample:
    (name,) = Plan.parse({"cache": [cache]}).cache
    return run_task(engine, task(case(folder, cache=name)))[0]


def test_a_factory_of_a_file_makes_each_cache(engine: LocalEngine, folder: str, mine: str) -> None:
    cache = f"{mine}:factory:gift=3:share=0.25:loud=true"
    first, second = (measured(engine, folder, cache) for _ in range(2))
    assert first.status == second.status == "ok", first.error
    assert first.cache_class == "DynamicCache"
    assert first.output_sha256 == second.output_sha256
    assert first.output_sha256 == measured(engine, folder, "dynamic").output_sha256
    (module,) = [
        module for name, module in sys.modules.items() if name.startswith("kvbench_cache_")
    ]
    # Loaded once, called for each sample; five tokens and eight new ones, the last never fed.
    assert module.MADE == [(12, 1, 3, 0.25, True)] * 2
    del sys.modules[module.__name__]


def test_a_factory_of_a_module_is_a_strategy(engine: LocalEngine, folder: str) -> None:
    sample = measured(engine, folder, "transformers:DynamicCache")
    assert (sample.status, sample.cache_class) == ("ok", "DynamicCache")


@pytest.mark.parametrize(
    ("what", "status", "said"),
    [
        ("broken", "crashed", "RuntimeError: not today"),
        ("missing", "crashed", "has no attribute 'missing'"),
        ("number", "unsupported", "number returned int, not a Transformers cache."),
        ("factory", "crashed", "missing 1 required positional argument: 'gift'"),
    ],
)
def test_what_fails_in_foreign_code_is_a_row(
    engine: LocalEngine, folder: str, mine: str, what: str, status: str, said: str
) -> None:
    sample = measured(engine, folder, f"{mine}:{what}")
    assert sample.status == status
    assert said in (sample.error or "")
    assert measured(engine, folder, "dynamic").status == "ok"


def test_an_encoder_decoder_needs_a_cache_for_both(tmp_path: Path) -> None:
    engine = LocalEngine()
    folder = config_folder(tmp_path / "t5", T5)
    file = tmp_path / "both.py"
    file.write_text(BOTH)
    assert isinstance(engine.open(case(folder).model_key), ModelLoaded)
    try:
        # T5 would run with it and produce other tokens.
        one = measured(engine, folder, "transformers:DynamicCache")
        both = measured(engine, folder, f"{file}:factory")
        model = measured(engine, folder, "dynamic")
    finally:
        engine.close()
    assert one.status == "unsupported"
    assert "EncoderDecoderCache" in (one.error or "")
    assert both.output_sha256 == model.output_sha256


def test_one_cache_for_all_samples_is_refused(engine: LocalEngine, folder: str, mine: str) -> None:
    assert measured(engine, folder, f"{mine}:same").status == "ok"
    again = measured(engine, folder, f"{mine}:same")
    assert again.status == "unsupported"
    assert "it must create a new one each time" in (again.error or "")


def test_a_file_that_was_edited_does_not_run_under_its_old_name(
    engine: LocalEngine, folder: str, mine: str
) -> None:
    (name,) = Plan.parse({"cache": [f"{mine}:number"]}).cache
    Path(mine).write_text(MINE + "\nraise AssertionError('this was run')\n")
    sample = run_task(engine, task(case(folder, cache=name)))[0]
    assert sample.status == "unsupported"
    assert "mine.py has changed" in (sample.error or "")


def test_a_module_that_does_not_exist_is_a_row(engine: LocalEngine, folder: str) -> None:
    sample = measured(engine, folder, "kvbench_no_such_module:Cache")
    assert sample.status == "crashed"
    assert "No module named 'kvbench_no_such_module'" in (sample.error or "")


def test_a_resume_needs_the_trust_again(
    tmp_path: Path, folder: str, mine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvbench.run.session.build", lambda *_: [])
    keys = {
        "model": folder,
        "weights": "random",
        "device": "cpu",
        "prompt_tokens": 4,
        "max_new_tokens": 3,
        "repeats": 1,
        "verify": False,
        "cache": ["dynamic", f"{mine}:factory:gift=1"],
    }
    run = api.sweep(Plan.parse(keys), out=tmp_path, name="run", engine=InProcess())
    assert [sample.status for sample in run.samples] == ["ok"] * len(run.samples)
    with pytest.raises(UserError) as caught:
        api.resume(run.path, engine=InProcess())
    assert caught.value.kind == "remote_code_not_allowed"
    again = api.resume(run.path, {"trust_remote_code": True}, engine=InProcess())
    assert len(again.samples) == len(run.samples)
    # This was given for the cache: a model's code is trusted no more than before.
    assert load_info(run.path).plan["trust_remote_code"] is False
