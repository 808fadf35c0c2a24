"""Measure a model file on real tasks: STS benchmark (correlation) and SciFact (retrieval).

Usage:
    python -m tools.evaluate model.tbrt --task stsb --data DATA
    python -m tools.evaluate model.tbrt --task stsb --data DATA --reference HF_DIRECTORY    (also compares vectors)
    python -m tools.evaluate model.tbrt --task scifact --data DATA --json result.json

DATA holds glue/stsb/test.tsv.gz (columns sentence1, sentence2, score, with a header line) and retrieval/scifact/ with
corpus.jsonl.gz (_id, title, text), queries.dev.jsonl.gz (_id, text) and qrels.dev.tsv.gz (query, document, grade).
"""

from __future__ import annotations

import gzip
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinybert_rt.cli import OneLineParser

from .hf import ConversionError

TASKS = ("stsb", "scifact")
_BATCH = 32

Encode = Callable[[list[str]], np.ndarray]
"""list of n texts → float32 (n, dim)"""


class EvaluationError(Exception):
    """The data, the model or the reference cannot be used: what, and why."""


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's correlation of two vectors; NaN if one of them is constant."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    x, y = x - x.mean(), y - y.mean()
    length = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / length if length else float("nan")


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean: np.ndarray = (last - (counts - 1) / 2)[inverse]
    return mean


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's rank correlation, ties averaged: Pearson's correlation of the ranks."""
    return pearson(ranks(x), ranks(y))


def normalized(vectors: np.ndarray) -> np.ndarray:
    """Rows divided by their lengths, float64 (n, dim); a row of zeros stays."""
    vectors = np.asarray(vectors, np.float64)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)


def ndcg_at_10(grades: dict[str, int], ranking: Sequence[str]) -> float:
    """NDCG@10 with gain = grade and discount log2(rank + 1), as trec_eval's ndcg_cut_10 (Järvelin and Kekäläinen 2002)."""

    def discounted(gains: Sequence[int]) -> float:
        return float(sum(gain / np.log2(rank + 2) for rank, gain in enumerate(gains[:10])))

    best = discounted(sorted(grades.values(), reverse=True))
    return discounted([grades.get(document, 0) for document in ranking[:10]]) / best if best else 0.0


def stsb(encode: Encode, data: Path, reference: Encode | None = None) -> dict[str, Any]:
    """STS benchmark, test part: correlation of the cosine with the score; with a reference also how close the vectors are."""
    rows = [line.split("\t") for line in _lines(data / "glue" / "stsb" / "test.tsv.gz")[1:]]
    if not rows or any(len(row) != 3 for row in rows):
        raise EvaluationError(f"{data / 'glue' / 'stsb' / 'test.tsv.gz'}: every line must have three columns")
    first, second = [row[0] for row in rows], [row[1] for row in rows]
    score = np.array([float(row[2]) for row in rows])
    sentences = list(dict.fromkeys([*first, *second]))
    place = {sentence: index for index, sentence in enumerate(sentences)}
    started = time.perf_counter()
    vectors = encode(sentences)
    seconds = time.perf_counter() - started

    def cosine(of: np.ndarray) -> np.ndarray:
        units = normalized(of)
        left, right = [place[each] for each in first], [place[each] for each in second]
        products: np.ndarray = (units[left] * units[right]).sum(axis=1)
        return products

    result = {
        "task": "stsb",
        "pairs": len(rows),
        "sentences": len(first) + len(second),
        "unique_sentences": len(sentences),
        "spearman": spearman(cosine(vectors), score),
        "pearson": pearson(cosine(vectors), score),
        "seconds": seconds,
    }
    if reference is not None:
        expected = reference(sentences)
        if expected.shape != vectors.shape:
            raise EvaluationError(f"the reference gives vectors of shape {expected.shape}, the model {vectors.shape}")
        agreement = (normalized(vectors) * normalized(expected)).sum(axis=1)
        result |= {
            "reference_spearman": spearman(cosine(expected), score),
            "reference_pearson": pearson(cosine(expected), score),
            "mean_cosine_to_reference": float(agreement.mean()),
            "min_cosine_to_reference": float(agreement.min()),
            "max_abs_difference_to_reference": float(np.abs(vectors.astype(np.float64) - expected).max()),
        }
    return result


def scifact(encode: Encode, data: Path) -> dict[str, Any]:
    """SciFact, dev queries: mean NDCG@10 of ranking all documents (title, space, text) by cosine; equal scores rank by document order."""
    folder = data / "retrieval" / "scifact"
    documents = [json.loads(line) for line in _lines(folder / "corpus.jsonl.gz")]
    queries = [json.loads(line) for line in _lines(folder / "queries.dev.jsonl.gz")]
    grades: dict[str, dict[str, int]] = {}
    for line in _lines(folder / "qrels.dev.tsv.gz"):
        query, document, grade = line.split("\t")
        if grade.lstrip("-").isdigit():  # not the header line
            grades.setdefault(query, {})[document] = int(grade)
    names = [str(each["_id"]) for each in documents]
    queries = [each for each in queries if str(each["_id"]) in grades]
    started = time.perf_counter()
    corpus = normalized(encode([f"{each['title']} {each['text']}" for each in documents]))
    asked = normalized(encode([each["text"] for each in queries]))
    seconds = time.perf_counter() - started
    order = np.argsort(-(asked @ corpus.T), axis=1, kind="stable")[:, :10]
    scores = [ndcg_at_10(grades[str(query["_id"])], [names[i] for i in best]) for query, best in zip(queries, order, strict=True)]
    return {
        "task": "scifact",
        "documents": len(documents),
        "queries": len(queries),
        "ndcg_at_10": float(np.mean(scores)),
        "seconds": seconds,
    }


def _lines(path: Path) -> list[str]:
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="\n") as file:
            return file.read().removesuffix("\n").split("\n")
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{path}: not readable: {error}") from None


def transformers_encoder(directory: Path) -> Encode:
    """Sentence vectors of `transformers` in float32, pooled and normalised as the directory says."""
    from .hf import read_embedding

    try:
        import torch
        from transformers import AutoModel, AutoTokenizer
    except ImportError as error:
        raise EvaluationError(f"--reference needs transformers and torch: {error}") from None
    embedding = read_embedding(directory)
    tokenizer = AutoTokenizer.from_pretrained(embedding.transformer)
    model = AutoModel.from_pretrained(embedding.transformer, dtype=torch.float32).eval()
    limit = embedding.max_tokens or model.config.max_position_embeddings

    def encode(texts: list[str]) -> np.ndarray:
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        vectors: np.ndarray = np.empty((len(texts), model.config.hidden_size), np.float32)
        for start in range(0, len(order), _BATCH):
            chosen = order[start : start + _BATCH]
            batch = tokenizer([texts[i] for i in chosen], padding=True, truncation=True, max_length=limit, return_tensors="pt")
            with torch.inference_mode():
                states = model(**batch).last_hidden_state
            mask = batch["attention_mask"].unsqueeze(-1)
            if embedding.pooling == "cls":
                pooled = states[:, 0]
            elif embedding.pooling == "mean":
                pooled = (states * mask).sum(1) / mask.sum(1)
            elif embedding.pooling == "max":
                pooled = states.masked_fill(mask == 0, -torch.inf).amax(1)
            else:
                raise EvaluationError(f"{directory}: modules.json is missing, so the reference's pooling is not known")
            vectors[chosen] = torch.nn.functional.normalize(pooled, dim=1).numpy() if embedding.normalize else pooled.numpy()
        return vectors

    return encode


def evaluate(encode: Encode, task: str, data: Path, reference: Encode | None = None) -> dict[str, Any]:
    """Run one task. Raises EvaluationError when data or reference cannot be used."""
    if task == "stsb":
        return stsb(encode, data, reference)
    if task == "scifact":
        if reference is not None:
            raise EvaluationError("--reference compares vectors on stsb only")
        return scifact(encode, data)
    raise EvaluationError(f"task is {task!r}; known: {', '.join(TASKS)}")


def format_result(result: dict[str, Any]) -> str:
    """One line per number."""
    width = max(map(len, result))
    lines = []
    for name, value in result.items():
        shown = f"{value:.3e}" if name.startswith("max_abs") else f"{value:.6f}" if isinstance(value, float) else str(value)
        lines.append(f"{name:{width}}  {shown}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None, prog: str = "python -m tools.evaluate") -> int:
    """Run the command. Returns the exit status: 0, or 2 after one line that says what is wrong."""
    command = OneLineParser(prog=prog, description="Measure a .tbrt file on STS benchmark or SciFact.")
    command.add_argument("model", help="the .tbrt file")
    command.add_argument("--task", choices=TASKS, required=True)
    command.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder with glue/stsb and retrieval/scifact")
    command.add_argument("--reference", type=Path, metavar="HF_DIR", help="compare vectors with transformers in float32 (stsb)")
    command.add_argument("--threads", type=int, metavar="N", help="default: all CPUs this process may use")
    command.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers to a file")
    options = command.parse_args(arguments)

    import tinybert_rt as tb

    try:
        model = tb.load(options.model, threads=options.threads)
        reference = transformers_encoder(options.reference) if options.reference else None
        truncated = 0

        def encode(texts: Sequence[str]) -> np.ndarray:
            nonlocal truncated
            encoded = model.encode_detailed(texts, truncation="truncate")
            truncated += int(encoded.truncated.sum())
            return encoded.vectors

        result = {**evaluate(encode, options.task, options.data, reference), "truncated_texts": truncated}
        if options.json:
            options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    except (EvaluationError, ConversionError, tb.TinyBertError, OSError) as error:
        print(f"{prog}: error: {error}", file=sys.stderr)
        return 2
    except (KeyError, ValueError, RecursionError) as error:
        print(f"{prog}: error: {options.data}: the data of {options.task} is malformed: {error!r}", file=sys.stderr)
        return 2
    print(format_result(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
