"""The plans in the package: found by name, readable, each with its question."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvbench.errors import UserError
from kvbench.plan.plan import Plan
from kvbench.plan.shipped import about_plan, find_plan, shipped_plans

ROOT = Path(__file__).parents[2]


def test_the_folder_beside_the_package_is_the_one_in_it() -> None:
    assert sorted((ROOT / "configs").glob("*.yaml")) == [
        ROOT / "configs" / path.name for path in shipped_plans().values()
    ]
    assert (ROOT / "configs").resolve() == next(iter(shipped_plans().values())).parent.resolve()


@pytest.mark.parametrize("name", shipped_plans())
def test_each_is_a_plan_that_opens_with_its_question(name: str) -> None:
    assert Plan.load(name).cases(("cpu", "cuda"))
    about = about_plan(shipped_plans()[name])
    assert 20 < len(about) < 100
    assert about.endswith((".", "?"))


def test_a_file_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_plan(Path("gpu")) == shipped_plans()["gpu"]
    (tmp_path / "gpu").write_text("max_new_tokens: 7\n", encoding="utf-8")
    assert find_plan(Path("gpu")) == Path("gpu")
    assert Plan.load("gpu").max_new_tokens == (7,)


def test_a_folder_of_that_name_is_no_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gpu").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_plan(Path("gpu")) == shipped_plans()["gpu"]


@pytest.mark.parametrize("given", ["gpu.yaml", "plans/gpu"])
def test_a_path_is_a_path(given: str) -> None:
    assert find_plan(Path(given)) == Path(given)


def test_a_name_that_is_nearly_right_is_corrected() -> None:
    with pytest.raises(UserError, match="did you mean 'smollm2'"):
        find_plan(Path("smolm2"))
