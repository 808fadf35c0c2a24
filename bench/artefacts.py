"""Checkpoint → what each system loads. Every function returns `{variant: path}` and keeps what it made.

All of them take the checkpoint directory and the folder to write into, and are run in processes of their own. File names carry the
versions of the packages that wrote them, so an upgrade converts again; ours carries a digest of the converter's sources.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from bench.checkpoint import make_ids
from bench.shape import Cell, shape_of_checkpoint

REPOSITORY = Path(__file__).resolve().parent.parent
OPSET = 17
INPUT_NAMES = ("input_ids", "attention_mask", "token_type_ids")
OUTPUT_NAME = "last_hidden_state"
CALIBRATION_TOKENS = (16, 128, 128, 512)  # repeated; close to the cells, so that the static ranges fit what is measured
CALIBRATION_TEXTS = 48

Variants = dict[str, Path]


def torch_checkpoint(checkpoint: Path, work: Path) -> Variants:
    """PyTorch reads the checkpoint itself."""
    return {"sdpa": checkpoint}


def ours_int8(checkpoint: Path, work: Path) -> Variants:
    """`tools.convert`, as a user runs it."""
    return {"tbrt": _cached(work / f"ours-int8-{_converter_digest()}.tbrt", lambda path: _run_converter(checkpoint, path))}


def onnx_plain(checkpoint: Path, work: Path) -> Path:
    """The checkpoint as ONNX, as exported; batch and sequence are free.

    TorchScript's exporter and eager attention give the graph that ONNX Runtime's optimizer knows how to fuse; where that exporter is
    gone, the newer one's graph still runs but stays mostly unfused.
    """
    return _cached(work / f"plain-torch{version('torch')}-opset{OPSET}.onnx", lambda path: _export_onnx(checkpoint, path))


def onnx_fused(checkpoint: Path, work: Path) -> Path:
    """The ONNX model after `onnxruntime.transformers.optimizer` (fused attention, embedding, skip-LayerNorm and bias-GELU)."""

    def build(path: Path) -> None:
        from onnxruntime.transformers import optimizer

        shape = shape_of_checkpoint(checkpoint)
        source = str(onnx_plain(checkpoint, work))
        model = optimizer.optimize_model(source, "bert", num_heads=shape.num_heads, hidden_size=shape.hidden_size, opt_level=0)
        fused = model.get_fused_operator_statistics()
        if fused.get("Attention", 0) + fused.get("MultiHeadAttention", 0) != shape.num_layers:
            raise RuntimeError(f"attention was fused in {fused.get('Attention', 0)} of {shape.num_layers} layers")
        model.save_model_to_file(str(path))

    return _cached(work / f"fused-ort{version('onnxruntime')}.onnx", build)


def ort_fp32(checkpoint: Path, work: Path) -> Variants:
    """The fused graph; the plain one (which the session optimises as far as it can) where fusing fails."""
    try:
        return {"fused": onnx_fused(checkpoint, work)}
    except Exception as error:
        print(f"no fused graph: {error}", file=sys.stderr)
        return {"plain": onnx_plain(checkpoint, work)}


def ort_int8(checkpoint: Path, work: Path) -> Variants:
    """Dynamic quantization, s8 weights per channel, of both graphs: neither is faster everywhere."""

    def quantize(source: Path, path: Path) -> None:
        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic

        float_type = {"DefaultTensorType": onnx.TensorProto.FLOAT}
        quantize_dynamic(source, path, per_channel=True, weight_type=QuantType.QInt8, extra_options=float_type)

    variants = {}
    for name, make in (("plain", onnx_plain), ("fused", onnx_fused)):
        try:
            source = make(checkpoint, work)
            target = work / f"{name}-int8-ort{version('onnxruntime')}.onnx"
            variants[name] = _cached(target, partial(quantize, source))
        except Exception as error:
            if name == "plain":
                raise
            print(f"no fused graph: {error}", file=sys.stderr)
    return variants


def ov_fp32(checkpoint: Path, work: Path) -> Variants:
    """OpenVINO reads the plain ONNX model and fuses by itself."""
    return {"onnx": onnx_plain(checkpoint, work)}


def ov_int8(checkpoint: Path, work: Path) -> Variants:
    """NNCF post-training quantization, model type TRANSFORMER (which turns SmoothQuant on), calibrated on random texts."""

    def build(path: Path) -> None:
        import nncf
        import openvino

        shape = shape_of_checkpoint(checkpoint)
        texts = [Cell(1, min(CALIBRATION_TOKENS[i % len(CALIBRATION_TOKENS)], shape.max_positions)) for i in range(CALIBRATION_TEXTS)]
        batches = [onnx_feed(make_ids(shape, cell, seed=10_000 + i)) for i, cell in enumerate(texts)]
        model = openvino.Core().read_model(onnx_plain(checkpoint, work))
        quantized = nncf.quantize(model, nncf.Dataset(batches), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(batches))
        openvino.save_model(quantized, path, compress_to_fp16=False)

    return {"nncf": _cached(work / f"ov{version('openvino')}-nncf{version('nncf')}.xml", build)}


def ct2_int8(checkpoint: Path, work: Path) -> Variants:
    """CTranslate2's converter for `transformers` models."""

    def build(path: Path) -> None:
        from ctranslate2.converters import TransformersConverter

        TransformersConverter(str(checkpoint)).convert(str(path), quantization="int8", force=True)

    return {"int8": _cached(work / f"ct2-{version('ctranslate2')}-int8", build)}


def onnx_feed(ids: np.ndarray) -> dict[str, np.ndarray]:
    """The three inputs of a BERT graph for int64 ids (batch, tokens) that are all real."""
    return dict(zip(INPUT_NAMES, (ids, np.ones_like(ids), np.zeros_like(ids)), strict=True))


def _export_onnx(checkpoint: Path, path: Path) -> None:
    import torch
    from transformers import BertModel

    model = BertModel.from_pretrained(checkpoint, add_pooling_layer=False, attn_implementation="eager")

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor) -> torch.Tensor:
            outputs = self.bert(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
            return outputs.last_hidden_state

    shape = shape_of_checkpoint(checkpoint)
    example = tuple(torch.from_numpy(array) for array in onnx_feed(make_ids(shape, Cell(2, 16), seed=0)).values())
    names: dict[str, Any] = {"input_names": list(INPUT_NAMES), "output_names": [OUTPUT_NAME]}
    free = {0: "batch", 1: "sequence"}
    encoder = Encoder().eval()
    try:
        axes = dict.fromkeys((*INPUT_NAMES, OUTPUT_NAME), free)
        torch.onnx.export(encoder, example, str(path), dynamo=False, opset_version=OPSET, dynamic_axes=axes, **names)
    except Exception as error:
        print(f"no TorchScript export: {error}", file=sys.stderr)
        free = dict.fromkeys(free, torch.export.Dim.DYNAMIC)
        shapes = dict.fromkeys(INPUT_NAMES, free)
        torch.onnx.export(encoder, example, str(path), dynamo=True, external_data=False, dynamic_shapes=shapes, **names)


def _run_converter(checkpoint: Path, path: Path) -> None:
    command = [sys.executable, "-m", "tools.convert", str(checkpoint), "--out", str(path), "--dtype", "int8"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise RuntimeError(f"tools.convert failed with exit code {done.returncode}: {last}")


def _converter_digest() -> str:
    digest = hashlib.sha256()
    for folder in ("tools", "tinybert_rt/format", "tinybert_rt/text"):
        for source in sorted((REPOSITORY / folder).glob("*.py")):
            digest.update(source.read_bytes())
    return digest.hexdigest()[:8]


def _cached(path: Path, build: Callable[[Path], None]) -> Path:
    """`path`, built under another name first, so that an interrupted run leaves nothing that looks finished."""
    if not path.exists():
        partial = path.with_name(f"partial-{path.name}")
        build(partial)
        weights = partial.with_suffix(".bin")
        if path.suffix == ".xml" and weights.exists():
            weights.rename(path.with_suffix(".bin"))
        partial.rename(path)
    return path
