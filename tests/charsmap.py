"""A SentencePiece `precompiled_charsmap` made from a dictionary: the Darts double array and the replacements behind it."""

from __future__ import annotations

import struct
import unicodedata

from tinybert_rt.format import trie


def charsmap(rules: dict[str, str]) -> bytes:
    """The bytes that `tokenizers.normalizers.Precompiled` and SentencePiece read.

    A unit of the double array is a label in bits 0–7, bit 8 if a value ends here, and the distance to the children from bit 10
    on; a value is in the child of label 0, with bit 31 set. (Yata, Darts-clone.)
    """
    texts, places = bytearray(), {}
    for text in sorted(set(rules.values())):
        places[text] = len(texts)
        texts += text.encode() + b"\0"
    children: list[dict[int, int]] = [{}]
    values: dict[int, int] = {}
    for key in sorted(rules):
        node = 0
        for byte in [*key.encode(), 0]:
            if byte not in children[node]:
                children[node][byte] = len(children)
                children.append({})
            node = children[node][byte]
        values[node] = places[rules[key]]
    order = sorted((node for node in range(len(children)) if children[node]), key=lambda node: -min(len(children[node]), 4))
    slots, bases, size = trie._place(children, order)
    size = -(-size // 256) * 256
    units = [0] * size
    for node, following in enumerate(children):
        if following:
            distance = slots[node] ^ bases[node]
            assert distance < 1 << 21
            units[slots[node]] |= distance << 10 | (1 << 8 if 0 in following else 0)
        for byte, child in following.items():
            units[slots[child]] |= byte
    for node, value in values.items():
        units[slots[node]] = value | 1 << 31
    return struct.pack("<I", 4 * size) + struct.pack(f"<{size}I", *units) + bytes(texts)


def nfkc_rules(fold: bool = False) -> dict[str, str]:
    """NFKC as SentencePiece's nmt_nfkc has it: every character that changes, every pair that composes; spaces, and no controls.

    With `fold` everything is lower-cased too (nmt_nfkc_cf).
    """
    rules = {}

    def normal(text: str) -> str:
        made = unicodedata.normalize("NFKC", text)
        return unicodedata.normalize("NFKC", made.casefold()) if fold else made

    for code in range(1, 0x110000):
        char = chr(code)
        if 0xD800 <= code < 0xE000:
            continue
        if normal(char) != char:
            rules[char] = normal(char)
        apart = unicodedata.normalize("NFD", char)
        if len(apart) > 1 and normal(apart) != apart:
            rules[apart] = normal(apart)
    for code in (*range(1, 9), 11, *range(14, 32), 0x7F, 0x8F, 0x9F):
        rules[chr(code)] = ""
    for code in (9, 10, 12, 13, 0x1680, *range(0x200B, 0x2010), 0x2028, 0x2029, 0x2581, 0xFEFF, 0xFFFD):
        rules[chr(code)] = " "
    return rules
