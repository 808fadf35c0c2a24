"""What the commands share: the parser, the options of the engine, texts from files, progress on a terminal."""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, NoReturn

from tinybert_rt.errors import TruncationWarning

if TYPE_CHECKING:
    from tinybert_rt.model import Model

USAGE_ERROR = 2
LINES_AT_ONCE = 1024


class UsageError(Exception):
    """Bad input to a command: one line, exit code 2."""


class OneLineParser(argparse.ArgumentParser):
    """Bad arguments are one line and exit code 2."""

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def,override]
        """As the base class, but what is not known is an error here: of a command's parser, whose help is the one to see."""
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return options, unknown

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and end."""
        self.exit(USAGE_ERROR, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def runs(parser: argparse.ArgumentParser, command: Callable[[argparse.Namespace], None]) -> None:
    """What every command ends with: the options of the engine, and the function that does it."""
    parser.add_argument("--threads", type=int, help="workers; default: the CPUs that this process may use")
    parser.add_argument("--isa", help="instruction-set level; default: the best of this machine")
    parser.set_defaults(run=command)


def load(path: str | None, options: argparse.Namespace) -> Model:
    """The model of a command's options."""
    from tinybert_rt import model

    return model.load(path, threads=options.threads, isa=options.isa)


def name_of(path: str) -> str:
    """What errors call an input."""
    return "standard input" if path == "-" else path


@contextmanager
def open_input(path: str) -> Iterator[IO[bytes]]:
    """A file, or standard input for "-"."""
    if path == "-":
        if sys.stdin is None:
            raise UsageError("standard input: it is closed")
        yield sys.stdin.buffer
        return
    with open(path, "rb") as file:
        yield file


def lines_of(file: IO[bytes], name: str) -> Iterator[str]:
    """The lines of a file as text; invalid UTF-8 is an error that names the line."""
    for number, line in enumerate(file, 1):
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        try:
            yield line.rstrip(b"\r\n").decode("utf-8")
        except UnicodeDecodeError as error:
            raise UsageError(f"{name}: line {number} is not valid UTF-8 (byte {error.start + 1})") from None


def text_of(file: IO[bytes], name: str) -> str:
    """A file as one text, its line ends as they are, without the byte order mark; invalid UTF-8 is an error that names the line."""
    data = file.read().removeprefix(b"\xef\xbb\xbf")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line, begin = data.count(b"\n", 0, error.start) + 1, data.rfind(b"\n", 0, error.start) + 1
        raise UsageError(f"{name}: line {line} is not valid UTF-8 (byte {error.start - begin + 1})") from None


def note_truncation(truncated: int, count: int, model: Model) -> None:
    """Say how many texts were cut, if any."""
    if truncated:
        texts, were = f"{count} text{'s' * (count != 1)}", "was" if truncated == 1 else "were"
        print(f"tinybert-rt: {truncated} of {texts} had more than {model.max_tokens} tokens and {were} truncated", file=sys.stderr)


@contextmanager
def warnings_as_notes() -> Iterator[None]:
    """Each warning about truncation is one line on standard error."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", TruncationWarning)
        warnings.showwarning = lambda message, *_, **__: print(f"tinybert-rt: {message}", file=sys.stderr)
        yield


@contextmanager
def status_line() -> Iterator[Callable[[Callable[[], str]], None] | None]:
    """A line on the terminal that is made and written at most five times a second, and goes away at the end; None in a pipe."""
    if not sys.stderr.isatty():
        yield None
        return
    last = 0.0

    def show(text: Callable[[], str]) -> None:
        nonlocal last
        now = time.perf_counter()
        if now - last >= 0.2:
            last = now
            print(f"\r{text()}\033[K", end="", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        if last:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


@contextmanager
def progress() -> Iterator[Callable[[int], None]]:
    """A counter of texts on the terminal; nothing in a pipe."""
    started = time.perf_counter()
    with status_line() as line:
        if line is None:
            yield lambda done: None
        else:
            yield lambda done: line(lambda: f"{done} texts, {done / (time.perf_counter() - started):.0f} per second")


def on_one_line(text: str) -> str:
    """A text for a line of output: what a terminal does not print, such as a line break, as an escape."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
