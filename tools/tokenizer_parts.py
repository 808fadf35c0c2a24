"""What every kind of tokenizer has: the result of reading one, and the parts of its files that do not depend on its kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tinybert_rt.format import layout
from tinybert_rt.format.trie import build_trie

from . import blocks
from .hf import ConversionError, read_json_object
from .unigram_parts import Unigram, unigram_tensors


@dataclass
class Tokenizer:
    """Everything that the runtime needs of a tokenizer."""

    kind: str
    """A key of `layout.TOKENIZER_KINDS`."""

    pieces: list[bytes]
    special: dict[str, int]
    """"unk", "cls", "sep", "pad", "mask" → id."""

    added: dict[int, int]
    """Id → options (layout.STRIP_LEFT, STRIP_RIGHT) of the tokens that are found in the text before anything else happens to it."""

    flags: int
    max_word_chars: int
    model_max_tokens: int | None
    notes: list[str] = field(default_factory=list)
    words: list[int] | None = None
    """Ids of the pieces that the trie holds; None: all."""

    byte_ids: list[int] = field(default_factory=list)
    """Of byte-level BPE: the id of each byte."""

    merges: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)
    """Of byte-level BPE: left and right token → rank, new token."""

    unigram: Unigram | None = None
    """Of Unigram: scores and how text is normalised."""

    gives_types: bool = True
    """Whether the model is told which text of a pair a token belongs to; else all its tokens have type 0."""


def listed_in_settings(path: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The added tokens of tokenizer_config.json, as tokenizer.json lists them."""
    decoder = settings.get("added_tokens_decoder") or {}
    try:
        return [{"id": int(index), **token} for index, token in decoder.items()]
    except (AttributeError, TypeError, ValueError):
        raise ConversionError(f"{path}: added_tokens_decoder is no object of tokens by id") from None


def special_ids(directory: Path, settings: dict[str, Any], source: Path, pieces: list[str], defaults: Mapping[str, str]) -> dict[str, int]:
    """The ids of the special tokens, by their kinds; `defaults` says what those that no file names are called."""
    names = read_json_object(directory / "special_tokens_map.json", required=False)
    ids = {piece: index for index, piece in enumerate(pieces)}
    special = {}
    for kind, default in defaults.items():
        token = settings.get(f"{kind}_token") or names.get(f"{kind}_token") or default
        token = token.get("content") if isinstance(token, dict) else token
        if token not in ids:
            raise ConversionError(f"{source}: the {kind} token {token!r} is no piece of the vocabulary")
        special[kind] = ids[token]
    return special


def model_max_tokens(settings: dict[str, Any]) -> int | None:
    """The longest text that tokenizer_config.json allows; None: it says nothing of use."""
    limit = settings.get("model_max_length")
    return limit if isinstance(limit, int) and 1 <= limit < 2**31 else None


def gives_types(path: Path, settings: dict[str, Any]) -> bool:
    """Whether a tokenizer gives token types to the model, as in transformers: `model_input_names` in tokenizer_config.json says so, else
    its class, where it is one without an architecture. (AlbertTokenizer gives none since transformers 5; ALBERT was trained with them.)
    """
    names = settings.get("model_input_names")
    if names is None:
        return settings.get("tokenizer_class") not in ("TokenizersBackend", "PreTrainedTokenizerFast")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConversionError(f"{path}: model_input_names is {names!r}; it must be a list of names")
    return "token_type_ids" in names


def template(steps: Any) -> list[tuple[Any, Any]]:
    """Name and token type of each step of a TemplateProcessing."""
    try:
        return [(each["id"], each["type_id"]) for step in steps for each in step.values()]
    except (AttributeError, KeyError, TypeError):
        return []


def pieces_by_id(path: Path, vocabulary: Mapping[str, Any]) -> list[str]:
    """The pieces of a vocabulary of piece → id, whose ids are 0, 1, 2 …"""
    pieces: list[str | None] = [None] * len(vocabulary)
    for piece, index in vocabulary.items():
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(pieces) or pieces[index] is not None:
            raise ConversionError(f"{path}: model.vocab: the id {index!r} of {piece!r} is out of range or given twice")
        pieces[index] = piece
    return [piece or "" for piece in pieces]


def tokenizer_tensors(tokenizer: Tokenizer) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """The tensors of a tokenizer and its config fields, for a `.tbrt` file."""
    pieces = tokenizer.pieces
    trie = build_trie(pieces if tokenizer.words is None else [pieces[index] for index in tokenizer.words])
    if tokenizer.words is not None:
        ids = np.array([0, *(index + 1 for index in tokenizer.words)], np.uint32)
        trie[:, 1] = ids[trie[:, 1]]
    text = np.frombuffer(b"".join(pieces), np.uint8)
    offsets = np.cumsum([0, *map(len, pieces)]).astype(np.uint32)
    padded_trie = np.zeros((layout.pad(len(trie), 8), 2), np.uint32)
    padded_trie[: len(trie)] = trie
    added = sorted(tokenizer.added)
    tensors = {
        "tokenizer.trie": padded_trie,
        "tokenizer.pieces": blocks.pad_vector(text, layout.ALIGNMENT),
        "tokenizer.piece_offsets": blocks.pad_vector(offsets, layout.LANES),
        "tokenizer.added": np.zeros(layout.pad(max(len(added), 1), layout.LANES), np.int32),
    }
    tensors["tokenizer.added"][: len(added)] = added
    options = [tokenizer.added[index] for index in added]
    if any(options):
        tensors["tokenizer.added_options"] = blocks.pad_vector(np.array(options, np.uint8), layout.ALIGNMENT)
    if tokenizer.merges:
        tensors |= _merge_tensors(tokenizer)
    config = {
        "vocab_size": len(pieces),
        "tokenizer_kind": layout.TOKENIZER_KINDS[tokenizer.kind],
        "tokenizer_flags": tokenizer.flags,
        "max_word_chars": tokenizer.max_word_chars,
        **{f"{kind}_id": index for kind, index in tokenizer.special.items()},
        "trie_nodes": len(trie),
        "added_tokens": len(added),
        "pieces_bytes": len(text),
        "merges": len(tokenizer.merges),
        "added_options": int(any(options)),
    }
    made, fields = unigram_tensors(tokenizer.unigram, len(pieces))
    return tensors | made, config | fields


def _merge_tensors(tokenizer: Tokenizer) -> dict[str, np.ndarray]:
    """Rows (right, rank, new token) in the order of (left, right), and where the rows of each left token begin."""
    rows = np.array(sorted((*pair, *result) for pair, result in tokenizer.merges.items()), np.uint32)
    starts = np.searchsorted(rows[:, 0], np.arange(len(tokenizer.pieces) + 1)).astype(np.uint32)
    merges = np.zeros((layout.pad(len(rows), layout.LANES), 3), np.uint32)
    merges[: len(rows)] = rows[:, 1:]
    return {
        "tokenizer.bytes": np.array(tokenizer.byte_ids, np.int32),
        "tokenizer.merge_starts": blocks.pad_vector(starts, layout.LANES),
        "tokenizer.merges": merges,
    }
