"""Pretrain an encoder on plain text, and make a `.tbrt` file of it.

Usage:
    python -m distill.pretrain distill/recipes/pretrain-tiny.toml --data DATA
    python -m distill.pretrain SETTINGS.toml --set model.size=mini --dry-run
    torchrun --nproc-per-node 2 -m distill.pretrain SETTINGS.toml       (the same run in two processes)

The folder `out` gets `tokenizer/` (unless one is given) and `tokens/`, `log.jsonl` and `checkpoints/`, and at the end `model/` (a Hugging
Face directory: the parameters of the last step), `model.tbrt`, `report.json`, `report.md` and `loss.png`. The same command goes on where
it stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from . import checkpoints, command, corpus, models, objectives, pretrain_report, vocabulary
from .devices import Place, autocast, first_alone, moved
from .encoders import CONFIGS, Shape, begin_with_sinusoids, can_pack, make_config
from .masking import Vocabulary, vocabulary_of
from .packing import PackedBatches, Pairs
from .settings import SettingsError
from .training import Training, train

_PAIRS: dict[str, Pairs] = {"mlm+nsp": "next", "mlm+sop": "order"}


@dataclass(frozen=True)
class Text:
    """The corpus: .txt, .gz or .xz; a line is a paragraph, a blank line ends a document."""

    train: tuple[str, ...]
    """files, with wildcards"""
    valid: tuple[str, ...]
    """held-out text"""
    valid_rows: int = 1024
    """the most rows of it that an evaluation takes"""
    tokens: str | None = None
    """a folder for the token ids, which runs can share; default: `tokens` in the run's folder"""


@dataclass(frozen=True)
class ObjectiveSettings:
    """What the model is trained for."""

    kind: Literal["mlm", "mlm+nsp", "mlm+sop", "rtd"] = "mlm"
    """masked tokens; with next-sentence prediction (BERT) or sentence order (ALBERT); replaced tokens (ELECTRA, DeBERTa)"""
    max_tokens: int = 128
    """of a row"""
    mask_rate: float = 0.15
    whole_words: bool = False
    packed: bool = True
    """several examples in a row; false: each has its own, filled up with padding"""
    generator_size: float | None = None
    """of rtd: share of the model's width (ELECTRA; default 0.25) or of its layers (DeBERTa; default 0.5)"""
    rtd_weight: float = 50.0

    def __post_init__(self) -> None:
        if self.max_tokens < 8:
            raise ValueError(f"max_tokens is {self.max_tokens}; it must be 8 or more")
        if not 0 < self.mask_rate < 1:
            raise ValueError(f"mask_rate is {self.mask_rate}; it must be between 0 and 1")
        if self.generator_size is not None and not 0 < self.generator_size <= 1:
            raise ValueError(f"generator_size is {self.generator_size}; it must be above 0 and at most 1")


@dataclass(frozen=True)
class Settings:
    """A pretraining."""

    out: str
    model: Shape
    text: Text
    training: Training
    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    tokenizer: vocabulary.TokenizerSettings = field(default_factory=vocabulary.TokenizerSettings)
    dtype: Literal["int8", "f32"] = "int8"
    """of the `.tbrt` file"""

    def training_of_all(self) -> list[Training]:
        """The trainings of the run."""
        return [self.training]


@dataclass(frozen=True)
class Identity:
    """What must not change between the parts of a run."""

    settings: Settings
    text_and_tokenizer: str


def run(settings: Settings, root: Path, place: Place, *, dry: bool = False) -> dict[str, Any] | None:
    """Run the settings; returns the report, None in a process that is not the first or in a dry run. Raises DistillError."""
    out = Path(settings.out)
    train_files, valid_files = (corpus.find_files(patterns, root) for patterns in (settings.text.train, settings.text.valid))
    if dry:
        describe(settings, train_files)
        return None
    begun = checkpoints.newest(out / "checkpoints") is not None
    quiet = not place.first

    def data() -> tuple[Any, corpus.Corpus, corpus.Corpus]:
        tokenizer = given_tokenizer(settings)
        if tokenizer is None:
            architecture, most = settings.model.kind, settings.model.max_positions
            tokenizer = vocabulary.build(train_files, architecture, settings.tokenizer, most, out / "tokenizer", quiet=quiet, keep=begun)
        folder = Path(settings.text.tokens) if settings.text.tokens else out / "tokens"
        # A shared folder is made anew for other text; whether the run may go on with that is seen by its identity.
        kept = begun and settings.text.tokens is None
        train_text, valid_text = (
            corpus.build(files, tokenizer, folder / name, quiet=quiet, keep=kept)
            for files, name in ((train_files, "train"), (valid_files, "valid"))
        )
        return tokenizer, train_text, valid_text

    tokenizer, train_text, valid_text = first_alone(data, place)
    table = vocabulary_of(tokenizer)
    objective = make_objective(settings, len(tokenizer), table)
    model = objective.exported()
    models.check_vocabulary(model, tokenizer, settings.model.init or settings.tokenizer.path or settings.out)
    models.check_length(model, settings.objective.max_tokens, "objective.max_tokens")
    batches = make_batches(settings, train_text, table, model.config, settings.training.batch_size, settings.training.seed)
    evaluate = make_evaluation(settings, objective, valid_text, table, place)
    outcome = train(
        objective,
        batches,
        settings.training,
        out,
        Identity(settings, train_text.identity),
        place,
        evaluate=evaluate,
        flops_per_token=objective.flops_per_token(settings.objective.max_tokens, settings.objective.mask_rate),
        title=out.name,
    )
    if not place.first:
        return None
    made = objective.exported().to("cpu").eval()
    return pretrain_report.finish(out, made, tokenizer, settings, outcome, place, train_text)


def given_tokenizer(settings: Settings) -> Any:
    """The tokenizer that the settings name, of a checkpoint to go on from too; None: one is to be trained. Raises SettingsError."""
    name = settings.tokenizer.path or settings.model.init
    return models.load_tokenizer(name) if name else None


def make_objective(settings: Settings, pieces: int, table: Vocabulary) -> Any:
    """The module that is trained, with the settings' random weights or the checkpoint's. Raises SettingsError."""
    wanted = settings.objective
    if settings.model.init is not None:
        config = models.load_config(settings.model.init)
        if config.model_type not in CONFIGS:
            raise SettingsError(f"{settings.model.init}: its architecture is {config.model_type!r}; known: {', '.join(CONFIGS)}")
    else:
        config = make_config(settings.model, pieces, table)
    torch.manual_seed(settings.training.seed)
    model = objectives.make_model(wanted.kind, config, settings.model.init)
    if settings.model.positions == "sinusoidal":
        begin_with_sinusoids(model)
    if wanted.kind != "rtd":
        return objectives.MaskedObjective(model)
    size = wanted.generator_size or (0.25 if config.model_type == "electra" else 0.5)
    return objectives.ReplacedTokenObjective(model, size, wanted.rtd_weight)


def make_batches(settings: Settings, text: corpus.Corpus, table: Vocabulary, config: Any, size: int, seed: int) -> PackedBatches:
    """The batches of a corpus, `size` rows each. Raises SettingsError."""
    wanted = settings.objective
    if wanted.packed and not can_pack(config):
        raise SettingsError("objective.packed: this model's convolution sees over the borders of packed examples: say packed = false")
    return PackedBatches(
        text,
        table,
        width=wanted.max_tokens,
        batch_size=size,
        rate=wanted.mask_rate,
        pairs=_PAIRS.get(wanted.kind, "none"),
        packed=wanted.packed,
        whole_words=wanted.whole_words,
        always_mask=wanted.kind == "rtd",
        seed=seed,
    )


def make_evaluation(
    settings: Settings, objective: Any, text: corpus.Corpus, table: Vocabulary, place: Place
) -> Callable[[], dict[str, float]]:
    """A function that measures the objective on held-out text: means of its scalars, and "score", the negative loss.

    The rows and what is masked in them are the same at each call, and in each run with this text and tokenizer.
    """
    config = objective.exported().config
    size = max(1, settings.training.batch_size // (settings.training.accumulation * place.processes))
    rows = make_batches(settings, text, table, config, 1, 0).rows()
    size = min(size, rows, settings.text.valid_rows)
    batches = make_batches(settings, text, table, config, size, 0)
    steps = max(1, min(rows, settings.text.valid_rows) // size)

    def evaluate() -> dict[str, float]:
        sums: dict[str, float] = {}
        torch.manual_seed(0)
        for step in range(steps):
            batch = moved(batches.at(step, 0, 1), place.device)
            with torch.no_grad(), autocast(place, settings.training.precision):
                values = objective(batch)
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + float(value) / steps
        return {"score": -sums["loss"], **{name: round(value, 6) for name, value in sums.items()}}

    return evaluate


def describe(settings: Settings, files: Sequence[Path]) -> None:
    """What a dry run prints; nothing is written, so that numbers of tokens are estimates."""
    tokenizer = given_tokenizer(settings)
    trained = tokenizer is None
    if tokenizer is None:
        sample = vocabulary.texts_of(files, 1)
        tokenizer = vocabulary.train_tokenizer(sample, settings.model.kind, settings.tokenizer, settings.model.max_positions)
    pieces = max(len(tokenizer), settings.tokenizer.vocab_size) if trained else len(tokenizer)
    with torch.device("cpu" if settings.model.init else "meta"):
        objective = make_objective(settings, pieces, vocabulary_of(tokenizer))
    config = objective.exported().config
    if settings.objective.packed and not can_pack(config):
        make_batches(settings, None, None, config, 1, 0)  # type: ignore[arg-type]
    tokens = corpus.estimate_tokens(files, tokenizer)
    step = settings.training.batch_size * settings.objective.max_tokens
    steps = settings.training.steps
    if steps is None:
        steps = math.ceil((settings.training.epochs or 0) * max(1, tokens // step))
    flops = steps * step * objective.flops_per_token(settings.objective.max_tokens, settings.objective.mask_rate)
    parameters = sum(each.numel() for each in objective.parameters())
    exported = sum(each.numel() for each in objective.exported().parameters())
    print(f"{settings.out}: {parameters:,} parameters are trained, {exported:,} of them are the model's; {pieces:,} pieces")
    passes = steps * step / max(1, tokens)
    print(f"{settings.out}: {len(files)} files, about {tokens:,} tokens; {steps:,} steps of {step:,} tokens: {passes:.1f} epochs")
    print(f"{settings.out}: about {flops:.2e} FLOP; nothing was written")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status."""
    return command.main("distill.pretrain", "Pretrain an encoder on plain text.", Settings, run, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
