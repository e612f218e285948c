"""The registry of charts, and the code that writes them to files."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvbench.errors import UserError, check_choice
from kvbench.records.files import write_atomically
from kvbench.report.figures.devices import devices
from kvbench.report.figures.energy import energy
from kvbench.report.figures.gains import speedup, speedup_map, throughput
from kvbench.report.figures.layout import TITLE
from kvbench.report.figures.material import Material
from kvbench.report.figures.memory import memory
from kvbench.report.figures.phases import phases
from kvbench.report.figures.roofline import roofline
from kvbench.report.figures.style import chart_settings
from kvbench.report.figures.tokens import token_latency
from kvbench.report.figures.totals import total_time
from kvbench.report.figures.tradeoff import tradeoff
from kvbench.report.figures.turns import turns

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "CHARTS",
    "Chart",
    "Drawing",
    "check_charts",
    "draw_charts",
    "image_kind",
    "to_bytes",
    "write_charts",
]


_DIGITS = 9
"""In a figure of ten inches, the ninth digit is less than a millionth of a point."""


_TITLE = 0.3
"""Inches of a title."""


@dataclass(frozen=True)
class Chart:
    """A chart: its file name, its title, the question it answers, and its drawing function.

    `draw` returns None if the chart has no data.
    """

    name: str
    title: str
    question: str
    draw: Callable[[Material], Figure | None]


@dataclass(frozen=True, eq=False)
class Drawing:
    """A drawn chart: its figure, and its images, each made once."""

    chart: Chart
    figure: Figure
    _images: dict[str, bytes] = field(default_factory=dict)

    def image(self, kind: str) -> bytes:
        """Return the figure as `png` or `svg`."""
        if kind not in self._images:
            self._images[kind] = to_bytes(self.figure, kind)
        return self._images[kind]

    def keep(self, kind: str, image: bytes) -> None:
        """Keep an image that was made elsewhere."""
        self._images[kind] = image


CHARTS: dict[str, Chart] = {
    entry.name: entry
    for entry in (
        Chart("total_time", "Total time", "How long does a generation take?", total_time),
        Chart(
            "token_latency",
            "Time of each token",
            "Do later tokens take longer?",
            token_latency,
        ),
        Chart(
            "turns",
            "First token of each turn",
            "How long does the reader wait for the first token of each turn?",
            turns,
        ),
        Chart("speedup", "Speedup", "How much faster is generation with the cache?", speedup),
        Chart(
            "tradeoff",
            "Trade-off",
            "How fast is each strategy, and how much memory does it need?",
            tradeoff,
        ),
        Chart("memory", "Memory", "How much memory does the cache need?", memory),
        Chart(
            "throughput",
            "Throughput",
            "How does throughput grow with the batch?",
            throughput,
        ),
        Chart(
            "speedup_map",
            "Speedup by batch and length",
            "Where does the cache pay off most?",
            speedup_map,
        ),
        Chart(
            "devices",
            "CPU against GPU",
            "How much does the device matter?",
            devices,
        ),
        Chart("phases", "Prefill and decode", "Which phase does the cache help?", phases),
        Chart(
            "roofline",
            "Roofline",
            "How close is each strategy to the device's limits?",
            roofline,
        ),
        Chart("energy", "Energy", "How much energy does a token take?", energy),
    )
}
"""In the order of the report."""


def check_charts(names: Iterable[str]) -> None:
    """Refuse unknown chart names.

    Raises:
        UserError: a chart name is unknown.
    """
    for name in names:
        check_choice("--chart", "chart", name, CHARTS)


def draw_charts(material: Material, names: Sequence[str] | None = None) -> Iterator[Drawing]:
    """Draw the charts whose data exist, or those of the given names, each once.

    Raises:
        UserError: a chart name is unknown.
    """
    check_charts(names or ())
    for name in dict.fromkeys(names or CHARTS):
        with chart_settings():
            figure = CHARTS[name].draw(material)
            if figure is not None:
                _title(figure, CHARTS[name].title)
                # Room is found for everything once, and not again for each image.
                engine = figure.get_layout_engine()
                if engine is not None:
                    engine.execute(figure)
                # With an engine, even one that does nothing, matplotlib draws each image twice.
                figure.set_layout_engine(None)
                _round_positions(figure)
        if figure is not None:
            yield Drawing(CHARTS[name], figure)


def _title(figure: Figure, title: str) -> None:
    """Say what a chart shows, also where its file is all that someone was sent."""
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + _TITLE)
    text = figure.suptitle(title, x=0.08 / width, ha="left", fontsize=11, fontweight="bold")
    text.set_gid(TITLE)


def _round_positions(figure: Figure) -> None:
    """Round away the last digits of axes positions: the solver adds in varying order.

    An SVG names its clip paths from all digits, and the names would change now and then.
    """
    from matplotlib.transforms import Bbox

    for axes in figure.axes:
        place = axes.get_position(original=True)
        axes.set_position(Bbox(place.get_points().round(_DIGITS)))


def write_charts(
    drawings: Sequence[Drawing], folder: Path, formats: Sequence[str] = ("png", "svg")
) -> list[Path]:
    """Write charts into a folder. The same data give the same bytes."""
    paths = []
    for drawing in drawings:
        folder.mkdir(parents=True, exist_ok=True)
        for kind in formats:
            path = folder / f"{drawing.chart.name}.{kind}"
            write_atomically(path, drawing.image(kind))
            paths.append(path)
    return paths


def image_kind(option: str, path: Path) -> str:
    """Return `png` or `svg`, from a file's name.

    Raises:
        UserError: it is neither.
    """
    kind = path.suffix.removeprefix(".")
    if kind not in ("png", "svg"):
        raise UserError(
            f"{option}: '{path}' is neither a .png nor a .svg.", kind="not_an_image", path=path
        )
    return kind


def to_bytes(figure: Figure, kind: str, *, svg_text: bool = False, **options: Any) -> bytes:
    """Return a figure as `png` or `svg`.

    Args:
        figure: what was drawn.
        kind: `png` or `svg`.
        svg_text: whether letters are text in an SVG, and not drawn.
        options: more of `savefig`.
    """
    # No date and no version of the library, which would change the bytes.
    metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    buffer = io.BytesIO()
    with chart_settings({"svg.fonttype": "none"} if svg_text else {}):
        figure.savefig(buffer, format=kind, dpi=150, metadata=metadata, **options)
    return buffer.getvalue()
