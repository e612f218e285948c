"""Tests of kvbench/records/rates.py."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
from pathlib import Path

import platformdirs
import pytest
from pydantic import TypeAdapter

from kvbench.errors import UserError
from kvbench.records.environment import Environment
from kvbench.records.rates import (
    STATE_VARIABLE,
    Product,
    Rates,
    find_rates,
    keep_rates,
    read_rates,
    store_path,
)
from kvbench.records.run import load_info
from tests.fakes import make_environment, make_rates, write_run


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return the file of an empty store, in a folder that does not exist yet."""
    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path / "state"))
    return tmp_path / "state" / "rates.json"


def test_the_store_is_in_the_folder_that_was_named(store: Path) -> None:
    assert store_path() == store


@pytest.mark.parametrize("named", [None, ""])
def test_the_store_is_in_the_users_state_folder(
    monkeypatch: pytest.MonkeyPatch, named: str | None
) -> None:
    monkeypatch.delenv(STATE_VARIABLE)
    if named is not None:
        monkeypatch.setenv(STATE_VARIABLE, named)
    assert store_path() == platformdirs.user_state_path("kvbench") / "rates.json"


def test_the_tests_have_a_store_of_their_own() -> None:
    assert not store_path().is_relative_to(platformdirs.user_state_path("kvbench"))


def test_nothing_is_stored_at_first(store: Path) -> None:
    assert read_rates() == ()
    assert not store.parent.exists()


def test_rates_are_read_as_they_were_stored(store: Path) -> None:
    rates = make_rates(notes=("One.",), flags=("busy_cpu",), load_average=0.5)
    assert keep_rates(rates) == store
    assert read_rates() == (rates,)


def test_rates_of_before_products_were_probed_are_read(store: Path) -> None:
    products = (Product(dtype="float32", rows=16, width=512, seconds=1e-4),)
    rates = make_rates(products=products)
    keep_rates(rates)
    assert read_rates() == (rates,)
    older = json.loads(store.read_text())
    del older["rates"][0]["products"]
    store.write_text(json.dumps(older))
    assert read_rates() == (make_rates(),)


def test_a_newer_probe_takes_the_place_of_the_older(store: Path) -> None:
    keep_rates(make_rates())
    keep_rates(make_rates(read_bytes_per_s=1e9))
    assert [rates.read_bytes_per_s for rates in read_rates()] == [1e9]


@pytest.mark.parametrize(
    "other",
    [
        make_rates(threads=1),
        make_rates(hardware="Other CPU"),
        make_rates(device="cuda", uuid="a-b"),
    ],
    ids=["threads", "processor", "gpu"],
)
def test_probes_of_different_things_stand_beside_each_other(store: Path, other: Rates) -> None:
    keep_rates(make_rates())
    keep_rates(other)
    assert read_rates() == (make_rates(), other)


def test_a_gpu_is_the_same_under_another_name(store: Path) -> None:
    first, second = (
        make_rates(device=name, hardware="G", uuid="a", threads=None) for name in ("cuda", "cuda:1")
    )
    keep_rates(first)
    keep_rates(second)
    assert read_rates() == (second,)
    keep_rates(dataclasses.replace(first, uuid="b"))
    assert len(read_rates()) == 2


def test_probes_at_once_lose_none(store: Path) -> None:
    jobs = [
        threading.Thread(target=keep_rates, args=(make_rates(threads=count),))
        for count in range(1, 9)
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert {rates.threads for rates in read_rates()} == set(range(1, 9))


def stored(**fields: object) -> str:
    return json.dumps({"format": 1, "rates": [dataclasses.asdict(make_rates()) | fields]})


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "Expecting value"),
        ('{"format": 1, "rates": [', "Expecting value"),
        ("[]", "format None"),
        ('{"format": 2, "rates": []}', "format 2"),
        ('{"format": 1}', "rates: "),
        ('{"format": 1, "rates": [{}]}', r"rates\.0\.device: "),
        (stored(read_bytes_per_s=0), r"rates\.0\.read_bytes_per_s: "),
        (stored(read_bytes_per_s=float("nan")), r"rates\.0\.read_bytes_per_s: "),
        (stored(copy_bytes_per_s=float("inf")), r"rates\.0\.copy_bytes_per_s: "),
        (stored(overhead_s=-1), r"rates\.0\.overhead_s: "),
        (stored(flops_per_s={"float32": 0}), r"rates\.0\.flops_per_s\.float32: "),
        (stored(source="guess"), r"rates\.0\.source: "),
        (stored(spread={"read": [1]}), r"rates\.0\.spread\.read"),
        ("[" * 100_000, ""),
        ("\udcff", ""),
    ],
)
def test_a_damaged_store_is_one_sentence(store: Path, content: str, problem: str) -> None:
    store.parent.mkdir()
    store.write_text(content, encoding="utf-8", errors="surrogateescape")
    sentence = rf"rates\.json .*\(.*{problem}.*\)"
    with pytest.raises(UserError, match=sentence):
        read_rates()
    with pytest.raises(UserError) as caught:
        keep_rates(make_rates())
    assert caught.value.kind == "damaged"
    assert store.read_text(encoding="utf-8", errors="surrogateescape") == content


def test_keys_of_a_newer_kvbench_are_ignored(store: Path) -> None:
    store.parent.mkdir()
    store.write_text(stored(colour="red"))
    assert read_rates() == (make_rates(),)


def test_a_store_that_cannot_be_read_is_one_sentence(store: Path, snapshot: object) -> None:
    store.mkdir(parents=True)
    with pytest.raises(UserError) as caught:
        read_rates()
    assert str(caught.value) == snapshot


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_store_that_cannot_be_written_names_the_file(store: Path) -> None:
    store.parent.mkdir(mode=0o500)
    with pytest.raises(OSError, match=r"rates\.json"):
        keep_rates(make_rates())


def test_a_device_is_found_under_its_name_of_now() -> None:
    gpu = make_rates(device="cuda:1", hardware="G", uuid="a", threads=None)
    known = (make_rates(), gpu)
    found = find_rates(known, device="cuda", hardware="G", uuid="a", threads=2)
    assert found == dataclasses.replace(gpu, device="cuda")
    assert find_rates(known, device="cuda", hardware="G", uuid="b") is None
    assert find_rates(known, device="cuda", hardware="H", uuid="a") is None


def test_a_processor_is_found_with_its_threads() -> None:
    known = (make_rates(), make_rates(threads=1, read_bytes_per_s=1e9))
    found = find_rates(known, device="cpu", hardware="Some CPU", threads=1)
    assert found is not None and found.read_bytes_per_s == 1e9
    assert find_rates(known, device="cpu", hardware="Some CPU", threads=4) is None


def test_a_run_has_the_rates_that_were_known(tmp_path: Path) -> None:
    products = (Product(dtype="float32", rows=16, width=512, seconds=1e-4),)
    machine = make_environment(rates=(make_rates(products=products),))
    path = write_run(tmp_path / "run", [], environment=machine)
    assert load_info(path).environment == machine


def test_an_environment_of_before_there_were_rates_is_read() -> None:
    keys = dataclasses.asdict(make_environment())
    del keys["rates"]
    read = TypeAdapter(Environment).validate_python(json.loads(json.dumps(keys)))
    assert read == make_environment()
