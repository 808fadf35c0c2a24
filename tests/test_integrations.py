"""Models under the interfaces of other packages, each against the package itself."""

from __future__ import annotations

import asyncio
import pickle
import subprocess
import sys
from functools import cache
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from models import small_model_file

import tinybert_rt as tb
from tinybert_rt import integrations
from tinybert_rt.errors import InvalidArgumentError, InvalidTextError
from tinybert_rt.integrations import SentenceEncoder

TEXTS = ["the cat sat on the mat", "a fast model", "vectors of small texts", "the dog"]


@cache
def model() -> tb.Model:
    return tb.load(small_model_file(), threads=1)


@cache
def expected() -> np.ndarray:
    return model().encode(TEXTS)


def again(thing: Any) -> Any:
    return pickle.loads(pickle.dumps(thing))


# ---------------------------------------------------------------- sentence-transformers


def test_a_list_of_sentences_has_a_vector_each_and_one_sentence_has_one_vector() -> None:
    encoder = SentenceEncoder(small_model_file())
    assert encoder.encode(TEXTS, batch_size=2, show_progress_bar=True).tobytes() == expected().tobytes()
    assert encoder.encode(np.array(TEXTS)).tobytes() == expected().tobytes()
    assert encoder.encode(TEXTS[1]).tobytes() == expected()[1].tobytes()
    assert encoder.encode([]).shape == (0, encoder.get_sentence_embedding_dimension())


def test_a_prompt_begins_each_sentence() -> None:
    encoder = SentenceEncoder(model())
    assert encoder.encode(["cat"], prompt="the ").tobytes() == model().encode(["the cat"]).tobytes()
    assert encoder.encode([("cat", "mat")], prompt="the ").tobytes() == model().encode([("the cat", "mat")]).tobytes()


def test_vectors_are_normalized_where_the_model_does_not(tmp_path: Any) -> None:
    from models import convert, write_checkpoint

    write_checkpoint(tmp_path, normalize=False)
    encoder = SentenceEncoder(tb.load(convert(tmp_path, "f32"), threads=1))
    plain = encoder.encode(TEXTS)
    lengths = np.linalg.norm(plain.astype(np.float64), axis=1, keepdims=True)
    assert (np.abs(lengths - 1) > 0.1).all()
    np.testing.assert_allclose(encoder.encode(TEXTS, normalize_embeddings=True), plain / lengths, rtol=1e-6)


def test_similarity_is_the_cosine_of_all_pairs() -> None:
    first, second = np.array([[3, 4], [0, 0]]), np.array([4, 3])
    np.testing.assert_allclose(SentenceEncoder(model()).similarity(first, second), [[0.96], [0]], rtol=1e-6)


@pytest.mark.parametrize(
    "arguments",
    [
        {"convert_to_numpy": False},
        {"convert_to_tensor": True},
        {"precision": "int8"},
        {"output_value": "token_embeddings"},
        {"device": "cuda"},
        {"prompt_name": "query"},
        {"batch_size": 0},
        {"colour": "red"},
    ],
    ids=lambda arguments: next(iter(arguments)),
)
def test_an_argument_that_cannot_be_honoured_is_named(arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError, match=next(iter(arguments))):
        SentenceEncoder(model()).encode(TEXTS, **arguments)


def test_arguments_that_ask_for_nothing_more_are_accepted() -> None:
    arguments: dict[str, Any] = {"precision": "float32", "convert_to_tensor": False, "device": "cpu", "output_value": "sentence_embedding"}
    assert SentenceEncoder(model()).encode(TEXTS, **arguments).tobytes() == expected().tobytes()


def test_an_encoder_is_pickled() -> None:
    assert again(SentenceEncoder(model())).encode(TEXTS).tobytes() == expected().tobytes()


# ---------------------------------------------------------------- scikit-learn


def test_texts_are_vectorized_in_a_pipeline() -> None:
    from sklearn.base import clone
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    texts, labels = [*TEXTS, "cat cat", "model model"], [0, 1, 1, 0, 0, 1]
    pipeline = clone(make_pipeline(integrations.TextVectorizer(small_model_file()), LogisticRegression(C=1000))).fit(texts, labels)
    assert pipeline.predict(texts).tolist() == labels
    assert again(pipeline).predict_proba(texts).tobytes() == pipeline.predict_proba(texts).tobytes()


def test_a_vectorizer_has_the_models_vectors_and_names_its_columns() -> None:
    from sklearn.exceptions import NotFittedError

    vectorizer = integrations.TextVectorizer(model=model())
    with pytest.raises(NotFittedError):
        vectorizer.transform(TEXTS)
    assert vectorizer.fit_transform(TEXTS).tobytes() == expected().tobytes()
    assert vectorizer.transform(np.array(TEXTS)).tobytes() == expected().tobytes()
    assert vectorizer.get_feature_names_out().tolist() == [f"textvectorizer{i}" for i in range(model().dim)]
    assert vectorizer.get_params() == {"model": model()}
    with pytest.raises(InvalidTextError, match="single string"):
        vectorizer.transform("one text")


# ---------------------------------------------------------------- LangChain


@pytest.fixture
def langchain() -> Any:
    pytest.importorskip("langchain_core", reason="langchain-core is not installed")
    return integrations.LangChainEmbeddings(small_model_file())


def test_langchain_embeds_documents_and_queries(langchain: Any) -> None:
    assert langchain.embed_documents(TEXTS) == expected().tolist()
    assert langchain.embed_query(TEXTS[2]) == expected()[2].tolist()
    assert langchain.embed_documents([]) == []
    assert asyncio.run(langchain.aembed_documents(TEXTS)) == expected().tolist()
    assert again(langchain).embed_documents(TEXTS) == expected().tolist()


def test_langchain_searches_a_vector_store(langchain: Any) -> None:
    from langchain_core.vectorstores import InMemoryVectorStore

    store = InMemoryVectorStore.from_texts(TEXTS, embedding=langchain)
    (found, score), _ = store.similarity_search_with_score(TEXTS[1], k=2)
    assert found.page_content == TEXTS[1]
    assert score == pytest.approx(1)


# ---------------------------------------------------------------- LlamaIndex


@pytest.fixture
def llama_index() -> Any:
    pytest.importorskip("llama_index.core", reason="llama-index-core is not installed")
    return integrations.LlamaIndexEmbedding(small_model_file())


def test_llama_index_embeds_texts_and_queries(llama_index: Any) -> None:
    assert llama_index.get_text_embedding_batch(TEXTS) == expected().tolist()
    assert llama_index.get_text_embedding(TEXTS[0]) == expected()[0].tolist()
    assert llama_index.get_query_embedding(TEXTS[1]) == expected()[1].tolist()
    assert asyncio.run(llama_index.aget_text_embedding_batch(TEXTS)) == expected().tolist()
    assert asyncio.run(llama_index.aget_query_embedding(TEXTS[1])) == expected()[1].tolist()


def test_llama_index_keeps_the_model_and_the_settings(llama_index: Any) -> None:
    for made in (again(llama_index), type(llama_index).from_dict(llama_index.to_dict())):
        assert made.get_text_embedding_batch(TEXTS) == expected().tolist()
        assert made.embed_batch_size == 1024
    assert type(llama_index)(model(), embed_batch_size=2).get_text_embedding_batch(TEXTS) == expected().tolist()


def test_llama_index_retrieves_from_an_index(llama_index: Any) -> None:
    from llama_index.core import VectorStoreIndex
    from llama_index.core.schema import TextNode

    index = VectorStoreIndex([TextNode(text=text) for text in TEXTS], embed_model=llama_index)
    found = index.as_retriever(similarity_top_k=2).retrieve(TEXTS[3])
    assert found[0].text == TEXTS[3]
    assert found[0].score == pytest.approx(1)


# ---------------------------------------------------------------- Chroma


@pytest.fixture
def chroma() -> Any:
    pytest.importorskip("chromadb", reason="chromadb is not installed")
    return integrations.ChromaEmbeddingFunction(small_model_file())


def test_chroma_embeds_documents(chroma: Any) -> None:
    assert np.stack(chroma(TEXTS)).tobytes() == expected().tobytes()
    assert np.stack(again(chroma)(TEXTS)).tobytes() == expected().tobytes()
    assert not chroma.is_legacy()


def test_chroma_queries_a_collection(chroma: Any, tmp_path: Any) -> None:
    import chromadb

    settings = chromadb.Settings(anonymized_telemetry=False)
    client = chromadb.PersistentClient(str(tmp_path), settings)
    collection = client.create_collection("texts", embedding_function=chroma)
    collection.add(ids=[str(i) for i in range(len(TEXTS))], documents=TEXTS)
    reopened = client.get_collection("texts")  # the function is built from what the collection keeps
    for each in (collection, reopened):
        found = each.query(query_texts=[TEXTS[2]], n_results=2)
        assert found["ids"][0][0] == "2"
        assert found["distances"][0][0] == pytest.approx(0, abs=1e-6)
    stored = collection.get(ids=["1"], include=["embeddings"])["embeddings"][0]
    np.testing.assert_allclose(stored, expected()[1], rtol=1e-5)  # normalized once more by Chroma


def test_chroma_refuses_another_model_and_one_from_bytes(chroma: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="the collection has vectors of"):
        chroma.validate_config_update(chroma.get_config(), {"model": None})
    with pytest.raises(InvalidArgumentError, match="opened from bytes"):
        integrations.ChromaEmbeddingFunction(small_model_file().read_bytes())


# ---------------------------------------------------------------- packages that are missing


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [
        ("TextVectorizer", "sklearn", "scikit-learn"),
        ("LangChainEmbeddings", "langchain_core", "langchain-core"),
        ("LlamaIndexEmbedding", "llama_index", "llama-index-core"),
        ("ChromaEmbeddingFunction", "chromadb", "chromadb"),
    ],
)
def test_a_missing_package_is_named_when_its_class_is_asked_for(name: str, module: str, package: str) -> None:
    code = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == {module!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
import tinybert_rt.integrations as integrations
assert {module!r} not in sys.modules
try:
    integrations.{name}
except ImportError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"pip install {package}" in result.stdout


def test_an_unknown_name_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="Haystack"):
        _ = integrations.Haystack
