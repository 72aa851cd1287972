"""Which of the offered options a user picks in their own words."""

from __future__ import annotations

from collections.abc import Sequence

from mlflow_agent_plugin.foundation.planner.words import find_phrase, fold

_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth")
_YES = ("yes", "yeah", "yep", "that's right", "that is right", "correct", "exactly")
# fmt: off
_FILLER = frozenset({
    "a", "an", "and", "at", "by", "do", "for", "from", "i", "in", "is", "it", "my", "no", "not",
    "of", "on", "or", "please", "that", "the", "this", "to", "was", "what", "with", "you",
})
_AROUND_A_NUMBER = frozenset({
    "i", "it", "it's", "is", "the", "this", "one", "option", "number", "please", "mean", "meant",
    "yes", "think",
})
# fmt: on
_SHARE = 0.6


def choose_option(text: str, titles: Sequence[str]) -> int | None:
    """Return the index of the option `text` picks, None if it picks none or several.

    A number or ordinal picks by position, "yes" picks the only option, and words pick the one
    option most of whose words they hold.
    """
    words = fold(text)
    if not words:
        return None
    picked = _positions(words, len(titles))
    if len(picked) == 1:
        return picked.pop()
    if len(titles) == 1 and any(find_phrase(words, phrase) for phrase in _YES):
        return 0
    shares = [_share(words, fold(title)) for title in titles]
    best = max(shares, default=0.0)
    if best < _SHARE or shares.count(best) > 1:
        return None
    return shares.index(best)


def _share(words: Sequence[str], title: Sequence[str]) -> float:
    wanted = [word for word in title if word not in _FILLER]
    return sum(word in words for word in wanted) / len(wanted) if wanted else 0.0


def _positions(words: Sequence[str], count: int) -> set[int]:
    """Return the positions `words` names, if they do nothing else ("my second card" does)."""
    picked = set()
    for word in words:
        if word in _ORDINALS and _ORDINALS.index(word) < count:
            picked.add(_ORDINALS.index(word))
        elif word.isdecimal() and 1 <= int(word) <= count:
            picked.add(int(word) - 1)
        elif word == "last" and count:
            picked.add(count - 1)
        elif word not in _AROUND_A_NUMBER:
            return set()
    return picked
