"""Tasks on small random models: predictions by `transformers`, one text at a time, and labels by name or number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import small_model_file
from test_architectures import CASES, write_case
from test_reading import load

import tinybert_rt as tb
from tools import evaluate
from tools.convert import convert
from tools.rows import DataError
from tools.tasks import Task, headline, match_labels, measure, predict_tags

TEXTS = ["the cat sat on the mat", "a dog", "small, fast model!", "text of vectors", "the mat", "cats and dogs sat in a model"]
NEXT = TEXTS[1:] + TEXTS[:1]
LABELS = {0: "bad", 1: "fair", 2: "good"}


def classifier(folder: Path, labels: dict[int, str]) -> tuple[tb.Model, list[list[float]]]:
    """A model, and the logits of TEXTS, each beside the next one, by torch."""
    import torch
    from transformers import BertTokenizer

    names = {"id2label": labels, "label2id": {name: index for index, name in labels.items()}}
    model, theirs = load(folder, "ForSequenceClassification", **names)
    tokenizer = BertTokenizer(str(folder / "vocab.txt"))
    with torch.inference_mode():
        rows = [
            theirs(**tokenizer(a, b, return_tensors="pt")).logits[0].tolist() for a, b in zip(TEXTS, TEXTS[1:] + TEXTS[:1], strict=True)
        ]
    return model, rows


def table(path: Path, labels: list[Any]) -> Path:
    rows = [{"a": a, "b": b, "gold": each} for a, b, each in zip(TEXTS, NEXT, labels, strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_classification_measures_the_likeliest_label(tmp_path: Path) -> None:
    model, rows = classifier(tmp_path, LABELS)
    best = [int(np.argmax(row)) for row in rows]
    gold = [(each + (index < 2)) % 3 for index, each in enumerate(best)]
    by_name = Task("classification", table(tmp_path / "names.jsonl", [LABELS[each] for each in gold]), "a", "b", "gold")
    found = measure(model, by_name)
    assert found["rows"] == 6
    assert found["accuracy"] == pytest.approx(4 / 6)
    by_number = Task("classification", table(tmp_path / "numbers.jsonl", gold), "a", "b", "gold")
    assert {**measure(model, by_number), "seconds": 0} == {**found, "seconds": 0}
    assert headline(found) == ("accuracy", pytest.approx(100 * 4 / 6))
    assert headline(found, "matthews")[1] == pytest.approx(100 * found["matthews"])
    with pytest.raises(DataError, match="no measure 'spearman'"):
        headline(found, "spearman")


def test_regression_measures_the_number(tmp_path: Path) -> None:
    model, rows = classifier(tmp_path, {0: "score"})
    path = table(tmp_path / "t.jsonl", [row[0] * 3 + 1 for row in rows])
    found = measure(model, Task("regression", path, "a", "b", "gold"))
    assert found["pearson"] == pytest.approx(1, abs=1e-6)
    assert found["spearman"] == pytest.approx(1)


def test_pairs_measure_the_cosine(tmp_path: Path) -> None:
    model = tb.load(small_model_file("f32"), threads=1)
    cosines = [float(a @ b) for a, b in zip(*(model.encode(each) for each in (TEXTS, NEXT)), strict=True)]
    found = measure(model, Task("pairs", table(tmp_path / "t.jsonl", cosines), "a", "b", "gold"))
    assert found["pearson"] == pytest.approx(1, abs=1e-6)
    assert found["pairs"] == 6


def test_choice_counts_the_right_ones(tmp_path: Path) -> None:
    write_case(tmp_path, CASES["bert"], "ForMultipleChoice")
    convert(tmp_path, tmp_path / "model.tbrt", dtype="f32")
    model = tb.load(tmp_path / "model.tbrt", threads=1)
    right = [model.choose(text, ["the cat", "a model"]).index for text in TEXTS]
    rows = [
        {"prompt": text, "choices": ["the cat", "a model"], "label": at} for text, at in zip(TEXTS, [1 - right[0], *right[1:]], strict=True)
    ]
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert measure(model, Task("choice", path, "prompt"))["accuracy"] == pytest.approx(5 / 6)
    path.write_text('{"prompt": "x", "choices": "y", "label": 0}\n')
    with pytest.raises(DataError, match="row 1: choices holds no list"):
        measure(model, Task("choice", path, "prompt"))


SENTENCES = [["The", "cat", "sat", "on", "U.S.", "mats", "."], ["a", "dogs'", "model"], ["\u00ad", "x"], ["vector"] * 150]


def tags_by_torch(theirs: Any, tokenizer: Any, labels: list[str]) -> list[list[str]]:
    """The label of the first piece of each token, where `transformers` cuts tokens into pieces one at a time."""
    import torch

    found = []
    for tokens in SENTENCES[:3]:
        given = tokenizer(tokens, is_split_into_words=True, return_tensors="pt")
        with torch.inference_mode():
            best = theirs(**given).logits[0].argmax(-1).tolist()
        words = given.word_ids(0)
        found.append([labels[best[words.index(i)]] if i in words else "O" for i in range(len(tokens))])
    return found


def test_a_token_takes_the_label_of_its_first_piece(tmp_path: Path) -> None:
    from transformers import BertTokenizer

    labels = ["DET", "NOUN", "VERB", "ADP", "PUNCT"]
    names = {"id2label": dict(enumerate(labels)), "label2id": {name: index for index, name in enumerate(labels)}}
    model, theirs = load(tmp_path, "ForTokenClassification", **names)
    found = predict_tags(model, SENTENCES)
    assert found[:3] == tags_by_torch(theirs, BertTokenizer(str(tmp_path / "vocab.txt")), labels)
    assert len(found[3]) == 150
    path = tmp_path / "t.conll"
    path.write_text(
        "".join("".join(f"{a} {b}\n" for a, b in zip(*pair, strict=True)) + "\n" for pair in zip(SENTENCES[:2], found[:2], strict=True))
    )
    result = measure(model, Task("tagging", path))
    assert (result["sentences"], result["tokens"], result["accuracy"]) == (2, 10, 1)
    path.write_text("the SYM\n")
    with pytest.raises(DataError, match="no label SYM"):
        measure(model, Task("tagging", path))


def test_labels_are_names_or_numbers() -> None:
    path = Path("t.tsv")
    assert match_labels(path, ["b", "a"], ["a", "b"]) == [1, 0]
    assert match_labels(path, ["1", "0"], ["a", "b"]) == [1, 0]
    assert match_labels(path, ["1", "0"], ["1", "0"]) == [0, 1]
    for wanted, words in ((["a", "c"], "row 2: 'c' is no label"), (["a", "0"], "row 2: '0'"), (["0", "2"], "row 2: '2'")):
        with pytest.raises(DataError, match=words):
            match_labels(path, wanted, ["a", "b"])


def test_squad_is_measured_too(tmp_path: Path) -> None:
    model, _ = load(tmp_path, "ForQuestionAnswering")
    (answer,) = model.answer("the cat?", TEXTS[0], max_answer_tokens=30)
    questions = [{"id": "1", "question": "the cat?", "answers": [{"text": answer.text, "answer_start": answer.start}]}]
    path = tmp_path / "t.json"
    path.write_text(json.dumps({"data": [{"paragraphs": [{"context": TEXTS[0], "qas": questions}]}]}))
    found = measure(model, Task("squad", path))
    assert (found["exact"], headline(found)) == (100, ("f1", 100))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--task", "classification", "--text", "a"], "several labels"),
        (["--task", "regression", "--text", "a"], "one number"),
        (["--task", "pairs"], "There are a, b, gold: say --text and --pair"),
        (["--task", "pairs", "--text", "a", "--pair", "c"], "no column 'c'"),
        (["--task", "stsb", "--reference", "/nowhere"], "/nowhere: there is no such directory"),
        (["--task", "squad"], "is no SQuAD file"),
        (["--task", "tagging"], "no head that tags"),
    ],
)
def test_what_cannot_be_measured_is_one_line(options: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, file = table(tmp_path / "t.jsonl", [1, 2, 3, 4, 5, 6]), small_model_file("f32")
    capsys.readouterr()  # where this is the first test with that file, transformers has shown its progress
    assert evaluate.main([str(file), "--data", str(path), *options]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert len(err.splitlines()) == 1
