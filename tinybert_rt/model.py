"""What people touch: `load` a model file, `encode` texts into vectors, `rank` texts by a query."""

from __future__ import annotations

import os.path
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tinybert_rt.engine.arguments import between, one_of
from tinybert_rt.engine.calls import checked_ids, run_ids
from tinybert_rt.engine.cpus import check_threads
from tinybert_rt.engine.few import FEW_TEXTS, encode_few, encode_few_ids
from tinybert_rt.engine.library import load_library
from tinybert_rt.engine.modelfile import PathOrBytes
from tinybert_rt.engine.texts import Text, text_iterator
from tinybert_rt.opened import Progress, warn_of_truncated_texts
from tinybert_rt.tasks import Tasks
from tinybert_rt.text.limits import TRUNCATIONS
from tinybert_rt.vectors import OUTPUT_DTYPES, Encoded, convert

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tinybert_rt.ranking import Ranked

DEFAULT_MODEL = "all-MiniLM-L6-v2-int8.tbrt"
BUNDLED = {"all-MiniLM-L6-v2": DEFAULT_MODEL, "tiny-en": "tiny-en-int8.tbrt"}
"""Models that come with the package: the name for `load`, and the file."""


def load(
    path: PathOrBytes | None = None,
    *,
    threads: int | None = None,
    engine: str = "auto",
    isa: str | None = None,
) -> Model:
    """Open a model file.

    Args:
        path: a `.tbrt` file, or its bytes; or the name of a bundled model: "all-MiniLM-L6-v2", which None is too, or "tiny-en", which is
            smaller, faster and less exact.
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
        path = _bundled(DEFAULT_MODEL)
    elif isinstance(path, str) and path in BUNDLED:
        path = _bundled(BUNDLED[path])
    return Model(path, library, workers)


def _bundled(file: str) -> str:
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "models", file)


class Model(Tasks):
    """An opened model: immutable, shared by any number of threads. Made by `load`."""

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickled model is opened again, from its path or its bytes, where it is unpickled; the ISA is chosen anew there."""
        bundled = next((name for name, file in BUNDLED.items() if self.path == _bundled(file)), None)
        return _reload, (bundled or self._file.source, self.threads)

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
            chosen = "truncate" if truncation is None else truncation
            policy = TRUNCATIONS.get(chosen) if type(chosen) is str else None
            few = encode_few(self._pool, texts, width, policy, limit)
            if few is not None:
                vectors, truncated = few
                if truncated and truncation is None:
                    warn_of_truncated_texts(truncated, len(texts), limit)
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
        if types is None and not hidden_states:
            vectors = encode_few_ids(self._pool, ids, offsets)
            if vectors is not None:
                return vectors
        ids, offsets, types = checked_ids(ids, offsets, types)
        return run_ids(self._pool, self._model, ids, offsets, types, "hidden" if hidden_states else "vectors")

    def rank(self, query: str, texts: Sequence[str], *, top: int | None = None, method: str = "auto") -> list[Ranked]:
        """The texts by falling score for the query; ties keep their order.

        Args:
            query: the text to compare with.
            texts: the texts to rank.
            top: how many to return; None is all.
            method: "vectors": the score is the cosine similarity of the vectors. "pairs": it is that of the classification head for
                (query, text), where the text is cut if both are too long: of one output the logistic function of it, as
                sentence-transformers' CrossEncoder has it; of two labels the probability of the second (of next-sentence and
                sentence-order heads the first, which says that both belong together). "auto": pairs where the model has a head of one
                output, else vectors.

        Raises MissingHeadError where pairs are asked for and the model has no head of one or two labels, and what `encode` raises.
        """
        from tinybert_rt import ranking

        return ranking.rank(self, query, texts, top, method)


def _reload(source: PathOrBytes | None, threads: int) -> Model:
    return load(source, threads=threads)
