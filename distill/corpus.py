"""Plain text as token ids on disk, which are memory-mapped: no part of it has to fit into memory.

Text files (.txt, .gz, .xz) in UTF-8: a line is a paragraph, a blank line ends a document. A folder of tokens has
    ids.npy        uint16 (tokens,), uint32 where the vocabulary has more than 65,536 pieces
    sentences.npy  int64 (sentences + 1,): where each begins in `ids`, and the end
    documents.npy  int64 (documents + 1,): the same; every document begins with a sentence
    index.json     what it was made of: tokenizer, files, counts
"""

from __future__ import annotations

import glob
import gzip
import hashlib
import io
import json
import lzma
import re
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from tqdm import tqdm

from .folders import whole_folder
from .settings import DistillError, SettingsError

_FORMAT = 1
_LONGEST_LINE = 1 << 20
_LONGEST_DOCUMENT = 1 << 16
"""Tokens; what is longer becomes several documents, at a sentence's end."""
_TOGETHER = 1 << 20
"""Characters that are tokenized at once."""

# A sentence ends with . ! ? or …, perhaps a closing quote or bracket, white space, and a capital letter, digit or opening quote behind it;
# not behind an initial ("J. Smith") or a short title. Ideographic full stops need no white space.
_SENTENCE_END = re.compile(
    r"""(?:(?<=[.!?…])|(?<=[.!?…]["'”’)\]]))(?<!\b[A-Z][.])(?<!\b(?:Mr|Ms|Dr|St|vs)[.])(?<!\bMrs[.])\s+(?=["'“‘(\[]*[^\W_a-z])|(?<=[。！？])"""
)


@dataclass(frozen=True)
class Corpus:
    """Token ids, memory-mapped, and where sentences and documents begin in them; see the arrays above."""

    ids: np.ndarray
    sentences: np.ndarray
    documents: np.ndarray
    identity: str
    """a digest of text and tokenizer"""


def sentences_of(paragraph: str) -> list[str]:
    """The sentences of a paragraph, without white space around them."""
    return [part for each in _SENTENCE_END.split(paragraph) if (part := each.strip())]


def find_files(patterns: Sequence[str], root: Path) -> list[Path]:
    """The files that paths with wildcards name, sorted for each. Raises SettingsError where there is none."""
    files: list[Path] = []
    for pattern in patterns:
        found = sorted(Path(path) for path in glob.glob(str(root / pattern), recursive=True) if Path(path).is_file())
        if not found:
            raise SettingsError(f"{root / pattern}: there is no such file of text")
        files += found
    return files


def paragraphs(path: Path, bar: Any = None) -> Iterator[str]:
    """The paragraphs of a text file, "" between documents and at the end. Raises DistillError for what cannot be read."""
    number = 0
    try:
        with path.open("rb") as raw, _opened(path, raw) as file:
            reached = 0
            for line in iter(lambda: file.readline(_LONGEST_LINE), ""):
                number += 1
                yield line.strip()
                if bar is not None and raw.tell() != reached:
                    bar.update(raw.tell() - reached)
                    reached = raw.tell()
    except UnicodeDecodeError as error:
        raise DistillError(f"{path}: behind line {number}: not UTF-8 ({error.reason})") from None
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise DistillError(f"{path}: behind line {number}: cannot be read: {error}") from None
    yield ""


def _opened(path: Path, raw: IO[bytes]) -> io.TextIOWrapper:
    unpack: dict[str, Any] = {".gz": lambda: gzip.GzipFile(fileobj=raw), ".xz": lambda: lzma.LZMAFile(raw)}  # noqa: SIM115
    return io.TextIOWrapper(unpack.get(path.suffix, lambda: raw)(), encoding="utf-8-sig", newline="\n")


def digest_of_files(files: Sequence[Path]) -> list[dict[str, Any]]:
    """Name, size and a digest of size, first and last mebibyte of each file: enough to see that a corpus is another one."""
    found = []
    for path in files:
        size = path.stat().st_size
        with path.open("rb") as file:
            digest = hashlib.sha256(file.read(1 << 20))
            file.seek(max(0, size - (1 << 20)))
            digest.update(file.read())
        found.append({"name": path.name, "bytes": size, "sha256_of_ends": digest.hexdigest()})
    return found


def plain_tokenizer(tokenizer: Any) -> Any:
    """A copy of a fast tokenizer's `tokenizers.Tokenizer` without truncation and padding."""
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    return backend


def build(files: Sequence[Path], tokenizer: Any, folder: Path, *, quiet: bool = False, keep: bool = False) -> Corpus:
    """The tokens of text files, from a folder; made there if they are not of this text and this tokenizer.

    Args:
        tokenizer: a fast one of `transformers`.
        keep: refuse a folder that is of other text, in place of making it anew.

    Raises DistillError for text that cannot be read, is empty, or a disk that is full: what was in the folder is as it was.
    """
    backend = plain_tokenizer(tokenizer)
    made_of = {
        "format": _FORMAT,
        "tokenizer": hashlib.sha256(backend.to_str().encode()).hexdigest(),
        "pieces": len(tokenizer),
        "files": digest_of_files(files),
    }
    index = _index(folder)
    if index is None or index["made_of"] != made_of:
        if keep:
            raise SettingsError(f"{folder}: the run was begun with other text or another tokenizer: name another 'out', or remove it")
        _write(files, backend, folder, made_of, quiet)
    return load(folder)


def estimate_tokens(files: Sequence[Path], tokenizer: Any) -> int:
    """About how many tokens files have: by the first million characters of the first of them."""
    encode, taken = plain_tokenizer(tokenizer).encode_batch, _Counter()
    texts: list[str] = []
    characters = 0
    for paragraph in paragraphs(files[0], taken):
        texts.append(paragraph)
        characters += len(paragraph)
        if characters >= _TOGETHER:
            break
    tokens = sum(len(encoding.ids) for encoding in encode(texts, add_special_tokens=False))
    return round(tokens * sum(path.stat().st_size for path in files) / max(1, taken.bytes))


class _Counter:
    bytes = 0

    def update(self, count: int) -> None:
        self.bytes += count


def load(folder: Path) -> Corpus:
    """Open a folder of tokens. Raises DistillError."""
    index = _index(folder)
    if index is None:
        raise DistillError(f"{folder}: there are no tokens, or they cannot be read: remove it")
    try:
        ids, sentences, documents = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("ids", "sentences", "documents"))
    except (OSError, ValueError) as error:
        raise DistillError(f"{folder}: cannot be read: {error}: remove it") from None
    if [len(ids), len(sentences), len(documents)] != [index["tokens"], index["sentences"] + 1, index["documents"] + 1]:
        raise DistillError(f"{folder}: its files do not fit together: remove it")
    return Corpus(
        ids, sentences, documents, identity=hashlib.sha256(json.dumps(index["made_of"], sort_keys=True).encode()).hexdigest()[:16]
    )


def _index(folder: Path) -> dict[str, Any] | None:
    try:
        index: dict[str, Any] = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return index


def _write(files: Sequence[Path], backend: Any, folder: Path, made_of: dict[str, Any], quiet: bool) -> None:
    with whole_folder(folder) as made:
        counts = _tokenize(files, backend, made, made_of["pieces"], quiet)
        if not counts["tokens"]:
            raise DistillError(f"{', '.join(map(str, files[:3]))}: there is no text in it")
        (made / "index.json").write_text(json.dumps({"made_of": made_of, **counts}, indent=2) + "\n", encoding="utf-8")


def _tokenize(files: Sequence[Path], backend: Any, folder: Path, pieces: int, quiet: bool) -> dict[str, int]:
    # Byte-level BPE has a space in its words: that between sentences is the second one's.
    joint = " " if json.loads(backend.to_str())["model"]["type"] == "BPE" else ""
    encode = getattr(backend, "encode_batch_fast", backend.encode_batch)
    total = sum(path.stat().st_size for path in files)
    with (
        _Array(folder / "ids.npy", np.uint16 if pieces <= 1 << 16 else np.uint32) as ids,
        _Array(folder / "sentences.npy", np.int64) as sentences,
        _Array(folder / "documents.npy", np.int64) as documents,
        tqdm(total=total, unit="B", unit_scale=True, desc="tokenizing", file=sys.stderr, disable=True if quiet else None) as bar,
    ):
        documents.append([0])
        waiting: list[str] = []
        ends: set[int] = set()
        size = document = 0

        def flush() -> None:
            nonlocal document
            for index, encoding in enumerate(encode(waiting, add_special_tokens=False)):
                if index in ends or ids.count - document > _LONGEST_DOCUMENT:
                    document = _close(documents, ids.count, document)
                if encoding.ids:
                    sentences.append([ids.count])
                    ids.append(encoding.ids)
            if len(waiting) in ends:
                document = _close(documents, ids.count, document)
            waiting.clear()
            ends.clear()

        for path in files:
            for paragraph in paragraphs(path, bar):
                if not paragraph:
                    ends.add(len(waiting))
                for place, sentence in enumerate(sentences_of(paragraph)):
                    waiting.append(joint + sentence if place else sentence)
                    size += len(sentence)
                if size >= _TOGETHER:
                    flush()
                    size = 0
        flush()
        sentences.append([ids.count])
        return {"tokens": ids.count, "sentences": sentences.count - 1, "documents": documents.count - 1}


def _close(documents: _Array, here: int, begin: int) -> int:
    """End a document if it has tokens; returns where the next one begins."""
    if here > begin:
        documents.append([here])
    return here


class _Array:
    """A one-dimensional .npy file that grows: its header, of a fixed size, is written last."""

    _HEADER = 128

    def __init__(self, path: Path, dtype: Any) -> None:
        self._file = path.open("wb")
        self._file.write(b"\0" * self._HEADER)
        self._dtype = np.dtype(dtype)
        self.count = 0

    def __enter__(self) -> _Array:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        with self._file:
            if kind is None:
                self._file.seek(0)
                described = f"{{'descr': '{self._dtype.str}', 'fortran_order': False, 'shape': ({self.count},), }}"
                length = self._HEADER - 10
                self._file.write(b"\x93NUMPY\x01\x00" + length.to_bytes(2, "little") + described.ljust(length - 1).encode() + b"\n")

    def append(self, values: Sequence[int]) -> None:
        """Add values at the end."""
        self._file.write(np.asarray(values, self._dtype).tobytes())
        self.count += len(values)
