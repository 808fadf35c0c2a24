"""Fine-tuning: every kind of task learns something small, and its checkpoint, its `.tbrt` file and its report agree."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import distill_files
import numpy as np
import pytest
import torch
from models import write_checkpoint

import tinybert_rt as tb
from distill import finetune, models, runtime, tasks
from distill.batches import ShuffledBatches, collate
from distill.training import read_log

KINDS = {
    "classification": ('text = "sentence"\nmax_tokens = 32', distill_files.classification, 0.9),
    "tagging": ("max_tokens = 32", distill_files.tagging, 0.9),
    "choice": ('text = "text"\npair = "endings"\nmax_tokens = 32', distill_files.choices, 0.6),
    "answers": ("max_tokens = 24\nstride = 8", partial(distill_files.questions, rows=384), 0.9),
    "similarity": ('text = "first"\npair = "second"\nlabel = "score"\nmax_tokens = 32', distill_files.similarity, 0.3),
    "regression": ('text = "first"\npair = "second"\nlabel = "score"\nmax_tokens = 32', distill_files.similarity, 0.1),
    "pairs": ('text = "first"\npair = "second"\nmax_tokens = 32', distill_files.pairs, 0.5),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "model"
    write_checkpoint(folder, hidden_size=32, intermediate_size=64, num_hidden_layers=2, hidden_dropout_prob=0.0)
    return folder


def recipe(folder: Path, base: Path, kind: str, *, steps: int = 60, more: str = "") -> Path:
    columns, make, _ = KINDS[kind]
    train, dev = make(folder)
    return distill_files.settings(
        folder / "settings.toml",
        f"""
model = "{base}"
out = "{folder / "run"}"
{more}

[data]
kind = "{kind}"
train = ["{train}"]
dev = "{dev}"
{columns}

[training]
learning_rate = 3e-3
steps = {steps}
batch_size = 16
evaluate_every = {max(steps // 2, 1)}
log_every = 10
""",
    )


def run(path: Path, *arguments: str) -> int:
    return finetune.main([str(path), "--data", str(path.parent), *arguments])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_task_is_learned_and_the_runtime_agrees(kind: str, base: Path, tmp_path: Path) -> None:
    assert run(recipe(tmp_path, base, kind, steps=400 if kind == "answers" else 60)) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    exact, ours, int8 = (report["scores"][name]["score"] for name in ("PyTorch, float32", "runtime, f32", "runtime, int8"))
    assert exact >= KINDS[kind][2]
    assert ours == pytest.approx(exact, abs=1e-4)
    assert int8 == pytest.approx(exact, abs=0.15)
    table = (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    assert f"{int8:.4f}" in table
    model = tb.load(tmp_path / "run" / "model.tbrt")
    assert model.info()["head"] == {
        "classification": "sequence_classification",
        "regression": "sequence_classification",
        "tagging": "token_classification",
        "choice": "sequence_classification",  # and `choose` works, see below
        "answers": "question_answering",
    }.get(kind, "none")


def test_labels_are_in_the_file(base: Path, tmp_path: Path) -> None:
    assert run(recipe(tmp_path, base, "classification")) == 0
    model = tb.load(tmp_path / "run" / "model.tbrt")
    assert model.labels == ["bad", "good"]
    assert [answer.label for answer in model.classify(["the small cat", "a dog on the mat"])] == ["good", "bad"]


def test_a_finished_run_is_not_trained_again(base: Path, tmp_path: Path) -> None:
    path = recipe(tmp_path, base, "classification", steps=4)
    assert run(path) == 0
    log = (tmp_path / "run" / "log.jsonl").read_text(encoding="utf-8")
    shutil.rmtree(tmp_path / "run" / "model")
    assert run(path) == 0
    assert (tmp_path / "run" / "log.jsonl").read_text(encoding="utf-8") == log
    assert (tmp_path / "run" / "model" / "config.json").exists()


def test_the_seed_is_that_of_a_new_head_too(base: Path, tmp_path: Path) -> None:
    logs = []
    for _ in range(2):
        assert run(recipe(tmp_path, base, "classification", steps=4)) == 0
        logs.append([line["loss"] for line in read_log(tmp_path / "run" / "log.jsonl") if "loss" in line])
        shutil.rmtree(tmp_path / "run")
    assert logs[0] == logs[1]


def test_a_dry_run_writes_nothing(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = recipe(tmp_path, base, "classification", steps=4)
    assert run(path, "--dry-run") == 0
    assert "64 examples" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


BAD = {
    "unknown key": (["--set", "training.learning_rat=1"], "unknown key 'learning_rat'; did you mean 'learning_rate'?"),
    "no such file": (["--set", 'data.train=["nothing.tsv"]'], "nothing.tsv: there is no such file"),
    "no such column": (["--set", "data.text=review"], "has no column 'review'"),
    "no such model": (["--set", "model=./nothing"], "./nothing: there is no such directory of a model"),
    "too long": (["--set", "data.max_tokens=4096"], "data.max_tokens is 4096; the model has 96 positions"),
    "too few": (["--set", "training.batch_size=1000"], "batch_size is 1000, but there are only 64 examples"),
    "both": (["--set", "training.epochs=1"], "say either 'steps' or 'epochs'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_settings_are_one_clear_line(case: str, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, message = BAD[case]
    assert run(recipe(tmp_path, base, "classification"), *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_label_that_training_never_saw_is_named(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = recipe(tmp_path, base, "classification")
    with (tmp_path / "dev.tsv").open("a", encoding="utf-8") as file:
        file.write("text\ttext\tfine\n")
    assert run(path) == 2
    assert "label 'fine' does not occur in the training data" in capsys.readouterr().err


ROWS = {
    "one label": ("classification", "train.tsv", "sentence\tother\tlabel\na\tb\tgood\n", "data.train has the label 'good' alone"),
    "empty label": ("classification", "train.tsv", "sentence\tother\tlabel\na\tb\t\n", "train.tsv: row 1: the column 'label' is empty"),
    "no number": ("regression", "train.tsv", "first\tsecond\tscore\na\tb\thigh\n", "train.tsv: row 1: 'high' is no number"),
    "not finite": ("similarity", "dev.tsv", "first\tsecond\tscore\na\tb\tnan\n", "dev.tsv: row 1: 'nan' is no number"),
    "no list": ("choice", "dev.jsonl", '{"text": "a", "endings": "b", "label": 0}\n', "dev.jsonl: row 1: 'endings' must be a JSON list"),
    "no place": ("choice", "dev.jsonl", '{"text": "a", "endings": ["b"], "label": 1}\n', "dev.jsonl: row 1: 'endings' must be a JSON list"),
    "ragged": (
        "choice",
        "dev.jsonl",
        '{"text": "a", "endings": ["b"], "label": 0}\n{"text": "a", "endings": ["b", "c"], "label": 0}\n',
        "dev.jsonl: rows have 1 and 2 choices",
    ),
}


@pytest.mark.parametrize("case", ROWS)
def test_a_row_that_a_task_cannot_use_is_named(case: str, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kind, name, text, message = ROWS[case]
    path = recipe(tmp_path, base, kind)
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert run(path) == 2
    assert message in capsys.readouterr().err


def test_a_tokenizer_with_more_pieces_than_rows_is_refused(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken"
    write_checkpoint(broken, hidden_size=32, intermediate_size=64, vocab_size=50)
    assert run(recipe(tmp_path, broken, "classification")) == 2
    assert "pieces, the model 50 rows: they do not fit" in capsys.readouterr().err


def test_embeddings_that_no_piece_refers_to_may_be_there(tmp_path: Path) -> None:
    padded = tmp_path / "padded"
    write_checkpoint(padded, hidden_size=32, intermediate_size=64, vocab_size=512)
    assert run(recipe(tmp_path, padded, "classification", steps=2)) == 0
    pieces = len(models.load_tokenizer(str(padded)))
    assert pieces < 512
    assert tb.load(tmp_path / "run" / "model.tbrt").info()["vocabulary"] == pieces


def test_a_directory_without_a_vocabulary_is_refused(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(base / name, bare / name)
    assert run(recipe(tmp_path, bare, "classification")) == 2
    assert "bare: the files of a tokenizer are missing" in capsys.readouterr().err


@pytest.mark.parametrize("unanswerable", [False, True])
def test_answers_are_found_in_windows(unanswerable: bool, base: Path, tmp_path: Path) -> None:
    """Scores that point at the right places give the right texts, whatever the windows."""
    train, dev = distill_files.questions(tmp_path, unanswerable=unanswerable)
    data = tasks.Data(kind="answers", train=(train,), dev=dev, max_tokens=24, stride=8)
    task = tasks.make_task(data, tmp_path)
    features = task.features(task.dev, models.load_tokenizer(str(base)))
    assert len(features) > len(task.dev)
    scores = []
    for each in features:
        found = np.zeros((len(each["input_ids"]), 2), np.float32)
        found[each["start"], 0] = found[each["end"], 1] = 5 if each["end"] else 1
        scores.append(found)
    numbers = task.measure(scores, task.dev, features)
    assert numbers["exact"] == 1.0
    assert ("NoAns_exact" in numbers) == unanswerable


def test_every_example_is_in_one_batch_of_an_epoch_and_batches_depend_on_the_step_alone() -> None:
    features = [{"input_ids": [index] * (1 + index % 7), "labels": index} for index in range(40)]
    batches = ShuffledBatches(features, 8, lambda rows: collate(rows, 0), seed=3)
    first = [batches.indices(step).tolist() for step in range(10)]
    assert sorted(np.concatenate(first[:5])) == list(range(40))
    assert sorted(np.concatenate(first[5:])) == list(range(40))
    assert first[:5] != first[5:]
    again = ShuffledBatches(features, 8, lambda rows: collate(rows, 0), seed=3)
    assert [again.indices(step).tolist() for step in reversed(range(10))] == first[::-1]
    parts = [batches.at(2, part, 2)["labels"].tolist() for part in range(2)]
    assert sorted(parts[0] + parts[1]) == sorted(first[2])


def test_collate_pads_ids_mask_and_labels() -> None:
    batch = collate([{"input_ids": [5, 6, 7], "labels": [1, 2, 3]}, {"input_ids": [8], "labels": [4]}], 9)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[1, 2, 3], [4, -100, -100]]
    assert batch["tokens"] == 4


def test_runtime_outputs_are_those_of_pytorch(base: Path, tmp_path: Path) -> None:
    train, dev = distill_files.tagging(tmp_path)
    task = tasks.make_task(tasks.Data(kind="tagging", train=(train,), dev=dev), tmp_path)
    assert task.labels == ["O", "B-ANIMAL", "I-ANIMAL"]
    tokenizer = models.load_tokenizer(str(base))
    torch.manual_seed(1)
    model = models.load_model(str(base), task.auto, **task.head_config())
    models.write_checkpoint(tmp_path / "model", model, tokenizer)
    path = models.export(tmp_path / "model", tmp_path / "model.tbrt", dtype="f32")
    assert runtime.evaluate(task, path, task.dev, tokenizer) == pytest.approx(
        tasks.evaluate(task, model, tokenizer, task.dev, torch.device("cpu"))
    )
