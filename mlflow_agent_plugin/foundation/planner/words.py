"""Words of a message, for matching phrases and counting tokens."""

from __future__ import annotations

import re
import unicodedata

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
_TOKEN = re.compile(r"\w+|[^\w\s]")


def fold(text: str) -> list[str]:
    """Return the words of `text` without case, punctuation and typographic apostrophes."""
    plain = unicodedata.normalize("NFKC", text).replace("\u2019", "'").casefold()
    return _WORD.findall(plain)


def find_phrase(words: list[str], phrase: str) -> list[tuple[int, int]]:
    """Return where the words of `phrase` stand in `words`, as (first, after last)."""
    wanted = fold(phrase)
    size = len(wanted)
    if size == 0:
        return []
    return [
        (start, start + size)
        for start in range(len(words) - size + 1)
        if words[start : start + size] == wanted
    ]


def count_tokens(text: str) -> int:
    """Return how many words and marks `text` has.

    The planner has no tokeniser of its own; this simple count stands in for tokens in its usage
    figures. It is not comparable with the tokens of a language model.
    """
    return len(_TOKEN.findall(text))
