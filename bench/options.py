"""Values of command-line options that several benchmarks share; each function is the `type` of an argument."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection
from pathlib import Path

from bench.shape import Cell, parse_cells, shape_names


def positive(text: str) -> int:
    """A whole number from 1 on."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


def positives(text: str) -> list[int]:
    """Different positive numbers, as `1,2`."""
    numbers = list(dict.fromkeys(positive(word) for word in text.split(",") if word))
    if not numbers:
        raise argparse.ArgumentTypeError(f"{text!r} names no number")
    return numbers


def names(known: Collection[str]) -> Callable[[str], list[str]]:
    """Some of the known names, as `a,b`."""

    def parse(text: str) -> list[str]:
        words = [word for word in text.split(",") if word]
        if not words or not set(words) <= set(known):
            raise argparse.ArgumentTypeError(f"{text!r}: choose from {', '.join(known)}")
        return words

    return parse


def models(text: str) -> list[str]:
    """Shapes by name, or directories of BERT checkpoints, as `tiny,base`."""
    words = [word for word in text.split(",") if word]
    unknown = [word for word in words if word not in shape_names() and not (Path(word) / "config.json").is_file()]
    if unknown or not words:
        raise argparse.ArgumentTypeError(f"{text!r}: choose from {', '.join(shape_names())}, or give checkpoint directories")
    return words


def cells(text: str) -> tuple[Cell, ...]:
    """Batches and lengths, as `1x16,32x128`."""
    try:
        return parse_cells(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
