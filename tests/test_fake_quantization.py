"""Quantization-aware training: a model computes what its int8 file does, trains, is saved, and becomes float again."""

from __future__ import annotations

import copy
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import write_checkpoint
from test_architectures import CASES, inputs, write_case
from transformers import AutoConfig, AutoModel, BertConfig, BertForSequenceClassification, BertModel

import tinybert_rt as tb
from distill.fake_quantization import prepare, restore
from tools.convert import convert

NAMES = ["bert", "bert-26", "bert-odd", "roberta-26", "xlm-roberta-odd", "distilbert", "electra-small", "albert-groups"]
SIZES = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}


def padded_states(model: Any, ids: np.ndarray, offsets: np.ndarray, types: np.ndarray) -> np.ndarray:
    """Last hidden states of all tokens of ragged texts, computed as one padded batch."""
    spans = list(pairwise(offsets))
    shape = (len(spans), max(end - start for start, end in spans))
    batch = {"input_ids": np.full(shape, model.config.pad_token_id or 0, np.int64), "attention_mask": np.zeros(shape, np.int64)}
    if hasattr(model.config, "type_vocab_size"):
        batch["token_type_ids"] = np.zeros(shape, np.int64)
    for row, (start, end) in enumerate(spans):
        for name, values in (("input_ids", ids), ("attention_mask", np.ones_like(ids)), ("token_type_ids", types)):
            if name in batch:
                batch[name][row, : end - start] = values[start:end]
    with torch.inference_mode():
        states = model(**{name: torch.from_numpy(values) for name, values in batch.items()}).last_hidden_state
    return states.numpy()[batch["attention_mask"] == 1]


@pytest.mark.parametrize("name", NAMES)
def test_hidden_states_are_the_int8_files(name: str, tmp_path: Path) -> None:
    """To the last bit: a code that was another one somewhere, or one operation that was left in float, changes most of them.

    The float model's states are far from that, and those of a model whose attention alone is float as well.
    """
    model = write_case(tmp_path, CASES[name])
    convert(tmp_path, tmp_path / "model.tbrt", dtype="int8", pooling="mean", normalize=True)
    texts = inputs(model)
    int8 = tb.load(tmp_path / "model.tbrt", threads=1).encode_ids(*texts, hidden_states=True)
    unquantized = padded_states(model, *texts)
    prepare(model)
    assert (padded_states(model, *texts) == int8).all()
    assert np.abs(unquantized - int8).max() > 1e-2
    model.set_attn_implementation("sdpa")
    assert np.abs(padded_states(model, *texts) - int8).max() > 1e-3


def test_texts_longer_than_a_block_of_keys(tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path, max_position_embeddings=300, num_hidden_layers=1)
    convert(tmp_path, tmp_path / "model.tbrt", dtype="int8")
    rng = np.random.default_rng(0)
    ids, offsets = rng.integers(1, 100, 440).astype(np.int32), np.int64([0, 300, 307, 440])
    types = np.zeros(440, np.uint8)
    int8 = tb.load(tmp_path / "model.tbrt", threads=1).encode_ids(ids, offsets, types, hidden_states=True)
    prepare(model)
    assert (padded_states(model, ids, offsets, types) == int8).all()


def classifier(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return BertForSequenceClassification(BertConfig(**SIZES, max_position_embeddings=40))


def batch() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    ids = torch.randint(1, 50, (8, 12))
    mask = (torch.arange(12) < torch.randint(3, 13, (8, 1))).long()
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.arange(8) % 2}


def test_training_reduces_the_loss_and_reaches_all_weights() -> None:
    model, given = classifier().train(), batch()
    prepare(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        loss = model(**given).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        for name, parameter in model.named_parameters():
            assert torch.isfinite(parameter.grad).all(), name
            if "key.bias" not in name:  # it adds the same to all scores of a query
                assert parameter.grad.abs().max() > 0, name
    assert np.mean(losses[-3:]) < 0.5 * losses[0]


def gradients(model: Any) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(**batch()).loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def test_gradients_point_where_those_of_the_float_model_do() -> None:
    """An estimator that loses a factor, a transposition or a path is further away than the noise of 8 bits."""
    model = classifier().eval()
    exact = gradients(model)
    prepare(model)
    for name, gradient in gradients(model).items():
        if "key.bias" not in name:
            assert torch.dist(gradient, exact[name]) < 0.1 * exact[name].norm(), name


def test_a_row_of_zeros_can_learn() -> None:
    model = classifier().eval()
    dense, words = model.bert.encoder.layer[0].intermediate.dense, model.bert.embeddings.word_embeddings
    with torch.no_grad():
        dense.weight[3] = 0
        words.weight[7] = 0
    prepare(model)
    given = batch()
    given["input_ids"][:, 1] = 7
    model(**given).loss.backward()
    assert dense.weight.grad[3].abs().max() > 0
    assert words.weight.grad[7].abs().max() > 0


def test_padding_does_not_matter() -> None:
    model = classifier().eval()
    prepare(model)
    ids = batch()["input_ids"][:1]
    text = model(input_ids=ids[:, :5]).logits
    assert torch.equal(model(input_ids=ids, attention_mask=(torch.arange(12) < 5).long()[None]).logits, text)


def test_what_is_saved_is_an_ordinary_checkpoint(tmp_path: Path) -> None:
    model = classifier()
    model.save_pretrained(tmp_path / "float")
    names = list(model.state_dict())
    prepare(model)
    assert list(model.state_dict()) == names
    model.save_pretrained(tmp_path / "prepared")
    before, after = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("float", "prepared"))
    assert before == after
    assert (tmp_path / "float" / "model.safetensors").read_bytes() == (tmp_path / "prepared" / "model.safetensors").read_bytes()


def test_a_restored_model_is_as_before() -> None:
    model, given = classifier().eval(), batch()
    kinds, attention = [type(module) for module in model.modules()], model.config._attn_implementation
    expected = model(**given).logits
    prepare(model)
    assert not torch.equal(model(**given).logits, expected)
    restore(model)
    assert torch.equal(model(**given).logits, expected)
    assert [type(module) for module in model.modules()] == kinds
    assert model.config._attn_implementation == attention


def test_a_copy_stays_prepared_and_one_that_shares_the_config_float() -> None:
    model, given = classifier().eval(), batch()
    other = BertForSequenceClassification(model.config).eval()
    expected = other(**given).logits
    prepare(model)
    assert torch.equal(other(**given).logits, expected)
    assert torch.equal(copy.deepcopy(model)(**given).logits, model(**given).logits)


def test_autocast_changes_no_bit_of_the_encoder() -> None:
    model = BertModel(BertConfig(**SIZES)).eval()
    prepare(model)
    ids = batch()["input_ids"]
    expected = model(ids).last_hidden_state
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model(ids).last_hidden_state, expected)


def deberta() -> Any:
    return AutoModel.from_config(AutoConfig.for_model("deberta-v2", **SIZES))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (deberta, "no fake quantization for models of type 'deberta-v2', only for bert, roberta"),
        (lambda: torch.nn.Linear(2, 2), "Linear is no model of transformers"),
        (lambda: BertModel(BertConfig(**SIZES)).bfloat16(), "weights of torch.bfloat16; fake quantization is of float32 weights"),
        (lambda: BertModel(BertConfig(**SIZES, hidden_act="silu")), "intermediate_act_fn is a SiLU"),
        (lambda: BertModel(BertConfig(**SIZES, is_decoder=True)), "only encoders are supported"),
    ],
    ids=["relative positions", "no model", "half precision", "activation", "decoder"],
)
def test_what_cannot_be_prepared_is_refused(model: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prepare(model())


def test_preparing_or_restoring_twice_is_refused() -> None:
    model = classifier()
    with pytest.raises(ValueError, match="has no fake quantization"):
        restore(model)
    prepare(model)
    with pytest.raises(ValueError, match="has fake quantization already"):
        prepare(model)


def test_a_mask_with_an_axis_of_heads_is_refused() -> None:
    model = classifier()
    prepare(model)
    with pytest.raises(ValueError, match="give one of 0 and 1"):
        model(input_ids=batch()["input_ids"], attention_mask=torch.zeros(8, 1, 12, 12))
