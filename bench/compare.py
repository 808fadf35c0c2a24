"""Ours beside the peers: ratios of times, shares of the int8 limit, and how alike vectors are.

A cell is one measurement as the JSON files hold it: `systems` by name, each with its `ms`, and what `ratios` and `limit` add.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from bench.common import geometric_mean, paired_ratio
from bench.systems import OURS

RATIOS = {"best_peer_over_ours": "best peer / ours", "ort_int8_over_ours": "ORT int8 / ours"}
SHARE = "of_int8_limit"

Cell = Mapping[str, Any]


def ratios(systems: Mapping[str, Any], rounds: Mapping[str, list[list[float]]]) -> dict[str, Any]:
    """Peer time / our time, for the fastest peer and for ONNX Runtime int8: of the medians, and paired by round."""
    peers = [name for name in systems if name != OURS]
    best_peer = min(peers, key=lambda name: systems[name]["ms"]["median"], default=None)
    found: dict[str, Any] = {"best_peer": best_peer}
    for key, peer in zip(RATIOS, (best_peer, "ort-int8"), strict=True):
        if OURS in systems and peer in systems:
            found[key] = round(systems[peer]["ms"]["median"] / systems[OURS]["ms"]["median"], 4)
            found[f"{key}_by_round"] = paired_ratio(rounds[peer], rounds[OURS]).as_dict(digits=4)
    return found


def limit(cell: Cell) -> dict[str, float]:
    """The milliseconds of a cell's products at the int8 peak of its cores, and how near ours comes; nothing where no peak is known."""
    if not cell.get("peak_gmacs"):
        return {}
    limit_ms = (cell["macs_linear"] + cell["macs_attention"]) / (cell["peak_gmacs"] * cell["threads"]) * 1e-6
    found = {"int8_limit_ms": round(limit_ms, 6)}
    if OURS in cell["systems"]:
        found[SHARE] = round(limit_ms / cell["systems"][OURS]["ms"]["median"], 4)
    return found


def means(cells: Iterable[Cell], keys: Sequence[str] = (*RATIOS, SHARE)) -> dict[str, float]:
    """Geometric means over all cells that have a key; a key that no cell has is left out."""
    cells = list(cells)
    found = {key: geometric_mean(cell[key] for cell in cells if key in cell) for key in keys}
    return {key: round(value, 4) for key, value in found.items() if value is not None}


def thread_counts(cells: Iterable[Cell]) -> list[int]:
    """The numbers of threads that cells were measured with, in rising order."""
    return sorted({cell["threads"] for cell in cells})


def title(cell: Cell) -> str:
    """Model, batch and length of a cell."""
    return f"{cell['model']} {cell['batch']}×{cell['tokens']}"


def threads_in_words(threads: int | str) -> str:
    """`1 thread`, `2 threads`."""
    return f"{threads} thread" if int(threads) == 1 else f"{threads} threads"


def percent(share: float | None) -> str:
    """A share in per cent, an en dash for none."""
    return "–" if share is None else f"{100 * share:.0f} %"


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of length one, float64."""
    vectors = np.asarray(vectors, dtype=np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def cosines(vectors: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The cosine of each row with its counterpart."""
    return np.asarray((unit(vectors) * unit(others)).sum(axis=1))
