"""The command line: `tinybert-rt info | embed | rank | classify | tag | answer`, and the tools (`convert`, `evaluate`)."""

from __future__ import annotations

import argparse
import importlib
import io
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

from tinybert_rt import __version__
from tinybert_rt.errors import TinyBertError
from tinybert_rt.output import whole_file

if TYPE_CHECKING:
    from tinybert_rt.model import Model
    from tinybert_rt.vectors import Encoded

TOOLS = {
    "convert": "make a model file of a Hugging Face or sentence-transformers directory",
    "evaluate": "measure a model file on STS benchmark or SciFact",
}
_USAGE_ERROR = 2
_LINES_AT_ONCE = 1024


class _UsageError(Exception):
    """Bad input to a command: one line, exit code 2."""


class OneLineParser(argparse.ArgumentParser):
    """Bad arguments are one line and exit code 2."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and end."""
        self.exit(_USAGE_ERROR, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 2 for bad input, 130 when interrupted."""
    if arguments is None:
        arguments = sys.argv[1:]
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unfinished files are removed on the way out
    arguments = list(arguments)
    try:
        if arguments and arguments[0] in TOOLS:
            return _run_tool(arguments[0], arguments[1:])
        options = _parser().parse_args(arguments)
        options.run(options)
        sys.stdout.flush()
        return 0
    except (TinyBertError, _UsageError) as error:
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
    return _USAGE_ERROR


def _run_tool(name: str, arguments: list[str]) -> int:
    """The tools beside the package: in an installed package `tinybert_rt/_tools/`, in a checkout `tools/`."""
    here = Path(__file__).resolve().parent
    package = "tinybert_rt._tools" if (here / "_tools").is_dir() else "tools"
    if package == "tools" and not (here.parent / "tools" / f"{name}.py").is_file():
        return _fail(f"{name}: the tools are not part of this installation")
    try:
        module = importlib.import_module(f"{package}.{name}")
    except ModuleNotFoundError as error:
        return _fail(f"{name} needs the package {error.name!r}: pip install 'tinybert-rt[tools]'")
    return int(module.main(arguments, prog=f"tinybert-rt {name}"))


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="tinybert-rt", description="Text in, vectors out: BERT-family encoders on a CPU.")
    parser.add_argument("--version", action="version", version=f"tinybert-rt {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=OneLineParser)

    info = commands.add_parser("info", help="what is in a model file, and what runs it")
    info.add_argument("model", nargs="?", help="a .tbrt file; default: the bundled all-MiniLM-L6-v2")
    info.add_argument("--json", action="store_true", help="one JSON object")
    _runs(info, _info)

    embed = commands.add_parser("embed", help="vectors of the lines of a file, as a stream")
    embed.add_argument("input", nargs="?", default="-", help="a .txt (a text a line) or .jsonl file; '-' is standard input")
    embed.add_argument("--out", required=True, help="a .npy or .jsonl file; '-' writes jsonl to standard output")
    embed.add_argument("--model", help="a .tbrt file; default: the bundled model")
    embed.add_argument("--field", default="text", help="the text's field in jsonl input (default: text)")
    embed.add_argument("--format", choices=("txt", "jsonl"), help="of the input; default: by the file's name, else txt")
    embed.add_argument("--dim", type=int, help="keep the first DIM elements of each vector (Matryoshka models)")
    embed.add_argument("--dtype", default="float32", choices=("float32", "int8", "binary"))
    embed.add_argument("--truncation", default="truncate", choices=("truncate", "error"), help="of texts that are too long")
    _runs(embed, _embed)

    classify = commands.add_parser("classify", help="the label of each line of a file, by a model with a classification head")
    classify.add_argument("file", nargs="?", default="-", help="a text a line; '-' is standard input")
    classify.add_argument("--model", required=True, help="a .tbrt file that was converted from a classifier")
    classify.add_argument("--json", action="store_true", help="one JSON object a line, with the score of every label")
    _runs(classify, _classify)

    tag = commands.add_parser("tag", help="the entities of each line of a file, by a token classification model")
    tag.add_argument("file", nargs="?", default="-", help="a text a line; '-' is standard input")
    tag.add_argument("--model", required=True, help="a .tbrt file that was converted from a token classifier")
    tag.add_argument("--json", action="store_true", help="one JSON object an entity")
    _runs(tag, _tag)

    answer = commands.add_parser("answer", help="the places of a text that answer a question, by a question answering model")
    answer.add_argument("question")
    answer.add_argument("file", help="the text; '-' is standard input")
    answer.add_argument("--model", required=True, help="a .tbrt file that was converted from a question answering model")
    answer.add_argument("--top", type=int, default=1, help="answers to print (default: 1)")
    answer.add_argument("--no-answer", action="store_true", help="an empty answer is one (for models of SQuAD 2.0)")
    answer.add_argument("--json", action="store_true", help="one JSON object an answer")
    _runs(answer, _answer)

    rank = commands.add_parser("rank", help="the lines of a file that answer a query best")
    rank.add_argument("query")
    rank.add_argument("file", help="a text a line; '-' is standard input")
    rank.add_argument("--top", type=int, default=10, help="lines to print (default: 10)")
    rank.add_argument("--model", help="a .tbrt file; default: the bundled model")
    rank.add_argument("--json", action="store_true", help="one JSON object a line")
    _runs(rank, _rank)

    for tool, text in TOOLS.items():
        commands.add_parser(tool, help=text, add_help=False)
    return parser


def _runs(parser: argparse.ArgumentParser, command: Callable[[argparse.Namespace], None]) -> None:
    """What every command ends with: the options of the engine, and the function that does it."""
    parser.add_argument("--threads", type=int, help="workers; default: the CPUs that this process may use")
    parser.add_argument("--isa", help="instruction-set level; default: the best of this machine")
    parser.set_defaults(run=command)


def _load(path: str | None, options: argparse.Namespace) -> Model:
    from tinybert_rt.model import load

    return load(path, threads=options.threads, isa=options.isa)


def _info(options: argparse.Namespace) -> None:
    from tinybert_rt.isa.levels import available_levels

    model = _load(options.model, options)
    facts = model.info()
    facts["available_isa"] = [level.name for level in available_levels()]
    if options.json:
        print(json.dumps({**facts, "metadata": model.metadata}, ensure_ascii=False))
        return
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        print(f"{name:<{width}}  {' '.join(value) if isinstance(value, list) else value}")
    for name in ("source", "license"):
        if name in model.metadata:
            print(f"{name:<{width}}  {model.metadata[name]}")


# ---------------------------------------------------------------- reading texts


@contextmanager
def _open_input(path: str) -> Iterator[IO[bytes]]:
    if path == "-":
        yield sys.stdin.buffer
        return
    with open(path, "rb") as file:
        yield file


def _lines(file: IO[bytes], name: str) -> Iterator[str]:
    """The lines of a file as text; invalid UTF-8 is an error that names the line."""
    for number, line in enumerate(file, 1):
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        try:
            yield line.rstrip(b"\r\n").decode("utf-8")
        except UnicodeDecodeError as error:
            raise _UsageError(f"{name}: line {number} is not valid UTF-8 (byte {error.start + 1})") from None


def _json_texts(lines: Iterator[str], name: str, field: str) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _UsageError(f"{name}: line {number} is not JSON: {error}") from None
        text = value.get(field) if isinstance(value, dict) else value
        if not isinstance(text, str):
            raise _UsageError(f"{name}: line {number} has no string in the field {field!r}; --field names another")
        if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
            raise _UsageError(f"{name}: line {number} has a lone surrogate: it is not valid Unicode")
        yield text


# ---------------------------------------------------------------- commands


def _embed(options: argparse.Namespace) -> None:
    name = "standard input" if options.input == "-" else options.input
    form = options.format or ("jsonl" if options.input.endswith((".jsonl", ".ndjson")) else "txt")
    if options.out != "-" and not options.out.endswith((".npy", ".jsonl")):
        raise _UsageError(f"--out {options.out}: the name must end in .npy or .jsonl, or be '-'")
    if options.input != "-" and options.out != "-" and os.path.realpath(options.input) == os.path.realpath(options.out):
        raise _UsageError(f"--out {options.out}: is the input itself")
    with _open_input(options.input) as file:
        model = _load(options.model, options)
        texts = _lines(file, name)
        if form == "jsonl":
            texts = _json_texts(texts, name, options.field)
        groups = model.stream(texts, dim=options.dim, dtype=options.dtype, truncation=options.truncation)
        with _vector_writer(options.out) as write:
            count, truncated = 0, 0
            with _progress() as show:
                for group in groups:
                    write(group)
                    count += len(group.vectors)
                    truncated += int(group.truncated.sum())
                    show(count)
            if count == 0:
                raise _UsageError(f"{name}: no texts")
    _note_truncation(truncated, count, model)


def _note_truncation(truncated: int, count: int, model: Model) -> None:
    if truncated:
        limit = model.max_tokens
        print(f"tinybert-rt: {truncated} of {count} texts had more than {limit} tokens and were truncated", file=sys.stderr)


@contextmanager
def _vector_writer(path: str) -> Iterator[Callable[[Encoded], None]]:
    """Writes groups of vectors as they come. A file is complete or not there: it is renamed into place at the end."""
    if path == "-":
        yield lambda group: _write_json(sys.stdout, group)
        return
    with whole_file(path) as file:
        if path.endswith(".jsonl"):
            text = io.TextIOWrapper(file, encoding="utf-8")
            yield lambda group: _write_json(text, group)
            text.detach()  # flushes, and leaves the file open
        else:
            with _NpyStream(file) as stream:
                yield lambda group: stream.write(group.vectors)


def _write_json(file: IO[str], group: Encoded) -> None:
    for vector, tokens, cut in zip(group.vectors, group.token_counts, group.truncated, strict=True):
        values = vector.tolist() if vector.dtype.kind != "f" else [float(f"{value:.9g}") for value in vector.tolist()]
        file.write(json.dumps({"vector": values, "tokens": int(tokens), "truncated": bool(cut)}) + "\n")


class _NpyStream:
    """An .npy file whose number of rows is filled in at the end: the header has a fixed length."""

    _HEADER_BYTES = 128

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._rows = 0
        self._row: Any = None

    def __enter__(self) -> _NpyStream:
        self._file.write(b"\0" * self._HEADER_BYTES)
        return self

    def write(self, vectors: Any) -> None:
        """Append rows; all have one shape and dtype."""
        self._row = vectors[:0]
        self._rows += len(vectors)
        self._file.write(vectors.tobytes())

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is not None or self._row is None:
            return
        shape = (self._rows, *self._row.shape[1:])
        text = repr({"descr": self._row.dtype.str, "fortran_order": False, "shape": shape}).encode()
        magic = b"\x93NUMPY\x01\x00" + (self._HEADER_BYTES - 10).to_bytes(2, "little")
        self._file.seek(0)
        self._file.write(magic + text.ljust(self._HEADER_BYTES - len(magic) - 1) + b"\n")


def _rank(options: argparse.Namespace) -> None:
    if options.top < 1:
        raise _UsageError(f"--top must be at least 1, not {options.top}")
    name = "standard input" if options.file == "-" else options.file
    with _open_input(options.file) as file:
        model = _load(options.model, options)
        best = best_lines(model, options.query, _lines(file, name), options.top)
    if not best:
        raise _UsageError(f"{name}: no texts")
    for score, number, line in best:
        if options.json:
            print(json.dumps({"score": round(score, 6), "line": number, "text": line}, ensure_ascii=False))
        else:
            print(f"{score:.4f}  {number:>6}  {line}")


def _classify(options: argparse.Namespace) -> None:
    name = "standard input" if options.file == "-" else options.file
    with _open_input(options.file) as file:
        model = _load(options.model, options)
        lines = _lines(file, name)
        count = 0
        while texts := list(itertools.islice(lines, _LINES_AT_ONCE)):
            count += len(texts)
            for text, found in zip(texts, model.classify(texts, truncation="truncate"), strict=True):
                if options.json:
                    scores = {label: round(score, 6) for label, score in found.scores.items()}
                    print(json.dumps({"label": found.label, "score": round(found.score, 6), "scores": scores}, ensure_ascii=False))
                else:
                    print(f"{found.score:.4f}  {found.label}  {text}")
        if count == 0:
            raise _UsageError(f"{name}: no texts")


def _tag(options: argparse.Namespace) -> None:
    name = "standard input" if options.file == "-" else options.file
    with _open_input(options.file) as file:
        model = _load(options.model, options)
        lines = _lines(file, name)
        count = 0
        while texts := list(itertools.islice(lines, _LINES_AT_ONCE)):
            for number, found in enumerate(model.tag(texts), count + 1):
                for each in found:
                    if options.json:
                        print(json.dumps({"line": number, **each._asdict(), "score": round(each.score, 6)}, ensure_ascii=False))
                    else:
                        print(f"{number:>6}  {each.score:.4f}  {each.label}  {each.text}")
            count += len(texts)
        if count == 0:
            raise _UsageError(f"{name}: no texts")


def _answer(options: argparse.Namespace) -> None:
    name = "standard input" if options.file == "-" else options.file
    if options.top < 1:
        raise _UsageError(f"--top must be at least 1, not {options.top}")
    with _open_input(options.file) as file:
        model = _load(options.model, options)
        context = "\n".join(_lines(file, name))
    for each in model.answer(options.question, context, top=options.top, no_answer=options.no_answer):
        if options.json:
            print(json.dumps({**each._asdict(), "score": round(each.score, 6)}, ensure_ascii=False))
        else:
            print(f"{each.score:.4f}  {each.start:>6}  {each.text}")


def best_lines(model: Model, query: str, lines: Iterator[str], top: int) -> list[tuple[float, int, str]]:
    """The `top` lines nearest to the query by cosine similarity: (score, line number, line), best first; blank lines are skipped."""
    import heapq

    from tinybert_rt.engine.texts import utf8
    from tinybert_rt.ranking import cosine_similarity

    utf8(query, "the query")
    asked = model.encode_detailed([query], truncation="truncate")
    wanted, truncated = asked.vectors[0], 0
    if asked.truncated[0]:
        print(f"tinybert-rt: the query had more than {model.max_tokens} tokens and was truncated", file=sys.stderr)
    best: list[tuple[float, int, str]] = []
    waiting: list[tuple[int, str]] = []

    def remembered() -> Iterator[str]:
        for number, line in enumerate(lines, 1):
            if line.strip():
                waiting.append((number, line))
                yield line

    with _progress() as show:
        done = 0
        for group in model.stream(remembered()):
            scores = cosine_similarity(group.vectors, wanted)
            for score, (number, line) in zip(scores.tolist(), waiting, strict=False):
                entry = (score, -number, line)
                if len(best) < top:
                    heapq.heappush(best, entry)
                else:
                    heapq.heappushpop(best, entry)
            del waiting[: len(scores)]
            done += len(scores)
            truncated += int(group.truncated.sum())
            show(done)
    _note_truncation(truncated, done, model)
    return [(score, -number, line) for score, number, line in sorted(best, reverse=True)]


@contextmanager
def _progress() -> Iterator[Callable[[int], None]]:
    """A counter on the terminal, at most five times a second; nothing in a pipe."""
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    started = time.perf_counter()
    last = 0.0

    def show(done: int) -> None:
        nonlocal last
        now = time.perf_counter()
        if now - last >= 0.2:
            last = now
            print(f"\r{done} texts, {done / (now - started):.0f} per second", end="", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        if last:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


__all__ = ["OneLineParser", "best_lines", "main"]
