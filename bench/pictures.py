"""Pictures of results, with matplotlib and without a display: shares of the stages, speed beside the peers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from bench.compare import RATIOS, Cell, thread_counts, threads_in_words, title

DPI = 110
WIDTH = 11.0
BEST_PEER, ORT = RATIOS
COLOURS = {BEST_PEER: "#1f6f8b", ORT: "#a9c9d6"}


def draw_stages(result: Mapping[str, Any], path: Path) -> None:
    """One stacked bar per model and length, one panel per number of threads; stages that never reach 1 % are left out."""
    cells, counts = result["cells"], thread_counts(result["cells"])
    stages = [stage for stage in result["stages"] if any(cell["shares"][stage] >= 0.01 for cell in cells)]
    colours = plt.get_cmap("tab20")(np.linspace(0, 1, len(stages)))
    figure, panels = plt.subplots(len(counts), 1, figsize=(WIDTH, 0.8 + 3.2 * len(counts)), squeeze=False, layout="constrained")
    for panel, threads in zip(panels[:, 0], counts, strict=True):
        chosen = [cell for cell in cells if cell["threads"] == threads]
        bottom = np.zeros(len(chosen))
        for stage, colour in zip(stages, colours, strict=True):
            shares = np.array([100 * cell["shares"][stage] for cell in chosen])
            panel.bar(range(len(chosen)), shares, bottom=bottom, color=colour, width=0.8, label=stage)
            bottom += shares
        for place, cell in enumerate(chosen):
            panel.text(place, 101, f"{100 * cell['of_int8_peak']:.0f} %", ha="center", va="bottom", fontsize=8)
        _label_cells(panel, chosen)
        panel.set_ylim(0, 109)
        panel.set_ylabel("% of the time")
        panel.set_title(f"{threads_in_words(threads)}; above the bars: share of the int8 peak", fontsize=10, loc="left")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside right center", frameon=False, fontsize=9)
    _save(figure, path)


def draw_speed(result: Mapping[str, Any], path: Path) -> None:
    """How many times faster ours is than the best peer and than ONNX Runtime int8, per cell; one panel per number of threads."""
    counts = thread_counts(result["cells"])
    figure, panels = plt.subplots(len(counts), 1, figsize=(WIDTH, 0.6 + 2.9 * len(counts)), squeeze=False, layout="constrained")
    for panel, threads in zip(panels[:, 0], counts, strict=True):
        chosen = [cell for cell in result["cells"] if cell["threads"] == threads]
        for shift, (key, label) in zip((-0.2, 0.2), RATIOS.items(), strict=True):
            values = [cell.get(key, np.nan) for cell in chosen]
            bars = panel.bar(np.arange(len(chosen)) + shift, values, width=0.4, color=COLOURS[key], label=label)
            panel.bar_label(bars, [f"{value:.2f}" if value == value else "" for value in values], fontsize=7, rotation=90, padding=2)
        panel.axhline(1.0, color="#b03a2e", linewidth=1.2, zorder=2)
        panel.margins(y=0.14)
        _label_cells(panel, chosen)
        panel.set_ylabel("their time / our time")
        panel.set_title(threads_in_words(threads), fontsize=10, loc="left")
        panel.legend(loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.2, ncols=2, frameon=False, fontsize=9)
    _save(figure, path)


def _label_cells(panel: Axes, cells: Sequence[Cell]) -> None:
    panel.set_xticks(range(len(cells)), [title(cell).replace(" ", "\n") for cell in cells], fontsize=7)
    panel.set_xlim(-0.6, len(cells) - 0.4)
    panel.spines[["top", "right"]].set_visible(False)


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
    plt.close(figure)
