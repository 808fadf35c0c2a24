"""Plain texts for distillation: lines or sentences of files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tools.rows import DataError, read_texts

from .batches import Feature
from .settings import DistillError

# A sentence ends at . ! or ? before white space and a capital letter, a digit or a quote.
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9\"'“(])")


@dataclass(frozen=True)
class Texts:
    """Texts without labels."""

    files: tuple[str, ...]
    column: str | None = None
    """of a table; of plain text every line is a text"""
    sentences: float = 0.0
    """share of the lines that are cut into their sentences; the others stay as they are"""
    limit: int | None = None
    """so many texts, drawn at random"""
    max_tokens: int = 128
    seed: int = 0


def read(texts: Texts, root: Path) -> list[str]:
    """The texts, in random order, each once. Raises DistillError."""
    rng = np.random.default_rng(texts.seed)
    found: dict[str, None] = {}
    try:
        for path in texts.files:
            lines = read_texts(root / path, texts.column)
            for line, cut in zip(lines, rng.random(len(lines)) < texts.sentences, strict=True):
                found.update(dict.fromkeys(_SENTENCE_END.split(line.strip()) if cut else [line.strip()]))
    except DataError as error:
        raise DistillError(str(error)) from None
    every = list(found)
    order = rng.permutation(len(every))[: texts.limit]
    return [every[index] for index in order]


def features(texts: Sequence[str], tokenizer: Any, max_tokens: int) -> list[Feature]:
    """Token ids of each text, cut at max_tokens."""
    made: list[Feature] = []
    remaining = iter(texts)
    while part := list(islice(remaining, 10_000)):
        ids = tokenizer(part, truncation=True, max_length=max_tokens, return_attention_mask=False, return_token_type_ids=False)["input_ids"]
        made += [{"input_ids": each} for each in ids]
    return made
