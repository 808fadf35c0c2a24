"""Every architecture against `transformers` on small random-weight models, float and int8, on ragged batches: one table drives it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import ragged, rows_apart, vocabulary
from test_encoder import LENGTHS, reference, tolerance

import tinybert_rt as tb
from tinybert_rt.format import layout
from tinybert_rt.format import tensors as file_tensors
from tools.architectures import ARCHITECTURES
from tools.convert import convert

POSITIONS = 96
SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
HEADS_OF_26 = {"hidden_size": 104, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 200}
ODD = {"hidden_size": 36, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 77}
BERT_NAMES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
V1 = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": True}
V3 = {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "position_buckets": 24,
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
}


@dataclass(frozen=True)
class Case:
    """A configuration: `config` has BERT's keys for the four sizes, and the architecture's own ones for the rest."""

    architecture: str
    config: dict[str, Any] = field(default_factory=dict)


CASES = {
    "bert": Case("bert", SMALL),
    "bert-26": Case("bert", HEADS_OF_26),
    "bert-odd": Case("bert", ODD | {"hidden_act": "relu", "type_vocab_size": 1}),
    "roberta": Case("roberta", SMALL | {"type_vocab_size": 1, "layer_norm_eps": 1e-5}),
    "roberta-26": Case("roberta", HEADS_OF_26 | {"type_vocab_size": 1, "pad_token_id": 0}),
    "roberta-odd": Case("roberta", ODD | {"type_vocab_size": 2, "pad_token_id": 5}),
    "xlm-roberta": Case("xlm-roberta", SMALL | {"type_vocab_size": 1, "layer_norm_eps": 1e-5}),
    "xlm-roberta-26": Case("xlm-roberta", HEADS_OF_26 | {"type_vocab_size": 1}),
    "xlm-roberta-odd": Case("xlm-roberta", ODD | {"type_vocab_size": 1, "hidden_act": "gelu_new"}),
    "camembert": Case("camembert", SMALL | {"type_vocab_size": 1}),
    "camembert-26": Case("camembert", HEADS_OF_26 | {"type_vocab_size": 1}),
    "camembert-odd": Case("camembert", ODD | {"type_vocab_size": 2, "pad_token_id": 3}),
    "distilbert": Case("distilbert", SMALL),
    "distilbert-26": Case("distilbert", HEADS_OF_26 | {"activation": "relu"}),
    "distilbert-sinusoidal": Case("distilbert", ODD | {"sinusoidal_pos_embds": True}),
    "albert": Case("albert", SMALL | {"embedding_size": 32, "num_hidden_layers": 4}),
    "albert-groups": Case("albert", HEADS_OF_26 | {"embedding_size": 20, "num_hidden_layers": 5, "num_hidden_groups": 2}),
    "albert-inner": Case("albert", ODD | {"embedding_size": 36, "num_hidden_layers": 3, "num_hidden_groups": 2, "inner_group_num": 2}),
    "electra": Case("electra", SMALL | {"embedding_size": 64}),
    "electra-small": Case("electra", HEADS_OF_26 | {"embedding_size": 48}),
    "deberta": Case("deberta", SMALL | V1),
    "deberta-26": Case("deberta", HEADS_OF_26 | V1 | {"max_relative_positions": 20, "pos_att_type": ["p2c"]}),
    "deberta-odd": Case("deberta", ODD | V1 | {"type_vocab_size": 2, "pos_att_type": "c2p", "position_biased_input": False}),
    "deberta-plain": Case("deberta", SMALL | {"pos_att_type": None}),
    "deberta-v2": Case("deberta-v2", SMALL | V3 | {"share_att_key": False, "conv_kernel_size": 3, "conv_act": "gelu"}),
    "deberta-v2-26": Case("deberta-v2", HEADS_OF_26 | V3 | {"norm_rel_ebd": "none", "pos_att_type": ["c2p"], "position_buckets": -1}),
    "deberta-v3": Case("deberta-v2", HEADS_OF_26 | V3),
    "deberta-v3-odd": Case("deberta-v2", ODD | V3 | {"position_buckets": 8, "type_vocab_size": 2, "conv_kernel_size": 5}),
    "electra-wide": Case("electra", ODD | {"embedding_size": 300, "type_vocab_size": 1}),
}


def write_case(directory: Path, case: Case, head: str = "", **settings_of_head: Any) -> Any:
    """A checkpoint directory of a case, with a WordPiece vocabulary; returns the torch model in eval mode."""
    import torch
    import transformers
    from transformers import AutoConfig

    kind = ARCHITECTURES[case.architecture]
    settings = {kind.key(name) if name in BERT_NAMES else name: value for name, value in case.config.items()}
    extra = settings.get("pad_token_id", 1) + 1 if kind.positions_begin else 0
    sizes = {"vocab_size": len(vocabulary()), "max_position_embeddings": POSITIONS + extra}
    config = AutoConfig.for_model(case.architecture, **sizes, **settings, **settings_of_head)
    torch.manual_seed(0)
    model = getattr(transformers, f"AutoModel{head}").from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.1 if "orm" in name or "bias" in name else 1.2 / case.config["hidden_size"] ** 0.5
            parameter.add_(torch.randn_like(parameter) * scale)
    model.save_pretrained(directory)
    (directory / "vocab.txt").write_text("\n".join(vocabulary()) + "\n", encoding="utf-8")
    (directory / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
    return model


def inputs(model: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids without the padding's, offsets, token types that the model has."""
    ids, offsets, types = ragged(LENGTHS, len(vocabulary()))
    ids[ids == (model.config.pad_token_id or 0)] = 7  # RoBERTa gives positions to other tokens only
    return ids, offsets, np.minimum(types, max(getattr(model.config, "type_vocab_size", 1) - 1, 0)).astype(np.uint8)


def expected_states(model: Any, ids: np.ndarray, offsets: np.ndarray, types: np.ndarray) -> np.ndarray:
    """Last hidden states by torch."""
    if hasattr(model.config, "type_vocab_size"):
        return reference(model, ids, offsets, types)
    return reference(lambda input_ids, token_type_ids: model(input_ids=input_ids), ids, offsets, types)


@pytest.mark.parametrize("dtype", ["int8", "f32"])
@pytest.mark.parametrize("name", ["albert-inner", "electra-wide", "deberta", "deberta-v2", "deberta-v3-odd"])
def test_vectors_of_first_tokens_are_those_of_hidden_states(name: str, dtype: str, tmp_path: Path) -> None:
    model = write_case(tmp_path, CASES[name])
    path = tmp_path / "model.tbrt"
    convert(tmp_path, path, dtype=dtype, pooling="cls", normalize=False)
    ids, offsets, types = inputs(model)
    expected = tb.load(path, threads=1).encode_ids(ids, offsets, types, hidden_states=True)[offsets[:-1]]
    for threads, rows in ((1, 1), (3, 1), (3, 1000)):
        loaded = tb.load(path, threads=threads)
        rows_apart(loaded, rows)
        assert loaded.encode_ids(ids, offsets, types).tobytes() == expected.tobytes(), (threads, rows)


def test_layers_that_run_several_times_weigh_once(tmp_path: Path) -> None:
    """Two layers of 4.5 MB, one after the other, six times."""
    shape = {"hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 8192, "num_hidden_layers": 6, "inner_group_num": 2}
    write_case(tmp_path, Case("albert", SMALL | shape))
    convert(tmp_path, tmp_path / "model.tbrt", dtype="int8", pooling="mean", normalize=True)
    assert [rows_apart(tb.load(tmp_path / "model.tbrt", threads=threads)) for threads in (2, 3, 4)] == [4, 4, 16]


HEADS = {"ForSequenceClassification": 3, "ForTokenClassification": 5, "ForQuestionAnswering": 2, "ForMultipleChoice": 1, "ForMaskedLM": 0}


MASK = vocabulary().index("[MASK]")


class WithAnAxisOfLabels:
    """A model whose logits have no axis of labels, with one."""

    def __init__(self, model: Any) -> None:
        self.config = model.config
        self._model = model

    def __call__(self, **given: Any) -> Any:
        out = self._model(**given)
        out.logits = out.logits[..., None]
        return out


def expected_logits(model: Any, ids: np.ndarray, offsets: np.ndarray, types: np.ndarray) -> np.ndarray:
    """The head's outputs by torch, one text at a time: (n, labels), (total tokens, labels) or (mask tokens, vocabulary)."""
    import torch

    rows = []
    with torch.inference_mode():
        for start, end in pairwise(offsets):
            given = {"input_ids": torch.from_numpy(ids[start:end].astype(np.int64))[None]}
            if hasattr(model.config, "type_vocab_size"):
                given["token_type_ids"] = torch.from_numpy(types[start:end].astype(np.int64))[None]
            if type(model).__name__.endswith("MultipleChoice"):
                given = {name: values[None] for name, values in given.items()}
            out = model(**given)
            logits = torch.stack([out.start_logits, out.end_logits], -1) if "start_logits" in out else out.logits
            row = logits.reshape(-1, logits.shape[-1]).numpy()
            rows.append(row[ids[start:end] == MASK] if type(model).__name__.endswith("ForMaskedLM") else row)
    return np.concatenate(rows)


def heads_of_cases() -> list[tuple[str, str]]:
    """Every case with every head that transformers has for it."""
    import transformers

    mappings = {head: getattr(transformers, f"AutoModel{head}")._model_mapping for head in HEADS}
    kinds = {name: type(transformers.AutoConfig.for_model(case.architecture)) for name, case in CASES.items()}
    return [(name, head) for head, mapping in mappings.items() for name, kind in kinds.items() if kind in mapping]


@pytest.mark.parametrize(("name", "head"), heads_of_cases())
def test_heads_match_transformers(name: str, head: str, tmp_path: Path) -> None:
    labels = {"id2label": {i: f"label {i}" for i in range(HEADS[head])}} if HEADS[head] else {}
    model = write_case(tmp_path, CASES[name], head, **labels)
    ids, offsets, types = inputs(model)
    ids[::9] = MASK
    expected = expected_logits(model, ids, offsets, types)
    logits = {}
    for dtype in ("f32", "int8"):
        convert(tmp_path, tmp_path / f"{dtype}.tbrt", dtype=dtype)
        logits[dtype] = tb.load(tmp_path / f"{dtype}.tbrt", threads=1).logits(ids, offsets, types)
    layers = model.config.num_hidden_layers * getattr(model.config, "inner_group_num", 1)
    assert logits["f32"].shape == expected.shape
    assert np.abs(logits["f32"] - expected).max() <= 2 * tolerance(layers + 2, np.abs(expected).max())
    # Of all rows together: two or three logits near zero have no direction of their own.
    found, wanted = logits["int8"].ravel(), logits["f32"].ravel()
    assert found @ wanted / np.linalg.norm(found) / np.linalg.norm(wanted) >= 0.995


@pytest.mark.parametrize(("name", "head"), [(name, head) for name, head in heads_of_cases() if name in ("deberta", "deberta-v3-odd")])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_the_activation_of_debertas_pooler_is_that_of_its_config(activation: str, name: str, head: str, tmp_path: Path) -> None:
    if head not in ("ForSequenceClassification", "ForMultipleChoice"):
        return
    model = write_case(tmp_path, CASES[name], head, pooler_hidden_act=activation)
    ids, offsets, types = inputs(model)
    expected = expected_logits(model, ids, offsets, types)
    convert(tmp_path, tmp_path / "model.tbrt", dtype="f32")
    found = tb.load(tmp_path / "model.tbrt", threads=1).logits(ids, offsets, types)
    assert np.abs(found - expected).max() <= 2 * tolerance(4, np.abs(expected).max())


PRETRAINED = [("bert", "ForNextSentencePrediction"), ("electra", "ForPreTraining"), ("electra-small", "ForPreTraining")]


@pytest.mark.parametrize(("name", "head"), PRETRAINED)
def test_heads_of_pretraining_match_transformers(name: str, head: str, tmp_path: Path) -> None:
    model = write_case(tmp_path, CASES[name], head)
    ids, offsets, types = inputs(model)
    expected = expected_logits(WithAnAxisOfLabels(model) if head == "ForPreTraining" else model, ids, offsets, types)
    convert(tmp_path, tmp_path / "model.tbrt", dtype="f32")
    ours = tb.load(tmp_path / "model.tbrt", threads=1)
    assert ours.labels == (["replaced"] if head == "ForPreTraining" else ["next", "random"])
    assert np.abs(ours.logits(ids, offsets, types) - expected).max() <= 2 * tolerance(6, np.abs(expected).max())


def test_choices_are_compared(tmp_path: Path) -> None:
    write_case(tmp_path, CASES["roberta"], "ForMultipleChoice")
    convert(tmp_path, tmp_path / "model.tbrt", dtype="f32")
    model = tb.load(tmp_path / "model.tbrt", threads=1)
    found = model.choose("the cat sat on", ["the mat", "a dog", "of and to"])
    numbers = np.array([each.score for each in model.classify([("the cat sat on", text) for text in ("the mat", "a dog", "of and to")])])
    assert np.allclose(found.scores, np.exp(numbers) / np.exp(numbers).sum(), rtol=1e-5)
    assert found.index == numbers.argmax()
    with pytest.raises(tb.errors.InvalidArgumentError, match="empty"):
        model.choose("a", [])
    with pytest.warns(tb.TruncationWarning, match="the prompt was truncated for 2 of 2 choices"):
        model.choose("cat " * 200, ["the mat", "a dog"])
    with pytest.raises(tb.errors.TextTooLongError, match="choice 1 has 202 tokens and leaves no room for the prompt, the limit is 96"):
        model.choose("cat", ["the mat", "dog " * 200])


@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification", "regression", None])
def test_texts_are_classified_as_by_the_transformers_pipeline(problem: str | None, tmp_path: Path) -> None:
    from transformers import BertTokenizer, pipeline

    names = {0: "price"} if problem == "regression" else {0: "sports", 1: "politics", 2: "ελληνικά"}
    model = write_case(tmp_path, CASES["bert"], "ForSequenceClassification", id2label=names, problem_type=problem)
    convert(tmp_path, tmp_path / "model.tbrt", dtype="f32")
    ours = tb.load(tmp_path / "model.tbrt", threads=1)
    assert ours.labels == list(names.values())
    texts = ["the cat sat on the mat", "a dog", "fast text vector model " * 5]
    theirs = pipeline("text-classification", model=model, tokenizer=BertTokenizer(str(tmp_path / "vocab.txt")), top_k=None)
    for text, found, answer in zip(texts, ours.classify(texts), theirs(texts), strict=True):
        scores = {each["label"]: each["score"] for each in answer}
        assert found.scores.keys() == scores.keys(), text
        assert max(abs(found.scores[label] - scores[label]) for label in scores) < 2e-5
        assert found.score == max(found.scores.values()) == found.scores[found.label]
    pairs = ours.classify([("the cat", "a dog")])
    assert pairs[0].scores != ours.classify(["the cat"])[0].scores
    assert ours.encode(texts).shape == (3, 64)


def test_heads_have_the_same_bytes_with_any_threads_and_neighbours(tmp_path: Path) -> None:
    model = write_case(tmp_path, CASES["electra-small"], "ForTokenClassification", id2label={i: f"L{i}" for i in range(70)})
    convert(tmp_path, tmp_path / "model.tbrt")
    ids, offsets, types = inputs(model)
    expected = tb.load(tmp_path / "model.tbrt", threads=1).logits(ids, offsets, types)
    for threads in (2, 3):
        assert tb.load(tmp_path / "model.tbrt", threads=threads).logits(ids, offsets, types).tobytes() == expected.tobytes()
    a, b = offsets[7], offsets[8]
    alone = tb.load(tmp_path / "model.tbrt", threads=2).logits(ids[a:b], np.array([0, b - a]), types[a:b])
    assert alone.tobytes() == expected[a:b].tobytes()


def test_labels_of_texts_have_the_same_bytes_with_any_threads_and_neighbours(tmp_path: Path) -> None:
    model = write_case(tmp_path, CASES["bert"], "ForSequenceClassification")
    convert(tmp_path, tmp_path / "model.tbrt")
    ids, offsets, types = inputs(model)
    expected = tb.load(tmp_path / "model.tbrt", threads=1).logits(ids, offsets, types)
    for threads in (2, 3):
        ours = tb.load(tmp_path / "model.tbrt", threads=threads)
        assert ours.logits(ids, offsets, types).tobytes() == expected.tobytes()
        for text, (a, b) in enumerate(pairwise(offsets)):
            assert ours.logits(ids[a:b], np.array([0, b - a]), types[a:b]).tobytes() == expected[text].tobytes(), text


def test_damaged_head_weights_are_an_error(tmp_path: Path) -> None:
    write_case(tmp_path, CASES["bert"], "ForSequenceClassification")
    convert(tmp_path, tmp_path / "model.tbrt")
    data = bytearray((tmp_path / "model.tbrt").read_bytes())
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    begin, end = header["head.output.weight"]["data_offsets"]
    start = 8 + int.from_bytes(data[:8], "little") + begin
    data[start : start + end - begin] = np.full((end - begin) // 4, np.nan, np.float32).tobytes()
    with pytest.raises(tb.errors.NonFiniteResultError):
        tb.load(bytes(data)).classify(["the cat"])


def test_a_model_without_the_head_says_so(tmp_path: Path) -> None:
    write_case(tmp_path, CASES["bert"], "ForQuestionAnswering")
    convert(tmp_path, tmp_path / "model.tbrt")
    model = tb.load(tmp_path / "model.tbrt")
    with pytest.raises(tb.errors.MissingHeadError, match="has a head for question answering, a head for sequence classification is needed"):
        model.classify(["a text"])
    with pytest.raises(tb.errors.MissingHeadError, match="has no head"):
        tb.load().logits(np.array([101, 102], np.int32), np.array([0, 2]))


def test_the_table_has_three_configurations_of_every_architecture() -> None:
    assert set(ARCHITECTURES) == set(layout.ARCHITECTURES)
    for name in ARCHITECTURES:
        assert sum(case.architecture == name for case in CASES.values()) >= 3, name


@pytest.mark.parametrize("name", CASES)
def test_hidden_states_and_vectors_match_transformers(name: str, tmp_path: Path) -> None:
    model = write_case(tmp_path, CASES[name])
    ids, offsets, types = inputs(model)
    expected = expected_states(model, ids, offsets, types)
    states, vectors = {}, {}
    for dtype in ("f32", "int8"):
        convert(tmp_path, tmp_path / f"{dtype}.tbrt", dtype=dtype, pooling="mean", normalize=False)
        ours = tb.load(tmp_path / f"{dtype}.tbrt", threads=1)
        states[dtype] = ours.encode_ids(ids, offsets, types, hidden_states=True)
        vectors[dtype] = ours.encode_ids(ids, offsets, types)
    layers = model.config.num_hidden_layers * getattr(model.config, "inner_group_num", 1)
    means = np.stack([expected[start:end].mean(axis=0) for start, end in pairwise(offsets)])
    for found, wanted in ((states, expected), (vectors, means)):
        assert np.abs(found["f32"] - wanted).max() <= tolerance(layers, np.abs(expected).max())
        norms = np.linalg.norm(found["int8"], axis=1) * np.linalg.norm(found["f32"], axis=1)
        assert ((found["int8"] * found["f32"]).sum(1) / norms).mean() >= 0.995


@pytest.mark.parametrize("name", ["albert-groups", "electra-small"])
@pytest.mark.parametrize("dtype", ["f32", "int8"])
def test_projected_embeddings_have_the_same_bytes_with_any_threads_and_neighbours(name: str, dtype: str, tmp_path: Path) -> None:
    model = write_case(tmp_path, CASES[name])
    convert(tmp_path, tmp_path / "model.tbrt", dtype=dtype, pooling="mean", normalize=True)
    ids, offsets, types = inputs(model)
    expected = tb.load(tmp_path / "model.tbrt", threads=1).encode_ids(ids, offsets, types)
    for threads in (2, 3):
        assert tb.load(tmp_path / "model.tbrt", threads=threads).encode_ids(ids, offsets, types).tobytes() == expected.tobytes()
    alone = [
        tb.load(tmp_path / "model.tbrt", threads=2).encode_ids(ids[a:b], np.array([0, b - a]), types[a:b]) for a, b in pairwise(offsets[:5])
    ]
    assert np.concatenate(alone).tobytes() == expected[:4].tobytes()


def test_shared_layers_are_stored_once(tmp_path: Path) -> None:
    write_case(tmp_path, CASES["albert"])
    report = convert(tmp_path, tmp_path / "model.tbrt", pooling="mean", normalize=True)
    assert report.config["num_layers"] == 4
    assert report.config["stored_layers"] == 1
    assert sum(name.startswith("layers.") and name.endswith("ffn.in.weight") for name in file_tensors.tensor_specs(report.config)) == 1
    info = tb.load(tmp_path / "model.tbrt").info()
    assert (info["architecture"], info["layers"]) == ("albert", 4)


def test_real_text_goes_through_every_architecture(tmp_path: Path) -> None:
    for name in ("roberta", "distilbert", "albert", "electra"):
        folder = tmp_path / name
        folder.mkdir()
        write_case(folder, CASES[name])
        convert(folder, folder / "model.tbrt", pooling="mean", normalize=True)
        vectors = tb.load(folder / "model.tbrt").encode(["the cat sat on the mat", "a dog", ""])
        assert vectors.shape == (3, 64)
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
