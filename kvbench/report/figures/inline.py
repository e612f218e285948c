"""A chart as SVG inside a page: small, colored by the page, and with its values to point at."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from kvbench.report.figures.layout import CAPTION, TITLE
from kvbench.report.figures.registry import Drawing, to_bytes
from kvbench.report.units import significant

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Inline", "Styles", "inline"]

_INK = {
    # Black and the grays of charts; a page in the dark has other ones.
    "#000000": "currentColor",
    "#595959": "var(--dim)",
    "#4c4c4c": "var(--dim)",
    "#404040": "var(--dim)",
}
_ONE_PANEL = 550.0
"""Points that no figure of one panel is wider than."""

_LINE_HEIGHT = 1.2
_MARGIN = 7.0
"""Points between the edge, the caption, and what is above it."""


@dataclass
class Styles:
    """The styles of all charts of a page, each written once."""

    names: dict[str, str] = field(default_factory=dict)

    def name(self, style: str) -> str:
        """Return the class of a style."""
        return self.names.setdefault(style, f"k{len(self.names)}")

    @property
    def css(self) -> str:
        """The rules of all classes."""
        return "\n".join(f".{name}{{{style}}}" for style, name in self.names.items())


@dataclass(frozen=True)
class Inline:
    """A chart for a page.

    Attributes:
        svg: the element, without title and caption.
        caption: what was measured and how.
        marks: what bands, bars and dashes mean.
        is_wide: whether it has panels next to each other.
    """

    svg: str
    caption: str
    marks: str
    is_wide: bool


def inline(drawing: Drawing, styles: Styles) -> Inline:
    """Return a drawn chart for a page. The same chart gives the same text.

    Text stays text, so that no font is in the page. Whoever reads it has other fonts; those that
    are named first have letters of the same width.
    """
    figure, name = drawing.figure, drawing.chart.name
    with _series(figure) as series:
        source = to_bytes(figure, "svg", svg_text=True, transparent=True)
    root = ElementTree.fromstring(source)
    texts = {text.get_gid(): text for text in figure.texts}
    caption, title = texts.get(CAPTION), texts.get(TITLE)
    width, height = (float(number) for number in root.attrib["viewBox"].split()[2:])
    top = 0.0 if title is None else float(title.get_fontsize()) * _LINE_HEIGHT + _MARGIN / 2
    if caption is not None:
        lines = caption.get_text().count("\n") + 1
        height -= lines * float(caption.get_fontsize()) * _LINE_HEIGHT + _MARGIN
    _add_values(root, series)
    used = set(re.findall(r"(?:#)(\w+)", " ".join(_references(root))))
    label = escape(f"{drawing.chart.title}: {drawing.chart.question}")
    body = "".join(_written(child, name, used, styles) for child in root)
    box = f"0 {_number(top)} {_number(width)} {_number(height - top)}"
    return Inline(
        svg=f'<svg role="img" aria-label="{label}" viewBox="{box}">{body}</svg>',
        caption="" if caption is None else " ".join(caption.get_text().split()),
        marks=str(figure.get_label()),
        is_wide=width > _ONE_PANEL,
    )


@dataclass(frozen=True)
class _Series:
    name: str
    x: str
    y: str
    values: tuple[str, ...]


@contextlib.contextmanager
def _series(figure: Figure) -> Iterator[dict[str, _Series]]:
    """Give the lines of a figure ids for as long as it is drawn, by which to find their markers."""
    from matplotlib.container import ErrorbarContainer

    found: dict[str, _Series] = {}
    lines = []
    for axes in figure.axes:
        names = {line: str(line.get_label()) for line in axes.get_lines()}
        for container in axes.containers:
            if isinstance(container, ErrorbarContainer) and container[0] is not None:
                names[container[0]] = str(container.get_label())
        y = axes.get_ylabel()
        x = axes.get_xlabel() or next((a.get_xlabel() for a in figure.axes if a.get_xlabel()), "")
        for line, name in names.items():
            if name.startswith("_") or line.get_marker() in ("", " ", "None", "none", None):
                continue
            every = line.get_markevery()
            step = every if isinstance(every, int) else 1
            data: Any = line.get_data()
            points = [(float(a), float(b)) for a, b in zip(*data, strict=True)][::step]
            known = [point for point in points if all(map(math.isfinite, point))]
            values = tuple(f"{a:g}|{significant(b)}" for a, b in known)
            line.set_gid(f"series-{len(found)}")
            found[f"series-{len(found)}"] = _Series(name, x, y, values)
            lines.append(line)
    try:
        yield found
    finally:
        for line in lines:
            line.set_gid(None)


def _add_values(root: ElementTree.Element, series: dict[str, _Series]) -> None:
    for group in root.iter(f"{_SVG}g"):
        one = series.get(group.get("id", ""))
        if one is None:
            continue
        marks = group.findall(f".//{_SVG}use")
        if len(marks) == len(one.values):
            group.set("data-name", one.name)
            group.set("data-x", one.x)
            group.set("data-y", one.y)
            for mark, value in zip(marks, one.values, strict=True):
                mark.set("data-v", value)


_SVG, _XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
_LEFT_OUT = {"metadata", "style"}
_PANEL = re.compile(r"axes_\d+")
"""What matplotlib calls the group of a panel. The page's filters find it by its text."""


def _references(root: ElementTree.Element) -> Iterator[str]:
    for element in root.iter():
        for key, value in element.attrib.items():
            if key.endswith("href") and value.startswith("#"):
                yield value
            yield from re.findall(r"url\(#\w+\)", value)


def _written(element: ElementTree.Element, chart: str, used: set[str], styles: Styles) -> str:
    """Return an element as text, without matplotlib's metadata and the ids that nothing uses."""
    tag = element.tag.removeprefix(_SVG)
    if tag in _LEFT_OUT or element.get("id") in (CAPTION, TITLE):
        return ""
    style = _style(element.get("style", ""), chart)
    if tag == "path" and style == "fill:none":
        return ""
    attributes = {}
    digits = 2 if "id" in element.attrib or tag in ("pattern", "rect") else 1
    for key, value in element.attrib.items():
        name = "href" if key == f"{_XLINK}href" else key
        if name == "id":
            # All charts are in one document, where an id may be given once.
            text = f"{chart}-{value}" if value in used else ""
            if _PANEL.fullmatch(value):
                attributes["data-panel"] = "1"
        elif name == "style":
            text = ""
        elif name == "href" and value.startswith("#"):
            text = f"#{chart}-{value[1:]}"
        elif name == "clip-path":
            text = _local(value, chart)
        elif name == "d":
            text = _path(value, digits)
        elif name == "transform" and tag != "image":
            text = "" if value.startswith("rotate(-0 ") else _rounded(value, 2)
        elif name in ("x", "y", "width", "height") and tag != "image":
            text = _rounded(value, digits)
        else:
            text = value
        if text:
            attributes[name] = text
    if style:
        attributes["class"] = styles.name(style)
    inside = escape(element.text or "", quote=False) if tag == "text" else ""
    inside += "".join(_written(child, chart, used, styles) for child in element)
    if tag in ("g", "defs") and not inside:
        return ""
    if tag == "g" and not attributes:
        return inside
    written = "".join(f' {key}="{escape(value)}"' for key, value in attributes.items())
    return f"<{tag}{written}>{inside}</{tag}>" if inside else f"<{tag}{written}/>"


def _style(text: str, chart: str) -> str:
    found = []
    for part in text.split(";"):
        key, _, value = (side.strip() for side in part.partition(":"))
        if key in ("", "font-family") or (key, value) == ("text-anchor", "start"):
            continue
        found.append(f"{key}:{_local(_INK.get(value, value), chart)}")
    return ";".join(found)


def _local(value: str, chart: str) -> str:
    return value.replace("url(#", f"url(#{chart}-")


def _path(data: str, digits: int) -> str:
    return _compact(_rounded(" ".join(data.split()), digits))


def _compact(data: str) -> str:
    return re.sub(r" ?([A-Za-z]) ?", r"\1", data)


def _rounded(text: str, digits: int) -> str:
    return re.sub(r"-?\d+\.\d+(?:e-?\d+)?", lambda found: _number(float(found[0]), digits), text)


def _number(value: float, digits: int = 1) -> str:
    text = f"{value:.{digits}f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
