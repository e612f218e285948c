"""Run by test_axes.py with a kvbench that has more axes: writes down what it does with them."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
from pathlib import Path

import kvbench
from kvbench import api
from kvbench.analysis.summary import line_key, pair_key, summarize_cases
from kvbench.cli import main
from kvbench.plan.plan import Plan
from kvbench.records.run import load_run
from kvbench.run.resume import cases_of, described
from tests.fakes import FakeEngine, make_case
from tests.report.saved import samples_of, save, time_of

_DRY = ("sweep", "--dry-run", "-d", "cpu", "-n", "5", "--flavor", "plain,spicy", "--cups", "0-1")
GOLDEN = Path(__file__).parents[1] / "golden" / "gpt2-cpu"


def printed(*arguments: str) -> str:
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        main([*arguments])
    return text.getvalue()


def saved(out: Path, name: str, **keys: object) -> Path:
    """Save a run of these cases as a sweep does, without the report."""
    plan = Plan.parse({"device": "cpu", "max_new_tokens": "10,20", "repeats": 6} | keys)
    cases = plan.cases()
    samples = [sample for case in cases for sample in samples_of(case, time_of(case), 6)]
    return save(out / name, samples, plan=plan.model_dump(mode="json"), cases=described(cases))


def resumed(out: Path) -> dict[str, object]:
    """Resume a run that predates the axes."""
    path = shutil.copytree(GOLDEN, out / "old")
    table = path / "samples.csv"
    rows = table.read_text(encoding="utf-8").splitlines(keepends=True)
    table.write_text("".join(rows[:-3]), encoding="utf-8")
    before = load_run(path)
    run = api.resume(path, engine=FakeEngine(machine=before.info.environment))
    return {
        "state": run.info.state,
        "new": len(run.samples) - len(before.samples),
        "ids": [case.id for case in cases_of(run.info)],
        "recorded": [case["case_id"] for case in before.info.cases],
        "values": sorted({(s.flavor, s.cups, s.place) for s in run.samples}),  # type: ignore[attr-defined]
        "header": table.read_text(encoding="utf-8").splitlines()[0],
        "header_before": rows[0].rstrip("\n"),
    }


def facts(out: Path) -> dict[str, object]:
    varied = saved(out, "varied", flavor="plain,spicy", cups="0,2", max_new_tokens="10,20,30")
    legacy = saved(out, "legacy", flavor="plain", cups="0")
    other = saved(out, "other", flavor="spicy", cups="0")
    run = load_run(varied)
    cases = summarize_cases(run.samples)
    base = make_case()
    changed = [make_case(flavor="spicy"), make_case(cups=3), make_case(place="there")]
    return {
        "package": kvbench.__file__,
        "header": (varied / "samples.csv").read_text(encoding="utf-8").splitlines()[0],
        "key": base.key,
        "keys": [case.key for case in changed],
        "pair_keys": [case.pair_key == base.pair_key for case in changed],
        "model_keys": [case.model_key == base.model_key for case in changed],
        "needs": [case.needs_at_least(base) for case in changed],
        "labels": [case.label for case in changed],
        "plan": Plan.parse({}).model_dump(mode="json"),
        "cases": len(run.info.cases),
        "groups": len({case.pair_key for case in cases_of(run.info)}),
        "pairs": len({pair_key(case) for case in cases}),
        "lines": len({line_key(case) for case in cases}),
        "round_trip": [case.id for case in cases_of(run.info)]
        == [case["case_id"] for case in run.info.cases],
        "reordered": [[c.flavor, c.cups] for c in cases[::6]],  # type: ignore[attr-defined]
        "help": {name: printed(name, "--help") for name in ("sweep", "verify", "compare")},
        "dry": printed(
            "sweep",
            "--dry-run",
            "--device",
            "cpu",
            "--flavor",
            "plain,spicy",
            "--cups",
            "0-1",
            "-n",
            "5",
        ),
        "wrong": _refusal(flavor="sour"),
        "show": printed("show", str(varied)),
        "report": reported(varied),
        "summary": (varied / "summary.csv").read_text("utf-8").splitlines()[0],
        "by": printed("compare", str(varied), "--by", "flavor", "--format", "json"),
        "by_cups": printed("compare", str(varied), "--by", "cups"),
        "old_and_legacy": printed("compare", str(GOLDEN), str(legacy), "--format", "json"),
        "legacy_and_other": printed("compare", str(legacy), str(other), "--format", "json"),
        "resumed": resumed(out),
    }


def reported(run: Path) -> str:
    printed("report", str(run), "--format", "html", "--chart", "total_time")
    return (run / "report.html").read_text(encoding="utf-8")


def _refusal(**keys: object) -> str:
    try:
        Plan.parse(keys)
    except kvbench.UserError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    (folder / "facts.json").write_text(json.dumps(facts(folder)), encoding="utf-8")
