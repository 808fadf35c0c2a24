"""The C ABI: the one list of functions and structs that Python, the JIT and the C library share.

The cffi declarations and the Numba signatures are derived from it. Importing this module does not import Numba.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from tinybert_rt.encoder.structs import Request, Session, Slice, Target, TokenizeCall, Worker
from tinybert_rt.format.structs import ErrorInfo, Layer, Linear, Model, Norm, Table, TensorEntry, Tokenizer
from tinybert_rt.kernels.structs import Struct
from tinybert_rt.text.structs import TokenizeInfo

PREFIX = "kernel"
"""What the C names of functions begin with where one instruction-set level is alone."""


class Function(NamedTuple):
    """One exported C function.

    Attributes:
        name: its name, without the prefix that a C symbol has.
        arguments: name and kind of each argument; a kind is "i64", "ptr" (an address), "text" (the address of UTF-8 bytes)
            or a Struct (its address).
        kernel: the Numba function behind it, as "module:name". All return int64.
        unit: the compilation unit that it is in; units are compiled side by side.
    """

    name: str
    arguments: tuple[tuple[str, str | Struct], ...]
    kernel: str
    unit: str

    def symbol(self, prefix: str = PREFIX) -> str:
        """The C name. In a library each instruction-set level has a prefix of its own."""
        return f"{prefix}_{self.name}"

    def c_declaration(self, prefix: str = PREFIX) -> str:
        """The C prototype."""
        return f"int64_t {self.symbol(prefix)}({', '.join(f'{_c_type(kind)}{name}' for name, kind in self.arguments)});"

    def c_pointer_type(self) -> str:
        """The C type of a pointer to the function."""
        return f"int64_t (*)({', '.join(_c_type(kind) for _, kind in self.arguments)})"


def _c_type(kind: str | Struct) -> str:
    if isinstance(kind, Struct):
        return f"{kind.name} *"
    return "const char *" if kind == "text" else "int64_t "


STRUCTS: tuple[Struct, ...] = (
    ErrorInfo,
    TensorEntry,
    Linear,
    Norm,
    Table,
    Layer,
    Tokenizer,
    Model,
    TokenizeInfo,
    TokenizeCall,
    Target,
    Slice,
    Worker,
    Request,
    Session,
)

FUNCTIONS: tuple[Function, ...] = (
    Function(
        "model_open",
        (("data", "ptr"), ("size", "i64"), ("entries", "ptr"), ("max_entries", "i64"), ("model", Model), ("error", ErrorInfo)),
        "tinybert_rt.format.reader:open_model",
        "open",
    ),
    Function(
        "session_plan",
        (("session", Session), ("model", Model), ("arena", "ptr"), ("workers", "i64")),
        "tinybert_rt.encoder.plan:plan_session",
        "encode",
    ),
    Function(
        "encode",
        (("session", Session), ("request", Request)),
        "tinybert_rt.encoder.batch:encode_group",
        "encode",
    ),
    Function("serve", (("session", Session), ("worker", "i64")), "tinybert_rt.encoder.batch:serve", "encode"),
    Function("session_close", (("session", Session),), "tinybert_rt.encoder.team:close_session", "encode"),
    Function(
        "tokenize",
        (("call", TokenizeCall), ("text", "text"), ("size", "i64"), ("pair", "text"), ("pair_size", "i64")),
        "tinybert_rt.encoder.batch:tokenize_call",
        "encode",
    ),
    Function("softmax", (("x", "ptr"), ("count", "i64")), "tinybert_rt.kernels.probabilities:softmax_values", "encode"),
    Function(
        "scan",
        (
            ("kind", "i64"),
            ("vectors", "ptr"),
            ("stride", "i64"),
            ("factors", "ptr"),
            ("allowed", "ptr"),
            ("count", "i64"),
            ("first", "i64"),
            ("width", "i64"),
            ("query", "ptr"),
            ("constant", "i64"),
            ("scores", "ptr"),
            ("rows", "ptr"),
            ("found", "i64"),
            ("top", "i64"),
        ),
        "tinybert_rt.kernels.scan:scan",
        "scan",
    ),
)


UNITS: tuple[str, ...] = tuple(dict.fromkeys(function.unit for function in FUNCTIONS))


def c_structs() -> str:
    """The C declarations of all structs."""
    return "\n".join(struct.c_declaration() for struct in STRUCTS)


def c_table() -> str:
    """The C struct `kernel_functions`: a pointer to each function."""
    members = (each.c_pointer_type().replace("(*)", f"(*{each.name})") for each in FUNCTIONS)
    return "typedef struct {\n" + "".join(f"    {member};\n" for member in members) + "} kernel_functions;\n"


@cache
def digest() -> str:
    """What tells whether a library and this package have the same structs and functions."""
    import zlib

    text = (c_structs() + c_table()).encode()
    return f"{zlib.crc32(text):08x}{len(text):08x}"
