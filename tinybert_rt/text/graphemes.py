"""Where one grapheme cluster ends and another begins (Unicode Standard Annex 29, extended clusters), as far as clusters of at most 5
bytes go: regional indicators only join what is longer, so rules GB12 and GB13 are left out. GB9c (conjuncts of Indic scripts) is left out
too: it would only matter to a consonant behind a virama that carries a mark of another script.
"""

from __future__ import annotations

from tinybert_rt.kernels.jit import inline, kernel
from tinybert_rt.kernels.memory import constant_table, load_u8, load_u16
from tinybert_rt.text.grapheme_data import TABLES
from tinybert_rt.text.unicode import HANGUL_FIRST

# Values of the table, see tools/normalization_tables.py.
OTHER, CONTROL, EXTEND, JOINER, PREPEND, LEADING, VOWEL, TRAILING, SYLLABLE, PICTURE = range(10)

_CARRIAGE_RETURN = 13
_LINE_FEED = 10

# What has been read of "picture, extending characters, joiner" (rule GB11).
NO_PICTURE = 0
AFTER_PICTURE = 1
AFTER_PICTURE_AND_JOINER = 2

_top = constant_table(TABLES["GRAPHEME_TOP"])
_middle = constant_table(TABLES["GRAPHEME_MIDDLE"])
_leaf = constant_table(TABLES["GRAPHEME_LEAF"])


@inline
def grapheme_class(code):
    """The class of a code point, one of the numbers above."""
    block = load_u8(_top() + (code >> 12))
    block = load_u16(_middle() + 2 * (64 * block + ((code >> 6) & 63)))
    return load_u8(_leaf() + 64 * block + (code & 63))


@kernel
def begins_cluster(before, before_code, pictures, kind, code):
    """Whether a character begins a cluster: rules GB3 to GB11.

    Args: class and code of the character before, the state of GB11 behind it, class and code of the character.
    """
    if before_code == _CARRIAGE_RETURN and code == _LINE_FEED:
        return False
    if CONTROL in (before, kind):
        return True
    if kind in (EXTEND, JOINER) or before == PREPEND:
        return False
    if kind in (LEADING, SYLLABLE):
        return before != LEADING
    open_syllable = before == SYLLABLE and (before_code - HANGUL_FIRST) % 28 == 0
    if kind == VOWEL:
        return not (before in (LEADING, VOWEL) or open_syllable)
    if kind == TRAILING:
        return before not in (VOWEL, TRAILING, SYLLABLE)
    return not (kind == PICTURE and pictures == AFTER_PICTURE_AND_JOINER)


@inline
def next_pictures(pictures, kind):
    """The state of rule GB11 behind a character of class `kind`."""
    if kind == PICTURE:
        return AFTER_PICTURE
    if pictures == AFTER_PICTURE and kind == EXTEND:
        return AFTER_PICTURE
    if pictures == AFTER_PICTURE and kind == JOINER:
        return AFTER_PICTURE_AND_JOINER
    return NO_PICTURE
