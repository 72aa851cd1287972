"""Encoders of the standard library's JSON, made once.

`json.dumps` with settings of its own makes an encoder at every call, and `JSONEncoder.encode` its
part in C; for the small values of a tool call that is half of the work.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from json import encoder
from typing import Any


def json_encoder(
    *,
    ensure_ascii: bool = True,
    allow_nan: bool = True,
    sort_keys: bool = False,
    separators: tuple[str, str] = (", ", ": "),
) -> Callable[[Any], str]:
    """Return a function that spells a value as `json.dumps` does with these settings.

    A value that holds itself raises RecursionError instead of ValueError: nobody looks for it.
    """
    plain = json.JSONEncoder(
        ensure_ascii=ensure_ascii,
        allow_nan=allow_nan,
        sort_keys=sort_keys,
        separators=separators,
        check_circular=False,
    )
    make: Any = getattr(encoder, "c_make_encoder", None)
    if make is None:
        return plain.encode
    quote = encoder.encode_basestring_ascii if ensure_ascii else encoder.encode_basestring
    between, colon = separators
    chunks = make(None, plain.default, quote, None, colon, between, sort_keys, False, allow_nan)
    join = "".join
    return lambda value: join(chunks(value, 0))
