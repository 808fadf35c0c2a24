"""Words of tokens, entities and answers: against `tokenizers`, the `transformers` pipeline, and a search through all spans."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import vocabulary
from test_architectures import CASES, write_case

import tinybert_rt as tb
from tinybert_rt.reading import entities, windows
from tools.convert import convert

TEXTS = [
    "the cat sat on the mat",
    "",
    "   The  CAT,sat (on) the mat!  ",
    "Zwölf große Übungen: é e\u0301 naïve",
    "東京 is 中文 text ﬁne \u00ad soft\u200bhyphen",
    "[MASK] of the [SEP]model",
    "unaffable " * 3 + "x" * 120 + " end",
    "a\u0300\u0301b \x07 c\ufffdd 한글",
]


def load(folder: Path, head: str, case: str = "bert", **settings: Any) -> tuple[tb.Model, Any]:
    theirs = write_case(folder, CASES[case], head, **settings)
    convert(folder, folder / "model.tbrt", dtype="f32")
    return tb.load(folder / "model.tbrt", threads=1), theirs


def fast_tokenizer(folder: Path) -> Any:
    from transformers import BertTokenizer

    return BertTokenizer(str(folder / "vocab.txt"))


def test_spans_are_the_words_of_tokenizers(tmp_path: Path) -> None:
    model, _ = load(tmp_path, "ForTokenClassification")
    theirs = fast_tokenizer(tmp_path)._tokenizer
    for text in TEXTS:
        for pair in (None, "", "a dog, Déjà-vu"):
            tokens = model.tokenize(text, pair, spans=True)
            expected = theirs.encode(text) if pair is None else theirs.encode(text, pair)
            assert tokens.ids.tolist() == expected.ids
            assert tokens.spans is not None
            for index, (begin, end) in enumerate(tokens.spans.tolist()):
                word = expected.word_ids[index]
                source = (text, pair)[tokens.types[index]]
                if (begin, end) == (-1, -1):
                    assert expected.special_tokens_mask[index], (text, index)
                elif word is not None:
                    same = [i for i, each in enumerate(expected.word_ids) if each == word and expected.type_ids[i] == tokens.types[index]]
                    offsets = [expected.offsets[i] for i in same]
                    assert (begin, end) == (min(a for a, _ in offsets), max(b for _, b in offsets)), (source, index)
    assert model.tokenize("a").spans is None


def test_windows_cover_all_tokens_and_overlap() -> None:
    with pytest.raises(tb.errors.InvalidArgumentError, match="too few tokens"):
        windows(3, 0, 0)
    for count in (0, 1, 7, 8, 9, 40, 41):
        for size, stride in ((8, 0), (8, 2), (8, 7)):
            found = windows(count, size, stride)
            assert found[0][0] == 0
            assert found[-1][1] == count
            for (_, end), (begin, _) in pairwise(found):
                assert begin == end - stride
            assert all(b - a <= size for a, b in found)


def test_labels_become_entities() -> None:
    labels = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "NOUN"]
    text = "Ann Lee met Bo in New York cat"
    words = np.array([(0, 3), (4, 7), (8, 11), (12, 14), (15, 17), (18, 21), (22, 26), (27, 30)], np.int32)
    chosen = [1, 2, 0, 1, 0, 4, 4, 5]
    probabilities = np.full((8, 6), 0.02, np.float32)
    probabilities[np.arange(8), chosen] = [0.9, 0.7, 0.9, 0.9, 0.9, 0.8, 0.6, 0.9]
    found = entities(text, words, probabilities, labels)
    assert [(each.label, each.text) for each in found] == [("PER", "Ann Lee"), ("PER", "Bo"), ("LOC", "New York"), ("NOUN", "cat")]
    assert [round(each.score, 4) for each in found] == [0.8, 0.9, 0.7, 0.9]
    assert all(text[each.start : each.end] == each.text for each in found)


@pytest.mark.parametrize("case", ["bert", "distilbert", "electra"])
def test_tags_are_those_of_the_transformers_pipeline(case: str, tmp_path: Path) -> None:
    from transformers import pipeline

    labels = {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC", 4: "I-LOC"}
    ours, theirs = load(tmp_path, "ForTokenClassification", case, id2label=labels, label2id={v: k for k, v in labels.items()})
    tagger = pipeline("token-classification", model=theirs, tokenizer=fast_tokenizer(tmp_path), aggregation_strategy="first")
    texts = ["the cat sat on the mat", "small fast dogs, and a model of text", "Vectors: the CAT ending"]
    for text, found in zip(texts, ours.tag(texts), strict=True):
        # The pipeline merges "I-X" behind other labels too; what begins with "B-" is cut in the same way.
        words = [(each["start"], each["end"], each["entity_group"]) for each in tagger(text)]
        covered = {(i, label) for start, end, label in words for i in range(start, end) if not text[i].isspace()}
        mine = {(i, each.label) for each in found for i in range(each.start, each.end) if not text[i].isspace()}
        assert mine == covered, text


def test_long_texts_are_tagged_in_windows(tmp_path: Path) -> None:
    model, _ = load(tmp_path, "ForTokenClassification", id2label={0: "O", 1: "NOUN", 2: "VERB"})
    text = "the cat sat on the mat , " * 60
    found = model.tag([text])[0]
    assert model.tokenize(text).ids.size > 3 * model.max_tokens
    assert all(text[each.start : each.end] == each.text for each in found)
    assert found == model.tag(["a dog", text])[1]
    short = model.tag(["the cat sat on the mat"])[0]
    assert short == model.tag(["the cat sat on the mat"])[0]
    assert model.tag([""]) == [[]]


def all_answers(model: Any, tokenizer: Any, question: str, context: str, longest: int) -> list[tuple[float, int, int]]:
    """Every span of a context that fits one window, by torch and a plain double loop: (score, start, end), best first."""
    import torch

    encoded = tokenizer._tokenizer.encode(question, context)
    with torch.inference_mode():
        out = model(input_ids=torch.tensor([encoded.ids]), token_type_ids=torch.tensor([encoded.type_ids]))
    inside = [i for i, kind in enumerate(encoded.sequence_ids) if kind == 1]
    allowed = [0, *inside]
    first = torch.softmax(out.start_logits[0, allowed].double(), 0).tolist()
    last = torch.softmax(out.end_logits[0, allowed].double(), 0).tolist()
    found: dict[tuple[int, int], float] = {}
    for i, a in enumerate(inside):
        for j, b in enumerate(inside):
            if i <= j < i + longest:
                start = min(encoded.offsets[k][0] for k in inside if encoded.word_ids[k] == encoded.word_ids[a])
                end = max(encoded.offsets[k][1] for k in inside if encoded.word_ids[k] == encoded.word_ids[b])
                found[start, end] = max(found.get((start, end), 0.0), first[i + 1] * last[j + 1])
    return sorted(((score, *span) for span, score in found.items()), key=lambda each: -each[0])


def test_answers_are_the_best_spans(tmp_path: Path) -> None:
    ours, theirs = load(tmp_path, "ForQuestionAnswering")
    tokenizer = fast_tokenizer(tmp_path)
    for question, context in (
        ("what sat on the mat ?", TEXTS[0]),
        ("the dog ?", "Small models, fast vectors: the cat and a dog."),
        ("a", "é 中文 x"),
    ):
        expected = all_answers(theirs, tokenizer, question, context, 5)
        found = ours.answer(question, context, top=3, max_answer_tokens=5)
        assert [(each.start, each.end) for each in found] == [(start, end) for _, start, end in expected[:3]]
        assert np.allclose([each.score for each in found], [each[0] for each in expected[:3]], rtol=1e-3)
        assert all(context[each.start : each.end] == each.text for each in found)


def test_answers_in_long_contexts_come_from_any_window(tmp_path: Path) -> None:
    model, _ = load(tmp_path, "ForQuestionAnswering")
    context = " ".join(vocabulary()[140 + i % 5] for i in range(400)) + " the cat"
    found = model.answer("what is it", context, top=5, stride=16)
    assert len(found) == 5
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)
    assert all(context[each.start : each.end] == each.text for each in found)
    nothing = model.answer("what is it", "the cat", top=500, no_answer=True)
    assert any(each == tb.Answer("", each.score, 0, 0) for each in nothing)
    assert model.answer("a", "", no_answer=True)[0].text == ""
    assert model.answer("a", "") == []
    with pytest.raises(tb.errors.InvalidArgumentError, match="top must be at least 1"):
        model.answer("a", "b", top=0)
    with pytest.raises(tb.errors.InvalidArgumentError, match="no_answer must be True or False, not 'x'"):
        model.answer("a", "b", no_answer="x")  # type: ignore[arg-type]


def test_a_question_of_more_than_half_the_model_is_cut_with_a_warning(tmp_path: Path) -> None:
    model, _ = load(tmp_path, "ForQuestionAnswering")
    expected = model.answer("dog " * 46, "the cat sat")
    with pytest.warns(tb.TruncationWarning, match="the question has 47 tokens, of which the first 46 were used") as caught:
        assert model.answer("dog " * 47, "the cat sat") == expected
    assert caught[0].filename == __file__
