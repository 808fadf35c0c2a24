"""Model shapes and benchmark cells, read from the text files in `shapes/`.

A shape file holds `key = value` lines, `#` comments, and one `cells` line: the batches to measure, each written `batch x tokens`
without spaces (`32x128`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import NamedTuple

SHAPES_DIR = Path(__file__).parent / "shapes"


class Cell(NamedTuple):
    """One batch: `batch` texts of `tokens` real tokens each."""

    batch: int
    tokens: int

    def __str__(self) -> str:
        return f"{self.batch}x{self.tokens}"


@dataclass(frozen=True)
class Shape:
    """The numbers of one encoder and the cells to measure it on."""

    name: str
    num_layers: int
    hidden_size: int
    num_heads: int
    intermediate_size: int
    vocab_size: int
    max_positions: int
    type_vocab_size: int
    activation: str
    cells: tuple[Cell, ...]


class Macs(NamedTuple):
    """Multiply-accumulates of one forward pass, by where they happen."""

    linear: int
    attention: int

    @property
    def total(self) -> int:
        return self.linear + self.attention


def macs(shape: Shape, batch: int, tokens: int) -> Macs:
    """The matrix products of `batch` texts of `tokens` tokens: embeddings, pooling and everything elementwise count nothing."""
    stages = stage_macs(shape, batch, tokens)
    attention = stages.pop("attention")
    return Macs(linear=sum(stages.values()), attention=attention)


def stage_macs(shape: Shape, batch: int, tokens: int) -> dict[str, int]:
    """The same by the stage of the encoder that they are done in.

    Per layer and token: hidden×hidden products for query, key, value and the attention's output, hidden×intermediate ones into and out of
    the feed-forward block, and in `attention` Q·Kᵀ and P·V, `2 · tokens · hidden_size`.
    """
    square, inner = shape.hidden_size**2, shape.hidden_size * shape.intermediate_size
    per_token = {
        "qkv": 3 * square,
        "attention": 2 * tokens * shape.hidden_size,
        "attention output": square,
        "ffn in": inner,
        "ffn out": inner,
    }
    return {stage: batch * shape.num_layers * tokens * count for stage, count in per_token.items()}


def parse_cells(text: str) -> tuple[Cell, ...]:
    """Read `1x16,1x128` or `1x16 1x128`; raise `ValueError` on anything else."""
    cells = []
    for word in text.replace(",", " ").split():
        batch, separator, tokens = word.partition("x")
        if not (separator and batch.isdigit() and tokens.isdigit() and int(batch) and int(tokens)):
            raise ValueError(f"cell {word!r}: expected BATCHxTOKENS, for example 1x128")
        cells.append(Cell(int(batch), int(tokens)))
    if not cells:
        raise ValueError("no cells given")
    return tuple(cells)


def parse_shape(name: str, text: str) -> Shape:
    """Read the text of a shape file; every key must be there once, and no other."""
    values: dict[str, object] = {"name": name}
    kinds = {field.name: field.type for field in fields(Shape)}
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.partition("#")[0].strip()
        if not line:
            continue
        key, separator, value = (part.strip() for part in line.partition("="))
        if not separator or key not in kinds or key in values:
            raise ValueError(f"shape {name}, line {number}: {line!r} is no new `key = value` of a shape")
        values[key] = parse_cells(value) if key == "cells" else int(value) if kinds[key] == "int" else value
    missing = sorted(kinds.keys() - values.keys())
    if missing:
        raise ValueError(f"shape {name}: {', '.join(missing)} missing")
    return Shape(**values)  # type: ignore[arg-type]


def load_shape(name: str) -> Shape:
    """The shape `name` of `shapes/`."""
    path = SHAPES_DIR / f"{name}.txt"
    if not path.is_file():
        raise ValueError(f"no shape {name!r}; there are {', '.join(shape_names())}")
    return parse_shape(name, path.read_text(encoding="utf-8"))


def shape_names() -> list[str]:
    """All shapes, in alphabetical order."""
    return sorted(path.stem for path in SHAPES_DIR.glob("*.txt"))


def shape_of_checkpoint(directory: Path) -> Shape:
    """The shape of an existing BERT checkpoint directory, with the cells that fit its positions."""
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    if config.get("model_type") != "bert":
        raise ValueError(f"{directory}: model_type {config.get('model_type')!r}, only 'bert' checkpoints can be given to every peer")
    shape = Shape(
        name="/".join(directory.resolve().parts[-2:]),
        num_layers=config["num_hidden_layers"],
        hidden_size=config["hidden_size"],
        num_heads=config["num_attention_heads"],
        intermediate_size=config["intermediate_size"],
        vocab_size=config["vocab_size"],
        max_positions=config["max_position_embeddings"],
        type_vocab_size=config["type_vocab_size"],
        activation=config["hidden_act"],
        cells=parse_cells("1x16 1x128 1x512 32x128"),
    )
    return replace(shape, cells=tuple(cell for cell in shape.cells if cell.tokens <= shape.max_positions))
