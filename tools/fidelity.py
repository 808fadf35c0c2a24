"""How near an int8 model file is to its float one on some texts, and how fast both are; measured by the runtime."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .compare import drift

if TYPE_CHECKING:
    from tinybert_rt.model import Model

ROUNDS = 9
"""Of timings: the median of so many, the models in turn."""


class Fidelity:
    """A float model's results on some texts, to compare others with.

    Attributes:
        ids, offsets, types: the texts' tokens, as of `Model.encode_ids`; cut to the model's limit.
    """

    def __init__(self, model: Model, texts: Sequence[str]) -> None:
        tokens = [model.tokenize(text, max_tokens=model.max_tokens) for text in texts]
        self.ids = np.concatenate([each.ids for each in tokens])
        self.types = np.concatenate([each.types for each in tokens])
        self.offsets = np.concatenate([[0], np.cumsum([each.ids.size for each in tokens])]).astype(np.int64)
        self._vectors = model.encode_ids(self.ids, self.offsets, self.types)
        self._states = model.encode_ids(self.ids, self.offsets, self.types, hidden_states=True)

    def of(self, model: Model) -> dict[str, dict[str, float]]:
        """The `compare.drift` of a model's pooled vectors, and of its last hidden states of all tokens."""
        vectors = model.encode_ids(self.ids, self.offsets, self.types)
        states = model.encode_ids(self.ids, self.offsets, self.types, hidden_states=True)
        return {"pooled": drift(vectors, self._vectors), "tokens": drift(states, self._states)}

    def by_layer(self, model: Model, reference: Model) -> list[dict[str, float]]:
        """The drift of the hidden states of the first 16 texts: what the layers start from, and after each of them."""
        end = int(self.offsets[: 16 + 1][-1])
        given = self.ids[:end], self.offsets[: 16 + 1], self.types[:end]
        pairs = zip(model.hidden_states_ids(*given), reference.hidden_states_ids(*given), strict=True)
        return [drift(found, expected) for found, expected in pairs]


def speed(models: Mapping[str, Model], texts: Sequence[str]) -> dict[str, dict[str, float]]:
    """Of each model: sentences_per_second of `encode` on the texts, and milliseconds of one text of 16 and one of 128 tokens (as far as
    the model takes so many); medians, the models in turn."""
    texts = list(texts)
    known = next(iter(models.values()))
    some = known.tokenize(" ".join(texts)).ids
    calls: dict[str, Callable[[Model], object]] = {"sentences_per_second": lambda model: model.encode(texts, truncation="truncate")}
    for tokens in (16, 128):
        if tokens <= known.max_tokens:
            ids = np.resize(some, tokens).astype(np.int32)
            calls[f"ms_1x{tokens}"] = lambda model, ids=ids: model.encode_ids(ids, np.array([0, ids.size], np.int64))  # type: ignore[misc]
    result: dict[str, dict[str, float]] = {name: {} for name in models}
    for what, call in calls.items():
        seconds: dict[str, list[float]] = {name: [] for name in models}
        for number in range(ROUNDS + 1):
            for name, model in models.items():
                started = time.perf_counter()
                call(model)
                if number:  # the first one warms caches
                    seconds[name].append(time.perf_counter() - started)
        for name, each in seconds.items():
            median = statistics.median(each)
            result[name][what] = len(texts) / median if what == "sentences_per_second" else 1000 * median
    return result


def machine(model: Model) -> dict[str, Any]:
    """What was measured on: the CPU, how busy it is, the kernels' level, threads, versions."""
    import tinybert_rt

    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    facts = model.info()
    return {
        "cpu": cpu,
        "cpus": os.cpu_count(),
        "load average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "level": facts["isa"],
        "engine": facts["engine"],
        "threads": facts["threads"],
        "system": platform.system(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "tinybert_rt": tinybert_rt.__version__,
    }
