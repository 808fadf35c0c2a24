"""The tables of `bench.peers`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.common import describe_header, geometric_mean, render_table, three_digits
from bench.systems import OURS, SYSTEMS

RATIOS = {"best_peer_over_ours": "best peer / ours", "ort_int8_over_ours": "ORT int8 / ours"}

Cells = Sequence[Mapping[str, Any]]


def summary(cells: Cells) -> dict[str, float | None]:
    """Geometric means of the ratios over all cells that have them."""
    return {key: _rounded(geometric_mean(cell[key] for cell in cells if key in cell)) for key in RATIOS}


def markdown(result: Mapping[str, Any], peak_gmacs: float | None = None) -> str:
    """All tables of one run, readable in a terminal and as Markdown."""
    cells = result["cells"]
    names = [name for name in SYSTEMS if any(name in cell["systems"] for cell in cells)]
    parts = [describe_header(result) + _ours_line(cells)]
    parts.append("Medians in ms (encoder only, all tokens real; the fastest in bold)\n\n" + _times(cells, names, peak_gmacs))
    if any(RATIOS.keys() & cell.keys() for cell in cells):
        means = ", ".join(f"{title} {three_digits(result['summary'][key])}" for key, title in RATIOS.items())
        parts.append("Peer time / our time\n\n" + _ratio_table(cells) + f"\n\nGeometric means: {means}")
    parts.append(
        "Smallest cosine of a mean-pooled vector against torch fp32 (unrelated: the largest between two different texts)\n\n"
        + _cosines(cells, names)
    )
    notes = _notes(cells) + [f"{name}: skipped, {reason}" for name, reason in result["skipped"].items()]
    notes += [f"{name}: failed, {reason}" for name, reason in result["failed"].items()]
    if notes:
        parts.append("\n".join(f"- {note}" for note in notes))
    return "\n\n".join(parts)


def _times(cells: Cells, names: Sequence[str], peak_gmacs: float | None) -> str:
    columns = ["model, batch × tokens", "threads", *(SYSTEMS[name].label for name in names), "GMAC"]
    columns += ["int8 limit"] if peak_gmacs else []
    columns += ["our GMAC/s"] if OURS in names else []
    rows = []
    for cell in cells:
        medians = {name: cell["systems"][name]["ms"]["median"] for name in names if name in cell["systems"]}
        gmacs = (cell["macs_linear"] + cell["macs_attention"]) * 1e-9
        row = [_title(cell), str(cell["threads"])]
        fastest = min(medians.values(), default=None)
        for name in names:
            text = three_digits(medians.get(name))
            row.append(f"**{text}**" if medians.get(name) == fastest and fastest is not None else text)
        row.append(three_digits(gmacs))
        row += [three_digits(gmacs / peak_gmacs * 1e3)] if peak_gmacs else []
        row += [three_digits(gmacs / medians[OURS] * 1e3 if OURS in medians else None)] if OURS in names else []
        rows.append(row)
    return render_table(columns, rows)


def _ratio_table(cells: Cells) -> str:
    rows = []
    for cell in cells:
        row = [_title(cell), SYSTEMS[cell["best_peer"]].label if cell["best_peer"] else "–"]
        for key in RATIOS:
            row.append(three_digits(cell.get(key)))
        rows.append(row)
    return render_table(["model, batch × tokens", "best peer", *RATIOS.values()], rows)


def _cosines(cells: Cells, names: Sequence[str]) -> str:
    rows = []
    for cell in cells:
        cosines = [cell["systems"].get(name, {}).get("cosine_min") for name in names]
        row = [_title(cell), _cosine(cell["unrelated_cosine"]), *(_cosine(value) for value in cosines)]
        rows.append(row)
    return render_table(["model, batch × tokens", "unrelated", *(SYSTEMS[name].label for name in names)], rows)


def _notes(cells: Cells) -> list[str]:
    """What a reader must know about a system: precision, and which of its variants were the fastest where."""
    notes = []
    for name, system in SYSTEMS.items():
        entries = [(cell, cell["systems"][name]) for cell in cells if name in cell["systems"]]
        facts = sorted({f"{key} {value}" for _, entry in entries for key, value in entry["info"].items()}) if name != OURS else []
        chosen: dict[str, list[str]] = {}
        for cell, entry in entries:
            if "variants_ms" in entry:
                chosen.setdefault(entry["variant"], []).append(_title(cell))
        facts += [f"{variant} graph fastest in {', '.join(titles)}" for variant, titles in chosen.items()]
        if facts:
            notes.append(f"{system.label}: {'; '.join(facts)}")
    return notes


def _ours_line(cells: Cells) -> str:
    infos = [cell["systems"][OURS]["info"] for cell in cells if OURS in cell["systems"]]
    levels = sorted({str(info["isa"]) for info in infos})
    return f"\ntinybert_rt runs at ISA level {', '.join(levels)}" if levels else ""


def _title(cell: Mapping[str, Any]) -> str:
    return f"{cell['model']} {cell['batch']}×{cell['tokens']}"


def _cosine(value: float | None) -> str:
    return "–" if value is None else f"{value:.5f}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
