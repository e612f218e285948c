"""report.html in a real browser: headless Chromium, driven through Selenium, without a network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kvbench.records.sample import sample_of
from kvbench.report.figures import Material, draw_charts
from kvbench.report.html import report_html
from tests.fakes import make_case, make_finding, make_task
from tests.report.browser import DESK, PAPER, PHONE, ask, contrast, look, luminance, problems
from tests.report.saved import HOSTILE, grid, machine, run_of, time_of

if TYPE_CHECKING:
    from selenium.webdriver import Chrome


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a page with everything that a report can have, under hostile names."""

    def time(case: Any) -> float:
        # Text order would differ: 0.09, 1.0, 12.0 and more.
        return time_of(case) * (0.9 if case.model == "gpt2" else 12)

    failed = sample_of(
        make_task(make_case(model=HOSTILE, max_new_tokens=900)),
        status="oom",
        stage="decode",
        error=f"no room: {HOSTILE}",
    )
    run = run_of(
        [*grid(time, model=("gpt2", HOSTILE), prompt=(HOSTILE, "x")), failed],
        HOSTILE,
        notes=(HOSTILE, "a-word-without-a-break-" * 20),
        command=("kvbench", "sweep", "--prompt", HOSTILE, "/a/very/long/path" * 20),
        environment=machine(HOSTILE),
        findings=(make_finding(detail=HOSTILE),),
        state="interrupted",
    )
    material = Material((run,))
    charts = [*draw_charts(material, ["speedup", "phases"])]
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(report_html(material, charts), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def shown(browser: Chrome, page: str) -> Chrome:
    """Open the page again, on a desktop in light mode."""
    look(browser, DESK, "light")
    browser.get_log("browser")
    browser.get(page)
    return browser


def column(browser: Chrome, head: str) -> list[str]:
    """Return the cells of a column as shown, from top to bottom."""
    at = heads(browser).index(head)
    script = "[...document.querySelectorAll('#cases tbody tr')].map(r => r.cells[arguments[0]]"
    return [str(text) for text in ask(browser, f"{script}.textContent)", at)]


def heads(browser: Chrome) -> list[str]:
    script = "[...document.querySelectorAll('#cases thead th')].map(h => h.textContent)"
    return list(ask(browser, script))


def click(browser: Chrome, head: str) -> None:
    from selenium.webdriver.common.by import By

    browser.find_elements(By.CSS_SELECTOR, "#cases th button")[heads(browser).index(head)].click()


def test_the_page_opens_without_an_error_and_without_a_network(shown: Chrome) -> None:
    assert problems(shown) == []
    assert ask(shown, "document.readyState") == "complete"
    # Nothing was fetched, or even tried.
    assert ask(shown, "performance.getEntriesByType('resource').length") == 0
    assert len(heads(shown)) > 10


def test_an_error_would_be_seen(shown: Chrome) -> None:
    """The test above relies on this."""
    ask(shown, "void setTimeout(() => { throw new Error('seen') })")
    ask(shown, "new Promise(done => setTimeout(done, 50))")
    assert any("seen" in entry["message"] for entry in problems(shown))


def test_charts_have_a_size(shown: Chrome) -> None:
    sizes = ask(
        shown,
        "[...document.querySelectorAll('figure svg')].map(s => s.getBoundingClientRect())"
        ".map(b => [b.width, b.height])",
    )
    assert len(sizes) == 2
    assert all(width > 300 and height > 150 for width, height in sizes)
    drawn = "document.querySelector('#speedup svg path').getBBox().width"
    assert ask(shown, drawn) > 0


def test_what_the_charts_refer_to_is_there(shown: Chrome) -> None:
    uses = ask(
        shown,
        "[...document.querySelectorAll('svg use')].map(u => "
        "document.querySelector(u.getAttribute('href')) !== null)",
    )
    assert uses
    assert all(uses)
    ids = ask(shown, "[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))


def test_a_click_sorts_numbers_as_numbers_both_ways(shown: Chrome) -> None:
    before = column(shown, "time")
    click(shown, "time")
    times = column(shown, "time")
    assert sorted(times) == sorted(before)
    seconds = [seconds_of(text) for text in times]
    assert seconds[-1] is None
    known = [value for value in seconds if value is not None]
    assert known == sorted(known)
    assert known != sorted(known, key=str)
    click(shown, "time")
    back = [seconds_of(text) for text in column(shown, "time")]
    # Unknown values come last in either direction.
    assert back == [*reversed(known), None]


def seconds_of(text: str) -> float | None:
    """Return `900 ms ±3%` in seconds; None for a case without a time."""
    if text in ("oom", "-"):
        return None
    number, unit = text.split()[:2]
    return float(number) / (1000 if unit == "ms" else 1)


def test_a_click_sorts_words_and_leaves_the_unknown_last(shown: Chrome) -> None:
    click(shown, "cache")
    words = column(shown, "cache")
    assert words == sorted(words)
    assert set(words) == {"off", "dynamic"}
    click(shown, "cache")
    assert column(shown, "cache") == words[::-1]
    for _ in range(2):
        click(shown, "speedup")
        unknown = [text == "-" for text in column(shown, "speedup")]
        assert unknown == sorted(unknown)
        assert 0 < sum(unknown) < len(unknown)


def test_the_column_that_sorts_is_marked_and_no_other(shown: Chrome) -> None:
    marks = (
        "[...document.querySelectorAll('#cases thead th')].map(h => h.getAttribute('aria-sort'))"
    )
    assert set(ask(shown, marks)) == {None}
    at = heads(shown).index("new tokens")
    for head, value in (("time", None), ("new tokens", "ascending"), ("new tokens", "descending")):
        click(shown, head)
        assert ask(shown, marks)[at] == value
    assert sum(mark is not None for mark in ask(shown, marks)) == 1


def test_rows_stay_whole_when_they_are_sorted(shown: Chrome) -> None:
    rows = "[...document.querySelectorAll('#cases tbody tr')].map(r => r.textContent)"
    before = ask(shown, rows)
    click(shown, "new tokens")
    assert sorted(ask(shown, rows)) == sorted(before)
    numbers = [int(text) for text in column(shown, "new tokens")]
    assert numbers == sorted(numbers)
    assert problems(shown) == []


def test_a_head_is_reached_and_clicked_from_the_keyboard(shown: Chrome) -> None:
    from selenium.webdriver.common.keys import Keys

    ask(shown, "document.querySelector('#cases th button').focus()")
    shown.switch_to.active_element.send_keys(Keys.ENTER)
    assert ask(shown, "document.querySelector('#cases th').getAttribute('aria-sort')") is not None


def test_hostile_names_are_shown_as_text(shown: Chrome) -> None:
    from selenium.common.exceptions import NoAlertPresentException

    with pytest.raises(NoAlertPresentException):
        shown.switch_to.alert.accept()
    assert ask(shown, "document.querySelectorAll('img, iframe, object, form').length") == 0
    assert ask(shown, "document.scripts.length") == 1
    assert ask(shown, "document.title").startswith(HOSTILE)
    text = ask(shown, "document.body.textContent")
    for part in ("no room: ", "--prompt "):
        assert f"{part}{HOSTILE}" in text
    assert HOSTILE in column(shown, "model")
    assert ask(shown, "document.querySelector('h1').textContent") == HOSTILE
    assert ask(shown, "document.querySelectorAll('h1').length") == 1


def test_the_first_thing_after_the_title_is_the_answer(shown: Chrome, snapshot: object) -> None:
    after = "document.querySelector('h1').nextElementSibling"
    assert ask(shown, f"{after}.className") == "answer"
    assert ask(shown, f"{after}.textContent") == snapshot


@pytest.mark.parametrize("width", [390, 320, 1280])
def test_the_page_is_no_wider_than_the_screen(shown: Chrome, width: int) -> None:
    look(shown, (width, 844), "light")
    assert ask(shown, "innerWidth") == width
    assert ask(shown, "document.documentElement.scrollWidth") <= width
    # Wider content, such as the table, scrolls in its frame.
    frame = "document.querySelector('.scroll')"
    assert ask(shown, f"{frame}.clientWidth") < width
    if width < 1000:
        assert ask(shown, f"{frame}.scrollWidth > {frame}.clientWidth")


def test_on_a_phone_the_text_is_not_too_small(shown: Chrome) -> None:
    look(shown, PHONE, "light")
    sizes = ask(
        shown,
        "[...document.querySelectorAll('p, td, th, dd, li')].map(e => "
        "parseFloat(getComputedStyle(e).fontSize))",
    )
    assert min(sizes) >= 13
    assert ask(shown, "document.querySelector('.answer').getBoundingClientRect().width") > 300


def test_in_the_dark_the_page_is_dark_and_its_text_light(shown: Chrome) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    ink = "getComputedStyle(document.body).color"
    assert luminance(ask(shown, paper)) > 0.8 > 0.2 > luminance(ask(shown, ink))
    look(shown, DESK, "dark")
    assert luminance(ask(shown, paper)) < 0.1
    assert luminance(ask(shown, ink)) > 0.6


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("selector", ["body", ".answer", ".dim", ".bad", "#cases th button", "dt"])
def test_all_text_has_the_contrast_that_reading_needs(
    shown: Chrome, scheme: str, selector: str
) -> None:
    look(shown, DESK, scheme)
    # WCAG 2 AA for text.
    assert contrast(shown, selector) >= 4.5


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_text_of_charts_can_be_read_on_both_papers(shown: Chrome, scheme: str) -> None:
    look(shown, DESK, scheme)
    fill = "getComputedStyle(document.querySelector('#speedup svg text')).fill"
    ink, paper = luminance(ask(shown, fill)), luminance(ask(shown, PAPER))
    assert (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) >= 4.5


def test_a_chart_opens_large_and_goes_back_by_the_keyboard(shown: Chrome) -> None:
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    width = "document.querySelector('svg[aria-label^=Speed]').getBoundingClientRect().width"
    before = ask(shown, width)
    ask(shown, "document.querySelector('#speedup button').focus()")
    shown.switch_to.active_element.send_keys(Keys.ENTER)
    assert ask(shown, "document.querySelector('dialog').open")
    assert ask(shown, width) > 1.3 * before
    assert "Medians of" in ask(shown, "document.querySelector('dialog').innerText")
    # The values, one after the other.
    shown.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    first = ask(shown, "document.querySelector('#tip').value")
    assert first.splitlines()[1:] == ["New tokens per sequence: 10", first.splitlines()[2]]
    shown.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert "New tokens per sequence: 50" in ask(shown, "document.querySelector('#tip').value")
    shown.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not ask(shown, "document.querySelector('dialog').open")
    # The chart moves back on the `close` event, which the browser queues.
    WebDriverWait(shown, 10).until(lambda _: ask(shown, width) == before)
    assert ask(shown, "document.activeElement.closest('figure').id") == "speedup"
    assert problems(shown) == []


def test_a_mark_says_its_value_when_it_is_pointed_at(shown: Chrome) -> None:
    from selenium.webdriver import ActionChains

    mark = shown.find_element("css selector", "#phases [data-v]")
    ask(shown, "arguments[0].scrollIntoView({block: 'center'})", mark)
    ActionChains(shown).move_to_element(mark).perform()
    name, x, y = ask(shown, "document.querySelector('#tip').value").split("\n")
    assert "cache" in name
    assert x == "New tokens per sequence: 10"
    assert y.startswith("Time to first token (ms): ")
    ActionChains(shown).move_to_element(shown.find_element("tag name", "h1")).perform()
    assert ask(shown, "document.querySelector('#tip').hidden")


def test_a_filter_leaves_the_rows_of_its_value(shown: Chrome) -> None:
    filters = ask(shown, "[...document.querySelectorAll('select')].map(s => s.dataset.head)")
    # The device is the same in all.
    assert filters == ["cache", "model", "status"][: len(filters)]
    visible = "[...document.querySelectorAll('#cases tbody tr')].filter(r => !r.hidden).length"
    rows = ask(shown, visible)
    select = shown.find_element("css selector", "select[data-head=model]")
    select.find_elements("tag name", "option")[1].click()
    assert 0 < ask(shown, visible) < rows
    assert ask(shown, "document.querySelector('#count').value") == (
        f"{ask(shown, visible)} of {rows} cases"
    )
    select.find_elements("tag name", "option")[0].click()
    assert ask(shown, visible) == rows


def test_a_filter_dims_the_lines_of_other_values(shown: Chrome) -> None:
    opacity = (
        "[...document.querySelectorAll('.chart [data-name]')]"
        ".filter(g => g.dataset.name.includes('dynamic')).map(g => getComputedStyle(g).opacity)"
    )
    select = shown.find_element("css selector", "select[data-head=cache]")
    options = {option.text: option for option in select.find_elements("tag name", "option")}
    assert set(ask(shown, opacity)) == {"1"}
    options["off"].click()
    assert set(ask(shown, opacity)) == {"0.12"}
    options["dynamic"].click()
    assert set(ask(shown, opacity)) == {"1"}


def test_the_strategy_stays_in_sight_when_the_table_is_moved(shown: Chrome) -> None:
    look(shown, PHONE, "light")
    ask(shown, "document.querySelector('.scroll').scrollTo(300, 0)")
    left = "document.querySelector('#cases tbody th').getBoundingClientRect().left"
    frame = "document.querySelector('.scroll').getBoundingClientRect().left"
    assert ask(shown, "document.querySelector('.scroll').scrollLeft") > 200
    assert ask(shown, left) == pytest.approx(ask(shown, frame), abs=2)


def test_on_paper_nothing_is_folded_or_cut(shown: Chrome) -> None:
    shown.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        ask(shown, "void dispatchEvent(new Event('beforeprint'))")
        assert ask(shown, "document.querySelectorAll('details:not([open])').length") == 0
        overflow = "getComputedStyle(document.querySelector('.scroll')).overflow"
        assert ask(shown, overflow) == "visible"
        assert luminance(ask(shown, PAPER)) > 0.8
    finally:
        shown.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_several_runs_open_as_well(browser: Chrome, tmp_path: Path) -> None:
    material = Material((run_of(grid(), "one"), run_of(grid(), "two")))
    path = tmp_path / "report.html"
    path.write_text(report_html(material, []), encoding="utf-8")
    look(browser, DESK, "light")
    browser.get_log("browser")
    browser.get(path.as_uri())
    assert problems(browser) == []
    click(browser, "run")
    assert column(browser, "run") == ["one"] * 6 + ["two"] * 6
