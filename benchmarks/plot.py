"""Draws what was measured: how confidence and answers compare with what is right, how fast modes are.

Importing it needs matplotlib, which nothing else does.
"""

# pyright: reportUnknownMemberType=false
# Many of matplotlib's methods are annotated in part only.

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.cursors import Position
from benchmarks.offload.document import Cap, Link
from benchmarks.scoring import Calibration, Scores

PASSES: tuple[tuple[str, str, Callable[[Link], float | None]], ...] = (
    ("UMbreLLa's schedule", "#b0b0b0", lambda link: link.umbrella_schedule_pass_ms),
    ("ours", "#1b6ca8", lambda link: link.pass_ms),
    ("larger of stream and computation", "#d8d8d8", lambda link: link.bound_ms),
)
COLOURS = {"model": "#1b6ca8", "copied": "#b0b0b0", "most_frequent": "#d8d8d8"}


def draw(
    scores: Mapping[Position, Mapping[str, Scores]], calibrations: Mapping[str, Calibration], path: Path
) -> None:
    """Write the picture to `path`, in the format its ending names."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    _reliability(left, calibrations)
    _matches(right, scores)
    figure.savefig(path)


def _reliability(axes: Axes, calibrations: Mapping[str, Calibration]) -> None:
    axes.plot([0, 1], [0, 1], color="#b0b0b0", linestyle=":", label="perfectly calibrated")
    for name, found in calibrations.items():
        label = name.replace("_", " ")
        if found.ece is not None:
            label += f", ECE {found.ece:.3f}"
        axes.plot(
            [one.confidence for one in found.bins],
            [one.correct for one in found.bins],
            marker="o",
            label=label,
        )
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="first lines exactly right")
    axes.legend(loc="upper left", frameon=False)


def _matches(axes: Axes, scores: Mapping[Position, Mapping[str, Scores]]) -> None:
    width = 0.8 / len(COLOURS)
    for index, (name, colour) in enumerate(COLOURS.items()):
        heights = [100 * (found[name].exact_match or 0.0) for found in scores.values()]
        places = [place + (index - 1) * width for place in range(len(heights))]
        bars = axes.bar(places, heights, width, color=colour, label=name.replace("_", " "))
        axes.bar_label(bars, fmt="%.1f", fontsize=8)
    axes.set_xticks(range(len(scores)), [position.replace("_", " ") for position in scores])
    axes.set(ylabel="exact matches, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)


def draw_rates(rates: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Write a picture of tokens a second to `path`: a bar a mode, by its median, with its quartiles."""
    figure = Figure(figsize=(10, 0.6 + 0.34 * len(rates)), layout="constrained")
    axes = figure.subplots()
    medians = [found["median"] for found in rates.values()]
    below = [found["median"] - found["q1"] for found in rates.values()]
    above = [found["q3"] - found["median"] for found in rates.values()]
    colours = [COLOURS["model" if mode == "ours" else "copied"] for mode in rates]
    axes.barh([mode.replace("_", " ") for mode in rates], medians, color=colours)
    axes.errorbar(medians, range(len(rates)), xerr=[below, above], fmt="none", ecolor="#404040", capsize=3)
    for place, found in enumerate(rates.values()):
        beyond = (found["q3"], place)
        axes.annotate(
            f"{found['median']:.0f}", beyond, xytext=(6, 0), textcoords="offset points", va="center"
        )
    axes.invert_yaxis()
    axes.set(xlabel="tokens a second after the first pass: median and quartiles over prompts")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def draw_passes(caps: Mapping[str, Cap], path: Path) -> None:
    """Write a picture of a pass's time to `path`: by GB of memory, a group of bars a speed of the link."""
    streaming = {gb: cap for gb, cap in caps.items() if cap.plan.streamed_layers}
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    panels = figure.subplots(1, len(streaming), sharey=True, squeeze=False)[0]
    for axes, (gb, cap) in zip(panels, streaming.items(), strict=True):
        for offset, (label, colour, ms) in enumerate(PASSES):
            seconds = [(ms(link) or 0.0) / 1000 for link in cap.links.values()]
            places = [place + (offset - 1) * 0.27 for place in range(len(seconds))]
            bars = axes.bar(places, seconds, 0.27, color=colour, label=label)
            axes.bar_label(bars, fmt="%.1f", fontsize=8)
        axes.set_xticks(range(len(cap.links)), list(cap.links))
        axes.set(title=f"{gb} GB", xlabel="link, GB/s")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set(ylabel="seconds a pass, simulated")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(path)
