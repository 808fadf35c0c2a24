"""An opened model file: its facts, its tokens, and texts on their way through it. `Model` adds what is made of the results."""

from __future__ import annotations

import warnings
from _thread import _local  # threading.local; importing threading takes most of a millisecond
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from tinybert_rt.engine.arguments import between, caller_stack_level, integer, one_of
from tinybert_rt.engine.calls import run_texts
from tinybert_rt.engine.library import Library
from tinybert_rt.engine.modelfile import ModelFile, PathOrBytes, memory, strings
from tinybert_rt.engine.session import SessionPool
from tinybert_rt.engine.texts import Text, TokenScratch, batches, character_spans, encode_error, utf8
from tinybert_rt.errors import InvalidArgumentError, TruncationWarning
from tinybert_rt.format.layout import ARCHITECTURES, HEADS, MAX_LAYERS, POOLINGS, TOKENIZER_KINDS, float_linears
from tinybert_rt.text.limits import TRUNCATIONS
from tinybert_rt.vectors import Encoded, Tokens, collect

if TYPE_CHECKING:
    from numpy.typing import NDArray

_KEPT_TOKENS = 1 << 16
"""Token buffers up to this size are kept for a thread's next call."""

Progress = Callable[[int, int | None], object]


class OpenedModel:
    """What every use of a model starts from."""

    def __init__(self, path: PathOrBytes, library: Library, workers: int) -> None:
        self._library = library
        self._file = ModelFile(path, library)
        self._model = self._file.model
        self._pool = SessionPool(library, self._model, workers)
        self._local = _local()
        self.threads = workers
        self._dim = int(self._model.hidden_size)
        self._max_tokens = int(self._model.max_tokens)

    # ------------------------------------------------------------ facts

    @property
    def path(self) -> str:
        """Where the model was loaded from."""
        return self._file.name

    @property
    def dim(self) -> int:
        """Elements of a vector."""
        return self._dim

    @property
    def max_tokens(self) -> int:
        """Tokens that one text may have, special tokens included; longer ones are truncated."""
        return self._max_tokens

    @property
    def mask_id(self) -> int:
        """The id of the mask token."""
        return int(self._model.tokenizer.mask_id)

    @property
    def isa(self) -> str:
        """The instruction-set level that runs."""
        return self._library.level.name

    @property
    def engine(self) -> str:
        """What compiled the kernels: "native", the C library that came with the package, or "jit", this machine."""
        return self._library.engine

    @cached_property
    def labels(self) -> list[str]:
        """The labels of the model's head, in the order of its outputs; empty where it has none."""
        model = self._model
        return strings(model.label_texts, model.label_offsets, int(model.labels)) if model.labels else []

    @property
    def metadata(self) -> dict[str, str]:
        """The file's `__metadata__`: format, configuration and provenance."""
        return dict(self._file.metadata)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the file, in hexadecimal digits: vectors of models with the same one may be compared."""
        import hashlib

        return hashlib.sha256(self._file.data.data).hexdigest()

    def info(self) -> dict[str, Any]:
        """The model's facts, by name."""
        model = self._model
        poolings = {number: name for name, number in POOLINGS.items()}
        architectures = {number: name for name, number in ARCHITECTURES.items()}
        heads = {number: name for name, number in HEADS.items()}
        tokenizers = {number: name for name, number in TOKENIZER_KINDS.items()}
        return {
            "path": self.path,
            "bytes": int(self._file.data.size),
            "name": self._file.metadata.get("name", ""),
            "architecture": architectures.get(int(model.architecture), "unknown"),
            "layers": int(model.num_layers),
            "hidden_size": int(model.hidden_size),
            "heads": int(model.num_heads),
            "intermediate_size": int(model.intermediate_size),
            "tokenizer": tokenizers[int(model.tokenizer.kind)],
            "vocabulary": int(model.vocab_size),
            "max_tokens": self.max_tokens,
            "weights": "int8" if model.weight_dtype else "f32",
            "float_linears": float_linears(memory(model.float_linears, MAX_LAYERS)) if model.float_linears else [],
            "pooling": poolings[int(model.pooling)],
            "normalized": bool(model.normalize),
            "head": heads[int(model.head)],
            "labels": self.labels,
            "isa": self.isa,
            "engine": self.engine,
            "threads": self.threads,
        }

    def __repr__(self) -> str:
        facts = self.info()
        return f"<tinybert_rt.Model {facts['name'] or self.path}: {facts['layers']}×{facts['hidden_size']} {facts['weights']}, {self.isa}>"

    # ------------------------------------------------------------ tokens

    def tokenize(
        self, text: str, pair: str | None = None, *, max_tokens: int | None = None, truncation: str = "truncate", spans: bool = False
    ) -> Tokens:
        """Token ids of a text or a pair, [CLS] and [SEP] included; not truncated unless max_tokens says so.

        With `spans`, also the characters of the word that each token belongs to. Types are all 0 where the model has only one.
        """
        one_of("truncation", truncation, TRUNCATIONS)
        data = utf8(text, "the text")
        pair_data = b"" if pair is None else utf8(pair, "the pair")
        tokenizer = self._model.tokenizer
        longest = (len(data) + len(pair_data)) * tokenizer.tokens_per_byte + tokenizer.pair_special
        least = 3 if pair is None else tokenizer.pair_special
        if max_tokens is None:
            max_tokens = longest
        elif integer("max_tokens", max_tokens) < least:
            raise InvalidArgumentError(f"max_tokens must be at least {least}, not {max_tokens}")
        capacity = max_tokens if max_tokens < longest else longest
        scratch: TokenScratch | None = getattr(self._local, "scratch", None)
        if scratch is None or scratch.capacity < capacity:
            scratch = self._token_scratch(capacity)
        call, info = scratch.call, scratch.info
        call.max_tokens = capacity
        call.truncation = TRUNCATIONS[truncation]
        status = self._library.tokenize(call, data, len(data), pair_data, -1 if pair is None else len(pair_data))
        if status != 0:
            raise encode_error(status, 0, info.total, max_tokens, TRUNCATIONS[truncation], pair is not None)
        count = info.count
        types = scratch.types[:count].copy()
        if self._model.type_vocab_size == 1:
            types.fill(0)
        words = character_spans(scratch.spans[:count], (data, pair_data)) if spans else None
        return Tokens(scratch.ids[:count].copy(), types, info.total, info.truncated != 0, words)

    def tokenize_batch(self, texts: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Token ids of many texts, not truncated: ids (total,) int32 and offsets (n + 1,) int64."""
        parts = [self.tokenize(text).ids for text in texts]
        offsets = np.zeros(len(parts) + 1, np.int64)
        np.cumsum([part.size for part in parts], out=offsets[1:])
        return (np.concatenate(parts) if parts else np.empty(0, np.int32)), offsets

    @cached_property
    def _pieces(self) -> tuple[str, ...]:
        """The pieces of the vocabulary, in the order of their ids."""
        tokenizer = self._model.tokenizer
        return tuple(strings(tokenizer.pieces, tokenizer.piece_offsets, int(tokenizer.vocab_size)))

    def vocabulary(self) -> list[str]:
        """The pieces of the vocabulary, in the order of their ids.

        Pieces of byte-level BPE are bytes of UTF-8: those that are no whole characters have U+FFFD in them.
        """
        return list(self._pieces)

    # ------------------------------------------------------------ inside

    def _limits(self, truncation: str, max_tokens: int | None) -> tuple[int, int]:
        one_of("truncation", truncation, TRUNCATIONS)
        limit = (
            self.max_tokens
            if max_tokens is None
            else between("max_tokens", max_tokens, self._model.tokenizer.pair_special, int(self._model.max_positions))
        )
        return TRUNCATIONS[truncation], limit

    def _stream(self, texts: Iterator[Text], width: int, truncation: int, limit: int, *, scores: bool) -> Iterator[Encoded]:
        """Vectors cut to `width`, or probabilities of `width` labels, group by group."""
        first = 0
        for data, offsets, pairs in batches(texts):
            if pairs and limit < self._model.tokenizer.pair_special:
                raise InvalidArgumentError(f"{self.path}: the model takes {limit} tokens, too few for a pair: convert it with more")
            count = (len(offsets) - 1) // (1 + pairs)
            done = 0
            while done < count:
                starts = offsets[done * (1 + pairs) :]
                results = run_texts(self._pool, data, starts, pairs, count - done, width, truncation, limit, first + done, scores)
                done += len(results[0])
                yield Encoded(*results)
            first += count

    def _collected(
        self, groups: Iterator[Encoded], texts: Iterable[Text], truncation: str | None, max_tokens: int | None, progress: Progress | None
    ) -> Encoded:
        """All groups of `texts` as one; where truncation was not asked for (None), a warning says how many were truncated."""
        result = collect(groups, len(texts) if isinstance(texts, Sequence) else None, progress)
        if truncation is None and result.truncated.any():
            warn_of_truncated_texts(int(result.truncated.sum()), len(result.truncated), max_tokens or self.max_tokens)
        return result

    def _token_scratch(self, capacity: int) -> TokenScratch:
        scratch = TokenScratch(max(capacity, 1024), self._model)
        if capacity <= _KEPT_TOKENS:
            self._local.scratch = scratch
        return scratch


def warn_of_truncated_texts(truncated: int, texts: int, limit: int) -> None:
    """The warning about texts that were truncated without being asked for."""
    have, were = ("has", "was") if truncated == 1 else ("have", "were")
    warn_of_truncation(
        f"{truncated} of {texts} text{'s' * (texts != 1)} {have} more than {limit} tokens and {were} truncated; "
        "truncation='truncate' accepts that, truncation='error' refuses it"
    )


def warn_of_truncation(message: str) -> None:
    """A TruncationWarning at the line that called this package."""
    warnings.warn(message, TruncationWarning, stacklevel=caller_stack_level())
