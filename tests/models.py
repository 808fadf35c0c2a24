"""Small checkpoints with random weights, written by `transformers`, and their model files."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PIECES += [chr(c) for c in range(33, 127)] + [f"##{chr(c)}" for c in range(97, 123)]
PIECES += [
    "the",
    "of",
    "and",
    "a",
    "to",
    "in",
    "model",
    "text",
    "vector",
    "small",
    "fast",
    "cat",
    "dog",
    "sat",
    "on",
    "mat",
    "##ing",
    "##ed",
    "##s",
    "é",
    "中",
    "文",
]


def vocabulary() -> list[str]:
    """A vocabulary of letters, punctuation and a few words."""
    return list(dict.fromkeys(PIECES))


def write_checkpoint(directory: Path, *, pooling: str = "mean", normalize: bool = True, seed: int = 0, **config: Any) -> Any:
    """A BERT checkpoint directory as sentence-transformers lays it out; returns the torch model in eval mode."""
    import torch
    from transformers import BertConfig, BertModel

    settings: dict[str, Any] = {
        "vocab_size": len(vocabulary()),
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 128,
        "max_position_embeddings": 96,
        "type_vocab_size": 2,
        **config,
    }
    torch.manual_seed(seed)
    model = BertModel(BertConfig(**settings), add_pooling_layer=False).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Larger than the initial 0.02, so that attention and activations leave their linear range: scores of about ±8.
            scale = 0.1 if "LayerNorm" in name or "bias" in name else 1.2 / settings["hidden_size"] ** 0.5
            parameter.add_(torch.randn_like(parameter) * scale)
    directory.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(directory)
    (directory / "vocab.txt").write_text("\n".join(vocabulary()) + "\n", encoding="utf-8")
    (directory / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True, "tokenizer_class": "BertTokenizer"}))
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    if normalize:
        modules.append({"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"})
    (directory / "modules.json").write_text(json.dumps(modules))
    (directory / "1_Pooling").mkdir(exist_ok=True)
    modes = {f"pooling_mode_{name}_tokens": False for name in ("mean", "max")} | {"pooling_mode_cls_token": False}
    modes["pooling_mode_cls_token" if pooling == "cls" else f"pooling_mode_{pooling}_tokens"] = True
    (directory / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": settings["hidden_size"], **modes}))
    return model


def convert(directory: Path, dtype: str, name: str = "model") -> Path:
    """Convert a checkpoint directory; returns the model file."""
    from tools.convert import convert as convert_directory

    out = directory / f"{name}-{dtype}.tbrt"
    convert_directory(directory, out, dtype=dtype)
    return out


@cache
def small_model_file(dtype: str = "int8") -> Path:
    """A small model file that the tests of one session share."""
    import tempfile

    directory = Path(tempfile.mkdtemp(prefix="tinybert_rt-test-"))
    write_checkpoint(directory)
    return convert(directory, dtype)


def rows_apart(model: Any, rows: int | None = None) -> int:
    """From how many rows a worker on a model's workers take rows of their own; `rows`, if given, is what holds from now on."""
    session = model._pool.take()
    if rows is not None:
        session.struct.rows_apart = rows
    model._pool.give_back(session)
    return int(session.struct.rows_apart)


def ragged(lengths: list[int], vocab_size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random ids int32 (total,), offsets int64 (n+1,), token types uint8 (total,) that switch in the middle of each text."""
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = rng.integers(0, vocab_size, offsets[-1]).astype(np.int32)
    types = np.concatenate([np.arange(n) >= n // 2 for n in lengths]).astype(np.uint8)
    return ids, offsets, types
