"""Tests of docs/workflows: the commands of their steps run, on the runs in tests/golden."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from kvbench.records.sample import Sample
from tests.report.saved import grid, save, time_of

WORKFLOWS = Path(__file__).parents[1] / "docs" / "workflows"
# Stands in for an environment with kvbench: a sweep checks its plan and its options as always, and
# then takes the run that lies ready under its name.
KVBENCH = f"""#!/bin/bash
set -e
if [ "$1" = sweep ]; then
  {sys.executable} -m kvbench "$@" --dry-run
  mkdir -p runs
  cp -r "measured/${{@: -1}}" runs
else
  {sys.executable} -m kvbench "$@"
fi
"""


def job(name: str) -> dict[str, Any]:
    document = yaml.safe_load((WORKFLOWS / name).read_text("utf-8"))
    (only,) = document["jobs"].values()
    return {"env": document["env"], "steps": [s for s in only["steps"] if "run" in s]}


def run_steps(name: str, folder: Path, *environments: str) -> dict[str, int]:
    """Run the steps of a workflow as the runner does; stop at the first that fails."""
    for environment in environments:
        program = folder / environment / "bin" / "kvbench"
        program.parent.mkdir(parents=True)
        program.write_text(KVBENCH)
        program.chmod(0o755)
    known = job(name)
    variables = {**os.environ, **known["env"], "GITHUB_STEP_SUMMARY": str(folder / "summary.md")}
    codes: dict[str, int] = {}
    for step in known["steps"]:
        # Installing needs a network; `make release-check` tries it.
        if step["name"] != "Install":
            command = ["bash", "-e", "-c", step["run"]]
            done = subprocess.run(command, cwd=folder, env=variables, check=False)
            codes[step["name"]] = done.returncode
            if done.returncode:
                break
    return codes


def measured(folder: Path, name: str, factor: float = 1.0) -> None:
    samples: list[Sample] = grid(lambda case: factor * time_of(case))
    save(folder / "measured" / name, samples)


@pytest.mark.parametrize(("factor", "code"), [(1.0, 0), (1.2, 1)])
def test_a_pull_request_fails_if_it_is_slower(tmp_path: Path, factor: float, code: int) -> None:
    measured(tmp_path, "base")
    measured(tmp_path, "new", factor)
    (tmp_path / "new" / "ci").mkdir(parents=True)
    shutil.copy(WORKFLOWS / "plan.yaml", tmp_path / "new" / "ci" / "kvbench.yaml")
    codes = run_steps("kvbench.yml", tmp_path, "env-base", "env-new")
    assert codes == {"Measure": 0, "Compare": code}
    verdicts = re.findall(r"\| (slower|same) +\|", (tmp_path / "summary.md").read_text("utf-8"))
    assert set(verdicts) == {"slower" if code else "same"}


def test_the_main_branch_leaves_a_file_for_the_chart(tmp_path: Path) -> None:
    measured(tmp_path, "main")
    (tmp_path / "ci").mkdir()
    shutil.copy(WORKFLOWS / "plan.yaml", tmp_path / "ci" / "kvbench.yaml")
    assert run_steps("kvbench-history.yml", tmp_path, "env") == {"Measure": 0, "Export": 0}
    entries = json.loads((tmp_path / "kvbench.json").read_text("utf-8"))
    assert {"name", "unit", "value"} <= {*entries[0]}


def test_the_page_shows_the_files_as_they_are() -> None:
    page = (WORKFLOWS.parent / "howto" / "ci-gate.md").read_text("utf-8")
    for name in ("plan.yaml", "kvbench.yml"):
        assert f"```yaml\n{(WORKFLOWS / name).read_text('utf-8')}```" in page
