"""A small made-up corpus and runs on it, for the tests of pretraining."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from distill import corpus, vocabulary
from distill.masking import Vocabulary, vocabulary_of

_LIST = """
the a quick brown fox jumps over lazy dog river city of and in was born king queen music band album war history small large number during
under Österreich naïve playing played plays rivers cities kings queens unplayed re-born
"""
WORDS = _LIST.split()


def sentence(rng: random.Random) -> str:
    """A capital, three to fourteen words, a full stop."""
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(3, 14))).capitalize() + rng.choice(".?!")


def text(documents: int, seed: int = 0) -> str:
    """Documents of a few paragraphs of a few sentences."""
    rng = random.Random(seed)
    return "\n\n".join(
        "\n".join(" ".join(sentence(rng) for _ in range(rng.randint(1, 5))) for _ in range(rng.randint(1, 4))) for _ in range(documents)
    )


def write_texts(folder: Path) -> Path:
    """train.txt and valid.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.txt").write_text(text(40), encoding="utf-8")
    (folder / "valid.txt").write_text(text(8, 1), encoding="utf-8")
    return folder


@cache
def tokenizer(architecture: str) -> Any:
    """A tokenizer of an architecture, trained on the corpus."""
    settings = vocabulary.TokenizerSettings(vocab_size=320)
    return vocabulary.train_tokenizer([line for line in text(40).splitlines() if line], architecture, settings, 48)


@cache
def tokens(architecture: str) -> tuple[corpus.Corpus, Vocabulary]:
    """The corpus as an architecture's tokens."""
    folder = write_texts(Path(mkdtemp(prefix="tinybert_rt-test-")))
    made = tokenizer(architecture)
    return corpus.build([folder / "train.txt"], made, folder / "tokens", quiet=True), vocabulary_of(made)


def recipe(out: Path, architecture: str = "bert", kind: str = "mlm", **training: Any) -> str:
    """Settings of a run of a few seconds."""
    values = {"learning_rate": 0.003, "steps": 6, "batch_size": 8, "log_every": 1, "checkpoint_every": 2, "threads": 1} | training
    lines = "\n".join(f"{name} = {str(value).lower() if isinstance(value, bool) else value!r}" for name, value in values.items())
    return f"""
out = "{out}"
dtype = "f32"
[model]
architecture = "{architecture}"
hidden_size = 32
layers = 2
heads = 2
max_positions = 48
[text]
train = ["tr*.txt"]
valid = ["valid.txt"]
valid_rows = 16
[tokenizer]
vocab_size = 320
[objective]
kind = "{kind}"
max_tokens = 32
[training]
{lines}
"""
