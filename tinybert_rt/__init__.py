"""tinybert_rt: BERT-family encoders in one int8 file, from raw text to vectors on a CPU.

    import tinybert_rt as tb

    model = tb.load()
    vectors = model.encode(["A text.", "Another one."])

Importing this package loads neither Numba nor NumPy; the first use of `load` does what is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "Choice",
    "Classified",
    "Encoded",
    "Entity",
    "Inside",
    "Model",
    "Ranked",
    "TinyBertError",
    "Tokens",
    "TruncationWarning",
    "errors",
    "load",
]

if TYPE_CHECKING:
    from tinybert_rt import errors
    from tinybert_rt.errors import TinyBertError, TruncationWarning
    from tinybert_rt.inside import Inside
    from tinybert_rt.model import Model, load
    from tinybert_rt.ranking import Ranked
    from tinybert_rt.reading import Answer, Choice, Entity
    from tinybert_rt.vectors import Classified, Encoded, Tokens

_MODULES = {
    "Answer": "reading",
    "Choice": "reading",
    "Classified": "vectors",
    "Encoded": "vectors",
    "Entity": "reading",
    "Inside": "inside",
    "Model": "model",
    "Ranked": "ranking",
    "TinyBertError": "errors",
    "Tokens": "vectors",
    "TruncationWarning": "errors",
    "load": "model",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _MODULES:
        return getattr(import_module(f"tinybert_rt.{_MODULES[name]}"), name)
    if name == "errors":
        return import_module("tinybert_rt.errors")
    raise AttributeError(f"module 'tinybert_rt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, "__version__"})
