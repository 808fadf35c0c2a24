"""A tokenizer trained on a corpus, in the form of the architecture's own: WordPiece, byte-level BPE or Unigram."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tokenizers
import transformers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

from .corpus import digest_of_files, paragraphs
from .folders import whole_folder
from .settings import DistillError, SettingsError

Kind = Literal["wordpiece", "bpe", "unigram"]

KINDS: dict[str, Kind] = {
    "bert": "wordpiece",
    "distilbert": "wordpiece",
    "electra": "wordpiece",
    "roberta": "bpe",
    "deberta": "bpe",
    "albert": "unigram",
    "deberta-v2": "unigram",
}
"""By architecture."""

_BERT = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
_ROBERTA = {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}
_DEBERTA = {"pad": "[PAD]", "cls": "[CLS]", "sep": "[SEP]", "unk": "[UNK]", "mask": "[MASK]"}
_ALBERT = {"pad": "<pad>", "unk": "<unk>", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
_SPECIAL = {"roberta": _ROBERTA, "albert": _ALBERT, "deberta": _DEBERTA, "deberta-v2": _DEBERTA}


@dataclass(frozen=True)
class TokenizerSettings:
    """Where the tokenizer is from, or how it is trained on the corpus."""

    path: str | None = None
    """a checkpoint whose tokenizer is taken; the others are of one that is trained"""
    vocab_size: int = 30_528
    """pieces, the special ones included; a corpus may have fewer. Multiples of 64 are fast on a GPU"""
    lowercase: bool = True
    """of WordPiece and Unigram; byte-level BPE keeps the text as it is"""
    megabytes: int = 500
    """the most text that it is trained on"""

    def __post_init__(self) -> None:
        if self.vocab_size < 300:
            raise ValueError(f"vocab_size is {self.vocab_size}; it must be 300 or more")
        if self.megabytes <= 0:
            raise ValueError(f"megabytes is {self.megabytes}; it must be above 0")


def train_tokenizer(texts: Iterable[str], architecture: str, settings: TokenizerSettings, max_tokens: int, *, quiet: bool = True) -> Any:
    """A tokenizer of `transformers`, as the architecture's own one is built.

    `tokenizers` breaks ties between equally frequent WordPiece and Unigram pieces by chance: two trainings on the same text differ a
    little. A run keeps the tokenizer that it began with; to repeat a run exactly, give its tokenizer in the settings.

    Args:
        texts: paragraphs; they are read once.
        max_tokens: the longest text that it says it is for.

    Raises DistillError if the texts are too few for it.
    """
    names = _SPECIAL.get(architecture, _BERT)
    special = list(names.values())
    kind = KINDS[architecture]
    common: dict[str, Any] = {"vocab_size": settings.vocab_size, "special_tokens": special, "show_progress": not quiet}
    if kind == "wordpiece":
        made = tokenizers.Tokenizer(models.WordPiece(unk_token=names["unk"]))
        made.normalizer = normalizers.BertNormalizer(lowercase=settings.lowercase)
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        made.decoder = decoders.WordPiece()
        trainer: Any = trainers.WordPieceTrainer(**common)
    elif kind == "bpe":
        made = tokenizers.Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **common)
    else:
        made = tokenizers.Tokenizer(models.Unigram())
        steps: list[Any] = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
        steps += [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()] if settings.lowercase else []
        made.normalizer = normalizers.Sequence([*steps, normalizers.Replace(Regex(" {2,}"), " ")])
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        made.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(unk_token=names["unk"], **common)
    try:
        made.train_from_iterator(texts, trainer)
    except DistillError:
        raise
    except Exception as error:  # what `tokenizers` raises has no class of its own
        raise DistillError(f"the tokenizer cannot be trained: {error}") from None
    if kind != "wordpiece":
        mask = AddedToken(names["mask"], special=True, normalized=False, lstrip=True)
        made.add_special_tokens([*(AddedToken(name, special=True, normalized=False) for name in special if name != names["mask"]), mask])
    _add_special(made, names, double=architecture == "roberta")
    types = architecture in ("bert", "electra", "albert")
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        model_max_length=max_tokens,
        model_input_names=["input_ids", *(["token_type_ids"] if types else []), "attention_mask"],
        **{f"{name}_token": token for name, token in names.items()},
    )


def _add_special(made: Any, names: dict[str, str], double: bool) -> None:
    cls, sep = names["cls"], names["sep"]
    ids = [(token, made.token_to_id(token)) for token in (cls, sep)]
    if double:
        made.post_processor = processors.RobertaProcessing((sep, ids[1][1]), (cls, ids[0][1]), trim_offsets=True, add_prefix_space=False)
    else:
        made.post_processor = processors.TemplateProcessing(
            single=f"{cls}:0 $A:0 {sep}:0", pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1", special_tokens=ids
        )


def texts_of(files: Sequence[Path], megabytes: float) -> Iterator[str]:
    """Paragraphs of files, in equal shares of all of them, up to a number of megabytes (a million characters each)."""
    each = megabytes * 1e6 / len(files)
    for path in files:
        left = each
        for paragraph in itertools.filterfalse(lambda text: not text, paragraphs(path)):
            if left <= 0:
                break
            left -= len(paragraph)
            yield paragraph


def build(
    files: Sequence[Path],
    architecture: str,
    settings: TokenizerSettings,
    max_tokens: int,
    folder: Path,
    *,
    quiet: bool = False,
    keep: bool = False,
) -> Any:
    """The tokenizer in a folder, trained and written there if it is not of these files and settings.

    Args:
        keep: refuse a folder of other files or settings, in place of training anew.

    Raises DistillError.
    """
    wanted = {
        "architecture": architecture,
        "vocab_size": settings.vocab_size,
        "lowercase": settings.lowercase,
        "megabytes": settings.megabytes,
        "max_tokens": max_tokens,
        "files": digest_of_files(files),
    }
    made_of = folder / "made_of.json"
    try:
        there = json.loads(made_of.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        there = None
    if there == wanted:
        return transformers.AutoTokenizer.from_pretrained(str(folder))
    if keep:
        raise SettingsError(f"{folder}: the run was begun with other text or another tokenizer: name another 'out', or remove it")
    tokenizer = train_tokenizer(texts_of(files, settings.megabytes), architecture, settings, max_tokens, quiet=quiet)
    with whole_folder(folder) as made:
        tokenizer.save_pretrained(made)
        (made / made_of.name).write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")
    return tokenizer
