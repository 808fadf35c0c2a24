"""ONNX files of small checkpoints for the tests: exported by torch, fused by ONNX Runtime, run by ONNX Runtime."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def input_names(model: Any) -> list[str]:
    """The inputs that a torch model has."""
    return list(INPUTS if getattr(model.config, "type_vocab_size", 0) else INPUTS[:2])


def export(model: Any, path: Path, *, dynamo: bool = False, opset: int = 17, names: list[str] | None = None) -> Path:
    """Write the ONNX graph of a torch model with free batch and sequence; the exporters' deprecation warnings are theirs."""
    import torch

    names = names or input_names(model)
    given = {name: torch.zeros(2, 8, dtype=torch.int64) if "type" in name else torch.ones(2, 8, dtype=torch.int64) * 3 for name in names}
    given["attention_mask"] = torch.ones(2, 8, dtype=torch.int64)

    class Called(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = model

        def forward(self, *values: Any) -> Any:
            out = self.encoder(**dict(zip(names, values, strict=True)))
            if "start_logits" in out:
                return out.start_logits, out.end_logits
            return out.logits if "logits" in out else out.last_hidden_state

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            free = {name: {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC} for name in names}
            torch.onnx.export(model, (), str(path), kwargs=given, dynamo=True, external_data=False, verbose=False, dynamic_shapes=free)
        else:
            axes = {name: {0: "batch", 1: "sequence"} for name in names}
            arguments = tuple(given.values())
            torch.onnx.export(
                Called().eval(), arguments, str(path), dynamo=False, opset_version=opset, input_names=names, dynamic_axes=axes
            )
    return path


def fuse(source: Path, path: Path, model: Any, **options: bool) -> Path:
    """The graph after `onnxruntime.transformers.optimizer`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnxruntime.transformers import optimizer
        from onnxruntime.transformers.fusion_options import FusionOptions

        fusion = FusionOptions("bert")
        for name, value in options.items():
            setattr(fusion, name, value)
        heads, hidden = model.config.num_attention_heads, model.config.hidden_size
        fused = optimizer.optimize_model(str(source), "bert", num_heads=heads, hidden_size=hidden, opt_level=0, optimization_options=fusion)
        fused.save_model_to_file(str(path))
    return path


def run(path: Path, feed: dict[str, np.ndarray], optimize: bool = True) -> dict[str, np.ndarray]:
    """The outputs of ONNX Runtime by name, for those inputs that the graph has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    values = session.run(names, {each.name: feed[each.name] for each in session.get_inputs()})
    return dict(zip(names, values, strict=True))


def padded(ids: np.ndarray, offsets: np.ndarray, types: np.ndarray, fill: int = 0) -> dict[str, np.ndarray]:
    """Ragged texts as the inputs of a graph, padded on the right."""
    lengths = np.diff(offsets)
    mask = np.arange(lengths.max()) < lengths[:, None]
    feed = {"attention_mask": mask.astype(np.int64)}
    for name, values, empty in (("input_ids", ids, fill), ("token_type_ids", types, 0)):
        feed[name] = np.full(mask.shape, empty, np.int64)
        feed[name][mask] = values
    return feed
