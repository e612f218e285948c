"""Tests of kvbench/report/figures: the plotted data, not the pixels."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgba
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text
from matplotlib.transforms import BboxBase

from kvbench.analysis.compare import Comparison
from kvbench.analysis.expected import summarize_run
from kvbench.analysis.summary import summarize_cases
from kvbench.caches import STRATEGIES, CacheStrategy
from kvbench.errors import UserError
from kvbench.plan.case import Prompt
from kvbench.records.run import Run, load_run
from kvbench.records.sample import Sample
from kvbench.report.figures import CHARTS, Material, draw_charts, write_charts
from kvbench.report.figures import style as style_module
from kvbench.report.figures.lines import KINDS
from kvbench.report.figures.ratios import ratio_chart
from kvbench.report.figures.style import COLOURS
from tests.fakes import make_case, make_environment, make_rates
from tests.report.saved import grid, machine, run_of, samples_of, save, time_of

OFF, ON = "cache off", "cache on (dynamic)"

HARD_NAMES = ["明天降温了", r"$\frac{x}$", "$a$b$", "a_b^c", "{x} %s", "<b>&amp;</b>", "🤷", "a\tb"]


def draw(name: str, *runs: Run) -> Figure:
    (drawing,) = draw_charts(Material(runs), [name])
    assert drawing.chart.name == name
    return drawing.figure


def figures(*runs: Run) -> list[Figure]:
    return [drawing.figure for drawing in draw_charts(Material(runs))]


def drawn(*runs: Run) -> set[str]:
    return {drawing.chart.name for drawing in draw_charts(Material(runs))}


def lines_of(axes: Axes) -> dict[str, Line2D]:
    """Return the lines in a legend, by label."""
    bars = {
        str(bar.get_label()): bar.lines[0]
        for bar in axes.containers
        if isinstance(bar, ErrorbarContainer)
    }
    plain = {str(line.get_label()): line for line in axes.get_lines()}
    return {label: line for label, line in (plain | bars).items() if not label.startswith("_")}


def points(line: Line2D) -> list[Any]:
    return [(float(x), pytest.approx(float(y))) for x, y in zip(*line.get_data(), strict=True)]


def band(collection: PolyCollection) -> dict[float, tuple[float, float]]:
    """Return the ends of a band at each x."""
    ends: dict[float, list[float]] = {}
    for x, y in collection.get_paths()[0].vertices:
        ends.setdefault(float(x), []).append(float(y))
    return {x: (min(ys), max(ys)) for x, ys in ends.items()}


def bands(axes: Axes) -> list[dict[float, tuple[float, float]]]:
    return [band(c) for c in axes.collections if isinstance(c, PolyCollection)]


def caption(figure: Figure) -> str:
    return " ".join(str(figure.get_supxlabel()).split())


def legend_texts(figure: Figure) -> list[str]:
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes)]
    return [text.get_text() for legend in legends if legend for text in legend.get_texts()]


def texts_of(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def style(line: Line2D) -> tuple[Any, ...]:
    return line.get_color(), line.get_marker(), str(line._unscaled_dash_pattern)  # type: ignore[attr-defined]


def numbers(figure: Figure) -> Iterator[float]:
    """Return every plotted coordinate."""
    for axes in figure.axes:
        for line in axes.get_lines():
            yield from np.ravel(np.asarray(line.get_data(), dtype=float))
        for collection in axes.collections:
            for path in collection.get_paths():
                yield from np.ravel(path.vertices)
        for bar in axes.patches:
            yield from (bar.get_height(), bar.get_width(), bar.get_x())  # type: ignore[attr-defined]


def with_energy(samples: Sequence[Sample], joules_per_token: float = 2.0) -> list[Sample]:
    return [
        dataclasses.replace(s, energy_j=joules_per_token * s.batch_size * s.max_new_tokens)
        for s in samples
    ]


# Which charts there are


PROBED = make_environment(
    rates=(make_rates(), make_rates(device="cuda", read_bytes_per_s=2e12, threads=None))
)


OF_TWO_STRATEGIES = [name for name in CHARTS if name != "tradeoff"]
"""A trade-off needs a choice: two strategies with a cache."""


def test_the_charts_are_those_of_the_registry() -> None:
    assert list(CHARTS) == [
        "total_time",
        "token_latency",
        "speedup",
        "tradeoff",
        "memory",
        "throughput",
        "speedup_map",
        "devices",
        "phases",
        "roofline",
        "energy",
    ]
    for name, chart in CHARTS.items():
        assert name == chart.name
        assert chart.title
        assert chart.question.endswith("?")


def test_a_grid_without_energy_and_gpu_has_the_charts_of_its_data(tmp_path: Path) -> None:
    run = load_run(save(tmp_path / "run", grid(batch_size=(1, 2), repeats=2)))
    assert drawn(run) == set(CHARTS) - {"devices", "energy", "roofline", "tradeoff"}


def test_everything_is_drawn_of_a_run_that_has_everything(tmp_path: Path) -> None:
    samples = with_energy(grid(batch_size=(1, 2), device=("cpu", "cuda"), repeats=1))
    run = save(tmp_path / "run", samples, environment=PROBED)
    assert drawn(load_run(run)) == set(OF_TWO_STRATEGIES)


@pytest.mark.parametrize(
    ("name", "without"),
    [
        ("token_latency", grid()),  # no tokens.csv
        ("speedup", grid(cache=("dynamic",))),
        ("speedup", grid(cache=("off",))),
        ("memory", [dataclasses.replace(s, rss_peak_bytes=None) for s in grid()]),
        ("throughput", grid()),
        ("speedup_map", grid(batch_size=(1, 2), max_new_tokens=(10,))),
        ("speedup_map", grid()),
        ("devices", grid()),
        ("devices", grid(device=("cuda", "cuda:1"))),
        ("phases", [dataclasses.replace(s, itl_s=None) for s in grid()]),
        ("energy", grid()),
    ],
)
def test_a_chart_without_its_data_is_not_drawn(name: str, without: list[Sample]) -> None:
    assert CHARTS[name].draw(Material((run_of(without),))) is None


@pytest.mark.parametrize("name", OF_TWO_STRATEGIES)
def test_nothing_is_drawn_of_nothing(name: str) -> None:
    failed = [dataclasses.replace(s, status="oom", total_s=None) for s in grid()]
    assert CHARTS[name].draw(Material((run_of([]),))) is None
    assert CHARTS[name].draw(Material((run_of(failed),))) is None


def test_a_chart_asked_for_twice_is_drawn_once() -> None:
    charts = draw_charts(Material((run_of(grid()),)), ["phases", "total_time", "phases"])
    assert [drawing.chart.name for drawing in charts] == ["phases", "total_time"]


def test_a_chart_that_there_is_not_is_a_sentence(snapshot: object) -> None:
    with pytest.raises(UserError) as caught:
        list(draw_charts(Material((run_of(grid()),)), ["total_time", "speed-up"]))
    assert str(caught.value) == snapshot


# 1. Total time


def test_total_time_is_seconds_against_new_tokens_linear_and_logarithmic(snapshot: object) -> None:
    linear, logarithmic = draw("total_time", run_of(grid())).axes
    for axes in (linear, logarithmic):
        shown = lines_of(axes)
        assert list(shown) == [OFF, ON]
        assert points(shown[OFF]) == [(10, 0.11), (50, 0.75), (100, 2.0)]
        assert points(shown[ON]) == [(10, 0.1), (50, 0.5), (100, 1.0)]
        assert axes.get_ylabel() == snapshot
    assert (linear.get_xscale(), linear.get_yscale()) == ("linear", "linear")
    assert (logarithmic.get_xscale(), logarithmic.get_yscale()) == ("log", "log")
    assert logarithmic.get_xlabel() == snapshot
    assert (linear.get_xlim()[0], linear.get_ylim()[0]) == (0, 0)
    assert logarithmic.get_xlim()[0] > 0
    assert linear.get_title() == snapshot


def test_error_bars_are_the_quartiles() -> None:
    run = run_of(grid(max_new_tokens=(50, 100)))
    cases = {case.cache: case for case in summarize_cases(run.samples)}
    for bar in draw("total_time", run).axes[0].containers:
        assert isinstance(bar, ErrorbarContainer)
        case = cases["off" if bar.get_label() == OFF else "dynamic"]
        segment = bar.lines[2][0].get_segments()[-1]
        assert segment[:, 1].tolist() == pytest.approx([case.total_s_q1, case.total_s_q3])


def test_error_bars_of_few_samples_are_the_range(snapshot: object) -> None:
    run = run_of(grid(max_new_tokens=(50, 100), cache=("dynamic",), repeats=3))
    figure = draw("total_time", run)
    (bar,) = figure.axes[0].containers
    assert isinstance(bar, ErrorbarContainer)
    segment = bar.lines[2][0].get_segments()[-1]
    assert segment[:, 1].tolist() == pytest.approx([0.98, 1.02])
    assert caption(figure) == snapshot


def test_one_length_is_bars_with_their_number_and_spread() -> None:
    run = run_of(grid(max_new_tokens=(100,)))
    (axes,) = draw("total_time", run).axes
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([2.0, 1.0])  # type: ignore[attr-defined]
    assert [text.get_text() for text in axes.texts] == ["2.00 s", "1.00 s"]
    assert [label.get_text() for label in axes.get_yticklabels()] == [OFF, ON]
    off, on = [bar for bar in axes.containers if isinstance(bar, ErrorbarContainer)]
    cases = {case.cache: case for case in summarize_cases(run.samples)}
    for bar, case in ((off, cases["off"]), (on, cases["dynamic"])):
        (segment,) = bar.lines[2][0].get_segments()
        assert segment[:, 0].tolist() == pytest.approx([case.total_s_q1, case.total_s_q3])


@pytest.mark.parametrize(
    ("name", "widths"),
    [
        ("speedup", [[2.0]]),
        ("phases", [[20.0, 10.0], [20.0, 10.0]]),
        ("memory", [[600.0, 600.0], [0.0, 7.383]]),
    ],
)
def test_other_charts_of_one_length_are_bars_too(name: str, widths: list[list[float]]) -> None:
    figure = draw(name, run_of(grid(max_new_tokens=(100,))))
    drawn_widths = [[bar.get_width() for bar in axes.patches] for axes in figure.axes]  # type: ignore[attr-defined]
    assert drawn_widths == [pytest.approx(row, abs=0.01) for row in widths]
    # No legend but of the weights: the names are next to the bars.
    assert set(legend_texts(figure)) <= {"weights"}


def test_a_chart_says_what_it_shows() -> None:
    for figure in figures(run_of(grid(batch_size=(1, 2)))):
        assert figure.get_suptitle() in {chart.title for chart in CHARTS.values()}


def test_the_logarithmic_axis_has_ticks_at_the_measured_lengths() -> None:
    axes = draw("total_time", run_of(grid(max_new_tokens=(10, 50, 55, 100)))).axes[1]
    # 55 has no room next to 50.
    assert axes.get_xticks().tolist() == [10, 50, 100]


# 2. Time of each token


def test_token_latency_is_milliseconds_against_position(tmp_path: Path, snapshot: object) -> None:
    """The n-th token of a run takes n ms, and 2 ms more in half of the samples."""

    def times(sample: Sample) -> list[float]:
        late = 2 * (sample.repeat % 2)
        return np.cumsum([(n + late) / 1000 for n in range(1, sample.max_new_tokens + 1)]).tolist()

    samples = grid(cache=("off",), max_new_tokens=(3, 6), repeats=8)
    figure = draw("token_latency", load_run(save(tmp_path / "run", samples, times)))
    (axes,) = figure.axes
    assert points(lines_of(axes)[OFF]) == [(n, n + 1.0) for n in range(2, 7)]
    assert bands(axes)[0] == {
        n: (pytest.approx(n), pytest.approx(n + 2)) for n in map(float, range(2, 7))
    }
    assert axes.get_xlabel() == snapshot
    assert axes.get_ylabel() == snapshot
    assert caption(figure) == snapshot


def test_token_latency_of_several_runs_is_told_apart(tmp_path: Path) -> None:
    runs = [
        load_run(save(tmp_path / name, grid(cache=("dynamic",), max_new_tokens=(n,)), name="same"))
        for name, n in (("a", 10), ("b", 20))
    ]
    shown = lines_of(draw("token_latency", *runs).axes[0])
    assert {label: len(points(line)) for label, line in shown.items()} == {
        f"{ON}, same (1)": 9,
        f"{ON}, same (2)": 19,
    }


def test_runs_without_token_times_are_left_out_of_it(tmp_path: Path) -> None:
    here = load_run(save(tmp_path / "here", grid(repeats=1)))
    figure = draw("token_latency", here, run_of(grid(), "elsewhere"))
    assert {label.split(", ")[-1] for label in lines_of(figure.axes[0])} == {"here"}


# 3. Speed-up


def test_speedup_is_off_over_cached_with_the_line_at_one(snapshot: object) -> None:
    (axes,) = draw("speedup", run_of(grid())).axes
    assert points(lines_of(axes)[ON]) == [(10, 1.1), (50, 1.5), (100, 2.0)]
    level = [line for line in axes.get_lines() if str(line.get_label()).startswith("_")]
    assert [list(line.get_ydata()) for line in level] == [[1, 1]]
    assert texts_of(axes) == snapshot
    assert axes.get_ylabel() == snapshot
    assert axes.get_ylim()[0] == 0


def test_the_band_of_the_speedup_is_its_interval() -> None:
    run = run_of(grid())
    (found,) = bands(draw("speedup", run).axes[0])
    for case in summarize_cases(run.samples):
        if case.cache == "dynamic":
            ends = (case.speedup_ci95_low, case.speedup_ci95_high)
            assert found[case.max_new_tokens] == pytest.approx(ends)


def test_few_rounds_have_no_band(snapshot: object) -> None:
    samples = [
        sample
        for tokens in (50, 100)
        for cache, middle in (("off", 2.0), ("dynamic", 1.0))
        for sample in samples_of(make_case(cache=cache, max_new_tokens=tokens), middle, 1)
    ]
    samples += [
        dataclasses.replace(s, repeat=1, round=1, total_s=3 * s.total_s if s.use_cache else 9.0)
        for s in samples
        if s.total_s
    ]
    figure = draw("speedup", run_of(samples))
    (band,) = bands(figure.axes[0])
    assert band[100.0] == pytest.approx((6**0.5, 6**0.5))
    assert caption(figure) == snapshot


def test_there_is_a_line_for_each_batch_size() -> None:
    (axes,) = draw("speedup", run_of(grid(batch_size=(1, 2, 8)))).axes
    assert list(lines_of(axes)) == [f"{ON}, batch {n}" for n in (1, 2, 8)]
    assert len(bands(axes)) == 3


# 4. Memory


def test_memory_is_the_peak_the_cache_and_the_weights(snapshot: object) -> None:
    peaks, caches = draw("memory", run_of(grid())).axes
    shown = lines_of(peaks)
    assert points(shown[OFF]) == points(shown[ON]) == [(n, 600) for n in (10, 50, 100)]
    assert list(shown["weights"].get_ydata()) == pytest.approx([4_000_000 / 2**20] * 2)
    assert points(lines_of(caches)[ON]) == [(n, 73_728 * (5 + n) / 2**20) for n in (10, 50, 100)]
    # Missing data is not drawn as zero.
    assert OFF not in lines_of(caches)
    assert peaks.get_ylabel() == "Peak (MiB)"
    assert caches.get_ylabel() == snapshot


def test_memory_that_some_cases_lack_is_a_gap_and_no_zero() -> None:
    samples = [
        dataclasses.replace(s, kv_cache_bytes=None) if s.max_new_tokens == 50 else s
        for s in grid(cache=("dynamic",))
    ]
    line = lines_of(draw("memory", run_of(samples)).axes[1])[ON]
    assert [math.isnan(y) for y in line.get_ydata()] == [False, True, False]


# 5. Throughput


def test_throughput_is_tokens_of_the_batch_against_its_size(snapshot: object) -> None:
    run = run_of(grid(batch_size=(1, 4, 16), max_new_tokens=(100,)))
    (axes,) = draw("throughput", run).axes
    shown = lines_of(axes)
    assert points(shown[ON]) == [(1, 100), (4, 200), (16, 400)]
    assert points(shown[OFF]) == [(1, 50), (4, 100), (16, 200)]
    assert axes.get_xlabel() == snapshot
    assert axes.get_ylabel() == snapshot


def test_throughput_is_that_of_the_longest_length(snapshot: object) -> None:
    (axes,) = draw("throughput", run_of(grid(batch_size=(1, 4)))).axes
    assert list(lines_of(axes)) == [OFF, ON]
    assert points(lines_of(axes)[ON]) == [(1, 100), (4, 200)]
    assert axes.get_xlabel() == snapshot


def test_throughput_of_both_arms_is_at_the_longest_length_that_both_have(snapshot: object) -> None:
    samples = [s for s in grid(batch_size=(1, 4)) if s.use_cache or s.max_new_tokens < 100]
    (axes,) = draw("throughput", run_of(samples)).axes
    assert points(lines_of(axes)[ON]) == [(1, 100), (4, 200)]
    assert points(lines_of(axes)[OFF]) == [(1, 50 / 0.75), (4, 100 / 0.75)]
    assert axes.get_xlabel() == snapshot


def test_throughput_of_arms_without_a_length_in_common_is_drawn_nevertheless() -> None:
    samples = [
        *grid(batch_size=(1, 2), cache=("off",), max_new_tokens=(50,)),
        *grid(batch_size=(1, 2), cache=("dynamic",), max_new_tokens=(100,)),
    ]
    (axes,) = draw("throughput", run_of(samples)).axes
    assert list(lines_of(axes)) == [f"{OFF}, 50 new tokens", f"{ON}, 100 new tokens"]


def test_throughput_shows_each_model_at_its_own_longest_length(snapshot: object) -> None:
    samples = [
        *grid(batch_size=(1, 2), model=("large",), max_new_tokens=(25, 50)),
        *grid(batch_size=(1, 2), model=("small",), max_new_tokens=(50, 100)),
    ]
    (axes,) = draw("throughput", run_of(samples)).axes
    assert set(lines_of(axes)) == snapshot
    assert axes.get_xlabel() == snapshot


# A sweep over one other size alone


def prompts(*lengths: int) -> list[Prompt]:
    return [Prompt.of_tokens(length) for length in lengths]


@pytest.mark.parametrize("name", ["total_time", "speedup", "memory", "phases", "energy"])
@pytest.mark.parametrize(
    ("axes", "sizes", "unsaid"),
    [
        ({"batch_size": (1, 2, 4), "max_new_tokens": (100,)}, [1, 2, 4], "batch"),
        ({"prompt": prompts(32, 512, 128), "max_new_tokens": (20,)}, [32, 128, 512], "tokens:"),
    ],
    ids=["batch", "prompt"],
)
def test_with_one_length_charts_are_drawn_along_the_size_that_varies(
    axes: dict[str, Any], sizes: list[int], unsaid: str, name: str, snapshot: object
) -> None:
    figure = draw(name, run_of(with_energy(grid(**axes))))
    for panel in figure.axes:
        for text, line in lines_of(panel).items():
            assert text == "weights" or list(line.get_xdata()) == sizes
    assert figure.axes[-1].get_xlabel() == snapshot
    assert unsaid not in " ".join(legend_texts(figure))


def test_of_a_sweep_over_batch_sizes_each_token_has_its_position(
    tmp_path: Path, snapshot: object
) -> None:
    run = load_run(save(tmp_path / "run", grid(batch_size=(1, 2), max_new_tokens=(20,))))
    (axes,) = draw("token_latency", run).axes
    assert list(lines_of(axes)) == [f"{arm}, batch {n}" for n in (1, 2) for arm in (OFF, ON)]
    assert axes.get_xlabel() == snapshot


def test_devices_of_a_sweep_over_batch_sizes_are_drawn_along_them(snapshot: object) -> None:
    _, lines = draw("devices", run_of(both(batch_size=(1, 2, 4), max_new_tokens=(50,)))).axes
    assert len(lines_of(lines)) == 4
    assert all(list(line.get_xdata()) == [1, 2, 4] for line in lines_of(lines).values())
    assert lines.get_xlabel() == snapshot


def test_models_of_different_lengths_are_drawn_along_the_batch_size_too(snapshot: object) -> None:
    samples = [
        *grid(batch_size=(1, 2), model=("large",), max_new_tokens=(50,)),
        *grid(batch_size=(1, 2), model=("small",), max_new_tokens=(100,)),
    ]
    figure = draw("total_time", run_of(samples))
    assert {len(line.get_xdata()) for line in lines_of(figure.axes[0]).values()} == {2}  # type: ignore[arg-type]
    assert legend_texts(figure) == snapshot


def test_devices_of_a_sweep_over_prompt_lengths_are_drawn_along_them(snapshot: object) -> None:
    samples = both(prompt=prompts(32, 128), max_new_tokens=(50,))
    _, lines = draw("devices", run_of(samples)).axes
    assert len(lines_of(lines)) == 4
    assert all(list(line.get_xdata()) == [32, 128] for line in lines_of(lines).values())
    assert lines.get_xlabel() == snapshot


def test_nothing_is_drawn_along_prompts_that_are_texts(snapshot: object) -> None:
    # Two of one length would be drawn on top of each other.
    texts = ["one", "two"]
    figure = draw("total_time", run_of(grid(prompt=texts, max_new_tokens=(20,))))
    assert len(figure.axes[0].patches) == 4
    assert figure.axes[0].get_title() == snapshot


def test_of_two_sizes_that_vary_the_first_is_drawn_along(snapshot: object) -> None:
    samples = grid(prompt=prompts(32, 128), batch_size=(1, 2), max_new_tokens=(20,))
    figure = draw("total_time", run_of(samples))
    assert figure.axes[-1].get_xlabel() == snapshot
    assert any("tokens:128" in text for text in legend_texts(figure))


# 6. The map


def test_the_map_has_the_speedup_in_each_cell(snapshot: object) -> None:
    samples = [
        s
        for s in grid(batch_size=(1, 8), max_new_tokens=(10, 100, 300))
        if (s.batch_size, s.max_new_tokens) != (8, 300)
    ]
    figure = draw("speedup_map", run_of(samples))
    (axes,) = figure.axes
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert cells == {
        (0, 0): "1.10x",
        (1, 0): "2.00x",
        (2, 0): "4.00x",
        (0, 1): "1.10x",
        (1, 1): "2.00x",
        (2, 1): "-",
    }
    (image,) = axes.get_images()
    values = np.ma.filled(np.ma.asarray(image.get_array(), dtype=float), np.nan)
    assert np.ravel(values) == pytest.approx([1.1, 2, 4, 1.1, 2, np.nan], nan_ok=True)
    assert [t.get_text() for t in axes.get_xticklabels()] == ["10", "100", "300"]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["1", "8"]
    assert axes.get_xlabel() == snapshot
    assert axes.get_ylabel() == snapshot
    # The first row is the lowest one.
    assert axes.get_ylim()[0] < axes.get_ylim()[1]


def test_numbers_in_the_map_are_light_on_dark_and_dark_on_light() -> None:
    (axes,) = draw("speedup_map", run_of(grid(batch_size=(1, 2)))).axes
    (image,) = axes.get_images()
    for text in axes.texts:
        x, y = text.get_position()
        red, green, blue, _ = image.to_rgba(image.get_array())[int(y), int(x)]
        light = 0.2126 * red + 0.7152 * green + 0.0722 * blue
        assert text.get_color() == ("white" if light < 0.4 else "#111111")


def test_a_map_of_one_value_is_drawn() -> None:
    run = run_of(grid(lambda case: 1.0, batch_size=(1, 2)))
    assert set(texts_of(draw("speedup_map", run).axes[0])) == {"1.00x"}


def test_maps_of_several_runs_and_models_are_told_apart() -> None:
    runs = [run_of(grid(batch_size=(1, 2)), name) for name in "ab"]
    models = run_of(grid(batch_size=(1, 2), model=("gpt2", "llama")))
    for material, names in ((runs, "ab"), ([models], ("gpt2", "llama"))):
        titles = [axes.get_title() for axes in draw("speedup_map", *material).axes]
        assert titles == [f"cpu: {ON}, {name}" for name in names]


def six_maps() -> Run:
    def seconds(case: Any) -> float:
        return time_of(case) * (len(case.model) if case.cache == "off" else 1)

    models = ("a", "gpt2", "meta-llama/Llama-3.2-1B-Instruct")
    axes = {"batch_size": (1, 8), "max_new_tokens": (10, 1000, 100_000), "repeats": 1}
    return run_of(grid(seconds, model=models, device=("cpu", "cuda:0"), **axes))


def test_maps_have_one_scale_which_the_caption_says() -> None:
    figure = draw("speedup_map", six_maps())
    images = [image for axes in figure.axes for image in axes.get_images()]
    assert len(images) == 6
    assert len({image.norm for image in images}) == 1
    values = np.concatenate([np.ravel(image.get_array()) for image in images])
    assert images[0].get_clim() == (values.min(), values.max())
    text = "one color scale for all maps, 1.10x dark to 32032x bright"
    assert text in caption(figure)


def test_maps_stand_in_rows_of_three_at_most() -> None:
    figure = draw("speedup_map", six_maps())
    assert outside(figure) == []
    lefts = {round(axes.get_position().x0, 3) for axes in figure.axes}
    assert (len(figure.axes), len(lefts)) == (6, 3)
    two = draw("speedup_map", run_of(grid(batch_size=(1, 2), dtype=("a", "b", "c", "d", "e"))))
    assert len(two.axes) == 5


def test_the_numbers_of_a_large_map_do_not_run_into_each_other() -> None:
    tokens = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 100_000)
    run = run_of(grid(batch_size=range(1, 13), max_new_tokens=tokens, repeats=1))
    figure = draw("speedup_map", run)
    (axes,) = figure.axes
    renderer = rendered(figure)
    boxes = [text.get_window_extent(renderer) for text in axes.texts]
    ticks = [text.get_window_extent(renderer) for text in axes.get_xticklabels()]
    assert [pair for pair in itertools.combinations(boxes, 2) if pair[0].overlaps(pair[1])] == []
    assert all(not a.overlaps(b) for a, b in itertools.pairwise(ticks))


# 7. CPU against GPU


def gpu_is_20_times_as_fast(case: Any) -> float:
    return time_of(case) / (1 if case.device == "cpu" else 20)


def both(**axes: Any) -> list[Sample]:
    return grid(gpu_is_20_times_as_fast, device=("cpu", "cuda"), **axes)


def test_devices_are_bars_with_their_ratio_and_lines(snapshot: object) -> None:
    figure = draw("devices", run_of(both()))
    bars, lines = figure.axes
    assert [bar.get_height() for bar in bars.patches] == pytest.approx([2.0, 1.0, 0.1, 0.05])
    assert texts_of(bars) == [
        "2.00 s\n1.00x",
        "1.00 s\n2.00x",
        "100 ms\n20.0x",
        "50.0 ms\n40.0x",
    ]
    assert [t.get_text() for t in bars.get_xticklabels()] == snapshot
    assert bars.get_ylabel() == snapshot
    shown = lines_of(lines)
    assert list(shown) == [f"{d}, {arm}" for d in ("cpu", "cuda") for arm in (OFF, ON)]
    assert points(shown[f"cuda, {ON}"]) == [(10, 0.005), (50, 0.025), (100, 0.05)]
    assert lines.get_yscale() == "log"
    assert lines.get_ylabel() == snapshot


def test_devices_of_one_length_are_bars_alone() -> None:
    (bars,) = draw("devices", run_of(both(max_new_tokens=(100,)))).axes
    assert len(bars.patches) == 4


def test_the_bars_stand_beside_each_other() -> None:
    bars = draw("devices", run_of(both())).axes[0].patches
    spans = sorted((bar.get_x(), bar.get_x() + bar.get_width()) for bar in bars)  # type: ignore[attr-defined]
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))


def test_devices_are_compared_at_the_longest_length_that_all_have(snapshot: object) -> None:
    samples = [s for s in both() if (s.device, s.max_new_tokens) != ("cuda", 100)]
    bars, _ = draw("devices", run_of(samples)).axes
    assert bars.get_ylabel() == snapshot
    assert [bar.get_height() for bar in bars.patches] == pytest.approx([0.75, 0.5, 0.0375, 0.025])


def test_devices_without_a_case_in_common_have_no_chart() -> None:
    samples = [*grid(max_new_tokens=(10,)), *grid(device=("cuda",), max_new_tokens=(50,))]
    assert CHARTS["devices"].draw(Material((run_of(samples),))) is None


def test_devices_of_two_runs_are_put_together() -> None:
    cpu, gpu = run_of(grid(), "laptop"), run_of(grid(device=("cuda",)), "box")
    bars, lines = draw("devices", cpu, gpu).axes
    assert len(bars.patches) == 4
    assert len(lines_of(lines)) == 4


def spans(axes: Axes) -> list[tuple[float, float]]:
    """Return the bars from left to right."""
    bars = axes.patches
    return sorted((bar.get_x(), bar.get_x() + bar.get_width()) for bar in bars)  # type: ignore[attr-defined]


def test_bars_of_two_runs_on_one_device_stand_beside_each_other() -> None:
    runs = [
        run_of(grid(), "one"),
        run_of(grid(lambda case: 2 * time_of(case)), "two"),
        run_of(grid(device=("cuda",)), "gpu"),
    ]
    figure = draw("devices", *runs)
    bars, lines = figure.axes
    assert len(bars.patches) == len(lines_of(lines)) == 6
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans(bars)))
    assert {f"{OFF}, one", f"{OFF}, two", f"cpu, {ON}, two"} < set(legend_texts(figure))


def test_a_run_without_the_case_in_common_is_left_out_of_the_devices() -> None:
    runs = [run_of(both(), "pair"), run_of(grid(model=("other",), device=("cuda:1",)), "extra")]
    bars, lines = draw("devices", *runs).axes
    assert len(bars.patches) == len(lines_of(lines)) == 4


def test_devices_are_compared_where_most_of_them_were_timed(snapshot: object) -> None:
    samples = [
        *grid(device=("cpu", "cuda:0", "cuda:1"), max_new_tokens=(50,)),
        *grid(device=("cpu", "cuda:0"), max_new_tokens=(100,)),
    ]
    bars, _ = draw("devices", run_of(samples)).axes
    assert bars.get_ylabel() == snapshot
    assert len(bars.patches) == 6


def test_the_strategy_of_a_bar_is_told_in_the_colour_that_it_has_elsewhere() -> None:
    run = run_of(both())
    figure = draw("devices", run)
    assert legend_texts(figure)[:2] == [OFF, ON]
    (legend,) = figure.legends
    patches = legend.legend_handles[:2]
    bars = figure.axes[0].patches[:2]
    shown = lines_of(draw("total_time", run).axes[0])
    for label, patch, bar in zip((OFF, ON), patches, bars, strict=True):
        assert isinstance(patch, Patch)
        assert patch.get_facecolor() == bar.get_facecolor() == to_rgba(shown[label].get_color())
        assert patch.get_hatch() == bar.get_hatch()
    # In grayscale too.
    assert bars[0].get_hatch() != bars[1].get_hatch()


def test_no_two_kinds_of_bars_look_alike() -> None:
    runs = [run_of(both(repeats=1), f"run {n}") for n in range(6)]
    bars = draw("devices", *runs).axes[0].patches
    looks = {(bar.get_facecolor(), bar.get_hatch()) for bar in bars}
    assert len(looks) == len(bars) / 2 == 12


def test_the_lines_of_devices_do_not_look_alike() -> None:
    run = run_of(both(dtype=("float32",), repeats=1))
    lines = lines_of(draw("devices", run).axes[1]).values()
    assert len({style(line) for line in lines}) == 4


# 8. Prefill and decode


def test_phases_are_milliseconds_to_the_first_token_and_between(snapshot: object) -> None:
    first, between = draw("phases", run_of(grid())).axes
    assert points(lines_of(first)[OFF]) == [(10, 11.0), (50, 15.0), (100, 20.0)]
    assert points(lines_of(between)[ON]) == [(10, 10.0), (50, 10.0), (100, 10.0)]
    assert first.get_ylabel() == snapshot
    assert between.get_ylabel() == snapshot


# 9. Energy


def test_energy_is_joules_per_new_token_of_the_batch(snapshot: object) -> None:
    run = run_of(with_energy(grid(batch_size=(1, 4), device=("cuda",)), 3.0))
    joules, ratio = draw("energy", run).axes
    for line in lines_of(joules).values():
        assert points(line) == [(n, 3.0) for n in (10, 50, 100)]
    assert len(lines_of(joules)) == 4
    assert joules.get_ylabel() == snapshot
    for line in lines_of(ratio).values():
        assert points(line) == [(n, 1.0) for n in (10, 50, 100)]
    assert len(lines_of(ratio)) == 2
    assert ratio.get_ylabel() == snapshot


def halved(samples: Sequence[Sample], method: str | None = "nvml-total-energy") -> list[Sample]:
    """Return samples with half the energy with a cache, rising from round to round."""
    return [
        dataclasses.replace(
            s,
            energy_j=s.max_new_tokens * (1.0 if s.cache == "off" else 0.5) * (1 + 0.1 * s.round),
            energy_method=method,
        )
        for s in samples
    ]


def test_the_energy_of_one_length_is_bars_with_joules_and_ratio(snapshot: object) -> None:
    caches = ("off", "dynamic", "static")
    figure = draw("energy", run_of(halved(grid(cache=caches, max_new_tokens=(100,)))))
    (axes,) = figure.axes
    assert [bar.get_height() for bar in axes.patches] == pytest.approx([1.3, 0.65, 0.65])  # type: ignore[attr-defined]
    assert texts_of(axes) == ["1.30 J", *["0.650 J\n2.00x\n(2.00-2.00)"] * 2]
    assert [t.get_text().replace("\n", " ") for t in axes.get_xticklabels()] == [
        OFF,
        ON,
        "cache static",
    ]
    assert axes.get_ylim()[0] == 0
    assert caption(figure) == snapshot
    assert outside(figure) == []
    whiskers = [band(c) for c in axes.collections]
    assert [ends for one in whiskers for ends in one.values()] == [
        pytest.approx(ends) for ends in ((1.0, 1.6), (0.5, 0.8), (0.5, 0.8))
    ]


def test_lengths_that_differ_between_runs_are_no_bars() -> None:
    runs = [
        run_of(halved(grid(max_new_tokens=(length,))), name)
        for length, name in ((10, "one"), (50, "other"))
    ]
    joules, _ = draw("energy", *runs).axes
    assert {tuple(line.get_xdata()) for line in lines_of(joules).values()} == {(10,), (50,)}


def test_energy_without_a_baseline_has_no_ratio(snapshot: object) -> None:
    samples = halved(grid(cache=("dynamic",)), "some-counter")
    figure = draw("energy", run_of(samples))
    (axes,) = figure.axes
    assert "some-counter" in caption(figure) and "band" not in caption(figure)
    assert axes.get_xlabel() == snapshot
    (bars,) = draw("energy", run_of(halved(grid(cache=("dynamic",), max_new_tokens=(10,))))).axes
    assert texts_of(bars) == ["0.650 J"]


def test_the_caption_says_that_some_samples_have_no_energy(snapshot: object) -> None:
    samples = halved(grid(max_new_tokens=(10,)))
    assert "read in" not in caption(draw("energy", run_of(samples)))
    short = [
        dataclasses.replace(s, energy_j=None) if s.cache == "off" and s.round > 1 else s
        for s in samples
    ]
    assert caption(draw("energy", run_of(short))) == snapshot


def test_the_energy_of_few_rounds_has_no_interval(snapshot: object) -> None:
    figure = draw("energy", run_of(halved(grid(max_new_tokens=(10,), repeats=3))))
    assert texts_of(figure.axes[0])[1].endswith("\n2.00x")
    assert caption(figure) == snapshot


# All of them


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Run:
    samples = with_energy(both(batch_size=(1, 2), max_new_tokens=(10, 20), repeats=5))
    return load_run(save(tmp_path_factory.mktemp("all") / "run", samples, environment=PROBED))


@pytest.fixture(scope="module")
def shown(everything: Run) -> dict[str, Figure]:
    """Return all charts of `everything`, to be looked at only."""
    charts = draw_charts(Material((everything,)), OF_TWO_STRATEGIES)
    return {drawing.chart.name: drawing.figure for drawing in charts}


@pytest.mark.parametrize("name", OF_TWO_STRATEGIES)
def test_what_is_drawn_is_numbers_with_their_units_and_what_was_measured(
    shown: dict[str, Figure], name: str
) -> None:
    figure = shown[name]
    found = list(numbers(figure))
    assert found or name == "speedup_map"
    assert all(map(math.isfinite, found))
    assert all(axes.get_ylabel() for axes in figure.axes)
    assert any(axes.get_xlabel() for axes in figure.axes)
    text = caption(figure)
    for part in (
        "gpt2 (random weights), float32",
        "cpu (Some CPU)",
        "cuda (Some GPU)",
        "sdpa attention",
        "prompt of 6 tokens",
        "Medians of 5 samples",
        "torch 2.13.0, transformers 5.23.0, kvbench 0.1.0, 2026-01-02",
    ):
        assert part in text
    assert outside(figure) == []


def rendered(figure: Figure) -> Any:
    """Return the renderer of a figure after layout."""
    canvas = FigureCanvasAgg(figure)
    figure.draw_without_rendering()  # type: ignore[no-untyped-call]
    return canvas.get_renderer()  # type: ignore[no-untyped-call]


def tick_labels(axes: Axes) -> list[Text]:
    """Return the numbers on the axes, without those beyond the ends, which are not drawn."""
    found = []
    for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
        low, high = sorted(limits)
        found += [tick.label1 for tick in ticks if low <= tick.get_loc() <= high]  # type: ignore[attr-defined]
    return found


def outside(figure: Figure) -> list[str]:
    """Return texts that are partly outside the picture."""
    renderer = rendered(figure)
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes)]
    texts: list[Text] = [
        *figure.texts,
        *(axes.title for axes in figure.axes),
        *(axes.xaxis.label for axes in figure.axes),
        *(axes.yaxis.label for axes in figure.axes),
        *(text for axes in figure.axes for text in tick_labels(axes)),
        *(text for legend in legends if legend for text in legend.get_texts()),
    ]
    found = []
    for text in texts:
        box = text.get_window_extent(renderer)
        sideways = box.x0 >= -2 and box.x1 <= figure.bbox.x1 + 2
        fits = sideways and box.y0 >= -2 and box.y1 <= figure.bbox.y1 + 2
        if text.get_text() and not fits:
            found.append(text.get_text())
    return found


@pytest.mark.parametrize("name", ["total_time", "memory", "phases", "energy", "throughput"])
def test_panels_of_devices_have_the_same_x_axis_and_colours(
    shown: dict[str, Figure], name: str
) -> None:
    cpu, cuda = shown[name].axes[:2]
    assert cpu.get_xlim() == cuda.get_xlim()
    assert cpu.get_ylim()[0] == cuda.get_ylim()[0] == 0
    styles = [{label: style(line) for label, line in lines_of(a).items()} for a in (cpu, cuda)]
    assert styles[0] == styles[1]


def test_the_arms_differ_in_colour_and_in_marker() -> None:
    shown = lines_of(draw("total_time", run_of(grid())).axes[0])
    assert shown[OFF].get_color() != shown[ON].get_color()
    assert shown[OFF].get_marker() != shown[ON].get_marker()


def test_points_are_joined_by_length_whatever_the_order_of_the_samples() -> None:
    samples = grid()
    assert points(lines_of(draw("total_time", run_of(samples[::-1])).axes[0])[ON]) == points(
        lines_of(draw("total_time", run_of(samples)).axes[0])[ON]
    )


@pytest.mark.parametrize(
    ("field", "values", "labels"),
    [
        ("model", ("a/x", "b"), ["a/x", "b"]),
        ("batch_size", (1, 8), ["batch 1", "batch 8"]),
        ("dtype", ("float32", "bfloat16"), ["float32", "bfloat16"]),
        ("attention", ("sdpa", "eager"), ["sdpa", "eager"]),
        ("prompt", ("x", "y"), ["text:x", "text:y"]),
        ("weights", ("random", "pretrained"), ["random", "pretrained"]),
    ],
)
def test_what_differs_between_lines_is_in_their_labels(
    field: str, values: Any, labels: list[str]
) -> None:
    figure = draw("total_time", run_of(grid(**{field: values})))
    shown = lines_of(figure.axes[0])
    assert set(shown) == {f"{arm}, {label}" for arm in (OFF, ON) for label in labels}
    assert sorted(legend_texts(figure)) == sorted(shown)
    assert len({style(line) for line in shown.values()}) == 4


@pytest.mark.parametrize("names", [("a", "b", "c"), ("a", "a", "a"), ("a", "a", "a (1)")])
def test_several_runs_stand_on_the_same_axes(names: tuple[str, ...]) -> None:
    runs = [
        run_of(grid(lambda case, f=f: f * time_of(case), cache=("dynamic",)), name)
        for f, name in enumerate(names, start=1)
    ]
    shown = lines_of(draw("total_time", *runs).axes[0])
    assert sorted(line.get_ydata()[-1] for line in shown.values()) == pytest.approx([1, 2, 3])
    assert len(shown) == 3


def test_the_caption_names_the_machines_of_all_runs(snapshot: object) -> None:
    runs = [
        run_of(grid(), "a", environment=machine("First CPU", versions={"torch": "2.12.0"})),
        run_of(grid(), "b", environment=machine("Second CPU")),
    ]
    text = caption(draw("total_time", *runs))
    assert text == snapshot


def test_a_case_alone_is_drawn(tmp_path: Path) -> None:
    samples = grid(cache=("dynamic",), max_new_tokens=(5,), repeats=1)
    run = load_run(save(tmp_path / "run", samples))
    assert drawn(run) == {"total_time", "token_latency", "memory", "phases"}
    for figure in figures(run):
        assert all(map(math.isfinite, numbers(figure)))
        assert outside(figure) == []


def test_no_name_is_read_as_a_formula_or_makes_a_warning() -> None:
    """Warnings are errors here: a missing glyph in the font would raise one."""
    here = machine(" ".join(HARD_NAMES))
    axes = {"prompt": HARD_NAMES, "max_new_tokens": (10,), "repeats": 2}
    run = run_of(grid(**axes), " ".join(HARD_NAMES), environment=here)
    other = run_of(both(**axes), "$", environment=here)
    names = ("total_time", "speedup", "devices", "speedup_map")
    charts = list(draw_charts(Material((run, other)), names))
    # A map would need two lengths.
    assert [drawing.chart.name for drawing in charts] == ["total_time", "speedup", "devices"]
    for drawing in charts:
        assert drawing.image("svg").startswith(b"<?xml")


def test_names_are_drawn_as_they_are() -> None:
    names = [name for name in HARD_NAMES if name.isprintable()]
    run = run_of(grid(prompt=names, max_new_tokens=(10, 20), cache=("off",), repeats=1))
    figure = draw("total_time", run)
    shown = ["".join(c if c.isascii() else "?" for c in name) for name in names]
    assert set(legend_texts(figure)) == {f"{OFF}, text:{name}" for name in shown}
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes)]
    texts = [text for legend in legends if legend for text in legend.get_texts()]
    assert not any(text.get_parse_math() for text in texts)


@pytest.mark.parametrize(
    "prompts",
    [
        (
            "The same beginning of two long prompts: first",
            "The same beginning of two long prompts: 2nd",
        ),
        ("明天", "今天"),
        ("明天", "今天", "??"),
        ("a  b", "a b"),
    ],
    ids=["long", "chinese", "question marks", "spaces"],
)
def test_prompts_that_look_alike_have_labels_of_their_own(
    prompts: tuple[str, ...], snapshot: object
) -> None:
    figure = draw("total_time", run_of(grid(prompt=prompts, cache=("dynamic",))))
    assert sorted(legend_texts(figure)) == snapshot
    assert len(lines_of(figure.axes[0])) == len(prompts)


def test_prompts_have_their_number_by_the_order_of_the_plan() -> None:
    planned = tuple({"prompt": {"label": f"text:{text}"}} for text in ("明天", "今天", "后天"))
    times = {"text:明天": 1.0, "text:今天": 2.0}
    samples = grid(lambda case: times[case.prompt.label], prompt=("今天", "明天"))
    shown = lines_of(draw("total_time", run_of(samples, cases=planned)).axes[0])
    assert shown[f"{ON}, prompt 1: text:??"].get_ydata()[-1] == 1  # type: ignore[index]
    assert shown[f"{ON}, prompt 2: text:??"].get_ydata()[-1] == 2  # type: ignore[index]


def test_a_prompt_has_one_name_in_all_charts() -> None:
    run = run_of(grid(prompt=("明天", "今天"), batch_size=(1, 2)))
    for name in ("total_time", "speedup", "memory", "throughput", "phases"):
        assert "prompt 2: text:??" in " ".join(legend_texts(draw(name, run)))
    assert "prompt 2: text:??" in draw("speedup_map", run).axes[1].get_title()


@pytest.mark.parametrize(
    ("name", "cache"),
    [
        ("total_time", ("off", "dynamic")),
        ("total_time", ("dynamic",)),
        ("speedup", ("off", "dynamic")),
        ("token_latency", ("off", "dynamic")),
        ("token_latency", ("dynamic",)),
    ],
)
def test_twelve_batch_sizes_do_not_look_alike(
    tmp_path: Path, name: str, cache: tuple[str, ...]
) -> None:
    samples = grid(batch_size=range(1, 13), cache=cache, max_new_tokens=(5, 10), repeats=1)
    shown = lines_of(draw(name, load_run(save(tmp_path / "run", samples))).axes[0])
    assert len(shown) == 12 * (1 if name == "speedup" else len(cache))
    assert len({style(line) for line in shown.values()}) == len(shown)


@pytest.mark.parametrize("cache", [("off", "dynamic"), ("dynamic",)])
def test_as_many_lines_as_there_are_looks_have_one_of_their_own(cache: tuple[str, ...]) -> None:
    most = KINDS**3 // len(cache)
    samples = grid(batch_size=range(1, most + 3), cache=cache, repeats=1, max_new_tokens=(1, 2))
    lines = Material((run_of(samples),)).lines()
    assert len({line.look for line in lines[: most * len(cache)]}) == most * len(cache)
    # The color is the strategy's as long as there is one.
    first = [line.look.colour for line in lines[: 2 * len(cache)]]
    assert first == ([0, 1, 0, 1] if len(cache) == 2 else [1, 2])


def test_more_strategies_than_colours_do_not_look_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    more = [f"strategy{n}" for n in range(8)]
    for cache in more:
        entry = CacheStrategy(name=cache, description="Only here.", body="a:b")
        monkeypatch.setitem(STRATEGIES, cache, entry)
    samples = grid(cache=("off", "dynamic", *more), batch_size=(1, 2), device=("cpu", "cuda"))
    shown = lines_of(draw("total_time", run_of(samples)).axes[0])
    assert len({style(line) for line in shown.values()}) == len(shown) == 20
    bars = draw("devices", run_of(samples)).axes[0].patches
    assert len({(bar.get_facecolor(), bar.get_hatch()) for bar in bars}) == 10


def test_the_arms_are_told_apart_without_colours() -> None:
    run = run_of(grid(batch_size=range(1, 20), max_new_tokens=(5, 10), repeats=1))
    shown = lines_of(draw("total_time", run).axes[0]).values()
    assert len({style(line)[1:] for line in shown}) == len(shown) == 38


@pytest.mark.parametrize("kinds", [COLOURS, style_module._MARKERS, style_module._DASHES])
def test_there_are_as_many_kinds_as_looks_count_with(kinds: Sequence[Any]) -> None:
    assert len(kinds) == len(set(map(str, kinds))) == KINDS


def test_the_dash_of_a_line_is_seen_in_the_legend() -> None:
    """Its handle is as long as the longest pattern, and no error bar hides the marker."""
    figure = draw("total_time", run_of(grid(batch_size=range(1, 8), repeats=1)))
    (legend,) = figure.legends
    for handle in legend.legend_handles:
        assert isinstance(handle, Line2D)
        length = np.ptp(handle.get_xdata())
        _, pattern = handle._unscaled_dash_pattern  # type: ignore[attr-defined]
        assert length >= sum(pattern or ()) * handle.get_linewidth()


LONG = "an-organisation/a-model-with-a-long-name-of-many-words-Instruct-v0.3"


def crowd(name: str) -> list[Run]:
    """Return runs with long names, or with many lines."""
    newer = [f"2026-11-2{day}-Llama-3.2-1B-Instruct+1-a1b2c3" for day in (1, 2)]
    models = ("meta-llama/Llama-3.2-1B-Instruct", "HuggingFaceTB/SmolLM2-135M-Instruct")
    texts = ("Write a story about a small robot that", "Explain how the KV cache works to a")
    vendor = machine("Some Vendor(R) Processor of a Long Name, 3.00 GHz " * 2)
    few: dict[str, Any] = {"max_new_tokens": (10, 20), "batch_size": (1, 2), "repeats": 1}
    if name == "newer names":
        return [run_of(grid(**few, model=models, prompt=texts), run) for run in newer]
    if name == "long names":
        axes = {"model": (f"{LONG}-1", f"{LONG}-2"), "prompt": ("word " * 20, "other " * 20)}
        return [run_of(both(**few, **axes), environment=vendor)]
    if name == "no spaces":
        return [run_of(grid(**few, model=("W" * 90, "M" * 90)), environment=machine("W" * 90))]
    if name == "many combinations":
        dtypes = ("float32", "float16", "bfloat16")
        axes = {"dtype": dtypes, "attention": ("eager", "sdpa", "flash_attention_2")}
        return [run_of(grid(**few, **axes, device=("cpu", "cuda:0")))]
    assert name == "many batch sizes"
    return [run_of(both(**few | {"batch_size": (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)}))]


@pytest.mark.parametrize(
    "name",
    ["newer names", "long names", "no spaces", "many combinations", "many batch sizes"],
)
def test_many_lines_and_long_names_leave_the_panels_their_room(name: str) -> None:
    """Warnings are errors here: a failing layout would raise one."""
    for figure in figures(*crowd(name)):
        assert outside(figure) == []
        renderer = rendered(figure)
        panels = [axes.get_window_extent(renderer) for axes in figure.axes]
        dpi = figure.dpi
        # A map is smaller than others.
        assert all(box.width / dpi > 3.5 and box.height / dpi > 1.8 for box in panels)
        below = [figure._supxlabel, *figure.legends]  # type: ignore[attr-defined]
        boxes = [text.get_window_extent(renderer) for text in below]
        whole = [axes.get_tightbbox(renderer) for axes in figure.axes]
        pairs = itertools.combinations([*boxes, *(box for box in whole if box)], 2)
        assert [pair for pair in pairs if overlap(*pair)] == []


def overlap(a: BboxBase, b: BboxBase) -> bool:
    """Return whether two boxes share more than an edge."""
    shared = BboxBase.intersection(a, b)
    return shared is not None and shared.width > 2 and shared.height > 2


@pytest.mark.parametrize("name", ["newer names", "long names"])
def test_long_labels_are_broken_and_not_cut(name: str) -> None:
    figure = draw("total_time", *crowd(name))
    labels = {label for axes in figure.axes for label in lines_of(axes)}
    shown = [" ".join(text.split()) for text in legend_texts(figure)]
    # A label may break after a hyphen, where there is no space.
    assert {text.replace("- ", "-") for text in shown} == labels
    assert len(shown) == len(set(shown))


def test_the_legend_stands_below_the_panels() -> None:
    run = run_of(grid(batch_size=(1, 2, 3, 4, 5, 6)))
    figure = draw("total_time", run)
    renderer = rendered(figure)
    (legend,) = figure.legends
    assert len(legend_texts(figure)) == 12
    top = legend.get_window_extent(renderer).y1
    assert top < min(axes.get_window_extent(renderer).y0 for axes in figure.axes)


def test_the_title_names_all_machines_of_a_panel(snapshot: object) -> None:
    runs = [run_of(grid(), n, environment=machine(f"{n} CPU")) for n in ("First", "Second")]
    assert draw("total_time", *runs).axes[0].get_title() == snapshot


@pytest.mark.parametrize("repeats", [1, 2])
def test_one_sample_is_no_plural(repeats: int, snapshot: object) -> None:
    assert caption(draw("total_time", run_of(grid(repeats=repeats)))) == snapshot


def test_what_is_not_known_of_a_case_is_not_none_in_the_caption(snapshot: object) -> None:
    samples = [dataclasses.replace(s, attention_used=None, prompt_tokens=1) for s in grid()]
    text = caption(draw("total_time", run_of(samples)))
    assert "unknown attention" in text
    assert text == snapshot


def test_weights_of_several_sizes_are_told_apart(snapshot: object) -> None:
    samples = [
        dataclasses.replace(s, weights_bytes=len(s.model) << 20) for s in grid(model=("a", "gpt2"))
    ]
    shown = lines_of(draw("memory", run_of(samples)).axes[0])
    weights = {label: line for label, line in shown.items() if label.startswith("weights")}
    assert list(weights) == snapshot
    assert [line.get_ydata()[0] for line in weights.values()] == [1, 4]  # type: ignore[index]
    assert len({style(line) for line in weights.values()}) == 2


def test_a_batch_size_has_no_half() -> None:
    (axes,) = draw("throughput", run_of(grid(batch_size=(1, 2)))).axes
    assert [float(x).is_integer() for x in axes.get_xticks()] == [True] * len(axes.get_xticks())


@pytest.mark.parametrize("ends", [(0.9, 1.2), (0.15, 0.8), (0.3, 4), (0.02, 3), (0.01, 500)])
def test_a_logarithmic_axis_has_numbers_whatever_its_length(ends: tuple[float, float]) -> None:
    rows = [compared(ratio, ratio_ci95_low=None, ratio_ci95_high=None) for ratio in ends]
    figure = ratio_chart(rows, ["a", "b"], 0.05)
    rendered(figure)
    low, high = figure.axes[0].get_xlim()
    # The other axis has names.
    texts = [text.get_text() for text in tick_labels(figure.axes[0])]
    shown = [float(text) for text in texts if text and text not in "ab"]
    assert 3 <= len(shown) <= 14
    assert all(low <= number <= high for number in shown)


# Files


def test_charts_are_written_as_png_and_svg(tmp_path: Path) -> None:
    charts = list(draw_charts(Material((run_of(grid()),)), ["phases", "total_time"]))
    paths = write_charts(charts, tmp_path / "charts")
    assert [str(path.relative_to(tmp_path)) for path in paths] == [
        "charts/phases.png",
        "charts/phases.svg",
        "charts/total_time.png",
        "charts/total_time.svg",
    ]
    assert paths[0].read_bytes().startswith(b"\x89PNG\r\n")
    assert b"<svg" in paths[1].read_bytes()


def test_no_date_and_no_version_stands_in_a_picture() -> None:
    (drawing,) = draw_charts(Material((run_of(grid()),)), ["phases"])
    assert b"Matplotlib" not in drawing.image("png")
    assert b"<dc:date>" not in drawing.image("svg")


def test_without_charts_no_folder_is_made(tmp_path: Path) -> None:
    assert write_charts([], tmp_path / "charts") == []
    assert not (tmp_path / "charts").exists()


# The chart of a comparison


def compared(ratio: float, **fields: Any) -> Comparison:
    known: dict[str, Any] = {
        "a": "old",
        "b": "new",
        "a_samples": 9,
        "b_samples": 9,
        "a_total_s": 1.0,
        "b_total_s": ratio,
        "ratio": ratio,
        "ratio_ci95_low": ratio * 0.95,
        "ratio_ci95_high": ratio * 1.1,
    }
    return Comparison(**(known | fields))


def test_the_chart_of_ratios_has_a_line_with_its_interval_for_each_row() -> None:
    rows = [
        compared(1.2, verdict="slower"),
        compared(0.8, verdict="faster"),
        compared(1.0, ratio_ci95_low=None, ratio_ci95_high=None),
    ]
    (axes,) = ratio_chart(rows, ["first", "$second$", "第三"], 0.05).axes
    assert [t.get_text() for t in axes.get_yticklabels()] == ["??", "$second$", "first"]
    at_one, *drawn_lines = axes.get_lines()
    assert list(at_one.get_xdata()) == [1, 1]
    intervals, marks = drawn_lines[::2], drawn_lines[1::2]
    assert [list(line.get_xdata()) for line in intervals] == [
        [1.0, 1.0],
        pytest.approx([0.76, 0.88]),
        pytest.approx([1.14, 1.32]),
    ]
    assert [line.get_xdata()[0] for line in marks] == [1.0, 0.8, 1.2]
    assert len({line.get_marker() for line in marks}) == 3
    (threshold,) = axes.patches
    assert threshold.get_x() == pytest.approx(1 / 1.05)  # type: ignore[attr-defined]
    assert threshold.get_x() + threshold.get_width() == pytest.approx(1.05)  # type: ignore[attr-defined]
    assert "lines: 95 % CI" in axes.get_xlabel()
    assert axes.get_title() == "A: old, B: new"


def test_of_many_rows_the_furthest_from_one_are_drawn() -> None:
    rows = [compared(1 + i / 100) for i in range(80)] + [compared(0.2)]
    (axes,) = ratio_chart(rows, [str(i) for i in range(81)], 0.05).axes
    labels = [int(t.get_text()) for t in axes.get_yticklabels()]
    assert len(labels) == 60
    assert set(labels) == {80, *range(21, 80)}
    assert labels == sorted(labels, reverse=True)


def test_the_prompt_of_a_fixed_length_is_labelled_by_it() -> None:
    samples = grid(prompt=prompts(8, 16), cache=("dynamic",))
    shown = lines_of(draw("total_time", run_of(samples)).axes[0])
    assert set(shown) == {f"{ON}, tokens:8", f"{ON}, tokens:16"}


def test_long_labels_of_ratios_are_broken_and_not_cut() -> None:
    names = [f"gpt2-2026112{n}-093012, {LONG}, cuda:0, bfloat16, dynamic, batch 8" for n in (1, 2)]
    rows = [compared(1.2, b=name) for name in names]
    figure = ratio_chart(rows, names, 0.05)
    (axes,) = figure.axes
    shown = [" ".join(t.get_text().split()) for t in axes.get_yticklabels()]
    assert [text.replace("- ", "-") for text in shown] == names[::-1]
    assert outside(figure) == []
    boxes = [text.get_window_extent(rendered(figure)) for text in axes.get_yticklabels()]
    assert not boxes[0].overlaps(boxes[1])


def test_rows_that_are_called_the_same_have_their_number() -> None:
    (axes,) = ratio_chart([compared(1.2), compared(1.1)], ["明天", "今天"], 0.05).axes
    assert [t.get_text() for t in axes.get_yticklabels()] == ["row 2: ??", "row 1: ??"]


def test_the_marks_of_ratios_are_explained(snapshot: object) -> None:
    rows = [compared(1.2, verdict="slower"), compared(1.0, verdict="unclear")]
    (axes,) = ratio_chart(rows, ["a", "b"], 0.05).axes
    assert axes.get_xlabel() == snapshot


# What theory says


def test_floors_are_dashed_beside_what_was_measured(
    everything: Run, shown: dict[str, Figure]
) -> None:
    for name, field in (
        ("total_time", "floor_s"),
        ("speedup", "expected_speedup"),
        ("memory", "expected_cache_bytes"),
    ):
        cases = [case for case in summarize_run(everything) if getattr(case, field) is not None]
        cached = [case for case in cases if name == "total_time" or case.cache != "off"]
        found = {round(float(y), 9) for line in thin_lines(shown[name]) for y in line.get_ydata()}
        scale = 2**-20 if name == "memory" else 1.0
        assert {round(getattr(case, field) * scale, 9) for case in cached} <= found
        assert "short dashes" in caption(shown[name])


def thin_lines(figure: Figure) -> list[Any]:
    return [
        line
        for axes in figure.axes
        for line in axes.lines
        if line.get_linewidth() == 1 and line.get_marker() in ("None", "", None)
    ]


def test_without_rates_nothing_is_said_of_theory() -> None:
    for name in ("total_time", "speedup", "memory"):
        assert "short dashes" not in caption(draw(name, run_of(grid())))


def test_the_roof_has_its_ridge_where_bandwidth_meets_arithmetic(snapshot: object) -> None:
    rates = make_rates(read_bytes_per_s=10e9, flops_per_s={"float32": 100e9})
    run = run_of(grid(), environment=make_environment(rates=(rates,)))
    axes = draw("roofline", run).axes[0]
    roof = next(line for line in axes.lines if str(line.get_label()).startswith("roof"))
    assert roof.get_label() == snapshot
    assert (10.0, pytest.approx(0.1)) in list(zip(*roof.get_data(), strict=True))
    arms = {line.get_label(): line for line in axes.lines if line is not roof}
    cases = {(c.cache, c.max_new_tokens): c for c in summarize_run(run)}
    for cache, label in (("off", OFF), ("dynamic", ON)):
        found = list(zip(*arms[label].get_data(), strict=True))
        expected = [cases[cache, n] for n in (10, 50, 100)]
        assert found == [
            (
                pytest.approx(c.flops / c.moved_bytes),  # type: ignore[operator]
                pytest.approx(c.flops / c.total_s_median / 1e12),  # type: ignore[operator]
            )
            for c in expected
        ]


def test_settings_in_the_current_folder_change_no_chart() -> None:
    def image() -> bytes:
        (drawing,) = draw_charts(Material((run_of(grid()),)), ["total_time"])
        return drawing.image("png")

    plain = image()
    # What a `matplotlibrc` there may say; TeX would run a program.
    with mpl.rc_context({"axes.facecolor": "red", "text.usetex": True, "savefig.bbox": "tight"}):
        assert image() == plain


def test_the_tradeoff_has_a_point_for_each_strategy_and_rings_the_front() -> None:
    from kvbench.records.run import load_run

    run = load_run(Path(__file__).parents[1] / "golden" / "gpt2-strategies")
    [drawing] = draw_charts(Material((run,)), ["tradeoff"])
    [axes] = drawing.figure.axes
    labels = axes.get_legend_handles_labels()[1]
    assert labels == ["off", "dynamic", "static"]
    rings = [line for line in axes.lines if line.get_markerfacecolor() == "none"]
    # static keeps as much as dynamic and was slower.
    assert len(rings) == 2


def test_there_is_no_tradeoff_with_one_strategy_that_caches() -> None:
    from kvbench.records.run import load_run

    run = load_run(Path(__file__).parents[1] / "golden" / "gpt2-cpu")
    assert list(draw_charts(Material((run,)), ["tradeoff"])) == []
