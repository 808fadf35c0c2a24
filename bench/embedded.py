"""A C program with the library in it: from opening the model to the first vector, its memory, and what two of them share.

    python -m bench.embedded --repeats 20

The model's file lies in the file cache. Memory is looked at after a text of as many tokens as the model has positions: the resident set
less the pages of the model's file, which the system can take back and which processes share.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from bench import options
from bench.common import describe_header, header, render_table, summarize, three_digits, write_json, write_text
from bench.installed import Program, c_program, programs
from bench.startup import TEXT, bundled_model

LONG_TEXT = "A sentence of a long text. " * 200


def main(arguments: list[str] | None = None) -> int:
    """Measure as the command line says; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.embedded", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=bundled_model(), help="a .tbrt file (default: the bundled model)")
    parser.add_argument("--threads", type=options.positives, default=[1, 2], help="threads, as 1,2 (the default)")
    parser.add_argument("--repeats", type=options.positive, default=20, help="fresh processes of each (default: 20)")
    parser.add_argument("--json", type=Path, help="write everything measured here")
    parser.add_argument("--markdown", type=Path, help="write the printed table here")
    parser.add_argument("--work", type=Path, default=Path("build/bench"), help="cache of what is built (default: build/bench)")
    chosen = parser.parse_args(arguments)
    program = c_program(chosen.work.resolve())
    result: dict[str, Any] = header(("tinybert-rt",), threads=",".join(map(str, chosen.threads)), runs=chosen.repeats)
    result["cells"] = [measure(program, chosen.model.resolve(), threads, chosen.repeats) for threads in chosen.threads]
    text = f"{describe_header(result)}\n\n{_table(result['cells'])}"
    print(text)
    write_text(chosen.markdown, text + "\n")
    write_json(chosen.json, result)
    return 0


def measure(program: Path, model: Path, threads: int, repeats: int) -> dict[str, Any]:
    """Times (ms) of fresh processes, after a first one that fills the file cache, and memory (kB) of two side by side."""
    opened, first, beyond, shared = [], [], [], []
    for repeat in range(repeats + 1):
        with programs(program, model, threads, [TEXT], 1) as (alone,):
            moments = alone.line()
        if repeat:
            opened.append(1e3 * (moments["load"] - moments["start"]))
            first.append(1e3 * (moments["vector"] - moments["start"]))
    with programs(program, model, threads, [TEXT, LONG_TEXT], 2) as both:
        for each in both:
            each.line()
            tokens = each.line()["tokens"]
        for each in both:
            file = mapping(each, model)
            beyond.append(resident_kb(each) - file["Rss"])
            shared.append(file)
    return {
        "threads": threads,
        "tokens": tokens,
        "open_ms": summarize(opened).as_dict(digits=4),
        "first_vector_ms": summarize(first).as_dict(digits=4),
        "beyond_file_kb": max(beyond),
        "file_resident_kb": max(file["Rss"] for file in shared),
        "file_shared_kb": min(file["Shared_Clean"] for file in shared),
        "file_private_kb": max(file["Private_Clean"] + file["Private_Dirty"] for file in shared),
    }


def resident_kb(program: Program) -> int:
    """Its resident set."""
    return int(next(line.split()[1] for line in program.proc("status").splitlines() if line.startswith("VmRSS:")))


def mapping(program: Program, path: Path) -> dict[str, int]:
    """The kB of the mapping of a file, by the names of /proc/PID/smaps."""
    found: dict[str, int] = {}
    inside = False
    for line in program.proc("smaps").splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = line.endswith(str(path))
        elif inside and (match := re.fullmatch(r"(\w+): +(\d+) kB", line)):
            found[match[1]] = found.get(match[1], 0) + int(match[2])
    return found


def _table(cells: list[dict[str, Any]]) -> str:
    columns = [
        "C program",
        "open, ms",
        "open + first vector, ms",
        "middle half",
        "MB beyond the file",
        "MB of the file",
        "of it shared by two",
    ]
    rows = []
    for cell in cells:
        first = cell["first_vector_ms"]
        times = [cell["open_ms"]["median"], first["median"]]
        sizes = [cell[name] / 1024 for name in ("beyond_file_kb", "file_resident_kb", "file_shared_kb")]
        middle = f"{three_digits(first['q1'])}–{three_digits(first['q3'])}"
        rows.append([f"{cell['threads']} threads", *map(three_digits, times), middle, *map(three_digits, sizes)])
    return render_table(columns, rows)


if __name__ == "__main__":
    sys.exit(main())
