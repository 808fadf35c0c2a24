"""The C library: what it refers to, its API under sanitizers, its examples, and the same bytes as kernels compiled in place."""

from __future__ import annotations

import ctypes
import ctypes.util
import gzip
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import cffi
import numpy as np
import pytest
from bpe_tokenizer import load as load_bpe
from bpe_tokenizer import write_bpe_model
from conftest import ROOT
from models import write_checkpoint
from test_architectures import CASES, write_case

import tinybert_rt as tb
from tinybert_rt.aot.compiler import Compiler
from tinybert_rt.aot.header import C_SOURCES, public_header, write_generated
from tinybert_rt.aot.library import STATIC_FLAGS, kernel_objects, shim_objects
from tinybert_rt.aot.targets import TARGETS, target_by_name, this_machine
from tinybert_rt.engine.native import LIBRARY_VARIABLE, native_levels
from tinybert_rt.isa.levels import available_levels
from tools.build_lib import main as build_main
from tools.convert import convert

EXAMPLES = sorted((C_SOURCES / "examples").glob("*.c"))
WARNINGS = ("-Wall", "-Wextra", "-Werror", "-pedantic")
EXAMPLE_FLAGS = ("-std=c11", "-O2", *WARNINGS)
BUNDLED = ROOT / "tinybert_rt/models/all-MiniLM-L6-v2-int8.tbrt"
SENTENCES = [
    "The cat sleeps on the sofa.",
    "",
    "Shares fell sharply on Monday, after the bank had warned of losses.",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. 東京 \u0301",
    *(f"Sentence number {i} is {'very ' * (i % 40)}long." for i in range(60)),
]

pytestmark = pytest.mark.skipif(
    this_machine() is None or not (shutil.which("cc") and shutil.which("ar")), reason="no C compiler for this machine (cc, ar)"
)


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    write_checkpoint(folder)
    convert(folder, folder / "model.tbrt", dtype="int8", pooling="mean", normalize=True)
    return folder / "model.tbrt"


@pytest.fixture(scope="session")
def examples(library: Path) -> Path:
    for source in EXAMPLES:
        command = ["cc", *EXAMPLE_FLAGS, f"-I{library}/include", source, "-o", library / source.stem, f"-L{library}/lib", "-ltinybert_rt"]
        subprocess.run([*command, f"-Wl,-rpath,{library}/lib"], check=True)
    return library


def build_test_program(name: str, flags: Sequence[str], work: Path, *, cc: str = "cc", shim_flags: Sequence[str] | None = None) -> Path:
    """tests/c/NAME.c with the shim and this machine's kernels, everything but the kernels compiled with `flags`."""
    target = this_machine()
    assert target is not None
    write_generated(target, work)
    shim_flags = flags if shim_flags is None else shim_flags
    objects = shim_objects(target, Compiler((cc,), ("ar",)), work, work / "shim", (*STATIC_FLAGS, *WARNINGS, *shim_flags))
    objects += kernel_objects(target, work, lambda _: None)
    program = work / name
    options = ["-std=c11", "-D_GNU_SOURCE", *WARNINGS, *flags, f"-I{work}"]
    command = [cc, *options, ROOT / "tests/c" / f"{name}.c", *objects]
    subprocess.run([*command, "-pthread", "-o", program], check=True)
    return program


@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("nm"), reason="needs nm of Linux's binutils")
def test_the_library_refers_to_the_c_library_only(library: Path) -> None:
    path = library / "lib/libtinybert_rt.so"
    lines = subprocess.run(["nm", "-D", "--undefined-only", path], capture_output=True, text=True, check=True).stdout.splitlines()
    symbols = {line.split()[-1] for line in lines}
    strong = {line.split()[-1] for line in lines if line.split()[-2] == "U"}
    assert strong
    assert all(re.search(r"@GLIBC_[\d.]+$", name) for name in strong), strong
    assert not any("Py" in name or "numba" in name.lower() for name in symbols)
    needed = subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout
    assert {line.split()[0].split("/")[-1] for line in needed.splitlines()} <= {
        "linux-vdso.so.1",
        "libc.so.6",
        "libm.so.6",
        "libpthread.so.0",
        "ld-linux-x86-64.so.2",
        "ld-linux-aarch64.so.1",
    }
    assert path.stat().st_size <= 2_500_000


@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("nm"), reason="needs nm of Linux's binutils")
def test_the_library_exports_its_public_functions_only(library: Path) -> None:
    defined = subprocess.run(["nm", "-D", "--defined-only", library / "lib/libtinybert_rt.so"], capture_output=True, text=True, check=True)
    exported = {line.split()[-1] for line in defined.stdout.splitlines()}
    declared = set(re.findall(r"^TBRT_API [^(]*?\b(tbrt_\w+)\(", public_header(), re.MULTILINE))
    assert exported == declared | {"tbrt_private_kernels"}


@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("nm"), reason="needs nm of Linux's binutils")
def test_a_library_with_the_static_one_in_it_exports_nothing_of_it(library: Path, tmp_path: Path) -> None:
    source = b"#include <tinybert_rt.h>\nint own(void); int own(void) { return tbrt_model_open(0, 0, 0, 0); }\n"
    command = ["cc", "-shared", "-fPIC", f"-I{library}/include", "-x", "c", "-", "-x", "none", library / "lib/libtinybert_rt.a", "-pthread"]
    subprocess.run([*command, "-o", tmp_path / "plugin.so"], input=source, check=True)
    listed = subprocess.run(["nm", "-D", "--defined-only", tmp_path / "plugin.so"], capture_output=True, text=True, check=True).stdout
    assert [line.split()[-1] for line in listed.splitlines()] == ["own"]


def test_a_thousand_real_sentences_have_the_same_bytes_everywhere(shared: Path, examples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The C program, Python on the library, Python on kernels compiled in place; needs ../shared."""
    with gzip.open(shared / "data/glue/stsb/test.tsv.gz", "rt", encoding="utf-8") as file:
        rows = [line.rstrip("\n").split("\t") for line in file][1:]
    texts = list(dict.fromkeys(text for row in rows for text in row[:2] if text.strip()))[:1000]
    assert len(texts) == 1000
    expected = tb.load(engine="jit").encode(texts)
    monkeypatch.setenv(LIBRARY_VARIABLE, str(examples / "lib" / this_machine().shared_name))  # type: ignore[union-attr]
    assert tb.load(engine="native").encode(texts).tobytes() == expected.tobytes()
    result = subprocess.run([examples / "embed", BUNDLED], input="\n".join(texts).encode(), capture_output=True, check=True)
    vectors = np.array([[np.float32(value) for value in line.split()] for line in result.stdout.splitlines()], np.float32)
    assert vectors.tobytes() == expected.tobytes()


INSIDE_FUNCTIONS = """
int tbrt_model_open(const char *, void *, void **, void *);
int tbrt_session_new(void *, void *, void **, void *);
int tbrt_layer_states(void *, int32_t *, uint8_t *, int64_t *, size_t, float *, size_t, size_t *);
int tbrt_attentions(void *, int32_t *, uint8_t *, int64_t *, size_t, float *, size_t, size_t *);
void tbrt_session_free(void *);
void tbrt_model_close(void *);
"""


def test_the_inside_is_what_python_gives(library: Path, tmp_path: Path) -> None:
    write_case(tmp_path, CASES["albert-groups"])
    convert(tmp_path, tmp_path / "model.tbrt", pooling="mean", normalize=True)
    model = tb.load(tmp_path / "model.tbrt", threads=1)
    ids, offsets = model.tokenize_batch(["the cat sat on the mat", "a dog", ""] * 700)  # more than a group of texts
    expected = {
        "tbrt_layer_states": model.hidden_states_ids(ids, offsets).ravel(),
        "tbrt_attentions": np.concatenate([each.ravel() for each in model.attentions_ids(ids, offsets)]),
    }
    ffi = cffi.FFI()
    ffi.cdef(INSIDE_FUNCTIONS)
    lib = ffi.dlopen(str(library / "lib" / this_machine().shared_name))  # type: ignore[union-attr]
    place, needed = ffi.new("void **"), ffi.new("size_t *")
    assert lib.tbrt_model_open(str(tmp_path / "model.tbrt").encode(), ffi.NULL, place, ffi.NULL) == 0
    opened = place[0]
    assert lib.tbrt_session_new(opened, ffi.NULL, place, ffi.NULL) == 0
    session = place[0]
    given = (ffi.from_buffer("int32_t[]", ids), ffi.NULL, ffi.from_buffer("int64_t[]", offsets), offsets.size - 1)
    for name, values in expected.items():
        found = np.full(values.size, np.nan, np.float32)
        function = getattr(lib, name)
        assert function(session, *given, ffi.NULL, 0, needed) == tb.errors.BufferTooSmallError.code
        assert needed[0] == values.size
        assert function(session, *given, ffi.from_buffer("float[]", found), found.size, ffi.NULL) == 0
        assert found.tobytes() == values.tobytes(), name
    lib.tbrt_session_free(session)
    lib.tbrt_model_close(opened)


def test_byte_level_bpe_has_the_ids_of_tokenizers(library: Path, tmp_path: Path) -> None:
    """Asked with no room first: a byte may be up to four tokens, and a pair has four special tokens."""
    pytest.importorskip("tokenizers")
    path = write_bpe_model(tmp_path)
    _, expected = load_bpe()
    c = ctypes.CDLL(str(library / "lib" / "libtinybert_rt.so"))
    model, session = ctypes.c_void_p(), ctypes.c_void_p()
    assert c.tbrt_model_open(str(path).encode(), None, ctypes.byref(model), None) == 0
    assert c.tbrt_session_new(model, None, ctypes.byref(session), None) == 0
    for text in (b"", b"the tokens <mask> don't", b"\xff" * 9, "d\u00e9j\u00e0 \u4e2d\u6587".encode()):
        for pair in (None, b"", b" ahah", b"\xff\xfe"):
            size, pair_size = (ctypes.c_size_t(len(each or b"")) for each in (text, pair))
            count = (ctypes.c_size_t * 3)()
            wanted = expected.encode(text.decode(errors="replace"), None if pair is None else pair.decode(errors="replace")).ids
            assert c.tbrt_tokenize(session, text, size, pair, pair_size, None, None, None, ctypes.c_size_t(0), count) != 0
            assert count[0] == len(wanted)
            ids = (ctypes.c_int32 * len(wanted))()
            assert c.tbrt_tokenize(session, text, size, pair, pair_size, None, ids, None, ctypes.c_size_t(len(wanted)), None) == 0
            assert list(ids) == wanted
    c.tbrt_session_free(session)
    c.tbrt_model_close(model)


@pytest.mark.skipif(not Path("/proc/self/smaps").is_file(), reason="needs /proc/PID/smaps of Linux")
def test_two_processes_share_the_pages_of_a_model(examples: Path) -> None:
    def start() -> subprocess.Popen[str]:
        process = subprocess.Popen([examples / "embed", BUNDLED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        assert process.stdin is not None
        process.stdin.write("a text\n" * 12)  # its answers fill the buffer of standard output
        process.stdin.flush()
        assert process.stdout is not None
        process.stdout.readline()
        return process

    both = [start(), start()]
    sizes = {"Rss": 0, "Shared_Clean": 0, "Private_Clean": 0, "Private_Dirty": 0}
    inside = False
    for line in Path(f"/proc/{both[0].pid}/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            inside = line.endswith(str(BUNDLED))
        elif inside and (name := line.split(":")[0]) in sizes:
            sizes[name] += int(line.split()[1])
    for process in both:
        process.communicate()
    assert sizes["Rss"] > 1000
    assert sizes["Private_Clean"] + sizes["Private_Dirty"] <= sizes["Rss"] // 20
    assert sizes["Shared_Clean"] >= sizes["Rss"] * 19 // 20


@pytest.mark.parametrize("isa", [level.name for level in available_levels()])
def test_python_gets_the_same_bytes_from_the_library_and_from_kernels_compiled_in_place(
    library: Path, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = library / "lib" / this_machine().shared_name  # type: ignore[union-attr]
    if isa not in [level.name for level in native_levels(str(path))]:
        pytest.skip(f"the library's {isa} is for other machines: it has one way to build a level")
    expected = tb.load(engine="jit").encode(SENTENCES)
    monkeypatch.setenv(LIBRARY_VARIABLE, str(path))
    model = tb.load(isa=isa, threads=2)
    assert model.engine == "native"
    assert model.encode(SENTENCES).tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", ["roberta-26", "distilbert", "albert-groups", "electra-small", "deberta-26", "deberta-v2", "deberta-v3"])
def test_every_architecture_has_the_same_bytes_from_the_library(
    name: str, library: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_case(tmp_path, CASES[name])
    convert(tmp_path, tmp_path / "model.tbrt", pooling="mean", normalize=True)
    expected = tb.load(tmp_path / "model.tbrt", engine="jit").encode(SENTENCES, truncation="truncate")
    monkeypatch.setenv(LIBRARY_VARIABLE, str(library / "lib" / this_machine().shared_name))  # type: ignore[union-attr]
    model = tb.load(tmp_path / "model.tbrt")
    assert model.engine == "native"
    assert model.encode(SENTENCES, truncation="truncate").tobytes() == expected.tobytes()


def test_layers_that_are_float_in_an_int8_file_have_the_same_bytes_from_the_library(
    library: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_checkpoint(tmp_path)
    convert(tmp_path, tmp_path / "model.tbrt", keep_float=["layers.0.attention.qkv", "layers.0.ffn.out", "layers.1.ffn.in"])
    expected = tb.load(tmp_path / "model.tbrt", engine="jit").encode(SENTENCES, truncation="truncate")
    monkeypatch.setenv(LIBRARY_VARIABLE, str(library / "lib" / this_machine().shared_name))  # type: ignore[union-attr]
    model = tb.load(tmp_path / "model.tbrt")
    assert (model.engine, len(model.info()["float_linears"])) == ("native", 3)
    assert model.encode(SENTENCES, truncation="truncate").tobytes() == expected.tobytes()


def test_the_embed_example_gives_the_same_bytes(examples: Path) -> None:
    lines = [text for text in SENTENCES if text]
    result = subprocess.run([examples / "embed", BUNDLED], input="\n".join(lines).encode(), capture_output=True, check=True)
    vectors = np.array([[np.float32(value) for value in line.split()] for line in result.stdout.splitlines()], np.float32)
    assert vectors.tobytes() == tb.load(engine="jit").encode(lines).tobytes()


def test_the_rank_example_ranks(examples: Path) -> None:
    texts = ["The cat sleeps on the sofa.", "Shares fell sharply on Monday.", "It rains in the mountains."]
    result = subprocess.run(
        [examples / "rank", BUNDLED, "what happened at the stock exchange?", *texts], capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[0].endswith(texts[1])


def test_the_classify_example_classifies(examples: Path) -> None:
    command = [examples / "classify", BUNDLED, "good=I enjoyed it very much.", "bad=It was a waste of time."]
    result = subprocess.run(command, input="a wonderful evening\nboring from start to end\n", capture_output=True, text=True, check=True)
    assert [line.split("\t")[0] for line in result.stdout.splitlines()] == ["good", "bad"]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_short_and_complain_in_one_line(example: Path, examples: Path) -> None:
    assert len(example.read_text().splitlines()) < 80
    result = subprocess.run(
        [examples / example.stem, ROOT / "README.md", "a=b", "c=d"][: 4 if example.stem != "embed" else 2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert "not a model file" in result.stderr
    assert len(result.stderr.splitlines()) == 1


SANITIZERS = {
    "none": [],
    "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g"],
    "thread": ["-fsanitize=thread", "-g"],
}


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_the_public_functions(sanitizer: str, small_model: Path, tmp_path: Path) -> None:
    """Errors, limits, cancelling, failing allocations, fork, four sessions at once: see tests/c/test_api.c."""
    flags = SANITIZERS[sanitizer]
    probe = tmp_path / "probe"
    source = b"int main(void) { return 0; }"
    compiled = subprocess.run(["cc", *flags, "-x", "c", "-", "-o", probe], input=source, capture_output=True, check=False)
    if compiled.returncode != 0 or subprocess.run([probe], capture_output=True, check=False).returncode != 0:
        pytest.skip(f"this compiler's {sanitizer} sanitizer does not run here")
    program = build_test_program("test_api", ["-Wl,--wrap=pthread_create", *flags], tmp_path, shim_flags=flags)
    environment = {**os.environ, "TSAN_OPTIONS": "die_after_fork=0"}
    result = subprocess.run([program, small_model], capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]


@pytest.mark.skipif(not shutil.which("valgrind"), reason="valgrind is not installed")
def test_valgrind_finds_nothing_in_the_embed_example(examples: Path, small_model: Path) -> None:
    options = ["--error-exitcode=9", "--leak-check=full", "--show-leak-kinds=all", "--errors-for-leak-kinds=all", "-q"]
    environment = {**os.environ, "TINYBERT_RT_ISA": available_levels()[min(1, len(available_levels()) - 1)].name}
    command = ["valgrind", *options, examples / "embed", small_model]
    result = subprocess.run(command, input="the cat\na dog\n\n", capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    assert len(result.stdout.splitlines()) == 3


@pytest.mark.skipif(not shutil.which("c++"), reason="no C++ compiler")
@pytest.mark.parametrize("standard", ["c++98", "c++11", "c++20"])
def test_the_header_is_usable_from_cpp(standard: str, library: Path, tmp_path: Path) -> None:
    source = tmp_path / "use.cpp"
    structs = ["model_options", "session_options", "encode_options", "tokenize_options", "answer_options", "model_info", "report"]
    inits = "".join(f"    tbrt_{name} {name} = TBRT_{name.upper()}_INIT; (void){name};\n" for name in structs)
    code = f"#include <tinybert_rt.h>\nint main() {{\n{inits}    return tbrt_abi_version() == TBRT_ABI_VERSION ? 0 : 1;\n}}\n"
    source.write_text(code)
    flags = [f"-std={standard}", "-Wall", "-Wextra", "-Werror", "-pedantic", f"-I{library}/include"]
    subprocess.run(["c++", *flags, source, library / "lib/libtinybert_rt.a", "-pthread", "-o", tmp_path / "use"], check=True)
    subprocess.run([tmp_path / "use"], check=True)


@pytest.mark.skipif(not shutil.which("pkg-config"), reason="pkg-config is not installed")
def test_pkg_config_finds_it(library: Path) -> None:
    environment = {**os.environ, "PKG_CONFIG_PATH": str(library / "lib/pkgconfig")}
    result = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "tinybert_rt"], capture_output=True, text=True, env=environment, check=True
    )
    assert "-ltinybert_rt" in result.stdout
    assert "/include" in result.stdout


@pytest.mark.skipif(not shutil.which("cmake"), reason="cmake is not installed")
def test_cmake_finds_it(library: Path, tmp_path: Path) -> None:
    lines = [
        "cmake_minimum_required(VERSION 3.13)",
        "project(use C)",
        f"find_package(tinybert_rt {tb.__version__} EXACT CONFIG REQUIRED)",
        *(f"add_executable({kind} {EXAMPLES[0]})\ntarget_link_libraries({kind} tinybert_rt::{kind})" for kind in ("shared", "static")),
    ]
    (tmp_path / "CMakeLists.txt").write_text("\n".join(lines) + "\n")
    configure = ["cmake", "-S", tmp_path, "-B", tmp_path / "out", f"-DCMAKE_PREFIX_PATH={library}"]
    subprocess.run(configure, capture_output=True, check=True)
    subprocess.run(["cmake", "--build", tmp_path / "out"], capture_output=True, check=True)
    for kind in ("shared", "static"):
        assert subprocess.run([tmp_path / "out" / kind], capture_output=True, check=False).returncode == 2


def test_a_wrong_library_is_refused_in_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(LIBRARY_VARIABLE, str(tmp_path / "nothing.so"))
    with pytest.raises(tb.errors.LibraryError, match="cannot be loaded"):
        tb.load()
    other = ctypes.util.find_library("m")
    if other is not None:
        monkeypatch.setenv(LIBRARY_VARIABLE, other)
        with pytest.raises(tb.errors.LibraryError, match="no library of this package"):
            tb.load()
    monkeypatch.setenv(LIBRARY_VARIABLE, "")
    with pytest.raises(tb.errors.LibraryError, match="no compiled library"):
        tb.load(engine="native")


def test_targets_have_names_of_their_own_and_unknown_ones_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert len({target.name for target in TARGETS}) == len(TARGETS)
    assert target_by_name("aarch64-macos").shared_name == "libtinybert_rt.dylib"
    assert build_main(["--target", "abacus", "--out", str(tmp_path)]) == 2
    assert "x86_64-linux-gnu" in capsys.readouterr().err
    assert build_main(["--target", "aarch64-ios", "--out", str(tmp_path)]) == 2
    assert "--objects-only" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["fuzz_open", "fuzz_encode"])
def test_fuzzing_for_a_moment_finds_nothing(name: str, small_model: Path, tmp_path: Path) -> None:
    """With libFuzzer; longer: build the same program and run it with -max_total_time."""
    fuzzer = ["-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all", "-g", "-O1"]
    probe = b"int LLVMFuzzerTestOneInput(const unsigned char *data, unsigned long size) { return data == 0 && size != 0; }"
    command = ["clang", *fuzzer, "-x", "c", "-", "-o", tmp_path / "probe"]
    if not shutil.which("clang") or subprocess.run(command, input=probe, capture_output=True, check=False).returncode != 0:
        pytest.skip("clang with libFuzzer is not installed")
    shim_flags = ["-fsanitize=fuzzer-no-link,address,undefined", *fuzzer[1:]]
    program = build_test_program(name, fuzzer, tmp_path, cc="clang", shim_flags=shim_flags)
    if name == "fuzz_open":
        seeds = tmp_path / "corpus"
        seeds.mkdir()
        shutil.copy(small_model, seeds)
    else:
        seeds = ROOT / "tests/c/corpus/encode"
    new = tmp_path / "new"
    new.mkdir()
    environment = {**os.environ, "TBRT_FUZZ_MODEL": str(small_model)}
    result = subprocess.run(
        [program, "-max_total_time=5", "-timeout=60", new, seeds],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
