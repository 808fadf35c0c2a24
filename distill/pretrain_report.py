"""The end of a pretraining: checkpoint, `.tbrt` file, and a report with the curve of the loss."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import models, report
from .corpus import Corpus
from .devices import Place
from .settings import DistillError, as_json
from .training import Outcome, read_log

if TYPE_CHECKING:
    from numpy.typing import NDArray

_AT_ONCE = 1 << 22


def finish(out: Path, model: Any, tokenizer: Any, settings: Any, outcome: Outcome, place: Place, text: Corpus) -> dict[str, Any]:
    """Write `model/`, `model.tbrt`, `loss.png`, `report.json` and `report.md` of a model on the CPU.

    An encoder without a head (DeBERTa's, of replaced tokens) is written with the mean of its tokens as the vector of a text.

    Returns the report. Raises DistillError.
    """
    tokenizer.model_max_length = min(tokenizer.model_max_length, models.longest(model))
    headless = model.base_model is model
    folder = models.write_checkpoint(out / "model", model, tokenizer, pooling=headless)
    file = models.export(folder, out / "model.tbrt", dtype=settings.dtype, name=out.name, drop_unused_rows=True)
    lines = read_log(outcome.log)
    steps = [line for line in lines if "step" in line]
    evaluations = [line["evaluation"] for line in lines if "evaluation" in line]
    draw(out / "loss.png", steps, evaluations, out.name)
    tokens, seconds = steps[-1]["tokens"], steps[-1]["seconds"]
    found: dict[str, Any] = {
        "name": out.name,
        "objective": settings.objective.kind,
        "steps": outcome.steps,
        "finished": outcome.finished,
        "validation": {name: value for name, value in evaluations[-1].items() if name != "score"} if evaluations else None,
        "training": {name: value for name, value in steps[-1].items() if name not in ("step", "tokens", "seconds")},
        "corpus": {
            "tokens": len(text.ids),
            "documents": len(text.documents) - 1,
            "epochs": round(tokens / len(text.ids), 2),
            "unigram_entropy": round(unigram_entropy(text.ids), 4),
        },
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": round(tokens / max(seconds, 1e-9)),
        "mfu": _mean_mfu(steps),
        "peak": next((line["peak_source"] for line in lines if "peak_source" in line), None),
        "parameters": sum(each.numel() for each in model.parameters()),
        "bytes": file.stat().st_size,
        "hardware": report.hardware(place),
        "settings": as_json(settings),
    }
    report.write(out, found, markdown(found))
    return found


def unigram_entropy(ids: NDArray[Any]) -> float:
    """−Σ p log p of the frequencies of ids (n,), in nats: the loss of a model that knows these alone."""
    counts = sum(np.bincount(ids[begin : begin + _AT_ONCE], minlength=1 << 16) for begin in range(0, len(ids), _AT_ONCE))
    shares = np.asarray(counts)[np.asarray(counts) > 0] / max(1, len(ids))
    return float(-(shares * np.log(shares)).sum())


def markdown(found: dict[str, Any]) -> str:
    """The report as Markdown."""
    names = {"loss": "loss", "mlm_loss": "masked tokens", "pair_loss": "pairs", "rtd_loss": "replaced tokens", "accuracy": "accuracy"}
    parts = [("training", found["training"]), ("held-out text", found["validation"] or {})]
    shown = [name for name in names if any(name in values for _, values in parts)]
    cells = [[part, *(f"{values[name]:.4f}" if name in values else "" for name in shown)] for part, values in parts]
    table = report.rows([["", *(names[name] for name in shown)], *cells])
    masked = (found["validation"] or {}).get("mlm_loss", (found["validation"] or {}).get("loss"))
    perplexity = "" if masked is None else f" Perplexity of a masked token of held-out text: {math.exp(min(masked, 50)):.1f}."
    mfu = f", {found['mfu']:.1%} of its peak ({found['peak']})" if found["mfu"] is not None else ""
    return "\n".join(
        [
            f"# {found['name']}",
            "",
            f"Objective: {found['objective']}.{perplexity}",
            "",
            *table,
            "",
            f"A model that knows only how frequent each piece is has a loss of {found['corpus']['unigram_entropy']:.4f}.",
            f"{found['steps']:,} steps{'' if found['finished'] else ' (the budget was over)'}, {found['tokens']:,} tokens "
            f"({found['corpus']['epochs']} epochs of {found['corpus']['tokens']:,}), {found['training'].get('padding', 0):.1%} padding.",
            f"{found['seconds'] / 60:.1f} minutes on {found['hardware']}: {found['tokens_per_second']:,} tokens/s{mfu}.",
            f"{found['parameters']:,} parameters, the file {found['bytes'] / 1e6:.1f} MB.",
            "",
            "![loss](loss.png)",
        ]
    )


def draw(path: Path, steps: list[dict[str, Any]], evaluations: list[dict[str, Any]], title: str) -> None:
    """The curve of the loss, of training and of held-out text. Raises DistillError when it cannot be written."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel="step", ylabel="loss", title=title)
    axes.plot([line["step"] for line in steps], [line["loss"] for line in steps], label="training", linewidth=1)
    if evaluations:
        axes.plot([each["step"] for each in evaluations], [each["loss"] for each in evaluations], "o-", label="held-out text", markersize=3)
    axes.grid(alpha=0.3)
    axes.legend()
    temporary = path.with_name(f".{path.name}")
    try:
        figure.savefig(temporary, format="png", dpi=120)
        temporary.replace(path)
    except OSError as error:
        raise DistillError(f"{path}: cannot be written: {error.strerror or error}") from None


def _mean_mfu(steps: list[dict[str, Any]]) -> float | None:
    """The mean over all steps but those of the first line, in which kernels are compiled."""
    values = [line["mfu"] for line in steps if "mfu" in line]
    rest = values[1:] or values
    return sum(rest) / len(rest) if rest else None
