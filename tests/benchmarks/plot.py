"""The plot of docs/benchmarks.md: the same figures make the same file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl

mpl.use("svg")

import matplotlib.pyplot as plt
from matplotlib.ticker import PercentFormatter

from tests.benchmarks.peers import TITLES

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

OURS, BUDGET = "#3b6ea8", "#c0392b"
COLOURS = {"ours": OURS, "common-ai": "#8aa17c", "openai": "#c9a15a"}
_STYLE = {"svg.hashsalt": "openai-batch", "svg.fonttype": "none", "font.size": 9, "axes.titlesize": 10}


def draw(figures: list[dict[str, Any]], path: Path) -> None:
    """Draw four small charts into one SVG."""
    with mpl.rc_context(_STYLE):
        drawing, axes = plt.subplots(2, 2, figsize=(11, 6.4), layout="constrained")
        _rates(axes[0][0], figures)
        _memory(axes[0][1], figures)
        _lag(axes[1][0], figures)
        _jobs(axes[1][1], figures)
        for chart in axes.flat:
            chart.spines[["top", "right"]].set_visible(False)
        drawing.savefig(path, metadata={"Date": None})
        plt.close(drawing)


def _bars(chart: Axes, names: list[str], values: list[float], colours: list[str], form: str) -> None:
    bars = chart.barh(names, values, color=colours, height=0.6)
    chart.bar_label(bars, [form.format(value) for value in values], padding=3)
    chart.invert_yaxis()
    chart.margins(x=0.18)
    chart.locator_params(axis="x", nbins=5)


def _mark(chart: Axes, row: int, budget: float) -> None:
    chart.plot([budget, budget], [row - 0.4, row + 0.4], color=BUDGET, linewidth=2)


def _title(chart: Axes, text: str) -> None:
    chart.set_title(text, loc="left", x=-0.4)


def _limit(figure: dict[str, Any]) -> float:
    """Return the number in a budget's text."""
    number = figure["budget"].split()[1]
    return float(number.rstrip("%")) / 100 if number.endswith("%") else float(number)


def _rates(chart: Axes, figures: list[dict[str, Any]]) -> None:
    shown = [figure for figure in figures if figure["unit"] == "rows/s" and figure["budget"]]
    _bars(chart, [f["name"] for f in shown], [f["ratio"] for f in shown], [OURS] * len(shown), "{:.0%}")
    for row, figure in enumerate(shown):
        _mark(chart, row, _limit(figure))
    chart.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    _title(chart, "Rate in parts of a bare orjson loop; red: at least")


def _memory(chart: Axes, figures: list[dict[str, Any]]) -> None:
    shown = [figure for figure in figures if figure["benchmark"] == "memory" and "peak" in figure["name"]]
    names = [figure["name"].removesuffix(": peak growth") for figure in shown]
    _bars(chart, names, [f["value"] for f in shown], [OURS] * len(shown), "{:.0f} MB")
    for row, figure in enumerate(shown):
        _mark(chart, row, _limit(figure))
    _title(chart, "Peak growth of memory, MB; red: at most")


def _lag(chart: Axes, figures: list[dict[str, Any]]) -> None:
    shown = [
        (f"{TITLES['ours']}, {figure['name'].partition(':')[0]}", figure["value"], OURS)
        for figure in figures
        if figure["benchmark"] == "triggerer" and figure["unit"] == "ms"
    ]
    budgets = [_limit(figure) for figure in figures if figure["benchmark"] == "triggerer" and figure["unit"] == "ms"]
    for provider, title in TITLES.items():
        for figure in figures:
            if figure["name"].startswith(f"{title}: event-loop lag") and provider != "ours":
                name = f"{title}, {figure['name'].rpartition(', ')[2]}"
                shown.append((name, figure["value"], COLOURS[provider]))
    if not shown:
        chart.set_axis_off()
        return
    names, values, colours = map(list, zip(*shown, strict=True))
    _bars(chart, names, values, colours, "{:,.1f} ms")
    for row, budget in enumerate(budgets):
        _mark(chart, row, budget)
    chart.set_xscale("log")
    chart.margins(x=0.3)
    _title(chart, "Event-loop lag, 99th percentile, ms; red: at most")


def _jobs(chart: Axes, figures: list[dict[str, Any]]) -> None:
    shown = [
        (figure["name"], figure["value"], COLOURS[provider])
        for provider, title in TITLES.items()
        for figure in figures
        if figure["unit"] == "rows/s" and figure["name"].startswith(f"{title}: ")
    ]
    shown.sort(key=lambda one: one[0].partition(": ")[2], reverse=True)
    names = [name.replace(": ", "\n").partition(", ")[0] for name, _value, _colour in shown]
    _bars(chart, names, [value for _, value, _ in shown], [colour for *_, colour in shown], "{:,.0f}")
    _title(chart, "Rows a second, over HTTP")
