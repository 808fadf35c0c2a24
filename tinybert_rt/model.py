"""What people touch: `load` a model file, `encode` texts into vectors, `rank` texts by a query."""

from __future__ import annotations

import os.path
import warnings
from _thread import _local  # threading.local; importing threading takes most of a millisecond
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from tinybert_rt.engine.arguments import between, caller_stack_level, integer, one_of
from tinybert_rt.engine.calls import checked_ids, require_head, run_ids, run_texts
from tinybert_rt.engine.cpus import check_threads
from tinybert_rt.engine.few import FEW_TEXTS, FEW_TOKENS, encode_few
from tinybert_rt.engine.library import Library, load_library
from tinybert_rt.engine.modelfile import ModelFile, PathOrBytes, strings
from tinybert_rt.engine.session import SessionPool
from tinybert_rt.engine.texts import Text, TokenScratch, batches, character_spans, encode_error, text_iterator, utf8
from tinybert_rt.errors import InvalidArgumentError, TruncationWarning
from tinybert_rt.format.layout import ARCHITECTURES, HEADS, POOLINGS
from tinybert_rt.text.limits import TRUNCATIONS
from tinybert_rt.vectors import OUTPUT_DTYPES, Classified, Encoded, Tokens, classified, collect, convert

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tinybert_rt.ranking import Ranked
    from tinybert_rt.reading import Answer, Choice, Entity

DEFAULT_MODEL = "all-MiniLM-L6-v2-int8.tbrt"

_KEPT_TOKENS = 1 << 16
"""Token buffers up to this size are kept for a thread's next call."""

Progress = Callable[[int, int | None], object]


def load(
    path: PathOrBytes | None = None,
    *,
    threads: int | None = None,
    engine: str = "auto",
    isa: str | None = None,
) -> Model:
    """Open a model file.

    Args:
        path: a `.tbrt` file, or its bytes; None is the bundled all-MiniLM-L6-v2.
        threads: workers of each call; None is what the affinity mask and the cgroup quota allow.
        engine: "native" for the compiled library, "jit" for kernels compiled by Numba on this machine, "auto" for the library where
            there is one.
        isa: an instruction-set level to run instead of the best one, see `tinybert-rt info`.

    Raises:
        ModelFileError: no such file, or one of its subclasses for what is wrong with it.
        InvalidArgumentError, UnknownIsaError, UnsupportedIsaError, CompileError, LibraryError: see `tinybert_rt.errors`.
    """
    workers = check_threads(threads)
    library = load_library(engine, isa)
    if path is None:
        path = _bundled_model()
    return Model(path, library, workers)


def _bundled_model() -> str:
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "models", DEFAULT_MODEL)


class Model:
    """An opened model: immutable, shared by any number of threads. Made by `load`."""

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
        return strings(model.label_texts, model.label_offsets, int(model.labels)) if model.head else []

    @property
    def metadata(self) -> dict[str, str]:
        """The file's `__metadata__`: format, configuration and provenance."""
        return dict(self._file.metadata)

    def info(self) -> dict[str, Any]:
        """The model's facts, by name."""
        model = self._model
        poolings = {number: name for name, number in POOLINGS.items()}
        architectures = {number: name for name, number in ARCHITECTURES.items()}
        heads = {number: name for name, number in HEADS.items()}
        return {
            "path": self.path,
            "bytes": int(self._file.data.size),
            "name": self._file.metadata.get("name", ""),
            "architecture": architectures[int(model.architecture)],
            "layers": int(model.num_layers),
            "hidden_size": int(model.hidden_size),
            "heads": int(model.num_heads),
            "intermediate_size": int(model.intermediate_size),
            "vocabulary": int(model.vocab_size),
            "max_tokens": self.max_tokens,
            "weights": "int8" if model.weight_dtype else "f32",
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

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickled model is opened again, from its path or its bytes, where it is unpickled; the ISA is chosen anew there."""
        return _reload, (None if self.path == _bundled_model() else self._file.source, self.threads)

    # ------------------------------------------------------------ vectors

    def encode(
        self,
        texts: Iterable[Text],
        *,
        dim: int | None = None,
        dtype: str = "float32",
        truncation: str | None = None,
        max_tokens: int | None = None,
        progress: Progress | None = None,
    ) -> NDArray[Any]:
        """One vector per text. A text's vector has the same bytes whatever texts are beside it.

        Args:
            texts: a list or iterator of str, or of pairs of str.
            dim: keep the first `dim` elements, normalized again if the model normalizes (for Matryoshka models).
            dtype: "float32"; "int8", each vector scaled so that its largest magnitude is 127; or "binary", one bit an
                element (1 where positive), packed big-endian into uint8.
            truncation: what happens to a text of more than max_tokens tokens: "truncate" (pairs: the longer one first),
                "only_first", "only_second" or "error". None truncates too, with a TruncationWarning.
            max_tokens: another limit than the model's own, at most its number of positions.
            progress: called with the texts done and their number (None for an iterator); returning False cancels.

        Returns:
            float32 (n, dim); int8 (n, dim); or uint8 (n, ceil(dim/8)).

        Raises:
            InvalidTextError: an item is not a str or a pair, or has lone surrogates.
            InvalidArgumentError: no texts, or an argument out of range.
            TextTooLongError, NonFiniteResultError, CancelledError.
        """
        if type(texts) is list and len(texts) <= FEW_TEXTS and progress is None and dtype == "float32":
            width = self._dim if dim is None else dim
            limit = self._max_tokens if max_tokens is None else max_tokens
            policy = TRUNCATIONS.get("truncate" if truncation is None else truncation)
            few = encode_few(self._pool, texts, width, policy, limit)
            if few is not None:
                vectors, truncated = few
                if truncated and truncation is None:
                    _warn_of_truncation(truncated, len(texts), limit)
                return vectors
        return self.encode_detailed(texts, dim=dim, dtype=dtype, truncation=truncation, max_tokens=max_tokens, progress=progress).vectors

    def encode_detailed(
        self,
        texts: Iterable[Text],
        *,
        dim: int | None = None,
        dtype: str = "float32",
        truncation: str | None = None,
        max_tokens: int | None = None,
        progress: Progress | None = None,
    ) -> Encoded:
        """As `encode`, with each text's token count and whether it was truncated."""
        groups = self.stream(
            texts, dim=dim, dtype=dtype, truncation="truncate" if truncation is None else truncation, max_tokens=max_tokens
        )
        return self._collected(groups, texts, truncation, max_tokens, progress)

    def _collected(
        self, groups: Iterator[Encoded], texts: Iterable[Text], truncation: str | None, max_tokens: int | None, progress: Progress | None
    ) -> Encoded:
        """All groups of `texts` as one; where truncation was not asked for (None), a warning says how many were truncated."""
        result = collect(groups, len(texts) if isinstance(texts, Sequence) else None, progress)
        if truncation is None and result.truncated.any():
            _warn_of_truncation(int(result.truncated.sum()), len(result.truncated), max_tokens or self.max_tokens)
        return result

    def stream(
        self,
        texts: Iterable[Text],
        *,
        dim: int | None = None,
        dtype: str = "float32",
        truncation: str = "truncate",
        max_tokens: int | None = None,
    ) -> Iterator[Encoded]:
        """As `encode_detailed`, up to 1,024 texts at a time, in bounded memory; `texts` is read as it is needed.

        Truncation gives no warning here: each group says which of its texts were truncated.
        """
        one_of("dtype", dtype, OUTPUT_DTYPES)
        width = self.dim if dim is None else between("dim", dim, 1, self.dim)
        groups = self._stream(text_iterator(texts), width, *self._limits(truncation, max_tokens), scores=False)
        return groups if dtype == "float32" else (group._replace(vectors=convert(group.vectors, dtype)) for group in groups)

    def _limits(self, truncation: str, max_tokens: int | None) -> tuple[int, int]:
        one_of("truncation", truncation, TRUNCATIONS)
        limit = self.max_tokens if max_tokens is None else between("max_tokens", max_tokens, 3, int(self._model.max_positions))
        return TRUNCATIONS[truncation], limit

    def _stream(self, texts: Iterator[Text], width: int, truncation: int, limit: int, *, scores: bool) -> Iterator[Encoded]:
        """Vectors cut to `width`, or probabilities of `width` labels, group by group."""
        first = 0
        for data, offsets, pairs in batches(texts):
            count = (len(offsets) - 1) // (1 + pairs)
            done = 0
            while done < count:
                starts = offsets[done * (1 + pairs) :]
                results = run_texts(self._pool, data, starts, pairs, count - done, width, truncation, limit, first + done, scores)
                done += len(results[0])
                yield Encoded(*results)
            first += count

    def encode_ids(
        self,
        ids: NDArray[np.int32],
        offsets: NDArray[np.int64],
        types: NDArray[np.uint8] | None = None,
        *,
        hidden_states: bool = False,
    ) -> NDArray[np.float32]:
        """Vectors of texts that are tokenized already.

        Args:
            ids: (total_tokens,) int32, the token ids of all texts, one behind the other, special tokens included. The arrays
                must not be changed by another thread during the call.
            offsets: (n + 1,) int64; text i has the ids offsets[i] … offsets[i+1]−1.
            types: (total_tokens,) uint8 token types; None is all 0.
            hidden_states: return the last layer's states of all tokens instead.

        Returns:
            float32 (n, dim), or float32 (total_tokens, dim).
        """
        ids, offsets, types = checked_ids(ids, offsets, types)
        count = offsets.size - 1
        if count <= FEW_TEXTS and ids.size <= FEW_TOKENS and types is None and not hidden_states:
            with self._pool.taken() as session:
                request = session.few.put_ids(ids, offsets, count)
                if session.run(request) == 0 and request.done == count:
                    return session.few.vectors(count, self._dim)
        return run_ids(self._pool, self._model, ids, offsets, types, "hidden" if hidden_states else "vectors")

    # ------------------------------------------------------------ heads

    def classify(
        self,
        texts: Iterable[Text],
        *,
        truncation: str | None = None,
        max_tokens: int | None = None,
        progress: Progress | None = None,
    ) -> list[Classified]:
        """The label of each text, by the model's classification head.

        Args:
            texts, truncation, max_tokens, progress: as of `encode`.

        Returns one `Classified` per text: the likeliest label, its probability, and the probability of every label. Probabilities are
        softmax over the labels, or, of a head whose labels do not exclude each other, the logistic function of each; a head with
        a number for a result (regression) has that number.

        Raises MissingHeadError where the model has no such head, and what `encode` raises.
        """
        require_head(self._model, self.path, "sequence_classification")
        groups = self._stream(
            text_iterator(texts), len(self.labels), *self._limits("truncate" if truncation is None else truncation, max_tokens), scores=True
        )
        return classified(self._collected(groups, texts, truncation, max_tokens, progress).vectors, self.labels)

    def choose(self, prompt: str, choices: Sequence[str]) -> Choice:
        """The choice that fits a prompt best, by a multiple choice head: index, probability, and that of every choice.

        Raises MissingHeadError where the model has no head with one number for a text, InvalidTextError, TextTooLongError.
        """
        from tinybert_rt import reading

        require_head(self._model, self.path, "sequence_classification")
        return reading.choose(self, prompt, choices)

    def tag(self, texts: Iterable[str]) -> list[list[Entity]]:
        """The entities of each text, by the model's token classification head; texts of any length.

        A word takes the label of its first token; words "B-X", "I-X", "I-X" are one entity X, and a label without such a prefix stands for
        a word alone. Text longer than the model takes goes through in windows that overlap by a quarter.

        Raises MissingHeadError where the model has no such head, InvalidTextError.
        """
        from tinybert_rt import reading

        require_head(self._model, self.path, "token_classification")
        return reading.tag(self, texts)

    def answer(
        self, question: str, context: str, *, top: int = 1, max_answer_tokens: int = 15, stride: int = 128, no_answer: bool = False
    ) -> list[Answer]:
        """The places of a context that answer a question, by the model's question answering head, best first.

        Args:
            question, context: texts; a context of any length goes through in windows that share `stride` tokens.
            top: how many answers at most.
            max_answer_tokens: an answer has at most so many tokens.
            no_answer: "" may be an answer, for a model that was trained on questions without one (SQuAD 2.0).

        Raises MissingHeadError where the model has no such head, InvalidTextError, InvalidArgumentError.
        """
        from tinybert_rt import reading

        require_head(self._model, self.path, "question_answering")
        return reading.answer(self, question, context, top, max_answer_tokens, stride, no_answer)

    def logits(self, ids: NDArray[np.int32], offsets: NDArray[np.int64], types: NDArray[np.uint8] | None = None) -> NDArray[np.float32]:
        """The outputs of the model's head for texts that are tokenized already.

        Args:
            ids, offsets, types: as of `encode_ids`.

        Returns:
            float32 (n, labels) of a head for texts, (total_tokens, labels) of one for tokens; of question answering, the labels are
            "start" and "end".
        """
        require_head(self._model, self.path)
        return run_ids(self._pool, self._model, *checked_ids(ids, offsets, types), "scores")

    # ------------------------------------------------------------ tokens

    def tokenize(
        self, text: str, pair: str | None = None, *, max_tokens: int | None = None, truncation: str = "truncate", spans: bool = False
    ) -> Tokens:
        """Token ids of a text or a pair, [CLS] and [SEP] included; not truncated unless max_tokens says so.

        With `spans`, also the characters of the word that each token belongs to.
        """
        one_of("truncation", truncation, TRUNCATIONS)
        data = utf8(text, "the text")
        pair_data = b"" if pair is None else utf8(pair, "the pair")
        longest = len(data) + len(pair_data) + 3
        if max_tokens is None:
            max_tokens = longest
        elif integer("max_tokens", max_tokens) < 3:
            raise InvalidArgumentError(f"max_tokens must be at least 3, not {max_tokens}")
        capacity = max_tokens if max_tokens < longest else longest
        scratch: TokenScratch | None = getattr(self._local, "scratch", None)
        if scratch is None or scratch.capacity < capacity:
            scratch = self._token_scratch(capacity)
        call, info = scratch.call, scratch.info
        call.max_tokens = capacity
        call.truncation = TRUNCATIONS[truncation]
        status = self._library.tokenize(call, data, len(data), pair_data, -1 if pair is None else len(pair_data))
        if status != 0:
            raise encode_error(status, 0, info.total, max_tokens)
        count = info.count
        types = scratch.types[:count].copy()
        words = character_spans(scratch.spans[:count], types, (data, pair_data)) if spans else None
        return Tokens(scratch.ids[:count].copy(), types, info.total, info.truncated != 0, words)

    def tokenize_batch(self, texts: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Token ids of many texts, not truncated: ids (total,) int32 and offsets (n + 1,) int64."""
        parts = [self.tokenize(text).ids for text in texts]
        offsets = np.zeros(len(parts) + 1, np.int64)
        np.cumsum([part.size for part in parts], out=offsets[1:])
        return (np.concatenate(parts) if parts else np.empty(0, np.int32)), offsets

    def vocabulary(self) -> list[str]:
        """The pieces of the vocabulary, in the order of their ids."""
        tokenizer = self._model.tokenizer
        return strings(tokenizer.pieces, tokenizer.piece_offsets, int(tokenizer.vocab_size))

    # ------------------------------------------------------------ ranking

    def rank(self, query: str, texts: Sequence[str], *, top: int | None = None) -> list[Ranked]:
        """The texts by falling cosine similarity to the query; ties keep their order.

        Args:
            query: the text to compare with.
            texts: the texts to rank.
            top: how many to return; None is all.
        """
        from tinybert_rt import ranking

        return ranking.rank(self, query, texts, top)

    # ------------------------------------------------------------ inside

    def _token_scratch(self, capacity: int) -> TokenScratch:
        scratch = TokenScratch(max(capacity, 1024), self._model)
        if capacity <= _KEPT_TOKENS:
            self._local.scratch = scratch
        return scratch


def _warn_of_truncation(truncated: int, texts: int, limit: int) -> None:
    warnings.warn(
        f"{truncated} of {texts} texts have more than {limit} tokens and were truncated; "
        "truncation='truncate' accepts that, truncation='error' refuses it",
        TruncationWarning,
        stacklevel=caller_stack_level(__file__),
    )


def _reload(source: PathOrBytes | None, threads: int) -> Model:
    return load(source, threads=threads)
