"""Tests of kvbench/report/html.py: the page as a parser reads it; test_browser.py has a browser."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import re
from collections import Counter
from html.parser import HTMLParser
from typing import Any

import pytest

import kvbench
from kvbench.plan.case import Case
from kvbench.records.run import Run
from kvbench.records.sample import Sample, sample_of
from kvbench.report.figures import Material, draw_charts
from kvbench.report.html import report_html
from kvbench.report.markdown import summary_markdown
from kvbench.report.recommend import recommendation_sentences
from kvbench.report.words import answers
from tests.fakes import make_case, make_finding, make_task
from tests.prose import added
from tests.report.saved import HOSTILE, grid, machine, run_of, time_of

_VOID = {"meta", "link", "img", "br", "hr", "input", "use", "path"}


class Page(HTMLParser):
    """The contents of a page: elements with their attributes, and the text of each kind."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        self.texts.append((self._open[-1] if self._open else "", data))

    @property
    def lines(self) -> str:
        shown = (data for tag, data in self.texts if tag not in ("script", "style"))
        return "\n".join(line for data in shown if (line := " ".join(data.split())))

    @property
    def text(self) -> str:
        return " ".join(self.lines.split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def source(*runs: Run, charts: tuple[str, ...] = ()) -> str:
    material = Material(runs)
    return report_html(material, list(draw_charts(material, charts)) if charts else [])


def page(*runs: Run, charts: tuple[str, ...] = ()) -> Page:
    return Page(source(*runs, charts=charts))


def told(*runs: Run) -> str:
    """Return what the page of these runs says and that of a plain run does not."""
    return added(page(*runs).lines, page(run_of(grid())).lines)


def heads(of: Page) -> list[str]:
    buttons = [data for tag, data in of.texts if tag == "button"]
    return [data for data in buttons if data not in ("Enlarge", "Close")]


def rows(text: str) -> list[list[tuple[str, str]]]:
    """Return the cells of the table of cases: sort key and text."""
    body = text[text.index("<tbody>") : text.index("</tbody>")]
    return [
        re.findall(r'<t[dh][^>]*data-sort="([^"]*)"[^>]*>([^<]*)</t[dh]>', row)
        for row in re.findall(r"<tr[^>]*>(.*?)</tr>", body, re.DOTALL)
    ]


def two_devices(case: Case) -> float:
    """Return two devices; the GPU's speedups are not a multiple of the CPU's."""
    if case.device == "cpu":
        return time_of(case)
    return 0.05 if case.cache == "dynamic" else 0.05 + case.max_new_tokens**2 / 1e5


@pytest.fixture(scope="module")
def drawn() -> str:
    """Return a page of two devices with charts."""
    samples = grid(two_devices, device=("cpu", "cuda"), batch_size=(1, 2), repeats=5)
    names = ("total_time", "speedup", "memory", "speedup_map", "devices", "phases")
    return source(run_of(samples), charts=names)


# One file


def test_nothing_is_loaded_from_elsewhere(drawn: str) -> None:
    found = Page(drawn)
    for tag, attributes in found.elements:
        for name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
            target = attributes.get(name) or "#"
            # The map is a picture in the page itself.
            assert target.startswith(("#", "data:image/png;base64,")), (tag, attributes)
    assert not found.all("link")
    assert not found.all("img")
    assert not found.all("iframe")
    assert "@import" not in drawn
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", drawn))


def test_there_is_one_script_and_it_is_ours(drawn: str) -> None:
    scripts = Page(drawn).all("script")
    assert scripts == [{}]
    code = drawn[drawn.index("<script>") :]
    for word in ("fetch", "XMLHttpRequest", "import", "eval", "innerHTML", "document.write"):
        assert word not in code


def test_no_element_says_what_is_to_be_done_on_an_event(drawn: str) -> None:
    for _, attributes in Page(drawn).elements:
        assert not [name for name in attributes if name.startswith("on")]


def test_ids_are_unique_and_references_go_to_them(drawn: str) -> None:
    ids = Counter(a["id"] for _, a in Page(drawn).elements if "id" in a)
    assert [name for name, count in ids.items() if count > 1] == []
    wanted = set(re.findall(r'href="#([^"]*)"', drawn)) | set(re.findall(r"url\(#([^)]*)\)", drawn))
    assert wanted
    assert wanted <= set(ids)


def test_two_maps_that_are_alike_have_ids_of_their_own() -> None:
    text = source(run_of(grid(batch_size=(1, 2), device=("cpu", "cuda"))), charts=("speedup_map",))
    ids = Counter(a["id"] for _, a in Page(text).elements if "id" in a)
    assert [name for name, count in ids.items() if count > 1] == []


def test_a_chart_asked_for_twice_has_its_id_once() -> None:
    text = source(run_of(grid()), charts=("phases", "phases"))
    ids = Counter(a["id"] for _, a in Page(text).elements if "id" in a)
    assert [name for name, count in ids.items() if count > 1] == []


def test_charts_are_inline_with_their_question(drawn: str, snapshot: object) -> None:
    figures = Page(drawn).all("svg")
    assert [figure["aria-label"] for figure in figures] == snapshot
    assert "<!--" not in drawn
    assert "<?xml" not in drawn


def test_without_charts_there_is_no_head_for_them() -> None:
    assert "Charts" not in page(run_of(grid())).text


def test_the_same_runs_give_the_same_text(drawn: str) -> None:
    samples = grid(batch_size=(1, 2))
    first, second = (source(run_of(samples), charts=("phases", "speedup")) for _ in range(2))
    assert first == second


def test_the_page_is_made_for_phones_and_the_dark(drawn: str) -> None:
    metas = Page(drawn).all("meta")
    assert {"charset": "utf-8"} in metas
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in metas
    assert "prefers-color-scheme: dark" in drawn


# Its parts


def test_the_answer_comes_first() -> None:
    run = run_of(grid(), "my-run")
    text = page(run).text
    (answer,) = answers(Material((run,)).summaries["my-run"])
    # The title in the head, the title on the page, the answer.
    assert text.split(answer)[0] == "my-run · kvbench my-run "


def test_the_recommendation_follows_the_answer_as_in_the_other_files() -> None:
    run = run_of(grid(cache=("off", "dynamic", "static"), repeats=8))
    found = Material((run,)).recommendations["a-run"]
    (sentence,) = recommendation_sentences(found)
    text = page(run).text
    assert sentence in text.split("Strategies side by side")[0]
    assert sentence.replace("<", "") in summary_markdown(
        run.info, Material((run,)).summaries["a-run"], recommended=found
    ).replace("\\", "")


def test_without_a_pair_the_answer_is_that_there_is_none(snapshot: object) -> None:
    assert told(run_of(grid(cache=("dynamic",)))) == snapshot


def test_the_table_has_a_row_for_each_case() -> None:
    table = rows(source(run_of(grid())))
    assert len(table) == 6
    assert heads(page(run_of(grid()))) == [
        "cache",
        "new tokens",
        "time",
        "speedup",
        "tok/s",
        "first token",
        "between tokens",
        "cache MiB",
        "peak MiB",
        "samples",
    ]
    assert [cell for _, cell in table[1]] == [
        "dynamic",
        "10",
        "100 ms [97.0\N{EN DASH}103]",
        "1.10x (1.10\N{EN DASH}1.10)",
        "100",
        "10.0 ms",
        "10.0 ms",
        "1.05",
        "600",
        "7",
    ]


def test_numbers_are_sorted_by_their_value_and_the_unknown_by_nothing() -> None:
    of = dict(zip(heads(page(run_of(grid()))), range(10), strict=True))
    off, on, *_ = rows(source(run_of(grid())))
    assert float(on[of["time"]][0]) == 0.1
    assert float(on[of["cache MiB"]][0]) == 73_728 * 15
    assert off[of["speedup"]] == ("", "-")
    assert off[of["cache"]] == ("off", "off")


@pytest.mark.parametrize(
    ("field", "head", "values"),
    [
        ("model", "model", ("gpt2", "llama")),
        ("dtype", "dtype", ("float32", "bfloat16")),
        ("weights", "weights", ("random", "pretrained")),
        ("attention", "attention", ("sdpa", "eager")),
        ("prompt", "prompt", ("one", "two")),
    ],
)
def test_what_varies_has_a_column(field: str, head: str, values: tuple[str, str]) -> None:
    assert head not in heads(page(run_of(grid())))
    assert head in heads(page(run_of(grid(**{field: values}))))


def test_several_runs_have_a_column_for_their_names(snapshot: object) -> None:
    runs = [run_of(grid(), "same"), run_of(grid(), "same")]
    assert heads(page(*runs))[:2] == ["cache", "run"]
    assert {row[1][1] for row in rows(source(*runs))} == {"same (1)", "same (2)"}
    assert told(*runs) == snapshot


def failing(status: Any = "oom", error: str | None = "no room", **fields: Any) -> list[Sample]:
    case = make_case(max_new_tokens=999)
    return [sample_of(make_task(case), status=status, stage="decode", error=error, **fields)]


def test_what_failed_is_told_with_its_reason(snapshot: object) -> None:
    assert told(run_of([*grid(), *failing()])) == snapshot


def test_a_run_in_which_all_failed_has_a_page(snapshot: object) -> None:
    assert told(run_of(failing())) == snapshot


def test_flags_are_told_with_their_meaning_and_count(snapshot: object) -> None:
    samples = [
        dataclasses.replace(s, flags="busy_cpu attention_is_eager") if s.repeat == 0 else s
        for s in grid(repeats=4)
    ]
    assert told(run_of(samples)) == snapshot


def test_a_flag_of_a_later_version_is_shown_too(snapshot: object) -> None:
    samples = [dataclasses.replace(s, flags="haunted") for s in grid()]
    assert told(run_of(samples)) == snapshot


def test_the_environment_is_told(snapshot: object) -> None:
    run = run_of(
        grid(),
        command=("kvbench", "sweep", "-n", "10,50,100"),
        notes=("Memory could not be read.",),
        environment=machine("Some Name", driver="550.54", governor="powersave"),
    )
    assert told(run) == snapshot


def test_growth_and_proofs_are_told(snapshot: object) -> None:
    assert page(run_of(grid(), findings=(make_finding(),))).lines == snapshot


@pytest.mark.parametrize(
    "info",
    [
        {"state": "interrupted"},
        {"plan": {"verify": False}},
        {"findings": (make_finding(verdict="fail"),)},
    ],
)
def test_what_makes_the_figures_doubtful_stands_out(info: dict[str, Any], snapshot: object) -> None:
    text = source(run_of(grid(), **info))
    (bad,) = re.findall(r'<p class="bad">([^<]*)</p>', text)
    assert bad == snapshot


def test_fifty_cases_with_all_charts_are_a_small_page() -> None:
    caches = ("off", "dynamic", "static", "offloaded", "static-compiled")
    run = run_of(grid(cache=caches, max_new_tokens=(8, 16, 32, 64, 128), batch_size=(1, 4)))
    drawings = list(draw_charts(Material((run,))))
    assert len(drawings) > 4
    # What was promised is a megabyte; charts whose letters are paths take more than this.
    assert len(report_html(Material((run,)), drawings)) < 300_000


def test_the_values_of_a_line_are_in_its_marks() -> None:
    found = Page(source(run_of(grid()), charts=("total_time",)))
    series = [a for _, a in found.elements if "data-name" in a]
    assert {a["data-name"] for a in series} == {"cache off", "cache on (dynamic)"}
    assert {a["data-x"] for a in series} == {"New tokens per sequence"}
    values = [a["data-v"] for _, a in found.elements if "data-v" in a]
    assert values[:3] == ["10|0.110", "50|0.750", "100|2.00"]


def test_a_chart_in_a_page_leaves_its_file_as_it_was() -> None:
    (drawing,) = draw_charts(Material((run_of(grid()),)), ["phases"])
    report_html(Material((run_of(grid()),)), [drawing])
    assert b"series-" not in drawing.image("svg")


# Names that would be something else


def hostile_run(name: str) -> Run:
    samples = [
        *grid(model=(HOSTILE, "x"), prompt=(HOSTILE, "'y'"), max_new_tokens=(10, 20, 30)),
        *failing(error=f"failed: {HOSTILE}"),
    ]
    return run_of(
        samples,
        name,
        notes=(HOSTILE, "{{ 7 * 7 }} {% raw %}"),
        command=("kvbench", "sweep", "--prompt", HOSTILE),
        environment=machine(HOSTILE, versions={"torch": HOSTILE, HOSTILE: "1"}),
        findings=(make_finding(detail=HOSTILE, model=HOSTILE),),
    )


@pytest.fixture(scope="module")
def hostile() -> str:
    runs = [hostile_run(HOSTILE), hostile_run("'\"<b>&amp;")]
    text = source(*runs)
    # This many lines with such long names do not fit in a chart.
    few = run_of(grid(model=(HOSTILE, "x")), HOSTILE, environment=machine(HOSTILE))
    charts = source(few, charts=("total_time", "speedup", "phases"))
    return text + charts


def test_hostile_names_are_text_and_no_elements(hostile: str) -> None:
    found = Page(hostile)
    # Of two pages one behind the other.
    assert found.all("script") == [{}, {}]
    for tag in ("img", "b", "iframe", "object", "embed", "link", "form"):
        assert not found.all(tag)
    assert not [a for _, a in found.elements if any(name.startswith("on") for name in a)]
    # In the title, the sentences, the table, failures, notes, the environment.
    assert found.text.count("<script>alert(1)</script>") > 20


def test_no_markup_of_a_name_is_left_unescaped(hostile: str) -> None:
    assert "<script>alert" not in hostile
    assert "<img" not in hostile
    assert "{{ 7 * 7 }}" in hostile
    # The quotation marks in it do not end the quotation.
    for key in re.findall(r'data-sort="([^"]*)"', hostile):
        assert "<" not in key
        assert ">" not in key


def test_a_value_with_control_characters_stays_one_line() -> None:
    run = run_of(grid(model=("a\x00b\x1b[31m\nc",)), "d\u202ee")
    text = source(run)
    assert "\x00" not in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert r"a\x00b\x1b[31m\nc" in text


def test_a_note_with_control_characters_stays_one_line() -> None:
    run = run_of(grid(), notes=("a\x1bb",), findings=(make_finding(detail="c\x1bd"),))
    assert "\x1b" not in source(run)


def test_a_report_needs_no_installed_kvbench(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may run from its repository, as on a GPU machine, without an installed package."""

    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert f"kvbench {kvbench.__version__}" in page(run_of(grid())).text
