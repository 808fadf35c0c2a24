"""Compare a checkpoint in `transformers` (PyTorch, float32) with the runtime, layer by layer: where does a difference come from?

Usage:
    python -m tools.compare CHECKPOINT_DIR                            (converted to int8 for this)
    python -m tools.compare CHECKPOINT_DIR --dtype f32 --text "A text." --text "Another one."
    python -m tools.compare CHECKPOINT_DIR --model model.tbrt --file lines.txt --json

Both get the ids of the model file's tokenizer, so that all that is compared is arithmetic; where the checkpoint's own tokenizer can be
loaded, its ids are compared apart from that. Needs the packages torch and transformers.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from tinybert_rt.cli import OneLineParser

from .convert import DTYPES, convert
from .heads import read_head
from .hf import ConversionError, read_config, read_embedding, read_json_object

TEXTS = (
    "The cat sleeps on the sofa.",
    "Shares fell sharply on Monday, after the bank had warned of losses.",
    "In 1905, a clerk of the patent office in Bern published four papers that changed physics.",
)
"""What is compared where no text is given."""


def drift(found: np.ndarray, expected: np.ndarray) -> dict[str, float]:
    """How far float (rows, size) `found` is from `expected`.

    max_abs: the largest absolute difference. relative_rms: √Σ(found − expected)² / √Σ expected². mean_cosine, min_cosine: of the rows.
    """
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    difference = found - expected
    lengths = np.linalg.norm(found, axis=-1) * np.linalg.norm(expected, axis=-1)
    cosines = (found * expected).sum(axis=-1) / np.where(lengths > 0, lengths, 1)
    return {
        "max_abs": float(np.abs(difference).max()),
        "relative_rms": float(np.linalg.norm(difference) / max(np.linalg.norm(expected), 1e-300)),
        "mean_cosine": float(cosines.mean()),
        "min_cosine": float(cosines.min()),
    }


class Reference:
    """A checkpoint in `transformers`, in float32 with attention that shows its probabilities."""

    def __init__(self, directory: Path) -> None:
        try:
            import transformers
        except ImportError as error:
            raise ConversionError(f"the comparison needs transformers and torch: {error}") from None
        transformers.utils.logging.disable_progress_bar()
        head = read_head(directory)
        name = "AutoModel"
        if head is not None:  # the class that config.json names has the head's weights
            name = str(read_json_object(directory / "config.json")["architectures"][0])
        if not hasattr(transformers, name):
            raise ConversionError(f"{directory / 'config.json'}: architectures names {name}, which transformers does not have")
        try:
            self._model = getattr(transformers, name).from_pretrained(directory, attn_implementation="eager").float().eval()
        except (OSError, ValueError, RuntimeError) as error:
            raise ConversionError(f"{directory}: transformers cannot load it: {error}") from None
        self._takes_types = hasattr(self._model.config, "type_vocab_size")
        self._is_choice = name.endswith("ForMultipleChoice")
        self._is_of_replaced_tokens = name.endswith("ForPreTraining")  # its logits have no axis of labels

    def run(self, ids: np.ndarray, types: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Of one text: hidden states (layers + 1, tokens, dim), attentions (layers, heads, tokens, tokens), logits or None."""
        import torch

        given = {"input_ids": torch.from_numpy(ids.astype(np.int64))[None]}
        if self._takes_types:
            given["token_type_ids"] = torch.from_numpy(types.astype(np.int64))[None]
        if self._is_choice:
            given = {name: values[None] for name, values in given.items()}
        with torch.inference_mode():
            out = self._model(**given, output_hidden_states=True, output_attentions=True)
        states = torch.stack([each.reshape(ids.size, -1) for each in out.hidden_states]).numpy()
        attentions = torch.stack([each[0] for each in out.attentions]).numpy()
        logits = None
        if "start_logits" in out:
            logits = torch.stack([out.start_logits, out.end_logits], -1)
        elif "logits" in out:
            logits = out.logits[..., None] if self._is_of_replaced_tokens else out.logits
        elif "prediction_logits" in out:  # of two heads of pretraining, the one that is converted unless another is named
            logits = out.prediction_logits
        return states, attentions, None if logits is None else logits.reshape(-1, logits.shape[-1]).numpy()


def pooled(states: np.ndarray, pooling: str, normalize: bool) -> np.ndarray:
    """The vector of one text from its last hidden states (tokens, dim), in float64: (dim,)."""
    states = states.astype(np.float64)
    vector: np.ndarray = states[0] if pooling == "cls" else states.max(axis=0) if pooling == "max" else states.mean(axis=0)
    return vector / max(np.linalg.norm(vector), 1e-300) if normalize else vector


def compare(directory: Path, file: Path, texts: Sequence[str]) -> dict[str, Any]:
    """The drift of a model file from its checkpoint: of every layer, the attention probabilities, the pooled vectors, the head.

    Raises ConversionError where the checkpoint cannot be used or is not that of the file, TinyBertError.
    """
    import tinybert_rt as tb

    transformer = read_embedding(directory).transformer
    model = tb.load(file)
    facts = model.info()
    encoder = read_config(transformer)
    if (facts["hidden_size"], facts["heads"]) != (encoder.hidden_size, encoder.num_heads):
        raise ConversionError(f"{file}: is not made of {directory}: its sizes are others")
    tokenized = [model.tokenize(text, max_tokens=model.max_tokens) for text in texts]
    ids = np.concatenate([each.ids for each in tokenized])
    types = np.minimum(np.concatenate([each.types for each in tokenized]), max(encoder.type_vocab_size, 1) - 1).astype(np.uint8)
    offsets = np.concatenate([[0], np.cumsum([each.ids.size for each in tokenized])]).astype(np.int64)

    reference = Reference(transformer)
    theirs = [reference.run(ids[a:b], types[a:b]) for a, b in pairwise(offsets.tolist())]
    states = np.concatenate([each[0] for each in theirs], axis=1)
    ours = model.hidden_states_ids(ids, offsets, types)
    if ours.shape != states.shape:
        raise ConversionError(f"{file}: is not made of {directory}: it has {len(ours) - 1} layers, the checkpoint {len(states) - 1}")
    maps = model.attentions_ids(ids, offsets, types)
    layers: list[dict[str, Any]] = []
    for index in range(len(ours)):
        layers.append({"layer": index, **drift(ours[index], states[index])})
        if index:
            apart = [np.abs(mine[index - 1] - each[1][index - 1]).max() for mine, each in zip(maps, theirs, strict=True)]
            layers[-1]["attention_max_abs"] = float(max(apart))
    vectors = np.stack([pooled(each[0][-1], facts["pooling"], facts["normalized"]) for each in theirs])
    result = {
        "checkpoint": directory.name,
        "file": file.name,
        "architecture": facts["architecture"],
        "weights": facts["weights"],
        "texts": len(texts),
        "tokens": int(ids.size),
        "truncated_texts": sum(each.truncated for each in tokenized),
        "layers": layers,
        "pooled": drift(model.encode_ids(ids, offsets, types), vectors),
        "tokenizer": compare_tokenizers(transformer, model, texts),
    }
    if facts["head"] != "none":
        if facts["head"] == "masked_token":  # the runtime has logits of mask tokens alone: one in each text
            ids = ids.copy()
            ids[offsets[:-1] + 1] = model.mask_id
            theirs = [reference.run(ids[a:b], types[a:b]) for a, b in pairwise(offsets.tolist())]
        logits = [each[2] for each in theirs if each[2] is not None]
        found = model.logits(ids, offsets, types)
        expected = np.concatenate(logits) if logits else np.zeros((0, 0), np.float32)
        if facts["head"] == "masked_token" and len(expected) == len(ids):
            expected = expected[ids == model.mask_id, : found.shape[1]]
        if found.shape != expected.shape:
            raise ConversionError(f"{file}: is not made of {directory}: it has a head of another kind")
        result["logits"] = drift(found, expected)
    return result


def compare_tokenizers(directory: Path, model: Any, texts: Sequence[str]) -> dict[str, Any]:
    """Whether the checkpoint's own tokenizer gives the same ids: how many texts differ and the first of them, or why it is not known."""
    try:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(directory)
        theirs = [tokenizer(text)["input_ids"] for text in texts]
    except Exception as error:  # whatever a tokenizer's code does
        return {"loaded": False, "reason": " ".join(str(error).split())[:200]}
    ours = [model.tokenize(text).ids.tolist() for text in texts]
    different = [index for index, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1]]
    result: dict[str, Any] = {"loaded": True, "different_texts": len(different)}
    if different:
        first = different[0]
        result |= {"text": texts[first], "ours": ours[first], "theirs": theirs[first]}
    return result


def format_result(result: dict[str, Any]) -> str:
    """The table that the command prints."""
    lines = [f"{result['file']} ({result['weights']}) against {result['checkpoint']}: {result['texts']} texts, {result['tokens']} tokens"]
    lines.append(f"{'':12}{'max abs':>11}{'rel. RMS':>11}{'mean cos':>11}{'min cos':>11}{'attention max abs':>20}")

    def row(name: str, numbers: dict[str, Any]) -> str:
        text = (
            f"{name:12}{numbers['max_abs']:11.3e}{numbers['relative_rms']:11.3e}{numbers['mean_cosine']:11.6f}{numbers['min_cosine']:11.6f}"
        )
        return text + (f"{numbers['attention_max_abs']:20.3e}" if "attention_max_abs" in numbers else "")

    lines += [row(f"layer {each['layer']}" if each["layer"] else "embeddings", each) for each in result["layers"]]
    lines += [row(name, result[name]) for name in ("pooled", "logits") if name in result]
    tokenizer = result["tokenizer"]
    if not tokenizer["loaded"]:
        lines.append(f"tokenizer: the checkpoint's own was not loaded: {tokenizer['reason']}")
    elif tokenizer["different_texts"]:
        lines.append(
            f"tokenizer: {tokenizer['different_texts']} texts have other ids in the checkpoint's own, first {tokenizer['text']!r}:"
        )
        lines += [f"  {name}: {' '.join(map(str, tokenizer[name]))}" for name in ("ours", "theirs")]
    else:
        lines.append("tokenizer: the same ids as the checkpoint's own")
    if result["truncated_texts"]:
        lines.append(f"note: {result['truncated_texts']} texts were cut to the model's maximum")
    return "\n".join(lines)


def _texts(options: argparse.Namespace) -> list[str]:
    texts = list(options.text or [])
    if options.file is not None:
        try:
            texts += [line for line in options.file.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, ValueError) as error:
            raise ConversionError(f"{options.file}: not readable: {error}") from None
        if not texts:
            raise ConversionError(f"{options.file}: no texts")
    return texts or list(TEXTS)


def _model_file(options: argparse.Namespace, work: Path) -> Path:
    if options.model is not None:
        return Path(options.model)
    said = read_embedding(options.directory)
    out = work / f"{options.directory.resolve().name}-{options.dtype}.tbrt"
    # A plain encoder says nothing of vectors: then means are compared.
    convert(options.directory, out, dtype=options.dtype, pooling=said.pooling or "mean", normalize=bool(said.normalize))
    return out


def main(arguments: Sequence[str] | None = None, prog: str = "python -m tools.compare") -> int:
    """Run the command. Returns the exit status: 0, or 2 after one line that says what is wrong."""
    command = OneLineParser(prog=prog, description="Compare a checkpoint in transformers with the runtime, layer by layer.")
    command.add_argument("directory", type=Path, help="Hugging Face or sentence-transformers directory")
    which = command.add_mutually_exclusive_group()
    which.add_argument("--model", type=Path, metavar="FILE", help="the .tbrt file; default: one is made for this")
    which.add_argument("--dtype", choices=DTYPES, default="int8", help="weights of that one (default: int8)")
    command.add_argument("--text", action="append", metavar="TEXT", help="a text; may be given again")
    command.add_argument("--file", type=Path, metavar="FILE", help="a text a line")
    command.add_argument("--json", action="store_true", help="one JSON object in place of the table")
    options = command.parse_args(arguments)

    import tinybert_rt as tb

    try:
        texts = _texts(options)
        with tempfile.TemporaryDirectory(prefix="tinybert_rt-compare-") as work:
            result = compare(options.directory, _model_file(options, Path(work)), texts)
    except (ConversionError, tb.TinyBertError) as error:
        print(f"{prog}: error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(result, ensure_ascii=False) if options.json else format_result(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
