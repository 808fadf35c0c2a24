"""Generate what Unigram tokenizers need to know of Unicode, beside `unicode_tables`: two modules.

    python -m tools.normalization_tables            # write the modules
    python -m tools.normalization_tables --check    # exit 1 if a committed module differs

- `tinybert_rt/text/grapheme_data.py`: the class of each code point in the rules of grapheme clusters.
- `tools/folding_data.py`: what the converter makes rules of: compatibility decompositions without marks, and lower case.

As there, the tables start from Python's `unicodedata` 14 and are corrected by lists: `tokenizers` cuts clusters by Unicode 17 and
decomposes by Unicode 9.
"""

from __future__ import annotations

import argparse
import json
import runpy
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from . import unicode_tables
from .unicode_tables import CODE_POINTS, HANGUL, Unicode, members, packed_lines, render, require_version, three_stages

_ROOT = Path(__file__).resolve().parent.parent
GRAPHEMES = _ROOT / "tinybert_rt" / "text" / "grapheme_data.py"
FOLDINGS = _ROOT / "tools" / "folding_data.py"

# Classes of code points, Grapheme_Cluster_Break of Unicode Standard Annex 29; EXTEND is Extend and SpacingMark.
OTHER, CONTROL, EXTEND, JOINER, PREPEND, LEADING, VOWEL, TRAILING, SYLLABLE, PICTURE = range(10)

# Extend or SpacingMark, though no mark in Unicode 14: halfwidth voicing marks, Thai and Lao am, emoji modifiers, tags, and marks that are
# younger.
_EXTEND = """0897 0CF3 0E33 0EB3 0ECE 1ACF-1ADD 1AE0-1AEB 200C FF9E-FF9F 10D69-10D6D 10EFA-10EFF 11241 113B8-113C0 113C2 113C5
    113C7-113CA 113CC-113D0 113D2 113E1-113E2 11B60-11B67 11F00-11F01 11F03 11F34-11F3A 11F3E-11F42 11F5A 13440 13447-13455 1611E-1612F
    1E08F 1E4EC-1E4EF 1E5EE-1E5EF 1E6E3 1E6E6 1E6EE-1E6EF 1E6F5 1F3FB-1F3FF E0020-E007F"""

# Marks that are neither.
_NOT_EXTEND = """102B-102C 1038 1062-1064 1067-106D 1083 1087-108C 108F 109A-109C 1A61 1A63-1A64 AA7B AA7D 11720-11721"""

_PREPEND = "0600-0605 06DD 070F 0890-0891 08E2 0D4E 110BD 110CD 111C2-111C3 113D1 1193F 11941 11A84-11A89 11D46 11F02"

# Control, CR and LF, as far as they are in plane 0: behind it a cluster of at most 5 bytes cannot have one.
_CONTROL = "0000-001F 007F-009F 00AD 061C 180E 200B 200E-200F 2028-202E 2060-206F FEFF FFF0-FFFB"

_LEADING = "1100-115F A960-A97C"
_VOWEL = "1160-11A7 D7B0-D7C6 16D63 16D67-16D6A"
_TRAILING = "11A8-11FF D7CB-D7FB"

# Extended_Pictographic, which `unicodedata` does not have.
_PICTURE = """00A9 00AE 203C 2049 2122 2139 2194-2199 21A9-21AA 231A-231B 2328 23CF 23E9-23F3 23F8-23FA 24C2 25AA-25AB 25B6 25C0 25FB-25FE
    2600-2604 260E 2611 2614-2615 2618 261D 2620 2622-2623 2626 262A 262E-262F 2638-263A 2640 2642 2648-2653 265F-2660 2663 2665-2666 2668
    267B 267E-267F 2692-2697 2699 269B-269C 26A0-26A1 26A7 26AA-26AB 26B0-26B1 26BD-26BE 26C4-26C5 26C8 26CE-26CF 26D1 26D3-26D4 26E9-26EA
    26F0-26F5 26F7-26FA 26FD 2702 2705 2708-270D 270F 2712 2714 2716 271D 2721 2728 2733-2734 2744 2747 274C 274E 2753-2755 2757 2763-2764
    2795-2797 27A1 27B0 27BF 2934-2935 2B05-2B07 2B1B-2B1C 2B50 2B55 3030 303D 3297 3299 1F004 1F02C-1F02F 1F094-1F09F 1F0AF-1F0B0 1F0C0
    1F0CF-1F0D0 1F0F6-1F0FF 1F170-1F171 1F17E-1F17F 1F18E 1F191-1F19A 1F1AE-1F1E5 1F201-1F20F 1F21A 1F22F 1F232-1F23A 1F23C-1F23F
    1F249-1F25F 1F266-1F321 1F324-1F393 1F396-1F397 1F399-1F39B 1F39E-1F3F0 1F3F3-1F3F5 1F3F7-1F3FA 1F400-1F4FD 1F4FF-1F53D 1F549-1F54E
    1F550-1F567 1F56F-1F570 1F573-1F57A 1F587 1F58A-1F58D 1F590 1F595-1F596 1F5A4-1F5A5 1F5A8 1F5B1-1F5B2 1F5BC 1F5C2-1F5C4 1F5D1-1F5D3
    1F5DC-1F5DE 1F5E1 1F5E3 1F5E8 1F5EF 1F5F3 1F5FA-1F64F 1F680-1F6C5 1F6CB-1F6D2 1F6D5-1F6E5 1F6E9 1F6EB-1F6F0 1F6F3-1F6FF 1F7DA-1F7FF
    1F80C-1F80F 1F848-1F84F 1F85A-1F85F 1F888-1F88F 1F8AE-1F8AF 1F8BC-1F8BF 1F8C2-1F8CF 1F8D9-1F8FF 1F90C-1F93A 1F93C-1F945 1F947-1F9FF
    1FA58-1FA5F 1FA6E-1FAFF 1FC00-1FFFD"""

# Marks (M*) for StripAccents are those of Unicode 9: characters that became marks since.
_NOT_MARK = """07FD 0898-089F 08CA-08D3 09FE 0AFA-0AFF 0B55 0C04 0C3C 0D00 0D3B-0D3C 0D81 0EBA 1715 180F 1ABF-1ACE 1CF7 1DF6-1DFA A82C A8FF
    10D24-10D27 10EAB-10EAC 10F46-10F50 10F82-10F85 11070 11073-11074 110C2 11145-11146 111C9 111CE-111CF 1133B 1145E 1182C-1183A
    11930-11935 11937-11938 1193B-1193E 11940 11942-11943 119D1-119D7 119DA-119E0 119E4 11A01-11A0A 11A33-11A39 11A3B-11A3E 11A47
    11A51-11A5B 11A8A-11A99 11D31-11D36 11D3A 11D3C-11D3D 11D3F-11D45 11D47 11D8A-11D8E 11D90-11D91 11D93-11D97 11EF3-11EF6 16F4F
    16F7F-16F87 16FE4 16FF0-16FF1 1CF00-1CF2D 1CF30-1CF46 1E130-1E136 1E2AE 1E2EC-1E2EF"""

# Mc in Unicode 9, letters since.
_MARK = "1CF2-1CF3"

# Characters with a compatibility decomposition since Unicode 10: not decomposed.
_NOT_DECOMPOSED = "32FF A7F2-A7F4 AB69 10781-10785 10787-107B0 107B2-107BA 11938 1F16C 1FBF0-1FBF9"


def grapheme_tables() -> dict[str, bytes]:
    """The tables of `grapheme_data`, in three stages as those of `unicode_tables`; a leaf is the class."""
    classes = [OTHER] * CODE_POINTS
    marks = {code for code in range(CODE_POINTS) if unicodedata.category(chr(code)).startswith("M")}
    for kind, codes in (
        (EXTEND, (marks | members(_EXTEND)) - members(_NOT_EXTEND)),
        (CONTROL, members(_CONTROL)),
        (JOINER, {0x200D}),
        (PREPEND, members(_PREPEND)),
        (LEADING, members(_LEADING)),
        (VOWEL, members(_VOWEL)),
        (TRAILING, members(_TRAILING)),
        (SYLLABLE, set(HANGUL)),
        (PICTURE, members(_PICTURE)),
    ):
        for code in codes:
            classes[code] = kind
    tables, order = three_stages("GRAPHEME", classes, "B")
    tables["GRAPHEME_LEAF"] = bytes(order[number] for number in tables["GRAPHEME_LEAF"])
    return tables


def foldings() -> dict[str, dict[str, str]]:
    """ "bare": characters that NFKD and dropping marks change, but Hangul syllables, and what becomes of them; "lower": lower case."""
    characters = Unicode()
    not_decomposed, not_mark, mark = members(_NOT_DECOMPOSED), members(_NOT_MARK), members(_MARK)
    made: dict[str, dict[str, str]] = {"bare": {}, "lower": {}}
    for code in range(CODE_POINTS):
        char = chr(code)
        if 0xD800 <= code < 0xE000 or code in HANGUL:
            continue
        apart = char if code in not_decomposed else unicodedata.normalize("NFKD", char)
        bare = "".join(
            each for each in apart if not (ord(each) in mark or (unicodedata.category(each)[0] == "M" and ord(each) not in not_mark))
        )
        if bare != char:
            made["bare"][char] = bare
        lower = "i\u0307" if code == unicode_tables.DOTTED_CAPITAL_I else chr(characters.lower(code))
        if lower != char:
            made["lower"][char] = lower
    return made


def render_foldings(made: dict[str, dict[str, str]]) -> str:
    """The text of `folding_data`."""
    encoded = json.dumps(made, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()
    return f'''"""What characters become. Generated by tools/normalization_tables.py: do not edit."""

from __future__ import annotations

import base64
import json
import zlib

_DATA = (
{packed_lines(encoded)})

FOLDINGS: dict[str, dict[str, str]] = json.loads(zlib.decompress(base64.b85decode(_DATA)))
"""Kind of folding → character → what becomes of it, for those that change."""
'''


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Generate grapheme_data.py and folding_data.py.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a committed module differs")
    options = parser.parse_args(arguments)
    require_version()
    tables, made = grapheme_tables(), foldings()
    if options.check:
        same = runpy.run_path(str(GRAPHEMES))["TABLES"] == tables and runpy.run_path(str(FOLDINGS))["FOLDINGS"] == made
        print("up to date" if same else "differs from what would be generated")
        return 0 if same else 1
    GRAPHEMES.write_text(render(tables, "Classes of grapheme clusters", "normalization_tables.py"), encoding="ascii")
    FOLDINGS.write_text(render_foldings(made), encoding="utf-8")
    print(f"{GRAPHEMES.name}: {sum(map(len, tables.values()))} bytes of tables; {FOLDINGS.name}: {FOLDINGS.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
