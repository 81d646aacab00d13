"""Rate-distortion plots: a figure for each measure, a panel for each clip."""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from findings import MEASURES, PHI, Findings, Measure
from ours import Ours
from peers import Peer

# Colours that colour-blind readers can tell apart (Okabe and Ito).
_COLOURS = {"x264": "#0072B2", "x265": "#56B4E9", "av1": "#009E73", "vvc": "#CC79A7"}
_OUR_COLOURS = {"none": "#D55E00", "av1": "#000000"}
_TICKS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)
_COLUMNS = 3


def write_plots(found: Findings, folder: Path) -> None:
    for measure in (*MEASURES, PHI):
        write_plot(found, measure, folder / f"rd-{measure.name.replace('_', '-')}.png")


def write_plot(found: Findings, measure: Measure, path: Path) -> None:
    """Nothing where no clip has the measure. One panel more than clips holds the legend."""
    codecs = [*found.peers, *found.defaults]
    shown = [clip for clip in found.clips if any(found.curve(clip, codec, measure) for codec in codecs)]
    if not shown:
        return
    columns = min(_COLUMNS, len(shown) + 1)
    rows = math.ceil((len(shown) + 1) / columns)
    size = 4.4 * columns, 3.5 * rows + 0.5
    figure, panels = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for panel, clip in zip(panels.flat, shown):
        draw_panel(panel, found, clip, measure)
    for panel in panels.flat[len(shown) :]:
        panel.axis("off")
    lines = {line.get_label(): line for panel in panels.flat for line in panel.lines}
    panels.flat[len(shown)].legend(lines.values(), lines.keys(), loc="center", frameon=False, fontsize=11)
    direction = "up" if measure.better == "higher" else "down"
    figure.suptitle(f"{measure.title} against rate: better is {direction} and to the left", fontsize=14)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def draw_panel(panel: Axes, found: Findings, clip: str, measure: Measure) -> None:
    about = found.clips[clip]
    for codec in (*found.peers, *found.defaults):
        points = sorted(found.curve(clip, codec, measure))
        if points:
            panel.plot(*zip(*points), label=codec.title, **_style(codec))
    panel.set_xscale("log")
    low, high = panel.get_xlim()
    panel.xaxis.set_major_locator(FixedLocator([tick for tick in _TICKS if low <= tick <= high]))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.grid(alpha=0.3)
    panel.set_title(f"{clip}, {about['width']}x{about['height']}, {about['fps']:g} fps", fontsize=11)
    panel.set_xlabel("bits per pixel (log scale)")
    panel.set_ylabel(measure.axis)


def _style(codec: Ours | Peer) -> dict:
    if isinstance(codec, Ours):
        return {"color": _OUR_COLOURS[codec.base], "linewidth": 2.4, "marker": "o", "markersize": 5, "zorder": 3}
    style = {"color": _COLOURS[codec.name.removesuffix("-half")], "linewidth": 1.3, "marker": ".", "markersize": 5}
    return style | {"linestyle": "--" if codec.half else "-"}
