"""What a session has seen, sorted by who wrote it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from mlflow_agent_plugin.core.provenance.spelling import (
    BETWEEN,
    counted_in,
    fields_in,
    is_count,
    is_field,
    mentions,
    normalise,
    vouches,
)

_RECORD_ID = re.compile(r"(?:^|_)(?:id|uuid)_?$")
_FIELD_NAME = re.compile(r"[A-Za-z_]{1,40}")
_MINTED = re.compile(r"\d{1,12}|[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")


class Text:
    """Pieces of text of one origin, spelled once for each way of looking for a value in them.

    Args:
        pieces: The pieces as they came; no value is found across two of them.
    """

    def __init__(self, pieces: Iterable[str]) -> None:
        self._raw = tuple(pieces)
        self.pieces = tuple(filter(None, map(normalise, self._raw)))
        self._whole = BETWEEN.join(self.pieces)

    def __bool__(self) -> bool:
        return bool(self.pieces)

    def vouches(self, needle: str) -> bool:
        """Tell whether the text holds the value, and not only as a part of another one."""
        return needle in self._whole and vouches(
            needle, self._counted if is_count(needle) else self._whole
        )

    def mentions(self, needle: str) -> bool:
        """Tell whether the text holds the value in any way."""
        return needle in self._whole and mentions(
            needle, self._counted if is_count(needle) else self._whole
        )

    def has_field(self, needle: str) -> bool:
        """Tell whether a piece of the text is the value, or holds it as a field."""
        if needle not in self._whole:
            return False
        if needle in self.pieces:
            return True
        # a colon ends a field, but not in "13:30"
        return (not is_count(needle) or self.vouches(needle)) and is_field(needle, self._fields)

    @cached_property
    def _fields(self) -> str:
        return BETWEEN.join(map(fields_in, self._raw))

    @cached_property
    def _counted(self) -> str:
        return BETWEEN.join(map(counted_in, self._raw))


class VouchedText(NamedTuple):
    """Pieces of an output that third parties did not write.

    Attributes:
        text: The pieces.
        told: How many of `SeenTexts.told` the tools of the session had been told by then; the
            pieces vouch for none of these.
    """

    text: Text
    told: int = 0


@dataclass(frozen=True)
class SeenTexts:
    """Every text of a session, by who wrote it; `SeenTexts.of` makes it from raw ones.

    Attributes:
        user: What the user wrote.
        trusted: What trusted tools returned, in order.
        untrusted: What third parties may have written.
        records: Values of fields of untrusted outputs that third parties cannot write.
        told: Values of arguments that were neither the user's nor trusted, in the order of calls.
    """

    user: Sequence[Text] = ()
    trusted: Sequence[VouchedText] = ()
    untrusted: Sequence[Text] = ()
    records: Sequence[VouchedText] = ()
    told: Sequence[Text] = ()

    @classmethod
    def of(
        cls,
        *,
        user: Sequence[str] = (),
        trusted: Sequence[tuple[str, int]] = (),
        untrusted: Sequence[str] = (),
        records: Sequence[tuple[str, int]] = (),
        told: Sequence[str] = (),
    ) -> SeenTexts:
        """Take raw texts; those that are vouched for are (text, told)."""
        return cls(
            user=[Text([text]) for text in user],
            trusted=[VouchedText(Text([text]), count) for text, count in trusted],
            untrusted=[Text([text]) for text in untrusted],
            records=[VouchedText(Text([text]), count) for text, count in records],
            told=[Text([text]) for text in told],
        )

    @property
    def untrusted_seen(self) -> bool:
        """Whether there is any text that third parties may have written."""
        return any(self.untrusted)


class TextReader:
    """Reads texts, each once: every call of a turn looks at the session's texts.

    It remembers them, so it lives no longer than a turn.
    """

    def __init__(self) -> None:
        self._texts: dict[str, Text] = {}
        self._outputs: dict[tuple[str, tuple[str, ...] | None], tuple[Text, list[Text]]] = {}

    def text(self, text: str) -> Text:
        """Return `text`, read."""
        known = self._texts.get(text)
        if known is None:
            known = self._texts[text] = Text([text])
        return known

    def output(self, content: Any, trusted_fields: Sequence[str] | None) -> tuple[Text, list[Text]]:
        """Return (texts, records) of a tool message's content.

        Args:
            content: Of the message.
            trusted_fields: As `output_texts`; None for a tool whose outputs are all trusted.
        """
        if not isinstance(content, str):
            return _read(content, trusted_fields)
        key = (content, None if trusted_fields is None else tuple(trusted_fields))
        known = self._outputs.get(key)
        if known is None:
            known = self._outputs[key] = _read(content, trusted_fields)
        return known


def _read(content: Any, trusted_fields: Sequence[str] | None) -> tuple[Text, list[Text]]:
    output = parse_content(content)
    if trusted_fields is None:
        return Text(plain_texts(output)), []
    texts, records = output_texts(output, trusted_fields)
    return Text(texts), [Text([text]) for text in records]


def output_texts(output: Any, trusted_fields: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split an untrusted tool's output into (texts anybody may have written, records).

    Records are the values below a field named in `trusted_fields`, and the ids of records: a field
    named ``id``, ``…_id`` or ``uuid`` whose whole value is a number or a UUID. Systems mint these,
    and they hold no name, address or instruction. Keys of an object are texts like any other, but
    for plain field names.
    """
    texts: list[str] = []
    records: list[str] = []
    for name, leaf, vouched in _leaves(output, frozenset(trusted_fields)):
        text = _shown(leaf)
        minted = _RECORD_ID.search(name.casefold()) and _MINTED.fullmatch(text.casefold())
        (records if vouched or minted else texts).append(text)
    return texts, records


def plain_texts(value: Any) -> list[str]:
    """Return every key and scalar of a JSON value as text."""
    return [_shown(leaf) for _, leaf, _ in _leaves(value, frozenset())]


def parse_content(content: Any) -> Any:
    """Return the JSON value of a message's content, or the content itself if it is none."""
    if not isinstance(content, str):
        return content
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return content


def _leaves(value: Any, vouched: frozenset[str]) -> Iterator[tuple[str, Any, bool]]:
    """Yield (field name, scalar, below a vouched field) for all of `value`.

    Keys that are no plain field names count as scalars: they are data.
    """
    stack: list[tuple[str, Any, bool]] = [("", value, False)]
    while stack:
        name, item, below = stack.pop()
        if isinstance(item, str):
            yield name, item, below
        elif isinstance(item, (dict, Mapping)):
            for key, part in item.items():
                if not _FIELD_NAME.fullmatch(str(key)):
                    yield "", str(key), below
                stack.append((str(key), part, below or key in vouched))
        elif isinstance(item, list | tuple):
            stack.extend((name, part, below) for part in item)
        elif item is not None and not isinstance(item, bool):
            yield name, item, below


def _shown(leaf: Any) -> str:
    return leaf if isinstance(leaf, str) else json.dumps(leaf)
