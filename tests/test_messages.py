"""Error messages: C and Python render the same bytes from the same templates, whatever the parser says."""

from __future__ import annotations

import itertools
import random
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cffi
import numpy as np
import pytest

from tinybert_rt import errors
from tinybert_rt.aot.message_table import c_string, encoded, message_table, status_words
from tinybert_rt.engine import abi
from tinybert_rt.engine.texts import encode_error
from tinybert_rt.format import layout, messages
from tinybert_rt.format import tensors as file_tensors

SOURCE = Path(messages.__file__).parent.parent / "c"
WARNINGS = ("-Wall", "-Wextra", "-Werror", "-pedantic", "-Wconversion")

# Raised elsewhere, with what only that place knows, or base classes.
WITHOUT_A_TEMPLATE = {
    errors.LibraryError,
    errors.MissingHeadError,
    errors.ForkedError,
    errors.OutOfMemoryError,
    errors.BusyError,
    errors.BufferTooSmallError,
    errors.TinyBertError,
    errors.InvalidTextError,
    errors.CancelledError,
    *(each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.SearchError)),
    errors.OutputFileError,
    errors.UnknownIsaError,
    errors.UnsupportedIsaError,
    errors.CompileError,
    errors.ThreadStartError,
    errors.ModelFileError,
}

UNKNOWN = (-(2**31), -1, 999, 2**31 - 1)
STATUSES = sorted({*errors.error_classes(), *UNKNOWN, 0})
EDGES = (0, 1, -1, 999, 1000, -1000, 65535, 65536, 2**63 - 1, -(2**63))
RULES = (0, len(file_tensors.LAYER_RULES), len(messages.RULE_NAMES) - 1)
LAYERS = [(layer + 1) * 65536 + rule for layer in (0, 11, 2**20) for rule in RULES]
DETAILS = (*EDGES, *range(2, layout.CONFIG_SIZE + 1), *LAYERS, -65536, -65535)

# A header-like beginning, a tensor's name at 20, a quote, bytes that need escapes, and an end that cuts excerpts short.
DATA = b'{"__metadata__":{"ab.c-d_e":"pt"} \\ \x00\x1f\x20\x7e\x7f\x80\xff\r\n\t \xc3\xa9 tail "" end'
NAMES = ((-1, 0), (0, 0), (-1, 5), (5, -1), (18, 8), (len(DATA) - 3, 100), (len(DATA), 1), (2**63 - 1, 2**63 - 1), (0, 2**63 - 1))
POSITIONS = (*EDGES, 18, 27, 35, len(DATA) - 1, len(DATA))


class Renderer:
    """The compiled messages.c."""

    def __init__(self, folder: Path, compiler: str) -> None:
        (folder / "kernels.h").write_text("#include <stdint.h>\n" + abi.c_structs(), encoding="utf-8")
        (folder / "message_table.h").write_text(message_table(), encoding="ascii")
        library = folder / "messages.so"
        command = [
            compiler,
            "-std=c11",
            "-O1",
            "-fPIC",
            "-shared",
            *WARNINGS,
            f"-I{folder}",
            str(SOURCE / "messages.c"),
            "-o",
            str(library),
        ]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        self._ffi = cffi.FFI()
        self._ffi.cdef(abi.c_structs())
        declarations = re.findall(r"^(?:void|const char \*)[^;]+;", (SOURCE / "messages.h").read_text(encoding="utf-8"), re.MULTILINE)
        assert len(declarations) == 3
        self._ffi.cdef("\n".join(declarations))
        self._library = self._ffi.dlopen(str(library))

    def _rendered(self, size: int, render: Any) -> bytes:
        """What `render(out, size)` writes, without the NUL. Checks that it writes nothing behind `size` bytes."""
        memory = self._ffi.new("char[]", b"\xa5" * (size + 8))
        render(memory, size)
        assert bytes(self._ffi.buffer(memory))[size : size + 8] == b"\xa5" * 8
        if size == 0:
            return b""
        written = bytes(self._ffi.buffer(memory))[:size]
        assert b"\0" in written
        return written[: written.index(b"\0")]

    def file_error(self, status: int, info: Any, name: bytes | None = b"m", data: bytes | None = DATA, size: int = 4096) -> bytes:
        """tbrt_render_file_error with a buffer of `size` bytes."""
        struct = self._ffi.NULL if info is None else self._ffi.new("kernel_error_info *", vars(info))
        called = self._ffi.NULL if name is None else self._ffi.new("char[]", name)
        # Memory of exactly the data's size, so that a tool that watches memory sees a read behind it.
        held = self._ffi.NULL if data is None else self._ffi.new("unsigned char[]", list(data))
        length = len(data or b"")
        return self._rendered(size, lambda out, n: self._library.tbrt_render_file_error(out, n, called, status, struct, held, length))

    def text_error(self, status: int, item: int, tokens: int, limit: int, size: int = 4096) -> bytes:
        """tbrt_render_text_error with a buffer of `size` bytes."""
        return self._rendered(size, lambda out, n: self._library.tbrt_render_text_error(out, n, status, item, tokens, limit))

    def words(self, status: int) -> bytes:
        """tbrt_status_words."""
        return bytes(self._ffi.string(self._library.tbrt_status_words(status)))

    def write_nothing(self) -> None:
        """Render into no memory at all."""
        self._library.tbrt_render_text_error(self._ffi.NULL, 0, 4, 0, 0, 0)


@pytest.fixture(scope="module")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    return Renderer(tmp_path_factory.mktemp("messages"), compiler)


def info(detail: int = 0, position: int = -1, name_offset: int = -1, name_size: int = 0) -> Any:
    return SimpleNamespace(detail=detail, position=position, name_offset=name_offset, name_size=name_size)


def sweep() -> Iterator[Any]:
    """Every value of each field of an ErrorInfo beside a few of the others, and random mixtures."""
    for detail, name in itertools.product(DETAILS, NAMES[:5:4]):
        yield info(detail, 18, *name)
    for position, name in itertools.product(POSITIONS, NAMES):
        yield info(1, position, *name)
    chosen = random.Random(1)
    for _ in range(100):
        yield info(chosen.choice(DETAILS), chosen.choice(POSITIONS), *chosen.choice(NAMES))


# ---------------------------------------------------------------- the templates


def test_every_error_has_a_template_or_is_known_to_have_none() -> None:
    with_template = {errors.error_classes()[status] for status in {*messages.TEMPLATES, *messages.TEXT_TEMPLATES}}
    assert with_template.isdisjoint(WITHOUT_A_TEMPLATE)
    assert with_template | WITHOUT_A_TEMPLATE == set(errors.error_classes().values())


@pytest.mark.parametrize("status", messages.TEMPLATES)
def test_an_alternative_has_a_condition(status: int) -> None:
    template = messages.TEMPLATES[status]
    assert bool(template.alternative) == (template.condition != messages.Condition.NEVER)


def test_a_message_is_one_line_of_ascii_whatever_the_file_holds() -> None:
    data = bytes(range(256))
    for status, position in itertools.product(messages.TEMPLATES, range(0, 256, 16)):
        message = messages.file_message(status, info(0, position, position, 16), data)
        assert message.isascii()
        assert message.isprintable()


def test_bytes_arrays_and_views_give_the_same_message() -> None:
    for status, each in itertools.product((37, 40, 41), itertools.islice(sweep(), 0, None, 7)):
        expected = messages.file_message(status, each, DATA)
        assert messages.file_message(status, each, np.frombuffer(DATA, np.uint8)) == expected
        assert messages.file_message(status, each, memoryview(DATA)) == expected


def test_a_file_error_says_the_name_and_has_the_class_of_its_status() -> None:
    assert str(messages.file_error(31, None, "a.tbrt", b"")) == "a.tbrt: no such file"
    for status, kind in errors.error_classes().items():
        assert type(messages.file_error(status, info(), "m", DATA)) is kind
    assert type(messages.file_error(999, info(), "m", DATA)) is errors.ModelFileError
    assert str(messages.file_error(999, info(), "m", DATA)) == "m: not readable (status 999)"


def test_a_negative_position_is_no_place_in_the_file() -> None:
    begin = messages.file_message(37, info(0, 0), DATA).partition("near")[2]
    for position in (-1, -16, -20, -(2**63)):
        assert messages.file_message(37, info(0, position), DATA).partition("near")[2] == begin


def test_a_text_error_has_the_class_of_its_status() -> None:
    error = encode_error(4, 7, 600, 512)
    assert type(error) is errors.TextTooLongError
    assert str(error) == "text 7 has 600 tokens, the limit is 512: shorten it, or let it be truncated"
    assert str(encode_error(4, -1, 0, 0)) == "a number of the request is out of range"
    assert type(encode_error(999, 0, 0, 0)) is errors.TinyBertError


# ---------------------------------------------------------------- the generated header


def test_a_c_string_needs_no_more_than_ascii() -> None:
    assert c_string('a"b\\c??/\n9') == '"a\\042b\\134c\\077\\077/\\0129"'
    assert c_string("…1") == '"\\342\\200\\2461"'
    with pytest.raises(ValueError, match="NUL"):
        c_string("a\0b")


@pytest.mark.parametrize("template", ["{details}", "{detail:x}", "{detail!r}", "{}", "a\nb", "{unsigned}"])
def test_a_template_that_c_cannot_render_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match="template"):
        encoded(template)


def test_status_words_are_one_sentence_without_its_stop() -> None:
    words = status_words()
    assert words[0] == "success"
    assert words[errors.EmptyFileError.code] == "The file has no bytes"
    assert set(words) == {0, *errors.error_classes()}
    for each in words.values():
        assert each
        assert "\n" not in each
        assert ". " not in each
        assert not each.endswith(".")


# ---------------------------------------------------------------- C and Python


@pytest.mark.parametrize("status", STATUSES)
def test_c_and_python_say_the_same_of_a_file(status: int, renderer: Renderer) -> None:
    for each in sweep():
        assert renderer.file_error(status, each) == b"m: " + messages.file_message(status, each, DATA).encode(), each


@pytest.mark.parametrize("status", STATUSES)
def test_c_and_python_say_the_same_of_a_text(status: int, renderer: Renderer) -> None:
    for item, tokens, limit in itertools.product(EDGES, (*EDGES, 512), (*EDGES, 512)):
        assert renderer.text_error(status, item, tokens, limit) == messages.text_message(status, item, tokens, limit).encode()


def test_every_config_field_and_tensor_name_is_the_same_in_c(renderer: Renderer) -> None:
    for field in range(-1, layout.CONFIG_SIZE + 1):
        for status in (errors.ConfigRangeError.code, errors.UnknownConfigValueError.code):
            assert renderer.file_error(status, info(field, 5)).decode() == "m: " + messages.file_message(status, info(field, 5), DATA)
    for layer, rule in itertools.product((-1, 0, 63), range(len(messages.RULE_NAMES) + 1)):
        each = info((layer + 1) * 65536 + rule)
        status = errors.MissingTensorError.code
        assert renderer.file_error(status, each).decode() == "m: " + messages.file_message(status, each, DATA)


@pytest.mark.parametrize("status", STATUSES)
def test_c_needs_no_data_and_no_info(status: int, renderer: Renderer) -> None:
    for each in itertools.islice(sweep(), 0, None, 3):
        assert renderer.file_error(status, each, data=None) == b"m: " + messages.file_message(status, each, b"").encode()
        assert renderer.file_error(status, each, data=b"") == b"m: " + messages.file_message(status, each, b"").encode()
    assert renderer.file_error(status, None) == b"m: " + messages.file_message(status, None, DATA).encode()


def test_a_file_without_a_name_is_memory(renderer: Renderer) -> None:
    assert renderer.file_error(33, None, name=None).startswith(b"<memory>: the file is empty")


@pytest.mark.parametrize("status", STATUSES)
def test_status_words_in_c(status: int, renderer: Renderer) -> None:
    assert renderer.words(status).decode() == status_words().get(status, "unknown status")


# ---------------------------------------------------------------- little room


def cut(message: str, size: int) -> bytes:
    """The longest beginning of a message, in whole characters, for a buffer of `size` bytes."""
    return message.encode()[: max(size - 1, 0)].decode(errors="ignore").encode()


@pytest.mark.parametrize("name", ["model.tbrt", "é…𝒳é…𝒳", "𝒳𝒳𝒳", "……", ""])
def test_a_message_is_cut_between_characters(name: str, renderer: Renderer) -> None:
    status, each = errors.WrongFormatError.code, info(0, 34)
    whole = f"{name}: {messages.file_message(status, each, DATA)}"
    for size in range(len(whole.encode()) + 3):
        assert renderer.file_error(status, each, name.encode(), size=size) == cut(whole, size)


@pytest.mark.parametrize("size", [0, 1, 2, 10, 40])
def test_every_message_fits_into_little_room(size: int, renderer: Renderer) -> None:
    for status, each in itertools.product(STATUSES, itertools.islice(sweep(), 0, None, 9)):
        assert renderer.file_error(status, each, size=size) == cut("m: " + messages.file_message(status, each, DATA), size)
        text = (status, each.position, each.detail, each.name_offset)
        assert renderer.text_error(*text, size=size) == cut(messages.text_message(*text), size)


def test_a_name_that_is_no_utf8_is_cut_without_overrun(renderer: Renderer) -> None:
    for name, size in itertools.product((b"\x80" * 12, b"\xff" * 12, b"a\xe9" * 6, b"\xc3" * 12), range(14)):
        found = renderer.file_error(31, None, name, size=size)
        assert name.startswith(found)
        assert len(found) >= size - 1 - 3


def test_no_room_is_no_memory(renderer: Renderer) -> None:
    renderer.write_nothing()


def test_every_error_has_a_code_of_its_own() -> None:
    kinds = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, errors.TinyBertError)]
    assert len(errors.error_classes()) == len(kinds)
