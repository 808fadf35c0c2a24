"""Distillation: every method brings a student nearer to its teacher, from a settings file to a `.tbrt` file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import distill_files
import numpy as np
import pytest
import torch
import transformers
from models import write_checkpoint

import tinybert_rt as tb
from distill import distill, models, texts
from distill.augment import Augment, augmented, neighbours
from distill.distill import METHODS
from distill.inside import Watch
from distill.training import read_log

ROOT = Path(__file__).resolve().parent.parent
LABELS = {"id2label": {0: "bad", 1: "good"}, "label2id": {"bad": 0, "good": 1}}
SMALL = "layers = 2\nhidden = 16\nheads = 4\nintermediate = 32\n"
LAYERED = ["tinybert-layers", "minilm", "minilm2", "patient"]


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A sentence encoder, two classifiers, one that gives a number, and a masked language model with the same encoder."""
    folder = tmp_path_factory.mktemp("teachers")
    write_checkpoint(folder / "encoder", hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4)
    tokenizer = models.load_tokenizer(str(folder / "encoder"))
    of_texts = transformers.AutoModelForSequenceClassification
    for name, kind, head in (
        ("classifier", of_texts, LABELS),
        ("other", of_texts, LABELS),
        ("number", of_texts, {"num_labels": 1, "problem_type": "regression"}),
        ("masked", transformers.AutoModelForMaskedLM, {}),
    ):
        model = models.load_model(str(folder / "encoder"), kind, **head)
        models.write_checkpoint(folder / name, model, tokenizer)
    return {path.name: path for path in folder.iterdir()}


def recipe(folder: Path, teacher: Path, stages: str, *, kind: str = "classification", student: str = "") -> Path:
    scored = 'text = "first"\npair = "second"\nlabel = "score"'
    columns = 'text = "sentence"' if kind == "classification" else scored
    train, dev = (distill_files.classification if kind == "classification" else distill_files.similarity)(folder)
    return distill_files.settings(
        folder / "settings.toml",
        f"""
teacher = "{teacher}"
out = "{folder / "run"}"
dropout = 0.0
[student]
{student or SMALL}
[data]
kind = "{kind}"
train = ["{train}"]
dev = "{dev}"
max_tokens = 32
{columns}
{stages}
""",
    )


def stage(method: str, more: str = "", *, steps: int = 24) -> str:
    training = f"training = {{ learning_rate = 5e-3, steps = {steps}, batch_size = 16, log_every = 4, warmup = 0.0 }}"
    return f'[[stages]]\nmethod = "{method}"\n{training}\n{more}\n'


def run(path: Path, *arguments: str) -> int:
    return distill.main([str(path), "--data", str(path.parent), *arguments])


def losses(folder: Path, name: str = "loss") -> list[float]:
    return [line[name] for line in read_log(folder / "log.jsonl") if name in line]


@pytest.mark.parametrize("method", ["soft", "tinybert-prediction", *LAYERED])
def test_the_losses_of_every_method_fall(method: str, teachers: dict[str, Path], tmp_path: Path) -> None:
    student = SMALL + "init = 'random'"
    assert run(recipe(tmp_path, teachers["classifier"], stage(method), student=student)) == 0
    found = losses(tmp_path / "run" / "stage-1")
    assert found[-1] < found[0]
    line = read_log(tmp_path / "run" / "stage-1" / "log.jsonl")[0]
    assert line["loss"] == pytest.approx(sum(weight * line[name] for name, weight in METHODS[method].items()), abs=1e-3)


def test_distilbert_trains_a_masked_language_model(teachers: dict[str, Path], tmp_path: Path) -> None:
    lines = [f"the {first} {second} sat on the mat" for first in distill_files.WORDS for second in distill_files.WORDS]
    (tmp_path / "texts.txt").write_text("\n".join(lines), encoding="utf-8")
    more = 'texts = { files = ["texts.txt"], max_tokens = 32 }'
    assert (
        run(
            recipe(
                tmp_path,
                teachers["masked"],
                stage("distilbert", more, steps=60),
                student="layers = 2\nhidden = 32\nheads = 4\nintermediate = 64",
            )
        )
        == 0
    )
    assert losses(tmp_path / "run" / "stage-1")[-1] < losses(tmp_path / "run" / "stage-1")[0]
    assert tb.load(tmp_path / "run" / "model.tbrt").info()["head"] == "masked_token"


def test_stages_follow_each_other_and_the_report_is_of_the_last(teachers: dict[str, Path], tmp_path: Path) -> None:
    path = recipe(tmp_path, teachers["classifier"], stage("tinybert-layers", steps=8) + stage("soft", "augment = { copies = 2 }", steps=8))
    assert run(path) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    assert report["steps"] == 8
    assert report["scores"]["runtime, f32"]["accuracy"] == pytest.approx(report["scores"]["PyTorch, float32"]["accuracy"], abs=1e-6)
    assert tb.load(tmp_path / "run" / "model.tbrt").labels == ["bad", "good"]
    assert len(list((tmp_path / "run" / "stage-2").glob("teacher-*.npy"))) == 1
    log = (tmp_path / "run" / "stage-2" / "log.jsonl").read_text(encoding="utf-8")
    assert run(path) == 0  # goes on where it ended: nothing is trained again
    assert (tmp_path / "run" / "stage-2" / "log.jsonl").read_text(encoding="utf-8") == log


@pytest.mark.parametrize("labels_by", ["pytorch", "int8"])
def test_a_sentence_encoder_comes_near_its_teacher(labels_by: str, teachers: dict[str, Path], tmp_path: Path) -> None:
    lines = [f"{a} {b} the {c}" for a in distill_files.WORDS[:6] for b in distill_files.WORDS for c in ("cat", "dog")]
    (tmp_path / "texts.txt").write_text("\n".join(lines), encoding="utf-8")
    more = f'texts = {{ files = ["texts.txt"], max_tokens = 32 }}\nlabels_by = "{labels_by}"'
    student = "layers = 2\nhidden = 32\nheads = 4\nintermediate = 48\nembedding = 16"
    assert run(recipe(tmp_path, teachers["encoder"], stage("embedding", more, steps=40), kind="similarity", student=student)) == 0
    assert losses(tmp_path / "run" / "stage-1", "vector")[-1] < 0.5 * losses(tmp_path / "run" / "stage-1", "vector")[0]
    model, teacher = tb.load(tmp_path / "run" / "model.tbrt"), models.export(teachers["encoder"], tmp_path / "teacher.tbrt")
    ours, theirs = (each.encode(lines[:20]) for each in (model, tb.load(teacher)))
    assert (ours * theirs).sum(1).mean() > 0.8


def test_both_texts_of_a_pair_are_examples_of_vectors(
    teachers: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(recipe(tmp_path, teachers["encoder"], stage("embedding"), kind="similarity"), "--dry-run") == 0
    assert "96 examples" in capsys.readouterr().out  # of 48 rows


def test_a_number_is_distilled_with_squared_errors(teachers: dict[str, Path], tmp_path: Path) -> None:
    assert run(recipe(tmp_path, teachers["number"], stage("patient"), kind="regression")) == 0
    assert losses(tmp_path / "run" / "stage-1", "labels")[-1] < losses(tmp_path / "run" / "stage-1", "labels")[0]


def test_labels_of_another_teacher_are_made_anew(teachers: dict[str, Path], tmp_path: Path) -> None:
    path = recipe(tmp_path, teachers["classifier"], stage("soft", steps=2))
    for teacher in ("classifier", "classifier", "other"):  # a run that ended before its first checkpoint may go on with other settings
        shutil.rmtree(tmp_path / "run" / "stage-1" / "checkpoints", ignore_errors=True)
        assert run(path, "--set", f"teacher={teachers[teacher]}") == 0
    first, second = (np.load(each) for each in (tmp_path / "run" / "stage-1").glob("teacher-*.npy"))
    assert not np.allclose(first, second)


def test_nothing_is_kept_of_passes_that_are_not_watched(teachers: dict[str, Path]) -> None:
    model = models.load_model(str(teachers["encoder"]))
    ids = torch.tensor([[2, 7, 3]])
    inside = Watch(model)({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    assert len(inside.queries) == len(inside.values) == 3
    assert not any(module._forward_hooks for module in model.modules() if isinstance(module, torch.nn.Linear))


def test_a_student_may_begin_with_a_checkpoint(teachers: dict[str, Path], tmp_path: Path) -> None:
    path = recipe(tmp_path, teachers["classifier"], stage("soft", steps=2), student=f'checkpoint = "{teachers["classifier"]}"')
    assert run(path) == 0
    assert losses(tmp_path / "run" / "stage-1")[0] < 0.7


def test_a_second_stage_does_not_depend_on_how_the_first_one_ended(teachers: dict[str, Path], tmp_path: Path) -> None:
    found = []
    for _ in range(2):
        path = recipe(tmp_path, teachers["classifier"], stage("tinybert-layers", steps=4) + stage("tinybert-layers", steps=4))
        assert run(path) == 0
        found.append(losses(tmp_path / "run" / "stage-2"))
        shutil.rmtree(tmp_path / "run" / "stage-2")  # the first stage is finished, and is not run again
    assert found[0] == found[1]


def test_what_quantization_aware_training_measures_is_what_the_runtime_gives(teachers: dict[str, Path], tmp_path: Path) -> None:
    path = recipe(tmp_path, teachers["classifier"], stage("soft", steps=12))
    assert run(path, "--set", "quantization_aware=true") == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    log = read_log(tmp_path / "run" / "stage-1" / "log.jsonl")
    best = max((line["evaluation"] for line in log if "evaluation" in line), key=lambda numbers: numbers["score"])
    assert report["scores"]["runtime, int8"]["matthews"] == pytest.approx(best["matthews"], abs=1e-9)


def test_two_processes_train_as_one_does_in_two_parts(teachers: dict[str, Path], tmp_path: Path) -> None:
    """Both stages: a loss within the layers, which leaves the head out, then one of the teacher's answers, which are computed once."""
    found = []
    for name, launcher, more in (
        ("two", ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"], []),
        ("one", [], [f"stages.{index}.training.accumulation=2" for index in (0, 1)]),
    ):
        (tmp_path / name).mkdir()
        stages = stage("tinybert-layers", steps=4) + stage("soft", 'labels_by = "int8"', steps=4)
        path = recipe(tmp_path / name, teachers["classifier"], stages)
        command = [*launcher, "-m", "distill.distill", str(path), "--data", str(path.parent), *(f"--set={each}" for each in more)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        result = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stderr
        found.append([losses(tmp_path / name / "run" / f"stage-{index}")[-1] for index in (1, 2)])
    assert found[0] == pytest.approx(found[1], rel=2e-3)


BAD = {
    "heads": ("tinybert-layers", "layers = 2\nhidden = 16\nheads = 2\nintermediate = 32", "", "the student has 2, the teacher 4"),
    "relation heads": ("minilm2", "", "relation_heads = 5", "must divide both hidden sizes, 16 and 32"),
    "teacher layer": ("minilm2", "", "teacher_layer = 9", "the teacher has 3 layers"),
    "labels": ("patient", "", "augment = { copies = 2 }", "needs the task's own examples"),
    "loss": ("soft", "", "losses = { sofd = 1.0 }", "losses: method 'soft' has no loss 'sofd'; known: attention"),
    "loss of vectors": ("soft", "", "losses = { vector = 1.0 }", "losses: method 'soft' has no loss 'vector'"),
    "loss of states": ("embedding", "", "losses = { hidden = 1.0 }", "has no loss 'hidden'; known: similarity, vector"),
    "no loss": ("soft", "", "losses = { soft = 0.0 }", "losses: every weight is 0"),
    "vectors": ("embedding", "", "", "needs data of kind 'similarity' or 'pairs', not 'classification'"),
    "too long": (
        "soft",
        "",
        'texts = { files = ["train.tsv"], column = "other", max_tokens = 97 }',
        "stages.0.texts.max_tokens is 97; the model",
    ),
    "method": ("sofd", "", "", "method is 'sofd'; known: 'soft'"),
    "temperature": ("soft", "", "temperature = 0.0", "temperature is 0.0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_settings_are_one_clear_line(case: str, teachers: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    method, student, more, message = BAD[case]
    assert run(recipe(tmp_path, teachers["classifier"], stage(method, more), student=student)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_teacher_without_a_trained_head_or_with_other_labels_is_refused(
    teachers: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(recipe(tmp_path, teachers["encoder"], stage("soft"))) == 2
    assert "encoder: has no trained head for this task" in capsys.readouterr().err
    path = recipe(tmp_path, teachers["classifier"], stage("soft"))
    for name in ("train.tsv", "dev.tsv"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        (tmp_path / name).write_text(text.replace("\tbad", "\tworse"), encoding="utf-8")  # behind "good"
    assert run(path) == 2
    assert "classifier: its labels are ['bad', 'good'], those of the data ['good', 'worse']" in capsys.readouterr().err


def test_neighbours_are_the_nearest_words(teachers: dict[str, Path]) -> None:
    tokenizer = models.load_tokenizer(str(teachers["encoder"]))
    embeddings = models.load_model(str(teachers["encoder"])).get_input_embeddings().weight.detach()
    table = neighbours(embeddings, tokenizer, 4)
    pieces = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    words = [index for index, piece in enumerate(pieces) if piece.isalpha()]
    cat = pieces.index("cat")
    unit = (embeddings / embeddings.norm(dim=1, keepdim=True)).double().numpy()
    expected = sorted((index for index in words if index != cat), key=lambda index: -float(unit[index] @ unit[cat]))[:4]
    assert table[cat].tolist() == expected
    for piece in ("[CLS]", "##ing", "."):
        assert set(table[pieces.index(piece)].tolist()) == {pieces.index(piece)}


def test_augmented_texts_change_words_at_the_given_rate_and_have_no_labels() -> None:
    table = np.stack([np.full(3, index) if index < 5 else np.array([100, 101, 102]) for index in range(50)]).astype(np.int32)
    made = augmented([{"input_ids": [2, *range(5, 45), 3], "labels": 1}], table, Augment(copies=200, probability=0.4), seed=0)
    assert made[0] == {"input_ids": [2, *range(5, 45), 3]}
    ids = np.array([each["input_ids"] for each in made[1:]])
    assert len(ids) == 200
    assert (ids[:, [0, -1]] == [2, 3]).all()
    changed = ids[:, 1:-1] >= 100
    assert changed.mean() == pytest.approx(0.4, abs=0.02)
    assert set(ids[:, 1:-1][changed].tolist()) == {100, 101, 102}


def test_texts_are_lines_or_sentences_each_once(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("One here. Two there? no. Three!\n\nOne here.\nA line\n", encoding="utf-8")
    found = texts.read(texts.Texts(files=("a.txt",), sentences=1.0), tmp_path)
    assert sorted(found) == ["A line", "One here.", "Three!", "Two there? no."]
    assert len(texts.read(texts.Texts(files=("a.txt",), limit=2), tmp_path)) == 2
