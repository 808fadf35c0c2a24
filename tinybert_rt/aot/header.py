"""The generated C files: the public header, the kernels' structs and constants, and the table of instruction-set levels."""

from __future__ import annotations

import re
from pathlib import Path

from tinybert_rt import __version__, errors
from tinybert_rt.aot.message_table import message_table, status_words
from tinybert_rt.aot.targets import Target
from tinybert_rt.encoder.structs import GROUP_TEXTS, SEMAPHORE_BYTES
from tinybert_rt.engine import abi
from tinybert_rt.engine.cpus import MAX_THREADS
from tinybert_rt.format.layout import ARCHITECTURES, HEADS, MAX_TENSORS, POOLINGS
from tinybert_rt.format.structs import MODEL_BYTES
from tinybert_rt.isa.levels import IsaLevel
from tinybert_rt.text.limits import TRUNCATIONS

C_SOURCES = Path(__file__).resolve().parent.parent / "c"
ABI_VERSION = 1
"""Of the public header: it grows when a program that was compiled with an older one must not run with the newer library."""

_TRUNCATION_NAMES = {
    "truncate": "TBRT_TRUNCATE",
    "only_first": "TBRT_TRUNCATE_ONLY_FIRST",
    "only_second": "TBRT_TRUNCATE_ONLY_SECOND",
    "error": "TBRT_ERROR_IF_TOO_LONG",
}


_PYTHON_ONLY = {
    each.code for each in (errors.InvalidTextError, errors.OutputFileError, errors.CompileError, errors.LibraryError, errors.ModelFileError)
}
"""Statuses that the C library never returns."""


def status_name(error: type[errors.TinyBertError]) -> str:
    """The C name of an error class's status: TextTooLongError is TBRT_TEXT_TOO_LONG."""
    if error is errors.TinyBertError:
        return "TBRT_ERROR"
    words = re.findall(r"[A-Z][a-z0-9]*", error.__name__.removesuffix("Error"))
    return "TBRT_" + "_".join(words).upper()


def _enumerators(names: dict[int, str], words: dict[int, str]) -> str:
    last = max(names)
    lines = []
    for code, name in names.items():
        note = f"{words[code]} (in Python only)" if code in _PYTHON_ONLY else words[code]
        lines.append(f"    {name} = {code}{'' if code == last else ','} /* {note} */")
    return "\n".join(lines)


def public_header() -> str:
    """`tinybert_rt.h`."""
    words = status_words()
    names = {0: "TBRT_OK", **{code: status_name(error) for code, error in sorted(errors.error_classes().items())}}
    values = {
        "VERSION": __version__,
        "ABI_VERSION": str(ABI_VERSION),
        "GROUP_TEXTS": str(GROUP_TEXTS),
        "STATUSES": _enumerators(names, words),
        "TRUNCATIONS": ",\n".join(f"    {_TRUNCATION_NAMES[name]} = {number}" for name, number in TRUNCATIONS.items()),
    }
    text = (C_SOURCES / "tinybert_rt.h.in").read_text(encoding="utf-8")
    return re.sub(r"@([A-Z_]+)@", lambda match: values[match[1]], text)


def _names(numbers: dict[str, int]) -> str:
    """C strings in the order of their numbers, with "?" for a number that has no name."""
    names = {number: name for name, number in numbers.items()}
    return ", ".join(f'"{names.get(number, "?")}"' for number in range(max(names) + 1))


def kernels_header() -> str:
    """`kernels.h`: the structs that the shim shares with the kernels, and the kernels' limits."""
    constants = {
        "TBRT_KERNEL_ABI": f'"{abi.digest()}"',
        "TBRT_MODEL_BYTES": MODEL_BYTES,
        "TBRT_MAX_TENSORS": MAX_TENSORS,
        "TBRT_MAX_THREADS": MAX_THREADS,
        "TBRT_GROUP_TEXTS": GROUP_TEXTS,
        "TBRT_SEMAPHORE_BYTES": SEMAPHORE_BYTES,
        "TBRT_TRUNCATION_COUNT": len(TRUNCATIONS),
        "TBRT_POOLING_NAMES": _names(POOLINGS),
        "TBRT_ARCHITECTURE_NAMES": _names(ARCHITECTURES),
        "TBRT_HEAD_NAMES": _names(HEADS),
        "TBRT_HEAD_OF_TEXTS": HEADS["sequence_classification"],
        "TBRT_HEAD_TAGS": HEADS["token_classification"],
        "TBRT_HEAD_ANSWERS": HEADS["question_answering"],
        "TBRT_HEAD_MASKED": HEADS["masked_token"],
    }
    defines = "".join(f"#define {name} {value}\n" for name, value in constants.items())
    return f"#ifndef TBRT_KERNELS_H\n#define TBRT_KERNELS_H\n#include <stdint.h>\n\n{defines}\n{abi.c_structs()}\n{abi.c_table()}\n#endif\n"


def symbol_prefix(level: IsaLevel) -> str:
    """What the names of a level's kernels begin with in the library."""
    return f"tbrt_{level.name}"


def levels_source(target: Target) -> str:
    """`levels.c`: each level's name, needs and kernels."""
    declarations, entries = [], []
    for level in target.levels:
        prefix = symbol_prefix(level)
        declarations += [f"HIDDEN extern {function.c_declaration(prefix)}" for function in abi.FUNCTIONS]
        needs = " | ".join(f"BIT({feature})" for feature in sorted(level.alternatives[0].needs)) or "0"
        kernels = ", ".join(function.symbol(prefix) for function in abi.FUNCTIONS)
        entries.append(f'    {{"{level.name}", {needs}, {{{kernels}}}}},')
    return "\n".join(
        [
            '#include "levels.h"',
            "",
            "#if defined _WIN32",
            "#define HIDDEN",
            "#else",
            '#define HIDDEN __attribute__((visibility("hidden")))',
            "#endif",
            "#define BIT(feature) ((uint64_t)1 << TBRT_CPU_##feature)",
            "",
            *declarations,
            "",
            "const tbrt_level tbrt_levels[] = {",
            *entries,
            "};",
            "const int tbrt_level_count = sizeof tbrt_levels / sizeof tbrt_levels[0];",
            "",
        ]
    )


def write_generated(target: Target, directory: Path) -> None:
    """Write the generated files of a target into a directory."""
    files = {
        "tinybert_rt.h": public_header(),
        "kernels.h": kernels_header(),
        "levels.c": levels_source(target),
        "message_table.h": message_table(),
    }
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name).write_text(text, encoding="utf-8")
