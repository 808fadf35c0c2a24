"""The Speed section of the project's README.md, written from the results in `bench/results/LEVEL/*.json`.

    python -m bench.readme            # rewrite the section, draw bench/results/LEVEL/speed.png
    python -m bench.readme --check    # exit status 1 if the section is not what the results give

`make bench` makes the results: peers, texts, stages, tokenize, startup, embedded, engines, family and search, any of which may be
missing. Nothing between the two markers in README.md is typed by hand.
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Callable, Sequence
from os.path import relpath
from pathlib import Path
from typing import Any

from bench.artefacts import REPOSITORY
from bench.common import render_table, three_digits, write_text
from bench.compare import RATIOS, SHARE, means, percent, thread_counts, threads_in_words, title
from bench.family import family_table
from bench.search_section import search_section
from bench.startup import LABELS
from bench.systems import OURS, SYSTEMS
from tinybert_rt.isa.levels import LEVELS

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
BENCHMARKS = ("peers", "texts", "stages", "tokenize", "startup", "embedded", "engines", "family", "search")
PACKAGES = ("tinybert-rt", "onnxruntime", "openvino", "ctranslate2", "tokenizers")
INT8_PEERS = tuple(name for name in SYSTEMS if name != OURS and "int8" in name)
BEST_PEER, ORT = RATIOS
LINE_WIDTH = 140
NO_RESULTS = "There are no results yet: `make bench` makes them."

Result = dict[str, Any]


def main(arguments: list[str] | None = None) -> int:
    """Rewrite or check as the command line says; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.readme", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit status 1 if something would change")
    parser.add_argument("--readme", type=Path, default=REPOSITORY / "README.md", help="the file with the two markers")
    parser.add_argument("--results", type=Path, default=REPOSITORY / "bench" / "results", help="folder of LEVEL/*.json")
    options = parser.parse_args(arguments)
    results = read_results(options.results)
    before = options.readme.read_text(encoding="utf-8")
    try:
        after = replace_section(before, section(results, relpath(options.results, options.readme.parent)))
    except ValueError as error:
        print(f"bench.readme: {options.readme}: {error}", file=sys.stderr)
        return 2
    if options.check:
        if after != before:
            print(f"{options.readme} is not what {options.results} gives: run python -m bench.readme", file=sys.stderr)
        return int(after != before)
    for level, found in results.items():
        if "peers" in found:
            from bench.pictures import draw_speed

            draw_speed(found["peers"], options.results / level / "speed.png")
    write_text(options.readme, after)
    return 0


def read_results(folder: Path) -> dict[str, dict[str, Result]]:
    """By level, the fastest first: the results that are there, by benchmark."""
    results = {}
    for level in reversed(LEVELS):
        paths = {name: folder / level.name / f"{name}.json" for name in BENCHMARKS}
        found = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.is_file()}
        if found:
            results[level.name] = found
    return results


def replace_section(readme: str, text: str) -> str:
    """The README with another text between the markers; raise `ValueError` if they are not there, once each and in order."""
    if readme.count(BEGIN) != 1 or readme.count(END) != 1 or readme.index(BEGIN) > readme.index(END):
        raise ValueError(f"there must be one {BEGIN} and behind it one {END}")
    return readme[: readme.index(BEGIN) + len(BEGIN)] + f"\n{text}\n" + readme[readme.index(END) :]


def section(results: dict[str, dict[str, Result]], folder: str) -> str:
    """The text between the markers; `folder` is where the results are, as seen from the README."""
    writers: dict[str, Callable[[Result], str]] = {
        "peers": _peers,
        "texts": _texts,
        "tokenize": _tokenize,
        "startup": _startup,
        "embedded": _embedded,
        "engines": _engines,
        "family": _family,
        "search": lambda found: search_section(found, _prose),
    }
    parts = []
    for level, found in results.items():
        parts.append(f"### On {level}\n" + _machine(next(iter(found.values()))))
        if "peers" in found:
            parts.append(f"![Times of the best peer and of ONNX Runtime int8, divided by ours, on {level}]({folder}/{level}/speed.png)")
        parts += [writer(found[name]) for name, writer in writers.items() if name in found]
        if "stages" in found:
            parts.append(f"Where the time goes, stage by stage: [a picture]({folder}/{level}/stages.png).")
    return "\n\n".join(parts) or NO_RESULTS


def _machine(result: Result) -> str:
    machine, versions = result["machine"], result["versions"]
    packages = ", ".join(f"{name} {versions[name]}" for name in PACKAGES if name in versions)
    cpus = machine.get("cpus_allowed", machine["cpus"])
    flags = " ".join(machine.get("cpu_flags", []))
    return _prose(f"{machine['cpu']}, {cpus} CPUs ({flags}), {result['date'][:10]}; {packages}.")


def _peers(result: Result) -> str:
    cells = result["cells"]
    counts = thread_counts(cells)
    peers = [name for name in INT8_PEERS if any(name in cell["systems"] for cell in cells)]
    columns = ["model, batch × tokens"]
    for threads in counts:
        short = [SYSTEMS[name].label.replace(" int8", "") for name in peers]
        columns += [f"{threads_in_words(threads)}: ours", *short, "best / ours", "of limit"]
    lines: dict[str, dict[int, Result]] = {}
    for cell in cells:
        lines.setdefault(title(cell), {})[cell["threads"]] = cell
    rows = []
    for name, by_threads in lines.items():
        rows.append([name] + [text for threads in counts for text in _peer_columns(by_threads.get(threads), peers)])
    peak = f" (up to {three_digits(result['peak_gmacs'])} GMAC/s a core)" if result.get("peak_gmacs") else ""
    rounds = ", measured in the same rounds," if any(cell.get("peak_gmacs") for cell in cells) else ""
    notes = [
        "Encoder only, medians in ms, int8, the fastest in bold. *best / ours*: the best peer's time (of any precision) / ours. "
        f"*of limit*: time at the cores' int8 peak{peak}{rounds} / ours.",
    ]
    precisions = {str(cell["systems"]["ov-int8"]["info"].get("float_precision")) for cell in cells if "ov-int8" in cell["systems"]}
    if "bf16" in precisions:
        notes.append("OpenVINO computes its float parts in bfloat16 here.")
    return "\n\n".join([_prose(" ".join(notes)), render_table(columns, rows), _means(cells)])


def _peer_columns(cell: Result | None, peers: list[str]) -> list[str]:
    """Ours, the peers, the ratio and the share of one cell."""
    systems = cell["systems"] if cell else {}
    medians = {name: systems[name]["ms"]["median"] for name in (OURS, *peers) if name in systems}
    times = _with_bold(medians, (OURS, *peers), min(medians.values(), default=None))
    cell = cell or {}
    ratio, best = three_digits(cell.get(BEST_PEER)), cell.get("best_peer")
    other = f" ({SYSTEMS[best].label})" if best and best not in peers else ""
    return [*times, ratio + other, percent(cell.get(SHARE))]


def _with_bold(values: dict[str, float], names: Sequence[str], best: float | None) -> list[str]:
    """A number for each name, an en dash where there is none, the best in bold."""
    texts = []
    for name in names:
        text = three_digits(values.get(name))
        texts.append(f"**{text}**" if name in values and values[name] == best else text)
    return texts


def _means(cells: list[Result]) -> str:
    sentences = []
    for threads in thread_counts(cells):
        found = means(cell for cell in cells if cell["threads"] == threads)
        words = [f"{label} {three_digits(found[key])}" for key, label in RATIOS.items() if key in found]
        words += [f"{percent(found[SHARE])} of the int8 limit"] if SHARE in found else []
        sentences.append(f"{threads_in_words(threads)}: {', '.join(words)}")
    return _prose(f"Geometric means, {'; '.join(sentences)}.")


def _texts(result: Result) -> str:
    cells = result["cells"]
    names = [name for name in SYSTEMS if any(name in cell["systems"] for cell in cells)]
    columns = ["texts per second", "threads", *("ours" if name == OURS else SYSTEMS[name].label for name in names)]
    rows = []
    for cell in cells:
        rates = {name: cell["systems"][name]["texts_per_s"] for name in names if name in cell["systems"]}
        tokens = f"{cell['dataset']}, {cell['tokens'] / cell['texts']:.0f} tokens a text"
        row = [tokens, str(cell["threads"]), *_with_bold(rates, names, max(rates.values(), default=None))]
        rows.append([*row, three_digits(cell.get(BEST_PEER)), three_digits(cell.get(ORT))])
    heading = (
        "From raw text to vectors, all-MiniLM-L6-v2, cut after 256 tokens; peers have the `tokenizers` package, sorted texts and the best "
        "batch size:"
    )
    return f"{_prose(heading)}\n\n{render_table([*columns, *RATIOS.values()], rows)}"


def _tokenize(result: Result) -> str:
    facts = []
    for case in result["cases"]:
        ratio = three_digits(case["theirs_over_ours"]["median"])
        if case["texts"] == 1:
            facts.append(
                f"a {case['case']} of {case['tokens']} tokens in {three_digits(case['us'][OURS]['median'])} µs ({ratio} times less)"
            )
        else:
            facts.append(f"{case['texts']:,} {case['case']} at {three_digits(case['megabytes_per_s'][OURS])} MB/s ({ratio} times faster)")
    threads = threads_in_words(result["settings"]["threads"])
    return _prose(f"The tokenizer beside the `tokenizers` package, {threads}: {', '.join(facts)}.")


def _startup(result: Result) -> str:
    facts = []
    for name, entry in result["contestants"].items():
        resident = entry["memory_kb"].get("VmRSS", {}).get("median")
        memory = f" and {resident / 1024:.0f} MB" if resident else ""
        facts.append(f"{LABELS[name]} {three_digits(entry['total_s']['median'])} s{memory}")
    return _prose(f"From a cold process to the first vector: {', '.join(facts)}.")


def _embedded(result: Result) -> str:
    facts = []
    for cell in result["cells"]:
        first, beyond = three_digits(cell["first_vector_ms"]["median"]), three_digits(cell["beyond_file_kb"] / 1024)
        facts.append(f"{first} ms and {beyond} MB with {threads_in_words(cell['threads'])}")
    last = result["cells"][-1]
    return _prose(
        f"A C program, from opening the model to the first vector, and its resident memory beyond the model's file after a text of "
        f"{last['tokens']} tokens: {', '.join(facts)}. Two of them share {three_digits(last['file_shared_kb'] / 1024)} of the "
        f"{three_digits(last['file_resident_kb'] / 1024)} MB of the file that are resident."
    )


def _engines(result: Result) -> str:
    ratios = sorted(cell["native_over_jit"]["median"] for cell in result["cells"])
    return _prose(
        f"The compiled library's time over that of kernels compiled in place, in {len(ratios)} cells: {three_digits(ratios[0])} to "
        f"{three_digits(ratios[-1])}, geometric mean {three_digits(result['geometric_mean'])}."
    )


def _family(result: Result) -> str:
    text = "What each architecture costs, in times of BERT's time in the same shape, random weights, int8, one text (deberta-v2 is v3):"
    return f"{_prose(text)}\n\n{family_table(result['rows'])}"


def _prose(text: str) -> str:
    return textwrap.fill(text, LINE_WIDTH, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    sys.exit(main())
