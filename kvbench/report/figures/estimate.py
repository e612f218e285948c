"""Memory against length: the weights, and what the cache adds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kvbench.errors import UserError
from kvbench.records.files import write_atomically
from kvbench.report.figures.labels import drawable
from kvbench.report.figures.layout import finish_with, panels
from kvbench.report.figures.registry import image_kind, to_bytes
from kvbench.report.figures.style import COLOURS, chart_settings, level_style, plain_log
from kvbench.theory.architecture import Architecture
from kvbench.theory.cache import cache_bytes
from kvbench.theory.estimate import Estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["estimate_chart", "write_estimate_chart"]

_GIB = 1 << 30
_POINTS = 60


def write_estimate_chart(architecture: Architecture, found: Estimate, path: Path) -> None:
    """Draw memory against length to a .png or .svg.

    Raises:
        UserError: the file is neither, or the weights cannot be counted.
    """
    kind = image_kind("--chart", path)
    with chart_settings():
        figure = estimate_chart(architecture, found)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, to_bytes(figure, kind))


def estimate_chart(architecture: Architecture, found: Estimate) -> Figure:
    """Draw GiB against positions, both logarithmic: cache, weights, sum, and the given memory.

    Raises:
        UserError: the weights cannot be counted.
    """
    if found.weights_bytes is None:
        raise UserError(
            f"--chart: no cost model for the weights of {found.model}.", kind="not_countable"
        )
    figure, grid = panels(1)
    axes, work = grid[0][0], found.work
    # Draw up to eight times the requested length: people want to see the cache of longer contexts.
    positions = np.unique(np.geomspace(1, 8 * max(found.positions, 128), _POINTS).astype(int))
    prompt = work.prompt_tokens if architecture.encoder else 1
    cache = np.array(
        [
            cache_bytes(architecture, "dynamic", work.batch, prompt, int(n), work.dtype) / _GIB
            for n in positions
        ]
    )
    weights = found.weights_bytes / _GIB
    axes.plot(positions, cache, color=COLOURS[1], label=f"cache, batch {work.batch}")
    axes.plot(positions, cache + weights, color=COLOURS[0], label="weights and cache")
    axes.axhline(weights, label="weights", **level_style(0))
    if found.memory_bytes is not None:
        memory = found.memory_bytes / _GIB
        axes.axhline(memory, label="device memory", **level_style(1))
    axes.plot([found.positions], [found.cache_bytes / _GIB], "o", color=COLOURS[1], markersize=6)
    axes.set_xlabel("Cached positions per sequence")
    axes.set_ylabel("Memory (GiB)")
    plain_log(axes, "x")
    plain_log(axes, "y")
    caption = (
        f"{found.model} ({found.model_type}), {work.dtype}, batch {work.batch}. Point: "
        f"{work.prompt_tokens} prompt and {work.new_tokens} new tokens. From the cost model, "
        "without activations and libraries."
    )
    finish_with(figure, [axes], drawable(caption))
    return figure
