"""The page of `kvbench inspect --format html` in a real browser, without a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kvbench.report.walk_page import walk_page
from tests.report.browser import DESK, PAPER, PHONE, ask, contrast, look, luminance, problems
from tests.report.saved import HOSTILE
from tests.report.walks import dynamic, static, window

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

PROJECTOR = (1920, 1080)
SHOWN = "[...document.querySelectorAll('.step')].filter(s => !s.hidden).map(s => s.id)"
SAID = "document.getElementById('said').textContent"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("walk") / "page.html"
    shown = dynamic(model=HOSTILE, prompt=HOSTILE, prompt_texts=(HOSTILE, "a", "b", "c"))
    path.write_text(walk_page([shown, window(), static()]), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def shown(browser: Chrome, page: str) -> Chrome:
    look(browser, DESK, "light")
    browser.get_log("browser")
    browser.get("about:blank")
    browser.get(page)
    return browser


def press(browser: Chrome, *keys: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    for key in keys:
        ActionChains(browser).send_keys(key).perform()


def test_the_arrow_keys_and_a_clicker_go_from_step_to_step(shown: Chrome) -> None:
    from selenium.webdriver.common.keys import Keys

    assert ask(shown, SHOWN) == ["s1"]
    press(shown, Keys.ARROW_RIGHT)
    assert ask(shown, SHOWN) == ["s2"]
    press(shown, Keys.PAGE_DOWN, Keys.PAGE_DOWN)
    assert ask(shown, SHOWN) == ["s3"]
    assert ask(shown, "document.getElementById('next').disabled")
    press(shown, Keys.PAGE_UP)
    assert ask(shown, SHOWN) == ["s2"]
    press(shown, Keys.HOME, Keys.ARROW_LEFT)
    assert ask(shown, SHOWN) == ["s1"]
    press(shown, Keys.END)
    assert ask(shown, "location.hash") == "#step-3"
    assert problems(shown) == []
    assert ask(shown, "performance.getEntriesByType('resource').length") == 0


def test_an_arrow_key_on_the_slider_is_one_step(shown: Chrome) -> None:
    from selenium.webdriver.common.keys import Keys

    ask(shown, "document.getElementById('at').focus()")
    press(shown, Keys.ARROW_RIGHT)
    assert ask(shown, SHOWN) == ["s2"]
    assert "Step 2" in ask(shown, "document.getElementById('at').getAttribute('aria-valuetext')")


def test_a_screen_reader_hears_each_step(shown: Chrome) -> None:
    from selenium.webdriver.common.keys import Keys

    first = ask(shown, SAID)
    press(shown, Keys.ARROW_RIGHT)
    assert ask(shown, SAID) != first
    for name in ("off", "dynamic", "window:size=3", "static"):
        assert name in ask(shown, SAID)
    assert ask(shown, "document.getElementById('said').getAttribute('role')") == "status"


def test_a_position_keeps_its_stripes_however_it_comes(shown: Chrome) -> None:
    """Position 3 is computed, computed again, and read: one class, and so one gradient."""
    script = (
        "[...document.querySelectorAll('.lane i')].filter(i => i.textContent === '3')"
        ".filter(i => !i.matches('.gone')).map(i => getComputedStyle(i).backgroundImage)"
    )
    found = ask(shown, script)
    assert len(found) == 12
    assert len(set(found)) == 1
    assert "gradient" in found[0]


@pytest.mark.parametrize("size", [PHONE, DESK, PROJECTOR])
def test_nothing_is_cut_off(shown: Chrome, size: tuple[int, int]) -> None:
    look(shown, size, "light")
    assert ask(shown, "document.documentElement.scrollWidth") <= size[0]
    if size == PROJECTOR:
        bottom = "document.querySelector('#s1 .panels').getBoundingClientRect().bottom"
        assert ask(shown, bottom) <= size[1]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_both_schemes(shown: Chrome, scheme: str) -> None:
    look(shown, DESK, scheme)
    assert (luminance(ask(shown, PAPER)) < 0.1) == (scheme == "dark")
    for selector in ("h1", ".dim", ".said", "dt", "dd", ".lane b", "kbd"):
        assert contrast(shown, selector) >= 4.5, selector


def test_on_paper_there_are_all_steps_and_no_controls(shown: Chrome) -> None:
    shown.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    height = "[...document.querySelectorAll('.step, #controls')].map(e => e.offsetHeight > 0)"
    assert ask(shown, height) == [False, True, True, True]
    shown.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_hostile_names_are_text(shown: Chrome) -> None:
    assert HOSTILE.split()[0] in ask(shown, "document.querySelector('h1').textContent")
    assert ask(shown, "document.querySelectorAll('main script, main img, h1 *').length") == 0
