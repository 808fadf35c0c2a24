"""Fine-tuning: every kind of task learns something small, and its checkpoint, its `.tbrt` file and its report agree."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import distill_files
import numpy as np
import pytest
import torch
import transformers
from models import write_checkpoint
from safetensors import SafetensorError

import tinybert_rt as tb
from distill import finetune, models, runtime, tasks
from distill.batches import ShuffledBatches, collate
from distill.settings import DistillError
from distill.training import read_log

ROOT = Path(__file__).resolve().parent.parent
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


def test_two_processes_find_each_text_among_those_of_both(base: Path, tmp_path: Path) -> None:
    """Which makes the loss that of one process with the whole batch; the encoder's pooler is in no loss."""
    path = recipe(tmp_path, base, "pairs", steps=3)
    same = ["--set", "training.log_every=1", "--set", "dropout=0.0"]
    assert run(path, *same) == 0
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "distill.finetune"]
    command = [sys.executable, *launcher, str(path), "--data", str(tmp_path), *same, "--set", f"out={tmp_path / 'two'}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "two" / "model.tbrt").exists()
    one, two = ([line for line in read_log(tmp_path / name / "log.jsonl") if "loss" in line] for name in ("run", "two"))
    assert len(one) == 3
    for ours, theirs in zip(two, one, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
        assert ours["gradient_norm"] == pytest.approx(theirs["gradient_norm"], rel=1e-3)


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
    "no step": (["--set", "training.steps=0"], "[training]: steps is 0; it must be above 0"),
    "no average": (["--set", "training.beta2=1.0"], "[training]: beta2 is 1.0; it must be from 0 to below 1"),
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


def other_model(folder: Path, base: Path, kind: str) -> None:
    """A checkpoint that fine-tuning meets difficulties with."""
    tokenizer = models.load_tokenizer(str(base))
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": 96}
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    if kind == "distilbert":
        model = transformers.DistilBertModel(transformers.DistilBertConfig(dim=32, n_layers=1, n_heads=2, hidden_dim=64, **sizes))
    elif kind == "deberta-v2":
        model = transformers.DebertaV2Model(transformers.DebertaV2Config(**small, **sizes))
    else:
        model = models.load_model(str(base), transformers.AutoModelForSequenceClassification, num_labels=3)
    models.write_checkpoint(folder, model, tokenizer)
    if kind == "damaged":
        (folder / "model.safetensors").write_bytes(b"no weights at all")


@pytest.mark.parametrize(
    ("kind", "more", "message"),
    [
        ("damaged", "", "cannot be loaded"),
        ("three labels", "", "classifier.bias has the shape (3,), (2,) is wanted"),
        ("deberta-v2", "quantization_aware = true", "no fake quantization for models of type 'deberta-v2'"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_named(
    kind: str, more: str, message: str, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other_model(tmp_path / "model", base, kind)
    assert run(recipe(tmp_path, tmp_path / "model", "classification", steps=2, more=more)) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("python -m distill.finetune: error: ")
    assert message in last


def test_dropout_is_set_under_the_names_of_the_architecture(base: Path, tmp_path: Path) -> None:
    other_model(tmp_path / "model", base, "distilbert")
    found = models.load_model(str(tmp_path / "model"), **models.dropout(0.25, str(tmp_path / "model")))
    assert {module.p for module in found.modules() if isinstance(module, torch.nn.Dropout)} == {0.25}
    found = models.load_model(str(base), **models.dropout(0.25, str(base)))
    assert {module.p for module in found.modules() if isinstance(module, torch.nn.Dropout)} == {0.25}


@pytest.mark.parametrize("label", ["much", "nan"])
def test_a_label_that_is_no_number_is_named(label: str, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = recipe(tmp_path, base, "regression")
    with (tmp_path / "train.tsv").open("a", encoding="utf-8") as file:
        file.write(f"a\tb\t{label}\n")
    assert run(path) == 2
    assert f"train.tsv: row 49: '{label}' is no number" in capsys.readouterr().err


def test_a_checkpoint_on_a_full_disk_is_one_clear_error(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, model = models.load_tokenizer(str(base)), models.load_model(str(base))
    models.write_checkpoint(tmp_path / "model", model, tokenizer)
    before = sorted((each.name, each.stat().st_size) for each in (tmp_path / "model").iterdir())

    def full(*_: Any, **__: Any) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(model, "save_pretrained", full)
    with pytest.raises(DistillError, match=r"model: cannot be written: .*No space left on device"):
        models.write_checkpoint(tmp_path / "model", model, tokenizer)
    assert sorted((each.name, each.stat().st_size) for each in (tmp_path / "model").iterdir()) == before
    assert [each.name for each in tmp_path.iterdir()] == ["model"]


def test_a_word_without_tokens_leaves_the_others_their_tags(base: Path, tmp_path: Path) -> None:
    (tmp_path / "t.conll").write_text("the O\n\u00ad O\ncat B-X\nmat I-X\n", encoding="utf-8")
    task = tasks.make_task(tasks.Data(kind="tagging", train=("t.conll",), dev="t.conll"), tmp_path)
    features = task.features(task.dev, models.load_tokenizer(str(base)))
    right = [np.array([label for label in features[0]["labels"] if label >= 0])]
    assert len(right[0]) == 3
    assert task.measure(right, task.dev, features)["f1"] == 1


def test_a_long_question_is_cut(base: Path, tmp_path: Path) -> None:
    train, dev = distill_files.questions(tmp_path)
    task = tasks.make_task(tasks.Data(kind="answers", train=(train,), dev=dev, max_tokens=24, stride=128), tmp_path)
    tokenizer = models.load_tokenizer(str(base))
    long = [each._replace(text="the small cat " * 20) for each in task.dev]
    for each in task.features(long, tokenizer):
        assert len(each["input_ids"]) <= 24
        assert tokenizer.decode(each["input_ids"]).startswith("[CLS] the small cat the small cat [SEP]")


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
