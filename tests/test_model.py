"""`load` and `Model`: results, options, and every kind of bad input."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import LEVELS
from format_files import write_small
from models import convert, small_model_file, vocabulary, write_checkpoint

import tinybert_rt as tb

TEXTS = ["The cat sat on the mat.", "a small model", "", "fast vector " * 10, "中文 é!"]


@pytest.fixture(scope="module")
def model() -> tb.Model:
    return tb.load(small_model_file(), threads=1)


# ---------------------------------------------------------------- results


def test_encode_returns_normalized_float32_vectors(model: tb.Model) -> None:
    vectors = model.encode(TEXTS)
    assert vectors.shape == (5, 64)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_encode_takes_iterators_and_pairs(model: tb.Model) -> None:
    assert (model.encode(iter(TEXTS)) == model.encode(TEXTS)).all()
    pairs = model.encode([("cat", "dog"), ("a", "")])
    assert pairs.shape == (2, 64)
    assert (pairs[0] != model.encode([("dog", "cat")])[0]).any()


def test_a_text_has_the_same_bytes_alone_and_among_a_thousand(model: tb.Model) -> None:
    rng = np.random.default_rng(1)
    words = [piece for piece in vocabulary() if piece.isalpha()]
    texts = [" ".join(rng.choice(words, rng.integers(1, 90))) for _ in range(1000)]
    together = model.encode(texts, truncation="truncate")
    for threads in (1, 2):
        other = tb.load(small_model_file(), threads=threads)
        assert other.encode(texts, truncation="truncate").tobytes() == together.tobytes()
        for i in (0, 1, 500, 999):
            assert other.encode([texts[i]], truncation="truncate").tobytes() == together[i].tobytes()


def test_numpy_integers_are_integers(model: tb.Model) -> None:
    cut = model.encode(TEXTS, dim=np.int64(20), max_tokens=np.int32(90), truncation="truncate")  # type: ignore[arg-type]
    assert cut.shape == (5, 20)


def test_details_count_tokens_and_flag_truncation(model: tb.Model) -> None:
    with pytest.warns(tb.TruncationWarning, match=r"1 of 2 texts has more than 96 tokens"):
        result = model.encode_detailed(["a cat", "cat " * 200])
    assert result.token_counts.tolist() == [4, 202]
    assert result.truncated.tolist() == [False, True]


def test_truncation_policies(model: tb.Model) -> None:
    long = "cat " * 200
    cut = model.encode([long], truncation="truncate")
    assert (cut == model.encode(["cat " * 94])).all()
    with pytest.raises(tb.errors.TextTooLongError, match=r"text 1 has 202 tokens, the limit is 96"):
        model.encode(["a", long], truncation="error")
    assert (model.encode([long], max_tokens=10, truncation="truncate") == model.encode(["cat " * 8])).all()


def test_dim_keeps_the_first_elements_and_normalizes_again(model: tb.Model) -> None:
    full, cut = model.encode(TEXTS), model.encode(TEXTS, dim=20)
    expected = full[:, :20] / np.linalg.norm(full[:, :20], axis=1, keepdims=True)
    assert cut.shape == (5, 20)
    assert np.allclose(cut, expected, atol=1e-6)


def test_int8_and_binary_outputs(model: tb.Model) -> None:
    vectors = model.encode(TEXTS).astype(np.float64)
    int8 = model.encode(TEXTS, dtype="int8")
    assert int8.dtype == np.int8
    assert (np.abs(int8).max(1) == 127).all()
    scaled = int8 / np.linalg.norm(int8.astype(np.float64), axis=1, keepdims=True)
    assert (scaled * vectors).sum(1).min() > 0.9995
    binary = model.encode(TEXTS, dtype="binary")
    assert binary.dtype == np.uint8
    assert (np.unpackbits(binary, axis=1) == (vectors > 0)).all()


def test_progress_is_called_and_can_cancel(model: tb.Model) -> None:
    seen: list[tuple[int, int | None]] = []
    model.encode(["cat"] * 3000, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (3000, 3000)
    assert len(seen) >= 3
    with pytest.raises(tb.errors.CancelledError):
        model.encode(["cat"] * 3000, progress=lambda done, total: False)


def test_stream_reads_only_what_it_needs(model: tb.Model) -> None:
    taken = 0

    def texts() -> Iterator[str]:
        nonlocal taken
        while True:
            taken += 1
            yield "a cat"

    next(model.stream(texts()))
    assert taken <= 2000


def test_rank_orders_by_similarity(model: tb.Model) -> None:
    ranked = model.rank("a cat", ["dog", "a cat", "mat"], top=2)
    assert ranked[0].index == 1
    assert ranked[0].score == pytest.approx(1, abs=1e-6)
    assert len(ranked) == 2
    with pytest.raises(tb.errors.InvalidTextError, match="single string"):
        model.rank("cat", "dog")


def test_tokenize_and_vocabulary(model: tb.Model) -> None:
    pieces = model.vocabulary()
    assert pieces == vocabulary()
    tokens = model.tokenize("The cat", "sat")
    assert [pieces[i] for i in tokens.ids] == ["[CLS]", "the", "cat", "[SEP]", "sat", "[SEP]"]
    assert tokens.types.tolist() == [0, 0, 0, 0, 1, 1]
    cut = model.tokenize("the cat sat", max_tokens=4)
    assert (cut.ids.size, cut.total, cut.truncated) == (4, 5, True)
    ids, offsets = model.tokenize_batch(["the cat", ""])
    assert offsets.tolist() == [0, 4, 6]
    assert ids.size == 6


def test_several_threads_may_use_one_model(model: tb.Model) -> None:
    from concurrent.futures import ThreadPoolExecutor

    expected = model.encode(TEXTS * 40)
    shared = tb.load(small_model_file(), threads=2)
    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(lambda _: shared.encode(TEXTS * 40), range(12)):
            assert (result == expected).all()


def test_a_model_from_bytes_is_the_model_from_the_file(model: tb.Model) -> None:
    data = small_model_file().read_bytes()
    assert (tb.load(data, threads=1).encode(TEXTS) == model.encode(TEXTS)).all()
    shifted = memoryview(b"x" + data)[1:]
    assert (tb.load(shifted, threads=1).encode(TEXTS) == model.encode(TEXTS)).all()


def test_a_pickled_model_is_opened_again(model: tb.Model) -> None:
    import pickle

    for source in (small_model_file(), small_model_file().read_bytes()):
        copy = pickle.loads(pickle.dumps(tb.load(source, threads=2)))
        assert copy.threads == 2
        assert (copy.encode(TEXTS) == model.encode(TEXTS)).all()


@pytest.mark.parametrize("texts", [["a cat"], ["", "the mat", "x" * 300], ["cat"] * 16, ["cat"] * 17, ["the cat " * 1000] * 3])
@pytest.mark.parametrize("options", [{}, {"dim": 7}, {"max_tokens": 5}, {"truncation": "only_first", "dim": 64}])
def test_few_texts_get_the_vectors_of_many(model: tb.Model, texts: list[str], options: dict[str, Any]) -> None:
    """A list of a few short texts takes a shorter way through Python than an iterator."""
    options = {"truncation": "truncate", **options}
    assert model.encode(texts, **options).tobytes() == model.encode(iter(texts), **options).tobytes()
    with pytest.raises(tb.errors.TextTooLongError, match="text 1 has 8 tokens, the limit is 5"):
        model.encode(["cat", "cat cat cat cat cat cat"], truncation="error", max_tokens=5)
    with pytest.warns(tb.errors.TruncationWarning, match="1 of 2 texts has more than 5 tokens"):
        model.encode(["cat", "cat cat cat cat cat cat"], max_tokens=5)


@pytest.mark.parametrize("given", [[], 3, b"truncate"])
def test_names_that_are_no_str(given: Any, model: tb.Model) -> None:
    for use in (model.encode, model.tokenize, lambda text, truncation: model.encode(iter(text), truncation=truncation)):
        with pytest.raises(tb.errors.InvalidArgumentError, match="truncation must be one of"):
            use(["a"] if use is not model.tokenize else "a", truncation=given)
    with pytest.raises(tb.errors.InvalidArgumentError, match="isa must be the name of"):
        tb.load(small_model_file(), isa=given)


def test_bytes_are_to_be_decoded(model: tb.Model) -> None:
    with pytest.raises(tb.errors.InvalidTextError, match="texts is bytes: decode it"):
        model.encode(b"abc")  # type: ignore[arg-type]


def test_what_cannot_be_truncated_as_asked_says_why(model: tb.Model) -> None:
    long = "cat " * 200
    for texts, policy, says in (
        ([("a", "b"), (long, "a")], "only_second", "its first text alone leaves no room for the second: shorten the first"),
        ([("a", "b"), ("a", long)], "only_first", "its second text alone leaves no room for the first: shorten the second"),
        (["a", long], "only_second", "there is no second text to truncate"),
    ):
        with pytest.raises(tb.errors.TextTooLongError, match=f"text 1 has 20[0-9] tokens, the limit is 96, and {says}"):
            model.encode(texts, truncation=policy)  # type: ignore[arg-type]


def test_a_model_of_two_tokens_has_no_room_for_a_pair(tmp_path: Path) -> None:
    model = tb.load(write_small(tmp_path / "small.tbrt", max_tokens=2), threads=1)
    with pytest.raises(tb.errors.InvalidArgumentError, match="the model takes 2 tokens, too few for a pair"):
        model.encode([("a", "b")])


def test_a_warning_about_one_text_is_in_the_singular(model: tb.Model) -> None:
    with pytest.warns(tb.TruncationWarning, match="1 of 1 text has more than 96 tokens and was truncated"):
        model.encode(["cat " * 200])


def test_a_model_can_be_used_while_the_process_ends() -> None:
    """Exit handlers run in reverse order: this one after those that were registered when the model was loaded."""
    import subprocess
    import sys

    code = (
        "import atexit\n"
        "atexit.register(lambda: print(model.encode(['a cat']).shape))\n"
        "import tinybert_rt as tb\n"
        f"model = tb.load({str(small_model_file())!r}, threads=2)\n"
        "model.encode(['the mat'])\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout == "(1, 64)\n"


def test_exceptions_of_signal_handlers_leave_the_model_usable() -> None:
    """Raised at random places of a threaded call, again and again: no hang, no wrong vector, no thread too many."""
    import os
    import signal

    model = tb.load(small_model_file(), threads=2)
    texts = TEXTS * 20
    expected = model.encode(texts).tobytes()
    before = len(os.listdir("/proc/self/task"))

    def interrupt(number: int, frame: object) -> None:
        raise TimeoutError

    old = signal.signal(signal.SIGALRM, interrupt)
    interrupted = 0
    try:
        for i in range(400):
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-4 + (i % 40) * 5e-5)
                result = model.encode(texts).tobytes()
                signal.setitimer(signal.ITIMER_REAL, 0)
                assert result == expected
            except TimeoutError:
                interrupted += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert interrupted > 100
    assert model.encode(texts).tobytes() == expected
    assert len(os.listdir("/proc/self/task")) <= before + 4


def test_a_forked_child_gets_the_same_vectors() -> None:
    import os

    model = tb.load(small_model_file(), threads=2)
    expected = model.encode(TEXTS * 50).tobytes()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, b"same" if model.encode(TEXTS * 50).tobytes() == expected else b"other")
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        assert file.read() == b"same"
    os.waitpid(child, 0)


def test_info_names_the_facts(model: tb.Model) -> None:
    facts = model.info()
    assert facts["layers"] == 2
    assert facts["weights"] == "int8"
    assert facts["pooling"] == "mean"
    assert facts["isa"] == LEVELS[-1]


# ---------------------------------------------------------------- bad input


def test_no_texts(model: tb.Model) -> None:
    for texts in ([], iter([])):
        with pytest.raises(tb.errors.InvalidArgumentError, match="empty"):
            model.encode(texts)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a", 3], "text 1 is not a str but int"),
        (["a", None], "text 1 is not a str but NoneType"),
        ([b"a"], "text 0 is not a str but bytes"),
        ("a cat", "single string"),
        (7, "list or iterator"),
        ([("a", "b", "c")], "a pair has 2"),
        (["a", ("b", "c")], "text 1 is a pair"),
        (["a", "b\ud800c"], r"text 1 has a lone surrogate, U\+D800, at character 1"),
    ],
)
def test_items_that_are_no_texts(model: tb.Model, texts: object, message: str) -> None:
    with pytest.raises(tb.errors.InvalidTextError, match=message):
        model.encode(texts)  # type: ignore[arg-type]


def test_strange_texts_have_defined_results(model: tb.Model) -> None:
    empty, spaces, nul = model.encode(["", "   ", "\0"])
    assert (empty == spaces).all()
    assert (empty == nul).all()
    assert (model.encode(["c\0at"]) == model.encode(["cat"])).all()
    long_word, many_words = "x" * 10_000_000, "cat " * 2_500_000
    result = model.encode_detailed([long_word, many_words], truncation="truncate")
    assert result.token_counts.tolist() == [3, 2_500_002]
    assert (result.vectors[1] == model.encode(["cat " * 94])[0]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 0}, "dim must be between 1 and 64"),
        ({"dim": 65}, "dim must be between 1 and 64"),
        ({"dtype": "float16"}, "dtype must be one of"),
        ({"truncation": "never"}, "truncation must be one of"),
        ({"truncation": ""}, "truncation must be one of"),
        ({"max_tokens": 1.5}, "max_tokens must be an integer"),
        ({"max_tokens": 1}, "max_tokens must be between 3 and 96"),
        ({"max_tokens": 97}, "max_tokens must be between 3 and 96"),
    ],
)
def test_options_out_of_range(model: tb.Model, options: dict[str, object], message: str) -> None:
    with pytest.raises(tb.errors.InvalidArgumentError, match=message):
        model.encode(["a"], **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("threads", [0, -1, 257, 1.5, True])
def test_thread_counts_out_of_range(threads: object) -> None:
    with pytest.raises(tb.errors.InvalidArgumentError, match="threads"):
        tb.load(small_model_file(), threads=threads)  # type: ignore[arg-type]


def test_unknown_isa_and_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(tb.errors.UnknownIsaError, match="sse9"):
        tb.load(small_model_file(), isa="sse9")
    with pytest.raises(tb.errors.UnsupportedIsaError, match="neon"):
        tb.load(small_model_file(), isa="neon")
    with pytest.raises(tb.errors.InvalidArgumentError, match="engine"):
        tb.load(small_model_file(), engine="gpu")
    monkeypatch.setenv("TINYBERT_RT_ISA", "sse9")
    with pytest.raises(tb.errors.UnknownIsaError, match="sse9"):
        tb.load(small_model_file())


def test_the_environment_lowers_the_isa_and_never_raises_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYBERT_RT_ISA", LEVELS[0])
    assert tb.load(small_model_file()).isa == LEVELS[0]
    with pytest.raises(tb.errors.UnsupportedIsaError):
        tb.load(small_model_file(), isa=LEVELS[-1])


def test_files_that_are_no_models(tmp_path: Path) -> None:
    with pytest.raises(tb.errors.ModelNotFoundError, match=r"nowhere\.tbrt: no such file"):
        tb.load(tmp_path / "nowhere.tbrt")
    with pytest.raises(FileNotFoundError):
        tb.load(tmp_path / "nowhere.tbrt")
    with pytest.raises(tb.errors.UnreadableFileError):
        tb.load(tmp_path)
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(tb.errors.EmptyFileError):
        tb.load(tmp_path / "empty")
    with pytest.raises(tb.errors.InvalidArgumentError, match="is no path"):
        tb.load("a\0b")
    with pytest.raises(tb.errors.InvalidArgumentError, match="not from int"):
        tb.load(3)  # type: ignore[arg-type]
    (tmp_path / "text").write_text("hello, this is no model file at all")
    with pytest.raises(tb.errors.ModelFileError, match="text"):
        tb.load(tmp_path / "text")
    data = small_model_file().read_bytes()
    (tmp_path / "half").write_bytes(data[: len(data) // 2])
    with pytest.raises(tb.errors.ModelFileError, match="half"):
        tb.load(tmp_path / "half")


@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
def test_damaged_weights_are_an_error_not_nan(pooling: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, pooling=pooling)
    path = convert(tmp_path, "f32")
    damaged = tmp_path / "damaged.tbrt"
    shutil.copy(path, damaged)
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        weight = file.get_tensor("layers.1.ffn.out.weight").tobytes()
    data = path.read_bytes()
    where = data.index(weight)
    damaged.write_bytes(data[:where] + np.float32(np.nan).tobytes() + data[where + 4 :])
    with pytest.raises(tb.errors.NonFiniteResultError, match="text 0"):
        tb.load(damaged, threads=1).encode(["a cat"])


def test_every_single_byte_change_of_a_file_is_rejected_or_harmless(tmp_path: Path) -> None:
    """Harmless: texts are encoded to finite vectors, or refused with an error of this package."""
    write_checkpoint(tmp_path, hidden_size=16, num_attention_heads=2, intermediate_size=32, num_hidden_layers=1, max_position_embeddings=32)
    data = bytearray(convert(tmp_path, "int8").read_bytes())
    rng = np.random.default_rng(5)
    rejected = 0
    for place, original in enumerate(bytes(data)):
        data[place] ^= int(rng.integers(1, 256))
        try:
            assert np.isfinite(tb.load(bytes(data), threads=1).encode(TEXTS, truncation="truncate")).all(), place
        except tb.TinyBertError:
            rejected += 1
        data[place] = original
    assert rejected > 5000
