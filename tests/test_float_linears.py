"""Int8 files in which chosen linear layers are float32: what they compute, what they are made of, and which are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import LEVELS
from format_files import join, patched, reader, split, write_small
from models import ragged, vocabulary, write_checkpoint
from test_architectures import CASES, inputs, write_case
from test_encoder import LENGTHS, reference, tolerance

import tinybert_rt as tb
from tinybert_rt import errors
from tinybert_rt.format import layout
from tinybert_rt.format.layout import CONFIG_INDEX
from tools.convert import convert, main
from tools.hf import ConversionError
from tools.inspect import inspect
from tools.keep import kept_linears
from tools.tbrt import TbrtFile

PARTS = tuple(layout.FLOAT_LINEARS)
HEADS_OF_26 = {"hidden_size": 104, "num_attention_heads": 4, "intermediate_size": 200}


def states(directory: Path, dtype: str = "int8", keep_float: Any = ()) -> np.ndarray:
    """Hidden states of ragged random texts by the file of a checkpoint."""
    path = directory / "model.tbrt"
    convert(directory, path, dtype=dtype, keep_float=keep_float)
    return tb.load(path, threads=1).encode_ids(*ragged(LENGTHS, len(vocabulary())), hidden_states=True)


def rms(difference: np.ndarray) -> float:
    return float(np.sqrt((difference.astype(np.float64) ** 2).mean()))


# ---------------------------------------------------------------- what they compute


@pytest.mark.parametrize("sizes", [{}, HEADS_OF_26, {"hidden_size": 36, "num_attention_heads": 3, "intermediate_size": 77}])
def test_with_all_of_them_float_only_the_embeddings_are_int8(sizes: dict[str, int], tmp_path: Path) -> None:
    """The oracle: torch, with the embedding tables of the file."""
    import torch

    model = write_checkpoint(tmp_path, **sizes)
    found = states(tmp_path, keep_float=["layers.0", "layers.1"])
    file = TbrtFile(tmp_path / "model.tbrt")
    embeddings = model.embeddings
    with torch.no_grad():
        for name in ("word", "position", "token_type"):
            table = file.table(f"embeddings.{name.removeprefix('token_')}").floats()
            getattr(embeddings, f"{name}_embeddings").weight.copy_(torch.from_numpy(table.copy()))
    expected = reference(model, *ragged(LENGTHS, len(vocabulary())))
    assert np.abs(found - expected).max() <= tolerance(2, np.abs(expected).max())


def test_the_more_are_float_the_nearer_to_the_float_file(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    expected = states(tmp_path, "f32")
    names: list[list[str]] = [[], ["layers.1"], ["layers.0", "layers.1"]]
    none, one, both = (rms(states(tmp_path, keep_float=kept) - expected) for kept in names)
    assert both < 0.5 * none
    assert 1.2 * both < one < 0.9 * none


def spoil(model: Any, layer: int, part: str) -> None:
    """Give a linear layer one input that is always 0, with weights so large that int8 has no steps left for the others."""
    import torch

    block = model.encoder.layer[layer]
    before = model.embeddings.LayerNorm if layer == 0 else model.encoder.layer[layer - 1].output.LayerNorm
    attention = block.attention
    silent, loud = {
        "attention.qkv": (before, [attention.self.query, attention.self.key, attention.self.value]),
        "attention.output": (attention.self.value, [attention.output.dense]),
        "ffn.in": (attention.output.LayerNorm, [block.intermediate.dense]),
        "ffn.out": (block.intermediate.dense, [block.output.dense]),
    }[part]
    with torch.no_grad():
        silent.weight[0] = 0.0
        silent.bias[0] = 0.0
        for linear in loud:
            linear.weight[:, 0] = 40.0


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("part", PARTS)
def test_the_one_layer_that_int8_spoils_is_healed_by_its_own_name_only(part: str, layer: int, tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path, **HEADS_OF_26)
    spoil(model, layer, part)
    model.save_pretrained(tmp_path)
    expected = states(tmp_path, "f32")
    spoiled = rms(states(tmp_path) - expected)
    for each in PARTS:
        error = rms(states(tmp_path, keep_float=[f"layers.{layer}.{each}"]) - expected)
        assert error < 0.3 * spoiled if each == part else error > 0.6 * spoiled, each


KEPT = {**{part: [f"layers.0.{part}"] for part in PARTS}, "mixed": ["layers.0.ffn.in", "layers.1.attention.qkv", "layers.1.ffn.out"]}


@pytest.mark.parametrize("name", KEPT)
def test_the_same_bytes_on_every_level_with_any_threads_and_neighbours(name: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, **HEADS_OF_26)
    path = tmp_path / "model.tbrt"
    convert(tmp_path, path, keep_float=KEPT[name])
    ids, offsets, types = ragged([int(n) for n in np.random.default_rng(3).integers(1, 97, 60)], len(vocabulary()))
    first = tb.load(path, threads=1, isa=LEVELS[-1]).encode_ids(ids, offsets, types)
    for level in LEVELS:
        for threads in (1, 2, 3):
            model = tb.load(path, threads=threads, isa=level)
            assert model.encode_ids(ids, offsets, types).tobytes() == first.tobytes(), (level, threads)
            for i in (0, 17, 59):
                a, b = offsets[i], offsets[i + 1]
                alone = model.encode_ids(ids[a:b], np.array([0, b - a]), types[a:b])
                assert alone.tobytes() == first[i].tobytes(), (level, threads, i)


@pytest.mark.parametrize("name", ["albert-groups", "electra-wide", "distilbert", "deberta-26", "deberta-v2", "deberta-v3"])
def test_every_architecture_has_them(name: str, tmp_path: Path) -> None:
    """Shared layers, projected embeddings, relative positions and the convolution, whose own tables stay int8."""
    model = write_case(tmp_path, CASES[name])
    path = tmp_path / "model.tbrt"
    found = {}
    for dtype, count in (("f32", 0), ("int8", 0), ("int8", 1), ("int8", 64)):
        stored = layout.stored_layers(convert(tmp_path, path, dtype=dtype, pooling="mean", normalize=True).config)
        keep = [f"layers.{layer}" for layer in range(min(count, stored))]
        convert(tmp_path, path, dtype=dtype, pooling="mean", normalize=True, keep_float=keep)
        found[dtype, count] = tb.load(path, threads=1).encode_ids(*inputs(model), hidden_states=True)
    none, some, all_of_them = (rms(found["int8", count] - found["f32", 0]) for count in (0, 1, 64))
    assert all_of_them < 0.85 * none  # the rest is of the tables, and of a projection
    assert all_of_them <= some < none


def test_attentions_are_those_of_the_float_file_where_queries_and_keys_are(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    ids = np.arange(5, 45, dtype=np.int32)
    maps = []
    for dtype, keep in (("f32", []), ("int8", []), ("int8", ["layers.0.attention.qkv"])):
        convert(tmp_path, tmp_path / "model.tbrt", dtype=dtype, keep_float=keep)
        maps.append(tb.load(tmp_path / "model.tbrt", threads=1).attentions_ids(ids, np.array([0, ids.size]))[0])
    assert rms(maps[2] - maps[0]) < rms(maps[1] - maps[0])


# ---------------------------------------------------------------- what they are made of


def test_a_layer_means_its_four_parts_in_the_order_of_the_file() -> None:
    assert kept_linears(["layers.10", "layers.2.ffn.out", "layers.10.ffn.in"], 11, "int8") == [
        "layers.2.ffn.out",
        *(f"layers.10.{part}" for part in PARTS),
    ]


@pytest.mark.parametrize("name", ["layers.2", "layers.00", "layers.0.ffn", "layers.0.ffn.out.weight", "ffn.out", "embeddings.word", ""])
def test_other_names_are_refused_with_those_that_there_are(name: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    known = r"N from 0 to 1, PART one of attention\.qkv, attention\.output, ffn\.in, ffn\.out"
    with pytest.raises(ConversionError, match=f"keep_float names '{name}', .*{known}"):
        convert(tmp_path, tmp_path / "model.tbrt", keep_float=["layers.0", name])
    assert not (tmp_path / "model.tbrt").exists()


def test_float_files_and_a_single_text_are_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    with pytest.raises(ConversionError, match="keep_float is for int8 files"):
        convert(tmp_path, tmp_path / "model.tbrt", dtype="f32", keep_float=["layers.0"])
    with pytest.raises(ConversionError, match=r"keep_float is 'layers\.0': it must be a collection of names"):
        convert(tmp_path, tmp_path / "model.tbrt", keep_float="layers.0")


def test_without_names_the_file_is_the_same_as_before(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    convert(tmp_path, tmp_path / "model.tbrt", keep_float=[])
    data = (tmp_path / "model.tbrt").read_bytes()
    assert b"float" not in data[: len(data) - len(split(data)[1])]


def test_the_command_the_model_and_the_tools_name_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_checkpoint(tmp_path)
    out = str(tmp_path / "model.tbrt")
    assert main([str(tmp_path), "--out", out, "--keep-float", "layers.1.ffn.out", "--keep-float", "layers.0.attention.qkv"]) == 0
    names = ["layers.0.attention.qkv", "layers.1.ffn.out"]
    model = tb.load(out)
    assert (model.info()["weights"], model.info()["float_linears"]) == ("int8", names)
    quantization = json.loads(model.metadata["quantization"])
    assert quantization["keep_float"] == names
    assert not any("layer.0.attention.self" in name or "layer.1.output" in name for name in quantization["relative_rms_error"])
    facts = inspect(out)
    assert facts["config"]["float_linears"] == names
    floats = {each["name"] for each in facts["tensors"] if each["name"].endswith(".weight") and len(each["shape"]) == 2} & {
        each["name"] for each in facts["tensors"] if each["dtype"] == "f32"
    }
    assert floats == {f"{name}.weight" for name in names}
    assert main([str(tmp_path), "--out", out, "--keep-float", "layers.2"]) == 2
    assert "error: keep_float names 'layers.2'" in capsys.readouterr().err


def test_graphs_keep_them_float(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx_files import padded, run

    from tools.export_onnx import export

    write_checkpoint(tmp_path)
    batch = ragged(LENGTHS, len(vocabulary()))
    expected = states(tmp_path, keep_float=["layers.0", "layers.1.ffn.out"])
    feed = padded(*batch)
    for dtype in ("float", "int8"):
        export(tmp_path / "model.tbrt", tmp_path / "model.onnx", dtype=dtype)
        weights = {each.name: each.data_type for each in onnx.load(tmp_path / "model.onnx").graph.initializer}
        integer = {name for name, kind in weights.items() if name.endswith(".weight") and kind == onnx.TensorProto.INT8}
        int8_names = [*(f"attention.{part}" for part in ("query", "key", "value", "output")), "ffn.in"]
        assert integer == ({f"layers.1.{part}.weight" for part in int8_names} if dtype == "int8" else set())
        found = run(tmp_path / "model.onnx", feed)["last_hidden_state"][feed["attention_mask"].astype(bool)]
        assert rms(found - expected) < 0.05 * rms(expected)


# ---------------------------------------------------------------- which are refused


@pytest.fixture
def valid(tmp_path: Path) -> bytes:
    """Two layers, of which layer 1 has a float `attention.output`."""
    return write_small(tmp_path / "small.tbrt", marks=bytes([0, 2]), num_layers=2).read_bytes()


@pytest.mark.parametrize(
    ("layer", "marks", "error", "says"),
    [
        (0, 16, errors.FloatLinearsError, "marks linear layers of layer 0 that this release does not know"),
        (1, 130, errors.FloatLinearsError, "marks linear layers of layer 1 that this release does not know"),
        (0, 1, errors.FloatLinearsError, "'float_linears' is 1, but 2 linear layers are float32"),
        (1, 0, errors.FloatLinearsError, "'float_linears' is 1, but 0 linear layers are float32"),
        (1, 1, errors.TensorDtypeError, "'layers.1.attention.qkv.weight' must be F32"),
        (2, 1, errors.PaddingError, "'float_linears'"),
        (63, 1, errors.PaddingError, "'float_linears'"),
    ],
)
def test_marks_that_do_not_fit_are_refused(layer: int, marks: int, error: type[Exception], says: str, valid: bytes) -> None:
    with pytest.raises(error, match=says):
        reader().open(patched(valid, "float_linears", layer, marks))


@pytest.mark.parametrize(
    ("count", "error", "says"),
    [
        (0, errors.UnknownTensorError, "'float_linears' does not belong"),
        (2, errors.FloatLinearsError, "'float_linears' is 2, but 1 linear layers"),
        (257, errors.ConfigRangeError, "from 0 to 256"),
    ],
)
def test_counts_that_do_not_fit_are_refused(count: int, error: type[Exception], says: str, valid: bytes, tmp_path: Path) -> None:
    damaged = patched(valid, "config", CONFIG_INDEX["float_linears"], count)
    with pytest.raises(error, match=says):
        reader().open(damaged)
    (tmp_path / "damaged.tbrt").write_bytes(damaged)
    with pytest.raises(ConversionError, match="float_linears"):
        TbrtFile(tmp_path / "damaged.tbrt")


def test_a_file_that_lacks_the_marks_is_refused(valid: bytes) -> None:
    header, body = split(valid)
    begin, end = header.pop("float_linears")["data_offsets"]
    for name, entry in header.items():
        if name != "__metadata__" and entry["data_offsets"][0] >= end:
            entry["data_offsets"] = [each - end + begin for each in entry["data_offsets"]]
    with pytest.raises(errors.MissingTensorError, match="'float_linears' is missing"):
        reader().open(join(header, body[:begin] + body[end:]))


def test_a_scale_of_a_float_layer_is_refused(valid: bytes) -> None:
    text = json.dumps(split(valid)[0], separators=(",", ":"))
    old, new = '"layers.1.attention.output.bias"', '"layers.1.attention.output.scale"'
    with pytest.raises(errors.UnknownTensorError, match=r"'layers\.1\.attention\.output\.scale'"):
        reader().open(join(text.replace(old, new), split(valid)[1]))


def test_the_writer_refuses_a_count_that_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="float_linears is 3, the tensor marks 1 linear layers"):
        write_small(tmp_path / "m.tbrt", marks=b"\x01", float_linears=3)
