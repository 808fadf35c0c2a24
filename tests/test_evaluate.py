"""Vectors measured on made-up data: similarity, retrieval, and the command line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tools import evaluate, vector_tasks
from tools.rows import DataError


@pytest.mark.parametrize(
    ("grades", "ranking", "expected"),
    [
        ({"a": 1}, ["a", "b"], 1),
        ({"a": 1}, ["b", "a"], 1 / np.log2(3)),
        ({"a": 1}, ["b", "c"], 0),
        ({"a": 1, "b": 2}, ["a", "x", "b"], (1 + 2 / 2) / (2 + 1 / np.log2(3))),
        ({"a": 1}, [*"0123456789", "a"], 0),
        ({"a": 0}, ["a"], 0),
    ],
)
def test_ndcg(grades: dict[str, int], ranking: list[str], expected: float) -> None:
    assert vector_tasks.ndcg_at_10(grades, ranking) == pytest.approx(expected)


def letters(texts: list[str]) -> np.ndarray:
    """A stand-in for a model: how often each letter occurs."""
    return np.array([[text.lower().count(chr(97 + i)) + 0.01 for i in range(26)] for text in texts], np.float32)


def _write(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    pairs = ["sentence1\tsentence2\tscore", "a cat\ta cat\t5.0", "a cat\tthe dog\t1.0", 'he said "no\tsaid he\t4.0']
    _write(tmp_path / "glue" / "stsb" / "test.tsv.gz", pairs)
    folder = tmp_path / "retrieval" / "scifact"
    documents = [{"_id": "10", "title": "aaa", "text": "abc"}, {"_id": "20", "title": "zzz", "text": "xyz"}]
    _write(folder / "corpus.jsonl.gz", [json.dumps(each) for each in documents])
    _write(
        folder / "queries.dev.jsonl.gz", [json.dumps({"_id": each, "text": text}) for each, text in (("1", "zz"), ("2", "a"), ("3", "?"))]
    )
    _write(folder / "qrels.dev.tsv.gz", ["query-id\tcorpus-id\tscore", "1\t20\t1", "2\t20\t1"])
    return tmp_path


def test_stsb_counts_and_correlates(data: Path) -> None:
    result = vector_tasks.stsb(letters, data)
    assert (result["pairs"], result["sentences"], result["unique_sentences"]) == (3, 6, 4)
    assert result["spearman"] == pytest.approx(1)
    assert 0 < result["pearson"] <= 1


def test_stsb_compares_with_a_reference(data: Path) -> None:
    def shifted(texts: list[str]) -> np.ndarray:
        vectors = letters(texts)
        vectors[0, 0] += 0.5
        return vectors

    result = vector_tasks.stsb(letters, data, shifted)
    assert result["max_abs_difference_to_reference"] == pytest.approx(0.5, abs=1e-6)
    assert result["min_cosine_to_reference"] < result["mean_cosine_to_reference"] < 1
    same = vector_tasks.stsb(letters, data, letters)
    assert same["min_cosine_to_reference"] == pytest.approx(1)
    with pytest.raises(DataError, match="shape"):
        vector_tasks.stsb(letters, data, lambda texts: letters(texts)[:, :3])


def test_scifact_ranks_the_corpus(data: Path) -> None:
    result = vector_tasks.scifact(letters, data)
    assert (result["documents"], result["queries"]) == (2, 2)
    assert result["ndcg_at_10"] == pytest.approx((1 + 1 / np.log2(3)) / 2)


def test_missing_data_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"test\.tsv\.gz"):
        vector_tasks.stsb(letters, tmp_path)


def test_scores_are_numbers(data: Path) -> None:
    _write(data / "glue" / "stsb" / "test.tsv.gz", ["sentence1\tsentence2\tscore", "a\tb\t5.0", "a\tb\tmuch"])
    with pytest.raises(DataError, match="row 2: 'much' is no number"):
        vector_tasks.stsb(letters, data)


def test_command_line(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import tinybert_rt as tb

    class Stand:
        def encode_detailed(self, texts: list[str], **options: Any) -> tb.Encoded:
            return tb.Encoded(letters(texts), np.zeros(len(texts), np.int32), np.arange(len(texts)) == 0)

    asked: dict[str, Any] = {}

    def load(path: str, **options: Any) -> Stand:
        asked.update(path=path, **options)
        return Stand()

    monkeypatch.setattr(tb, "load", load, raising=False)
    out = tmp_path / "result.json"
    common = ["m.tbrt", "--data", str(data)]
    assert evaluate.main([*common, "--task", "stsb", "--threads", "2", "--json", str(out)]) == 0
    assert asked == {"path": "m.tbrt", "threads": 2}
    assert json.loads(out.read_text())["unique_sentences"] == 4
    assert json.loads(out.read_text())["truncated_texts"] == 1
    assert "spearman" in capsys.readouterr().out
    assert evaluate.main([*common[:-1], str(tmp_path / "nowhere"), "--task", "scifact"]) == 2
    assert capsys.readouterr().err.startswith("python -m tools.evaluate: error: ")
