"""The tokenizer is no part of an exported graph: models with any kind of tokenizer are exported. A head that is not is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bpe_tokenizer import write_bpe
from onnx_files import padded, run
from test_architectures import CASES, write_case
from test_convert_unigram import write_checkpoint

import tinybert_rt as tb
from tools.convert import convert
from tools.export_onnx import ConversionError, export
from tools.tbrt import TbrtFile

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("transformers")

TEXTS = ["The cat sat on the mat.", "a <mask> dog", ""]


def write_roberta(directory: Path) -> Path:
    """A RoBERTa of random weights with byte-level BPE."""
    import torch
    from transformers import RobertaConfig, RobertaModel, RobertaTokenizerFast

    write_bpe(directory, model_max_length=40, tokenizer_class="RobertaTokenizer")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48, "max_position_embeddings": 64}
    sizes["vocab_size"] = len(RobertaTokenizerFast.from_pretrained(directory))
    torch.manual_seed(1)
    RobertaModel(RobertaConfig(**sizes, type_vocab_size=1)).save_pretrained(directory)
    return directory


@pytest.mark.parametrize("dtype", ["float", "int8"])
@pytest.mark.parametrize("family", ["bpe", "albert", "albert with a charsmap", "xlm-roberta"])
def test_vectors_of_the_graph_are_those_of_the_model(family: str, dtype: str, tmp_path: Path) -> None:
    source = write_roberta(tmp_path / "hf") if family == "bpe" else write_checkpoint(tmp_path / "hf", family)
    convert(source, tmp_path / "m.tbrt", dtype="f32", pooling="mean", normalize=True)
    export(tmp_path / "m.tbrt", tmp_path / "m.onnx", dtype=dtype)
    model = tb.load(tmp_path / "m.tbrt")
    ids, offsets = model.tokenize_batch(TEXTS)
    found = run(tmp_path / "m.onnx", padded(ids, offsets, np.zeros(ids.size, np.uint8)))["sentence_embedding"]
    expected = model.encode(TEXTS)
    assert np.abs(found - expected).max() < (1e-5 if dtype == "float" else 0.05)


def test_a_head_that_is_not_exported_is_named(tmp_path: Path) -> None:
    write_case(tmp_path, CASES["bert"], "ForMaskedLM")
    convert(tmp_path, tmp_path / "m.tbrt", pooling="mean", normalize=True)
    with pytest.raises(ConversionError, match="a head of the kind masked_token is not supported; supported: none, sequence_"):
        export(tmp_path / "m.tbrt", tmp_path / "m.onnx")


def test_an_exported_graph_is_read_back_with_the_checkpoints_config(tmp_path: Path) -> None:
    """RoBERTa's table of positions has rows before the first token's, which an exported graph has not."""
    source = write_roberta(tmp_path / "hf")
    convert(source, tmp_path / "m.tbrt", dtype="f32", pooling="mean", normalize=True, name="m")
    export(tmp_path / "m.tbrt", source / "model.onnx")
    convert(source / "model.onnx", tmp_path / "again.tbrt", dtype="f32", pooling="mean", normalize=True, name="m")
    first, again = (TbrtFile(tmp_path / f"{name}.tbrt") for name in ("m", "again"))
    assert first.config == again.config
    assert tb.load(tmp_path / "m.tbrt").encode(TEXTS).tobytes() == tb.load(tmp_path / "again.tbrt").encode(TEXTS).tobytes()
