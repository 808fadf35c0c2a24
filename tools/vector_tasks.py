"""Tasks that measure vectors: similarity of pairs of texts, STS benchmark among them, and retrieval in SciFact.

They take a function that makes vectors of texts, so that a model file and a checkpoint in `transformers` are measured alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import rows
from .metrics import regression_metrics
from .rows import DataError

_BATCH = 32

Encode = Callable[[list[str]], np.ndarray]
"""list of n texts → float32 (n, dim)"""


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


def numbers(path: Path, values: Sequence[str]) -> np.ndarray:
    """float64 (n,): a column of numbers of the table at `path`. Raises DataError for what is no finite number."""
    for number, value in enumerate(values, 1):
        try:
            known = np.isfinite(float(value))
        except ValueError:
            known = False
        if not known:
            raise DataError(f"{path}: row {number}: {value!r} is no number")
    return np.array(values, np.float64)


def similarity(
    encode: Encode, first: Sequence[str], second: Sequence[str], scores: np.ndarray, reference: Encode | None = None
) -> dict[str, Any]:
    """Correlation of the cosine of the vectors of n pairs of texts with their scores; with a reference also how close the vectors are."""
    sentences = list(dict.fromkeys([*first, *second]))
    place = {sentence: index for index, sentence in enumerate(sentences)}
    left, right = [place[each] for each in first], [place[each] for each in second]
    started = time.perf_counter()
    vectors = encode(sentences)
    seconds = time.perf_counter() - started

    def correlations(of: np.ndarray) -> dict[str, float]:
        units = normalized(of)
        return regression_metrics((units[left] * units[right]).sum(axis=1), scores)

    result = {
        "pairs": len(first),
        "sentences": len(first) + len(second),
        "unique_sentences": len(sentences),
        **correlations(vectors),
        "seconds": seconds,
    }
    if reference is not None:
        expected = reference(sentences)
        if expected.shape != vectors.shape:
            raise DataError(f"the reference gives vectors of shape {expected.shape}, the model {vectors.shape}")
        agreement = (normalized(vectors) * normalized(expected)).sum(axis=1)
        result |= {
            **{f"reference_{name}": value for name, value in correlations(expected).items()},
            "mean_cosine_to_reference": float(agreement.mean()),
            "min_cosine_to_reference": float(agreement.min()),
            "max_abs_difference_to_reference": float(np.abs(vectors.astype(np.float64) - expected).max()),
        }
    return result


def stsb(encode: Encode, data: Path, reference: Encode | None = None) -> dict[str, Any]:
    """STS benchmark, test part: `similarity` of glue/stsb/test.tsv.gz (sentence1, sentence2, score)."""
    path = data / "glue" / "stsb" / "test.tsv.gz"
    table = rows.read_table(path)
    first, second, scores = (rows.column(path, table, name) for name in ("sentence1", "sentence2", "score"))
    return {"task": "stsb", **similarity(encode, first, second, numbers(path, scores), reference)}


class SciFact(NamedTuple):
    """The documents, those dev queries that have judgements, and these: grades by document, by query."""

    documents: list[dict[str, str]]
    queries: list[dict[str, str]]
    grades: dict[str, dict[str, int]]


def read_scifact(data: Path) -> SciFact:
    """The folder retrieval/scifact: corpus.jsonl.gz (_id, title, text), queries.dev.jsonl.gz (_id, text) and qrels.dev.tsv.gz (query,
    document, grade; a header line). Raises DataError.
    """
    folder = data / "retrieval" / "scifact"
    documents = rows.read_table(folder / "corpus.jsonl.gz")
    queries = rows.read_table(folder / "queries.dev.jsonl.gz")
    grades: dict[str, dict[str, int]] = {}
    for row in rows.read_table(folder / "qrels.dev.tsv.gz"):
        query, document, grade = list(row.values())
        grades.setdefault(query, {})[document] = int(grade)
    return SciFact(documents, [each for each in queries if each["_id"] in grades], grades)


def scifact(encode: Encode, data: Path) -> dict[str, Any]:
    """SciFact, dev queries: mean NDCG@10 of ranking all documents (title, space, text) by cosine; equal scores rank by document order."""
    documents, queries, grades = read_scifact(data)
    names = [each["_id"] for each in documents]
    started = time.perf_counter()
    corpus = normalized(encode([f"{each['title']} {each['text']}" for each in documents]))
    asked = normalized(encode([each["text"] for each in queries]))
    seconds = time.perf_counter() - started
    order = np.argsort(-(asked @ corpus.T), axis=1, kind="stable")[:, :10]
    scores = [ndcg_at_10(grades[query["_id"]], [names[i] for i in best]) for query, best in zip(queries, order, strict=True)]
    return {
        "task": "scifact",
        "documents": len(documents),
        "queries": len(queries),
        "ndcg_at_10": float(np.mean(scores)),
        "seconds": seconds,
    }


def transformers_encoder(directory: Path) -> Encode:
    """Sentence vectors of `transformers` in float32, pooled and normalised as the directory says."""
    from .hf import read_embedding

    try:
        import torch
        from transformers import AutoModel, AutoTokenizer
    except ImportError as error:
        raise DataError(f"--reference needs transformers and torch: {error}") from None
    if not directory.is_dir():  # transformers would look for a model of that name on the network
        raise DataError(f"{directory}: there is no such directory")
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
                raise DataError(f"{directory}: modules.json is missing, so the reference's pooling is not known")
            vectors[chosen] = torch.nn.functional.normalize(pooled, dim=1).numpy() if embedding.normalize else pooled.numpy()
        return vectors

    return encode
