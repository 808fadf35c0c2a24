"""Does memory grow with the number of texts? Encodes a long stream and watches the resident set.

    python -m bench.memory [--lines 200000] [--data FILE] [--model FILE] [--threads N]

The lines of FILE (default: the sentences of the project's licence) are repeated until there are enough. Prints the resident memory
after 10,000 lines and at the end, and the growth between them.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import lzma
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tinybert_rt as tb
from bench.demo import sentences

_SETTLED = 10_000


def resident_bytes() -> int:
    """VmRSS of this process."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmRSS")


def lines_of(path: Path) -> list[str]:
    """The non-empty lines of a text file, plain, gzip or xz."""
    opener: Any = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
    with opener(path, "rt", encoding="utf-8") as file:
        return [line.rstrip("\n") for line in file if line.strip()]


def main(arguments: list[str] | None = None) -> None:
    """Run the stream and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=200_000)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args(arguments)
    texts = lines_of(options.data) if options.data else sentences(Path(__file__).resolve().parent.parent / "LICENSE")
    model = tb.load(options.model, threads=options.threads)

    def stream() -> Iterator[str]:
        yield from itertools.islice(itertools.cycle(texts), options.lines)

    done, tokens, settled, largest = 0, 0, 0, 0
    started = time.perf_counter()
    for group in model.stream(stream()):
        done += len(group.vectors)
        tokens += int(group.token_counts.sum())
        if done >= _SETTLED:
            now = resident_bytes()
            settled = settled or now
            largest = max(largest, now)
    seconds = time.perf_counter() - started
    print(
        json.dumps(
            {
                "lines": done,
                "tokens": tokens,
                "seconds": round(seconds, 1),
                "resident_after_10000": settled,
                "resident_largest": largest,
                "growth": round(largest / settled - 1, 5) if settled else None,
                "threads": model.threads,
                "isa": model.isa,
            }
        )
    )


if __name__ == "__main__":
    main()
