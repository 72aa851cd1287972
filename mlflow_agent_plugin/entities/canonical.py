"""One spelling for JSON that is hashed or signed: RFC 8785 (JCS).

Two equal values always serialise to the same bytes, on any machine; what JCS cannot spell
(NaN, infinities, integers beyond 2**53, lone surrogates) is refused rather than rounded.

Most values are small and hold texts, whole numbers and booleans only: for them orjson, or where it
gives up the standard library's encoder, gives the very bytes of RFC 8785 in a fraction of the time.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, NamedTuple

import orjson
import rfc8785

from mlflow_agent_plugin.entities.json_text import json_encoder

_MAX_INTEGER = 2**53 - 1
_MAX_PLAIN_ITEMS = 1000
_LONG_NUMBER = re.compile(rb"\d{16}")
_spell_deep = json_encoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"))


class Spelled(NamedTuple):
    """A JSON value with its canonical JSON, so that whoever needs both makes it once.

    Attributes:
        value: The value; whoever holds this does not change it.
        text: Its canonical JSON.
    """

    value: Any
    text: bytes

    @classmethod
    def of(cls, value: Any) -> Spelled:
        """Spell `value`; raises as `canonical_json`."""
        return cls(value, canonical_json(value))


def canonical_json(value: Any) -> bytes:
    """Serialise `value` as RFC 8785 canonical JSON.

    Raises:
        ValueError: `value` holds something JSON cannot spell exactly (NaN, a huge integer …).

    Source: RFC 8785, JSON Canonicalization Scheme.
    """
    try:
        if _is_plain(value):
            return _spell_plain(value)
        encoded: bytes = rfc8785.dumps(value)
    except RecursionError as error:
        raise ValueError("value is nested too deeply to be hashed") from error
    except (rfc8785.CanonicalizationError, UnicodeEncodeError) as error:
        raise ValueError(f"value cannot be hashed: {error}") from error
    return encoded


def read_canonical(text: bytes, *, exact: bool = False) -> Any:
    """Return the value that `canonical_json` spelled as `text`.

    Args:
        text: Canonical JSON.
        exact: Return a float of 2^53 and more, which is spelled without a point, as a float, and
            not as a whole number, which could not be spelled again.

    Raises:
        ValueError: It is no JSON.
        RecursionError: It is nested too deeply.
    """
    if _LONG_NUMBER.search(text):
        return json.loads(text.decode(), parse_int=_read_whole if exact else None)
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:  # also of what is nested too deeply for it
        return json.loads(text.decode())


def _read_whole(digits: str) -> int | float:
    number = int(digits)
    return number if abs(number) <= _MAX_INTEGER else float(number)


def _spell_plain(value: Any) -> bytes:
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # nested too deeply for it, or a lone surrogate
        return _spell_deep(value).encode()


def _is_plain(value: Any) -> bool:
    """Tell whether RFC 8785 and the standard library spell `value` alike.

    Not so for floats, and for keys outside ASCII (RFC 8785 sorts by UTF-16). A value that is large,
    or that holds itself, is not looked through.
    """
    left = [value]
    count = 0
    while left:
        item = left.pop()
        kind = type(item)
        if kind is dict:
            count += len(item)
            if count > _MAX_PLAIN_ITEMS:
                return False
            for key in item:
                if type(key) is not str or not key.isascii():
                    return False
            left.extend(item.values())
        elif kind is list:
            count += len(item)
            if count > _MAX_PLAIN_ITEMS:
                return False
            left.extend(item)
        elif kind is int:
            if not -_MAX_INTEGER <= item <= _MAX_INTEGER:
                return False
        elif kind is not str and kind is not bool and item is not None:
            return False
    return True


def sha256_digest(data: bytes) -> str:
    """Return ``sha256:<hex>`` of `data`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def sha256_of_json(value: Any) -> str:
    """Return ``sha256:<hex>`` of the canonical JSON of `value`; raises as `canonical_json`."""
    return sha256_digest(canonical_json(value))
