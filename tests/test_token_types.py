"""Token types of pairs: those that a tokenizer of `transformers` gives to its model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_architectures import CASES, write_case
from test_encoder import tolerance
from test_reading import fast_tokenizer

import tinybert_rt as tb
from tools.convert import convert
from tools.hf import ConversionError

PAIR = ("the cat sat", "on the mat, a dog")
WITHOUT, WITH = ["input_ids", "attention_mask"], ["input_ids", "token_type_ids", "attention_mask"]
NOTE = "gives no token types"


def write_settings(folder: Path, **settings: Any) -> None:
    """tokenizer.json, and a tokenizer_config.json with these settings."""
    fast_tokenizer(folder)._tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


@pytest.mark.parametrize(
    ("settings", "typed"),
    [
        ({}, True),
        ({"tokenizer_class": "BertTokenizer"}, True),
        ({"tokenizer_class": "BertTokenizer", "model_input_names": WITHOUT}, False),
        ({"tokenizer_class": "TokenizersBackend"}, False),
        ({"tokenizer_class": "PreTrainedTokenizerFast"}, False),
        ({"tokenizer_class": "TokenizersBackend", "model_input_names": WITH}, True),
    ],
)
def test_pairs_have_the_types_that_transformers_gives(settings: dict[str, Any], typed: bool, tmp_path: Path) -> None:
    import torch
    from transformers import AutoTokenizer

    model = write_case(tmp_path, CASES["bert"], "ForSequenceClassification")
    write_settings(tmp_path, **settings)
    given = AutoTokenizer.from_pretrained(tmp_path)(*PAIR, return_tensors="pt")
    assert ("token_type_ids" in given) == typed
    with torch.inference_mode():
        expected = model(**given).logits[0].softmax(0).numpy()
    report = convert(tmp_path, tmp_path / "model.tbrt", dtype="f32")
    assert any(NOTE in note for note in report.notes) != typed
    ours = tb.load(tmp_path / "model.tbrt", threads=1)
    tokens = ours.tokenize(*PAIR)
    assert tokens.ids.tolist() == given["input_ids"][0].tolist()
    assert tokens.types.any() == typed
    found = ours.classify([PAIR])[0]
    assert np.abs(np.array(list(found.scores.values())) - expected).max() <= tolerance(4, 1)


def test_names_of_inputs_that_are_no_list(tmp_path: Path) -> None:
    write_case(tmp_path, CASES["bert-odd"])
    write_settings(tmp_path, model_input_names="input_ids")
    with pytest.raises(ConversionError, match=r"tokenizer_config\.json: model_input_names is 'input_ids'; it must be a list"):
        convert(tmp_path, tmp_path / "model.tbrt")


@pytest.mark.parametrize("name", ["distilbert", "deberta-v3", "bert-odd"])
def test_a_model_with_one_type_takes_the_types_that_its_tokenizer_gives(name: str, tmp_path: Path) -> None:
    write_case(tmp_path, CASES[name])
    convert(tmp_path, tmp_path / "model.tbrt", pooling="mean", normalize=True)
    model = tb.load(tmp_path / "model.tbrt", threads=1)
    tokens = model.tokenize(*PAIR)
    assert not tokens.types.any()
    found = model.encode_ids(tokens.ids, np.array([0, tokens.ids.size]), tokens.types)
    assert found.tobytes() == model.encode([PAIR]).tobytes()


def test_a_token_id_or_type_outside_the_tables_is_named(tmp_path: Path) -> None:
    write_case(tmp_path, CASES["bert-odd"])
    convert(tmp_path, tmp_path / "model.tbrt", pooling="mean", normalize=True)
    model = tb.load(tmp_path / "model.tbrt", threads=1)
    offsets = np.array([0, 2, 4])
    last = len(model.vocabulary()) - 1
    for number in (-1, last + 1):
        with pytest.raises(tb.errors.TokenIdError, match=f"text 1 has the token id {number}: the vocabulary has the ids 0 to {last}$"):
            model.encode_ids(np.array([1, 2, 3, number]), offsets)
    with pytest.raises(tb.errors.TokenIdError, match=r"text 1 has the token type 1: the model has the types 0 to 0$"):
        model.encode_ids(np.array([1, 2, 3, 4]), offsets, np.array([0, 0, 1, 0]))
