"""Read Hugging Face and sentence-transformers directories of BERT: configuration, modules and weights.

What is not understood is refused with a ConversionError that names the file and the field; nothing is guessed.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tinybert_rt.format import layout

# transformers' names of activations: ACT2FN in transformers/activations.py.
_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
_FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}


class ConversionError(Exception):
    """The checkpoint cannot be converted: what was found, in which file, and what would help."""


@dataclass(frozen=True)
class EncoderConfig:
    """The fields of config.json that say what BERT computes."""

    num_layers: int
    hidden_size: int
    num_heads: int
    intermediate_size: int
    vocab_size: int
    max_positions: int
    type_vocab_size: int
    activation: str
    layer_norm_eps: float
    name: str


@dataclass
class Embedding:
    """How a sentence-transformers directory makes one vector of a text; None: it does not say."""

    transformer: Path
    pooling: str | None = None
    normalize: bool | None = None
    max_tokens: int | None = None
    lowers_text: bool = False
    notes: list[str] = field(default_factory=list)


def read_json(path: Path) -> Any:
    """A JSON file. Raises ConversionError when it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConversionError(f"{path}: there is no such file") from None
    except (OSError, ValueError) as error:
        raise ConversionError(f"{path}: not readable as JSON: {error}") from None


def read_json_object(path: Path, required: bool = True) -> dict[str, Any]:
    """A JSON file that holds an object; {} if it is missing and not required."""
    if not required and not path.exists():
        return {}
    value = read_json(path)
    if not isinstance(value, dict):
        raise ConversionError(f"{path}: holds no JSON object")
    return value


def read_config(directory: Path) -> EncoderConfig:
    """config.json of a BERT encoder."""
    path = directory / "config.json"
    values = read_json_object(path)
    if values.get("model_type") != "bert":
        raise ConversionError(f"{path}: model_type is {values.get('model_type')!r}; only 'bert' is supported")
    position = values.get("position_embedding_type") or "absolute"
    if position != "absolute":
        raise ConversionError(f"{path}: position_embedding_type is {position!r}; only 'absolute' is supported")
    activation = values.get("hidden_act", "gelu")
    if activation not in _ACTIVATIONS:
        raise ConversionError(f"{path}: hidden_act is {activation!r}; supported: {', '.join(_ACTIVATIONS)}")
    for name in ("is_decoder", "add_cross_attention"):
        if values.get(name):
            raise ConversionError(f"{path}: {name} is {values[name]!r}; only encoders are supported")

    def size(name: str, largest: int, default: int | None = None) -> int:
        value = values.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= largest:
            raise ConversionError(f"{path}: {name} is {value!r}; it must be an integer from 1 to {largest}")
        return value

    eps = values.get("layer_norm_eps", 1e-12)
    if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not 0 < eps < 1:
        raise ConversionError(f"{path}: layer_norm_eps is {eps!r}; it must be a number between 0 and 1")
    config = EncoderConfig(
        num_layers=size("num_hidden_layers", layout.MAX_LAYERS),
        hidden_size=size("hidden_size", layout.MAX_HIDDEN_SIZE),
        num_heads=size("num_attention_heads", layout.MAX_HIDDEN_SIZE),
        intermediate_size=size("intermediate_size", layout.MAX_DEPTH),
        vocab_size=size("vocab_size", layout.MAX_VOCAB_SIZE),
        max_positions=size("max_position_embeddings", layout.MAX_POSITIONS),
        type_vocab_size=size("type_vocab_size", layout.MAX_TYPES, 2),
        activation=_ACTIVATIONS[activation],
        layer_norm_eps=float(eps),
        name=str(values.get("_name_or_path") or ""),
    )
    if config.hidden_size % config.num_heads:
        raise ConversionError(f"{path}: hidden_size {config.hidden_size} is not divisible by num_attention_heads {config.num_heads}")
    return config


def read_embedding(directory: Path) -> Embedding:
    """modules.json and what it refers to. A directory without it says nothing about pooling."""
    path = directory / "modules.json"
    if not path.exists():
        return Embedding(directory)
    modules = read_json(path)
    if not isinstance(modules, list) or not all(isinstance(each, dict) and isinstance(each.get("path"), str) for each in modules):
        raise ConversionError(f"{path}: holds no list of modules with a path each")
    kinds = [str(each.get("type")).rsplit(".", 1)[-1] for each in modules]
    for kind, module in zip(kinds, modules, strict=True):
        if kind not in ("Transformer", "Pooling", "Normalize"):
            raise ConversionError(f"{path}: module {module.get('type')!r} is not supported; supported: Transformer, Pooling, Normalize")
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise ConversionError(f"{path}: the modules are {kinds}; they must be Transformer, Pooling and, if wanted, Normalize")
    embedding = Embedding(directory / modules[0]["path"], normalize="Normalize" in kinds)
    embedding.pooling = _read_pooling(directory / modules[1]["path"] / "config.json")
    settings_path = embedding.transformer / "sentence_bert_config.json"
    settings = read_json_object(settings_path, required=False)
    limit = settings.get("max_seq_length")
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise ConversionError(f"{settings_path}: max_seq_length is {limit!r}; it must be a positive integer or null")
    embedding.max_tokens = limit
    embedding.lowers_text = bool(settings.get("do_lower_case"))
    prompts_path = directory / "config_sentence_transformers.json"
    prompts = read_json_object(prompts_path, required=False)
    if prompts.get("default_prompt_name") is not None:
        raise ConversionError(
            f"{prompts_path}: default_prompt_name is {prompts['default_prompt_name']!r}: a prompt put before every text is not supported"
        )
    used = {name: text for name, text in (prompts.get("prompts") or {}).items() if text}
    if used:
        embedding.notes.append(f"{prompts_path.name}: prompts are not stored, put them before the text yourself: {used}")
    return embedding


def _read_pooling(path: Path) -> str:
    values = read_json_object(path)
    names = {"cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max"}
    chosen = [key.removeprefix("pooling_mode_") for key, on in values.items() if key.startswith("pooling_mode_") and on]
    if "pooling_mode" in values:
        mode = values["pooling_mode"]
        chosen += mode if isinstance(mode, list) else [mode]
    modes = [names.get(each, each) for each in chosen]
    if len(modes) != 1 or modes[0] not in layout.POOLINGS:
        found = " + ".join(map(str, modes)) or "none"
        raise ConversionError(f"{path}: pooling mode is {found}; exactly one of {', '.join(layout.POOLINGS)} is supported")
    return str(modes[0])


class Weights:
    """The tensors of a checkpoint, by their names in `BertModel`: without the prefix "bert." and with modern norm names."""

    def __init__(self, path: Path, tensors: dict[str, np.ndarray]) -> None:
        self.path = path
        self.unread = {_modern_name(name): array for name, array in tensors.items()}
        if len(self.unread) != len(tensors):
            raise ConversionError(f"{path}: a tensor is there twice, with and without the prefix 'bert.' or under an old name")

    def take(self, name: str, *shape: int) -> np.ndarray:
        """The float tensor `name` as float32 or float64. Raises ConversionError when it is missing, misshapen or not finite."""
        array = self.unread.pop(name, None)
        if array is None:
            raise ConversionError(f"{self.path}: tensor {name!r} is missing")
        if array.shape != shape:
            raise ConversionError(f"{self.path}: tensor {name!r} has shape {array.shape}; config.json asks for {shape}")
        if array.dtype == np.uint16:  # bfloat16: the upper half of a float32
            array = (array.astype(np.uint32) << 16).view(np.float32)
        if array.dtype.kind != "f":
            raise ConversionError(f"{self.path}: tensor {name!r} is {array.dtype}; it must be a float tensor")
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
        if not np.isfinite(array).all():
            raise ConversionError(f"{self.path}: tensor {name!r} holds NaN or infinity")
        return array

    def check_rest(self) -> list[str]:
        """Notes on what was left; raises ConversionError for tensors that would change the result."""
        notes = []
        self.unread.pop("embeddings.position_ids", None)
        for prefix, what in (("pooler.", "the pooler"), ("cls.", "the pretraining heads")):
            names = [name for name in self.unread if name.startswith(prefix)]
            for name in names:
                del self.unread[name]
            if names:
                notes.append(f"{self.path.name}: {what} ({', '.join(names)}): ignored, sentence vectors do not use it")
        if self.unread:
            raise ConversionError(f"{self.path}: tensor {next(iter(self.unread))!r} is not part of a BERT encoder")
        return notes


def _modern_name(name: str) -> str:
    name = name.removeprefix("bert.")
    for old, new in ((".LayerNorm.gamma", ".LayerNorm.weight"), (".LayerNorm.beta", ".LayerNorm.bias")):
        if name.endswith(old):
            name = name.removesuffix(old) + new
    return name


def read_weights(directory: Path) -> Weights:
    """model.safetensors, else pytorch_model.bin (which needs torch)."""
    path = directory / "model.safetensors"
    if path.exists():
        return Weights(path, _read_safetensors(path))
    path = directory / "pytorch_model.bin"
    if path.exists():
        return Weights(path, _read_torch(path))
    for path in (directory / "model.safetensors.index.json", directory / "pytorch_model.bin.index.json"):
        if path.exists():
            raise ConversionError(f"{path}: weights in several files are not supported; save them as one model.safetensors")
    raise ConversionError(f"{directory}: neither model.safetensors nor pytorch_model.bin is there")


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise ConversionError(f"{path}: reading it needs the package 'safetensors': pip install safetensors") from None
    tensors: dict[str, np.ndarray] = {}
    try:
        with safe_open(path, framework="np") as file:  # checks the whole header
            for name in file.keys():  # noqa: SIM118
                dtype = file.get_slice(name).get_dtype()
                if dtype in _FLOATS:
                    tensors[name] = file.get_tensor(name)
                elif dtype == "BF16":
                    tensors[name] = _raw_tensor(path, name, "<u2")
                else:  # an integer buffer, or something that `take` refuses
                    tensors[name] = np.zeros(file.get_slice(name).get_shape(), np.int8)
    except (SafetensorError, OSError) as error:
        raise ConversionError(f"{path}: not readable as safetensors: {error}") from None
    return tensors


def _raw_tensor(path: Path, name: str, dtype: str) -> np.ndarray:
    """A tensor of a checked safetensors file, its bytes seen as `dtype`."""
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        entry = json.loads(file.read(size))[name]
        begin, end = entry["data_offsets"]
        file.seek(8 + size + begin)
        array: np.ndarray = np.frombuffer(file.read(end - begin), dtype).reshape(entry["shape"])
        return array


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError:
        raise ConversionError(f"{path}: reading it needs torch; or save the model as model.safetensors") from None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConversionError(f"{path}: not readable as PyTorch weights: {reason}") from None
    if not isinstance(state, dict) or not all(isinstance(each, torch.Tensor) for each in state.values()):
        raise ConversionError(f"{path}: holds no dictionary of tensors")
    return {name: (value.float() if value.is_floating_point() else value).numpy() for name, value in state.items()}


def file_digest(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
