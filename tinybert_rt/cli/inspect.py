"""`tinybert-rt inspect`: what happens to a text inside a model, as a table or as a page to look at."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from tinybert_rt.output import whole_file

from .common import UsageError, load, on_one_line, runs

if TYPE_CHECKING:
    from tinybert_rt.inside import Inside


def add(commands: Any) -> None:
    """Its arguments."""
    inspect = commands.add_parser("inspect", help="tokens, attention and hidden states of a text")
    inspect.add_argument("text")
    inspect.add_argument("--pair", metavar="TEXT", help="a second text, behind the first")
    inspect.add_argument("--model", help="a .tbrt file; default: the bundled model")
    inspect.add_argument("--max-tokens", type=int, metavar="N", help="cut the text after N tokens; default: the model's maximum")
    inspect.add_argument("--html", metavar="FILE", help="write a page with an attention map of every layer and head")
    inspect.add_argument("--json", action="store_true", help="one JSON object: the table, with attention probabilities")
    runs(inspect, _inspect)


def _inspect(options: argparse.Namespace) -> None:
    if options.html is not None and options.json:
        raise UsageError("--html and --json: choose one")
    if options.html is not None and not options.html.endswith((".html", ".htm")):
        raise UsageError(f"--html {options.html}: the name must end in .html")
    model = load(options.model, options)
    inside = model.inspect(options.text, options.pair, truncation="truncate", max_tokens=options.max_tokens)
    if inside.total > len(inside.ids):
        print(f"tinybert-rt: the text has {inside.total} tokens and was cut to {len(inside.ids)}", file=sys.stderr)
    if options.html is not None:
        from tinybert_rt.inside_page import html_page, page_data

        page = html_page(page_data(inside, options.text, options.pair, model.info())).encode()
        with whole_file(options.html) as file:
            file.write(page)
        print(f"{options.html}: {len(inside.tokens)} tokens, {len(page):,} bytes", file=sys.stderr)
    elif options.json:
        print(json.dumps(_values(inside), ensure_ascii=False))
    else:
        _print_table(inside)


def _norms(inside: Inside) -> list[list[float]]:
    """Of every token the lengths of its hidden states, layer by layer."""
    import numpy as np

    lengths: list[list[float]] = np.linalg.norm(inside.hidden_states, axis=-1).T.tolist()
    return lengths


def _values(inside: Inside) -> dict[str, Any]:
    return {
        "tokens": inside.tokens,
        "ids": inside.ids.tolist(),
        "types": inside.types.tolist(),
        "spans": inside.spans.tolist(),
        "total_tokens": inside.total,
        "norms": [[float(f"{norm:.6g}") for norm in row] for row in _norms(inside)],
        "attentions": [[[[round(p, 6) for p in row] for row in head] for head in layer] for layer in inside.attentions.tolist()],
    }


def _print_table(inside: Inside) -> None:
    spans = ["" if start < 0 else f"{start}-{end}" for start, end in inside.spans.tolist()]
    norms = [[f"{norm:.4g}" for norm in row] for row in _norms(inside)]
    layers = list(map(str, range(len(norms[0]))))
    rows = [["token", "id", "chars", *layers]]
    tokens = map(on_one_line, inside.tokens)
    rows += [[token, str(number), span, *row] for token, number, span, row in zip(tokens, inside.ids, spans, norms, strict=True)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    print(f"{'':{sum(widths[:3]) + 6}}length of the hidden state behind each layer; 0: of the embeddings")
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        print("  ".join(cells).rstrip())
