"""Read a tokenizer from a Hugging Face directory; here BERT's: tokenizer.json or vocab.txt, and tokenizer_config.json."""

from __future__ import annotations

import string
from dataclasses import replace
from pathlib import Path
from typing import Any

from tinybert_rt.format import layout

from .hf import ConversionError, read_json_object
from .hf_bpe import read_bpe
from .hf_unigram import read_unigram_tokenizer
from .spm import NAMES
from .tokenizer_parts import Tokenizer, gives_types, listed_in_settings, model_max_tokens, pieces_by_id, special_ids, template

_SPECIAL = {"unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "mask": "[MASK]"}
_OVERRIDES = {"do_lower_case": "lowercase", "strip_accents": "strip_accents", "tokenize_chinese_chars": "handle_chinese_chars"}


def read_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer of a directory. Where tokenizer_config.json and tokenizer.json differ, the first wins, as in transformers."""
    settings = read_json_object(directory / "tokenizer_config.json", required=False)
    tokenizer = _read_any(directory, settings)
    return replace(tokenizer, gives_types=gives_types(directory / "tokenizer_config.json", settings))


def _read_any(directory: Path, settings: dict[str, Any]) -> Tokenizer:
    path = directory / "tokenizer.json"
    if path.exists():
        model = read_json_object(path).get("model")
        # Files of old releases do not name the type.
        if isinstance(model, dict) and model.get("type", "BPE" if "merges" in model else "") == "BPE":
            return read_bpe(directory, settings)
        if isinstance(model, dict) and model.get("type") == "Unigram":
            return read_unigram_tokenizer(directory, settings)
    elif (directory / "vocab.json").exists() and (directory / "merges.txt").exists():
        return read_bpe(directory, settings)
    elif not (directory / "vocab.txt").exists() and any((directory / name).exists() for name in NAMES):
        return read_unigram_tokenizer(directory, settings)
    elif not (directory / "vocab.txt").exists() and any((directory / name).exists() for name in ("vocab.json", "merges.txt")):
        return read_bpe(directory, settings)  # which names the one that is missing
    return _read_wordpiece(directory, settings)


def _read_wordpiece(directory: Path, settings: dict[str, Any]) -> Tokenizer:
    settings_path = directory / "tokenizer_config.json"
    path = directory / "tokenizer.json"
    text_path = directory / "vocab.txt"
    notes: list[str] = []
    normalizer: dict[str, Any] = {"clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True}
    max_word_chars = 100
    listed: list[dict[str, Any]] = []
    if path.exists():
        parts = read_json_object(path)
        pieces = _read_model(path, parts)
        if text_path.exists() and _read_vocabulary(text_path) != pieces:
            raise ConversionError(f"{text_path}: the vocabulary differs from that of {path.name}; remove the wrong file")
        normalizer.update(_read_normalizer(path, parts))
        max_word_chars = parts["model"].get("max_input_chars_per_word", 100)
        listed = parts.get("added_tokens") or []
        source = path
    elif text_path.exists():
        pieces = _read_vocabulary(text_path)
        listed = listed_in_settings(settings_path, settings)
        source = text_path
    else:
        raise ConversionError(f"{directory}: neither tokenizer.json nor vocab.txt is there")
    for theirs, ours in _OVERRIDES.items():
        if theirs in settings and settings[theirs] != normalizer[ours]:
            if path.exists():
                notes.append(f"{settings_path.name}: {theirs} = {settings[theirs]!r} takes the place of {path.name}'s {normalizer[ours]!r}")
            normalizer[ours] = settings[theirs]
    _check_flags(settings_path, normalizer)
    if isinstance(max_word_chars, bool) or not isinstance(max_word_chars, int) or not 1 <= max_word_chars <= layout.LARGEST_WORD_CHARS:
        raise ConversionError(f"{path}: max_input_chars_per_word is {max_word_chars!r}; it must be from 1 to {layout.LARGEST_WORD_CHARS}")
    added = _check_added(source, pieces, listed)
    special = special_ids(directory, settings, source, pieces, _SPECIAL)
    if path.exists():
        _check_post_processor(path, parts.get("post_processor"), pieces, special)
    return Tokenizer(
        kind="wordpiece",
        pieces=[piece.encode() for piece in pieces],
        special=special,
        added=dict.fromkeys([*added, *special.values()], 0),
        flags=_flags(normalizer),
        max_word_chars=max_word_chars,
        model_max_tokens=model_max_tokens(settings),
        notes=notes,
    )


def _read_vocabulary(path: Path) -> list[str]:
    try:
        lines = path.read_bytes().decode("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConversionError(f"{path}: not readable as UTF-8 text: {error}") from None
    if lines[-1] == "":
        lines.pop()
    pieces = [line.removesuffix("\r") for line in lines]
    _check_pieces(path, pieces)
    return pieces


def _check_pieces(path: Path, pieces: list[str]) -> None:
    first: dict[str, int] = {}
    for index, piece in enumerate(pieces):
        if not piece or "\0" in piece:
            raise ConversionError(f"{path}: piece {index} is {piece!r}; a piece must not be empty or hold a NUL")
        if first.setdefault(piece, index) != index:
            raise ConversionError(f"{path}: pieces {first[piece]} and {index} are equal: {piece!r}")


def _read_model(path: Path, parts: dict[str, Any]) -> list[str]:
    model = parts.get("model")
    if not isinstance(model, dict) or model.get("type", "WordPiece") != "WordPiece" or not isinstance(model.get("vocab"), dict):
        kind = model.get("type") if isinstance(model, dict) else model
        raise ConversionError(f"{path}: model.type is {kind!r}; supported: 'WordPiece', 'BPE' and 'Unigram'")
    if model.get("continuing_subword_prefix", "##") != "##":
        raise ConversionError(f"{path}: model.continuing_subword_prefix is {model['continuing_subword_prefix']!r}; only '##' is supported")
    pre_tokenizer = (parts.get("pre_tokenizer") or {}).get("type")
    if pre_tokenizer != "BertPreTokenizer":
        raise ConversionError(f"{path}: pre_tokenizer.type is {pre_tokenizer!r}; only 'BertPreTokenizer' is supported")
    complete = pieces_by_id(path, model["vocab"])
    _check_pieces(path, complete)
    return complete


def _read_normalizer(path: Path, parts: dict[str, Any]) -> dict[str, Any]:
    normalizer = parts.get("normalizer")
    kind = normalizer.get("type") if isinstance(normalizer, dict) else normalizer
    if not isinstance(normalizer, dict) or kind != "BertNormalizer":
        raise ConversionError(f"{path}: normalizer.type is {kind!r}; only 'BertNormalizer' is supported")
    return {key: value for key, value in normalizer.items() if key != "type"}


def _check_flags(path: Path, normalizer: dict[str, Any]) -> None:
    for name, value in normalizer.items():
        if name not in ("clean_text", "handle_chinese_chars", "strip_accents", "lowercase"):
            raise ConversionError(f"{path}: the normalizer's option {name!r} is not known")
        if not isinstance(value, bool) and not (name == "strip_accents" and value is None):
            raise ConversionError(f"{path}: the normalizer's option {name!r} is {value!r}; it must be true or false")


def _flags(normalizer: dict[str, Any]) -> int:
    strip = normalizer["lowercase"] if normalizer["strip_accents"] is None else normalizer["strip_accents"]
    flags = layout.CLEAN_TEXT if normalizer["clean_text"] else 0
    flags |= layout.SPLIT_CJK if normalizer["handle_chinese_chars"] else 0
    flags |= layout.STRIP_ACCENTS if strip else 0
    return flags | (layout.LOWERCASE if normalizer["lowercase"] else 0)


def _check_added(path: Path, pieces: list[str], listed: list[dict[str, Any]]) -> list[int]:
    """Ids of the added tokens; those behind the vocabulary are appended to `pieces`."""
    ids = []
    try:
        ordered = sorted(listed, key=lambda token: token["id"])
    except (KeyError, TypeError):
        raise ConversionError(f"{path}: added_tokens: every token needs an id") from None
    for token in ordered:
        index, content = token["id"], token.get("content")
        for option in ("single_word", "lstrip", "rstrip", "normalized"):
            if token.get(option):
                raise ConversionError(f"{path}: added token {content!r}: the option {option!r} is not supported")
        if index == len(pieces) and isinstance(content, str) and content not in pieces:
            # A word never holds punctuation beside other characters, so WordPiece cannot take this piece by accident.
            if len(content) < 2 or not set(content) & set(string.punctuation):
                raise ConversionError(f"{path}: added token {content!r} is no piece of the vocabulary and looks like a word")
            pieces.append(content)
        there = pieces[index] if isinstance(index, int) and 0 <= index < len(pieces) else None
        if there is None or there != content:
            raise ConversionError(f"{path}: added token {content!r} has the id {index!r}; the vocabulary has {there!r} there")
        ids.append(index)
    return ids


def _check_post_processor(path: Path, processor: Any, pieces: list[str], special: dict[str, int]) -> None:
    """[CLS] A [SEP], and [CLS] A [SEP] B [SEP] with type 1 from B on (Devlin et al. 2019, section 3)."""
    cls, sep = pieces[special["cls"]], pieces[special["sep"]]
    kind = processor.get("type") if isinstance(processor, dict) else processor
    if kind == "BertProcessing":
        right = processor.get("cls") == [cls, special["cls"]] and processor.get("sep") == [sep, special["sep"]]
    elif kind == "TemplateProcessing":
        pair = [(cls, 0), ("A", 0), (sep, 0), ("B", 1), (sep, 1)]
        right = template(processor.get("single")) == pair[:3] and template(processor.get("pair")) == pair
    else:
        right = False
    if not right:
        raise ConversionError(f"{path}: post_processor is not BERT's: [CLS] A [SEP], and [CLS] A [SEP] B [SEP] for pairs")
