"""Read Hugging Face and sentence-transformers directories of encoders: configuration, modules and weights.

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

from .architectures import ARCHITECTURES, Architecture

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
_INTEGERS = {"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "<i1", "U8": "<u1", "BOOL": "?"}
_LEAST_POSITIONS = 4
"""The special tokens of a pair with two separators."""


class ConversionError(Exception):
    """The checkpoint cannot be converted: what was found, in which file, and what would help."""


@dataclass(frozen=True)
class Relative:
    """Relative positions (DeBERTa): `span` buckets to each side; distances from `bucket_size`/2 on share buckets by their logarithm up to
    `max_distance` (bucket_size 0: every distance is a bucket); which products meet positions; the projections are those of the
    layer's own queries and keys where they are shared; the table of positions is normalized first where it has a norm."""

    span: int
    bucket_size: int
    max_distance: int
    content_to_position: bool
    position_to_content: bool
    shared: bool
    normalized: bool


@dataclass(frozen=True)
class EncoderConfig:
    """The fields of config.json that say what an encoder computes.

    `max_positions` counts the positions that tokens can have; `positions_begin` rows of the table, which `positions` says is there, lie
    before them. `type_vocab_size` is 0 without token types, `embedding_size` where embeddings are not projected; `groups` of
    `inner_layers` layers each are in the checkpoint where layers are shared. `tied`: the embedding table may be the decoder of a head.
    `one_type`: every token has the first token type, whatever text of a pair it is in.
    """

    architecture: Architecture
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
    positions_begin: int = 0
    embedding_size: int = 0
    groups: int = 0
    inner_layers: int = 0
    positions: bool = True
    relative: Relative | None = None
    conv_kernel: int = 0
    conv_activation: str = "none"
    tied: bool = True
    one_type: bool = False

    @property
    def stored_layers(self) -> int:
        """Encoder layers in the checkpoint."""
        return self.groups * self.inner_layers or self.num_layers


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


def said(values: dict[str, Any], key: str) -> str:
    """What a JSON object says of a key, for an error."""
    return f"{key} is {values[key]!r}" if key in values else f"{key} is missing"


def read_config(directory: Path) -> EncoderConfig:
    """config.json of an encoder."""
    path = directory / "config.json"
    values = read_json_object(path)
    architecture = ARCHITECTURES.get(str(values.get("model_type")))
    if architecture is None:
        raise ConversionError(f"{path}: {said(values, 'model_type')}; supported: {', '.join(ARCHITECTURES)}")
    position = values.get("position_embedding_type") or "absolute"
    if position != "absolute":
        raise ConversionError(f"{path}: position_embedding_type is {position!r}; only 'absolute' is supported")

    def value(name: str, default: object = None) -> object:
        if name in architecture.fixed:
            return architecture.fixed[name]
        return values.get(architecture.key(name), architecture.defaults.get(name, default))

    activation = value("hidden_act", "gelu")
    if not isinstance(activation, str) or activation not in _ACTIVATIONS:
        raise ConversionError(f"{path}: {architecture.key('hidden_act')} is {activation!r}; supported: {', '.join(_ACTIVATIONS)}")
    for name in ("is_decoder", "add_cross_attention"):
        if values.get(name):
            raise ConversionError(f"{path}: {name} is {values[name]!r}; only encoders are supported")

    def size(name: str, largest: int, default: int | None = None, smallest: int = 1) -> int:
        found = value(name, default)
        if isinstance(found, bool) or not isinstance(found, int) or not smallest <= found <= largest:
            raise ConversionError(f"{path}: {said(values, architecture.key(name))}; it must be an integer from {smallest} to {largest}")
        return found

    eps = value("layer_norm_eps", 1e-12)
    if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not 0 < eps < 1:
        raise ConversionError(f"{path}: layer_norm_eps is {eps!r}; it must be a number between 0 and 1")
    begin = size("pad_token_id", layout.MAX_VOCAB_SIZE, 1, 0) + 1 if architecture.positions_begin == "pad" else 0
    positions = size("max_position_embeddings", layout.MAX_POSITIONS)
    if positions - begin < _LEAST_POSITIONS:
        before = f", of which {begin} come before the first token's" if begin else ""
        raise ConversionError(f"{path}: max_position_embeddings is {positions}{before}; tokens need at least {_LEAST_POSITIONS}")
    hidden = size("hidden_size", layout.MAX_HIDDEN_SIZE)
    embedding = size("embedding_size", layout.MAX_HIDDEN_SIZE, 128) if architecture.project else hidden
    sharing = architecture.shares_layers
    kernel, conv_activation = _convolution(path, values) if architecture.relative else (0, "none")
    config = EncoderConfig(
        architecture=architecture,
        num_layers=size("num_hidden_layers", layout.MAX_LAYERS),
        hidden_size=hidden,
        num_heads=size("num_attention_heads", layout.MAX_HIDDEN_SIZE),
        intermediate_size=size("intermediate_size", layout.MAX_DEPTH),
        vocab_size=size("vocab_size", layout.MAX_VOCAB_SIZE),
        max_positions=positions - begin,
        type_vocab_size=size("type_vocab_size", layout.MAX_TYPES, 2, 0 if architecture.relative else 1),
        activation=_ACTIVATIONS[activation],
        layer_norm_eps=float(eps),
        name=str(values.get("_name_or_path") or ""),
        positions_begin=begin,
        embedding_size=embedding if embedding != hidden or architecture.always_projected else 0,
        groups=size("num_hidden_groups", layout.MAX_LAYERS, 1) if sharing else 0,
        inner_layers=size("inner_group_num", layout.MAX_LAYERS, 1) if sharing else 0,
        positions=not architecture.relative or bool(values.get("position_biased_input", True)),
        relative=_relative(path, values, positions, architecture.packed != "") if architecture.relative else None,
        conv_kernel=kernel,
        conv_activation=conv_activation,
        tied=values.get("tie_word_embeddings") is not False,
    )
    if config.hidden_size % config.num_heads:
        raise ConversionError(
            f"{path}: {architecture.key('hidden_size')} {config.hidden_size} is not divisible by "
            f"{architecture.key('num_attention_heads')} {config.num_heads}"
        )
    if config.groups > config.num_layers or config.num_layers * max(config.inner_layers, 1) > layout.MAX_LAYERS:
        raise ConversionError(
            f"{path}: num_hidden_groups {config.groups} and inner_group_num {config.inner_layers} do not fit {config.num_layers} layers "
            f"(there may be {layout.MAX_LAYERS} in all)"
        )
    return config


def _relative(path: Path, values: dict[str, Any], positions: int, version_1: bool) -> Relative | None:
    """Disentangled attention's part of config.json, as transformers' DebertaConfig and DebertaV2Config have it."""
    if values.get("talking_head"):
        raise ConversionError(f"{path}: talking_head is {values['talking_head']!r}; heads that mix their scores are not supported")
    hidden = values.get("hidden_size")
    if values.get("embedding_size", hidden) != hidden:
        raise ConversionError(f"{path}: embedding_size is {values['embedding_size']!r}; only hidden_size, {hidden}, is supported")
    if values.get("attention_head_size") is not None:
        raise ConversionError(f"{path}: attention_head_size is {values['attention_head_size']!r}; only hidden_size/heads is supported")
    kinds = values.get("pos_att_type") or []
    kinds = [kind.strip() for kind in (kinds.lower().split("|") if isinstance(kinds, str) else kinds) if kind.strip()]
    if not set(kinds) <= {"c2p", "p2c"} or len(set(kinds)) != len(kinds):
        raise ConversionError(f"{path}: pos_att_type is {kinds}; supported: c2p, p2c")
    if not values.get("relative_attention"):
        if kinds:
            raise ConversionError(f"{path}: pos_att_type is {kinds}, but relative_attention is off: its scores have another scale")
        return None
    if not kinds:
        return None

    def number(name: str) -> int:
        found = values.get(name, -1)
        if isinstance(found, bool) or not isinstance(found, int) or found > layout.MAX_RELATIVE_SPAN:
            raise ConversionError(f"{path}: {name} is {found!r}; it must be an integer up to {layout.MAX_RELATIVE_SPAN}")
        return found

    most = number("max_relative_positions")
    most = positions if most < 1 else most
    buckets = 0 if version_1 else max(number("position_buckets"), 0)
    if 0 < buckets < 4 or (buckets and most <= buckets // 2 + 1):
        raise ConversionError(f"{path}: position_buckets is {buckets}; there must be at least 4, and fewer than 2·max_relative_positions")
    norms = [each.strip() for each in str(values.get("norm_rel_ebd", "none")).lower().split("|")]
    return Relative(
        span=buckets or most,
        bucket_size=buckets,
        max_distance=most,
        content_to_position="c2p" in kinds,
        position_to_content="p2c" in kinds,
        shared=not version_1 and bool(values.get("share_att_key", False)),
        normalized=not version_1 and "layer_norm" in norms,
    )


def _convolution(path: Path, values: dict[str, Any]) -> tuple[int, str]:
    """The taps of the convolution beside the first layer (0: there is none), and its activation."""
    taps = values.get("conv_kernel_size", 0) or 0
    if isinstance(taps, bool) or not isinstance(taps, int) or not (taps == 0 or (0 < taps <= layout.MAX_CONV_KERNEL and taps % 2)):
        raise ConversionError(f"{path}: conv_kernel_size is {taps!r}; it must be an odd integer up to {layout.MAX_CONV_KERNEL}")
    activation = str(values.get("conv_act", "tanh"))
    if taps and (activation == "none" or activation not in layout.HEAD_ACTIVATIONS):
        raise ConversionError(f"{path}: conv_act is {activation!r}; supported: tanh, gelu, relu")
    groups = values.get("conv_groups", 1)
    if taps and groups != 1:
        raise ConversionError(f"{path}: conv_groups is {groups!r}; only 1 is supported")
    return taps, activation if taps else "none"


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
    """The tensors of a checkpoint, by their names in the bare encoder: without the architecture's prefix and with modern norm names."""

    def __init__(self, path: Path, tensors: dict[str, np.ndarray], architecture: Architecture) -> None:
        self.path = path
        self._architecture = architecture
        self.unread = {_modern_name(name, architecture.prefix): array for name, array in tensors.items()}
        if len(self.unread) != len(tensors):
            raise ConversionError(
                f"{path}: a tensor is there twice, with and without the prefix {architecture.prefix!r} or under an old name"
            )

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

    def peek(self, name: str, *shape: int) -> np.ndarray:
        """As `take`, for a tensor that is taken again."""
        kept = self.unread.get(name)
        values = self.take(name, *shape)
        assert kept is not None
        self.unread[name] = kept
        return values

    def put(self, name: str, values: np.ndarray) -> None:
        """Have `values` in the place of the tensor `name`, as float32."""
        assert self.unread[name].shape == values.shape
        self.unread[name] = values.astype(np.float32)

    def check_rest(self) -> list[str]:
        """Notes on what was left; raises ConversionError for tensors that would change the result."""
        # DeBERTa's checkpoints have a table of positions even where the model does not look at it.
        for buffer in ("embeddings.position_ids", "embeddings.token_type_ids", "embeddings.position_embeddings.weight"):
            self.unread.pop(buffer, None)
        heads = [name for name in self.unread if name.startswith(self._architecture.heads)]
        for name in heads:
            del self.unread[name]
        if self.unread:
            name = self._architecture.name
            raise ConversionError(f"{self.path}: tensor {next(iter(self.unread))!r} is not part of an encoder of the kind {name!r}")
        return [f"{self.path.name}: heads ({', '.join(heads)}): ignored, nothing uses them"] if heads else []


def _modern_name(name: str, prefix: str) -> str:
    name = name.removeprefix(prefix)
    for old, new in ((".LayerNorm.gamma", ".LayerNorm.weight"), (".LayerNorm.beta", ".LayerNorm.bias")):
        if name.endswith(old):
            name = name.removesuffix(old) + new
    return name


def read_weights(directory: Path, architecture: Architecture) -> Weights:
    """model.safetensors, else pytorch_model.bin (which needs torch)."""
    path = directory / "model.safetensors"
    if path.exists():
        return Weights(path, _read_safetensors(path), architecture)
    path = directory / "pytorch_model.bin"
    if path.exists():
        return Weights(path, _read_torch(path), architecture)
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
                elif dtype in _INTEGERS:  # a buffer, or something that `take` refuses
                    tensors[name] = np.zeros(file.get_slice(name).get_shape(), _INTEGERS[dtype])
                else:
                    raise ConversionError(f"{path}: tensor {name!r} is {dtype}; it must be a float tensor")
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
    except OSError as error:
        raise ConversionError(f"{path}: cannot be read: {error.strerror or error}") from None
    except Exception:  # torch raises many kinds, with advice that leads astray
        raise ConversionError(f"{path}: not readable as PyTorch weights: it is damaged, or holds more than tensors; get it again") from None
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
