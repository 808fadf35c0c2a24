"""Every head through the C library: the answers that Python gives."""

from __future__ import annotations

import re
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cffi
import numpy as np
import pytest
from models import vocabulary
from test_architectures import CASES, MASK, write_case
from test_library import build_test_program

import tinybert_rt as tb
from tinybert_rt.aot.header import public_header
from tinybert_rt.aot.targets import this_machine
from tools.convert import convert

pytestmark = pytest.mark.skipif(
    this_machine() is None or not (shutil.which("cc") and shutil.which("ar")), reason="no C compiler for this machine (cc, ar)"
)

TEXTS = ["the cat sat on the mat", "a dog", ""] * 500
TAGS = {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-φ", 4: "I-φ", 5: "NOUN"}
LONG = "Étext, the cat sat on the mats (中文) unaffable: " * 12


def declarations() -> str:
    """The public header's types and functions, as cffi reads them."""
    text = re.sub(r"/\*.*?\*/", "", public_header(), flags=re.DOTALL)
    text = text[text.index("typedef enum tbrt_status") : text.rindex("#ifdef __cplusplus")]
    text = re.sub(r"^#define TBRT_(MESSAGE_SIZE) (\d+)$", "", text, flags=re.MULTILINE).replace("TBRT_MESSAGE_SIZE", "512")
    return re.sub(r"^#.*$", "", text, flags=re.MULTILINE).replace("TBRT_API ", "")


class Session:
    """A model and a session of the C library."""

    def __init__(self, lib: Any, ffi: Any, path: Path) -> None:
        self.ffi = ffi
        self._lib = lib
        model, session = ffi.new("tbrt_model **"), ffi.new("tbrt_session **")
        assert lib.tbrt_model_open(str(path).encode(), ffi.NULL, model, ffi.NULL) == 0
        assert lib.tbrt_session_new(model[0], ffi.NULL, session, ffi.NULL) == 0
        self.model, self.session = model[0], session[0]

    def close(self) -> None:
        """Free both."""
        self._lib.tbrt_session_free(self.session)
        self._lib.tbrt_model_close(self.model)

    def __call__(self, name: str, *arguments: Any) -> int:
        """A function's status; arrays are passed by their address, None as NULL, str as UTF-8."""
        kept = []
        for each in arguments:
            if isinstance(each, np.ndarray):
                each = self.ffi.cast("void *", each.ctypes.data)
            kept.append(self.ffi.NULL if each is None else self.ffi.from_buffer(each.encode() + b"\0") if isinstance(each, str) else each)
        return int(getattr(self._lib, f"tbrt_{name}")(self.session, *kept))

    @property
    def message(self) -> str:
        """What the last call complained of."""
        return str(self.ffi.string(self._lib.tbrt_session_message(self.session)).decode())

    def labels(self) -> list[str]:
        """The head's labels."""
        label, size = self.ffi.new("const char **"), self.ffi.new("size_t *")
        found = []
        while self._lib.tbrt_model_label(self.model, len(found), label, size) == 0:
            found.append(bytes(self.ffi.buffer(label[0], size[0])).decode())
        return found

    def classify(self, texts: list[Any], width: int, **options: int) -> tuple[int, np.ndarray]:
        """tbrt_classify of texts or pairs: status, scores."""
        pairs = isinstance(texts[0], tuple)
        parts = [part for text in texts for part in (text if pairs else (text,))]
        kept = [self.ffi.new("char[]", part.encode()) for part in parts]
        given = self.ffi.new("tbrt_encode_options *", {"struct_size": self.ffi.sizeof("tbrt_encode_options"), "pairs": pairs, **options})
        scores = np.full((len(texts), width), np.nan, np.float32)
        return self("classify", self.ffi.new("const char *[]", kept), None, len(texts), given, scores, scores.size), scores


@pytest.fixture(scope="module")
def opened(library: Path) -> Iterator[Any]:
    """A function that opens model files, which are closed at the end."""
    ffi = cffi.FFI()
    ffi.cdef(declarations())
    lib = ffi.dlopen(str(library / "lib" / this_machine().shared_name))  # type: ignore[union-attr]
    sessions: list[Session] = []

    def open_file(path: Path) -> Session:
        sessions.append(Session(lib, ffi, path))
        return sessions[-1]

    yield open_file
    for session in sessions:
        session.close()


def both(opened: Any, folder: Path, case: str, head: str, asked: str | None = None, **settings: Any) -> tuple[Session, tb.Model]:
    """A model in the C library and in Python."""
    write_case(folder, CASES[case], head, **settings)
    convert(folder, folder / "model.tbrt", head=asked)
    return opened(folder / "model.tbrt"), tb.load(folder / "model.tbrt", threads=1)


HEADS = {
    "classification": ("distilbert", "ForSequenceClassification", {"id2label": {0: "no", 1: "yes", 2: "φ"}}),
    "multi-label": ("bert", "ForSequenceClassification", {"id2label": {0: "no", 1: "yes"}, "problem_type": "multi_label_classification"}),
    "regression": ("bert", "ForSequenceClassification", {"id2label": {0: "price"}}),
    "tagging": ("distilbert", "ForTokenClassification", {"id2label": TAGS}),
    "question answering": ("distilbert", "ForQuestionAnswering", {}),
    "multiple choice": ("bert", "ForMultipleChoice", {}),
    "next sentence": ("bert", "ForNextSentencePrediction", {}),
    "sentence order": ("albert", "ForPreTraining", {"asked": "sentence_order"}),
    "replaced tokens": ("electra", "ForPreTraining", {}),
    "masked tokens": ("electra-small", "ForMaskedLM", {}),
}


@pytest.mark.parametrize("name", HEADS)
def test_heads_give_what_python_gives(name: str, opened: Any, tmp_path: Path) -> None:
    case, head, settings = HEADS[name]
    session, model = both(opened, tmp_path, case, head, **settings)
    assert session.labels() == model.labels
    ids, offsets = model.tokenize_batch(TEXTS)
    if name == "masked tokens":
        ids[::9] = MASK
    expected = model.logits(ids, offsets)
    logits = np.full(expected.size, np.nan, np.float32)
    assert session("logits", ids, None, offsets, len(TEXTS), logits, expected.size - 1) == tb.errors.BufferTooSmallError.code
    assert np.isnan(logits).all()
    assert session("logits", ids, None, offsets, len(TEXTS), logits, expected.size) == 0
    assert logits.tobytes() == expected.tobytes()
    status, scores = session.classify(TEXTS, max(len(model.labels), 1))
    if model.info()["head"] != "sequence_classification":
        assert status == tb.errors.MissingHeadError.code
        return
    assert status == 0
    assert scores.tolist() == [list(each.scores.values()) for each in model.classify(TEXTS)]
    pairs = [("a dog", text) for text in TEXTS[:2]]
    status, scores = session.classify(pairs, len(model.labels))
    assert status == 0
    assert scores.tolist() == [list(each.scores.values()) for each in model.classify(pairs)]


def test_pairs_are_ranked_by_their_scores(opened: Any, tmp_path: Path) -> None:
    session, model = both(opened, tmp_path, "bert", "ForSequenceClassification", id2label={0: "LABEL_0"})
    texts = ["the cat", "a dog " * 80, "mat"]
    status, scores = session.classify([("the dog", text) for text in texts], 1, truncation=2)
    assert status == 0
    with pytest.warns(tb.TruncationWarning, match="1 of 3 texts"):
        expected = {each.index: each.score for each in model.rank("the dog", texts)}
    assert np.allclose(1 / (1 + np.exp(-scores[:, 0].astype(np.float64))), [expected[i] for i in range(3)], atol=1e-6)


def test_masks_are_filled_as_in_python(opened: Any, tmp_path: Path) -> None:
    session, model = both(opened, tmp_path, "bert", "ForMaskedLM")
    text = "the [MASK] sat on [MASK] mat é"
    expected = model.fill_mask(text, top=3)
    ids, scores = np.full((2, 3), -1, np.int32), np.full((2, 3), np.nan, np.float32)
    count = session.ffi.new("size_t *")
    size = len(text.encode())
    assert session("fill_mask", text, size, 3, ids, scores, 1, count) == tb.errors.BufferTooSmallError.code
    assert count[0] == 2
    assert "room for 1 mask tokens, the text has 2" in session.message
    assert (ids == -1).all()
    assert session("fill_mask", text, size, 3, None, None, 0, count) == tb.errors.BufferTooSmallError.code
    assert session("fill_mask", text, size, 3, ids, scores, 2, count) == 0
    assert ids.tolist() == [[each.id for each in row] for row in expected]
    assert scores.tolist() == [[each.score for each in row] for row in expected]
    assert session("fill_mask", "a dog", 5, 3, ids, scores, 2, count) == 0
    assert count[0] == 0
    long = "a " * 200
    assert session("fill_mask", long, len(long), 3, ids, scores, 2, count) == tb.errors.TextTooLongError.code
    assert "202 tokens, the limit is 96" in session.message
    assert session("fill_mask", text, size, len(vocabulary()) + 1, ids, scores, 2, count) == tb.errors.InvalidArgumentError.code
    other, _ = both(opened, tmp_path, "bert", "ForQuestionAnswering")
    assert other("fill_mask", text, size, 3, ids, scores, 2, count) == tb.errors.MissingHeadError.code


def test_tokens_have_the_bytes_of_their_words(opened: Any, tmp_path: Path) -> None:
    session, model = both(opened, tmp_path, "bert", "ForMaskedLM")
    text, pair = "É unaffable Mats", "中文 cats"
    expected = model.tokenize(text, pair, spans=True)
    count = expected.ids.size
    ids, types, spans = np.empty(count, np.int32), np.empty(count, np.uint8), np.full((count, 2), 7, np.int32)
    options = session.ffi.new(
        "tbrt_tokenize_options *",
        {"struct_size": session.ffi.sizeof("tbrt_tokenize_options"), "spans": session.ffi.cast("int32_t *", spans.ctypes.data)},
    )
    sizes = len(text.encode()), len(pair.encode())
    assert session("tokenize", text, sizes[0], pair, sizes[1], options, ids, types, count, None) == 0
    assert ids.tolist() == expected.ids.tolist()
    assert expected.spans is not None
    for kind, (begin, end), (first, last) in zip(types.tolist(), spans.tolist(), expected.spans.tolist(), strict=True):
        source = (text, pair)[kind]
        assert (first == -1 == begin == end) or source.encode()[begin:end].decode() == source[first:last]


def test_types_are_0_where_the_model_has_only_one(opened: Any, tmp_path: Path) -> None:
    session, _ = both(opened, tmp_path, "distilbert", "ForMaskedLM")
    ids, types = np.empty(9, np.int32), np.full(9, 7, np.uint8)
    assert session("tokenize", "the cat", 7, "a dog", 5, None, ids, types, 9, None) == 0
    assert types.tolist() == [0, 0, 0, 0, 0, 0, 0, 7, 7]


@pytest.mark.parametrize("text", [LONG, "the cat", "", "中文 x"])
def test_texts_are_tagged_as_in_python(text: str, opened: Any, tmp_path: Path) -> None:
    session, model = both(opened, tmp_path, "bert", "ForTokenClassification", id2label=TAGS)
    expected = model.tag([text])[0]
    data = text.encode()
    found = session.ffi.new("tbrt_entity[]", len(expected) + 1)
    count = session.ffi.new("size_t *")
    assert session("tag", text, len(data), found, len(expected), count) == 0
    assert count[0] == len(expected)
    for mine, wanted in zip(found, expected, strict=False):
        assert bytes(session.ffi.buffer(mine.label, mine.label_size)).decode() == wanted.label
        assert data[mine.start : mine.end].decode() == wanted.text
        assert len(data[: mine.start].decode()) == wanted.start
        assert mine.score == pytest.approx(wanted.score, abs=1e-5)
    if expected:
        assert session("tag", text, len(data), found, len(expected) - 1, count) == tb.errors.BufferTooSmallError.code
        assert count[0] == len(expected)


@pytest.mark.parametrize("case", ["bert", "roberta", "distilbert"])
def test_questions_are_answered_as_in_python(case: str, opened: Any, tmp_path: Path) -> None:
    session, model = both(opened, tmp_path, case, "ForQuestionAnswering")
    count = session.ffi.new("size_t *")
    for question, context, settings in (
        ("what sat ?", LONG, {"stride": 16}),
        ("a dog " * 60, LONG, {"max_answer_tokens": 4}),
        ("the cat", "Small models, fast vectors", {"no_answer": 1}),
        ("the cat", "", {"no_answer": 1}),
        ("the cat", "", {}),
    ):
        values = {"max_answer_tokens": 15, "stride": 128, "no_answer": 0, **settings}
        options = session.ffi.new("tbrt_answer_options *", {"struct_size": session.ffi.sizeof("tbrt_answer_options"), **values})
        found = session.ffi.new("tbrt_place[]", 6)
        data = context.encode()
        status = session("answer", question, len(question.encode()), context, len(data), options, found, 6, count)
        assert status == 0, session.message
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", tb.TruncationWarning)
            expected = model.answer(question, context, top=6, **{**values, "no_answer": bool(values["no_answer"])})
        assert count[0] == len(expected)
        for mine, wanted in zip(found, expected, strict=False):
            assert data[mine.start : mine.end].decode() == wanted.text
            assert len(data[: mine.start].decode()) == wanted.start
            assert mine.score == pytest.approx(wanted.score, rel=1e-4)
    assert session("answer", "a", 1, "b", 1, None, found, 0, count) == tb.errors.InvalidArgumentError.code
    for name, value in (("no_answer", 7), ("reserved", 1)):
        options = session.ffi.new("tbrt_answer_options *", {"struct_size": 24, "max_answer_tokens": 15, "stride": 128, name: value})
        assert session("answer", "a", 1, "b", 1, options, found, 6, count) == tb.errors.InvalidArgumentError.code
        assert name in session.message


def test_what_the_model_or_the_call_lacks_is_an_error(opened: Any, tmp_path: Path) -> None:
    session, _ = both(opened, tmp_path, "bert", "ForMaskedLM")
    count = session.ffi.new("size_t *")
    entities, places = session.ffi.new("tbrt_entity[]", 1), session.ffi.new("tbrt_place[]", 1)
    assert session("tag", "a", 1, entities, 1, count) == tb.errors.MissingHeadError.code
    assert session("answer", "a", 1, "b", 1, None, places, 1, count) == tb.errors.MissingHeadError.code
    assert session("tag", "a", 1, entities, 1, None) == tb.errors.InvalidArgumentError.code
    assert session("tag", "a", 1, None, 1, count) == tb.errors.InvalidArgumentError.code


def test_heads_stay_within_their_memory(tmp_path: Path) -> None:
    """Room for fewer results than there are, and allocations that fail: see tests/c/test_heads.c."""
    flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g"]
    probe = tmp_path / "probe"
    compiled = subprocess.run(["cc", *flags, "-x", "c", "-", "-o", probe], input=b"int main(void) { return 0; }", check=False)
    if compiled.returncode != 0 or subprocess.run([probe], check=False).returncode != 0:
        pytest.skip("this compiler's address sanitizer does not run here")
    files = []
    for head in ("ForTokenClassification", "ForQuestionAnswering", "ForMaskedLM"):
        folder = tmp_path / head
        folder.mkdir()
        write_case(folder, CASES["bert"], head, **({"id2label": TAGS} if head == "ForTokenClassification" else {}))
        convert(folder, folder / "model.tbrt")
        files.append(folder / "model.tbrt")
    program = build_test_program("test_heads", flags, tmp_path)
    result = subprocess.run([program, *files], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
