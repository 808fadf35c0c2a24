"""What the project's README.md says of `bench.search`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench.common import render_table, three_digits
from bench.compare import percent, threads_in_words

Result = dict[str, Any]
QUALITY = {"vectors": "vectors", "words": "words", "hybrid": "both", "transformers float32": "vectors of `transformers`, float32"}
TIMES = {"p50_ms": "p50 ms", "p99_ms": "p99 ms", "first_ms": "first ms"}


def search_section(result: Result, prose: Callable[[str], str]) -> str:
    """Tables and sentences of the parts that were measured; `prose` fills lines."""
    writers = {"scifact": _quality, "indexing": _speed, "scan": _latency}
    return "\n\n".join(
        part for name, writer in writers.items() if name in result for part in writer(result[name], result["settings"], prose)
    )


def _quality(found: Result, settings: Result, prose: Callable[[str], str]) -> list[str]:
    size = f"{found['documents']:,} documents in {found['passages']:,} passages, {found['queries']} queries"
    row = [f"{found['ndcg10'][name]:.4f}" for name in QUALITY]
    apart = found["ndcg10"]["vectors"] - found["ndcg10"]["transformers float32"]
    ours, theirs = (found["ndcg10_whole"][name] for name in ("vectors", "transformers float32"))
    cut = f"cut at {found['max_tokens']} tokens"
    sentences = [
        f"The index's vectors are {abs(apart):.4f} {'above' if apart >= 0 else 'below'} those of `transformers`, with a standard error of",
        f"{found['standard_error']:.4f}. Of whole documents, {cut}, ours have {ours:.4f} and those of `transformers`",
        f"{theirs:.4f}.",
    ]
    return [
        prose(f"Search: NDCG@10 of SciFact, {size}, a document by its best passage:"),
        render_table(list(QUALITY.values()), [row]),
        prose(" ".join(sentences)),
    ]


def _speed(found: Result, settings: Result, prose: Callable[[str], str]) -> list[str]:
    rate, share = three_digits(found["passages_per_s"]["index"]), percent(found["share_of_encoder"]["median"])
    plain, careful = (three_digits(found[name]["median"]) for name in ("plain_over_ours", "careful_over_ours"))
    sentences = [
        f"Files to a finished index, {found['passages']:,} passages of Wikipedia, {threads_in_words(settings['threads'])}:",
        f"{rate} passages a second, {share} of the encoder's speed alone.",
        f"ONNX Runtime int8 writing into the same tables takes {plain} times as long in batches of 256 in order,",
        f"{careful} times in sorted batches of 32.",
    ]
    return [prose(" ".join(sentences))]


def _latency(found: Result, settings: Result, prose: Callable[[str], str]) -> list[str]:
    ways = {name: facts for name, facts in found.items() if isinstance(facts, dict)}
    rows = [[name, *(three_digits(facts.get(key)) for key in TIMES), f"{facts['recall10']:.3f}"] for name, facts in ways.items()]
    size = f"{found['queries']} queries, {threads_in_words(found['threads'])}"
    text = f"Searches among vectors of 384, {size}, encoding left out; the first search reads the file, which is in the file cache:"
    return [prose(text), render_table(["vectors", *TIMES.values(), "recall@10 of float32"], rows)]
