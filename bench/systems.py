"""The list of what is compared: how each system is made from a checkpoint, and how it is run."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench import artefacts, runners

OURS = "ours"
REFERENCE = "torch"
PACKAGES = ("tinybert-rt", "numpy", "numba", "onnxruntime", "onnx", "openvino", "nncf", "ctranslate2", "torch", "transformers")


@dataclass(frozen=True)
class System:
    """`build` and `runner` run in processes of their own; `modules` must be importable there."""

    label: str
    modules: tuple[str, ...]
    build: Callable[[Path, Path], artefacts.Variants]
    runner: type[runners.Runner]

    def missing(self) -> str | None:
        """The first module that is not installed, if any."""
        return next((module for module in self.modules if not _installed(module)), None)


_EXPORT = ("torch", "transformers", "onnx")

SYSTEMS: dict[str, System] = {
    OURS: System("tinybert_rt int8", ("tinybert_rt.model", "tools.convert"), artefacts.ours_int8, runners.Ours),
    "ort-fp32": System("ORT fp32", ("onnxruntime", *_EXPORT), artefacts.ort_fp32, runners.OnnxRuntime),
    "ort-int8": System("ORT int8", ("onnxruntime", *_EXPORT), artefacts.ort_int8, runners.OnnxRuntime),
    "ov-fp32": System("OV fp32", ("openvino", *_EXPORT), artefacts.ov_fp32, runners.OpenVino),
    "ov-int8": System("OV int8", ("openvino", "nncf", *_EXPORT), artefacts.ov_int8, runners.OpenVino),
    "ct2-int8": System("CT2 int8", ("ctranslate2", "transformers"), artefacts.ct2_int8, runners.CTranslate2),
    "torch": System("torch fp32", ("torch", "transformers"), artefacts.torch_checkpoint, runners.Torch),
    # Not in the default list: a compilation per batch size and length is no drop-in for a service that gets texts of any length.
    "ov-int8-static": System("OV int8 static", ("openvino", "nncf", *_EXPORT), artefacts.ov_int8, runners.OpenVinoStatic),
}
DEFAULT_SYSTEMS = (OURS, "ort-fp32", "ort-int8", "ov-fp32", "ov-int8", "ct2-int8", "torch")


def _installed(module: str) -> bool:
    try:
        specification = importlib.util.find_spec(module)
    except ImportError:
        return False
    return specification is not None and specification.origin is not None
