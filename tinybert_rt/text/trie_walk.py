"""Reading a double-array trie, see `format.trie`. A damaged trie gives wrong ids, never an access outside of it."""

from __future__ import annotations

from tinybert_rt.kernels.jit import inline, kernel
from tinybert_rt.kernels.memory import load_i64, load_u8, load_u32


@inline
def unit_pair(trie, node):
    """Both units of a node in one int64: label in bits 0–7, base in 8–31, id + 1 in 32–63."""
    return load_i64(trie + 8 * node)


@inline
def target_of(pair, byte):
    """The node to which `byte` leads, if its label is `byte`."""
    return ((pair >> 8) & 0xFFFFFF) ^ byte


@inline
def label_of(pair):
    """The byte that leads to a node."""
    return pair & 0xFF


@inline
def piece_of(pair):
    """Id + 1 of the piece that ends at a node; 0: none."""
    return (pair >> 32) & 0xFFFFFFFF


@inline
def follow(trie, nodes, pair, byte):
    """Both units of the node to which `byte`, not NUL, leads from the node with the units `pair`; 0: it leads nowhere."""
    node = target_of(pair, byte)
    if node >= nodes:
        return 0
    found = unit_pair(trie, node)
    return found if label_of(found) == byte else 0


@kernel
def validate_trie(trie, nodes, vocab_size):
    """The first node with an id outside the vocabulary, or -1: every id read from the trie is then below `vocab_size`.

    Args: trie uint32 [nodes][2], nodes, vocab_size.
    """
    for node in range(nodes):
        if load_u32(trie + 8 * node + 4) > vocab_size:
            return node
    return -1


@kernel
def find_node(trie, nodes, piece, size):
    """The node that the `size` bytes at `piece` lead to from the root, or -1."""
    node = 0
    if nodes < 1:
        return -1
    for index in range(size):
        byte = load_u8(piece + index)
        node = target_of(unit_pair(trie, node), byte)
        if byte == 0 or node >= nodes or label_of(unit_pair(trie, node)) != byte:
            return -1
    return node


@inline
def whole_piece(trie, nodes, root, word, size):
    """Id + 1 of the piece that the `size` bytes at `word` are, from node `root` on (-1: there is none), or 0."""
    if root < 0:
        return 0
    pair = unit_pair(trie, root)
    for index in range(size):
        byte = load_u8(word + index)
        pair = follow(trie, nodes, pair, byte) if byte != 0 else 0
        if pair == 0:
            return 0
    return piece_of(pair)


@inline
def longest_match(trie, nodes, root, word, begin, end):
    """The longest piece along word[begin:end] from node `root`: (its end << 32) | (id + 1), or 0.

    The word has no NUL byte; its length fits into 31 bits.
    """
    found = 0
    pair = unit_pair(trie, root)
    position = begin
    while position < end:
        pair = follow(trie, nodes, pair, load_u8(word + position))
        if pair == 0:
            break
        position += 1
        piece = piece_of(pair)
        if piece != 0:
            found = (position << 32) | piece
    return found
