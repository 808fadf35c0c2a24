"""What the converter refuses: each case names the file, the field and what was found there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hf_directory import HIDDEN, VOCABULARY, edit, tokenizer_json, weights, write_directory

from tools.convert import convert
from tools.hf import ConversionError

pytest.importorskip("safetensors")


def refused(directory: Path, *says: str, **options: Any) -> None:
    """Conversion fails, the message says all of `says` in one line, and no file is left behind."""
    out = directory.parent / "m.tbrt"
    with pytest.raises(ConversionError) as caught:
        convert(directory, out, **options)
    for each in says:
        assert each in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not out.exists()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return write_directory(tmp_path / "checkpoint")


@pytest.fixture
def fast(tmp_path: Path) -> Path:
    return write_directory(tmp_path / "checkpoint", fast=True)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("model_type", "t5", "'t5'"),
        ("model_type", None, "None"),
        ("position_embedding_type", "relative_key", "'relative_key'"),
        ("hidden_act", "swish", "'swish'"),
        ("num_attention_heads", 5, "hidden_size 12 is not divisible by num_attention_heads 5"),
        ("num_attention_heads", 0, "0"),
        ("hidden_size", "12", "'12'"),
        ("hidden_size", 20000, "20000"),
        ("num_hidden_layers", 65, "65"),
        ("num_hidden_layers", None, "None"),
        ("intermediate_size", True, "True"),
        ("vocab_size", -1, "-1"),
        ("layer_norm_eps", 0, "0"),
        ("layer_norm_eps", "small", "'small'"),
        ("is_decoder", True, "only encoders"),
        ("add_cross_attention", True, "only encoders"),
        ("max_position_embeddings", 3, "at least 4"),
        ("architectures", "BertForMaskedLM", "must be a list of class names"),
        ("architectures", [5], "must be a list of class names"),
    ],
)
def test_config_field(field: str, value: Any, says: str, directory: Path) -> None:
    edit(directory / "config.json", lambda config: config.update({field: value}))
    refused(directory, "config.json", field, says)


@pytest.mark.parametrize("field", ["model_type", "hidden_size", "vocab_size"])
def test_config_field_missing(field: str, directory: Path) -> None:
    edit(directory / "config.json", lambda config: config.pop(field) and None)
    refused(directory, f"config.json: {field} is missing")


@pytest.mark.parametrize(
    ("kind", "head", "field", "value"),
    [
        ("deberta-v2", "sequence_classification", "pooler_hidden_act", "gelu_new"),
        ("deberta", "multiple_choice", "pooler_hidden_act", None),
        ("electra", "multiple_choice", "summary_type", "mean"),
        ("electra", "multiple_choice", "summary_activation", "tanh"),
        ("electra", "multiple_choice", "summary_use_proj", False),
    ],
)
def test_head_of_a_form_that_is_not_known(kind: str, head: str, field: str, value: Any, directory: Path) -> None:
    edit(directory / "config.json", lambda config: config.update({"model_type": kind, field: value}))
    refused(directory, "config.json", f"{field} is {value!r}", head=head)


def test_a_head_that_is_not_known_is_noted(directory: Path, tmp_path: Path) -> None:
    edit(directory / "config.json", lambda config: config.update(architectures=["BertForFoo"]))
    report = convert(directory, tmp_path / "m.tbrt")
    assert report.config["head"] == 0
    assert "config.json: the head of BertForFoo is not known: left out" in report.notes


@pytest.mark.parametrize(("source", "out"), [("", "m.tbrt"), (".", "")])
def test_an_empty_path(source: str, out: str) -> None:
    with pytest.raises(ConversionError, match="is empty: it must be a path"):
        convert(source, out)


def test_no_directory(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "no such directory")


def test_no_config(directory: Path) -> None:
    (directory / "config.json").unlink()
    refused(directory, "config.json", "no such file")


def test_config_is_no_json(directory: Path) -> None:
    (directory / "config.json").write_text("{")
    refused(directory, "config.json", "JSON")


def test_config_is_no_object(directory: Path) -> None:
    (directory / "config.json").write_text("[]")
    refused(directory, "config.json", "object")


def test_out_in_a_missing_directory(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="nowhere"):
        convert(directory, tmp_path / "nowhere" / "m.tbrt")


def test_unknown_dtype(directory: Path) -> None:
    refused(directory, "dtype", "'int4'", dtype="int4")


# ---------------------------------------------------------------- modules


def test_no_pooling_known(directory: Path) -> None:
    (directory / "modules.json").unlink()
    refused(directory, "modules.json", "--pooling")


def test_no_normalization_known(directory: Path) -> None:
    (directory / "modules.json").unlink()
    refused(directory, "modules.json", "--normalize", pooling="mean")


def test_unknown_pooling_asked_for(directory: Path) -> None:
    refused(directory, "pooling", "'median'", pooling="median")


def test_unsupported_module(directory: Path) -> None:
    dense = {"idx": 3, "name": "3", "path": "3_Dense", "type": "sentence_transformers.models.Dense"}
    edit(directory / "modules.json", lambda modules: [*modules, dense])
    refused(directory, "modules.json", "Dense")


def test_modules_in_another_order(directory: Path) -> None:
    edit(directory / "modules.json", lambda modules: [modules[0], modules[2], modules[1]])
    refused(directory, "modules.json", "Normalize")


def test_modules_without_pooling(directory: Path) -> None:
    edit(directory / "modules.json", lambda modules: modules[:1])
    refused(directory, "modules.json", "Pooling")


def test_modules_are_no_list(directory: Path) -> None:
    (directory / "modules.json").write_text("{}")
    refused(directory, "modules.json", "list")


def test_several_pooling_modes(directory: Path) -> None:
    edit(directory / "1_Pooling" / "config.json", lambda config: config.update(pooling_mode_cls_token=True))
    refused(directory, "config.json", "cls + mean")


def test_no_pooling_mode(directory: Path) -> None:
    edit(directory / "1_Pooling" / "config.json", lambda config: config.update(pooling_mode_mean_tokens=False))
    refused(directory, "1_Pooling", "none")


def test_unsupported_pooling_mode(directory: Path) -> None:
    change = {"pooling_mode_mean_tokens": False, "pooling_mode_mean_sqrt_len_tokens": True}
    edit(directory / "1_Pooling" / "config.json", lambda config: config.update(change))
    refused(directory, "1_Pooling", "mean_sqrt_len_tokens")


@pytest.mark.parametrize("limit", [0, 1, 17, "long"])
def test_max_seq_length(limit: Any, directory: Path) -> None:
    edit(directory / "sentence_bert_config.json", lambda config: config.update(max_seq_length=limit))
    refused(directory, "sentence_bert_config.json", "max_seq_length", str(limit))


def test_model_max_length_too_small(directory: Path) -> None:
    (directory / "sentence_bert_config.json").unlink()
    edit(directory / "tokenizer_config.json", lambda config: config.update(model_max_length=1))
    refused(directory, "tokenizer_config.json: model_max_length is 1; it must be from 3 to the number of positions, 16: say --max-tokens")


@pytest.mark.parametrize("limit", [1, 2, 17])
def test_max_tokens_asked_for(limit: int, directory: Path) -> None:
    refused(directory, "max_tokens", str(limit), max_tokens=limit)


def test_text_lowered_before_a_cased_tokenizer(directory: Path) -> None:
    edit(directory / "sentence_bert_config.json", lambda config: config.update(do_lower_case=True))
    edit(directory / "tokenizer_config.json", lambda config: config.update(do_lower_case=False))
    refused(directory, "sentence_bert_config.json", "do_lower_case")


def test_prompt_before_every_text(directory: Path) -> None:
    prompts = {"prompts": {"query": "query: "}, "default_prompt_name": "query"}
    (directory / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    refused(directory, "config_sentence_transformers.json", "default_prompt_name")


# ---------------------------------------------------------------- vocabulary


def _vocabulary(directory: Path, pieces: list[str]) -> None:
    (directory / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")


def test_no_vocabulary(directory: Path) -> None:
    (directory / "vocab.txt").unlink()
    refused(directory, "tokenizer.json", "vocab.txt")


def test_vocabulary_larger_than_the_table(directory: Path) -> None:
    _vocabulary(directory, [*VOCABULARY, "more"])
    refused(directory, "12 pieces", "vocab_size 11")


def test_vocabulary_smaller_than_the_table(directory: Path) -> None:
    _vocabulary(directory, VOCABULARY[:-1])
    refused(directory, "10 pieces", "vocab_size 11", "--drop-unused-rows")


def test_piece_twice(directory: Path) -> None:
    _vocabulary(directory, [*VOCABULARY[:-1], "a"])
    refused(directory, "vocab.txt", "pieces 5 and 10 are equal: 'a'")


def test_empty_piece(directory: Path) -> None:
    _vocabulary(directory, [*VOCABULARY[:6], "", *VOCABULARY[7:]])
    refused(directory, "vocab.txt", "piece 6 is ''")


def test_vocabulary_not_utf8(directory: Path) -> None:
    (directory / "vocab.txt").write_bytes(b"\xff\xfe")
    refused(directory, "vocab.txt", "UTF-8")


@pytest.mark.parametrize("token", VOCABULARY[:5])
def test_special_token_missing(token: str, directory: Path) -> None:
    _vocabulary(directory, [piece if piece != token else "other" for piece in VOCABULARY])
    refused(directory, "vocab.txt", token)


def test_special_token_under_another_name(directory: Path) -> None:
    edit(directory / "tokenizer_config.json", lambda config: config.update(cls_token="<s>"))
    refused(directory, "vocab.txt", "cls token '<s>'")


def test_two_vocabularies_that_differ(fast: Path) -> None:
    _vocabulary(fast, VOCABULARY[::-1])
    refused(fast, "vocab.txt", "differs")


def test_tokenizer_flag_of_another_type(directory: Path) -> None:
    edit(directory / "tokenizer_config.json", lambda config: config.update(do_lower_case="yes"))
    refused(directory, "tokenizer_config.json", "lowercase", "'yes'")


def _change(path: Path, *keys: str, value: Any) -> None:
    content = tokenizer_json()
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    (path / "tokenizer.json").write_text(json.dumps(content))


TOKENIZER_PARTS: list[tuple[tuple[str, ...], Any, str]] = [
    (("model", "type"), "WordLevel", "model.type"),
    (("model",), None, "model.type"),
    (("model", "continuing_subword_prefix"), "_", "continuing_subword_prefix"),
    (("model", "max_input_chars_per_word"), 100000, "max_input_chars_per_word"),
    (("model", "vocab", "a"), 99, "model.vocab"),
    (("model", "vocab", "a"), 6, "model.vocab"),
    (("normalizer",), None, "normalizer.type"),
    (("normalizer", "type"), "NFC", "normalizer.type"),
    (("normalizer", "clean_text"), 1, "clean_text"),
    (("normalizer", "wings"), True, "wings"),
    (("pre_tokenizer",), None, "pre_tokenizer.type"),
    (("pre_tokenizer", "type"), "Whitespace", "pre_tokenizer.type"),
    (("post_processor",), None, "post_processor"),
    (("post_processor", "type"), "RobertaProcessing", "post_processor"),
    (("post_processor", "single"), [{"Sequence": {"id": "A", "type_id": 0}}], "post_processor"),
]


@pytest.mark.parametrize(("keys", "value", "says"), TOKENIZER_PARTS, ids=lambda each: ".".join(each) if isinstance(each, tuple) else None)
def test_part_of_tokenizer_json(keys: tuple[str, ...], value: Any, says: str, fast: Path) -> None:
    _change(fast, *keys, value=value)
    refused(fast, "tokenizer", says)


@pytest.mark.parametrize(
    ("token", "says"),
    [
        ({"id": 5, "content": "a", "lstrip": True}, "lstrip"),
        ({"id": 5, "content": "a", "rstrip": True}, "rstrip"),
        ({"id": 5, "content": "a", "single_word": True}, "single_word"),
        ({"id": 5, "content": "a", "normalized": True}, "normalized"),
        ({"id": 5, "content": "b"}, "the vocabulary has 'a' there"),
        ({"id": 11, "content": "word"}, "looks like a word"),
        ({"id": 12, "content": "[E2]"}, "the vocabulary has None there"),
        ({"content": "a"}, "needs an id"),
    ],
)
def test_added_token(token: dict[str, Any], says: str, fast: Path) -> None:
    _change(fast, "added_tokens", value=[token])
    refused(fast, "tokenizer.json", says)


# ---------------------------------------------------------------- weights


def _weights(tmp_path: Path, change: Callable[[dict[str, np.ndarray]], None]) -> Path:
    tensors = weights()
    change(tensors)
    return write_directory(tmp_path / "checkpoint", tensors)


NAME = "encoder.layer.0.output.dense.weight"


def test_tensor_missing(tmp_path: Path) -> None:
    refused(_weights(tmp_path, lambda tensors: tensors.__delitem__(NAME)), "model.safetensors", NAME, "missing")


def test_tensor_misshapen(tmp_path: Path) -> None:
    directory = _weights(tmp_path, lambda tensors: tensors.update({NAME: np.ascontiguousarray(tensors[NAME].T)}))
    refused(directory, "model.safetensors", NAME, "(20, 12)", "(12, 20)")


def test_tensor_of_integers(tmp_path: Path) -> None:
    refused(
        _weights(tmp_path, lambda tensors: tensors.update({NAME: tensors[NAME].astype(np.int64)})), NAME, "is int64; it must be a float"
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_tensor_not_finite(value: float, tmp_path: Path) -> None:
    refused(_weights(tmp_path, lambda tensors: tensors[NAME].__setitem__((3, 4), value)), NAME, "NaN or infinity")


def test_tensor_too_large_for_float32(tmp_path: Path) -> None:
    refused(_weights(tmp_path, lambda tensors: tensors.update({NAME: tensors[NAME] * np.float64(1e300)})), NAME, "infinity")


def test_tensor_that_bert_does_not_have(tmp_path: Path) -> None:
    directory = _weights(tmp_path, lambda tensors: tensors.update({"adapter.weight": np.zeros((2, HIDDEN), np.float32)}))
    refused(directory, "model.safetensors", "'adapter.weight'", "'bert'")


def test_layer_that_config_does_not_count(tmp_path: Path) -> None:
    directory = write_directory(tmp_path / "checkpoint", weights(layers=2))
    refused(directory, "model.safetensors", "encoder.layer.1")


def test_tensor_under_two_names(tmp_path: Path) -> None:
    directory = _weights(tmp_path, lambda tensors: tensors.update({f"bert.{NAME}": tensors[NAME]}))
    refused(directory, "model.safetensors", "twice")


def test_no_weights(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    refused(directory, "model.safetensors", "pytorch_model.bin")


def test_weights_in_several_files(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "model-00001-of-00002.safetensors")
    (directory / "model.safetensors.index.json").write_text("{}")
    refused(directory, "model.safetensors.index.json", "several files")


def test_damaged_safetensors(directory: Path) -> None:
    (directory / "model.safetensors").write_bytes(b"nothing of the kind")
    refused(directory, "model.safetensors", "not readable")


def test_damaged_pytorch_weights(directory: Path) -> None:
    pytest.importorskip("torch")
    (directory / "model.safetensors").unlink()
    for data in (b"nothing of the kind", b""):
        (directory / "pytorch_model.bin").write_bytes(data)
        refused(directory, "pytorch_model.bin: not readable as PyTorch weights: it is damaged")


def test_pytorch_weights_that_are_no_tensors(directory: Path) -> None:
    torch = pytest.importorskip("torch")
    (directory / "model.safetensors").unlink()
    torch.save({"epoch": 3}, directory / "pytorch_model.bin")
    refused(directory, "pytorch_model.bin", "tensors")


def test_a_head_that_no_class_names_is_looked_for_where_it_is_asked_for(directory: Path) -> None:
    edit(directory / "config.json", lambda config: config.update(architectures=None))
    refused(directory, "no weights of a head for masked tokens", head="masked_token")
    refused(directory, "'classifier.weight' is missing", head="sequence_classification")


def test_a_path_that_is_no_directory(directory: Path) -> None:
    for name, said in (("config.json", "a file; name the directory of a model"), ("no", "no such directory"), ("no.onnx", "no such file")):
        with pytest.raises(ConversionError, match=said):
            convert(directory / name, directory / "m.tbrt")
