"""Read a SentencePiece model file (spm.model, sentencepiece.bpe.model) as if it were the tokenizer.json that `transformers` makes of it.

Of the protocol buffer (sentencepiece_model.proto) only what decides about tokens is read.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .hf import ConversionError

NAMES = ("spm.model", "sentencepiece.bpe.model", "spiece.model")

_DEBERTA = ("DebertaV2Tokenizer", "DebertaV2TokenizerFast", "deberta-v2")
_XLM_ROBERTA = ("XLMRobertaTokenizer", "XLMRobertaTokenizerFast", "xlm-roberta")

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4
_UNIGRAM = 1


def _fields(path: Path, data: bytes) -> Iterator[tuple[int, Any]]:
    """Number and value of each field of a message: an int, or bytes."""
    position = 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = data[position]
            position += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128 or shift > 63:
                return value

    try:
        while position < len(data):
            key = varint()
            size = {1: 8, 5: 4}.get(key & 7, 0)
            if key & 7 == 0:
                yield key >> 3, varint()
                continue
            if key & 7 == 2:
                size = varint()
            elif not size:
                raise IndexError
            if position + size > len(data):
                raise IndexError
            yield key >> 3, data[position : position + size]
            position += size
    except IndexError:
        raise ConversionError(f"{path}: no SentencePiece model, or a damaged one") from None


def read_spm(path: Path, settings: dict[str, Any], family: Any) -> dict[str, Any]:
    """What tokenizer.json would hold: normalizer, pre_tokenizer, model, added_tokens, post_processor.

    Args:
        settings: tokenizer_config.json. family: its tokenizer_class, or the model_type of config.json.

    Raises ConversionError for a damaged file, a model that is no Unigram, and other families than DeBERTa-v2 and XLM-R.
    """
    if family not in (*_DEBERTA, *_XLM_ROBERTA):
        raise ConversionError(
            f"{path}: tokenizer_class is {family!r}; without tokenizer.json, DeBERTa-v2 and XLM-R are supported:"
            " save the tokenizer with transformers to get one"
        )
    try:
        message = path.read_bytes()
    except OSError as error:
        raise ConversionError(f"{path}: cannot be read: {error.strerror}") from None
    pieces: list[tuple[str, float]] = []
    kinds: list[int] = []
    trainer: dict[int, Any] = {}
    normalizer: dict[int, Any] = {}
    for number, value in _fields(path, message):
        if number == 1 and isinstance(value, bytes):
            piece = dict(_fields(path, value))
            try:
                pieces.append((piece[1].decode(), struct.unpack("<f", piece.get(2, bytes(4)))[0]))
            except (AttributeError, KeyError, TypeError, UnicodeDecodeError, struct.error):
                raise ConversionError(f"{path}: piece {len(pieces)} is damaged") from None
            kinds.append(piece.get(3, _NORMAL))
        elif number in (2, 3) and isinstance(value, bytes):
            (trainer if number == 2 else normalizer).update(_fields(path, value))
    if trainer.get(3, _UNIGRAM) != _UNIGRAM or _UNKNOWN not in kinds:
        raise ConversionError(f"{path}: the model is no Unigram: model_type {trainer.get(3)!r}")
    added = [(index, kind == _CONTROL) for index, kind in enumerate(kinds) if kind in (_CONTROL, _USER_DEFINED)]
    charsmap = normalizer.get(2, b"")
    double = family in _XLM_ROBERTA
    names = ("<s>", "<pad>", "</s>", "<unk>", "<mask>") if double else ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")
    listed: list[dict[str, Any]] = [{"content": pieces[index][0], "special": special} for index, special in added]
    listed = [token for token in listed if token["content"] not in names] + [
        {"content": name, "special": True, "lstrip": name == "<mask>"} for name in names
    ]
    unk = trainer.get(40, 0)
    if double:
        # fairseq's order: the first three pieces are <unk> <s> </s>.
        pieces = [(name, 0.0) for name in names[:4]] + pieces[3:] + [("<mask>", 0.0)]
        unk = 3
    ids: dict[str, int] = {piece: index for index, (piece, _) in enumerate(pieces)}
    for token in listed:
        token["id"] = ids.setdefault(token["content"], len(ids))
    return {
        "normalizer": {"type": "Sequence", "normalizers": _normalizers(charsmap, double, settings)},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": _pre_tokenizers(double, settings)},
        "model": {"type": "Unigram", "unk_id": unk, "vocab": pieces, "byte_fallback": bool(trainer.get(35))},
        "added_tokens": listed,
        "post_processor": _post_processor(ids, *(("<s>", "</s>") if double else ("[CLS]", "[SEP]")), double),
    }


def _normalizers(charsmap: bytes, double: bool, settings: dict[str, Any]) -> list[dict[str, Any]]:
    precompiled = [{"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()}] if charsmap else []
    spaces = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "\u2581" if double else " "}
    if double:
        return [*precompiled, {"type": "Strip", "strip_left": False, "strip_right": True}, spaces]
    lower = [{"type": "Lowercase"}] if settings.get("do_lower_case") else []
    return [*lower, {"type": "Strip", "strip_left": True, "strip_right": True}, *precompiled, spaces]


def _pre_tokenizers(double: bool, settings: dict[str, Any]) -> list[dict[str, Any]]:
    split = not double and settings.get("split_by_punct")
    scheme = "always" if settings.get("add_prefix_space", True) else "never"
    metaspace = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme, "split": True}
    return [*([{"type": "Punctuation", "behavior": "Isolated"}] if split else []), metaspace]


def _post_processor(ids: dict[str, int], cls: str, sep: str, double: bool) -> dict[str, Any]:
    def special(name: str, kind: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": name, "type_id": kind}}

    def text(name: str, kind: int) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": kind}}

    single = [special(cls, 0), text("A", 0), special(sep, 0)]
    second = 0 if double else 1
    pair = [*single, *([special(sep, 0)] if double else []), text("B", second), special(sep, second)]
    tokens = {name: {"id": name, "ids": [ids[name]], "tokens": [name]} for name in (cls, sep)}
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens}
