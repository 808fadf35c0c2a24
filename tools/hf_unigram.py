"""Read a Unigram (SentencePiece) model from a tokenizer.json: pieces with scores, normalizer and pre-tokenizer."""

from __future__ import annotations

import base64
import binascii
import math
from pathlib import Path
from typing import Any

from tinybert_rt.format import layout

from .charsmap import read_charsmap
from .hf import ConversionError, read_json_object
from .hf_bpe import check_added, post_processor, two_separators
from .spm import NAMES, read_spm
from .tokenizer_parts import Tokenizer, model_max_tokens, special_ids
from .unigram_parts import CHARS, CLUSTERS, Unigram

_MARK = "\u2581"
_LARGEST_LOWEST_SCORE = 10.0
"""With a higher one, unknown characters would score better than pieces."""

_ALBERT = {"unk": "<unk>", "cls": "[CLS]", "sep": "[SEP]", "pad": "<pad>", "mask": "[MASK]"}
_DEBERTA = _ALBERT | {"unk": "[UNK]", "pad": "[PAD]"}
_XLM_ROBERTA = _ALBERT | {"cls": "<s>", "sep": "</s>", "mask": "<mask>"}
_PREFIXES = {"always": layout.PREFIX_ALWAYS, "first": layout.PREFIX_FIRST, "never": 0}


def read_unigram_tokenizer(directory: Path, settings: dict[str, Any]) -> Tokenizer:
    """The tokenizer of a directory whose tokenizer.json is of the type Unigram, or that only has a SentencePiece model."""
    path = directory / "tokenizer.json"
    if path.exists():
        parts = read_json_object(path)
    else:
        path = next(directory / name for name in NAMES if (directory / name).exists())
        family = settings.get("tokenizer_class") or read_json_object(directory / "config.json", required=False).get("model_type")
        parts = read_spm(path, settings, family)
    unigram = read_unigram(path, parts)
    pieces = list(unigram.pieces)
    _check_pieces(path, pieces)
    defaults = _XLM_ROBERTA if "<s>" in pieces else _DEBERTA if "[UNK]" in pieces else _ALBERT
    notes: list[str] = []
    listed = parts.get("added_tokens") or []
    for token in listed:
        if isinstance(token, dict) and token.get("normalized"):
            content = token.get("content")
            if content != pieces[unigram.unk_id]:
                raise ConversionError(f"{path}: added token {content!r}: the option 'normalized' is not supported")
            notes.append(f"{path.name}: added token {content!r} is found before the text is normalised, not after it")
    listed = [{**token, "normalized": False} if isinstance(token, dict) else token for token in listed]
    added = check_added(path, pieces, listed)
    special = special_ids(directory, settings, path, pieces, defaults)
    if special["unk"] != unigram.unk_id:
        raise ConversionError(f"{path}: model.unk_id is {unigram.unk_id}, but the unk token {pieces[special['unk']]!r} is {special['unk']}")
    double = two_separators(path, post_processor(path, parts.get("post_processor")), pieces, special)
    for index in special.values():
        added.setdefault(index, 0)
    flags = (layout.DOUBLE_SEPARATOR if double else 0) | (layout.LOWERCASE if unigram.lowers else 0)
    return Tokenizer(
        kind="unigram",
        pieces=[piece.encode() for piece in pieces],
        special=special,
        added=added,
        flags=flags,
        max_word_chars=1,
        model_max_tokens=model_max_tokens(settings),
        notes=notes,
        words=list(range(len(unigram.pieces))),
        unigram=unigram,
    )


def _check_pieces(path: Path, pieces: list[str]) -> None:
    first: dict[str, int] = {}
    for index, piece in enumerate(pieces):
        if not isinstance(piece, str) or not piece or "\0" in piece:
            raise ConversionError(f"{path}: piece {index} is {piece!r}; a piece must not be empty or hold a NUL")
        if first.setdefault(piece, index) != index:
            raise ConversionError(f"{path}: pieces {first[piece]} and {index} are equal: {piece!r}")


def read_unigram(path: Path, parts: dict[str, Any]) -> Unigram:
    """The model of a tokenizer.json whose model.type is "Unigram". Raises ConversionError for what is not understood."""
    model = parts["model"]
    if model.get("byte_fallback"):
        raise ConversionError(f"{path}: model.byte_fallback is {model['byte_fallback']!r}; only false is supported")
    try:
        pieces = [piece for piece, _ in model["vocab"]]
        scores = [float(score) for _, score in model["vocab"]]
    except (KeyError, TypeError, ValueError):
        raise ConversionError(f"{path}: model.vocab is no list of pieces with scores") from None
    unk = model.get("unk_id")
    if isinstance(unk, bool) or not isinstance(unk, int) or not 0 <= unk < len(pieces):
        raise ConversionError(f"{path}: model.unk_id is {unk!r}; it must be the number of a piece")
    if not all(map(math.isfinite, scores)) or min(scores) > _LARGEST_LOWEST_SCORE:
        raise ConversionError(f"{path}: model.vocab: scores must be finite, the lowest at most {_LARGEST_LOWEST_SCORE}")
    normalizer = _Normalizer(path)
    for step in _steps(path, "normalizer", parts.get("normalizer"), "normalizers"):
        normalizer.add(step)
    flags = normalizer.flags | _pre_tokenizer_flags(path, parts.get("pre_tokenizer"))
    rewrites = normalizer.rewrites()
    return Unigram(pieces, scores, unk, flags, rewrites, normalizer.expansion(), "lower" in normalizer.foldings)


def _steps(path: Path, what: str, value: Any, members: str) -> list[dict[str, Any]]:
    """The steps of a normalizer or pre-tokenizer, sequences in sequences laid out."""
    if value is None:
        return []
    if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        raise ConversionError(f"{path}: {what} is {value!r}, no object with a type")
    if value["type"] != "Sequence":
        return [value]
    listed = value.get(members)
    if not isinstance(listed, list):
        raise ConversionError(f"{path}: {what}: a Sequence without {members}")
    return [step for each in listed for step in _steps(path, what, each, members)]


class _Normalizer:
    """The steps that the runtime can do, in its order: literal Replace; NFKD with StripAccents, Lowercase; Strip; Precompiled; Strip;
    Replace of runs of spaces. Each may be missing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.flags = 0
        self.literals: dict[str, str] = {}
        self.foldings: list[str] = []
        self.clusters: dict[bytes, str] = {}
        self._half = False
        self._stage = 0

    def add(self, step: dict[str, Any]) -> None:
        """Take the next step; raises ConversionError if it is unknown or out of this order."""
        kind = step["type"]
        if self._half != (kind == "StripAccents"):
            raise self._refusal(step, "NFKD and StripAccents are supported one behind the other only")
        if kind == "Replace":
            self._replace(step)
        elif kind == "NFKD":
            self._enter(1, step)
            self._half = True
            self.flags |= layout.DECOMPOSE_HANGUL
        elif kind == "StripAccents":
            self._half = False
            self.foldings.append("bare")
        elif kind == "Lowercase":
            self._enter(1, step)
            self.foldings.append("lower")
        elif kind == "Strip":
            self._strip(step)
        elif kind == "Precompiled":
            self._enter(3, step, once=True)
            self._precompiled(step)
        else:
            raise self._refusal(step, "this type is not supported")

    def _refusal(self, step: dict[str, Any], why: str) -> ConversionError:
        return ConversionError(f"{self.path}: normalizer step {str(step)[:80]}: {why}")

    def _enter(self, stage: int, step: dict[str, Any], once: bool = False) -> None:
        if stage < self._stage or (once and stage == self._stage):
            raise self._refusal(step, "it is not supported behind the steps before it")
        self._stage = stage

    def _replace(self, step: dict[str, Any]) -> None:
        pattern, content = step.get("pattern"), step.get("content")
        if pattern == {"Regex": " {2,}"} and content in (" ", _MARK):
            self._enter(5, step, once=True)
            self.flags |= layout.COLLAPSE_SPACES if content == " " else layout.COLLAPSE_TO_MARK
            return
        literal = pattern.get("String") if isinstance(pattern, dict) and len(pattern) == 1 else None
        if not isinstance(literal, str) or not literal or "\0" in literal or not isinstance(content, str):
            raise self._refusal(step, "only strings, and the regular expression ' {2,}', can be replaced")
        self._enter(0, step)
        others = set("".join([*self.literals, *self.literals.values()]))
        if others & set(literal + content) - (set(content) & set(self.literals.values())):
            raise self._refusal(step, "it has a character of another Replace")
        self.literals[literal] = content

    def _strip(self, step: dict[str, Any]) -> None:
        late = self._stage >= 3
        if not late and (self.literals or "bare" in self.foldings):
            raise self._refusal(step, "it is not supported behind the steps before it")
        self._enter(4 if late else 2, step, once=True)
        begin, end = (layout.STRIP_BEGIN, layout.STRIP_END) if late else (layout.TRIM_BEGIN, layout.TRIM_END)
        self.flags |= (begin if step.get("strip_left") else 0) | (end if step.get("strip_right") else 0)

    def _precompiled(self, step: dict[str, Any]) -> None:
        encoded = step.get("precompiled_charsmap")
        try:
            data = base64.b64decode(encoded or "", validate=True)
        except (TypeError, ValueError, binascii.Error):
            raise self._refusal(step, "precompiled_charsmap is no base64") from None
        if data:
            self.clusters = read_charsmap(data, str(self.path))

    def _fold(self, text: str) -> str:
        from .folding_data import FOLDINGS

        for name in self.foldings:
            text = "".join(FOLDINGS[name].get(char, char) for char in text)
        return text

    def rewrites(self) -> dict[bytes, str]:
        """The rules of both stages."""
        if self._half:
            raise ConversionError(f"{self.path}: normalizer: NFKD and StripAccents are supported one behind the other only")
        from .folding_data import FOLDINGS

        changing = {char for name in self.foldings for char in FOLDINGS[name]}
        rules = {CHARS + char.encode(): self._fold(char) for char in changing if self._fold(char) != char}
        rules |= {CHARS + literal.encode(): self._fold(content) for literal, content in self.literals.items()}
        return rules | {CLUSTERS + key: text for key, text in self.clusters.items()}

    def expansion(self) -> int:
        """An upper limit of the tokens for a byte of text: each character may be one, and may get a word mark in front."""
        many = {key.decode(errors="replace"): text for key, text in self.clusters.items()}
        joined = max([1.0, *(len(text) / len(key) for key, text in many.items() if len(key) > 1)])

        def chars(text: str) -> float:
            return sum(max(joined, len(many.get(char, char))) for char in text)

        ratio = max([1.0, *(len(text) / len(key) for key, text in self.clusters.items())])
        changed = [chars(text) / (len(key) - 1) for key, text in self.rewrites().items() if key[:1] == CHARS]
        if self.flags & layout.DECOMPOSE_HANGUL:
            changed.append(joined)
        ratio = max([ratio, *changed])
        return min(2 * math.ceil(ratio), layout.MAX_EXPANSION)


def _pre_tokenizer_flags(path: Path, value: Any) -> int:
    flags = 0
    steps = _steps(path, "pre_tokenizer", value, "pretokenizers")
    for step in steps[:-1]:
        if step["type"] == "WhitespaceSplit":
            flags |= layout.SPLIT_SPACES
        elif step["type"] == "Punctuation" and step.get("behavior", "Isolated") == "Isolated":
            flags |= layout.SPLIT_PUNCTUATION
        else:
            raise ConversionError(f"{path}: pre_tokenizer step {step!r} is not supported before Metaspace")
    last = steps[-1] if steps else {}
    if last.get("type") != "Metaspace" or last.get("replacement") != _MARK or not last.get("split", True):
        raise ConversionError(f"{path}: pre_tokenizer must end in Metaspace with the replacement {_MARK!r} and split, not {last!r}")
    scheme = last.get("prepend_scheme", "always" if last.get("add_prefix_space", True) else "never")
    if scheme not in _PREFIXES:
        raise ConversionError(f"{path}: pre_tokenizer: prepend_scheme is {scheme!r}; known: {', '.join(_PREFIXES)}")
    return flags | _PREFIXES[scheme]
