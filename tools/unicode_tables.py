"""Generate `tinybert_rt/text/unicode_data.py`: what the tokenizers need to know of each code point.

    python -m tools.unicode_tables            # write the module
    python -m tools.unicode_tables --check    # exit 1 if the committed module differs

The reference behaviour is that of the `tokenizers` package. Its Rust crates carry Unicode tables of several versions:
categories of Unicode 8 (the regex of byte-level BPE: of Unicode 16), decompositions and combining classes of Unicode 9, lower case of
Unicode 17. The tables here
start from Python's `unicodedata` 14 and are corrected by the lists below, each with the reason. They are therefore only
generated with a Python whose `unicodedata` is version 14 (Python 3.11); with another version the lists would be wrong.

Every table is in three stages, over c >> 12, (c >> 6) & 63 and c & 63.
"""

from __future__ import annotations

import argparse
import base64
import runpy
import struct
import sys
import unicodedata
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

UNICODE_VERSION = "14.0.0"
TARGET = Path(__file__).resolve().parent.parent / "tinybert_rt" / "text" / "unicode_data.py"

# Properties of a code point: the first byte and the third and fourth of its record.
REMOVED = 1  # by cleaning: NUL, U+FFFD and the categories Cc, Cf, Co, except tab, line feed, carriage return
SPACE = 2  # White_Space
CJK = 4  # set apart by spaces
PUNCTUATION = 8  # ASCII punctuation and the categories P*
MARK = 16  # category Mn: dropped when accents are stripped
DECOMPOSES = 32  # has a canonical decomposition with something left after dropping marks; Hangul: by rule
UPPER = 64  # has another lower case
LETTER = 1 << 16  # the categories L*
NUMBER = 1 << 17  # the categories N*

MORE = 1 << 31
"""Set in an element of DECOMPOSITIONS when the sequence goes on."""

# Characters that became Cf after Unicode 8: not removed.
_KEPT_FORMAT = "0890-0891 08E2 110CD 13430-13438"

# Characters that became P* after Unicode 8: no punctuation.
_NOT_PUNCTUATION = """061D 09FD 0A76 0C77 0C84 1B7D-1B7E 2E43-2E4F 2E52-2E5D 10EAD 10F55-10F59 10F86-10F89 1144B-1144F
    1145A-1145B 1145D 11660-1166C 116B9 1183B 11944-11946 119E2 11A3F-11A46 11A9A-11A9C 11A9E-11AA2 11C41-11C45
    11C70-11C71 11EF7-11EF8 11FFF 12FF1-12FF2 16E97-16E9A 16FE2 1E95E-1E95F"""

# Po in Unicode 8, another category since: punctuation.
_PUNCTUATION = "166D 111C9"

# Characters that became Mn after Unicode 8: no marks, they stay when accents are stripped.
_NOT_MARK = """07FD 0898-089F 08CA-08E1 09FE 0AFA-0AFF 0B55 0C04 0C3C 0D00 0D3B-0D3C 0D81 0EBA 180F 1885-1886 1ABF-1ACE
    1DF6-1DFB A82C A8C5 A8FF A9BD 10D24-10D27 10EAB-10EAC 10F46-10F50 10F82-10F85 11070 11073-11074 110C2 111C9 111CF
    1123E 1133B 11438-1143F 11442-11444 11446 1145E 1182F-11837 11839-1183A 1193B-1193C 1193E 11943 119D4-119D7
    119DA-119DB 119E0 11A01-11A0A 11A33-11A38 11A3B-11A3E 11A47 11A51-11A56 11A59-11A5B 11A8A-11A96 11A98-11A99
    11C30-11C36 11C38-11C3D 11C3F 11C92-11CA7 11CAA-11CB0 11CB2-11CB3 11CB5-11CB6 11D31-11D36 11D3A 11D3C-11D3D
    11D3F-11D45 11D47 11D90-11D91 11D95 11D97 11EF3-11EF4 16F4F 16FE4 1CF00-1CF2D 1CF30-1CF46 1E000-1E006 1E008-1E018
    1E01B-1E021 1E023-1E024 1E026-1E02A 1E130-1E136 1E2AE 1E2EC-1E2EF 1E944-1E94A"""

# Mn in Unicode 8, Mc since Unicode 14: a mark.
_MARK = "1734"

# Characters that got a combining class after Unicode 9: class 0, never reordered.
_CLASS_ZERO = """07FD 0898-089F 08CA-08D3 09FE 0C3C 0D3B-0D3C 0EBA 1715 1ABF-1ACE 1DF6-1DFA A82C 10D24-10D27 10EAB-10EAC
    10F46-10F50 10F82-10F85 11070 1133B 1145E 11839-1183A 1193D-1193E 11943 119E0 11A34 11A47 11A99 11D42 11D44-11D45
    11D97 16FF0-16FF1 1E130-1E136 1E2AE 1E2EC-1E2EF"""

# Characters with a canonical decomposition since Unicode 13: not decomposed.
_NOT_DECOMPOSED = "11938"

# Upper case since Unicode 15 to 17: lower case = code point + difference.
_LOWER: dict[str, int] = {
    "1C89": 1,
    "A7CB": 0x264 - 0xA7CB,
    "A7CC": 1,
    "A7CE": 1,
    "A7D2": 1,
    "A7D4": 1,
    "A7DA": 1,
    "A7DC": 0x19B - 0xA7DC,
    "10D50-10D65": 32,
    "16EA0-16EB8": 27,
}

# Characters that became L* in Unicode 15 to 16: letters.
_LETTER = """1C89-1C8A A7CB-A7CD A7DA-A7DC 105C0-105F3 10D4A-10D65 10D6F-10D85 10EC2-10EC4 1123F-11240 11380-11389 1138B 1138E
    11390-113B5 113B7 113D1 113D3 11BC0-11BE0 11F02 11F04-11F10 11F12-11F33 1342F 13441-13446 13460-143FA 16100-1611D 16D40-16D6C
    18CFF 1B132 1B155 1DF25-1DF2A 1E030-1E06D 1E4D0-1E4EB 1E5D0-1E5ED 1E5F0 2B739 2EBF0-2EE5D 31350-323AF"""

# Characters that became N* in Unicode 15 to 16: numbers.
_NUMBER = "10D40-10D49 116D0-116E3 11BF0-11BF9 11F50-11F59 16130-16139 16D70-16D79 1CCF0-1CCF9 1D2C0-1D2D3 1E4F0-1E4F9 1E5F1-1E5FA"

# The ranges of `tokenizers`; its last-but-three range begins at 2B920, where 2B820 (Extension E) was meant.
_CJK = "3400-4DBF 4E00-9FFF F900-FAFF 20000-2A6DF 2A700-2B73F 2B740-2B81F 2B920-2CEAF 2F800-2FA1F"

# The only character whose lower case has two characters: i and U+0307. The table maps it to i, the kernel adds the dot.
DOTTED_CAPITAL_I = 0x130

HANGUL = range(0xAC00, 0xD7A4)
CODE_POINTS = 0x110000


def members(ranges: str) -> set[int]:
    """The code points of a list of hexadecimal ranges."""
    found: set[int] = set()
    for item in ranges.split():
        first, _, last = item.partition("-")
        found.update(range(int(first, 16), int(last or first, 16) + 1))
    return found


class Unicode:
    """The corrected properties of code points."""

    def __init__(self) -> None:
        self.kept_format = members(_KEPT_FORMAT)
        self.not_punctuation = members(_NOT_PUNCTUATION)
        self.punctuation = members(_PUNCTUATION)
        self.not_mark = members(_NOT_MARK)
        self.mark = members(_MARK)
        self.class_zero = members(_CLASS_ZERO)
        self.not_decomposed = members(_NOT_DECOMPOSED)
        self.letter = members(_LETTER)
        self.number = members(_NUMBER)
        self.cjk = members(_CJK)
        self.lower_difference = {code: difference for ranges, difference in _LOWER.items() for code in members(ranges)}

    def is_removed(self, code: int) -> bool:
        if code in (0x9, 0xA, 0xD) or code in self.kept_format:
            return False
        return code in (0, 0xFFFD) or unicodedata.category(chr(code)) in ("Cc", "Cf", "Co")

    def is_space(self, code: int) -> bool:
        return chr(code).isspace() and not 0x1C <= code <= 0x1F

    def is_punctuation(self, code: int) -> bool:
        if code < 128:
            return 33 <= code < 127 and not chr(code).isalnum()
        if code in self.not_punctuation:
            return False
        return code in self.punctuation or unicodedata.category(chr(code)).startswith("P")

    def is_letter(self, code: int) -> bool:
        return code in self.letter or unicodedata.category(chr(code)).startswith("L")

    def is_number(self, code: int) -> bool:
        return code in self.number or unicodedata.category(chr(code)).startswith("N")

    def is_mark(self, code: int) -> bool:
        return code in self.mark or (unicodedata.category(chr(code)) == "Mn" and code not in self.not_mark)

    def combining_class(self, code: int) -> int:
        return 0 if code in self.class_zero else unicodedata.combining(chr(code))

    def lower(self, code: int) -> int:
        if code in self.lower_difference:
            return code + self.lower_difference[code]
        lower = chr(code).lower()
        if len(lower) != 1 and code != DOTTED_CAPITAL_I:
            raise SystemExit(f"U+{code:04X} has a lower case of {len(lower)} characters: the kernel does not know it")
        return ord(lower[0])

    def decomposition(self, code: int) -> tuple[int, ...]:
        """Canonical decomposition without the marks of a combining class above 0; empty: none, or nothing is left."""
        text = unicodedata.normalize("NFD", chr(code))
        if text == chr(code) or code in self.not_decomposed or code in HANGUL:
            return ()
        return tuple(ord(each) for each in text if not (self.is_mark(ord(each)) and self.combining_class(ord(each))))

    def record(self, code: int) -> tuple[int, int, int]:
        """Properties, combining class, difference to the lower case."""
        if 0xD800 <= code < 0xE000:
            return (0, 0, 0)
        difference = self.lower(code) - code
        properties = REMOVED * self.is_removed(code) | SPACE * self.is_space(code) | CJK * (code in self.cjk)
        properties |= PUNCTUATION * self.is_punctuation(code) | MARK * self.is_mark(code) | UPPER * (difference != 0)
        properties |= DECOMPOSES * (code in HANGUL or bool(self.decomposition(code)))
        properties |= LETTER * self.is_letter(code) | NUMBER * self.is_number(code)
        record = (properties, self.combining_class(code), difference)
        self._check(code, record)
        return record

    def _check(self, code: int, record: tuple[int, int, int]) -> None:
        """What the kernels assume of every code point."""
        properties, combining_class, difference = record
        separator = properties & (SPACE | PUNCTUATION)
        sequence = self.decomposition(code)
        assumptions = {
            "a character with a combining class is no separator and has no case": not (combining_class and (separator or difference)),
            "a character is a letter, a number, white space or none of these": (properties & (LETTER | NUMBER | SPACE)).bit_count() < 2,
            "a separator has no case": not (separator and difference),
            "a separator stands alone in its decomposition": len(sequence) < 2
            or not any(self.is_space(each) or self.is_punctuation(each) for each in sequence),
            "lower case is never a separator": not (difference and (self.is_punctuation(code + difference))),
        }
        for assumption, holds in assumptions.items():
            if not holds:
                raise SystemExit(f"U+{code:04X}: the kernels assume that {assumption}")


def _blocks(values: Sequence[int], size: int) -> tuple[list[int], list[int]]:
    """Cut `values` into blocks: the number of each block, and the distinct blocks one after another."""
    numbers: dict[tuple[int, ...], int] = {}
    index = [numbers.setdefault(tuple(values[begin : begin + size]), len(numbers)) for begin in range(0, len(values), size)]
    return index, [value for block in numbers for value in block]


def three_stages(name: str, values: Sequence[Any], leaf_format: str) -> tuple[dict[str, bytes], list[Any]]:
    """Tables NAME_TOP (uint8), NAME_MIDDLE (uint16), NAME_LEAF; and the distinct values in the order of their number."""
    numbers: dict[Any, int] = {}
    middle, leaf = _blocks([numbers.setdefault(value, len(numbers)) for value in values], 64)
    top, middle = _blocks(middle, 64)
    tables = {
        f"{name}_TOP": struct.pack(f"<{len(top)}B", *top),
        f"{name}_MIDDLE": struct.pack(f"<{len(middle)}H", *middle),
        f"{name}_LEAF": struct.pack(f"<{len(leaf)}{leaf_format}", *leaf),
    }
    return tables, list(numbers)


def build_tables() -> dict[str, bytes]:
    """Every table of the module, by name, little-endian."""
    characters = Unicode()
    tables, records = three_stages("RECORD", [characters.record(code) for code in range(CODE_POINTS)], "B")
    # 8 bytes each: properties u8, combining class u8, more properties u16, difference to the lower case i32.
    tables["RECORDS"] = b"".join(
        struct.pack("<BBHi", properties & 255, order, properties >> 16, difference) for properties, order, difference in records
    )

    sequences = [() if 0xD800 <= code < 0xE000 else characters.decomposition(code) for code in range(CODE_POINTS)]
    elements: list[int] = []
    starts: dict[tuple[int, ...], int] = {(): 0}
    for sequence in sequences:
        if sequence not in starts:
            starts[sequence] = len(elements)
            elements += [each | MORE for each in sequence[:-1]] + [sequence[-1]]
    stages, order = three_stages("DECOMPOSITION", sequences, "H")
    leaf = struct.unpack(f"<{len(stages['DECOMPOSITION_LEAF']) // 2}H", stages["DECOMPOSITION_LEAF"])
    stages["DECOMPOSITION_LEAF"] = struct.pack(f"<{len(leaf)}H", *(starts[order[number]] for number in leaf))
    tables |= stages
    tables["DECOMPOSITIONS"] = struct.pack(f"<{len(elements)}I", *elements)
    return tables


def render(tables: dict[str, bytes], title: str, generator: str) -> str:
    """The text of a generated module; `generator`: the name of the tool."""
    layout = "".join(f'    ("{name}", {len(data)}),\n' for name, data in tables.items())
    return f'''"""{title}. Generated by tools/{generator}: do not edit."""

from __future__ import annotations

from tinybert_rt.text.packed import unpack

UNICODE_VERSION = "{UNICODE_VERSION}"

# Name and bytes of each table, in the order of the data.
_LAYOUT = (
{layout})
_DATA = (
{packed_lines(b"".join(tables.values()))})

TABLES = unpack(_DATA, _LAYOUT)
'''


def packed_lines(data: bytes) -> str:
    """Compressed bytes in base 85, as lines of Python source."""
    text = base64.b85encode(zlib.compress(data, 9)).decode("ascii")
    return "".join(f'    b"{text[begin : begin + 120]}"\n' for begin in range(0, len(text), 120))


def committed_tables() -> dict[str, bytes]:
    """The tables of the module as it is. They are compared, not the text: compressors differ."""
    if not TARGET.is_file():
        return {}
    return dict(runpy.run_path(str(TARGET))["TABLES"])


def require_version(error: Callable[[str], Any] = sys.exit) -> None:
    """Refuse to run on a Python with another version of the Unicode data."""
    if unicodedata.unidata_version != UNICODE_VERSION:
        error(f"the tables are made from Unicode {UNICODE_VERSION} (Python 3.11); this Python has {unicodedata.unidata_version}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Generate tinybert_rt/text/unicode_data.py.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the committed module differs")
    options = parser.parse_args(arguments)
    require_version()
    tables = build_tables()
    if options.check:
        same = committed_tables() == tables
        print(f"{TARGET.name}: {'up to date' if same else 'differs from what would be generated'}")
        return 0 if same else 1
    text = render(tables, "Tables of Unicode properties for the tokenizers", "unicode_tables.py")
    TARGET.write_text(text, encoding="ascii")
    for name, data in tables.items():
        print(f"{len(data):7d} {name}")
    print(f"{sum(map(len, tables.values())):7d} bytes of tables, {len(text)} bytes of source")
    return 0


if __name__ == "__main__":
    sys.exit(main())
