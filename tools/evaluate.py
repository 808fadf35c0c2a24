"""Measure a model file on labelled data.

Usage:
    python -m tools.evaluate model.tbrt --task classification --data sst2.tsv.gz --text sentence --label label
    python -m tools.evaluate model.tbrt --task classification --data mrpc.tsv --text sentence1 --pair sentence2
    python -m tools.evaluate model.tbrt --task regression --data scores.csv --text sentence1 --pair sentence2 --label score
    python -m tools.evaluate model.tbrt --task pairs --data scores.csv --text sentence1 --pair sentence2 --label score
    python -m tools.evaluate model.tbrt --task tagging --data test.conll.gz
    python -m tools.evaluate model.tbrt --task tagging --data ewt.tsv.gz --tag-column 1
    python -m tools.evaluate model.tbrt --task squad --data dev-v2.0.json.gz
    python -m tools.evaluate model.tbrt --task choice --data swag.jsonl --text prompt --choices choices --label label
    python -m tools.evaluate model.tbrt --task stsb --data DATA
    python -m tools.evaluate model.tbrt --task stsb --data DATA --reference HF_DIRECTORY    (also compares vectors)
    python -m tools.evaluate model.tbrt --task scifact --data DATA --json result.json

Tables are .tsv, .csv or .jsonl, see `rows`; labels are names of the model's labels, or their numbers. Classification has accuracy, F1 and
Matthews' correlation; regression (a head with one number) and pairs (the cosine of two vectors) Pearson's and Spearman's correlation;
tagging F1, precision and recall of entities, and the accuracy of tokens; choice accuracy; squad exact match and F1, in percent.

The folder DATA holds glue/stsb/test.tsv.gz (columns sentence1, sentence2, score) and retrieval/scifact/ with corpus.jsonl.gz (_id, title,
text), queries.dev.jsonl.gz (_id, text) and qrels.dev.tsv.gz (query, document, grade).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tinybert_rt.cli import OneLineParser

from . import tasks, vector_tasks
from .hf import ConversionError
from .rows import DataError


def format_result(result: dict[str, Any]) -> str:
    """One line per number."""
    width = max(map(len, result))
    lines = []
    for name, value in result.items():
        shown = f"{value:.3e}" if name.startswith("max_abs") else f"{value:.6f}" if isinstance(value, float) else str(value)
        lines.append(f"{name:{width}}  {shown}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None, prog: str = "python -m tools.evaluate") -> int:
    """Run the command. Returns the exit status: 0, or 2 after one line that says what is wrong."""
    command = OneLineParser(prog=prog, description="Measure a .tbrt file on labelled data.")
    command.add_argument("model", help="the .tbrt file")
    tasks.add_options(command, required=True)
    command.add_argument("--reference", type=Path, metavar="HF_DIR", help="compare vectors with transformers in float32 (stsb)")
    command.add_argument("--threads", type=int, metavar="N", help="default: all CPUs this process may use")
    command.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers to a file")
    options = command.parse_args(arguments)

    import tinybert_rt as tb

    try:
        reference = vector_tasks.transformers_encoder(options.reference) if options.reference else None
        result = tasks.measure(tb.load(options.model, threads=options.threads), tasks.task_of(options), reference)
        if options.json:
            options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    except (DataError, ConversionError, tb.TinyBertError, OSError) as error:
        print(f"{prog}: error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        print(f"{prog}: error: needs the package {error.name!r}: pip install 'tinybert-rt[evaluate]'", file=sys.stderr)
        return 2
    except (KeyError, ValueError) as error:
        print(f"{prog}: error: {options.data}: the data of {options.task} is malformed: {error!r}", file=sys.stderr)
        return 2
    print(format_result(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
