"""One small class per system, all with the same four members; they run inside a worker process.

    Runner(path, threads, isa)   loads the model
    info                         what a reader of the numbers must know (precision, ISA level)
    prepare(ids)                 int64 ids (batch, tokens) → a call without arguments that runs the encoder once
    vectors(result)              that call's result → sentence vectors, float (batch, hidden); never timed

The timed call is the run alone: inputs lie ready in the layout that the system likes best, and no pooling is charged to a peer.
Ours is called through the public Python method, pools, and returns the vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bench.artefacts import OUTPUT_NAME, onnx_feed
from bench.common import read_anew, timed_burst, warm_up

Call = Callable[[], Any]


class Runner(Protocol):
    """See the module's docstring."""

    info: dict[str, Any]

    def __init__(self, path: Path, threads: int, isa: str | None) -> None: ...

    def prepare(self, ids: np.ndarray) -> Call: ...

    def vectors(self, result: Any) -> np.ndarray: ...


class Bench:
    """A runner as the measuring process sees it: a cell is set once, then checked and visited."""

    def __init__(self, runner: type[Runner], path: Path, threads: int, isa: str | None):
        read_anew(path)
        self._runner = runner(path, threads, isa)
        self._call: Call = lambda: None
        self._expected_s = 0.0

    def info(self) -> dict[str, Any]:
        return self._runner.info

    def vectors(self, batches: list[np.ndarray]) -> np.ndarray:
        """The sentence vectors of every batch, stacked, float64 (texts, hidden)."""
        results = [self._runner.vectors(self._runner.prepare(ids)()) for ids in batches]
        return np.concatenate(results).astype(np.float64)

    def begin(self, ids: np.ndarray) -> float:
        """Set the cell and warm up; return the expected seconds of a call."""
        self._call = self._runner.prepare(ids)
        self._expected_s = warm_up(self._call)
        return self._expected_s

    def visit(self) -> list[float]:
        return timed_burst(self._call, self._expected_s)


def _mean_over_tokens(hidden_state: np.ndarray) -> np.ndarray:
    return np.asarray(hidden_state, dtype=np.float64).mean(axis=1)


class Ours:
    """tinybert_rt through its Python API: ids in, pooled vectors out."""

    def __init__(self, path: Path, threads: int, isa: str | None):
        import tinybert_rt

        self.model = tinybert_rt.load(str(path), threads=threads, isa=isa)
        self.info = {"isa": self.model.isa, "threads": self.model.threads}

    def prepare(self, ids: np.ndarray) -> Call:
        batch, tokens = ids.shape
        flat = np.ascontiguousarray(ids, dtype=np.int32).ravel()
        offsets = np.arange(0, batch * tokens + 1, tokens, dtype=np.int64)
        return lambda: self.model.encode_ids(flat, offsets)

    def vectors(self, result: np.ndarray) -> np.ndarray:
        return result


class OnnxRuntime:
    """ONNX Runtime's CPU provider, all graph optimizations, one operator at a time."""

    def __init__(self, path: Path, threads: int, isa: str | None):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.info: dict[str, Any] = {}

    def prepare(self, ids: np.ndarray) -> Call:
        feed = onnx_feed(ids)
        return lambda: self.session.run([OUTPUT_NAME], feed)

    def vectors(self, result: list[np.ndarray]) -> np.ndarray:
        return _mean_over_tokens(result[0])


class OpenVino:
    """OpenVINO's CPU plugin with the LATENCY hint and its own choice of precision (bfloat16 where the CPU has it: see `info`)."""

    static = False

    def __init__(self, path: Path, threads: int, isa: str | None):
        import openvino

        self.core = openvino.Core()
        self.model = self.core.read_model(path)
        self.properties = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
        compiled = self.core.compile_model(self.model, "CPU", self.properties)
        self.request = compiled.create_infer_request()
        self.info = {"float_precision": compiled.get_property("INFERENCE_PRECISION_HINT").to_string()}

    def prepare(self, ids: np.ndarray) -> Call:
        if self.static:
            model = self.model.clone()
            model.reshape({node.get_any_name(): list(ids.shape) for node in model.inputs})
            self.request = self.core.compile_model(model, "CPU", self.properties).create_infer_request()
        feed = onnx_feed(ids)
        return lambda: self.request.infer(feed, share_inputs=True, share_outputs=True)

    def vectors(self, result: Any) -> np.ndarray:
        return _mean_over_tokens(result[0])


class OpenVinoStatic(OpenVino):
    """OpenVINO compiled for the cell's batch and length: faster for short texts, but every other length needs another compilation."""

    static = True


class CTranslate2:
    """CTranslate2's encoder, compute type int8 (float32 elsewhere). It also runs BERT's pooler, one small product per text."""

    def __init__(self, path: Path, threads: int, isa: str | None):
        import ctranslate2

        self.storage_view = ctranslate2.StorageView
        self.encoder = ctranslate2.Encoder(str(path), device="cpu", inter_threads=1, intra_threads=threads, compute_type="int8")
        self.info = {"compute_type": self.encoder.compute_type}

    def prepare(self, ids: np.ndarray) -> Call:
        # Views borrow the arrays' memory, so the closure keeps those too.
        arrays = np.ascontiguousarray(ids, dtype=np.int32), np.full(ids.shape[0], ids.shape[1], dtype=np.int32)
        views = [self.storage_view.from_array(array) for array in arrays]

        def call(kept: object = arrays) -> Any:
            return self.encoder.forward_batch(views[0], lengths=views[1])

        return call

    def vectors(self, result: Any) -> np.ndarray:
        return _mean_over_tokens(np.array(result.last_hidden_state))


class Torch:
    """PyTorch in float32 with scaled-dot-product attention: the reference of every cosine, and a peer."""

    def __init__(self, path: Path, threads: int, isa: str | None):
        import torch
        from transformers import BertModel

        torch.set_num_threads(threads)
        self.torch = torch
        self.model = BertModel.from_pretrained(path, add_pooling_layer=False, attn_implementation="sdpa").eval()
        self.info: dict[str, Any] = {}

    def prepare(self, ids: np.ndarray) -> Call:
        feed = {name: self.torch.from_numpy(array) for name, array in onnx_feed(ids).items()}

        def call() -> Any:
            with self.torch.inference_mode():
                return self.model(**feed).last_hidden_state

        return call

    def vectors(self, result: Any) -> np.ndarray:
        return _mean_over_tokens(result.numpy())
