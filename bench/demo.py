"""`make demo`: the bundled model answers a question from a real text, and says what it is and how fast it runs.

The text is the project's own licence, cut into sentences: it is always at hand.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

import tinybert_rt as tb

_QUERY = "May I sell a changed version without publishing its source?"
_FACTS = ("name", "layers", "hidden_size", "weights", "bytes", "pooling", "max_tokens", "isa", "engine", "threads")
_SECONDS = 2.0


def sentences(path: Path) -> list[str]:
    """The sentences of a plain text file, of at least four words each."""
    text = " ".join(path.read_text(encoding="utf-8").split())
    return [part.strip() for part in re.split(r"(?<=[.;:])\s+", text) if len(part.split()) >= 4]


def main() -> None:
    """Rank, then measure."""
    started = time.perf_counter()
    model = tb.load()
    loaded = time.perf_counter() - started
    texts = sentences(Path(__file__).resolve().parent.parent / "LICENSE")
    print(f"{_QUERY}\n")
    for answer in model.rank(_QUERY, texts, top=3):
        print(f"  {answer.score:.3f}  {answer.text}")

    facts = model.info()
    print("\n" + "\n".join(f"  {name:<12} {facts[name]}" for name in _FACTS))
    print(f"  {'loaded in':<12} {loaded:.2f} s")

    done, tokens = 0, 0
    started = time.perf_counter()
    while time.perf_counter() - started < _SECONDS:
        encoded = model.encode_detailed(texts, truncation="truncate")
        done += len(encoded.vectors)
        tokens += int(encoded.token_counts.sum())
    seconds = time.perf_counter() - started
    print(f"\n  {done / seconds:,.0f} texts per second, {tokens / seconds:,.0f} tokens per second, from raw text to vectors")


if __name__ == "__main__":
    main()
