"""Ranking of pairs by a head, and words that were replaced: against torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_architectures import CASES, write_case
from test_reading import fast_tokenizer, load

import tinybert_rt as tb
from tinybert_rt.cli import main
from tools.convert import convert

TEXTS = ["the cat sat on the mat", "a dog", "fast text vector model " * 60, "small models"]


def cross_encoder(folder: Path, labels: list[str]) -> tuple[tb.Model, Any]:
    theirs = write_case(folder, CASES["bert"], "ForSequenceClassification", id2label=dict(enumerate(labels)))
    convert(folder, folder / "model.tbrt", dtype="f32")
    return tb.load(folder / "model.tbrt", threads=1), theirs


def pair_logits(model: Any, folder: Path, query: str) -> np.ndarray:
    import torch

    given = fast_tokenizer(folder)([query] * len(TEXTS), TEXTS, truncation="only_second", max_length=96, padding=True, return_tensors="pt")
    with torch.inference_mode():
        return np.asarray(model(**given).logits.double())


def test_a_cross_encoder_ranks_pairs(tmp_path: Path) -> None:
    ours, theirs = cross_encoder(tmp_path, ["LABEL_0"])
    expected = 1 / (1 + np.exp(-pair_logits(theirs, tmp_path, "the dog")[:, 0]))  # CrossEncoder's default for one label
    for method in ("auto", "pairs"):
        with pytest.warns(tb.TruncationWarning, match="1 of 4 texts were truncated: with the query they have more than 96 tokens"):
            found = ours.rank("the dog", TEXTS, method=method)
        assert [each.index for each in found] == np.argsort(-expected).tolist()
        assert np.allclose([each.score for each in found], np.sort(expected)[::-1], atol=1e-5)
    with pytest.warns(tb.TruncationWarning):
        assert [each.text for each in ours.rank("the dog", TEXTS, top=1)] == [TEXTS[expected.argmax()]]
    with pytest.raises(tb.errors.TextTooLongError, match="the query has 202 tokens and leaves no room for a text, the limit is 96"):
        ours.rank("dog " * 200, TEXTS)
    vectors = ours.rank("the dog", TEXTS[:2], method="vectors")
    query, *rows = ours.encode(["the dog", *TEXTS[:2]])
    cosines = {i: row @ query / np.linalg.norm(row) / np.linalg.norm(query) for i, row in enumerate(rows)}
    assert all(each.score == pytest.approx(cosines[each.index], abs=1e-6) for each in vectors)


def test_two_labels_rank_where_that_is_asked_for(tmp_path: Path) -> None:
    ours, theirs = cross_encoder(tmp_path, ["no", "yes"])
    logits = pair_logits(theirs, tmp_path, "the dog")
    expected = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
    with pytest.warns(tb.TruncationWarning):
        found = {each.index: each.score for each in ours.rank("the dog", TEXTS, method="pairs")}
    assert np.allclose([found[i] for i in range(len(TEXTS))], expected, atol=1e-5)
    auto = ours.rank("the dog", TEXTS[:2])
    assert auto == ours.rank("the dog", TEXTS[:2], method="vectors")


def test_next_sentences_are_ranked_by_the_first_label(tmp_path: Path) -> None:
    write_case(tmp_path, CASES["bert"], "ForNextSentencePrediction")
    convert(tmp_path, tmp_path / "model.tbrt", dtype="f32")
    model = tb.load(tmp_path / "model.tbrt", threads=1)
    best = model.rank("the dog", TEXTS[:2], top=1, method="pairs")[0]
    assert best.score == pytest.approx(max(each.scores["next"] for each in model.classify([("the dog", text) for text in TEXTS[:2]])))


def test_what_cannot_rank_pairs_says_so(tmp_path: Path) -> None:
    model, _ = cross_encoder(tmp_path, ["a", "b", "c"])
    with pytest.raises(tb.errors.MissingHeadError, match="3 labels"):
        model.rank("the dog", TEXTS, method="pairs")
    with pytest.raises(tb.errors.MissingHeadError, match="no head"):
        tb.load().rank("the dog", TEXTS, method="pairs")
    with pytest.raises(tb.errors.InvalidArgumentError, match="method must be one of auto, vectors, pairs"):
        model.rank("the dog", TEXTS, method="both")


def test_the_command_ranks_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, _ = cross_encoder(tmp_path, ["LABEL_0"])
    (tmp_path / "lines.txt").write_text("\n\n".join(TEXTS) + "\n")
    assert main(["rank", "the dog", str(tmp_path / "lines.txt"), "--model", str(tmp_path / "model.tbrt"), "--top", "3", "--json"]) == 0
    output = capsys.readouterr()
    found = [json.loads(line) for line in output.out.splitlines()]
    with pytest.warns(tb.TruncationWarning):
        expected = model.rank("the dog", TEXTS, top=3)
    assert [(each["text"], each["line"]) for each in found] == [(each.text, 2 * each.index + 1) for each in expected]
    assert "1 of 4 texts had more than 96 tokens" in output.err


def test_replaced_words_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    ours, theirs = load(tmp_path, "ForPreTraining", "electra-small")
    tokenizer = fast_tokenizer(tmp_path)
    for text in ("the cat sat, on the Mats", "Étext 中文 unaffable", ""):
        encoded = tokenizer._tokenizer.encode(text)
        with torch.inference_mode():
            logits = theirs(input_ids=torch.tensor([encoded.ids])).logits[0].double().numpy()
        expected = []
        for word in sorted({word for word in encoded.word_ids if word is not None}):
            places = [i for i, each in enumerate(encoded.word_ids) if each == word]
            score = max(1 / (1 + np.exp(-logits[i])) for i in places)
            expected.append((score, encoded.offsets[places[0]][0], encoded.offsets[places[-1]][1]))
        found = ours.detect_replaced(text)
        assert [(each.start, each.end) for each in found] == [(start, end) for _, start, end in expected]
        assert np.allclose([each.score for each in found], [score for score, _, _ in expected], atol=1e-4)
        assert all(text[each.start : each.end] == each.text for each in found)
    long = ours.detect_replaced("the cat sat " * 100)
    assert len(long) == 300
    (tmp_path / "lines.txt").write_text("the cat\na dog\n")
    assert (
        main(["detect-replaced", str(tmp_path / "lines.txt"), "--model", str(tmp_path / "model.tbrt"), "--threshold", "0", "--json"]) == 0
    )
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["line"], line["text"]) for line in lines] == [(1, "the"), (1, "cat"), (2, "a"), (2, "dog")]
    other, _ = load(tmp_path, "ForTokenClassification", "electra-small")
    with pytest.raises(tb.errors.MissingHeadError, match="ELECTRA"):
        other.detect_replaced("the cat")
