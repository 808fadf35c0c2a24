"""Read a byte-level BPE tokenizer (GPT-2's, as RoBERTa and DeBERTa have it): tokenizer.json, or vocab.json and merges.txt."""

from __future__ import annotations

from itertools import pairwise, product
from pathlib import Path
from typing import Any

from tinybert_rt.format import layout

from .hf import ConversionError, read_json_object
from .tokenizer_parts import Tokenizer, listed_in_settings, model_max_tokens, pieces_by_id, special_ids, template

_ROBERTA = {"unk": "<unk>", "cls": "<s>", "sep": "</s>", "pad": "<pad>", "mask": "<mask>"}
_DEBERTA = {"unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "mask": "[MASK]"}

# By tokenizer_class of tokenizer_config.json or model_type of config.json: special tokens, and whether pairs have two separators.
_FAMILIES = {
    "RobertaTokenizer": (_ROBERTA, True),
    "RobertaTokenizerFast": (_ROBERTA, True),
    "roberta": (_ROBERTA, True),
    "DebertaTokenizer": (_DEBERTA, False),
    "DebertaTokenizerFast": (_DEBERTA, False),
    "deberta": (_DEBERTA, False),
}

# Options of model that must be absent or one of these.
_MODEL_OPTIONS: dict[str, tuple[Any, ...]] = {
    "dropout": (None, 0, 0.0),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
    "fuse_unk": (None, False),
    "byte_fallback": (None, False),
    "ignore_merges": (None, False),
}

Merges = dict[tuple[int, int], tuple[int, int]]


def byte_characters() -> list[str]:
    """The character that stands for each byte in the files (GPT-2's `bytes_to_unicode`)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(256 + others.index(byte)) for byte in range(256)]


def read_bpe(directory: Path, settings: dict[str, Any]) -> Tokenizer:
    """The tokenizer of a directory whose tokenizer.json is of the type BPE, or that has vocab.json and merges.txt.

    Without tokenizer.json, the mask token takes the white space before it, unless added_tokens_decoder says otherwise.
    """
    settings_path = directory / "tokenizer_config.json"
    path = directory / "tokenizer.json"
    notes: list[str] = []
    prefix_space: Any = False
    if path.exists():
        parts = read_json_object(path)
        vocabulary, merge_list = _read_model(path, parts)
        prefix_space = _read_pre_tokenizer(path, parts)
        listed = parts.get("added_tokens") or []
        source = merge_source = path
    else:
        source, merge_source = directory / "vocab.json", directory / "merges.txt"
        vocabulary, merge_list = read_json_object(source), _read_merges(merge_source)
        listed = listed_in_settings(settings_path, settings)
    pieces = pieces_by_id(source, vocabulary)
    ids = _ids(source, pieces)
    byte_ids = [ids[char] for char in byte_characters()]
    merges = _merge_ids(merge_source, ids, merge_list)
    said = settings.get("add_prefix_space", prefix_space)
    if said != prefix_space and path.exists():
        notes.append(f"{settings_path.name}: add_prefix_space = {said!r} takes the place of {path.name}'s {prefix_space!r}")
    if not isinstance(said, bool):
        raise ConversionError(f"{settings_path}: add_prefix_space is {said!r}; it must be true or false")
    added = check_added(source, pieces, listed)
    if path.exists():
        processor = post_processor(path, parts.get("post_processor"))
        defaults = _DEBERTA if "[CLS]" in pieces and "<s>" not in pieces else _ROBERTA
        special = special_ids(directory, settings, source, pieces, defaults)
        double = two_separators(path, processor, pieces, special)
    else:
        defaults, double = _family(directory, settings)
        special = special_ids(directory, settings, source, pieces, defaults)
        added.setdefault(special["mask"], layout.STRIP_LEFT)
    for index in special.values():
        added.setdefault(index, 0)
    byte_of = {char: byte for byte, char in enumerate(byte_characters())}
    raw = [
        bytes(byte_of[char] for char in piece) if index not in added and all(char in byte_of for char in piece) else piece.encode()
        for index, piece in enumerate(pieces)
    ]
    whole = [[byte_ids[byte] for byte in piece] for piece in raw]
    return Tokenizer(
        kind="bpe",
        pieces=raw,
        special=special,
        added=added,
        flags=(layout.PREFIX_SPACE if said else 0) | (layout.DOUBLE_SEPARATOR if double else 0),
        max_word_chars=1,
        model_max_tokens=model_max_tokens(settings),
        notes=notes,
        words=[index for index, piece in enumerate(raw) if 0 not in piece and merged(whole[index], merges) == [index]],
        byte_ids=byte_ids,
        merges=merges,
    )


def merged(tokens: list[int], merges: Merges) -> list[int]:
    """What is left of the tokens of a word's bytes when all pairs are merged, those of the lowest rank first, the leftmost of these."""
    tokens = list(tokens)
    none = (len(merges), -1)
    while True:
        found = [merges.get((left, right), none) for left, right in pairwise(tokens)]
        best = min(found, default=none)
        if best == none:
            return tokens
        place = found.index(best)
        tokens[place : place + 2] = [best[1]]


def _read_model(path: Path, parts: dict[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    model = parts["model"]
    for name, allowed in _MODEL_OPTIONS.items():
        if model.get(name) not in allowed:
            raise ConversionError(f"{path}: model.{name} is {model[name]!r}; it is not supported")
    if parts.get("normalizer") is not None:
        kind = parts["normalizer"].get("type") if isinstance(parts["normalizer"], dict) else parts["normalizer"]
        raise ConversionError(f"{path}: normalizer.type is {kind!r}; with a BPE model, only no normalizer is supported")
    if not isinstance(model.get("vocab"), dict):
        raise ConversionError(f"{path}: model.vocab is no object of ids by piece")
    if not isinstance(model.get("merges"), list):
        raise ConversionError(f"{path}: model.merges is no list")
    return model["vocab"], model["merges"]


def _read_pre_tokenizer(path: Path, parts: dict[str, Any]) -> Any:
    """Whether it puts a space before the text."""
    given = parts.get("pre_tokenizer")
    kind = given.get("type") if isinstance(given, dict) else given
    if not isinstance(given, dict) or kind != "ByteLevel":
        raise ConversionError(f"{path}: pre_tokenizer.type is {kind!r}; with a BPE model, only 'ByteLevel' is supported")
    if given.get("use_regex", True) is not True:
        raise ConversionError(f"{path}: pre_tokenizer.use_regex is {given['use_regex']!r}; only true is supported")
    if not isinstance(given.get("add_prefix_space"), bool):
        raise ConversionError(f"{path}: pre_tokenizer.add_prefix_space is {given.get('add_prefix_space')!r}; it must be true or false")
    return given["add_prefix_space"]


def _read_merges(path: Path) -> list[str]:
    try:
        lines = path.read_bytes().decode("utf-8").split("\n")
    except FileNotFoundError:
        raise ConversionError(f"{path}: there is no such file; it belongs to vocab.json") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConversionError(f"{path}: not readable as UTF-8 text: {error}") from None
    return [line.removesuffix("\r") for line in lines if line.strip() and not line.startswith("#version")]


def _ids(source: Path, pieces: list[str]) -> dict[str, int]:
    """The ids of the pieces, which have all bytes among them."""
    ids = {piece: index for index, piece in enumerate(pieces)}
    if "" in ids:
        raise ConversionError(f"{source}: piece {ids['']} is empty")
    missing = [byte for byte, char in enumerate(byte_characters()) if char not in ids]
    if missing:
        raise ConversionError(f"{source}: the vocabulary has no piece for {len(missing)} of the 256 bytes, the first is 0x{missing[0]:02x}")
    return ids


def _merge_ids(source: Path, ids: dict[str, int], merge_list: list[Any]) -> Merges:
    """The merges by ids; `source` has their list."""
    merges: Merges = {}
    for rank, pair in enumerate(merge_list):
        parts = pair.split(" ") if isinstance(pair, str) else pair
        if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) for part in parts):
            raise ConversionError(f"{source}: merge {rank} is {pair!r}; it must be two pieces")
        left, right, new = (ids.get(piece) for piece in (*parts, "".join(parts)))
        if left is None or right is None or new is None:
            raise ConversionError(f"{source}: merge {rank}, {' '.join(parts)!r}, has or makes a piece that is not in the vocabulary")
        if merges.setdefault((left, right), (rank, new)) != (rank, new):
            raise ConversionError(f"{source}: merges {merges[left, right][0]} and {rank} are equal: {' '.join(parts)!r}")
    if not merges:
        raise ConversionError(f"{source}: there are no merges; a vocabulary of bytes alone is not supported")
    return merges


def check_added(path: Path, pieces: list[str], listed: list[dict[str, Any]]) -> dict[int, int]:
    """Options of the added tokens by id; those behind the vocabulary are appended to `pieces`."""
    added: dict[int, int] = {}
    normalized: dict[bool, list[str]] = {False: [], True: []}
    try:
        ordered = sorted(listed, key=lambda token: token["id"])
    except (KeyError, TypeError):
        raise ConversionError(f"{path}: added_tokens: every token needs an id") from None
    for token in ordered:
        index, content = token["id"], token.get("content")
        if token.get("single_word"):
            raise ConversionError(f"{path}: added token {content!r}: the option 'single_word' is not supported")
        if index == len(pieces) and isinstance(content, str) and content and content not in pieces:
            pieces.append(content)
        there = pieces[index] if isinstance(index, int) and 0 <= index < len(pieces) else None
        if there is None or there != content:
            raise ConversionError(f"{path}: added token {content!r} has the id {index!r}; the vocabulary has {there!r} there")
        added[index] = (layout.STRIP_LEFT if token.get("lstrip") else 0) | (layout.STRIP_RIGHT if token.get("rstrip") else 0)
        normalized[bool(token.get("normalized"))].append(there)
    if any(added.values()) and any(pieces[index] != pieces[index].strip() for index in added):
        raise ConversionError(f"{path}: added_tokens: 'lstrip' and 'rstrip' beside a token that begins or ends with white space")
    # `tokenizers` looks for those that are not normalized first. Without a normalizer, that only matters where two of them overlap.
    for first, second in product(normalized[False], normalized[True]):
        if _overlap(first, second):
            raise ConversionError(f"{path}: added tokens {first!r} and {second!r} overlap and differ in 'normalized': not supported")
    return added


def _overlap(first: str, second: str) -> bool:
    """Whether the two can share characters of a text."""
    ends = any(first.endswith(second[:size]) or second.endswith(first[:size]) for size in range(1, min(len(first), len(second)) + 1))
    return ends or first in second or second in first


def _family(directory: Path, settings: dict[str, Any]) -> tuple[dict[str, str], bool]:
    name = settings.get("tokenizer_class") or read_json_object(directory / "config.json", required=False).get("model_type")
    if name not in _FAMILIES:
        known = ", ".join(family for family in _FAMILIES if family.endswith("Tokenizer"))
        raise ConversionError(f"{directory}: tokenizer_class is {name!r}; with vocab.json and merges.txt, one of {known} is needed")
    return _FAMILIES[name]


def post_processor(path: Path, processor: Any) -> dict[str, Any]:
    """The one that adds special tokens: ByteLevel beside it only changes offsets."""
    given = processor.get("processors") if isinstance(processor, dict) and processor.get("type") == "Sequence" else [processor]
    found = [each for each in given or [] if isinstance(each, dict) and each.get("type") != "ByteLevel"]
    if len(found) != 1:
        raise ConversionError(f"{path}: post_processor adds no special tokens, or more than one of its parts does")
    return found[0]


def two_separators(path: Path, processor: dict[str, Any], pieces: list[str], special: dict[str, int]) -> bool:
    """Whether pairs are <s> A </s></s> B </s> without types (Liu et al. 2019), not [CLS] A [SEP] B [SEP] with type 1 from B on."""
    cls, sep = pieces[special["cls"]], pieces[special["sep"]]
    kind = processor.get("type")
    if kind in ("RobertaProcessing", "BertProcessing"):
        if processor.get("cls") == [cls, special["cls"]] and processor.get("sep") == [sep, special["sep"]]:
            return bool(kind == "RobertaProcessing")
    elif kind == "TemplateProcessing":
        single = [(cls, 0), ("A", 0), (sep, 0)]
        forms = {False: [*single, ("B", 1), (sep, 1)], True: [*single, (sep, 0), ("B", 0), (sep, 0)]}
        names = processor.get("special_tokens") or {}
        right = all(names.get(token, {}).get("ids") == [index] for token, index in ((cls, special["cls"]), (sep, special["sep"])))
        for double, form in forms.items():
            if right and template(processor.get("single")) == single and template(processor.get("pair")) == form:
                return double
    raise ConversionError(f"{path}: post_processor is neither RoBERTa's nor BERT's: {cls} A {sep}, and {cls} A {sep} (one or two) B {sep}")
