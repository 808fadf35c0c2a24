"""A vocabulary as a double-array trie over UTF-8 bytes.

Node s is a pair of uint32: unit 0 = (base << 8) | label, unit 1 = id + 1 of the piece that ends here (0: none). Node 0 is
the root, its label is 0. From node s, byte c (c != 0) leads to t = base(s) ^ c; the step is valid if t < nodes and
label(t) == c. No two nodes with children share a base, nodes without children have base 0 and no other node has it, so
the label alone tells whose child t is. Unused slots are all zero.

Aoe, "An Efficient Digital Search Algorithm by Using a Double-Array Structure" (1989), with XOR for the addition.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinybert_rt.format.layout import MAX_TRIE_NODES

_BLOCK = 256
# Blocks that are searched for a place: the fewer, the faster and the less compact.
_OPEN_BLOCKS = 12
_XOR = np.arange(_BLOCK)[:, None] ^ np.arange(_BLOCK)[None, :]


def build_trie(pieces: Sequence[bytes]) -> np.ndarray:
    """The trie of `pieces`, whose index is their id. The same pieces always give the same trie.

    Returns uint32 (nodes, 2). Raises ValueError for an empty piece, a NUL byte or a piece that occurs twice.
    """
    children, ends, order = _tree(pieces)
    slots, bases, size = _place(children, order)
    if size > MAX_TRIE_NODES:
        raise ValueError(f"the trie of the {len(pieces)} pieces has {size} nodes; at most {MAX_TRIE_NODES} are possible")
    trie = np.zeros((size, 2), dtype=np.uint32)
    for node, transitions in enumerate(children):
        base = bases[node]
        trie[slots[node], 0] |= base << 8
        for byte, child in transitions.items():
            trie[slots[child], 0] |= byte
    for node, piece in ends.items():
        trie[slots[node], 1] = piece + 1
    return trie


def _tree(pieces: Sequence[bytes]) -> tuple[list[dict[int, int]], dict[int, int], list[int]]:
    """A plain tree: for each node its children by byte; node → piece; the nodes with children in the order to be placed."""
    children: list[dict[int, int]] = [{}]
    ends: dict[int, int] = {}
    for index, piece in enumerate(pieces):
        if not piece:
            raise ValueError(f"piece {index} is empty")
        if 0 in piece:
            raise ValueError(f"piece {index} ({piece!r}) has a NUL byte")
        node = 0
        for byte in piece:
            following = children[node].get(byte)
            if following is None:
                following = children[node][byte] = len(children)
                children.append({})
            node = following
        if node in ends:
            raise ValueError(f"pieces {ends[node]} and {index} are equal: {piece!r}")
        ends[node] = index
    # Nodes with many children first: those with one fill the holes. Otherwise in the order of the vocabulary, whose
    # frequent pieces come first in practice: what is used together then lies together.
    order = sorted((node for node in range(len(children)) if children[node]), key=lambda node: -min(len(children[node]), 4))
    return children, ends, order


class _Slots:
    """Free slots and unused bases, in blocks of 256: a base and its targets lie in the same block."""

    def __init__(self) -> None:
        self.free = np.ones((0, _BLOCK), dtype=bool)
        self.unused = np.ones((0, _BLOCK), dtype=bool)
        self.open: list[int] = []

    def add_block(self) -> int:
        """Open another block; the one with the fewest free slots is closed when there are too many."""
        block = len(self.free)
        self.free = np.vstack([self.free, np.ones((1, _BLOCK), dtype=bool)])
        self.unused = np.vstack([self.unused, np.ones((1, _BLOCK), dtype=bool)])
        self.open.append(block)
        if len(self.open) > _OPEN_BLOCKS:
            self.open.remove(min(self.open, key=lambda each: int(self.free[each].sum())))
        return block

    def find(self, labels: list[int]) -> int:
        """An unused base whose targets for `labels` are all free."""
        for block in self.open:
            fits = self.unused[block].copy()
            free = self.free[block]
            for label in labels:
                fits &= free[_XOR[label]]
            low = int(fits.argmax())
            if fits[low]:
                return block * _BLOCK + low
        return self.add_block() * _BLOCK + int(self.unused[-1].argmax())

    def take(self, base: int, labels: list[int]) -> None:
        """Use `base` for a node with children at `labels`."""
        block, low = divmod(base, _BLOCK)
        self.unused[block, low] = False
        for label in labels:
            self.free[block, low ^ label] = False
        if not self.free[block].any():
            self.open.remove(block)


def _place(children: list[dict[int, int]], order: list[int]) -> tuple[list[int], list[int], int]:
    """Give every node a slot and every node with children a base. Returns slots, bases, number of slots."""
    slots = [0] * len(children)
    bases = [0] * len(children)
    space = _Slots()
    space.add_block()
    space.free[0, 0] = False  # the root
    space.unused[0, 0] = False  # base 0 means: no children
    last = 0
    for node in order:
        labels = list(children[node])
        base = space.find(labels)
        space.take(base, labels)
        bases[node] = base
        for byte, child in children[node].items():
            slots[child] = base ^ byte
            last = max(last, slots[child])
    return slots, bases, last + 1
