"""A tiny sentence-transformers directory of BERT with random weights, written by hand, for the tests of the converter."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "##a", "##b", "the", "é"]
HIDDEN, INNER, HEADS, POSITIONS = 12, 20, 2, 16

Json = dict[str, Any]


def weights(layers: int = 1) -> dict[str, np.ndarray]:
    """Random float32 tensors under the names of `BertModel`."""
    rng = np.random.default_rng(7)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    tensors = {
        "embeddings.word_embeddings.weight": normal(len(VOCABULARY), HIDDEN),
        "embeddings.position_embeddings.weight": normal(POSITIONS, HIDDEN),
        "embeddings.token_type_embeddings.weight": normal(2, HIDDEN),
        "embeddings.LayerNorm.weight": normal(HIDDEN),
        "embeddings.LayerNorm.bias": normal(HIDDEN),
        "embeddings.position_ids": np.arange(POSITIONS)[None],
        "pooler.dense.weight": normal(HIDDEN, HIDDEN),
        "pooler.dense.bias": normal(HIDDEN),
    }
    for layer in range(layers):
        sizes = {
            "attention.self.query": (HIDDEN, HIDDEN),
            "attention.self.key": (HIDDEN, HIDDEN),
            "attention.self.value": (HIDDEN, HIDDEN),
            "attention.output.dense": (HIDDEN, HIDDEN),
            "intermediate.dense": (INNER, HIDDEN),
            "output.dense": (HIDDEN, INNER),
        }
        for name, (outputs, inputs) in sizes.items():
            tensors[f"encoder.layer.{layer}.{name}.weight"] = normal(outputs, inputs)
            tensors[f"encoder.layer.{layer}.{name}.bias"] = normal(outputs)
        for name in ("attention.output", "output"):
            for part in ("weight", "bias"):
                tensors[f"encoder.layer.{layer}.{name}.LayerNorm.{part}"] = normal(HIDDEN)
    return tensors


def tokenizer_json() -> Json:
    """tokenizer.json of a BERT tokenizer with VOCABULARY."""
    special = VOCABULARY[:5]
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    cls, sep = {"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"SpecialToken": {"id": "[SEP]", "type_id": 0}}
    first = [cls, {"Sequence": {"id": "A", "type_id": 0}}, sep]
    return {
        "version": "1.0",
        "truncation": {"max_length": 4},
        "added_tokens": [{"id": index, "content": token, **plain} for index, token in enumerate(special)],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": first,
            "pair": [*first, {"Sequence": {"id": "B", "type_id": 1}}, {"SpecialToken": {"id": "[SEP]", "type_id": 1}}],
        },
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {piece: index for index, piece in enumerate(VOCABULARY)},
        },
    }


def write_directory(path: Path, tensors: dict[str, np.ndarray] | None = None, fast: bool = False) -> Path:
    """The directory; `fast` writes tokenizer.json in place of vocab.txt."""
    from safetensors.numpy import save_file

    (path / "1_Pooling").mkdir(parents=True)
    save_file(weights() if tensors is None else tensors, path / "model.safetensors", metadata={"format": "pt"})
    files: dict[str, Any] = {
        "config.json": {
            "model_type": "bert",
            "num_hidden_layers": 1,
            "hidden_size": HIDDEN,
            "num_attention_heads": HEADS,
            "intermediate_size": INNER,
            "hidden_act": "gelu",
            "vocab_size": len(VOCABULARY),
            "max_position_embeddings": POSITIONS,
            "type_vocab_size": 2,
            "layer_norm_eps": 1e-6,
        },
        "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
            {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
        ],
        "1_Pooling/config.json": {
            "word_embedding_dimension": HIDDEN,
            "pooling_mode_cls_token": False,
            "pooling_mode_mean_tokens": True,
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
        },
        "sentence_bert_config.json": {"max_seq_length": 10, "do_lower_case": False},
        "tokenizer_config.json": {"do_lower_case": True, "model_max_length": 512},
    }
    if fast:
        files["tokenizer.json"] = tokenizer_json()
    else:
        (path / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    for name, content in files.items():
        (path / name).write_text(json.dumps(content), encoding="utf-8")
    return path


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    """Change a JSON file: `change` alters the object in place, or returns another."""
    value = json.loads(path.read_text(encoding="utf-8"))
    result = change(value)
    path.write_text(json.dumps(value if result is None else result), encoding="utf-8")
