"""Checkpoints with a Unigram tokenizer: converted and opened, against `transformers` and `tokenizers`; and what is refused."""

from __future__ import annotations

import importlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hf_directory import edit
from models import convert
from unigram_tokenizer import FAMILIES, MARK, nfkc, reference_ids, references, trained_pieces

import tinybert_rt as tb
from tools.hf import ConversionError
from tools.hf_tokenizer import read_tokenizer
from tools.spm import read_spm

pytest.importorskip("tokenizers")

TEXTS = [
    "",
    " ",
    "Hello world",
    "  The ``options'' \n ",
    "d\u00e9j\u00e0 vu \u4e2d\u6587 \U0001f600 \u2026 \ud55c\uad6d",
    "It's a [MASK], isn't it? <mask> yes",
    "[CLS] x [SEP] <s>",
]


def write_tokenizer(directory: Path, family: str, **settings: Any) -> Path:
    """tokenizer.json and tokenizer_config.json of a family with the trained pieces."""
    directory.mkdir(exist_ok=True)
    references()[family].save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return directory


def write_checkpoint(directory: Path, family: str) -> Path:
    """The encoder has random weights."""
    import torch
    from transformers import AlbertConfig, AlbertModel, RobertaConfig, RobertaModel

    write_tokenizer(directory, family, model_max_length=40)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48, "max_position_embeddings": 64}
    sizes["vocab_size"] = references()[family].get_vocab_size()
    torch.manual_seed(1)
    if family.startswith("xlm"):
        RobertaModel(RobertaConfig(**sizes, type_vocab_size=1)).save_pretrained(directory)
    else:
        AlbertModel(AlbertConfig(**sizes, embedding_size=16)).save_pretrained(directory)
    (directory / "modules.json").write_text(
        json.dumps(
            [
                {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
                {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
            ]
        )
    )
    (directory / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
    (directory / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return directory


@pytest.mark.parametrize("family", ["albert", "albert with a charsmap", "xlm-roberta", "deberta punctuation"])
def test_ids_of_a_converted_checkpoint_are_those_of_tokenizers(family: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    model = tb.load(convert(write_checkpoint(tmp_path / "hf", family), "f32"))
    expected = references()[family]
    for text in TEXTS:
        tokens = model.tokenize(text)
        assert tokens.ids.tolist() == expected.encode(text).ids
        for pair in TEXTS:
            tokens = model.tokenize(text, pair)
            wanted = expected.encode(text, pair)
            assert (tokens.ids.tolist(), tokens.types.tolist()) == (wanted.ids, wanted.type_ids)
    assert model.info()["tokenizer"] == "unigram"
    vectors = model.encode(TEXTS[2:])
    assert vectors.shape == (len(TEXTS) - 2, 32)
    tokens = model.tokenize("  the \u00e9t\u00e9", spans=True)
    assert tokens.spans is not None
    assert {tuple(span) for span in tokens.spans.tolist()} == {(-1, -1), (2, 5), (6, 9)}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_read(family: str, tmp_path: Path) -> None:
    tokenizer = read_tokenizer(write_tokenizer(tmp_path / "hf", family))
    assert tokenizer.kind == "unigram"
    assert tokenizer.notes == []
    names = {"unk", "cls", "sep", "pad", "mask"}
    assert set(tokenizer.special) == names
    vocabulary = references()[family].get_vocab()
    assert [vocabulary[piece.decode()] for piece in tokenizer.pieces] == list(range(len(vocabulary)))


REFUSED: dict[str, tuple[str, Callable[[Any], Any]]] = {}


def refused(says: str) -> Callable[[Callable[[Any], Any]], None]:
    """Register a change of ALBERT's tokenizer.json, and a part of the message."""

    def register(change: Callable[[Any], Any]) -> None:
        REFUSED[change.__name__] = (says, change)

    return register


def steps(parts: Any) -> list[Any]:
    found: list[Any] = parts["normalizer"]["normalizers"]
    return found


@refused("'NFC'.*not supported")
def nfc(parts: Any) -> None:
    steps(parts).append({"type": "NFC"})


@refused("'NFKC'.*not supported")
def nothing_but_nfkc(parts: Any) -> None:
    parts["normalizer"] = {"type": "NFKC"}


@refused("NFKD and StripAccents")
def marks_are_kept(parts: Any) -> None:
    del steps(parts)[3]


@refused("NFKD and StripAccents")
def marks_are_kept_at_the_end(parts: Any) -> None:
    del steps(parts)[3:]


@refused("regular expression")
def another_regular_expression(parts: Any) -> None:
    steps(parts).append({"type": "Replace", "pattern": {"Regex": "a+"}, "content": " "})


@refused("behind the steps")
def a_replace_behind_lower_case(parts: Any) -> None:
    steps(parts).append({"type": "Replace", "pattern": {"String": "a"}, "content": "b"})


@refused("character of another Replace")
def a_replace_of_what_was_replaced(parts: Any) -> None:
    steps(parts).insert(2, {"type": "Replace", "pattern": {"String": '"'}, "content": "b"})


@refused("no base64")
def a_charsmap_that_is_no_base64(parts: Any) -> None:
    steps(parts).append({"type": "Precompiled", "precompiled_charsmap": "%"})


@refused("cut off or damaged")
def a_charsmap_of_nothing(parts: Any) -> None:
    steps(parts).append({"type": "Precompiled", "precompiled_charsmap": "AAAAAAAAAAA="})


@refused("must end in Metaspace")
def no_pre_tokenizer(parts: Any) -> None:
    parts["pre_tokenizer"] = None


@refused("must end in Metaspace")
def words_are_not_split(parts: Any) -> None:
    parts["pre_tokenizer"]["pretokenizers"][1]["split"] = False


@refused("before Metaspace")
def digits(parts: Any) -> None:
    parts["pre_tokenizer"]["pretokenizers"].insert(0, {"type": "Digits", "individual_digits": True})


@refused("prepend_scheme")
def an_unknown_scheme(parts: Any) -> None:
    parts["pre_tokenizer"]["pretokenizers"][1]["prepend_scheme"] = "last"


@refused("byte_fallback")
def byte_fallback(parts: Any) -> None:
    parts["model"]["byte_fallback"] = True


@refused("unk_id")
def no_unknown_piece(parts: Any) -> None:
    parts["model"]["unk_id"] = None


@refused("unk token")
def another_unknown_piece(parts: Any) -> None:
    parts["model"]["unk_id"] = 0


@refused("finite")
def an_infinite_score(parts: Any) -> None:
    parts["model"]["vocab"][7][1] = float("-inf")


@refused("are equal")
def a_piece_twice(parts: Any) -> None:
    parts["model"]["vocab"][8][0] = parts["model"]["vocab"][7][0]


@refused("no list of pieces")
def pieces_without_scores(parts: Any) -> None:
    parts["model"]["vocab"] = [piece for piece, _ in parts["model"]["vocab"]]


@refused("'normalized'")
def a_normalized_token(parts: Any) -> None:
    parts["added_tokens"][4]["normalized"] = True


@refused("post_processor")
def another_template(parts: Any) -> None:
    parts["post_processor"]["single"].pop()


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_understood_is_refused(name: str, tmp_path: Path) -> None:
    says, change = REFUSED[name]
    write_tokenizer(tmp_path / "hf", "albert")
    edit(tmp_path / "hf" / "tokenizer.json", change)
    with pytest.raises(ConversionError, match=says) as caught:
        read_tokenizer(tmp_path / "hf")
    assert "tokenizer.json" in str(caught.value)


def test_a_normalized_unknown_token_is_noted(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "hf", "albert")

    def change(parts: Any) -> None:
        parts["added_tokens"][1]["normalized"] = True

    edit(tmp_path / "hf" / "tokenizer.json", change)
    assert "before the text is normalised" in read_tokenizer(tmp_path / "hf").notes[0]


def test_the_old_form_of_metaspace(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "hf", "albert")
    wanted = read_tokenizer(tmp_path / "hf")

    def change(parts: Any) -> None:
        parts["pre_tokenizer"]["pretokenizers"][1] = {"type": "Metaspace", "replacement": MARK, "add_prefix_space": True}

    edit(tmp_path / "hf" / "tokenizer.json", change)
    assert read_tokenizer(tmp_path / "hf") == wanted


# ---------------------------------------------------------------- SentencePiece model files


def field(number: int, value: int | float | bytes) -> bytes:
    """A field of a protocol buffer; numbers below 2²¹."""
    if isinstance(value, bytes):
        size = len(value)
        return bytes([number << 3 & 127 | 2 | (128 if number > 15 else 0), *([number >> 4] if number > 15 else []), *varint(size)]) + value
    if isinstance(value, float):
        return bytes([number << 3 | 5]) + struct.pack("<f", value)
    return bytes([*varint(number << 3), *varint(value)])


def varint(value: int) -> bytes:
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def write_spm(path: Path, special: list[tuple[str, int]]) -> Path:
    """A model file of the trained pieces, behind special pieces of the given types."""
    path.parent.mkdir(exist_ok=True)
    pieces = [(name, 0.0, kind) for name, kind in special] + [(piece, score, 1) for piece, score in trained_pieces()]
    data = b"".join(field(1, field(1, name.encode()) + field(2, score) + field(3, kind)) for name, score, kind in pieces)
    unk = [kind for _, kind in special].index(2)
    data += field(2, field(3, 1) + field(40, unk)) + field(3, field(1, b"nmt_nfkc") + field(2, nfkc()) + field(3, 1))
    path.write_bytes(data)
    return path


def converted(converter: str, path: Path, **settings: Any) -> Any:
    """The `tokenizers` tokenizer that `transformers` makes of a SentencePiece model."""
    converters = importlib.import_module("transformers.convert_slow_tokenizer")
    slow = SimpleNamespace(vocab_file=str(path), add_prefix_space=True, legacy=True, **settings)
    slow.convert_tokens_to_ids = lambda token: {"[CLS]": 1, "[SEP]": 2, "<s>": 0, "</s>": 2}[token]
    return getattr(converters, converter)(slow).converted()


DEBERTA_SPECIAL = [("[PAD]", 3), ("[CLS]", 3), ("[SEP]", 3), ("[UNK]", 2)]
XLM_ROBERTA_SPECIAL = [("<unk>", 2), ("<s>", 3), ("</s>", 3)]


@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("punctuation", [False, True])
def test_deberta_without_tokenizer_json(lower: bool, punctuation: bool, tmp_path: Path) -> None:
    pytest.importorskip("google.protobuf")
    import tokenizers

    settings = {"do_lower_case": lower, "split_by_punct": punctuation}
    path = write_spm(tmp_path / "hf" / "spm.model", DEBERTA_SPECIAL)
    expected = converted("DebertaV2Converter", path, **settings)
    parts = read_spm(path, settings, "DebertaV2Tokenizer")
    parts["added_tokens"] = [{**plain(), **token} for token in parts["added_tokens"]]
    ours = tokenizers.Tokenizer.from_str(json.dumps({"version": "1.0", "decoder": None, **parts}))
    for text in TEXTS:
        if "MASK" not in text:  # the converter leaves [MASK] to its caller
            assert ours.encode(text).ids == expected.encode(text).ids
    (tmp_path / "hf" / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "DebertaV2Tokenizer", **settings}))
    tokenizer = read_tokenizer(tmp_path / "hf")
    assert tokenizer.special == {"pad": 0, "cls": 1, "sep": 2, "unk": 3, "mask": len(tokenizer.pieces) - 1}
    assert tokenizer.pieces[-1] == b"[MASK]"


def test_xlm_roberta_without_tokenizer_json(tmp_path: Path) -> None:
    pytest.importorskip("google.protobuf")
    import tokenizers

    path = write_spm(tmp_path / "hf" / "sentencepiece.bpe.model", XLM_ROBERTA_SPECIAL)
    expected = converted("XLMRobertaConverter", path)
    parts = read_spm(path, {}, "xlm-roberta")
    parts["added_tokens"] = [{**plain(), **token} for token in parts["added_tokens"]]
    ours = tokenizers.Tokenizer.from_str(json.dumps({"version": "1.0", "decoder": None, **parts}))
    for text in TEXTS:
        if "mask" not in text:  # the converter leaves the options of <mask> to its caller
            assert ours.encode(text).ids == expected.encode(text).ids
    assert reference_ids(ours, "a <mask>")[-1] == len(trained_pieces()) + 4
    (tmp_path / "hf" / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "XLMRobertaTokenizer"}))
    assert read_tokenizer(tmp_path / "hf").special == {"cls": 0, "pad": 1, "sep": 2, "unk": 3, "mask": len(trained_pieces()) + 4}


def plain() -> dict[str, Any]:
    return {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}


def test_spm_files_that_are_refused(tmp_path: Path) -> None:
    path = write_spm(tmp_path / "hf" / "spm.model", DEBERTA_SPECIAL)
    with pytest.raises(ConversionError, match=r"AlbertTokenizer.*save the tokenizer"):
        read_spm(path, {}, "AlbertTokenizer")
    data = path.read_bytes()
    path.write_bytes(data[:-5])
    with pytest.raises(ConversionError, match="damaged"):
        read_spm(path, {}, "deberta-v2")
    path.write_bytes(data + field(2, field(3, 2)))
    with pytest.raises(ConversionError, match="no Unigram"):
        read_spm(path, {}, "deberta-v2")
