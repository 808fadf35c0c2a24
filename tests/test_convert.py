"""The converter: what it writes of a checkpoint, from which forms of directory, and what it prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from format_files import reader
from hf_directory import HIDDEN, INNER, VOCABULARY, edit, tokenizer_json, weights, write_directory

from tinybert_rt.format import layout
from tinybert_rt.format.metadata import read_metadata
from tools.convert import convert, format_report, main

safetensors = pytest.importorskip("safetensors")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return write_directory(tmp_path / "checkpoint")


def tensors_of(path: Path) -> dict[str, np.ndarray]:
    with safetensors.safe_open(path, framework="np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def config_of(path: Path) -> dict[str, int]:
    return dict(zip(layout.CONFIG_FIELDS, tensors_of(path)["config"].tolist(), strict=False))


def dense(tensors: dict[str, np.ndarray], name: str, int8: bool) -> np.ndarray:
    """The float weight (padded outputs, inputs) of a linear layer of the file."""
    blocks = tensors[f"{name}.weight"]
    if not int8:
        return blocks.transpose(0, 2, 1).reshape(blocks.shape[0] * 16, -1)
    values = blocks.transpose(0, 2, 1, 3).reshape(blocks.shape[0] * 16, -1)
    return values * tensors[f"{name}.scale"][:, None]


@pytest.mark.parametrize("dtype", ["int8", "f32"])
def test_file_holds_the_checkpoint(dtype: str, directory: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.tbrt"
    report = convert(directory, out, dtype=dtype)
    assert report.size_bytes == out.stat().st_size
    assert reader().status(out.read_bytes()) == 0
    tensors, source, int8 = tensors_of(out), weights(), dtype == "int8"

    def near(found: np.ndarray, wanted: np.ndarray, steps: float = 1.0) -> bool:
        """Within half a step, or `steps` times that: the pair rule makes the steps of linear layers up to twice as large."""
        step = np.abs(wanted).max() / 127
        return bool(np.abs(found - wanted).max() <= (step / 2 * steps * 1.001 if int8 else 0))

    tables = {name: source[f"embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type")}
    if int8:
        first = tables["token_type"][0]
        tables |= {"position": tables["position"] + first, "token_type": tables["token_type"] - first}
    for name, wanted in tables.items():
        name = name.removeprefix("token_")
        found = tensors[f"embeddings.{name}"]
        if int8:
            found = found * tensors[f"embeddings.{name}.scale"][: len(found), None]
        assert near(found[:, :HIDDEN], wanted)
        assert not found[:, HIDDEN:].any()
    layer, theirs = "layers.0", "encoder.layer.0"
    qkv = dense(tensors, f"{layer}.attention.qkv", int8)
    for part, name in enumerate(("query", "key", "value")):
        for head in range(2):
            columns = slice(64 * part + 16 * head, 64 * part + 16 * head + 6)
            rows = slice(6 * head, 6 * head + 6)
            weight = source[f"{theirs}.attention.self.{name}.weight"]
            assert near(qkv[columns], weight[rows], 2.0)
            assert np.array_equal(tensors[f"{layer}.attention.qkv.bias"][columns], source[f"{theirs}.attention.self.{name}.bias"][rows])
            assert not qkv[columns.stop : columns.start + 16].any()
    output = dense(tensors, f"{layer}.attention.output", int8)[:HIDDEN]
    weight = source[f"{theirs}.attention.output.dense.weight"]
    assert near(output[:, 0:6], weight[:, :6], 2.0)
    assert near(output[:, 16:22], weight[:, 6:], 2.0)
    assert not output[:, 6:16].any()
    for name, dense_name, outputs, inputs in (("in", "intermediate", INNER, HIDDEN), ("out", "output", HIDDEN, INNER)):
        found = dense(tensors, f"{layer}.ffn.{name}", int8)
        assert near(found[:outputs, :inputs], source[f"{theirs}.{dense_name}.dense.weight"], 2.0)
        assert np.array_equal(tensors[f"{layer}.ffn.{name}.bias"][:outputs], source[f"{theirs}.{dense_name}.dense.bias"])
    for name, norm in (
        ("embeddings.norm", "embeddings"),
        (f"{layer}.attention.norm", f"{theirs}.attention.output"),
        (f"{layer}.ffn.norm", f"{theirs}.output"),
    ):
        for part in ("weight", "bias"):
            assert np.array_equal(tensors[f"{name}.{part}"][:HIDDEN], source[f"{norm}.LayerNorm.{part}"])


def test_configuration_of_the_file(directory: Path, tmp_path: Path) -> None:
    report = convert(directory, tmp_path / "m.tbrt")
    config = config_of(tmp_path / "m.tbrt")
    assert config == report.config
    expected = {"num_layers": 1, "hidden_size": 12, "num_heads": 2, "intermediate_size": 20, "vocab_size": 11, "max_positions": 16}
    expected |= {"type_vocab_size": 2, "activation": 0, "pooling": 2, "normalize": 1, "max_tokens": 10, "max_word_chars": 100}
    expected |= {"unk_id": 1, "cls_id": 2, "sep_id": 3, "pad_id": 0, "mask_id": 4, "added_tokens": 5, "tokenizer_flags": 15}
    assert {name: config[name] for name in expected} == expected
    assert np.int32(config["layer_norm_eps_bits"]).view(np.float32) == np.float32(1e-6)
    tensors = tensors_of(tmp_path / "m.tbrt")
    offsets, text = tensors["tokenizer.piece_offsets"], tensors["tokenizer.pieces"].tobytes()
    assert [text[offsets[i] : offsets[i + 1]].decode() for i in range(11)] == VOCABULARY


def test_same_checkpoint_gives_the_same_bytes(directory: Path, tmp_path: Path) -> None:
    for name in ("a.tbrt", "b.tbrt"):
        convert(directory, tmp_path / name)
    assert (tmp_path / "a.tbrt").read_bytes() == (tmp_path / "b.tbrt").read_bytes()


def test_metadata_says_where_the_model_comes_from(directory: Path, tmp_path: Path) -> None:
    convert(directory, tmp_path / "m.tbrt")
    metadata = read_metadata((tmp_path / "m.tbrt").read_bytes())
    assert metadata["source"] == "checkpoint"
    assert len(metadata["source_sha256"]) == 64
    assert "encoder.layer.0.output.dense.weight" in json.loads(metadata["quantization"])["relative_rms_error"]
    edit(directory / "config.json", lambda value: value.update(_name_or_path="someone/model"))
    convert(directory, tmp_path / "m.tbrt")
    assert read_metadata((tmp_path / "m.tbrt").read_bytes())["source"] == "someone/model"


def test_path_of_the_machine_stays_out_of_the_file(directory: Path, tmp_path: Path) -> None:
    edit(directory / "config.json", lambda value: value.update(_name_or_path="/home/someone/model"))
    convert(directory, tmp_path / "m.tbrt")
    assert b"someone" not in (tmp_path / "m.tbrt").read_bytes()
    assert str(tmp_path).encode() not in (tmp_path / "m.tbrt").read_bytes()


def _same_file(directory: Path, other: Path, tmp_path: Path) -> bool:
    """Whether both directories give the same tensors."""
    convert(directory, tmp_path / "a.tbrt")
    convert(other, tmp_path / "b.tbrt")
    first, second = tensors_of(tmp_path / "a.tbrt"), tensors_of(tmp_path / "b.tbrt")
    return all(np.array_equal(first[name], second[name]) for name in first) and set(first) == set(second)


def test_prefixed_and_legacy_names(directory: Path, tmp_path: Path) -> None:
    renamed = {
        f"bert.{name}".replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): values
        for name, values in weights().items()
    }
    renamed["cls.predictions.bias"] = np.zeros(len(VOCABULARY), np.float32)
    assert _same_file(directory, write_directory(tmp_path / "other", renamed), tmp_path)
    report = convert(tmp_path / "other", tmp_path / "b.tbrt")
    assert any("heads" in note and "cls.predictions.bias" in note for note in report.notes)


def test_tokenizer_json_gives_what_vocab_txt_gives(directory: Path, tmp_path: Path) -> None:
    assert _same_file(directory, write_directory(tmp_path / "other", fast=True), tmp_path)


def test_windows_line_ends_in_vocab_txt(directory: Path, tmp_path: Path) -> None:
    other = write_directory(tmp_path / "other")
    (other / "vocab.txt").write_bytes("\r\n".join(VOCABULARY).encode())
    assert _same_file(directory, other, tmp_path)


def test_pytorch_weights(directory: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    other = write_directory(tmp_path / "other")
    (other / "model.safetensors").unlink()
    state = {name: torch.from_numpy(values) for name, values in weights().items()}
    torch.save(state, other / "pytorch_model.bin")
    assert _same_file(directory, other, tmp_path)


def test_half_precision_weights(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    rounded = {name: torch.from_numpy(values).bfloat16().float().numpy() for name, values in weights().items()}
    directory = write_directory(tmp_path / "checkpoint", rounded)
    for dtype in (torch.bfloat16, torch.float64):
        other = write_directory(tmp_path / str(dtype))
        save_file({name: torch.from_numpy(values).to(dtype) for name, values in rounded.items()}, other / "model.safetensors")
        assert _same_file(directory, other, tmp_path)


def test_checkpoint_saved_by_transformers(tmp_path: Path) -> None:
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    directory = write_directory(tmp_path / "checkpoint")
    torch.manual_seed(0)
    config = transformers.BertConfig.from_pretrained(directory)
    model = transformers.BertModel(config, add_pooling_layer=True)
    model.save_pretrained(directory)
    report = convert(directory, tmp_path / "m.tbrt", dtype="f32")
    assert any("pooler" in note for note in report.notes)
    found = dense(tensors_of(tmp_path / "m.tbrt"), "layers.0.ffn.in", False)
    assert np.array_equal(found[:INNER], model.encoder.layer[0].intermediate.dense.weight.detach().numpy())


@pytest.mark.parametrize(("theirs", "ours"), [("gelu_new", 1), ("gelu_pytorch_tanh", 1), ("relu", 2), ("gelu", 0)])
def test_activations(theirs: str, ours: int, directory: Path, tmp_path: Path) -> None:
    edit(directory / "config.json", lambda value: value.update(hidden_act=theirs))
    assert convert(directory, tmp_path / "m.tbrt").config["activation"] == ours


@pytest.mark.parametrize(
    ("settings", "flags"),
    [
        ({"do_lower_case": False}, layout.CLEAN_TEXT | layout.SPLIT_CJK),
        ({"do_lower_case": False, "strip_accents": True}, layout.CLEAN_TEXT | layout.SPLIT_CJK | layout.STRIP_ACCENTS),
        ({"strip_accents": False}, layout.CLEAN_TEXT | layout.SPLIT_CJK | layout.LOWERCASE),
        ({"tokenize_chinese_chars": False}, layout.CLEAN_TEXT | layout.LOWERCASE | layout.STRIP_ACCENTS),
        ({}, 15),
    ],
)
@pytest.mark.parametrize("fast", [False, True])
def test_tokenizer_flags(settings: dict[str, Any], flags: int, fast: bool, tmp_path: Path) -> None:
    directory = write_directory(tmp_path / "checkpoint", fast=fast)
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    report = convert(directory, tmp_path / "m.tbrt")
    assert report.config["tokenizer_flags"] == flags
    assert any("takes the place" in note for note in report.notes) == (fast and bool(settings))


@pytest.mark.parametrize("mode", ["cls", "mean", "max"])
def test_pooling_modes(mode: str, directory: Path, tmp_path: Path) -> None:
    pooling = directory / "1_Pooling" / "config.json"
    names = {"cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens", "max": "pooling_mode_max_tokens"}
    edit(pooling, lambda value: {name: name == names[mode] for name in value if name.startswith("pooling")})
    assert convert(directory, tmp_path / "m.tbrt").config["pooling"] == layout.POOLINGS[mode]
    pooling.write_text(json.dumps({"embedding_dimension": HIDDEN, "pooling_mode": mode, "include_prompt": True}))
    assert convert(directory, tmp_path / "m.tbrt").config["pooling"] == layout.POOLINGS[mode]


def test_pooling_and_normalization_said_by_hand(directory: Path, tmp_path: Path) -> None:
    (directory / "modules.json").unlink()
    report = convert(directory, tmp_path / "m.tbrt", pooling="cls", normalize=False)
    assert (report.config["pooling"], report.config["normalize"]) == (layout.POOLINGS["cls"], 0)


def test_word_of_the_caller_beats_the_directory(directory: Path, tmp_path: Path) -> None:
    report = convert(directory, tmp_path / "m.tbrt", pooling="max", normalize=False)
    assert (report.config["pooling"], report.config["normalize"]) == (layout.POOLINGS["max"], 0)
    assert sum("as asked for" in note for note in report.notes) == 2


def test_transformer_in_a_folder_of_its_own(directory: Path, tmp_path: Path) -> None:
    inner = directory / "0_Transformer"
    inner.mkdir()
    for name in ("config.json", "model.safetensors", "vocab.txt", "tokenizer_config.json", "sentence_bert_config.json"):
        (directory / name).rename(inner / name)
    edit(directory / "modules.json", lambda value: value[0].update(path="0_Transformer"))
    assert convert(directory, tmp_path / "m.tbrt").config["max_tokens"] == 10


def test_longest_text(directory: Path, tmp_path: Path) -> None:
    assert convert(directory, tmp_path / "m.tbrt", max_tokens=16).config["max_tokens"] == 16
    edit(directory / "sentence_bert_config.json", lambda value: value.update(max_seq_length=None))
    assert convert(directory, tmp_path / "m.tbrt").config["max_tokens"] == 16
    edit(directory / "tokenizer_config.json", lambda value: value.update(model_max_length=12))
    assert convert(directory, tmp_path / "m.tbrt").config["max_tokens"] == 12
    edit(directory / "tokenizer_config.json", lambda value: value.update(model_max_length=10**30))
    assert convert(directory, tmp_path / "m.tbrt").config["max_tokens"] == 16


def test_unused_rows_are_left_out_when_asked(tmp_path: Path) -> None:
    tensors = weights()
    name = "embeddings.word_embeddings.weight"
    tensors[name] = np.concatenate([tensors[name], np.zeros((5, HIDDEN), np.float32)])
    directory = write_directory(tmp_path / "checkpoint", tensors)
    edit(directory / "config.json", lambda value: value.update(vocab_size=16))
    report = convert(directory, tmp_path / "m.tbrt", drop_unused_rows=True)
    assert report.config["vocab_size"] == 11
    assert tensors_of(tmp_path / "m.tbrt")["embeddings.word"].shape == (11, 64)
    assert any("last 5 rows" in note for note in report.notes)


def test_added_token_behind_the_vocabulary(tmp_path: Path) -> None:
    tensors = weights()
    name = "embeddings.word_embeddings.weight"
    tensors[name] = np.concatenate([tensors[name], tensors[name][:1]])
    directory = write_directory(tmp_path / "checkpoint", tensors, fast=True)
    edit(directory / "config.json", lambda value: value.update(vocab_size=12))
    added = tokenizer_json()
    added["added_tokens"].append({"id": 11, "content": "[E1]", "special": False, "normalized": False})
    (directory / "tokenizer.json").write_text(json.dumps(added))
    report = convert(directory, tmp_path / "m.tbrt")
    assert report.config["vocab_size"] == 12
    assert tensors_of(tmp_path / "m.tbrt")["tokenizer.added"][:7].tolist() == [0, 1, 2, 3, 4, 11, 0]


def test_report_lists_the_worst_tensors_first(directory: Path, tmp_path: Path) -> None:
    report = convert(directory, tmp_path / "m.tbrt")
    assert len(report.tensors) == 9
    lines = format_report(report, None).splitlines()
    errors = [float(line.split()[2]) for line in lines[1:10]]
    assert errors == sorted(errors, reverse=True)
    assert 0 < errors[-1] < errors[0] < 0.02
    short = format_report(report, 3)
    assert "and 6 tensors with smaller errors" in short
    assert f"{report.size_bytes:,} bytes" in short
    assert "pooler" in short


def test_command_line(directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "m.tbrt"
    assert main([str(directory), "--out", str(out), "--dtype", "f32", "--no-normalize", "--max-tokens", "7", "--all"]) == 0
    assert str(out) in capsys.readouterr().out
    config = config_of(out)
    assert (config["weight_dtype"], config["normalize"], config["max_tokens"]) == (0, 0, 7)
    assert main([str(tmp_path / "nowhere"), "--out", str(out)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("python -m tools.convert: error: ")
    assert captured.err.count("\n") == 1
