"""What only a Unigram tokenizer has, and the parts of a `.tbrt` file that hold it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinybert_rt.format import layout
from tinybert_rt.format.trie import build_trie

from . import blocks

CHARS, CLUSTERS = b"\x01", b"\x02"
"""First bytes of the keys of the two stages of rewriting, see FORMAT.md."""


@dataclass
class Unigram:
    """What only a Unigram model has."""

    pieces: list[str]
    scores: list[float]
    unk_id: int
    flags: int
    """Bits of `unigram_flags`."""

    rewrites: dict[bytes, str]
    """The rules of both stages of rewriting, their keys with the stage in front."""

    expansion: int
    lowers: bool


def unigram_tensors(unigram: Unigram | None, vocab_size: int) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """The tensors and config fields that only Unigram files have. Pieces behind those of the model are added tokens."""
    if unigram is None:
        return {}, dict.fromkeys(("scored_pieces", "unigram_flags", "expansion", "rewrites", "rewrite_nodes", "rewrite_bytes"), 0)
    scores = np.zeros(layout.pad(vocab_size, layout.LANES), "<f8")
    scores[: len(unigram.scores)] = unigram.scores
    tensors: dict[str, np.ndarray] = {"tokenizer.scores": scores}
    config = {
        "scored_pieces": len(unigram.pieces),
        "unigram_flags": unigram.flags,
        "expansion": unigram.expansion,
        "rewrites": len(unigram.rewrites),
        "rewrite_nodes": 0,
        "rewrite_bytes": 0,
    }
    if unigram.rewrites:
        trie = build_trie(sorted(unigram.rewrites))
        texts = [unigram.rewrites[key].encode() for key in sorted(unigram.rewrites)]
        padded = np.zeros((layout.pad(len(trie), 8), 2), np.uint32)
        padded[: len(trie)] = trie
        joined = np.frombuffer(b"".join(texts), np.uint8)
        offsets = np.cumsum([0, *map(len, texts)]).astype(np.uint32)
        tensors["tokenizer.rewrite_trie"] = padded
        tensors["tokenizer.rewrite_texts"] = blocks.pad_vector(joined if len(joined) else np.zeros(1, np.uint8), layout.ALIGNMENT)
        tensors["tokenizer.rewrite_offsets"] = blocks.pad_vector(offsets, layout.LANES)
        config.update(rewrite_nodes=len(trie), rewrite_bytes=len(joined))
    return tensors, config
