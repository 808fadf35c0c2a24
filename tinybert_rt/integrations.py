"""A model under the interfaces of other packages; each class is made, and its package imported, when it is first asked for.

| class | is a | of |
|---|---|---|
| `SentenceEncoder` | model as callers of `sentence_transformers.SentenceTransformer` use it | this package alone |
| `TextVectorizer` | transformer, a column a dimension | scikit-learn |
| `LangChainEmbeddings` | `Embeddings` | langchain-core |
| `LlamaIndexEmbedding` | `BaseEmbedding` | llama-index-core |
| `ChromaEmbeddingFunction` | `EmbeddingFunction` | chromadb |

Each takes `model`: a `.tbrt` file, an opened `Model` (`load(path, threads=1)` for fewer threads), or None for the bundled model. Vectors
are those of `Model.encode`, a TruncationWarning included. All can be pickled; a model from a file is opened again from its path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tinybert_rt.engine.arguments import between, yes_or_no
from tinybert_rt.errors import InvalidArgumentError
from tinybert_rt.model import Model, load

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tinybert_rt.engine.modelfile import PathOrBytes
    from tinybert_rt.engine.texts import Text


def _opened(model: Model | PathOrBytes | None) -> Model:
    return model if isinstance(model, Model) else load(model)


def _vectors(model: Model, texts: Iterable[Text]) -> NDArray[np.float32]:
    """float32 (n, dim); of no texts (0, dim)."""
    if not isinstance(texts, (str, bytes)):  # which `encode` refuses
        texts = list(texts)
        if not texts:
            return np.empty((0, model.dim), np.float32)
    return model.encode(texts)


def _path(model: Model) -> str:
    """What opens the model again in another process, a path or the name of a bundled one. Raises InvalidArgumentError for bytes."""
    source = model.__reduce__()[1][0]
    if isinstance(source, bytes):
        raise InvalidArgumentError("the model was opened from bytes: what is stored names a file, so open it from one")
    return str(source)


def _lists(model: Model, texts: Iterable[Text]) -> list[list[float]]:
    lists: list[list[float]] = _vectors(model, texts).tolist()
    return lists


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors (…, dim) divided by their lengths; zero stays zero."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: NDArray[np.float32] = vectors / np.where(length > 0, length, np.float32(1))
    return unit


_ACCEPTED: dict[str, tuple[object, ...]] = {
    "prompt_name": (None,),
    "output_value": ("sentence_embedding",),
    "precision": ("float32",),
    "convert_to_tensor": (False,),
    "device": (None, "cpu"),
    "truncate_dim": (None,),
    "pool": (None,),
    "chunk_size": (None,),
}
"""Other arguments of SentenceTransformer.encode, and the values of them that change nothing here."""


class SentenceEncoder:
    """Encodes as `sentence_transformers.SentenceTransformer` does."""

    def __init__(self, model: Model | PathOrBytes | None = None) -> None:
        self.model = _opened(model)

    def encode(
        self,
        sentences: str | Sequence[Text],
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        convert_to_numpy: bool = True,
        normalize_embeddings: bool = False,
        *,
        prompt: str | None = None,
        **others: object,
    ) -> NDArray[np.float32]:
        """The vector of a sentence, or one vector per sentence.

        Args:
            sentences: a str; or a sequence of str, or of pairs of str.
            batch_size: accepted; vectors do not depend on it, and the runtime forms its own batches.
            show_progress_bar: count the sentences on a terminal.
            convert_to_numpy: must be True.
            normalize_embeddings: vectors of length 1, also where the model does not normalize.
            prompt: what each str begins with, such as "query: ".
            others: other arguments of SentenceTransformer.encode, at values that ask for nothing more.

        Returns:
            float32 (dim,) of a str, else (n, dim).

        Raises InvalidArgumentError for what cannot be honoured, and what `Model.encode` raises.
        """
        between("batch_size", batch_size, 1, 1 << 31)
        if not convert_to_numpy:
            raise InvalidArgumentError("convert_to_numpy must be True: vectors are NumPy arrays")
        for name, value in others.items():
            if name not in _ACCEPTED:
                raise InvalidArgumentError(f"{name} is no argument that encode knows")
            if value not in _ACCEPTED[name]:
                raise InvalidArgumentError(f"{name}={value!r} cannot be honoured; Model.encode has dim and dtype for smaller vectors")
        alone = isinstance(sentences, str)
        texts: list[Any] = [sentences] if alone else list(sentences)
        if prompt is not None:
            texts = [(prompt + text[0], text[1]) if isinstance(text, (tuple, list)) else prompt + text for text in texts]
        vectors = self._encode(texts, show_progress_bar is not None and yes_or_no("show_progress_bar", show_progress_bar))
        if normalize_embeddings:
            vectors = _unit(vectors)
        return vectors[0] if alone else vectors

    def _encode(self, texts: list[Any], progress_bar: bool) -> NDArray[np.float32]:
        if not (texts and progress_bar):
            return _vectors(self.model, texts)
        from tinybert_rt.cli.common import progress

        with progress() as show:
            return self.model.encode(texts, progress=lambda done, total: show(done))

    def get_sentence_embedding_dimension(self) -> int:
        """Elements of a vector."""
        return self.model.dim

    def similarity(self, embeddings1: NDArray[np.float32], embeddings2: NDArray[np.float32]) -> NDArray[np.float32]:
        """Cosines, float32 (n, m), of vectors (n, dim) with vectors (m, dim); a vector (dim,) is one of them."""
        first, second = (_unit(np.atleast_2d(np.asarray(each, np.float32))) for each in (embeddings1, embeddings2))
        cosines: NDArray[np.float32] = first @ second.T
        return cosines


def _scikit_learn() -> type:
    from sklearn.base import BaseEstimator, TransformerMixin
    from sklearn.utils.validation import check_is_fitted

    class TextVectorizer(TransformerMixin, BaseEstimator):
        """Texts, n str, to vectors, float32 (n, dim)."""

        __qualname__ = "TextVectorizer"

        def __init__(self, model: Model | PathOrBytes | None = None) -> None:
            self.model = model

        def fit(self, X: Iterable[str], y: object = None) -> Any:
            """Opens the model; nothing is learnt."""
            self.model_ = _opened(self.model)
            return self

        def transform(self, X: Iterable[str]) -> NDArray[np.float32]:
            """One vector per text."""
            check_is_fitted(self)
            return _vectors(self.model_, X)

        def get_feature_names_out(self, input_features: object = None) -> NDArray[np.object_]:
            """Names of the dimensions."""
            check_is_fitted(self)
            return np.array([f"textvectorizer{i}" for i in range(self.model_.dim)], dtype=object)

        def __sklearn_tags__(self) -> Any:
            tags = super().__sklearn_tags__()
            tags.input_tags.string, tags.input_tags.two_d_array = True, False
            return tags

    return TextVectorizer


def _langchain() -> type:
    from langchain_core.embeddings import Embeddings

    class LangChainEmbeddings(Embeddings):
        """Vectors of documents and queries, as lists of float."""

        __qualname__ = "LangChainEmbeddings"

        def __init__(self, model: Model | PathOrBytes | None = None) -> None:
            self.model = _opened(model)

        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            """One vector per text."""
            return _lists(self.model, texts)

        def embed_query(self, text: str) -> list[float]:
            """The vector of a text."""
            return self.embed_documents([text])[0]

    return LangChainEmbeddings


def _llama_index() -> type:
    import asyncio

    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.bridge.pydantic import PrivateAttr, field_serializer

    class LlamaIndexEmbedding(BaseEmbedding):  # type: ignore[misc]
        """Vectors of nodes and queries, as lists of float."""

        __qualname__ = "LlamaIndexEmbedding"

        model: Any = None
        _model: Any = PrivateAttr()

        def __init__(self, model: Model | PathOrBytes | None = None, **settings: Any) -> None:
            opened = _opened(model)
            defaults = {"model_name": opened.info()["name"] or opened.path, "embed_batch_size": 1024}
            super().__init__(model=model, **(defaults | settings))
            self._model = opened

        @field_serializer("model")
        def _serialized(self, model: Any) -> Any:
            return _path(self._model)

        @classmethod
        def class_name(cls) -> str:
            """The name in serialized settings."""
            return "LlamaIndexEmbedding"

        def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
            return _lists(self._model, texts)

        def _get_text_embedding(self, text: str) -> list[float]:
            return self._get_text_embeddings([text])[0]

        def _get_query_embedding(self, query: str) -> list[float]:
            return self._get_text_embedding(query)

        async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
            return await asyncio.to_thread(self._get_text_embeddings, texts)

        async def _aget_text_embedding(self, text: str) -> list[float]:
            return await asyncio.to_thread(self._get_text_embedding, text)

        async def _aget_query_embedding(self, query: str) -> list[float]:
            return await asyncio.to_thread(self._get_query_embedding, query)

    return LlamaIndexEmbedding


def _chroma() -> type:
    from chromadb.api.types import EmbeddingFunction
    from chromadb.utils.embedding_functions import register_embedding_function

    @register_embedding_function
    class ChromaEmbeddingFunction(EmbeddingFunction):
        """Vectors of a collection's documents and queries. The collection keeps the path of the model."""

        __qualname__ = "ChromaEmbeddingFunction"

        def __init__(self, model: Model | PathOrBytes | None = None) -> None:
            self.model = _opened(model)
            _path(self.model)

        def __call__(self, input: list[str]) -> list[NDArray[np.float32]]:  # noqa: A002
            return list(_vectors(self.model, input))

        @staticmethod
        def name() -> str:
            """The name that a collection keeps."""
            return "tinybert-rt"

        def default_space(self) -> str:
            """The distance of a new collection."""
            return "cosine"

        def get_config(self) -> dict[str, Any]:
            """What a collection keeps beside the name."""
            return {"model": _path(self.model)}

        @staticmethod
        def build_from_config(config: dict[str, Any]) -> Any:
            """The function of a collection that is opened again."""
            return ChromaEmbeddingFunction(config["model"])

        def validate_config_update(self, old_config: dict[str, Any], new_config: dict[str, Any]) -> None:
            """Raises InvalidArgumentError for another model, whose vectors do not compare with those of the collection."""
            if old_config.get("model") != new_config.get("model"):
                raise InvalidArgumentError(f"the collection has vectors of {old_config.get('model')}")

    return ChromaEmbeddingFunction


_CLASSES: dict[str, tuple[str, Callable[[], type]]] = {
    "TextVectorizer": ("scikit-learn", _scikit_learn),
    "LangChainEmbeddings": ("langchain-core", _langchain),
    "LlamaIndexEmbedding": ("llama-index-core", _llama_index),
    "ChromaEmbeddingFunction": ("chromadb", _chroma),
}


def __getattr__(name: str) -> Any:
    if name not in _CLASSES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    package, made = _CLASSES[name]
    try:
        return globals().setdefault(name, made())
    except ModuleNotFoundError as error:
        raise ImportError(f"{name} needs the package {error.name!r}: pip install {package}") from error


def __dir__() -> list[str]:
    return sorted({"SentenceEncoder", *_CLASSES})
