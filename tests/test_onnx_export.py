"""Exported ONNX files give, in ONNX Runtime, what the runtime gives: every architecture, pooling and head; and what is refused."""

from __future__ import annotations

import gzip
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bpe_tokenizer import write_bpe
from format_files import small_config
from onnx_files import export as export_torch
from onnx_files import padded, run
from test_architectures import CASES, HEADS, inputs, write_case
from test_convert_unigram import write_tokenizer as write_unigram
from test_encoder import tolerance

import tinybert_rt as tb
from tinybert_rt.cli import TOOLS
from tinybert_rt.format import layout
from tinybert_rt.format import tensors as file_tensors
from tinybert_rt.format.writer import write_model
from tools import tbrt
from tools.convert import convert
from tools.export_onnx import ConversionError, export, main
from tools.hf_tokenizer import read_tokenizer
from tools.tokenizer_parts import tokenizer_tensors

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

EXPORTED = [name for name in CASES if "deberta" not in name]
SENTENCES = ["The cat sat on the mat.", "A dog.", "Small models are fast, and small vectors too!", "", "text " * 40]
BUNDLED = Path(tb.__file__).parent / "models" / "all-MiniLM-L6-v2-int8.tbrt"


def make(tmp_path: Path, name: str, dtype: str = "f32", head: str = "", **options: Any) -> tuple[Any, Path]:
    """A torch model and its model file."""
    labels = {"id2label": {i: f"label {i}" for i in range(HEADS[head])}} if head else {}
    model = write_case(tmp_path, CASES[name], head, **labels)
    convert(tmp_path, tmp_path / "model.tbrt", dtype=dtype, **{"pooling": "mean", "normalize": True, **options})
    return model, tmp_path / "model.tbrt"


def written(model: Path, dtype: str = "float") -> Path:
    """The ONNX file of a model file, checked by ONNX's own checker, shapes included."""
    out = model.with_suffix(f".{dtype}.onnx")
    export(model, out, dtype=dtype)
    onnx.checker.check_model(str(out), full_check=True)
    return out


def tokens_of(states: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(batch, tokens, …) without padding: (total tokens, …)."""
    return states[mask.astype(bool)]


def cosines(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Of rows."""
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    return (found * expected).sum(axis=1) / norms


@pytest.mark.parametrize("name", EXPORTED)
def test_float_graphs_give_the_answers_of_the_runtime(name: str, tmp_path: Path) -> None:
    model, path = make(tmp_path, name)
    ids, offsets, types = inputs(model)
    ours = tb.load(path, threads=1)
    states = ours.encode_ids(ids, offsets, types, hidden_states=True)
    feed = padded(ids, offsets, types)
    found = run(written(path), feed)
    layers = model.config.num_hidden_layers * getattr(model.config, "inner_group_num", 1)
    allowed = tolerance(layers, np.abs(states).max())
    assert np.abs(tokens_of(found["last_hidden_state"], feed["attention_mask"]) - states).max() <= allowed
    assert np.abs(found["sentence_embedding"] - ours.encode_ids(ids, offsets, types)).max() <= allowed


@pytest.mark.parametrize("name", EXPORTED)
def test_int8_graphs_are_as_close_to_float_as_the_runtime(name: str, tmp_path: Path) -> None:
    model, path = make(tmp_path, name, "int8")
    ids, offsets, types = inputs(model)
    feed = padded(ids, offsets, types)
    graph = written(path, "int8")
    kinds = {node.op_type for node in onnx.load(graph).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    states = tb.load(path, threads=1).encode_ids(ids, offsets, types, hidden_states=True)
    for optimize in (False, True):
        found = tokens_of(run(graph, feed, optimize)["last_hidden_state"], feed["attention_mask"])
        assert cosines(found, states).mean() >= 0.995


def test_int8_of_a_float_file_has_the_weights_that_convert_gives(tmp_path: Path) -> None:
    _, path = make(tmp_path, "electra-small")
    from_float = onnx.load(written(path, "int8"))
    convert(tmp_path, tmp_path / "int8.tbrt", pooling="mean", normalize=True)
    from_int8 = onnx.load(written(tmp_path / "int8.tbrt", "int8"))
    assert [each.SerializeToString() for each in from_float.graph.initializer] == [
        each.SerializeToString() for each in from_int8.graph.initializer
    ]


def test_weights_of_int8_graphs_are_int8_with_a_scale_per_output(tmp_path: Path) -> None:
    _, path = make(tmp_path, "bert-26", "int8")
    graph = onnx.load(written(path, "int8")).graph
    weights = {each.name: each for each in graph.initializer}
    for name in ("embeddings.word", "layers.0.attention.query.weight", "layers.2.ffn.out.weight"):
        assert weights[name].data_type == onnx.TensorProto.INT8
    assert list(weights["layers.0.attention.query.weight"].dims) == [104, 104]
    assert list(weights["layers.0.attention.query.scale"].dims) == [104]
    assert not any(each.data_type == onnx.TensorProto.FLOAT and len(each.dims) > 1 for each in graph.initializer)


@pytest.mark.parametrize("pooling", layout.POOLINGS)
@pytest.mark.parametrize("normalize", [False, True])
def test_sentence_embeddings_are_pooled_as_the_file_says(pooling: str, normalize: bool, tmp_path: Path) -> None:
    model, path = make(tmp_path, "bert-odd", pooling=pooling, normalize=normalize)
    ids, offsets, types = inputs(model)
    expected = tb.load(path, threads=1).encode_ids(ids, offsets, types)
    found = run(written(path), padded(ids, offsets, types))["sentence_embedding"]
    assert np.abs(found - expected).max() <= tolerance(2, np.abs(expected).max())


@pytest.mark.parametrize("head", ["ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"])
@pytest.mark.parametrize("name", ["bert", "distilbert-26", "roberta-odd", "electra-small"])
def test_logits(name: str, head: str, tmp_path: Path) -> None:
    model, path = make(tmp_path, name, head=head)
    ids, offsets, types = inputs(model)
    expected = tb.load(path, threads=1).logits(ids, offsets, types)
    feed = padded(ids, offsets, types)
    found = run(written(path), feed)["logits"]
    found = found if found.ndim == 2 else tokens_of(found, feed["attention_mask"])
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 2 * tolerance(4, np.abs(expected).max())


def test_what_is_in_the_padding_does_not_count(tmp_path: Path) -> None:
    model, path = make(tmp_path, "bert")
    ids, offsets, types = inputs(model)
    graph = written(path)
    one, other = (run(graph, padded(ids, offsets, types, fill)) for fill in (0, 9))
    assert np.abs(one["sentence_embedding"] - other["sentence_embedding"]).max() <= 1e-6


def test_inputs_outputs_and_metadata(tmp_path: Path) -> None:
    _, path = make(tmp_path, "bert", head="ForSequenceClassification")
    model = onnx.load(written(path))
    assert [each.name for each in model.graph.input] == ["input_ids", "attention_mask", "token_type_ids"]
    for each in model.graph.input:
        assert each.type.tensor_type.elem_type == onnx.TensorProto.INT64
        assert [size.dim_param for size in each.type.tensor_type.shape.dim] == ["batch", "sequence"]
    assert [each.name for each in model.graph.output] == ["last_hidden_state", "sentence_embedding", "logits"]
    properties = {each.key: each.value for each in model.metadata_props}
    assert (properties["name"], properties["pooling"], properties["normalize"]) == (tmp_path.name, "mean", "true")
    assert properties["source"] == tmp_path.name
    assert json.loads(properties["labels"]) == ["label 0", "label 1", "label 2"]


def test_models_without_token_types_have_no_such_input(tmp_path: Path) -> None:
    _, path = make(tmp_path, "distilbert")
    assert [each.name for each in onnx.load(written(path)).graph.input] == ["input_ids", "attention_mask"]


@pytest.mark.parametrize("name", ["bert-26", "albert-groups", "roberta-odd", "electra-wide", "distilbert"])
def test_an_exported_graph_converts_back_to_the_same_file(name: str, tmp_path: Path) -> None:
    _, path = make(tmp_path, name)
    folder = tmp_path / "back"
    folder.mkdir()
    for each in ("config.json", "vocab.txt", "tokenizer_config.json"):
        (folder / each).write_bytes((tmp_path / each).read_bytes())
    config = json.loads((folder / "config.json").read_text())
    if "roberta" in name:  # the rows before the first position are not in a model file
        config |= {"model_type": "bert", "max_position_embeddings": config["max_position_embeddings"] - config["pad_token_id"] - 1}
        (folder / "config.json").write_text(json.dumps(config))
    export(path, folder / "model.onnx")
    convert(folder, folder / "model.tbrt", dtype="f32", pooling="mean", normalize=True)
    one, other = tbrt.TbrtFile(path), tbrt.TbrtFile(folder / "model.tbrt")
    assert all(one.raw(each).tobytes() == other.raw(each).tobytes() for each in one.entries if each != "config")


@pytest.mark.parametrize("dtype", ["float", "int8"])
def test_the_bundled_model_on_sentences(dtype: str, tmp_path: Path) -> None:
    graph = tmp_path / "model.onnx"
    export(BUNDLED, graph, dtype=dtype)
    found, expected = embed_both(graph, SENTENCES)
    assert cosines(found, expected).mean() >= 0.99


@pytest.mark.parametrize("dtype", ["float", "int8"])
def test_the_bundled_model_on_real_sentences(dtype: str, shared: Path, tmp_path: Path) -> None:
    graph = tmp_path / "model.onnx"
    export(BUNDLED, graph, dtype=dtype)
    lines = gzip.decompress((shared / "data" / "glue" / "stsb" / "test.tsv.gz").read_bytes()).decode().splitlines()[1:65]
    found, expected = embed_both(graph, [line.split("\t")[0] for line in lines])
    assert cosines(found, expected).mean() >= 0.998
    assert cosines(found, expected).min() >= 0.99


def embed_both(graph: Path, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of texts by ONNX Runtime and by the runtime."""
    model = tb.load(BUNDLED, threads=1)
    tokens = [np.asarray(model.tokenize(text).ids, np.int32) for text in texts]
    offsets = np.cumsum([0, *map(len, tokens)])
    feed = padded(np.concatenate(tokens), offsets, np.zeros(offsets[-1], np.uint8))
    return run(graph, feed)["sentence_embedding"], model.encode(texts)


def test_the_graph_and_torchs_own_graph_agree(tmp_path: Path) -> None:
    model, path = make(tmp_path, "bert-26")
    ids, offsets, types = inputs(model)
    feed = padded(ids, offsets, types)
    theirs = next(iter(run(export_torch(model, tmp_path / "torch.onnx"), feed).values()))
    found = run(written(path), feed)["last_hidden_state"]
    mask = feed["attention_mask"]
    assert np.abs(tokens_of(found, mask) - tokens_of(theirs, mask)).max() <= tolerance(3, np.abs(theirs).max())


@pytest.mark.parametrize("name", ["deberta", "deberta-plain", "deberta-v2"])
def test_deberta_is_refused(name: str, tmp_path: Path) -> None:
    _, path = make(tmp_path, name)
    with pytest.raises(ConversionError, match=f"export of {CASES[name].architecture} is not supported"):
        export(path, tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


def test_a_head_that_predicts_masked_tokens_is_refused(tmp_path: Path) -> None:
    write_case(tmp_path, CASES["bert"], "ForMaskedLM")
    convert(tmp_path, tmp_path / "model.tbrt", dtype="f32")
    with pytest.raises(ConversionError, match="a head of the kind masked_token is not supported"):
        export(tmp_path / "model.tbrt", tmp_path / "m.onnx")


def test_every_kind_of_tokenizer_is_left_out_of_the_graph(tmp_path: Path) -> None:
    write_bpe(tmp_path / "bpe")
    write_unigram(tmp_path / "unigram", "albert")
    for kind in ("bpe", "unigram"):
        made, fields = tokenizer_tensors(read_tokenizer(tmp_path / kind))
        config = small_config(**fields)
        specs = file_tensors.tensor_specs(config)
        zeros = {name: np.zeros(shape, tbrt.NUMPY_DTYPES[dtype]) for name, (dtype, shape) in specs.items() if name != "config"}
        write_model(tmp_path / f"{kind}.tbrt", config, zeros | made, {"source": "a test"})
        onnx.checker.check_model(str(written(tmp_path / f"{kind}.tbrt")))


@pytest.mark.parametrize("field", ["no_positions", "conv_kernel", "relative_span"])
def test_what_the_graph_would_leave_out_is_refused(field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the architecture is called: a file with such a part computes something else than the graph."""
    _, path = make(tmp_path, "deberta-v2" if field == "conv_kernel" else "deberta-odd")
    file = tbrt.TbrtFile(path)
    wanted = dict.fromkeys(("no_positions", "conv_kernel", "relative_span"), 0) | {field: file.config[field]}
    config = file.config | wanted | {"architecture": layout.ARCHITECTURES["bert"]}
    config |= {"content_to_position": 0, "position_to_content": 0, "conv_activation": 0}
    specs = file_tensors.tensor_specs(config)
    tensors = {name: np.zeros(shape, tbrt.NUMPY_DTYPES[kind]) for name, (kind, shape) in specs.items() if name != "config"}
    write_model(path, config, tensors, {})
    with pytest.raises(ConversionError, match=f"{field} is {file.config[field]}: export of such a model is not supported"):
        export(path, tmp_path / "m.onnx")


def test_a_graph_that_protobuf_cannot_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, path = make(tmp_path, "bert-odd")
    monkeypatch.setattr("tools.export_onnx._LARGEST", 1000)
    with pytest.raises(ConversionError, match="an ONNX file may have 2 GiB: say --dtype int8"):
        export(path, tmp_path / "m.onnx")


def test_without_the_package_onnx_the_message_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ConversionError, match="writing ONNX needs the package 'onnx': pip install onnx"):
        export(BUNDLED, tmp_path / "m.onnx")


def test_the_reader_gives_back_what_was_written(tmp_path: Path) -> None:
    """Heads of 26 with their padding, int8 against the float weights of the checkpoint."""
    model, path = make(tmp_path, "albert-groups", "int8")
    file = tbrt.TbrtFile(path)
    weights = {name: values.numpy() for name, values in model.state_dict().items()}
    group = "encoder.albert_layer_groups.1.albert_layers.0"
    layer = list(file.layers())[1]
    pairs = {
        "attention.query": layer.query,
        "attention.value": layer.value,
        "attention.dense": layer.output,
        "ffn": layer.ffn_in,
        "ffn_output": layer.ffn_out,
    }
    for name, linear in pairs.items():
        expected = weights[f"{group}.{name}.weight"]
        assert linear.weight.values.dtype == np.int8
        assert linear.weight.values.shape == expected.shape
        assert (np.abs(linear.weight.floats() - expected) <= np.abs(expected).max(axis=1, keepdims=True) / 100).all()
        assert np.array_equal(linear.bias, weights[f"{group}.{name}.bias"])
    assert np.array_equal(layer.ffn_norm.weight, weights[f"{group}.full_layer_layer_norm.weight"])
    words = file.table("embeddings.word")
    assert np.abs(words.floats() - weights["embeddings.word_embeddings.weight"]).max() <= float(words.scale.max()) * 0.51
    assert file.pieces()[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert replace(words, scale=None).floats() is words.values


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, path = make(tmp_path, "bert-odd")
    out = tmp_path / "m.onnx"
    assert main([str(path), "--out", str(out), "--dtype", "int8"]) == 0
    assert f"{out}: {out.stat().st_size:,} bytes" in capsys.readouterr().out
    for arguments in ([str(tmp_path / "nowhere"), "--out", str(out)], [str(path), "--out", str(tmp_path / "no" / "m.onnx")]):
        assert main(arguments) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("python -m tools.export_onnx: error: ")
        assert captured.err.count("\n") == 1
    assert "export_onnx" in TOOLS
