"""The command line: `tinybert-rt info | embed | rank`, a command for each kind of head, and the tools (`convert` and others)."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from tinybert_rt import __version__
from tinybert_rt.errors import TinyBertError

from . import embed, info, inspect, rank, search, tasks
from .common import USAGE_ERROR, OneLineParser, UsageError

COMMANDS = (info, embed, tasks, rank, search, inspect)
TOOLS = {
    "convert": "make a model file of a Hugging Face or sentence-transformers directory, or of an ONNX file",
    "export_onnx": "write a model file as an ONNX file",
    "compare": "compare a checkpoint in transformers with the runtime, layer by layer",
    "calibrate": "keep how large the inputs of a checkpoint's layers are, for quantize",
    "quantize": "make an int8 model file of a checkpoint that keeps its accuracy, and a report",
    "evaluate": "measure a model file on labelled data",
    "embed_ray": "make vectors of many jsonl or parquet files with Ray",
    "squad": "answer the questions of a SQuAD file, and measure the answers",
}
EXTRAS = {"embed_ray": "ray", "evaluate": "evaluate", "export_onnx": "onnx", "quantize": "quantize", "calibrate": "quantize"}
"""What else than `tools` a tool needs."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 2 for bad input, 130 when interrupted."""
    if arguments is None:
        arguments = sys.argv[1:]
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unfinished files are removed on the way out
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # what the terminal's encoding does not have
    arguments = list(arguments)
    try:
        if arguments and arguments[0] in TOOLS:
            return _run_tool(arguments[0], arguments[1:])
        options = _parser().parse_args(arguments)
        if sys.stdout is None:
            raise UsageError("standard output: it is closed")
        options.run(options)
        sys.stdout.flush()
        return 0
    except (TinyBertError, UsageError) as error:
        return _fail(str(error))
    except BrokenPipeError:
        _drop_output()  # the reader went away (`| head`): nothing more to say
        return 0
    except OSError as error:
        _drop_output()
        where = f"{error.filename}: " if error.filename else "standard output: "
        return _fail(f"{where}{error.strerror or error}")
    except SystemExit as stop:
        return _fail(stop.code) if isinstance(stop.code, str) else stop.code or 0
    except KeyboardInterrupt:
        return 130


def _drop_output() -> None:
    """What is left in the buffer of standard output cannot be written: do not try again at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str) -> int:
    print(f"tinybert-rt: error: {' '.join(message.split())}", file=sys.stderr)
    return USAGE_ERROR


def _run_tool(name: str, arguments: list[str]) -> int:
    """The tools beside the package: in an installed package `tinybert_rt/_tools/`, in a checkout `tools/`."""
    here = Path(__file__).resolve().parent.parent
    package = "tinybert_rt._tools" if (here / "_tools").is_dir() else "tools"
    if package == "tools" and not (here.parent / "tools" / f"{name}.py").is_file():
        return _fail(f"{name}: the tools are not part of this installation")
    try:
        module = importlib.import_module(f"{package}.{name}")
    except ModuleNotFoundError as error:
        return _fail(f"{name} needs the package {error.name!r}: pip install 'tinybert-rt[{EXTRAS.get(name, 'tools')}]'")
    return int(module.main(arguments, prog=f"tinybert-rt {name}"))


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="tinybert-rt", description="Text in, vectors out: BERT-family encoders on a CPU.")
    parser.add_argument("--version", action="version", version=f"tinybert-rt {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=OneLineParser)
    for module in COMMANDS:
        module.add(commands)
    for tool, text in TOOLS.items():
        commands.add_parser(tool, help=text, add_help=False)
    return parser


__all__ = ["OneLineParser", "main"]
