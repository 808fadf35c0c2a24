"""Real texts by the name of a dataset, from a folder of data: short sentences, abstracts, paragraphs.

`glue/stsb/test.tsv.gz` (sentence1, sentence2, score; a header line), `retrieval/scifact/corpus.jsonl.gz` (title, text) and
`corpus/wiki/valid.txt.xz` (a paragraph a line, titles as `= Title =`).
"""

from __future__ import annotations

import gzip
import json
import lzma
import random
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

SAMPLE = 400
WIKI_PARAGRAPHS, WIKI_CHARACTERS = 5000, 40


def read_texts(name: str, data: Path, count: int | None = None) -> list[str]:
    """The texts of a dataset in their order: `count` of them, chosen with a fixed seed; by default `SAMPLE`, and all of stsb.

    Raises OSError where a file cannot be read.
    """
    texts = list(DATASETS[name](data))
    if count is None:
        count = len(texts) if name == "stsb" else SAMPLE
    if count >= len(texts):
        return texts
    return [texts[index] for index in sorted(random.Random(0).sample(range(len(texts)), count))]


def _stsb(data: Path) -> Iterator[str]:
    with gzip.open(data / "glue" / "stsb" / "test.tsv.gz", "rt", encoding="utf-8") as file:
        for line in islice(file, 1, None):
            yield from line.rstrip("\n").split("\t")[:2]


def _scifact(data: Path) -> Iterator[str]:
    with gzip.open(data / "retrieval" / "scifact" / "corpus.jsonl.gz", "rt", encoding="utf-8") as file:
        for line in file:
            document = json.loads(line)
            yield f"{document['title']} {document['text']}".strip()


def _wiki(data: Path) -> Iterator[str]:
    with lzma.open(data / "corpus" / "wiki" / "valid.txt.xz", "rt", encoding="utf-8") as file:
        lines = (line.strip() for line in file)
        paragraphs = (line for line in lines if len(line) >= WIKI_CHARACTERS and not (line.startswith("= ") and line.endswith(" =")))
        yield from islice(paragraphs, WIKI_PARAGRAPHS)


DATASETS: dict[str, Callable[[Path], Iterator[str]]] = {"stsb": _stsb, "scifact": _scifact, "wiki": _wiki}
