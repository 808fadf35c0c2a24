"""`tools.inspect`: what it says of a file is what `convert` and the checkpoint say; damaged files are one line and exit code 2."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bpe_tokenizer import write_bpe_model
from format_files import join, patched, split, write_small
from test_architectures import CASES, write_case

import tinybert_rt as tb
from tinybert_rt.format import layout
from tools.convert import ConversionReport, convert
from tools.inspect import GROUPS, inspect, main

BUNDLED = Path(tb.__file__).parent / "models" / "all-MiniLM-L6-v2-int8.tbrt"


def make(tmp_path: Path, name: str, head: str = "", dtype: str = "int8", **settings: Any) -> tuple[Any, Path, ConversionReport]:
    model = write_case(tmp_path, CASES[name], head, **settings)
    path = tmp_path / "model.tbrt"
    return model, path, convert(tmp_path, path, dtype=dtype, pooling="mean", normalize=True, license="MIT")


@pytest.mark.parametrize("dtype", layout.WEIGHT_DTYPES)
@pytest.mark.parametrize("name", ["bert-26", "albert-groups", "electra-wide", "roberta-odd"])
def test_parameters_and_shapes_are_those_of_the_checkpoint(name: str, dtype: str, tmp_path: Path) -> None:
    model, path, _ = make(tmp_path, name, dtype=dtype)
    facts = inspect(path)
    shapes = {each["name"]: each["shape"] for each in facts["tensors"]}
    weights = {each: list(values.shape) for each, values in model.state_dict().items() if "pooler" not in each}
    skipped = model.config.pad_token_id + 1 if "roberta" in name else 0  # rows of positions before the first
    assert facts["parameters"] == sum(int(np.prod(shape)) for shape in weights.values()) - skipped * model.config.hidden_size
    assert shapes["embeddings.word"] == weights["embeddings.word_embeddings.weight"]
    hidden, inner = model.config.hidden_size, model.config.intermediate_size
    assert shapes["layers.0.attention.qkv.weight"] == [3 * hidden, hidden]
    assert shapes["layers.0.attention.output.weight"] == [hidden, hidden]
    assert shapes["layers.0.ffn.out.weight"] == [hidden, inner]
    assert shapes["layers.0.ffn.in.bias"] == [inner]


@pytest.mark.parametrize("name", ["bert", "albert-inner", "distilbert", "deberta-v3"])
def test_errors_are_those_that_convert_reported(name: str, tmp_path: Path) -> None:
    _, path, report = make(tmp_path, name)
    errors = {each["name"]: each["relative_rms_error"] for each in inspect(path)["tensors"] if "relative_rms_error" in each}
    reported = {each.name: each.error.relative_rms for each in report.tensors if " of positions" not in each.name}
    assert errors["embeddings.word"] == pytest.approx(reported["embeddings.word_embeddings.weight"], abs=1e-6)
    assert max(errors.values()) == pytest.approx(max(reported.values()), abs=1e-6)
    assert sum(each.endswith("qkv.weight") for each in errors) == layout.stored_layers(report.config)


def test_configuration_has_names_for_numbers(tmp_path: Path) -> None:
    _, path, _ = make(tmp_path, "albert-groups")
    facts = inspect(path)
    expected = {"architecture": "albert", "num_layers": 5, "stored_layers": 2, "embedding_size": 20, "activation": "gelu_tanh"}
    assert {name: facts["config"][name] for name in expected} == expected
    assert (facts["config"]["pooling"], facts["config"]["layer_norm_eps"], facts["config"]["weight_dtype"]) == ("mean", 1e-12, "int8")
    assert facts["metadata"]["license"] == "MIT"
    assert len(facts["metadata"]["source_sha256"]) == 64
    assert "quantization" not in facts["metadata"]


def test_tokenizer() -> None:
    facts = inspect(BUNDLED)["tokenizer"]
    assert (facts["kind"], facts["pieces"]) == ("wordpiece", 30522)
    assert facts["flags"] == ["clean text", "split CJK", "strip accents", "lowercase"]
    assert facts["special_tokens"]["cls"] == {"id": 101, "piece": "[CLS]"}
    assert facts["added_tokens"] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def test_head_and_labels(tmp_path: Path) -> None:
    _, path, _ = make(tmp_path, "bert", "ForSequenceClassification", id2label={0: "sports", 1: "ελληνικά"})
    assert inspect(path)["head"] == {
        "head": "sequence_classification",
        "activation": "tanh",
        "problem": "single_label",
        "labels": ["sports", "ελληνικά"],
    }
    assert inspect(BUNDLED)["head"] is None


def test_a_head_that_predicts_masked_tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, path, _ = make(tmp_path, "albert-groups", "ForMaskedLM")
    assert inspect(path)["head"] == {"head": "masked_token", "activation": "gelu_tanh", "own_decoder": 0}
    assert "own_decoder" not in inspect(path)["config"]
    assert main([str(path)]) == 0
    assert "masked_token" in capsys.readouterr().out


def test_other_tokenizers(tmp_path: Path) -> None:
    facts = inspect(write_bpe_model(tmp_path))
    assert facts["tokenizer"]["kind"] == "bpe"
    assert facts["tokenizer"]["flags"] == ["double separator"]
    assert facts["tokenizer"]["merges"] > 300
    assert "merges" not in facts["config"]


def test_groups_add_up_to_the_file(tmp_path: Path) -> None:
    _, path, _ = make(tmp_path, "deberta-v2", "ForTokenClassification", id2label={0: "O", 1: "B-PER"})
    for file in (path, BUNDLED):
        groups = inspect(file)["bytes_by_group"]
        assert sum(groups.values()) == file.stat().st_size
        assert set(groups) <= set(GROUPS)
    assert inspect(BUNDLED)["bytes_by_group"]["embeddings"] > 11_000_000


def test_text_shows_the_largest_tensors_or_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(BUNDLED)]) == 0
    short = capsys.readouterr().out
    assert main([str(BUNDLED), "--tensors"]) == 0
    complete = capsys.readouterr().out
    for text in (short, complete):
        assert "all-MiniLM-L6-v2" in text
        assert "embeddings.word" in text
        assert "30522×384" in text
        assert "0.00728" in text
    assert "and 123 smaller tensors (--tensors shows all)" in short
    names = [each["name"] for each in inspect(BUNDLED)["tensors"]]
    assert all(f"\n{name} " in complete for name in names)
    assert "smaller tensors" not in complete


def test_json_is_what_inspect_gives(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(BUNDLED), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == inspect(BUNDLED)


def test_files_without_notes_on_errors_have_none(tmp_path: Path) -> None:
    for metadata in ({}, {"quantization": "text"}, {"quantization": "[1]"}, {"quantization": '{"relative_rms_error": 1}'}):
        path = write_small(tmp_path / "m.tbrt", {"source": "a test", **metadata})
        assert not any("relative_rms_error" in each for each in inspect(path)["tensors"])


def damaged(data: bytes) -> dict[str, tuple[bytes, str]]:
    """Files and what is said of them."""
    header, body = split(data)
    other = {**header, "__metadata__": {**header["__metadata__"], "version": "9"}}
    surplus = {**header, "layers.0.extra": {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]}}
    less = {name: entry for name, entry in header.items() if name != "layers.0.ffn.out.bias"}
    no_config = {name: entry for name, entry in header.items() if name != "config"}
    wide = {**header, "embeddings.word": {**header["embeddings.word"], "shape": [1 << 40, 1 << 40]}}
    return {
        "empty": (b"", "cannot be read"),
        "text": (b"text " * 100, "not a .tbrt file: it does not begin with a header"),
        "no JSON": (join("{" * 70, body), "its header is damaged"),
        "version": (join(other, body), "the header says 'tbrt', version '9'"),
        "cut off": (data[:-64], "does not lie within the file: the file is cut off or damaged"),
        "surplus": (join(surplus, body), "tensor 'layers.0.extra' is F32 16; this configuration asks for not there"),
        "missing": (join(less, body), "tensor 'layers.0.ffn.out.bias' is not there; this configuration asks for F32 64"),
        "no config": (join(no_config, body), "the tensor 'config' is missing"),
        "wide": (join(wide, body), "tensor 'embeddings.word'"),
        "number": (patched(data, "config", layout.CONFIG_INDEX["pooling"], 7), "pooling is 7; it must be from 1 to 3"),
        "heads": (patched(data, "config", layout.CONFIG_INDEX["num_heads"], 3), "hidden_size is not divisible by num_heads"),
        "inner": (patched(data, "config", layout.CONFIG_INDEX["inner_layers"], 2), "inner_layers does not divide"),
        "later": (patched(data, "config", len(layout.CONFIG_FIELDS), 1), "fields that this release does not know"),
    }


@pytest.mark.parametrize(
    "kind",
    ["empty", "text", "no JSON", "version", "cut off", "surplus", "missing", "no config", "wide", "number", "heads", "inner", "later"],
)
def test_damaged_files_are_one_line_and_exit_code_2(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_small(tmp_path / "m.tbrt")
    data, expected = damaged(path.read_bytes())[kind]
    path.write_bytes(data)
    assert main([str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"python -m tools.inspect: error: {path}: ")
    assert expected in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("path", ["nowhere.tbrt", "."])
def test_what_is_no_file(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([path]) == 2
    assert f"{path}: cannot be read: " in capsys.readouterr().err


def test_random_bytes_in_the_header_never_surprise(tmp_path: Path) -> None:
    """Whatever is damaged: facts, or one ConversionError."""
    path = write_small(tmp_path / "m.tbrt")
    data = path.read_bytes()
    rng = np.random.default_rng(5)
    size = 8 + int.from_bytes(data[:8], "little") + 4 * layout.CONFIG_SIZE
    outcomes = set()
    for _ in range(150):
        broken = bytearray(data)
        for place in rng.integers(0, size, rng.integers(1, 4)):
            broken[place] = rng.integers(0, 256)
        other = tmp_path / "broken.tbrt"
        other.write_bytes(broken)
        outcomes.add(main([str(other)]))
    assert outcomes <= {0, 2}
    assert 2 in outcomes


def test_a_pipe_that_closes_early_is_no_error() -> None:
    command = f'"{sys.executable}" -m tools.inspect --json --tensors "{BUNDLED}" | true'
    result = subprocess.run(["sh", "-c", command], cwd=Path(tb.__file__).parent.parent, capture_output=True, text=True, check=False)
    assert result.stderr == ""
