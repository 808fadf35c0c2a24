"""What each architecture costs beside BERT of the same shape.

    python -m bench.family --models tiny,mini,small,minilm-l6,base --threads 1

Random weights, int8, one text. All architectures run in one process on the same token ids, in interleaved rounds. DeBERTa's attention
computes two more products for each score, and ALBERT projects its embeddings; the others compute what BERT does.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import tinybert_rt
from bench import options
from bench.common import (
    describe_header,
    flatten,
    header,
    interleave,
    paired_ratio,
    render_table,
    summarize,
    three_digits,
    timed_burst,
    warm_up,
    write_json,
    write_text,
)
from bench.shape import load_shape
from tools.architectures import ARCHITECTURES
from tools.convert import convert

DISENTANGLED: dict[str, Any] = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
SETTINGS: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {"max_position_embeddings": 514, "type_vocab_size": 1},
    "distilbert": {},
    "albert": {"embedding_size": 128},
    "electra": {},
    "deberta": DISENTANGLED,
    "deberta-v2": DISENTANGLED
    | {"position_biased_input": False, "position_buckets": 256, "share_att_key": True, "norm_rel_ebd": "layer_norm"},
}
"""Of each architecture, what its published checkpoints have where that is not transformers' default. deberta-v2 is v3."""

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(chr(code) for code in range(0x4E00, 0x4E00 + 1000))]
TOKENS = (16, 128, 512)
WEIGHT_SCALE = 1.2


def main(arguments: list[str] | None = None) -> int:
    """Measure as the command line says; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.family", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", type=options.models, default=["tiny", "mini", "minilm-l6", "base"], help="shapes")
    parser.add_argument("--threads", type=options.positives, default=[1], help="as 1,2 (default: 1)")
    parser.add_argument("--tokens", type=options.positives, default=list(TOKENS), help="of the text (default: 16,128,512)")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each row (default: 8)")
    parser.add_argument("--json", type=Path, help="write everything measured here")
    parser.add_argument("--markdown", type=Path, help="write the printed table here")
    parser.add_argument("--work", type=Path, default=Path("build/bench"), help="where the models are made (default: build/bench)")
    chosen = parser.parse_args(arguments)
    result: dict[str, Any] = header(("tinybert-rt", "numpy"), threads=",".join(map(str, chosen.threads)), seconds=chosen.seconds)
    result["rows"] = []
    for name in chosen.models:
        shape = load_shape(name)
        paths = {each: model_file(each, shape, chosen.work / "family" / shape.name) for each in SETTINGS}
        for threads in chosen.threads:
            models = {each: tinybert_rt.load(path, threads=threads) for each, path in paths.items()}
            for tokens in chosen.tokens:
                row = measure(models, tokens, chosen.seconds)
                result["rows"].append({"model": shape.name, "tokens": tokens, "threads": threads, "architectures": row})
                print(f"{shape.name}, {tokens} tokens", file=sys.stderr, flush=True)
    text = "\n\n".join([describe_header(result), family_table(result["rows"])])
    print(text)
    write_text(chosen.markdown, text + "\n")
    write_json(chosen.json, result)
    return 0


def model_file(architecture: str, shape: Any, folder: Path) -> Path:
    """A model file of random weights, made with `transformers` where it is not there yet."""
    path = folder / f"{architecture}.tbrt"
    if path.exists():
        return path
    import torch
    from transformers import AutoConfig, AutoModel

    kind = ARCHITECTURES[architecture]
    sizes = {
        "hidden_size": shape.hidden_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "intermediate_size": shape.intermediate_size,
    }
    settings = {"vocab_size": len(PIECES), "max_position_embeddings": 512} | {kind.key(name): size for name, size in sizes.items()}
    if architecture == "electra":
        settings["embedding_size"] = shape.hidden_size
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model(architecture, **(settings | SETTINGS[architecture])))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "orm" not in name and "bias" not in name:
                parameter.normal_(0, WEIGHT_SCALE / shape.hidden_size**0.5)
    checkpoint = folder / architecture
    checkpoint.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(checkpoint)
    (checkpoint / "vocab.txt").write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    (checkpoint / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
    convert(checkpoint, path, pooling="mean", normalize=True)
    return path


def measure(models: dict[str, tinybert_rt.Model], tokens: int, seconds: float) -> dict[str, Any]:
    """The ms of one text of so many tokens in each architecture, and how many times BERT's that is."""
    ids = np.random.default_rng(1).integers(5, len(PIECES), tokens).astype(np.int32)
    offsets = np.array([0, tokens])
    calls = {name: partial(model.encode_ids, ids, offsets) for name, model in models.items()}
    visits = {name: partial(timed_burst, call, warm_up(call)) for name, call in calls.items()}
    rounds = interleave(visits, budget_s=seconds, max_rounds=1000)
    return {
        name: {
            "ms": summarize(flatten(rounds[name])).as_dict(1e3),
            "over_bert": paired_ratio(rounds[name], rounds["bert"]).as_dict(digits=4),
        }
        for name in models
    }


def family_table(rows: list[dict[str, Any]]) -> str:
    """A line for each row of the results: BERT's time, and the ratio of the others."""
    names = [name for name in SETTINGS if name != "bert"]
    columns = ["model", "tokens", "threads", "BERT, ms", *(f"{name} / BERT" for name in names)]
    cells = []
    for row in rows:
        found = row["architectures"]
        ratios = [three_digits(found[name]["over_bert"]["median"]) for name in names]
        cells.append([row["model"], str(row["tokens"]), str(row["threads"]), three_digits(found["bert"]["ms"]["median"]), *ratios])
    return render_table(columns, cells)


if __name__ == "__main__":
    sys.exit(main())
