"""The index of words: how texts go into it, and what a query looks for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from . import schema

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff"
"""Chinese characters and kana, which stand without spaces between words, and Hangul, where particles are part of the word: FTS5 would take
each run of them for one word."""
_CHARACTER = re.compile(f"[{_CJK}]")
_WORD = re.compile(rf"[{_CJK}]+|[^\W{_CJK}]+")
_QUERY = 0x0001  # FTS5_TOKENIZE_QUERY
_WORDS = 64
"""words of a query that are looked for at most"""


def spaced(text: str) -> str:
    """A text as it goes into the index: Chinese characters, kana and Hangul are words of their own."""
    return text if text.isascii() else _CHARACTER.sub(r" \g<0> ", text)


def words_of(text: str) -> list[str]:
    """What a query looks for: words, and of Chinese characters, kana and Hangul each two neighbours, as Lucene's CJKAnalyzer does."""
    words: list[str] = []
    for word in _WORD.findall(text):
        if len(word) > 1 and _CHARACTER.match(word):
            words += [f"{word[i]} {word[i + 1]}" for i in range(len(word) - 1)]
        else:
            words.append(word)
    return list(dict.fromkeys(words))[:_WORDS]


def by_words(connection: Any, text: str, top: int, filtered: str, values: Sequence[Any]) -> list[tuple[int, float]]:
    """Passages that have words of the query, and BM25 (Robertson and Zaragoza 2009, eq. 3.15; SQLite's FTS5), the highest first.

    Words in more than a third of the passages say little and take most of the time: they count only where there are no others.
    """
    words = words_of(text)
    if not words:
        return []
    telling = _telling(connection, words) or words
    # No word has quotes, and FTS5 ignores the case.
    match = " OR ".join(f'"{word}"' for word in telling)
    allowed = f" AND rowid IN (SELECT p.id FROM passages p JOIN documents d ON d.id = p.document WHERE {filtered})" if filtered else ""
    sql = f"SELECT rowid, -rank FROM words WHERE words MATCH ?{allowed} ORDER BY rank LIMIT ?"
    return list(connection.execute(sql, (match, *values, top)))


def _telling(connection: Any, words: Sequence[str]) -> list[str]:
    """The words that are in some passages, but at most in a third of them."""
    total = next(connection.execute("SELECT max(id) FROM passages"))[0] or 0
    tokenizer = connection.fts5_tokenizer(*schema.WORD_TOKENIZER)
    telling = []
    for word in words:
        counts = [
            next((count for (count,) in connection.execute("SELECT doc FROM temp.vocabulary WHERE term = ?", (term,))), 0)
            for term in tokenizer(word.encode(), _QUERY, None, include_offsets=False, include_colocated=False)
        ]
        # A phrase is in no more passages than its rarest word.
        if 0 < 3 * min(counts, default=0) <= total:
            telling.append(word)
    return telling
