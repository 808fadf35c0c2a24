"""The tables of `bench.peers`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.common import describe_header, render_table, three_digits
from bench.compare import RATIOS, SHARE, Cell, means, percent, thread_counts, threads_in_words, title
from bench.systems import OURS, SYSTEMS

Cells = Sequence[Cell]


def means_by_threads(cells: Cells) -> dict[str, dict[str, float]]:
    """Geometric means of the ratios and of our share of the int8 limit, by number of threads (text, as JSON's keys are)."""
    return {str(threads): means(cell for cell in cells if cell["threads"] == threads) for threads in thread_counts(cells)}


def markdown(result: Mapping[str, Any]) -> str:
    """All tables of one run, readable in a terminal and as Markdown."""
    cells = result["cells"]
    names = [name for name in SYSTEMS if any(name in cell["systems"] for cell in cells)]
    parts = [describe_header(result) + _ours_line(cells)]
    times = "Medians in ms (encoder only, all tokens real; the fastest in bold)"
    if result.get("peak_gmacs"):
        times += f"; int8 peak: up to {three_digits(result['peak_gmacs'])} GMAC/s a core"
    parts.append(f"{times}\n\n{_times(cells, names)}")
    if any(RATIOS.keys() & cell.keys() for cell in cells):
        lines = [_means_line(threads, found) for threads, found in result["means"].items()]
        parts.append("Peer time / our time, and the int8 limit's time / our time\n\n" + "\n".join([_ratio_table(cells), "", *lines]))
    parts.append(
        "Smallest cosine of a mean-pooled vector against torch fp32 (unrelated: the largest between two different texts)\n\n"
        + _cosines(cells, names)
    )
    notes = _notes(cells) + [f"{name}: skipped, {reason}" for name, reason in result["skipped"].items()]
    notes += [f"{name}: failed, {reason}" for name, reason in result["failed"].items()]
    if notes:
        parts.append("\n".join(f"- {note}" for note in notes))
    return "\n\n".join(parts)


def _times(cells: Cells, names: Sequence[str]) -> str:
    columns = ["model, batch × tokens", "threads", *(SYSTEMS[name].label for name in names), "GMAC", "int8 limit"]
    columns += ["our GMAC/s"] if OURS in names else []
    rows = []
    for cell in cells:
        medians = {name: cell["systems"][name]["ms"]["median"] for name in names if name in cell["systems"]}
        gmacs = (cell["macs_linear"] + cell["macs_attention"]) * 1e-9
        row = [title(cell), str(cell["threads"])]
        fastest = min(medians.values(), default=None)
        for name in names:
            text = three_digits(medians.get(name))
            row.append(f"**{text}**" if medians.get(name) == fastest and fastest is not None else text)
        row += [three_digits(gmacs), three_digits(cell.get("int8_limit_ms"))]
        row += [three_digits(gmacs / medians[OURS] * 1e3 if OURS in medians else None)] if OURS in names else []
        rows.append(row)
    return render_table(columns, rows)


def _ratio_table(cells: Cells) -> str:
    rows = []
    for cell in cells:
        row = [title(cell), str(cell["threads"]), SYSTEMS[cell["best_peer"]].label if cell["best_peer"] else "–"]
        rows.append([*row, *(three_digits(cell.get(key)) for key in RATIOS), percent(cell.get(SHARE))])
    return render_table(["model, batch × tokens", "threads", "best peer", *RATIOS.values(), "of limit"], rows)


def _means_line(threads: str, found: Mapping[str, float]) -> str:
    ratios = [f"{label} {three_digits(found.get(key))}" for key, label in RATIOS.items()]
    return f"Geometric means, {threads_in_words(threads)}: {', '.join(ratios)}, of limit {percent(found.get(SHARE))}"


def _cosines(cells: Cells, names: Sequence[str]) -> str:
    rows = []
    for cell in cells:
        cosines = [cell["systems"].get(name, {}).get("cosine_min") for name in names]
        row = [title(cell), str(cell["threads"]), _cosine(cell["unrelated_cosine"]), *(_cosine(value) for value in cosines)]
        rows.append(row)
    return render_table(["model, batch × tokens", "threads", "unrelated", *(SYSTEMS[name].label for name in names)], rows)


def _notes(cells: Cells) -> list[str]:
    """What a reader must know about a system: precision, and which of its variants were the fastest where."""
    notes = []
    for name, system in SYSTEMS.items():
        entries = [(cell, cell["systems"][name]) for cell in cells if name in cell["systems"]]
        facts = sorted({f"{key} {value}" for _, entry in entries for key, value in entry["info"].items()}) if name != OURS else []
        chosen: dict[str, list[str]] = {}
        for cell, entry in entries:
            if "variants_ms" in entry:
                chosen.setdefault(entry["variant"], []).append(f"{title(cell)} ({threads_in_words(cell['threads'])})")
        facts += [f"{variant} graph fastest in {', '.join(titles)}" for variant, titles in chosen.items()]
        if facts:
            notes.append(f"{system.label}: {'; '.join(facts)}")
    return notes


def _ours_line(cells: Cells) -> str:
    infos = [cell["systems"][OURS]["info"] for cell in cells if OURS in cell["systems"]]
    levels = sorted({str(info["isa"]) for info in infos})
    return f"\ntinybert_rt runs at ISA level {', '.join(levels)}" if levels else ""


def _cosine(value: float | None) -> str:
    return "–" if value is None else f"{value:.5f}"
