"""Question answering over SQuAD files: the metric by its definition, and answers against the published procedure on torch."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_architectures import CASES, write_case

import tinybert_rt as tb
from tools.convert import convert
from tools.squad import Question, evaluate, exact_match, f1, main, normalized, predict, read_questions

LONGEST, STRIDE, POSITIONS = 15, 24, 96


def test_answers_are_normalized_as_the_metric_says() -> None:
    assert normalized("The  Cat's, an-d A.") == "cats and"
    assert normalized("theatre 'a' An") == "theatre"
    assert exact_match("the Cat!", "cat") == 1
    assert exact_match("cat", "cats") == 0
    assert f1("the big cat", "a cat") == pytest.approx(2 / 3)
    assert f1("cat cat dog", "cat dog dog") == pytest.approx(2 / 3)
    assert [f1("", ""), f1("the", "a"), f1("cat", ""), f1("cat", "dog")] == [1, 1, 0, 0]


def test_the_metric_is_the_mean_of_the_best_matches() -> None:
    questions = [Question("1", "?", "", ["cat", "a big cat"]), Question("2", "?", "", []), Question("3", "?", "", ["dog"])]
    found = evaluate(questions, {"1": "the big cat", "2": ""})
    assert found["exact"] == pytest.approx(200 / 3)
    assert evaluate(questions, {"1": "cats cat", "2": "x", "3": "dog"})["f1"] == pytest.approx(100 * (2 / 3 + 0 + 1) / 3)
    assert found["HasAns_exact"] == 50
    assert found["NoAns_f1"] == 100
    assert "NoAns_f1" not in evaluate(questions[:1], {"1": "cat"})


def expected_answers(model: Any, tokenizer: Any, question: str, context: str, level: str) -> tuple[str, float]:
    """The best answer and the odds of none, by the procedure of the `transformers` question answering pipeline of release 4: overlapping
    windows, softmax of starts and of ends over [CLS] and the context, products, the best place in all windows.

    level: "word" for places that are grown to whole words, "token" for the characters of the tokens.
    """
    import torch

    given = tokenizer(
        question,
        context,
        truncation="only_second",
        max_length=POSITIONS,
        stride=STRIDE,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        padding=True,
        return_tensors="pt",
    )
    with torch.inference_mode():
        out = model(**{name: given[name] for name in ("input_ids", "token_type_ids", "attention_mask")})
    best, text, none = -np.inf, "", np.inf
    for number in range(len(given["input_ids"])):
        inside = [i for i, kind in enumerate(given.sequence_ids(number)) if kind == 1]
        allowed = [0, *inside]
        first = torch.log_softmax(out.start_logits[number, allowed].double(), 0).numpy()
        last = torch.log_softmax(out.end_logits[number, allowed].double(), 0).numpy()
        none = min(none, first[0] + last[0])
        for i, begin in enumerate(inside, 1):
            for j, end in enumerate(inside[i - 1 : i - 1 + LONGEST], i):
                if first[i] + last[j] > best:
                    best = first[i] + last[j]
                    spans = given["offset_mapping"][number].tolist()
                    words = given.word_ids(number)
                    if level == "word":
                        chars = [given.word_to_chars(number, words[at], sequence_index=1) for at in (begin, end)]
                        text = context[chars[0].start : chars[1].end]
                    else:
                        text = context[spans[begin][0] : spans[end][1]]
    return text, float(none - best)


def reader(folder: Path, pieces: list[str] | None = None) -> tuple[tb.Model, Any, Any]:
    """A small model with random weights, in our hands and in torch's, and its tokenizer."""
    from transformers import BertTokenizer

    if pieces is None:
        theirs = write_case(folder, CASES["bert"], "ForQuestionAnswering")
    else:
        import torch
        from transformers import BertConfig, BertForQuestionAnswering

        config = BertConfig(vocab_size=len(pieces), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
        config.max_position_embeddings = POSITIONS
        torch.manual_seed(0)
        theirs = BertForQuestionAnswering(config).eval()
        with torch.no_grad():
            for parameter in theirs.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
        theirs.save_pretrained(folder)
        (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
        (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
    convert(folder, folder / "model.tbrt", dtype="f32")
    return tb.load(folder / "model.tbrt", threads=1), theirs, BertTokenizer(str(folder / "vocab.txt"))


def agreement(model: tb.Model, theirs: Any, tokenizer: Any, questions: list[Question], level: str = "word") -> float:
    """The part of the questions whose answers are the same; odds agree for all."""
    same = 0
    for (_, found), each in zip(
        predict(model, questions, no_answer=False, max_answer_tokens=LONGEST, stride=STRIDE), questions, strict=True
    ):
        text, odds = expected_answers(theirs, tokenizer, each.text, each.context, level)
        same += text == found.text
        assert found.null_odds == pytest.approx(odds, abs=1e-3)
    return same / len(questions)


def write_data(path: Path, contexts: list[tuple[str, list[tuple[str, list[str]]]]]) -> Path:
    """A SQuAD file: contexts, each with questions and their answers."""
    paragraphs = [
        {
            "context": context,
            "qas": [
                {"id": f"{i}-{j}", "question": text, "answers": [{"text": gold, "answer_start": context.index(gold)} for gold in golds]}
                for j, (text, golds) in enumerate(questions)
            ],
        }
        for i, (context, questions) in enumerate(contexts)
    ]
    path.write_text(json.dumps({"version": "v2.0", "data": [{"title": "t", "paragraphs": paragraphs}]}))
    return path


CONTEXTS = [
    ("the cat sat on the mat. A dog! " * 8, [("what sat on the mat ?", ["cat", "the cat"]), ("the dog ?", [])]),
    ("Small models of text, fast vectors; é 中文 unaffable.", [("what is small", ["models"])]),
]


def test_predictions_of_a_file_are_those_of_the_published_procedure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, theirs, tokenizer = reader(tmp_path)
    data = write_data(tmp_path / "data.json", CONTEXTS)
    questions = read_questions(data)
    assert agreement(model, theirs, tokenizer, questions) == 1
    files = {name: tmp_path / f"{name}.json" for name in ("out", "nbest", "null-odds")}
    settings = ["--max-answer-tokens", str(LONGEST), "--stride", str(STRIDE)]
    assert (
        main(
            [
                str(tmp_path / "model.tbrt"),
                str(data),
                *(part for name, path in files.items() for part in (f"--{name}", str(path))),
                *settings,
            ]
        )
        == 0
    )
    printed = json.loads(capsys.readouterr().out)
    predictions, nbest, odds = (json.loads(path.read_text()) for path in files.values())
    assert printed == evaluate(questions, predictions)
    for each in questions:
        text, wanted = expected_answers(theirs, tokenizer, each.text, each.context, "word")
        assert odds[each.id] == pytest.approx(wanted, abs=1e-3)
        assert predictions[each.id] == ("" if wanted > 0 else text)
        assert nbest[each.id][0]["text"] == text
    assert main([str(tmp_path / "model.tbrt"), str(data), "--out", str(files["out"]), "--null-threshold", "-100"]) == 0
    assert set(json.loads(files["out"].read_text()).values()) == {""}


def test_what_is_no_squad_file_or_no_reader_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.json").write_text('{"data": [{"paragraphs": 3}]}')
    question = {"id": 1, "question": "a", "answers": [{"text": "b"}, {"answer_start": 0}]}
    (tmp_path / "text.json").write_text(json.dumps({"data": [{"paragraphs": [{"context": "b", "qas": [question]}]}]}))
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "half.json").write_text('{"data": [')
    for arguments, says in (
        (["x.tbrt", str(tmp_path / "none.json")], "cannot be read"),
        (["x.tbrt", str(tmp_path / "bad.json")], "is no SQuAD file: data[0].paragraphs is no list"),
        (["x.tbrt", str(tmp_path / "text.json")], "is no SQuAD file: data[0].paragraphs[0].qas[0].answers[1].text is missing"),
        (["x.tbrt", str(tmp_path / "list.json")], "is no SQuAD file: data is missing"),
        (["x.tbrt", str(tmp_path / "half.json")], "is no SQuAD file: not readable as JSON"),
        (["x.tbrt", str(write_data(tmp_path / "data.json", CONTEXTS))], "no such file"),
        (["x.tbrt", str(tmp_path / "data.json"), "--top", "0"], "--top must be at least 1"),
    ):
        assert main([*arguments, "--out", str(tmp_path / "out.json")]) == 2
        assert says in capsys.readouterr().err


def test_answers_to_200_real_paragraphs_are_those_of_the_published_procedure(shared: Path, tmp_path: Path) -> None:
    """A small random model with the vocabulary of the bundled one; needs ../shared."""
    path = shared / "data/squad/dev-1.1.json.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        paragraphs = [each for article in json.load(file)["data"] for each in article["paragraphs"]]
    chosen = paragraphs[:: len(paragraphs) // 200][:200]
    questions = [Question(each["id"], each["question"], p["context"], []) for p in chosen for each in p["qas"][:1]]
    assert len(questions) == 200
    model, theirs, tokenizer = reader(tmp_path, tb.load().vocabulary())
    assert agreement(model, theirs, tokenizer, questions) >= 0.99
