"""Our tokenizer beside the `tokenizers` package, in one process, interleaved, with equal ids checked in the same run.

    python -m bench.tokenize                                   # the bundled model, generated text
    python -m bench.tokenize --model model.tbrt --tokenizer tokenizer.json --data lines.txt.xz

Microseconds for a text of about 20 and of about 200 tokens, MB/s of UTF-8 for a batch of lines. Lines are wrapped so that neither
side has to truncate. Without `--tokenizer`, the other side is a `BertWordPieceTokenizer` over our model's own vocabulary.
"""

from __future__ import annotations

import argparse
import gzip
import lzma
import os
import sys
import tempfile
import textwrap
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

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

OURS, THEIRS = "ours", "tokenizers"
SENTENCE = "The quick brown fox can't jump over 13 lazy dogs in São Paulo, it seems."
PARAGRAPH = (
    "Sentence embeddings map a piece of text to a vector so that texts of similar meaning lie close together; search, clustering and "
    "de-duplication all build on that. A compact encoder with six layers answers within milliseconds on a laptop's processor. "
)
WORDS = (
    PARAGRAPH + SENTENCE + " naïve Zürich 2,048 e-mail unbelievably 北京 internationalization, (state-of-the-art) 3.14 re:zero coöperate"
).split()
WRAP_COLUMNS = 400
DATA_BYTES = 1_000_000
Tokens = tuple[np.ndarray, np.ndarray]


def main(arguments: list[str] | None = None) -> int:
    """Measure as the command line says; return the exit status: 1 if any ids differ."""
    options = _parse(arguments)
    os.environ["RAYON_NUM_THREADS"] = str(options.threads)  # read when the package's thread pool starts
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if options.threads > 1 else "false"
    try:
        import tokenizers

        import tinybert_rt

        load: Callable[..., Any] = tinybert_rt.load
    except (ImportError, AttributeError) as error:
        print(f"bench.tokenize needs tinybert_rt and tokenizers: {error}", file=sys.stderr)
        return 2
    model = load(*([str(options.model)] if options.model else []), threads=options.threads)
    oracle = tokenizers.Tokenizer.from_file(str(options.tokenizer)) if options.tokenizer else _oracle(model.vocabulary())
    oracle.no_truncation()
    oracle.no_padding()

    lines = read_lines(options.data)
    result = header(
        ("tinybert-rt", "tokenizers", "numpy", "numba"), threads=options.threads, data=options.data.name if options.data else "generated"
    )
    cases = [_text_case("sentence", SENTENCE, model, oracle), _text_case("paragraph", PARAGRAPH * 3, model, oracle)]
    cases.append(_lines_case(lines, model, oracle))
    result["cases"] = [_measure(case, options) for case in cases]
    text = describe_header(result) + "\n\n" + _table(result["cases"])
    print(text)
    write_text(options.markdown, text + "\n")
    write_json(options.json, result)
    return 0 if all(case["equal_ids"] for case in result["cases"]) else 1


def read_lines(path: Path | None) -> list[str]:
    """Non-empty lines of a text file (`.gz` and `.xz` too), or generated ones; wrapped, and about `DATA_BYTES` in all."""
    if path is None:
        rng = np.random.default_rng(0)
        lines = [" ".join(rng.choice(WORDS, size=rng.integers(3, 60))) for _ in range(8000)]
    else:
        opener: Any = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
        with opener(path, "rt", encoding="utf-8", errors="replace") as file:
            lines, size = [], 0
            for line in file:
                lines.append(line)
                size += len(line)
                if size >= DATA_BYTES:
                    break
    wrapped = [part for line in lines for part in textwrap.wrap(line, WRAP_COLUMNS, break_on_hyphens=False)]
    total, kept = 0, []
    for part in wrapped:
        total += len(part.encode())
        kept.append(part)
        if total >= DATA_BYTES:
            break
    return kept


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.tokenize", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="a .tbrt file (default: the bundled model)")
    parser.add_argument("--tokenizer", type=Path, help="the other side's tokenizer.json (default: made from our vocabulary)")
    parser.add_argument("--data", type=Path, help="text, one line each, .gz and .xz too (default: generated)")
    parser.add_argument("--threads", type=int, default=1, help="threads of both sides for the batch (default: 1)")
    parser.add_argument("--repeats", type=int, default=40, help="rounds, at most (default: 40)")
    parser.add_argument("--budget", type=float, default=10.0, help="seconds per case, about (default: 10)")
    parser.add_argument("--json", type=Path, help="write everything measured here")
    parser.add_argument("--markdown", type=Path, help="write the printed table here")
    return parser.parse_args(arguments)


def _oracle(vocabulary: list[str]) -> Any:
    from tokenizers import BertWordPieceTokenizer

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocab.txt"
        path.write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
        return BertWordPieceTokenizer(str(path), lowercase=True)


class _Case:
    """The same work for both sides, and each side's result as (ids, offsets) to compare."""

    def __init__(self, name: str, num_bytes: int, calls: dict[str, Callable[[], Any]], results: dict[str, Tokens]):
        self.name, self.num_bytes, self.calls, self.results = name, num_bytes, calls, results

    def differing_texts(self) -> list[int]:
        """Indexes of the texts whose ids differ between the sides."""
        (our_ids, our_offsets), (their_ids, their_offsets) = self.results[OURS], self.results[THEIRS]
        return [
            index
            for index in range(len(their_offsets) - 1)
            if not np.array_equal(
                our_ids[our_offsets[index] : our_offsets[index + 1]], their_ids[their_offsets[index] : their_offsets[index + 1]]
            )
        ]


def _text_case(name: str, text: str, model: Any, oracle: Any) -> _Case:
    calls = {OURS: lambda: model.tokenize(text).ids, THEIRS: lambda: oracle.encode(text).ids}
    return _Case(name, len(text.encode()), calls, {side: _ragged([call()]) for side, call in calls.items()})


def _lines_case(lines: list[str], model: Any, oracle: Any) -> _Case:
    calls = {OURS: lambda: model.tokenize_batch(lines), THEIRS: lambda: oracle.encode_batch(lines)}
    ids, offsets = calls[OURS]()
    results = {OURS: (np.asarray(ids), np.asarray(offsets)), THEIRS: _ragged([encoding.ids for encoding in calls[THEIRS]()])}
    return _Case("lines", sum(len(line.encode()) for line in lines), calls, results)


def _ragged(rows: list[Any]) -> Tokens:
    return np.concatenate([np.asarray(row, dtype=np.int64) for row in rows]), np.cumsum([0, *(len(row) for row in rows)])


def _measure(case: _Case, options: argparse.Namespace) -> dict[str, Any]:
    expected = {side: warm_up(call) for side, call in case.calls.items()}
    visits = {side: partial(timed_burst, call, expected[side]) for side, call in case.calls.items()}
    rounds = interleave(visits, budget_s=options.budget, max_rounds=options.repeats)
    differing = case.differing_texts()
    ids, offsets = case.results[THEIRS]
    entry: dict[str, Any] = {"case": case.name, "texts": len(offsets) - 1, "tokens": len(ids), "bytes": case.num_bytes}
    entry |= {"equal_ids": not differing, "differing_texts": differing[:10]}
    entry["us"] = {side: summarize(flatten(samples)).as_dict(scale=1e6, digits=3) for side, samples in rounds.items()}
    entry["megabytes_per_s"] = {side: round(case.num_bytes / stats["median"], 2) for side, stats in entry["us"].items()}
    entry["theirs_over_ours"] = paired_ratio(rounds[THEIRS], rounds[OURS]).as_dict(digits=3)
    return entry


def _table(cases: list[dict[str, Any]]) -> str:
    columns = ["text", "texts", "tokens", "ours, µs", "tokenizers, µs", "ours, MB/s", "tokenizers, MB/s", "tokenizers / ours", "ids"]
    rows = []
    for case in cases:
        times = [three_digits(case["us"][side]["median"]) for side in (OURS, THEIRS)]
        rates = [three_digits(case["megabytes_per_s"][side]) for side in (OURS, THEIRS)]
        ids = "equal" if case["equal_ids"] else f"differ, first in text {case['differing_texts'][0]}"
        ratio = three_digits(case["theirs_over_ours"]["median"])
        rows.append([case["case"], str(case["texts"]), str(case["tokens"]), *times, *rates, ratio, ids])
    return render_table(columns, rows)


if __name__ == "__main__":
    sys.exit(main())
