"""What tests ask of a page in a browser."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

PHONE, DESK = (390, 844), (1280, 900)

PAPER = "getComputedStyle(document.body).backgroundColor"


def look(browser: Chrome, size: tuple[int, int], scheme: str) -> None:
    metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def ask(browser: Chrome, script: str, *arguments: object) -> Any:
    return browser.execute_script(f"return {script}", *arguments)


def problems(browser: Chrome) -> list[dict[str, Any]]:
    return list(browser.get_log("browser"))


def luminance(colour: str) -> float:
    """Return the luminance of `rgb(r, g, b)`, between 0 and 1; after WCAG 2."""
    inside = colour[colour.index("(") + 1 : colour.index(")")]
    parts = [float(part) / 255 for part in inside.split(",")[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(browser: Chrome, selector: str) -> float:
    style = "getComputedStyle(document.querySelector(arguments[0])).color"
    ink = luminance(ask(browser, style, selector))
    paper = luminance(ask(browser, "getComputedStyle(document.body).backgroundColor"))
    light, dark = max(ink, paper), min(ink, paper)
    return (light + 0.05) / (dark + 0.05)
