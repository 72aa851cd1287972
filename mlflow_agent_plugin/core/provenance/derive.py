"""Look for the values of one call in everything the session has seen; rules in the package."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from mlflow_agent_plugin.core.provenance.spelling import (
    is_distinctive,
    normalise,
    parts_of,
    words_of,
)
from mlflow_agent_plugin.core.provenance.texts import SeenTexts
from mlflow_agent_plugin.entities import Provenance

_WORST_FIRST = (Provenance.UNTRUSTED, Provenance.MODEL, Provenance.TRUSTED, Provenance.USER)


def derive_provenance(arguments: Mapping[str, Any], seen: SeenTexts) -> dict[str, str]:
    """Return for each argument the `Provenance` value of where it came from.

    Args:
        arguments: Arguments of one call, JSON values.
        seen: Every text of the session so far.
    """
    places = _Places(seen)
    return {name: _of(value, places).value for name, value in arguments.items()}


class _Places(NamedTuple):
    """`SeenTexts`, to look for values in."""

    seen: SeenTexts

    def place(self, spellings: Iterable[str]) -> Provenance:
        """Return where one value, in any of its spellings, was first found."""
        needles = [text for text in spellings if text]
        seen = self.seen
        for needle in needles:
            if self.is_users(needle):
                return Provenance.USER
        if any(
            text.has_field(needle) and not self._was_told(needle, told)
            for text, told in seen.trusted
            for needle in needles
        ):
            return Provenance.TRUSTED
        if any(text.mentions(needle) for text in seen.untrusted for needle in needles):
            return Provenance.UNTRUSTED
        if any(
            needle in text.pieces and not self._was_told(needle, told)
            for text, told in seen.records
            for needle in needles
        ):
            return Provenance.TRUSTED
        if any(self._is_quoted(needle) for needle in needles):
            return Provenance.UNTRUSTED
        return Provenance.MODEL

    def is_users(self, needle: str) -> bool:
        """Tell whether the user wrote it."""
        for text in self.seen.user:  # noqa: SIM110 - `any` of a generator takes twice as long
            if text.vouches(needle):
                return True
        return False

    def _was_told(self, needle: str, told: int) -> bool:
        return any(text.mentions(needle) for text in self.seen.told[:told])

    def _is_quoted(self, needle: str) -> bool:
        """Tell whether a field that counts names the value in its prose."""
        return any(
            text.mentions(needle) and not self._was_told(needle, told)
            for text, told in (*self.seen.trusted, *self.seen.records)
        )


def _of(value: Any, places: _Places) -> Provenance:
    if isinstance(value, Mapping):
        keys = (_key(str(key), places) for key in value)
        return _worst([*(_of(part, places) for part in value.values()), *filter(None, keys)])
    if isinstance(value, list | tuple):
        return _worst(_of(part, places) for part in value)
    if value is None or isinstance(value, bool):
        return Provenance.MODEL
    parts = parts_of(value)
    found = places.place(parts[0]) if len(parts) == 1 else _worst(map(places.place, parts))
    if found is Provenance.MODEL and isinstance(value, str):
        return _of_words(value, places)
    return found


def _of_words(value: str, places: _Places) -> Provenance:
    words = words_of(value)
    if len(words) > 1 and all(places.is_users(word) for word in words):
        return Provenance.USER
    if any(_is_foreign(word, places) for word in words):
        return Provenance.UNTRUSTED
    return Provenance.MODEL


def _is_foreign(word: str, places: _Places) -> bool:
    return is_distinctive(word) and places.place({word}) is Provenance.UNTRUSTED


def _key(key: str, places: _Places) -> Provenance | None:
    """Return ``untrusted`` for a key that only untrusted text names; other keys are field names."""
    return Provenance.UNTRUSTED if _is_foreign(normalise(key), places) else None


def _worst(labels: Iterable[Provenance]) -> Provenance:
    found = set(labels)
    return next((label for label in _WORST_FIRST if label in found), Provenance.MODEL)
