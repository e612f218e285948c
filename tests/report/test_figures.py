"""Tests of kvbench/report/figures: the data that are drawn, not the pixels."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from kvbench.analysis.compare import Comparison
from kvbench.analysis.summary import summarise_cases
from kvbench.case import Prompt
from kvbench.errors import UserError
from kvbench.records.run import Run, load_run
from kvbench.records.sample import Sample
from kvbench.report.figures import CHARTS, Material, draw_charts, to_bytes, write_charts
from kvbench.report.figures.ratios import ratio_chart
from tests.fakes import make_case
from tests.report.saved import grid, machine, run_of, samples_of, save, time_of

OFF, ON = "cache off", "cache on (dynamic)"

HARD_NAMES = ["明天降温了", r"$\frac{x}$", "$a$b$", "a_b^c", "{x} %s", "<b>&amp;</b>", "🤷", "a\tb"]


def draw(name: str, *runs: Run) -> Figure:
    ((chart, figure),) = draw_charts(Material(runs), [name])
    assert chart.name == name
    return figure


def drawn(*runs: Run) -> set[str]:
    return {chart.name for chart, _ in draw_charts(Material(runs))}


def lines_of(axes: Axes) -> dict[str, Line2D]:
    """The lines that stand in a legend, by label."""
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
    """The ends of a band at each x."""
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
    """Every coordinate that is drawn."""
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


def test_the_charts_are_the_nine_of_the_registry() -> None:
    assert list(CHARTS) == [
        "total_time",
        "token_latency",
        "speedup",
        "memory",
        "throughput",
        "speedup_map",
        "devices",
        "phases",
        "energy",
    ]
    for name, chart in CHARTS.items():
        assert name == chart.name
        assert chart.title
        assert chart.question.endswith("?")


def test_a_grid_without_energy_and_gpu_has_the_charts_of_its_data(tmp_path: Path) -> None:
    run = load_run(save(tmp_path / "run", grid(batch_size=(1, 2), repeats=2)))
    assert drawn(run) == set(CHARTS) - {"devices", "energy"}


def test_everything_is_drawn_of_a_run_that_has_everything(tmp_path: Path) -> None:
    samples = with_energy(grid(batch_size=(1, 2), device=("cpu", "cuda"), repeats=1))
    assert drawn(load_run(save(tmp_path / "run", samples))) == set(CHARTS)


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


@pytest.mark.parametrize("name", CHARTS)
def test_nothing_is_drawn_of_nothing(name: str) -> None:
    failed = [dataclasses.replace(s, status="oom", total_s=None) for s in grid()]
    assert CHARTS[name].draw(Material((run_of([]),))) is None
    assert CHARTS[name].draw(Material((run_of(failed),))) is None


def test_a_chart_that_there_is_not_is_a_sentence() -> None:
    with pytest.raises(UserError, match=r"no chart 'speed-up'.*did you mean 'speedup'"):
        list(draw_charts(Material((run_of(grid()),)), ["total_time", "speed-up"]))


# 1. Total time


def test_total_time_is_seconds_against_new_tokens_linear_and_logarithmic() -> None:
    linear, logarithmic = draw("total_time", run_of(grid())).axes
    for axes in (linear, logarithmic):
        shown = lines_of(axes)
        assert list(shown) == [OFF, ON]
        assert points(shown[OFF]) == [(10, 0.11), (50, 0.75), (100, 2.0)]
        assert points(shown[ON]) == [(10, 0.1), (50, 0.5), (100, 1.0)]
        assert axes.get_ylabel() == "Time of the whole generation (s)"
    assert (linear.get_xscale(), linear.get_yscale()) == ("linear", "linear")
    assert (logarithmic.get_xscale(), logarithmic.get_yscale()) == ("log", "log")
    assert logarithmic.get_xlabel() == "New tokens per sequence"
    assert (linear.get_xlim()[0], linear.get_ylim()[0]) == (0, 0)
    assert logarithmic.get_xlim()[0] > 0
    assert linear.get_title() == "cpu: Some CPU"


def test_error_bars_are_the_quartiles() -> None:
    run = run_of(grid(max_new_tokens=(100,)))
    cases = {case.cache: case for case in summarise_cases(run.samples)}
    for bar in draw("total_time", run).axes[0].containers:
        assert isinstance(bar, ErrorbarContainer)
        case = cases["off" if bar.get_label() == OFF else "dynamic"]
        (segment,) = bar.lines[2][0].get_segments()
        assert segment[:, 1].tolist() == pytest.approx([case.total_s_q1, case.total_s_q3])


def test_error_bars_of_few_samples_are_the_range() -> None:
    run = run_of(grid(max_new_tokens=(100,), cache=("dynamic",), repeats=3))
    figure = draw("total_time", run)
    (bar,) = figure.axes[0].containers
    assert isinstance(bar, ErrorbarContainer)
    (segment,) = bar.lines[2][0].get_segments()
    assert segment[:, 1].tolist() == pytest.approx([0.98, 1.02])
    assert "bars: smallest to largest" in caption(figure)


def test_one_length_has_no_logarithmic_panel() -> None:
    assert len(draw("total_time", run_of(grid(max_new_tokens=(100,)))).axes) == 1


def test_the_logarithmic_axis_has_ticks_at_the_measured_lengths() -> None:
    axes = draw("total_time", run_of(grid(max_new_tokens=(10, 50, 55, 100)))).axes[1]
    # 55 has no room beside 50.
    assert axes.get_xticks().tolist() == [10, 50, 100]


# 2. Time of each token


def test_token_latency_is_milliseconds_against_position(tmp_path: Path) -> None:
    """A run whose n-th token takes n ms, and in half of the samples 2 ms more."""

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
    assert axes.get_xlabel() == "Position of the new token"
    assert axes.get_ylabel() == "Time since the token before (ms)"
    assert "bands: quartiles over the samples" in caption(figure)


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


def test_speedup_is_off_over_cached_with_the_line_at_one() -> None:
    (axes,) = draw("speedup", run_of(grid())).axes
    assert points(lines_of(axes)[ON]) == [(10, 1.1), (50, 1.5), (100, 2.0)]
    level = [line for line in axes.get_lines() if str(line.get_label()).startswith("_")]
    assert [list(line.get_ydata()) for line in level] == [[1, 1]]
    assert "as fast as without" in texts_of(axes)
    assert axes.get_ylabel() == "Time without the cache / with it"
    assert axes.get_ylim()[0] == 0


def test_the_band_of_the_speedup_is_its_interval() -> None:
    run = run_of(grid())
    (found,) = bands(draw("speedup", run).axes[0])
    for case in summarise_cases(run.samples):
        if case.cache == "dynamic":
            ends = (case.speedup_ci95_low, case.speedup_ci95_high)
            assert found[case.max_new_tokens] == pytest.approx(ends)


def test_the_band_of_few_samples_is_the_range_of_the_rounds() -> None:
    samples = [
        *samples_of(make_case(cache="off"), 2.0, 1),
        *samples_of(make_case(), 1.0, 1),
    ]
    samples += [
        dataclasses.replace(s, repeat=1, round=1, total_s=3 * s.total_s if s.use_cache else 9.0)
        for s in samples
        if s.total_s
    ]
    figure = draw("speedup", run_of(samples))
    assert bands(figure.axes[0]) == [{100.0: (2.0, 3.0)}]
    assert "bands: range over the rounds" in caption(figure)


def test_there_is_a_line_for_each_batch_size() -> None:
    (axes,) = draw("speedup", run_of(grid(batch_size=(1, 2, 8)))).axes
    assert list(lines_of(axes)) == [f"{ON}, batch {n}" for n in (1, 2, 8)]
    assert len(bands(axes)) == 3


# 4. Memory


def test_memory_is_the_peak_the_cache_and_the_weights() -> None:
    peaks, caches = draw("memory", run_of(grid())).axes
    shown = lines_of(peaks)
    assert points(shown[OFF]) == points(shown[ON]) == [(n, 600) for n in (10, 50, 100)]
    assert list(shown["weights"].get_ydata()) == pytest.approx([4_000_000 / 2**20] * 2)
    assert points(lines_of(caches)[ON]) == [(n, 73_728 * (5 + n) / 2**20) for n in (10, 50, 100)]
    # What there is not is not drawn as zero.
    assert OFF not in lines_of(caches)
    assert (peaks.get_ylabel(), caches.get_ylabel()) == ("Peak (MiB)", "Keys and values (MiB)")


def test_memory_that_some_cases_lack_is_a_gap_and_no_zero() -> None:
    samples = [
        dataclasses.replace(s, kv_cache_bytes=None) if s.max_new_tokens == 50 else s
        for s in grid(cache=("dynamic",))
    ]
    line = lines_of(draw("memory", run_of(samples)).axes[1])[ON]
    assert [math.isnan(y) for y in line.get_ydata()] == [False, True, False]


# 5. Throughput


def test_throughput_is_tokens_of_the_batch_against_its_size() -> None:
    run = run_of(grid(batch_size=(1, 4, 16), max_new_tokens=(100,)))
    (axes,) = draw("throughput", run).axes
    shown = lines_of(axes)
    assert points(shown[ON]) == [(1, 100), (4, 200), (16, 400)]
    assert points(shown[OFF]) == [(1, 50), (4, 100), (16, 200)]
    assert axes.get_xlabel() == "Batch size (sequences), 100 new tokens each"
    assert axes.get_ylabel() == "New tokens of the batch per second"


def test_throughput_is_that_of_the_longest_length() -> None:
    (axes,) = draw("throughput", run_of(grid(batch_size=(1, 4)))).axes
    assert len(lines_of(axes)) == 2
    assert points(lines_of(axes)[f"{ON}, 100 new tokens"]) == [(1, 100), (4, 200)]


# 6. The map


def test_the_map_has_the_speedup_in_each_cell() -> None:
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
    assert axes.get_xlabel() == "New tokens per sequence"
    assert axes.get_ylabel() == "Batch size (sequences)"
    # The first row is the lower one.
    assert axes.get_ylim()[0] < axes.get_ylim()[1]


def test_numbers_in_the_map_are_light_on_dark_and_dark_on_light() -> None:
    (axes,) = draw("speedup_map", run_of(grid(batch_size=(1, 2)))).axes
    (image,) = axes.get_images()
    for text in axes.texts:
        x, y = text.get_position()
        red, green, blue, _ = image.to_rgba(image.get_array())[int(y), int(x)]
        light = 0.2126 * red + 0.7152 * green + 0.0722 * blue
        assert text.get_color() == ("white" if light < 0.4 else "black")


def test_a_map_of_one_value_is_drawn() -> None:
    run = run_of(grid(lambda case: 1.0, batch_size=(1, 2)))
    assert set(texts_of(draw("speedup_map", run).axes[0])) == {"1.00x"}


@pytest.mark.xfail(reason="the head says device, cache and dtype only")
def test_maps_of_several_runs_and_models_are_told_apart() -> None:
    runs = [run_of(grid(batch_size=(1, 2)), name) for name in "ab"]
    models = run_of(grid(batch_size=(1, 2), model=("gpt2", "llama")))
    for material in (runs, [models]):
        titles = [axes.get_title() for axes in draw("speedup_map", *material).axes]
        assert len(set(titles)) == 2


# 7. CPU against GPU


def gpu_is_20_times_as_fast(case: Any) -> float:
    return time_of(case) / (1 if case.device == "cpu" else 20)


def both(**axes: Any) -> list[Sample]:
    return grid(gpu_is_20_times_as_fast, device=("cpu", "cuda"), **axes)


def test_devices_are_bars_with_their_ratio_and_lines() -> None:
    figure = draw("devices", run_of(both()))
    bars, lines = figure.axes
    assert [bar.get_height() for bar in bars.patches] == pytest.approx([2.0, 1.0, 0.1, 0.05])
    assert texts_of(bars) == [
        "2.00 s\n1.00x",
        "1.00 s\n2.00x",
        "100 ms\n20.0x",
        "50.0 ms\n40.0x",
    ]
    assert [t.get_text() for t in bars.get_xticklabels()] == ["cpu\nSome CPU", "cuda\nSome GPU"]
    assert bars.get_ylabel() == "Time of 100 new tokens (s)"
    shown = lines_of(lines)
    assert list(shown) == [f"{d}, {arm}" for d in ("cpu", "cuda") for arm in (OFF, ON)]
    assert points(shown[f"cuda, {ON}"]) == [(10, 0.005), (50, 0.025), (100, 0.05)]
    assert lines.get_yscale() == "log"
    assert lines.get_ylabel() == "Time of the whole generation (s)"


def test_the_bars_stand_beside_each_other() -> None:
    bars = draw("devices", run_of(both())).axes[0].patches
    spans = sorted((bar.get_x(), bar.get_x() + bar.get_width()) for bar in bars)  # type: ignore[attr-defined]
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))


def test_devices_are_compared_at_the_longest_length_that_all_have() -> None:
    samples = [s for s in both() if (s.device, s.max_new_tokens) != ("cuda", 100)]
    bars, _ = draw("devices", run_of(samples)).axes
    assert bars.get_ylabel() == "Time of 50 new tokens (s)"
    assert [bar.get_height() for bar in bars.patches] == pytest.approx([0.75, 0.5, 0.0375, 0.025])


def test_devices_without_a_case_in_common_have_no_chart() -> None:
    samples = [*grid(max_new_tokens=(10,)), *grid(device=("cuda",), max_new_tokens=(50,))]
    assert CHARTS["devices"].draw(Material((run_of(samples),))) is None


def test_devices_of_two_runs_are_put_together() -> None:
    cpu, gpu = run_of(grid(), "laptop"), run_of(grid(device=("cuda",)), "box")
    bars, lines = draw("devices", cpu, gpu).axes
    assert len(bars.patches) == 4
    assert len(lines_of(lines)) == 4


@pytest.mark.xfail(reason="bars of the same device of two runs lie on one another")
def test_bars_of_two_runs_on_one_device_stand_beside_each_other() -> None:
    runs = [
        run_of(grid(), "one"),
        run_of(grid(lambda case: 2 * time_of(case)), "two"),
        run_of(grid(device=("cuda",)), "gpu"),
    ]
    bars = draw("devices", *runs).axes[0].patches
    places = [round(bar.get_x(), 6) for bar in bars]  # type: ignore[attr-defined]
    assert len(set(places)) == len(places)


@pytest.mark.xfail(reason="the legend of the bars is switched off by `if False`")
def test_the_strategy_of_a_bar_is_told() -> None:
    axes = draw("devices", run_of(both())).axes[0]
    assert axes.get_legend() is not None


# 8. Prefill and decode


def test_phases_are_milliseconds_to_the_first_token_and_between() -> None:
    first, between = draw("phases", run_of(grid())).axes
    assert points(lines_of(first)[OFF]) == [(10, 11.0), (50, 15.0), (100, 20.0)]
    assert points(lines_of(between)[ON]) == [(10, 10.0), (50, 10.0), (100, 10.0)]
    assert first.get_ylabel() == "Time to first token (ms)"
    assert between.get_ylabel() == "Time between tokens (ms)"


# 9. Energy


def test_energy_is_joules_per_new_token_of_the_batch() -> None:
    run = run_of(with_energy(grid(batch_size=(1, 4), device=("cuda",)), 3.0))
    (axes,) = draw("energy", run).axes
    for line in lines_of(axes).values():
        assert points(line) == [(n, 3.0) for n in (10, 50, 100)]
    assert len(lines_of(axes)) == 4
    assert axes.get_ylabel() == "Energy of the board per new token (J)"


# All of them


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Run:
    samples = with_energy(both(batch_size=(1, 2), max_new_tokens=(10, 20), repeats=5))
    return load_run(save(tmp_path_factory.mktemp("all") / "run", samples))


@pytest.mark.parametrize("name", CHARTS)
def test_all_that_is_drawn_is_a_number(everything: Run, name: str) -> None:
    found = list(numbers(draw(name, everything)))
    assert found or name == "speedup_map"
    assert all(map(math.isfinite, found))


@pytest.mark.parametrize("name", CHARTS)
def test_the_caption_says_what_was_measured(everything: Run, name: str) -> None:
    text = caption(draw(name, everything))
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


@pytest.mark.parametrize("name", CHARTS)
def test_nothing_runs_out_of_the_picture(everything: Run, name: str) -> None:
    figure = draw(name, everything)
    assert outside(figure) == []


def outside(figure: Figure) -> list[str]:
    """Texts that stand in part outside the picture."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes)]
    texts: list[Text] = [
        *figure.texts,
        *(axes.title for axes in figure.axes),
        *(axes.xaxis.label for axes in figure.axes),
        *(axes.yaxis.label for axes in figure.axes),
        *(text for legend in legends if legend for text in legend.get_texts()),
    ]
    found = []
    for text in texts:
        box = text.get_window_extent(renderer)
        fits = box.x0 >= -2 and box.x1 <= figure.bbox.x1 + 2 and box.y0 >= -2
        if text.get_text() and not fits:
            found.append(text.get_text())
    return found


@pytest.mark.parametrize("name", CHARTS)
def test_units_stand_on_all_axes(everything: Run, name: str) -> None:
    figure = draw(name, everything)
    for axes in figure.axes:
        assert axes.get_ylabel()
    last = [axes for axes in figure.axes if axes.get_xlabel()]
    assert last


@pytest.mark.parametrize("name", ["total_time", "memory", "phases", "energy", "throughput"])
def test_panels_of_devices_have_the_same_x_axis_and_colours(everything: Run, name: str) -> None:
    cpu, cuda = draw(name, everything).axes[:2]
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


def test_the_caption_names_the_machines_of_all_runs() -> None:
    runs = [
        run_of(grid(), "a", environment=machine("First CPU", versions={"torch": "2.12.0"})),
        run_of(grid(), "b", environment=machine("Second CPU")),
    ]
    text = caption(draw("total_time", *runs))
    assert "cpu (First CPU); cpu (Second CPU)" in text
    assert "torch 2.12.0, 2026-01-02; torch 2.13.0, transformers" in text


def test_a_case_alone_is_drawn(tmp_path: Path) -> None:
    samples = grid(cache=("dynamic",), max_new_tokens=(5,), repeats=1)
    run = load_run(save(tmp_path / "run", samples))
    assert drawn(run) == {"total_time", "token_latency", "memory", "phases"}
    for _, figure in draw_charts(Material((run,))):
        assert all(map(math.isfinite, numbers(figure)))
        assert outside(figure) == []


def test_no_name_is_read_as_a_formula_or_makes_a_warning() -> None:
    """Warnings are errors here: a glyph that the font lacks would give one."""
    here = machine(" ".join(HARD_NAMES))
    axes = {"prompt": HARD_NAMES, "max_new_tokens": (10,), "repeats": 2}
    run = run_of(grid(**axes), " ".join(HARD_NAMES), environment=here)
    other = run_of(both(**axes), "$", environment=here)
    names = ("total_time", "speedup", "devices", "speedup_map")
    charts = list(draw_charts(Material((run, other)), names))
    # A map would need two lengths.
    assert [chart.name for chart, _ in charts] == ["total_time", "speedup", "devices"]
    for _, figure in charts:
        assert to_bytes(figure, "svg").startswith(b"<?xml")


@pytest.mark.parametrize("name", [name for name in HARD_NAMES if name.isprintable()])
def test_a_name_is_drawn_as_it_is(name: str) -> None:
    run = run_of(grid(prompt=(name, "plain"), max_new_tokens=(10,), cache=("off",), repeats=1))
    shown = "".join(c if c.isascii() else "?" for c in name)
    figure = draw("total_time", run)
    assert set(legend_texts(figure)) == {f"{OFF}, text:{shown}", f"{OFF}, text:plain"}
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes)]
    texts = [text for legend in legends if legend for text in legend.get_texts()]
    assert [text.get_parse_math() for text in texts] == [False, False]


@pytest.mark.xfail(reason="a label is cut at 40 characters, and what the font lacks is `?`")
@pytest.mark.parametrize(
    "prompts",
    [
        (
            "The same beginning of two long prompts: first",
            "The same beginning of two long prompts: 2nd",
        ),
        ("明天", "今天"),
    ],
    ids=["long", "chinese"],
)
def test_prompts_that_begin_alike_have_labels_of_their_own(prompts: tuple[str, str]) -> None:
    figure = draw("total_time", run_of(grid(prompt=prompts, cache=("dynamic",))))
    assert len(set(legend_texts(figure))) == 2


@pytest.mark.xfail(reason="there are 7 dashes, 7 colours and 7 markers, counted together")
@pytest.mark.parametrize("name", ["total_time", "speedup"])
def test_eight_lines_do_not_look_alike(name: str) -> None:
    run = run_of(grid(batch_size=(1, 2, 3, 4, 5, 6, 7, 8)))
    shown = lines_of(draw(name, run).axes[0])
    assert len({style(line) for line in shown.values()}) == len(shown)


@pytest.mark.xfail(reason="the longest length of all, which only one model has")
def test_throughput_shows_each_model_at_its_own_longest_length() -> None:
    samples = [
        *grid(batch_size=(1, 2), model=("large",), max_new_tokens=(50,)),
        *grid(batch_size=(1, 2), model=("small",), max_new_tokens=(100,)),
    ]
    labels = " ".join(lines_of(draw("throughput", run_of(samples)).axes[0]))
    assert "large" in labels
    assert "small" in labels


@pytest.mark.xfail(reason="a title is not broken, a legend is not put aside for its width")
def test_long_names_do_not_run_out_of_the_picture() -> None:
    long = "an-organisation/a-model-with-a-long-name-of-many-words"
    run = run_of(
        grid(model=(f"{long}-1", f"{long}-2"), prompt=("word " * 20, "other " * 20)),
        environment=machine("Some Vendor(R) Processor of a Long Name, 3.00 GHz " * 2),
    )
    assert outside(draw("total_time", run)) == []


@pytest.mark.xfail(raises=UserWarning, reason="the legend leaves the panels no room")
def test_names_as_they_are_by_default_leave_the_panels_room() -> None:
    samples = grid(
        model=("meta-llama/Llama-3.2-1B-Instruct", "HuggingFaceTB/SmolLM2-135M-Instruct"),
        prompt=("Write a story about a small robot that", "Explain how the KV cache works to a"),
    )
    runs = [run_of(samples, f"2026-11-2{day}-Llama-3.2-1B-Instruct+1-a1b2c3") for day in (1, 2)]
    assert outside(draw("total_time", *runs)) == []


def test_many_lines_have_their_legend_beside_the_panels() -> None:
    run = run_of(grid(batch_size=(1, 2, 3, 4, 5, 6)))
    figure = draw("total_time", run)
    assert figure.axes[0].get_legend() is None
    assert len(legend_texts(figure)) == 12
    assert outside(figure) == []


@pytest.mark.xfail(reason="says `Medians of 1 samples`")
def test_one_sample_is_no_plural() -> None:
    text = caption(draw("total_time", run_of(grid(repeats=1))))
    assert "1 samples" not in text


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
    ((_, figure),) = draw_charts(Material((run_of(grid()),)), ["phases"])
    assert b"Matplotlib" not in to_bytes(figure, "png")
    assert b"<dc:date>" not in to_bytes(figure, "svg")


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
    assert "95 % bootstrap interval" in axes.get_xlabel()
    assert axes.get_title() == "A: old, B: new"


def test_of_many_rows_the_furthest_from_one_are_drawn() -> None:
    rows = [compared(1 + i / 100) for i in range(80)] + [compared(0.2)]
    (axes,) = ratio_chart(rows, [str(i) for i in range(81)], 0.05).axes
    labels = [int(t.get_text()) for t in axes.get_yticklabels()]
    assert len(labels) == 60
    assert set(labels) == {80, *range(21, 80)}
    assert labels == sorted(labels, reverse=True)


def test_the_prompt_of_a_fixed_length_is_labelled_by_it() -> None:
    samples = [s for n in (8, 16) for s in samples_of(make_case(prompt=Prompt.of_tokens(n)), 1.0)]
    shown = lines_of(draw("total_time", run_of(samples)).axes[0])
    assert set(shown) == {f"{ON}, tokens:8", f"{ON}, tokens:16"}
