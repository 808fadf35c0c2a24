"""Evaluation of checkpoints and files alike, and the table of results in the README."""

from __future__ import annotations

import json
from pathlib import Path

import distill_files
import pytest
import transformers
from models import write_checkpoint

from distill import evaluate, models, results

NUMBERS = [f"--set=data.{each}" for each in ("kind=regression", 'train=["numbers.tsv"]', "dev=numbers.tsv")]
LABELS = {"id2label": {0: "bad", 1: "good"}, "label2id": {"bad": 0, "good": 1}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model/, model.tbrt, other/ and other.tbrt (with other labels), base/ (without a head), and settings.toml with their task."""
    made = tmp_path_factory.mktemp("evaluate")
    write_checkpoint(made / "base", hidden_size=32, intermediate_size=64)
    tokenizer = models.load_tokenizer(str(made / "base"))
    for name, labels in (("model", LABELS), ("other", {})):
        model = models.load_model(str(made / "base"), transformers.AutoModelForSequenceClassification, **labels)
        models.write_checkpoint(made / name, model, tokenizer)
        models.export(made / name, made / f"{name}.tbrt", dtype="f32")
    models.export(made / "base", made / "headless.tbrt", pooling="mean", normalize=True)
    (made / "numbers.tsv").write_text("sentence\tlabel\nthe cat\t1\nthe dog\t2\n", encoding="utf-8")
    train, dev = distill_files.classification(made)
    data = f'[data]\nkind = "classification"\ntrain = ["{train}"]\ndev = "{dev}"\ntext = "sentence"\nmax_tokens = 32\n'
    distill_files.settings(made / "settings.toml", f"{data}[training]\nlearning_rate = 1\n")
    return made


def run(folder: Path, model: str, *arguments: str) -> int:
    return evaluate.main([str(folder / model), str(folder / "settings.toml"), "--data", str(folder), *arguments])


def test_a_checkpoint_and_its_file_have_the_same_numbers(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "model", "--json", str(tmp_path / "a.json")) == 0
    assert run(folder, "model.tbrt", "--json", str(tmp_path / "b.json")) == 0
    first, second = (json.loads((tmp_path / name).read_text(encoding="utf-8")) for name in ("a.json", "b.json"))
    assert first == second
    assert f"{first['accuracy']:.6f}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        ("other", [], "its labels are ['LABEL_0', 'LABEL_1'], those of the data ['bad', 'good']"),
        ("model.tbrt", ["--tokenizer", "nowhere"], "nowhere: there is no such directory of a tokenizer"),
        ("missing.tbrt", [], "missing.tbrt: there is no such file"),
        ("headless.tbrt", [], "headless.tbrt: its head is"),
        ("model", ["--set", "data.max_tokens=400"], "data.max_tokens is 400; the model has 96 positions"),
        ("base", [], "base: has no trained head for this task"),
        ("other.tbrt", [], "other.tbrt: its labels are ['LABEL_0', 'LABEL_1'], those of the data ['bad', 'good']"),
        ("model.tbrt", ["--set", "data.kind=tagging"], "its head is 'sequence_classification', data of kind 'tagging' need"),
        ("model.tbrt", NUMBERS, "its head has 2 outputs, data of kind 'regression' need one"),
        ("model", NUMBERS, "classifier.bias has the shape (2,), (1,) is wanted: it is of another task or size"),
        ("model", ["--set", "data.dev=nothing.tsv"], "nothing.tsv: there is no such file"),
        ("model", ["--set", "data.devv=x"], "unknown key 'devv'; did you mean 'dev'?"),
    ],
)
def test_what_cannot_be_measured_is_one_clear_line(
    model: str, arguments: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, model, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def write_run(folder: Path, name: str, score: float) -> Path:
    scores = {"accuracy": score, "f1": 0.5, "score": score}
    report = {
        "name": name,
        "dev": "dev.tsv",
        "scores": {"PyTorch, float32": scores, "runtime, int8": {**scores, "score": score - 0.01}},
        "parameters": 12345,
        "bytes": 4_600_000,
        "seconds": 90.0,
        "finished": True,
        "hardware": "a CPU",
        "settings": {"out": "/somewhere/runs/x"},
        "summary": "text",
    }
    (folder / name).mkdir()
    (folder / name / "report.json").write_text(json.dumps(report), encoding="utf-8")
    return folder / name


def test_the_table_is_written_from_reports_and_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"Before.\n{results.BEGIN}\nold\n{results.END}\nAfter.\n", encoding="utf-8")
    options = ["--readme", str(readme), "--results", str(tmp_path / "results")]
    runs = [str(write_run(tmp_path, name, score)) for name, score in (("small", 0.8123), ("tiny", 0.75))]
    assert results.main([*runs, *options]) == 0
    text = readme.read_text(encoding="utf-8")
    assert text.startswith("Before.\n")
    assert text.endswith("After.\n")
    assert "| small" in text
    assert "0.8123" in text
    assert "/somewhere" not in (tmp_path / "results" / "small.json").read_text(encoding="utf-8")
    assert results.main(["--check", *options]) == 0
    readme.write_text(text.replace("0.8123", "0.9999"), encoding="utf-8")
    assert results.main(["--check", *options]) == 1
    assert "run python -m distill.results" in capsys.readouterr().err


def test_the_readme_has_what_the_reports_give() -> None:
    assert results.main(["--check"]) == 0


def test_a_run_without_a_report_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert results.main([str(tmp_path), "--results", str(tmp_path / "results")]) == 2
    assert "has no report that can be read" in capsys.readouterr().err


def test_nothing_is_taken_where_one_run_or_the_readme_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, folder = write_run(tmp_path, "small", 0.8), tmp_path / "results"
    assert results.main([str(good), str(tmp_path), "--results", str(folder)]) == 2
    assert results.main([str(good), "--results", str(folder), "--readme", str(tmp_path / "nothing.md")]) == 2
    assert "nothing.md: cannot be read: No such file" in capsys.readouterr().err
    assert not folder.exists()
