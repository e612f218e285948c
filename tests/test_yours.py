"""Names of user-supplied caches: which is a file, a module, an entry point; which needs trust."""

from __future__ import annotations

import importlib.metadata
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from kvbench.caches import installed_names, needs_trust, strategy
from kvbench.caches.yours import FACTORY, SOURCE, digest_of
from kvbench.errors import UserError
from kvbench.plan.plan import Plan

POINTS = (
    EntryPoint("coarse", "some.module:Coarse [lossy]", "kvbench.caches"),
    EntryPoint("static", "some.module:Other", "kvbench.caches"),
)


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: POINTS)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "mine.py"
    file.write_text("raise SystemExit('the supervisor must not run this')\n")
    return file


@pytest.mark.parametrize(
    ("given", "name", "settings", "lossy"),
    [
        ("pkg:Cache", "pkg:Cache", {SOURCE: "pkg", FACTORY: "Cache"}, False),
        (
            "pkg.sub:Cache.of:bits=4:axis=0",
            "pkg.sub:Cache.of:axis=0:bits=4",
            {SOURCE: "pkg.sub", FACTORY: "Cache.of", "axis": "0", "bits": "4"},
            False,
        ),
        ("pkg:f:lossy=yes", "pkg:f:lossy=yes", {SOURCE: "pkg", FACTORY: "f"}, True),
    ],
)
def test_a_module_and_its_factory(
    given: str, name: str, settings: dict[str, str], lossy: bool
) -> None:
    entry = strategy(given)
    assert (entry.name, dict(entry.settings), entry.lossy) == (name, settings, lossy)
    assert strategy(name) == entry
    assert needs_trust([given]) == (given,)


@pytest.mark.parametrize("start", ["./", "", "../"])
def test_a_file_is_named_with_a_digest_and_not_run(here: Path, start: str) -> None:
    path = {"./": "./mine.py", "": str(here), "../": f"../{here.parent.name}/mine.py"}[start]
    entry = strategy(f"{path}:factory:bits=4")
    digest = digest_of(here.read_bytes())
    assert entry.name == f"{path}#{digest}:factory:bits=4"
    assert entry.settings[SOURCE] == f"{path}#{digest}"
    here.write_text("changed = 1\n")
    # The name with its digest stays the same; the file is another strategy now.
    assert strategy(entry.name) == entry
    assert strategy(f"{path}:factory:bits=4").name != entry.name
    assert needs_trust([f"{path}:factory", entry.name]) == (f"{path}:factory", entry.name)


@pytest.mark.usefixtures("points")
def test_an_entry_point_is_a_name_and_needs_no_trust() -> None:
    entry = strategy("coarse:bits=2")
    assert (entry.name, entry.lossy) == ("coarse:bits=2", True)
    assert entry.settings == {SOURCE: "some.module", FACTORY: "Coarse", "bits": "2"}
    assert needs_trust(["coarse:bits=2", "coarse", "dynamic", "quantized:backend=fp8"]) == ()
    assert "coarse" in installed_names()
    # No package can replace a strategy of kvbench's own.
    assert strategy("static").body == "kvbench.measure.caches.static:eager"


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("./mine.py", "cache: './mine.py' names a file; write ./file.py:factory"),
        ("./mine.py:", "cache: './mine.py:' names a file; write"),
        ("./mine.txt:factory", "cache: './mine.txt:factory' names a file; write"),
        ("./mine.py:factory:bits", "cache: './mine.py:factory:bits' names a file; write"),
        ("./none.py:factory", "cache: ./none.py is not a file."),
        ("./mine.py:factory:bits=4:bits=5", "cache: './mine.py#"),
        ("pkg:factory:lossy=maybe", "cache: lossy=maybe is not yes or no."),
        ("mine.py:factory:bits", "cache: no strategy 'mine.py'; known:"),
        ("static:factory", "cache: 'static:factory': write parameters once each, as name=value."),
    ],
)
def test_a_wrong_name_is_one_sentence(given: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        strategy(given)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize("cache", ["./mine.py:factory", "pkg:factory"])
def test_a_plan_file_that_names_one_needs_trust_on_the_command_line(here: Path, cache: str) -> None:
    plan = here.parent / "plan.yaml"
    # Its own claim about itself does not count.
    plan.write_text(f"cache: [off, '{cache}']\ntrust_remote_code: true\n")
    with pytest.raises(UserError, match="would run its code: pass --trust-remote-code"):
        Plan.load(plan)
    trusted = Plan.load(plan, {"trust_remote_code": True})
    assert trusted.cache == ("off", strategy(cache).name)
    # Typed, it is the user's own choice; and another choice leaves it out.
    assert Plan.load(None, {"cache": [cache]}).cache == (strategy(cache).name,)
    assert Plan.load(plan, {"cache": ["dynamic"]}).cache == ("dynamic",)
