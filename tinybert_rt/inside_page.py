"""One text's `Inside` as an HTML page that needs nothing else: no network, no other file."""

from __future__ import annotations

import base64
import html
import json
import os.path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from tinybert_rt.inside import Inside

_TEMPLATE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "inside.html")


def page_data(inside: Inside, text: str, pair: str | None, facts: dict[str, Any]) -> dict[str, Any]:
    """What the page shows, as JSON values.

    `attentions` is base64 of uint8 [layers][heads][tokens][tokens], 255·√p rounded: a byte a value, fine where probabilities are small.
    `norms` is base64 of little-endian float32 [layers + 1][tokens], the lengths of the hidden states.

    Args:
        facts: as `Model.info` gives them.
    """
    layers, heads = inside.attentions.shape[:2]
    roots = np.rint(np.sqrt(inside.attentions) * np.float32(255)).astype(np.uint8)
    norms = np.linalg.norm(inside.hidden_states, axis=-1).astype("<f4")
    return {
        "model": facts["name"] or os.path.basename(facts["path"]),
        "architecture": facts["architecture"],
        "layers": layers,
        "heads": heads,
        "dim": inside.hidden_states.shape[-1],
        "text": text,
        "pair": pair,
        "total": inside.total,
        "tokens": inside.tokens,
        "ids": inside.ids.tolist(),
        "types": inside.types.tolist(),
        "spans": inside.spans.tolist(),
        "attentions": base64.b64encode(roots.tobytes()).decode("ascii"),
        "norms": base64.b64encode(norms.tobytes()).decode("ascii"),
    }


def html_page(data: dict[str, Any]) -> str:
    """The page of `page_data`."""
    with open(_TEMPLATE, encoding="utf-8") as file:
        template = file.read()
    # Within <script>, "<" could end it; in JSON it stands in strings only, where \u003c is the same.
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    title = html.escape(f"{_shortened(data['text'])} · {data['model']}")
    before, rest = template.split("@TITLE@")
    between, after = rest.split("@DATA@")
    return "".join((before, title, between, text, after))


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"
