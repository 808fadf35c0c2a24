"""Small tasks in files, and settings in TOML, for the tests of distill."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

WORDS = ["the", "of", "and", "a", "to", "in", "model", "text", "vector", "small", "fast", "on", "mat"]


def classification(folder: Path, rows: int = 64, seed: int = 0) -> tuple[str, str]:
    """train.tsv and dev.tsv: a text with "cat" is good, one with "dog" is bad."""
    for name, count in (("train.tsv", rows), ("dev.tsv", rows // 2)):
        rng = np.random.default_rng((seed, count))
        lines = ["sentence\tother\tlabel"]
        for index in range(count):
            words = rng.choice(WORDS, rng.integers(2, 9)).tolist()
            words.insert(int(rng.integers(0, len(words) + 1)), "cat" if index % 2 else "dog")
            lines.append(f"{' '.join(words)}\t{' '.join(rng.choice(WORDS, 3))}\t{'good' if index % 2 else 'bad'}")
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return "train.tsv", "dev.tsv"


def similarity(folder: Path, rows: int = 48) -> tuple[str, str]:
    """train.tsv and dev.tsv: two texts, and how many words they share as a score."""
    for name, count in (("train.tsv", rows), ("dev.tsv", rows // 2)):
        rng = np.random.default_rng(count)
        lines = ["first\tsecond\tscore"]
        for _ in range(count):
            a, b = rng.choice(WORDS, 5, replace=False), rng.choice(WORDS, 5, replace=False)
            lines.append(f"{' '.join(a)}\t{' '.join(b)}\t{len({*a} & {*b})}")
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return "train.tsv", "dev.tsv"


def pairs(folder: Path, rows: int = 64) -> tuple[str, str]:
    """train.tsv and dev.tsv: a text, and the same words in another order."""
    for name, count in (("train.tsv", rows), ("dev.tsv", rows // 4)):
        rng = np.random.default_rng(count)
        lines = ["first\tsecond"]
        for _ in range(count):
            words = rng.choice(WORDS, 4, replace=False)
            lines.append(f"{' '.join(words)}\t{' '.join(rng.permutation(words))}")
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return "train.tsv", "dev.tsv"


def tagging(folder: Path, rows: int = 32) -> tuple[str, str]:
    """train.conll and dev.conll: "cat mat" is an animal in IOB1."""
    for name, count in (("train.conll", rows), ("dev.conll", rows // 2)):
        rng = np.random.default_rng(count)
        lines = []
        for _ in range(count):
            words = rng.choice(WORDS[:-1], 4).tolist()
            for word, tag in [(each, "O") for each in words[:2]] + [("cat", "I-ANIMAL"), ("mat", "I-ANIMAL"), (words[3], "O")]:
                lines.append(f"{word} {tag}")
            lines.append("")
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return "train.conll", "dev.conll"


def choices(folder: Path, rows: int = 32) -> tuple[str, str]:
    """train.jsonl and dev.jsonl: the text with "cat" is right."""
    for name, count in (("train.jsonl", rows), ("dev.jsonl", rows // 2)):
        rng = np.random.default_rng(count)
        lines = []
        for _ in range(count):
            right = int(rng.integers(0, 3))
            texts = [" ".join([*rng.choice(WORDS, 2), "cat" if place == right else "dog"]) for place in range(3)]
            lines.append(json.dumps({"text": "the small", "endings": texts, "label": right}))
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return "train.jsonl", "dev.jsonl"


def questions(folder: Path, rows: int = 24, *, unanswerable: bool = False) -> tuple[str, str]:
    """train.json and dev.json in SQuAD's layout: the answer is the word behind "cat"."""
    for name, count in (("train.json", rows), ("dev.json", rows // 2)):
        rng = np.random.default_rng(count)
        paragraphs = []
        for index in range(count):
            words = rng.choice(WORDS, 30).tolist()
            place = int(rng.integers(0, 29))
            words[place] = "cat"
            context = " ".join(words)
            start = len(" ".join(words[: place + 1])) + 1
            answers = [] if unanswerable and index % 3 == 0 else [{"text": words[place + 1], "answer_start": start}]
            paragraphs.append({"context": context, "qas": [{"id": f"q{index}", "question": "the cat", "answers": answers}]})
        (folder / name).write_text(json.dumps({"version": "1", "data": [{"title": "", "paragraphs": paragraphs}]}), encoding="utf-8")
    return "train.json", "dev.json"


def settings(path: Path, text: str) -> Path:
    """A TOML file."""
    path.write_text(text, encoding="utf-8")
    return path
