"""Unigram's kernels on a tokenizer of the `tokenizers` package, called from Python."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cffi
import numpy as np
from charsmap import charsmap, nfkc_rules

from tinybert_rt.engine.jit import load_kernels
from tinybert_rt.format import layout
from tinybert_rt.format.structs import Tokenizer
from tinybert_rt.format.trie import build_trie
from tinybert_rt.isa.levels import choose_level
from tinybert_rt.text.limits import WORD_SCRATCH_BYTES
from tinybert_rt.text.structs import TokenizeInfo
from tools.hf_unigram import read_unigram
from tools.unigram_parts import unigram_tensors

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"
MARK = "\u2581"

_SIGNATURES = {
    "text_prepare_added": "void(*)(kernel_tokenizer *)",
    "text_prepare_unigram": "void(*)(kernel_tokenizer *, int64_t)",
    "text_unigram": f"int64_t(*)(kernel_tokenizer *{', int64_t' * 6})",
    "text_tokenize": f"int64_t(*)(kernel_tokenizer *{', int64_t' * 9}, kernel_tokenize_info *, int64_t)",
}

ffi = cffi.FFI()
ffi.cdef("".join(struct.c_declaration() for struct in (Tokenizer, TokenizeInfo)))


@functools.cache
def _kernels() -> Any:
    folder = str(Path(__file__).resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)
    return load_kernels(choose_level(), "unigram_exports")


def function(name: str) -> Any:
    """The C function `name` of unigram_exports.py."""
    return ffi.cast(_SIGNATURES[name], _kernels().address(name))


def shared_pieces() -> list[tuple[str, float]]:
    """A vocabulary of 30,000 pieces with scores under shared/."""
    path = SHARED / "tokenizers" / "albert-unigram" / "pieces.json"
    return [(piece, float(score)) for piece, score in json.loads(path.read_text(encoding="utf-8"))]


@functools.cache
def trained_pieces() -> tuple[tuple[str, float], ...]:
    """Pieces with scores, trained on the documentation of Python's own modules and on characters that normalising changes."""
    import argparse
    import textwrap
    import unittest

    from tokenizers import Tokenizer as Reference
    from tokenizers import models, normalizers, pre_tokenizers, trainers

    reference = Reference(models.Unigram())
    reference.normalizer = normalizers.Lowercase()
    reference.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    lines = [line for module in (argparse, textwrap, unittest) for line in (module.__doc__ or "").split("\n")]
    lines += [
        "caf\u00e9 na\u00efve \u1ebf\u1e69 \u0434\u0436 \u03c3\u03c2 \u4e2d\u6587 \ud55c\uad6d",
        "\u1112\u1161\u11ab \U0001f600 fi 1\u20442 ... tm",
    ] * 3
    reference.train_from_iterator(lines, trainers.UnigramTrainer(vocab_size=400, unk_token="<unk>", special_tokens=["<unk>"]))
    return tuple((piece, score) for piece, score in json.loads(reference.to_str())["model"]["vocab"][1:])


def with_special(begin: Sequence[str], end: Sequence[str] = ()) -> list[tuple[str, float]]:
    """The trained pieces between special tokens."""
    return [*((name, 0.0) for name in begin), *trained_pieces(), *((name, 0.0) for name in end)]


ALBERT_TOKENS = ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")
XLM_ROBERTA_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")
DEBERTA_TOKENS = ("[PAD]", "[CLS]", "[SEP]", "[UNK]")


@functools.cache
def nfkc(fold: bool = False) -> bytes:
    """A charsmap of NFKC."""
    return charsmap(nfkc_rules(fold))


@functools.cache
def references() -> dict[str, Any]:
    """Tokenizers of every family, with the trained pieces."""
    albert_pieces, deberta_pieces = with_special(ALBERT_TOKENS), with_special(DEBERTA_TOKENS)
    xlm_roberta_pieces = with_special(XLM_ROBERTA_TOKENS, ["<mask>"])
    return {
        "albert": albert(albert_pieces),
        "albert with a charsmap": albert(albert_pieces, nfkc(), True),
        "albert with folding": albert(albert_pieces, nfkc(True)),
        "xlm-roberta": xlm_roberta(xlm_roberta_pieces, nfkc()),
        "xlm-roberta converted": xlm_roberta(xlm_roberta_pieces, nfkc(), True),
        "deberta": deberta(deberta_pieces, nfkc()),
        "deberta lower": deberta(deberta_pieces, nfkc(True), lower=True),
        "deberta punctuation": deberta(deberta_pieces, nfkc(), lower=True, punctuation=True),
        "deberta first": deberta(deberta_pieces, nfkc(), scheme="first"),
        "deberta punctuation first": deberta(deberta_pieces, nfkc(), punctuation=True, scheme="first"),
        "deberta never": deberta(deberta_pieces, nfkc(), scheme="never"),
    }


@functools.cache
def kernels(name: str) -> Kernels:
    """The kernels for one of these."""
    return Kernels(references()[name])


FAMILIES = (
    "albert",
    "albert with a charsmap",
    "albert with folding",
    "xlm-roberta",
    "xlm-roberta converted",
    "deberta",
    "deberta lower",
    "deberta punctuation",
    "deberta first",
    "deberta punctuation first",
    "deberta never",
)


def albert(pieces: list[tuple[str, float]], charsmap: bytes | None = None, collapse: bool = False) -> Any:
    """ALBERT's tokenizer of the `tokenizers` package, as `transformers` makes it, for pieces that begin with its special tokens."""
    from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers, processors
    from tokenizers import Tokenizer as Reference

    reference = Reference(models.Unigram(pieces, unk_id=1))
    steps = [
        normalizers.Replace("``", '"'),
        normalizers.Replace("''", '"'),
        normalizers.NFKD(),
        normalizers.StripAccents(),
        normalizers.Lowercase(),
    ]
    steps += [normalizers.Precompiled(charsmap)] if charsmap else []
    steps += [normalizers.Replace(Regex(" {2,}"), " ")] if collapse else []
    reference.normalizer = normalizers.Sequence(steps)
    reference.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    names = ["<pad>", "<unk>", "[CLS]", "[SEP]"]
    reference.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    reference.add_special_tokens([AddedToken("[MASK]", special=True, normalized=False, lstrip=True)])
    reference.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return reference


def xlm_roberta(pieces: list[tuple[str, float]], charsmap: bytes, strip: bool = False) -> Any:
    """XLM-R's, for pieces that begin with <s> <pad> </s> <unk> and end in <mask>; with `strip` as its converter makes it."""
    from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers, processors
    from tokenizers import Tokenizer as Reference

    reference = Reference(models.Unigram(pieces, unk_id=3))
    reference.normalizer = normalizers.Precompiled(charsmap)
    split = [pre_tokenizers.WhitespaceSplit()]
    if strip:
        trailing = [normalizers.Strip(left=False, right=True), normalizers.Replace(Regex(" {2,}"), MARK)]
        reference.normalizer = normalizers.Sequence([normalizers.Precompiled(charsmap), *trailing])
        split = []
    reference.pre_tokenizer = pre_tokenizers.Sequence([*split, pre_tokenizers.Metaspace()])
    reference.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in ("<s>", "<pad>", "</s>", "<unk>")])
    reference.add_special_tokens([AddedToken("<mask>", special=True, normalized=False, lstrip=True)])
    reference.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return reference


def deberta(
    pieces: list[tuple[str, float]], charsmap: bytes, lower: bool = False, punctuation: bool = False, scheme: str = "always"
) -> Any:
    """DeBERTa-v2's as its converter makes it, for pieces that begin with [PAD] [CLS] [SEP] [UNK]; [MASK] is behind them."""
    from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers, processors
    from tokenizers import Tokenizer as Reference

    reference = Reference(models.Unigram(pieces, unk_id=3))
    steps = [normalizers.Strip(), normalizers.Precompiled(charsmap), normalizers.Replace(Regex(" {2,}"), " ")]
    reference.normalizer = normalizers.Sequence([*([normalizers.Lowercase()] if lower else []), *steps])
    split = [pre_tokenizers.Punctuation(behavior="isolated")] if punctuation else []
    reference.pre_tokenizer = pre_tokenizers.Sequence([*split, pre_tokenizers.Metaspace(prepend_scheme=scheme)])
    names = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    reference.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    reference.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return reference


class Kernels:
    """Unigram of this package for a tokenizer of the `tokenizers` package, read from its JSON."""

    def __init__(self, reference: Any) -> None:
        parts = json.loads(reference.to_str())
        unigram = read_unigram(Path("tokenizer.json"), parts)
        pieces = list(unigram.pieces)
        for token in sorted(parts["added_tokens"], key=lambda each: each["id"]):
            if token["id"] == len(pieces):
                pieces.append(token["content"])
            assert pieces[token["id"]] == token["content"]
        self.tensors, config = unigram_tensors(unigram, len(pieces))
        listed = sorted(parts["added_tokens"], key=lambda each: each["id"])
        data = [piece.encode() for piece in pieces]
        self.trie = build_trie(data[: len(unigram.pieces)])
        self.pieces = np.frombuffer(b"".join(data), np.uint8)
        self.offsets = np.cumsum([0, *map(len, data)]).astype(np.uint32)
        self.added = np.array([token["id"] for token in listed], np.int32)
        options = [layout.STRIP_LEFT * token["lstrip"] | layout.STRIP_RIGHT * token["rstrip"] for token in listed]
        self.options = np.array(options, np.uint8)
        self.scratch = np.zeros(WORD_SCRATCH_BYTES + 64, np.uint8)
        self.scratch[WORD_SCRATCH_BYTES:] = 0xA5
        self.expansion = unigram.expansion
        processor = (parts["post_processor"] or {}).get("pair") or []
        special = [step["SpecialToken"]["id"] for step in processor if "SpecialToken" in step]
        self.struct = ffi.new("kernel_tokenizer *")
        fields: dict[str, int] = {
            "kind": layout.TOKENIZER_KINDS["unigram"],
            "flags": layout.DOUBLE_SEPARATOR if len(special) == 4 else 0,
            "trie": self.trie.ctypes.data,
            "trie_nodes": len(self.trie),
            "pieces": self.pieces.ctypes.data,
            "piece_offsets": self.offsets.ctypes.data,
            "vocab_size": len(pieces),
            "unk_id": unigram.unk_id,
            "cls_id": pieces.index(special[0]) if special else 0,
            "sep_id": pieces.index(special[1]) if special else 0,
            "added": self.added.ctypes.data,
            "added_count": len(self.added),
            "added_options": self.options.ctypes.data,
            "scores": self.tensors["tokenizer.scores"].ctypes.data,
            "unigram_flags": unigram.flags,
            "rewrite_nodes": config["rewrite_nodes"],
        }
        for name in ("rewrite_trie", "rewrite_texts", "rewrite_offsets"):
            if f"tokenizer.{name}" in self.tensors:
                fields[name] = self.tensors[f"tokenizer.{name}"].ctypes.data
        for name, value in fields.items():
            setattr(self.struct, name, value)
        function("text_prepare_added")(self.struct)
        function("text_prepare_unigram")(self.struct, config["scored_pieces"])
        self._unigram = function("text_unigram")
        self._tokenize = function("text_tokenize")

    def _check_scratch(self) -> None:
        assert (self.scratch[WORD_SCRATCH_BYTES:] == 0xA5).all(), "a kernel wrote behind its scratch"

    def run(self, text: str | bytes, capacity: int | None = None) -> tuple[list[int], list[list[int]], int]:
        """The ids written, the bytes of their words, and the number of tokens of the whole text."""
        data = text.encode() if isinstance(text, str) else text
        room = self.expansion * len(data) + 1 if capacity is None else capacity
        ids = np.full(room + 1, -77, np.int32)
        spans = np.full((room + 1, 2), -77, np.int32)
        buffer = ffi.from_buffer(data)
        address = int(ffi.cast("intptr_t", buffer))
        total = self._unigram(self.struct, address, len(data), ids.ctypes.data, spans.ctypes.data, room, self.scratch.ctypes.data)
        self._check_scratch()
        assert ids[room] == -77, "an id was written behind the capacity"
        assert (spans[room] == -77).all(), "a span was written behind the capacity"
        assert capacity is not None or total <= room, "more tokens than the expansion says"
        return ids[: min(total, room)].tolist(), spans[: min(total, room)].tolist(), total

    def ids(self, text: str | bytes) -> list[int]:
        """The ids of a text."""
        return self.run(text)[0]

    def tokenize(
        self, text: str | bytes, pair: str | bytes | None, max_tokens: int, policy: int
    ) -> tuple[int, list[int], list[int], int, int]:
        """Status, ids, types, total number of tokens, whether the text was truncated."""
        data = text.encode() if isinstance(text, str) else text
        other = b"" if pair is None else pair.encode() if isinstance(pair, str) else pair
        ids = np.full(max(max_tokens, 0) + 1, -77, np.int32)
        types = np.full(max(max_tokens, 0) + 1, 77, np.uint8)
        info = ffi.new("kernel_tokenize_info *")
        buffers = ffi.from_buffer(data), ffi.from_buffer(other)
        addresses = [int(ffi.cast("intptr_t", buffer)) for buffer in buffers]
        size = -1 if pair is None else len(other)
        arguments = (ids.ctypes.data, types.ctypes.data, 0, info, self.scratch.ctypes.data)
        status = self._tokenize(self.struct, addresses[0], len(data), addresses[1], size, max_tokens, policy, *arguments)
        self._check_scratch()
        assert ids[-1] == -77
        assert types[-1] == 77
        return status, ids[: info.count].tolist(), types[: info.count].tolist(), info.total, info.truncated


def reference_ids(reference: Any, text: str) -> list[int]:
    """The reference's ids of a text without the special tokens around it."""
    return list(reference.encode(text, add_special_tokens=False).ids)
