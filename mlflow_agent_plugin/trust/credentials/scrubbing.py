"""Finds known secret values in what a tool says, however the tool spelled them.

Rules (no I/O):
- A value is found as it is, URL-quoted, JSON- or Python-escaped, in hex, and in base64 at any of
  the three places it can begin in ("user:secret" in a header).
- Of a value with several lines each longer line counts, so that a re-wrapped key is still found.
- Values shorter than `MIN_CHARS` are not looked for: they would be found everywhere.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, quote_plus

MIN_CHARS = 6
_LINE_CHARS = 16
MASK = "<SECRET>"

_ESCAPED = re.compile(r"%[0-9A-F]{2}")


class Scrubber:
    """Replaces known values by ``<SECRET>``.

    Args:
        values: The secrets.
    """

    def __init__(self, values: Iterable[str]) -> None:
        # Searched as they are: a compiled pattern would stay in `re`'s cache after the call.
        spellings = {spelling for value in values for spelling in _spellings(value)}
        self._spellings = sorted(spellings, key=lambda spelling: (-len(spelling), spelling))

    def __repr__(self) -> str:
        """Say nothing about the values."""
        return "Scrubber()"

    def text(self, text: str) -> str:
        """Return `text` without the values."""
        for spelling in self._spellings:
            if spelling in text:
                text = text.replace(spelling, MASK)
        return text

    def knows(self, text: str) -> bool:
        """Return whether a value stands in `text`."""
        return any(spelling in text for spelling in self._spellings)

    def value(self, value: Any) -> Any:
        """Return a JSON value without the secrets, keys and numbers included."""
        if not self._spellings:
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.value(key): self.value(part) for key, part in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.value(part) for part in value]
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return MASK if self.knows(str(value)) else value
        return value

    def exception(self, error: BaseException) -> bool:
        """Take the values out of `error` and of what it came from, in place.

        Returns:
            Whether that worked; some exceptions keep their text where it cannot be changed.
        """
        if not self._spellings:
            return True
        clean = True
        for current in _chain(error):
            current.args = tuple(
                self.value(part) if isinstance(part, _JSON_TYPES) else self.text(str(part))
                for part in current.args
            )
            notes = getattr(current, "__notes__", None)
            if notes:
                current.__notes__ = [self.text(str(line)) for line in notes]
            clean = clean and not self.knows(f"{current} {current!r}")
        return clean


_JSON_TYPES = (str, int, float, Mapping, list, tuple, type(None))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield `error` and every exception it came from, each once."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        current = waiting.pop()
        if current is not None and id(current) not in seen:
            seen.add(id(current))
            yield current
            waiting += [current.__cause__, current.__context__]


def _spellings(value: str) -> Iterator[str]:
    lines = [line.strip() for line in value.splitlines()] if "\n" in value else []
    for part in [value, *(line for line in lines if len(line) >= _LINE_CHARS)]:
        if len(part) < MIN_CHARS:
            continue
        data = part.encode("utf-8", "surrogatepass")
        for quoted in (quote(data, safe=""), quote_plus(data), quote(data)):
            yield from {quoted, _ESCAPED.sub(lambda match: match[0].lower(), quoted)}
        yield from {part, part.strip(), data.hex(), data.hex().upper(), *_base64(data)}
        yield from {json.dumps(part)[1:-1], json.dumps(part, ensure_ascii=False)[1:-1]}
        yield repr(part)[1:-1]


def _base64(data: bytes) -> Iterator[str]:
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + data).decode()
        # Characters at both ends also carry bits of the neighbours: only those between are sure.
        sure = encoded[(0, 2, 3)[offset] : len(encoded) - (0, 3, 2)[(offset + len(data)) % 3]]
        if len(sure) >= MIN_CHARS:
            yield sure
            yield sure.replace("+", "-").replace("/", "_")
