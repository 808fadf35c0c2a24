"""Masked-token prediction: against the `transformers` pipeline, with any threads and neighbours; heads of pretraining."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import vocabulary
from test_architectures import CASES, MASK, expected_logits, inputs, write_case

import tinybert_rt as tb
from tinybert_rt.cli import main
from tools.convert import convert
from tools.hf import ConversionError


def load(folder: Path, case: str = "bert", head: str = "ForMaskedLM", dtype: str = "f32", **settings: Any) -> tuple[tb.Model, Any]:
    theirs = write_case(folder, CASES[case], head)
    convert(folder, folder / "model.tbrt", dtype=dtype, **settings)
    return tb.load(folder / "model.tbrt", threads=1), theirs


@pytest.mark.parametrize("case", ["bert", "distilbert", "electra-small"])
def test_pieces_are_those_of_the_transformers_pipeline(case: str, tmp_path: Path) -> None:
    from transformers import BertTokenizer, pipeline

    ours, theirs = load(tmp_path, case)
    filler = pipeline("fill-mask", model=theirs, tokenizer=BertTokenizer(str(tmp_path / "vocab.txt")), top_k=4)
    for text in ("the [MASK] sat on the mat", "[MASK] dog, [MASK] cat [MASK][MASK] .", "é 中 [MASK]"):
        expected = filler(text)
        expected = expected if isinstance(expected[0], list) else [expected]
        found = ours.fill_mask(text, top=4)
        assert [[each.id for each in row] for row in found] == [[each["token"] for each in row] for row in expected]
        assert [[each.token for each in row] for row in found] == [[vocabulary()[each["token"]] for each in row] for row in expected]
        scores = np.array([[each["score"] for each in row] for row in expected])
        assert np.allclose([[each.score for each in row] for row in found], scores, rtol=1e-4)


@pytest.mark.parametrize("case", ["deberta", "deberta-v3"])
def test_debertas_head_under_the_names_of_its_authors(case: str, tmp_path: Path) -> None:
    theirs = write_case(tmp_path, CASES[case], "ForMaskedLM", legacy=False)
    convert(tmp_path, tmp_path / "model.tbrt", dtype="f32")
    ids, offsets, types = inputs(theirs)
    ids[::5] = MASK
    expected = expected_logits(theirs, ids, offsets, types)
    assert np.allclose(tb.load(tmp_path / "model.tbrt", threads=1).logits(ids, offsets, types), expected, rtol=1e-4, atol=1e-4)


def test_the_filled_text_has_the_piece_in_the_place_of_its_mask(tmp_path: Path) -> None:
    model, _ = load(tmp_path)
    first, second = model.fill_mask("É [MASK], a [MASK] mat", top=len(vocabulary()))
    assert len(first) == len(second) == len(vocabulary())
    assert sum(each.score for each in first) == pytest.approx(1, abs=1e-4)
    by_token = {each.token: each.text for each in first}
    assert by_token["dog"] == "É dog, a [MASK] mat"
    assert by_token["##ing"] == "Éing, a [MASK] mat"
    assert {each.token: each.text for each in second}["cat"] == "É [MASK], a cat mat"


def test_what_cannot_be_filled_is_an_error(tmp_path: Path) -> None:
    model, _ = load(tmp_path)
    with pytest.raises(tb.errors.InvalidArgumentError, match=r"no \[MASK\]"):
        model.fill_mask("the cat")
    with pytest.raises(tb.errors.TextTooLongError, match=r"the text has 203 tokens, the limit is 96: shorten it$"):
        model.fill_mask("a " * 200 + "[MASK]")
    for top in (0, len(vocabulary()) + 1):
        with pytest.raises(tb.errors.InvalidArgumentError, match="top must be between 1 and"):
            model.fill_mask("[MASK]", top=top)
    with pytest.raises(tb.errors.MissingHeadError, match="a head for masked tokens is needed"):
        tb.load().fill_mask("a [MASK]")
    with pytest.raises(tb.errors.MissingHeadError, match="has a head for masked tokens"):
        model.classify(["a"])


@pytest.mark.parametrize("dtype", ["f32", "int8"])
def test_predictions_have_the_same_bytes_with_any_threads_and_neighbours(dtype: str, tmp_path: Path) -> None:
    model, theirs = load(tmp_path, "electra-small", dtype=dtype)
    ids, offsets, types = inputs(theirs)
    ids[::5] = MASK
    expected = model.logits(ids, offsets, types)
    assert len(expected) == (ids == MASK).sum()
    for threads in (2, 3):
        assert tb.load(tmp_path / "model.tbrt", threads=threads).logits(ids, offsets, types).tobytes() == expected.tobytes()
    first = 0
    for begin, end in pairwise(offsets[:9]):
        alone = model.logits(ids[begin:end], np.array([0, end - begin]), types[begin:end])
        assert alone.tobytes() == expected[first : first + len(alone)].tobytes()
        first += len(alone)


def test_many_texts_go_through_in_groups(tmp_path: Path) -> None:
    model, _ = load(tmp_path, dtype="int8")
    texts = ["the [MASK] sat", "a dog", "[MASK] [MASK]"] * 900
    ids, offsets = model.tokenize_batch(texts)
    logits = model.logits(ids, offsets)
    assert logits.shape == (2700, len(vocabulary()))
    assert (logits.reshape(900, 3, -1) == logits[:3]).all()


def test_a_decoder_of_its_own_is_stored(tmp_path: Path) -> None:
    import torch
    from transformers import BertConfig, BertForMaskedLM

    write_case(tmp_path, CASES["bert"], "ForMaskedLM")
    config = BertConfig(**{**json.loads((tmp_path / "config.json").read_text()), "tie_word_embeddings": False})
    theirs = BertForMaskedLM(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    theirs.save_pretrained(tmp_path)
    ids, offsets, types = inputs(theirs)
    ids[::5] = MASK
    expected = expected_logits(theirs, ids, offsets, types)
    for dtype, near in (("f32", 1e-5), ("int8", 0.2)):
        report = convert(tmp_path, tmp_path / "model.tbrt", dtype=dtype)
        assert report.config["own_decoder"] == 1
        assert np.abs(tb.load(tmp_path / "model.tbrt").logits(ids, offsets, types) - expected).max() < near * np.abs(expected).max()


@pytest.mark.parametrize(("case", "other"), [("bert", "next_sentence"), ("albert", "sentence_order"), ("albert-groups", "sentence_order")])
def test_checkpoints_of_pretraining_have_two_heads(case: str, other: str, tmp_path: Path) -> None:
    model, theirs = load(tmp_path, case, "ForPreTraining")
    assert model.info()["head"] == "masked_token"
    assert any(f"--head names another one: {other}" in note for note in convert(tmp_path, tmp_path / "again.tbrt").notes)
    convert(tmp_path, tmp_path / "pairs.tbrt", dtype="f32", head=other)
    pairs = tb.load(tmp_path / "pairs.tbrt", threads=1)
    assert pairs.labels == (["next", "random"] if other == "next_sentence" else ["in_order", "swapped"])

    class OneHead:
        config = theirs.config

        def __call__(self, **given: Any) -> Any:
            out = theirs(**given)
            out.logits = out.seq_relationship_logits if other == "next_sentence" else out.sop_logits
            return out

    ids, offsets, types = inputs(theirs)
    assert np.abs(pairs.logits(ids, offsets, types) - expected_logits(OneHead(), ids, offsets, types)).max() < 1e-4
    found = pairs.classify([("the cat sat", "on the mat")])[0]
    assert sum(found.scores.values()) == pytest.approx(1, abs=1e-5)
    convert(tmp_path, tmp_path / "none.tbrt", head="none", pooling="mean", normalize=True)
    assert tb.load(tmp_path / "none.tbrt").info()["head"] == "none"
    with pytest.raises(ConversionError, match="no head for question_answering"):
        convert(tmp_path, tmp_path / "none.tbrt", head="question_answering")


def test_a_sentence_model_that_kept_the_class_name_has_no_head(tmp_path: Path) -> None:
    from models import write_checkpoint

    write_checkpoint(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["BertForMaskedLM"]}))
    report = convert(tmp_path, tmp_path / "model.tbrt")
    assert report.config["head"] == 0
    assert any("no weights of the head for masked_token" in note for note in report.notes)


def test_the_command_fills_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, _ = load(tmp_path)
    assert main(["fill-mask", "the [MASK] sat", "--model", str(tmp_path / "model.tbrt"), "--top", "2", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["mask"], line["token"], line["text"]) for line in lines] == [
        (1, each.token, each.text) for each in model.fill_mask("the [MASK] sat", top=2)[0]
    ]
    assert main(["fill-mask", "the cat", "--model", str(tmp_path / "model.tbrt")]) == 2
    assert "[MASK]" in capsys.readouterr().err


def test_a_discriminator_has_no_entities(tmp_path: Path) -> None:
    model, _ = load(tmp_path, "electra-small", "ForPreTraining")
    with pytest.raises(tb.errors.MissingHeadError, match=r"discriminator \(ELECTRA\), which has no entities: use detect_replaced"):
        model.tag(["the cat"])
