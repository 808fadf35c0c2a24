"""Byte-level BPE in model files: converted checkpoints against `transformers`, and real text."""

from __future__ import annotations

import gzip
import json
import lzma
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bpe_tokenizer import ROBERTA, roberta, write_bpe
from models import convert
from test_bpe_unicode import differences
from text_tokenizer import SHARED

import tinybert_rt as tb
from tinybert_rt.errors import InvalidArgumentError, TextTooLongError

pytest.importorskip("transformers")
needs_shared = pytest.mark.skipif(not ROBERTA.is_dir(), reason="needs ../shared with RoBERTa's vocabulary and the Wikipedia text")

TEXTS = [
    "",
    " ",
    "Hello world",
    " Hello  world \n",
    "It's a <mask>, isn't it? <mask> yes",
    "d\u00e9j\u00e0 vu \u4e2d\u6587 \U0001f600",
    "<s>x</s> y</s>",
    "1234 + x_1 == (foo)",
]


@pytest.fixture(scope="module", params=["trained", pytest.param("roberta-base", marks=needs_shared)])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A RoBERTa with random weights and a question answering head, with a trained or with its real tokenizer."""
    import torch
    from transformers import RobertaConfig, RobertaForQuestionAnswering

    directory = tmp_path_factory.mktemp(request.param)
    write_bpe(directory, model_max_length=64, tokenizer_class="RobertaTokenizer")
    if request.param == "roberta-base":
        shutil.copy(ROBERTA / "tokenizer.json", directory)
    vocabulary = len(json.loads((directory / "tokenizer.json").read_text())["model"]["vocab"])
    torch.manual_seed(1)
    config = RobertaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=66,
        type_vocab_size=1,
    )
    RobertaForQuestionAnswering(config).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> tb.Model:
    return tb.load(convert(checkpoint, "f32"))


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> Any:
    from transformers import RobertaTokenizerFast

    return RobertaTokenizerFast.from_pretrained(checkpoint)


def test_ids_of_texts_and_pairs_are_those_of_transformers(model: tb.Model, reference: Any) -> None:
    for text in TEXTS:
        assert model.tokenize(text).ids.tolist() == reference(text)["input_ids"]
        for pair in TEXTS[1:]:  # an empty pair is none to transformers
            tokens = model.tokenize(text, pair)
            assert tokens.ids.tolist() == reference(text, pair)["input_ids"]
            assert not tokens.types.any()


def test_vectors_are_those_of_the_ids_of_transformers(model: tb.Model, reference: Any) -> None:
    texts = [text * count for text in TEXTS[1:] for count in (1, 7)]
    pairs = list(zip(texts, texts[::-1], strict=True))
    for given in (texts, pairs):
        wanted = [reference(*((each,) if isinstance(each, str) else each), truncation=True, max_length=64)["input_ids"] for each in given]
        offsets = np.cumsum([0, *map(len, wanted)])
        vectors = model.encode_ids(np.concatenate(wanted).astype(np.int32), offsets)
        assert model.encode(given, truncation="truncate").tobytes() == vectors.tobytes()


def test_spans_are_characters_of_words(model: tb.Model) -> None:
    tokens = model.tokenize("d\u00e9j\u00e0 vu", "\u4e2d x", spans=True)
    assert tokens.spans is not None
    spans = list(dict.fromkeys(map(tuple, tokens.spans.tolist())))
    assert spans == [(-1, -1), (0, 4), (5, 7), (0, 1), (2, 3)]


def test_an_answer_is_looked_for_in_a_pair_as_transformers_makes_it(
    model: tb.Model, reference: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    logits = model.logits

    def noted(ids: Any, offsets: Any, types: Any) -> Any:
        seen.append((ids.tolist(), types))
        return logits(ids, offsets, types)

    monkeypatch.setattr(model, "logits", noted)
    answers = model.answer("What is it?", "It is a small model.", top=3)
    wanted = reference("What is it?", "It is a small model.")["input_ids"]
    assert seen == [(wanted, None)]  # the model has one type
    assert all("It is a small model."[each.start : each.end] == each.text for each in answers)


def test_a_pair_needs_room_for_four_special_tokens(model: tb.Model) -> None:
    with pytest.raises(InvalidArgumentError, match="at least 4"):
        model.tokenize("", "", max_tokens=3)
    with pytest.raises(InvalidArgumentError, match="between 4 and 64"):
        model.encode([("a", "b")], max_tokens=3)
    with pytest.raises(TextTooLongError):
        model.tokenize("", "a", max_tokens=4, truncation="error")
    assert model.tokenize("a", max_tokens=3).ids.size == 3


def test_a_model_says_which_tokenizer_it_has(model: tb.Model) -> None:
    assert model.info()["tokenizer"] == "bpe"
    assert tb.load().info()["tokenizer"] == "wordpiece"


def test_pieces_are_text(model: tb.Model) -> None:
    pieces = model.vocabulary()
    assert pieces[:4] == ["<s>", "<pad>", "</s>", "<unk>"]
    assert {" the", "<mask>", " ", "\n", "\ufffd"} <= set(pieces)


def lines_of(name: str) -> list[str]:
    """Lines of a file under shared/data, those that are empty left out."""
    path = SHARED / "data" / name
    with (lzma.open if path.suffix == ".xz" else gzip.open)(path, "rt", encoding="utf-8") as file:
        return [line for line in map(str.rstrip, file) if line]


@needs_shared
def test_more_than_a_hundred_thousand_lines_of_real_text() -> None:
    names = ("corpus/wiki/valid.txt.xz", "glue/sst2/train.tsv.gz", "nli/mnli_dev.tsv.gz", "intent/banking77/train.tsv.gz")
    lines = [line for name in names for line in lines_of(name)]
    assert len(lines) > 100_000
    assert differences(*roberta(), lines) == []


@needs_shared
def test_wikipedia_in_disorder() -> None:
    """Lines cut at any character, joined by white space of all kinds and special tokens."""
    generator = random.Random(6)
    lines = lines_of("corpus/wiki/valid.txt.xz")[:3000]
    joints = ["<mask>", " <mask>", "  ", "\n\n", " \u3000 ", "'s", "</s>", "\u00e9", "<", "''"]
    texts = []
    for _ in range(3000):
        parts = []
        for line in generator.sample(lines, 3):
            begin = generator.randrange(len(line))
            parts += [line[begin : begin + 80], generator.choice(joints)]
        texts.append("".join(parts))
    assert differences(*roberta(), texts) == []
