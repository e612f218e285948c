"""Tests of kvbench/report/charts.py: the data that are drawn, not the pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from kvbench.analysis.summary import CaseSummary
from kvbench.report.charts import CHARTS, write_charts
from tests.fakes import make_environment, make_info, make_summary


def arms(lengths: tuple[int, ...] = (10, 50, 100), **fields: Any) -> list[CaseSummary]:
    return [
        make_summary(cache=cache, max_new_tokens=tokens, **fields)
        for tokens in lengths
        for cache in ("off", "dynamic")
    ]


def draw(name: str, cases: list[CaseSummary], **info: Any) -> Figure:
    figure = CHARTS[name].draw(cases, make_info(**info))
    assert figure is not None
    return figure


def lines(axes: Axes) -> dict[str, ErrorbarContainer]:
    return {str(bar.get_label()): bar for bar in axes.containers}  # type: ignore[misc]


def points(bar: ErrorbarContainer) -> list[tuple[float, float]]:
    x, y = bar.lines[0].get_data()
    return [(float(a), pytest.approx(float(b))) for a, b in zip(x, y, strict=True)]


def bars(bar: ErrorbarContainer) -> list[tuple[float, float]]:
    """The lower and the upper end of each error bar."""
    (collection,) = bar.lines[2]
    return [
        (pytest.approx(float(low[1])), pytest.approx(float(high[1])))
        for low, high in collection.get_segments()
    ]


def caption(figure: Figure) -> str:
    """The caption as one line: where it is broken depends on the width of the chart."""
    return " ".join(str(figure.get_supxlabel()).split())


def legend_texts(figure: Figure) -> list[str]:
    legends = [*figure.legends, *(ax.get_legend() for ax in figure.axes)]
    return [text.get_text() for legend in legends if legend for text in legend.get_texts()]


def test_the_charts_are_registered_by_name() -> None:
    assert {name: chart.name for name, chart in CHARTS.items()} == {
        "total_time": "total_time",
        "time_per_token": "time_per_token",
    }
    assert all(chart.title for chart in CHARTS.values())


def test_total_time_is_seconds_against_new_tokens_for_both_arms() -> None:
    figure = draw("total_time", arms())
    (axes,) = figure.axes
    drawn = lines(axes)
    assert list(drawn) == ["cache off", "cache on (dynamic)"]
    assert points(drawn["cache off"]) == [(10, 0.2), (50, 1.0), (100, 2.0)]
    assert points(drawn["cache on (dynamic)"]) == [(10, 0.1), (50, 0.5), (100, 1.0)]
    assert axes.get_xlabel() == "New tokens per sequence"
    assert axes.get_ylabel() == "Time of the whole generation (s)"
    assert axes.get_title() == "cpu: Some CPU"


def test_time_per_token_is_milliseconds_of_the_same_times() -> None:
    (axes,) = draw("time_per_token", arms()).axes
    drawn = lines(axes)
    assert points(drawn["cache off"]) == [(10, 20.0), (50, 20.0), (100, 20.0)]
    assert points(drawn["cache on (dynamic)"]) == [(10, 10.0), (50, 10.0), (100, 10.0)]
    assert axes.get_ylabel() == "Time per new token (ms)"


@pytest.mark.parametrize(("name", "scale"), [("total_time", 1.0), ("time_per_token", 10.0)])
def test_error_bars_run_from_quartile_to_quartile(name: str, scale: float) -> None:
    cases = [make_summary(total_s_q1=0.8, total_s_q3=1.1, total_s_median=1.0)]
    (drawn,) = lines(draw(name, cases).axes[0]).values()
    assert bars(drawn) == [(0.8 * scale, 1.1 * scale)]


def test_error_bars_of_few_samples_run_from_smallest_to_largest() -> None:
    cases = [make_summary(samples=3, flags="undersampled", total_s_min=0.5, total_s_max=1.5)]
    figure = draw("total_time", cases)
    (drawn,) = lines(figure.axes[0]).values()
    assert bars(drawn) == [(0.5, 1.5)]
    assert "bars: smallest to largest" in caption(figure)


def test_all_error_bars_of_a_chart_mean_the_same() -> None:
    few = make_summary(max_new_tokens=10, samples=3, flags="undersampled")
    many = make_summary(max_new_tokens=100, samples=10)
    figure = draw("total_time", [few, many])
    (drawn,) = lines(figure.axes[0]).values()
    assert bars(drawn) == [(0.05, 0.2), (0.5, 2.0)]
    assert "bars: smallest to largest" in caption(figure)


def test_a_sample_alone_has_a_bar_of_no_length() -> None:
    cases = [make_summary(samples=1, total_s_median=1.0, total_s_min=1.0, total_s_max=1.0)]
    (drawn,) = lines(draw("total_time", cases).axes[0]).values()
    assert bars(drawn) == [(1.0, 1.0)]


def test_points_are_joined_by_length_whatever_the_order_of_the_cases() -> None:
    shuffled = [arms()[i] for i in (5, 2, 0, 4, 3, 1)]
    drawn = lines(draw("total_time", shuffled).axes[0])
    assert [x for x, _ in points(drawn["cache off"])] == [10, 50, 100]


def test_there_is_a_panel_per_device_that_means_the_same() -> None:
    figure = draw("total_time", [*arms(), *arms((10, 400), device="cuda", total_s_median=0.5)])
    cpu, cuda = figure.axes
    assert (cpu.get_title(), cuda.get_title()) == ("cpu: Some CPU", "cuda: Some GPU")
    assert cpu.get_ylabel() == cuda.get_ylabel()
    assert cpu.get_ylim()[0] == cuda.get_ylim()[0] == 0
    assert cpu.get_xlim() == cuda.get_xlim()
    assert cpu.get_xlim()[0] == 0
    assert points(lines(cuda)["cache off"]) == [(10, 0.5), (400, 0.5)]
    colours = [[bar.lines[0].get_color() for bar in lines(ax).values()] for ax in (cpu, cuda)]
    assert colours[0] == colours[1]


def test_the_arms_differ_in_colour_and_in_marker() -> None:
    off, on = (bar.lines[0] for bar in lines(draw("total_time", arms()).axes[0]).values())
    assert off.get_color() != on.get_color()
    assert off.get_marker() != on.get_marker()


@pytest.mark.parametrize(
    ("field", "first", "second", "labels"),
    [
        ("model", "a/x", "b", ["a/x", "b"]),
        ("batch_size", 1, 8, ["batch 1", "batch 8"]),
        ("dtype", "float32", "bfloat16", ["float32", "bfloat16"]),
        ("attention", "sdpa", "eager", ["sdpa", "eager"]),
        ("prompt", "text:x", "tokens:6", ["text:x", "tokens:6"]),
        ("weights", "random", "pretrained", ["random", "pretrained"]),
    ],
)
def test_what_differs_between_lines_is_in_their_labels(
    field: str, first: Any, second: Any, labels: list[str]
) -> None:
    figure = draw("total_time", [*arms(**{field: first}), *arms(**{field: second})])
    drawn = lines(figure.axes[0])
    assert set(drawn) == {
        f"{arm}, {label}" for arm in ("cache off", "cache on (dynamic)") for label in labels
    }
    dashes = {bar.lines[0].get_linestyle() for bar in drawn.values()}
    assert len(dashes) == 2


def test_a_strategy_of_another_name_is_labelled_by_it() -> None:
    assert list(lines(draw("total_time", [make_summary(cache="static")]).axes[0])) == [
        "cache static"
    ]


def test_a_case_without_a_time_is_no_point() -> None:
    failed = make_summary(max_new_tokens=200, total_s_median=None, status="oom", samples=0)
    drawn = lines(draw("total_time", [*arms(), failed]).axes[0])
    assert [x for x, _ in points(drawn["cache on (dynamic)"])] == [10, 50, 100]


def test_a_device_on_which_all_failed_has_no_panel() -> None:
    failed = make_summary(device="cuda", total_s_median=None, status="oom", samples=0)
    assert [axes.get_title() for axes in draw("total_time", [*arms(), failed]).axes] == [
        "cpu: Some CPU"
    ]


@pytest.mark.parametrize("name", ["total_time", "time_per_token"])
def test_without_a_time_there_is_no_chart(name: str) -> None:
    failed = make_summary(total_s_median=None, status="oom", samples=0)
    assert CHARTS[name].draw([failed], make_info()) is None
    assert CHARTS[name].draw([], make_info()) is None


def test_every_line_is_in_the_legend_once() -> None:
    figure = draw("total_time", [*arms(batch_size=1), *arms(batch_size=8)])
    assert sorted(legend_texts(figure)) == sorted(lines(figure.axes[0]))


def test_a_line_of_the_second_panel_alone_is_in_the_legend_too() -> None:
    cases = [*arms(), *arms(device="cuda"), *arms(device="cuda", dtype="float16")]
    figure = draw("total_time", cases)
    drawn = {label for axes in figure.axes for label in lines(axes)}
    assert set(legend_texts(figure)) == drawn


def test_many_lines_have_their_legend_beside_the_panels() -> None:
    figure = draw("total_time", [case for size in range(1, 9) for case in arms(batch_size=size)])
    assert figure.axes[0].get_legend() is None
    assert len(legend_texts(figure)) == 16


def test_the_caption_says_what_was_measured() -> None:
    assert caption(draw("total_time", arms())) == (
        "gpt2 (random weights), float32, sdpa attention, batch 1, prompt of 6 tokens. "
        "Points: medians of 10 samples; bars: quartiles. "
        "torch 2.13.0, transformers 5.23.0, kvbench 0.1.0. 2026-01-02"
    )


def test_the_caption_gives_the_range_of_samples() -> None:
    cases = [make_summary(samples=5), make_summary(samples=30, max_new_tokens=10)]
    assert "medians of 5 to 30 samples" in caption(draw("total_time", cases))


@pytest.mark.parametrize("devices", [("cpu",), ("cpu", "cuda")])
def test_the_caption_is_not_cut_at_the_edge(devices: tuple[str, ...]) -> None:
    models = [f"some-organisation/a-model-of-a-long-name-{n}" for n in range(4)]
    figure = draw(
        "total_time", [c for m in models for d in devices for c in arms(model=m, device=d)]
    )
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    (text,) = [text for text in figure.texts if text.get_text() == figure.get_supxlabel()]
    assert text.get_window_extent(canvas.get_renderer()).x1 <= figure.bbox.x1


# Files


def test_charts_are_written_as_png_and_svg(tmp_path: Path) -> None:
    paths = write_charts(arms(), make_info(), tmp_path / "charts")
    assert [str(path.relative_to(tmp_path)) for path in paths] == [
        "charts/total_time.png",
        "charts/total_time.svg",
        "charts/time_per_token.png",
        "charts/time_per_token.svg",
    ]
    assert paths[0].read_bytes().startswith(b"\x89PNG\r\n")
    assert b"<svg" in paths[1].read_bytes()


def test_the_same_data_give_the_same_bytes(tmp_path: Path) -> None:
    cases = [*arms(), *arms(device="cuda")]
    first = write_charts(cases, make_info(), tmp_path / "first")
    second = write_charts(cases, make_info(), tmp_path / "second")
    assert len(first) == 4
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_other_data_give_other_bytes(tmp_path: Path) -> None:
    first = write_charts(arms(), make_info(), tmp_path / "first", ["svg"])
    second = write_charts(arms((10, 50, 101)), make_info(), tmp_path / "second", ["svg"])
    assert all(a.read_bytes() != b.read_bytes() for a, b in zip(first, second, strict=True))


def test_without_a_time_no_folder_is_made(tmp_path: Path) -> None:
    assert write_charts([], make_info(), tmp_path / "charts") == []
    assert not (tmp_path / "charts").exists()


@pytest.mark.parametrize(
    "name", ["a$b", "$x$", r"$\frac$", r"\$", "a--b>]]&<c", "{x}", "%s", "_x", "^", "é"]
)
def test_a_name_is_drawn_as_it_is_and_not_as_a_formula(tmp_path: Path, name: str) -> None:
    cases = [*arms((10,), model=name), *arms((10,), model="b")]
    path = write_charts(cases, make_info(), tmp_path, ["svg"])[0]
    # matplotlib notes each text that it draws in a comment, where -- may not stand.
    text = path.read_text(encoding="utf-8").replace("- -", "--")
    text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    assert f"cache on (dynamic), {name} " in text


def test_a_dollar_in_the_hardware_is_no_formula(tmp_path: Path) -> None:
    devices = make_environment().devices
    hardware = make_environment(devices=(type(devices[0])(name="cpu", hardware=r"$\x$ GPU"),))
    write_charts(arms((10,)), make_info(environment=hardware), tmp_path, ["svg"])
    assert (tmp_path / "total_time.svg").exists()


@pytest.mark.parametrize("prompt", ["text:明天降温了", "text:🤷", "text:a\tb\x00c"])
def test_a_prompt_that_the_font_lacks_is_no_warning(tmp_path: Path, prompt: str) -> None:
    """The catalogue has a Chinese model; a warning would run through the sweep's own lines."""
    cases = [*arms((10,), prompt=prompt), *arms((10,), prompt="text:x")]
    assert len(write_charts(cases, make_info(), tmp_path, ["png", "svg"])) == 4
