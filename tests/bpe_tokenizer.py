"""Byte-level BPE of this package for a Hugging Face directory, called from Python; and such directories, made with `tokenizers`."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from format_files import small_config
from text_tokenizer import SHARED, ffi, function

from tinybert_rt.format import tensors as file_tensors
from tinybert_rt.format.writer import NUMPY_DTYPES, write_model
from tinybert_rt.text.limits import WORD_SCRATCH_BYTES
from tools.hf_tokenizer import read_tokenizer
from tools.tokenizer_parts import tokenizer_tensors

ROOT = Path(__file__).resolve().parent.parent
ROBERTA = SHARED / "tokenizers" / "roberta-base"
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
CLS, PAD, SEP, UNK, MASK = range(5)

Json = dict[str, Any]


class BpeKernels:
    """The tokenizer of a directory."""

    def __init__(self, directory: Path) -> None:
        self.tokenizer = read_tokenizer(directory)
        self.tensors, self.config = tokenizer_tensors(self.tokenizer)
        self.scratch = np.zeros(WORD_SCRATCH_BYTES + 64, np.uint8)
        self.scratch[WORD_SCRATCH_BYTES:] = 0xA5
        self.struct = ffi.new("kernel_tokenizer *")
        fields = {name: self.config[name] for name in ("trie_nodes", "vocab_size", "unk_id", "cls_id", "sep_id", "pad_id", "mask_id")}
        fields |= {
            "kind": self.config["tokenizer_kind"],
            "flags": self.config["tokenizer_flags"],
            "added_count": self.config["added_tokens"],
        }
        for name, values in self.tensors.items():
            fields[name.removeprefix("tokenizer.")] = values.ctypes.data
        for name, value in fields.items():
            setattr(self.struct, name, value)
        function("text_prepare_tokenizer")(self.struct)
        self._encode = function("text_encode")
        self._tokenize = function("text_tokenize")

    def _check_scratch(self) -> None:
        assert (self.scratch[WORD_SCRATCH_BYTES:] == 0xA5).all(), "a kernel wrote behind its scratch"

    def encode(self, text: str | bytes, capacity: int | None = None) -> tuple[list[int], int, list[list[int]]]:
        """The ids written, the number of tokens of the whole text, the spans of the tokens written, in bytes."""
        data = text.encode() if isinstance(text, str) else text
        room = 4 * len(data) if capacity is None else capacity
        ids = np.full(room + 1, -77, np.int32)
        spans = np.full((room + 1, 2), -77, np.int32)
        buffer = ffi.from_buffer(data)
        address = int(ffi.cast("intptr_t", buffer))
        total = self._encode(self.struct, address, len(data), ids.ctypes.data, spans.ctypes.data, room, self.scratch.ctypes.data)
        self._check_scratch()
        assert ids[room] == -77
        assert (spans[room] == -77).all()
        return ids[: min(total, room)].tolist(), total, spans[: min(total, room)].tolist()

    def ids(self, text: str | bytes) -> list[int]:
        """The ids of a text."""
        data = text.encode() if isinstance(text, str) else text
        ids = np.empty(4 * len(data), np.int32)
        buffer = ffi.from_buffer(data)
        address = int(ffi.cast("intptr_t", buffer))
        total = self._encode(self.struct, address, len(data), ids.ctypes.data, 0, len(ids), self.scratch.ctypes.data)
        found: list[int] = ids[:total].tolist()
        return found

    def tokenize(
        self, text: str | bytes, pair: str | bytes | None, max_tokens: int, policy: int
    ) -> tuple[int, list[int], list[int], int, int]:
        """Status, ids, types, total number of tokens, whether the text was truncated."""
        data = text.encode() if isinstance(text, str) else text
        other = b"" if pair is None else pair.encode() if isinstance(pair, str) else pair
        ids = np.full(max(max_tokens, 0) + 1, -77, np.int32)
        types = np.full(max(max_tokens, 0) + 1, 77, np.uint8)
        info = ffi.new("kernel_tokenize_info *")
        buffers = ffi.from_buffer(data), ffi.from_buffer(other)
        first, second = (int(ffi.cast("intptr_t", buffer)) for buffer in buffers)
        size = -1 if pair is None else len(other)
        out = ids.ctypes.data, types.ctypes.data, 0, info, self.scratch.ctypes.data
        status = self._tokenize(self.struct, first, len(data), second, size, max_tokens, policy, *out)
        self._check_scratch()
        assert ids[-1] == -77
        assert types[-1] == 77
        return status, ids[: info.count].tolist(), types[: info.count].tolist(), info.total, info.truncated


@functools.cache
def trained_json() -> str:
    """tokenizer.json of a byte-level BPE of some hundred merges, trained on this project's own texts; with RoBERTa's special tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1000, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False)
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "CONTRIBUTING.md", "tinybert_rt/format/FORMAT.md")]
    foreign = "d\u00e9j\u00e0 vu \u00e0 l'\u00e9t\u00e9 \u4e2d\u6587\u4e2d\u6587 \u0416\u0430\u0440\u0430 \U0001f600\U0001f600"
    texts.append((foreign + " ahahahah \n\n\n    x") * 20)
    tokenizer.train_from_iterator(texts, trainer)
    parts = json.loads(tokenizer.to_str())
    for token in parts["added_tokens"]:
        token["lstrip"] = token["content"] == "<mask>"
    parts["post_processor"] = {
        "type": "RobertaProcessing",
        "sep": ["</s>", SEP],
        "cls": ["<s>", CLS],
        "trim_offsets": True,
        "add_prefix_space": False,
    }
    return json.dumps(parts)


def write_bpe(directory: Path, change: Callable[[Json], object] | None = None, **settings: Any) -> Path:
    """A directory with the trained tokenizer; `change` alters its tokenizer.json in place, settings are tokenizer_config.json."""
    parts = json.loads(trained_json())
    if change is not None:
        change(parts)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tokenizer.json").write_text(json.dumps(parts), encoding="utf-8")
    (directory / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return directory


def write_bpe_model(directory: Path, change: Callable[[Json], object] | None = None) -> Path:
    """A model file with the trained tokenizer; its weights are zero."""
    tensors, fields = tokenizer_tensors(read_tokenizer(write_bpe(directory / "hf", change)))
    config = small_config(**fields)
    specs = file_tensors.tensor_specs(config)
    zeros = {name: np.zeros(shape, NUMPY_DTYPES[dtype]) for name, (dtype, shape) in specs.items() if name != "config"}
    write_model(directory / "small.tbrt", config, {**zeros, **tensors}, {"source": "a test"})
    return directory / "small.tbrt"


def write_in_parts(directory: Path, special: tuple[str, ...] = SPECIAL, **settings: Any) -> Path:
    """A directory with vocab.json and merges.txt of the trained tokenizer, its special tokens under other names if wanted."""
    model = json.loads(trained_json())["model"]
    renamed = dict(zip(SPECIAL, special, strict=True))
    vocabulary = {renamed.get(piece, piece): index for piece, index in model["vocab"].items()}
    merges = "\n".join(" ".join(pair) for pair in model["merges"])
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (directory / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
    (directory / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return directory


def add_token(content: str, **options: bool) -> Callable[[Json], object]:
    """A change of tokenizer.json: one more added token, behind the vocabulary."""

    def change(parts: Json) -> None:
        tokens = parts["added_tokens"]
        index = max(max(parts["model"]["vocab"].values()), *(token["id"] for token in tokens)) + 1
        plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        tokens.append({"id": index, "content": content, **plain, **options})

    return change


def prefix_space(parts: Json) -> None:
    """A change of tokenizer.json: the pre-tokenizer puts a space before the text."""
    parts["pre_tokenizer"]["add_prefix_space"] = True


def revealing(parts: Json) -> None:
    """A change of tokenizer.json: every byte merges with a letter, a digit and a # behind it, and with nothing else."""
    alphabet = [piece for piece in parts["model"]["vocab"] if len(piece) == 1]
    merges = [[char, other] for char in alphabet for other in "a1#"]
    pieces = [*SPECIAL, *alphabet, *map("".join, merges)]
    parts["model"].update(vocab={piece: index for index, piece in enumerate(pieces)}, merges=merges)


def load(change: Callable[[Json], object] | None = None) -> tuple[BpeKernels, Any]:
    """The trained tokenizer, changed: this package's and that of `tokenizers`."""
    from tokenizers import Tokenizer

    with tempfile.TemporaryDirectory() as name:
        directory = write_bpe(Path(name), change)
        return BpeKernels(directory), Tokenizer.from_file(str(directory / "tokenizer.json"))


@functools.cache
def roberta() -> tuple[BpeKernels, Any]:
    """RoBERTa's tokenizer: this package's and that of `tokenizers`."""
    from tokenizers import Tokenizer

    return BpeKernels(ROBERTA), Tokenizer.from_file(str(ROBERTA / "tokenizer.json"))


def reference_ids(tokenizer: Any, text: str) -> list[int]:
    """The reference's ids of a text without the special tokens around it."""
    return list(tokenizer.encode(text, add_special_tokens=False).ids)
