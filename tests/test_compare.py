"""`tools.compare`: the drift of the runtime from `transformers`, on small random checkpoints."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from models import convert, write_checkpoint
from test_architectures import CASES, write_case

from tools.compare import drift, main

TEXTS = ("--text", "the cat sat on the mat", "--text", "a dog")


def compared(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict:  # type: ignore[type-arg]
    capsys.readouterr()
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)  # type: ignore[no-any-return]


def test_drift_is_what_it_says() -> None:
    expected = np.array([[3.0, 4.0], [0.0, 2.0]], np.float32)
    found = np.array([[4.0, 3.0], [0.0, 2.0]], np.float32)
    numbers = drift(found, expected)
    assert numbers == pytest.approx({"max_abs": 1, "relative_rms": np.sqrt(2 / 29), "mean_cosine": (0.96 + 1) / 2, "min_cosine": 0.96})


@pytest.mark.parametrize("name", ["bert", "albert-inner", "distilbert-sinusoidal", "roberta"])
def test_a_float_file_does_not_drift_and_an_int8_file_a_little(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_case(tmp_path, CASES[name])
    exact = compared(capsys, tmp_path, "--dtype", "f32", *TEXTS)
    assert [each["layer"] for each in exact["layers"]] == list(range(len(exact["layers"])))
    assert max(each["relative_rms"] for each in exact["layers"]) < 1e-5
    assert max(each["attention_max_abs"] for each in exact["layers"][1:]) < 1e-4
    assert exact["pooled"]["max_abs"] < 1e-4
    near = compared(capsys, tmp_path, *TEXTS)
    assert near["weights"] == "int8"
    assert all(1e-4 < each["relative_rms"] < 0.2 for each in near["layers"])
    assert (near["texts"], near["tokens"]) == (2, 8 + 4)


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("bert", "ForSequenceClassification"),
        ("electra", "ForPreTraining"),
        ("distilbert", "ForQuestionAnswering"),
        ("bert", "ForMaskedLM"),
        ("bert", "ForPreTraining"),
    ],
)
def test_logits_of_a_head_are_compared(name: str, head: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_case(tmp_path, CASES[name], head)
    assert compared(capsys, tmp_path, "--dtype", "f32", *TEXTS)["logits"]["max_abs"] < 1e-4


@pytest.mark.parametrize(("name", "head"), [("bert", "ForMaskedLM"), ("bert", "ForPreTraining")])
def test_logits_of_mask_tokens_are_compared(name: str, head: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_case(tmp_path, CASES[name], head)
    found = compared(capsys, tmp_path, "--dtype", "f32", "--text", "the [MASK] sat", "--text", "[MASK] [MASK]")
    assert found["logits"]["max_abs"] < 1e-4


def test_a_file_that_is_given_is_what_is_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_checkpoint(tmp_path / "one")
    write_checkpoint(tmp_path / "other", seed=1)
    file = convert(tmp_path / "one", "f32")
    (tmp_path / "lines.txt").write_text("the cat\n\na dog\n")
    found = compared(capsys, tmp_path / "one", "--model", file, "--file", tmp_path / "lines.txt")
    assert found["texts"] == 2
    assert found["layers"][2]["relative_rms"] < 1e-5
    assert compared(capsys, tmp_path / "other", "--model", file)["layers"][2]["relative_rms"] > 0.1


def test_tokenizers_are_compared_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_checkpoint(tmp_path / "one")
    file = convert(tmp_path / "one", "f32")
    assert compared(capsys, tmp_path / "one", "--model", file, *TEXTS)["tokenizer"] == {"loaded": True, "different_texts": 0}
    shutil.copytree(tmp_path / "one", tmp_path / "cased")
    path = tmp_path / "cased" / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "do_lower_case": False}))
    found = compared(capsys, tmp_path / "cased", "--model", file, "--text", "a dog", "--text", "A dog")
    assert (found["tokenizer"]["different_texts"], found["tokenizer"]["text"]) == (1, "A dog")
    assert found["layers"][2]["relative_rms"] < 1e-5


def test_the_table_has_a_line_a_layer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_checkpoint(tmp_path)
    assert main([str(tmp_path), "--dtype", "f32", *TEXTS]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[2:6]] == ["embeddings", "layer 1", "layer 2", "pooled"]


def test_what_cannot_be_compared_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_checkpoint(tmp_path / "one")
    write_checkpoint(tmp_path / "wide", hidden_size=128)
    write_checkpoint(tmp_path / "deep", num_hidden_layers=3)
    file = convert(tmp_path / "one", "f32")
    for arguments, words in (
        ((tmp_path / "nowhere",), "no such directory"),
        ((tmp_path / "one", "--model", tmp_path / "nowhere.tbrt"), "no such file"),
        ((tmp_path / "one", "--model", file, "--file", tmp_path / "nowhere.txt"), "nowhere.txt"),
        ((tmp_path / "wide", "--model", file), "sizes are others"),
        ((tmp_path / "deep", "--model", file), "it has 2 layers, the checkpoint 3"),
    ):
        capsys.readouterr()
        assert main(list(map(str, arguments))) == 2
        err = capsys.readouterr().err
        assert words in err
        assert len(err.splitlines()) == 1


def test_a_file_with_a_head_of_another_kind_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for head in ("ForMaskedLM", "ForSequenceClassification"):
        (tmp_path / head).mkdir()
        write_case(tmp_path / head, CASES["bert"], head)
    file = convert(tmp_path / "ForSequenceClassification", "f32")
    assert main([str(tmp_path / "ForMaskedLM"), "--model", str(file), "--text", "the cat"]) == 2
    assert "a head of another kind" in capsys.readouterr().err
