"""One spelling for JSON that is hashed or signed: RFC 8785 (JCS).

Two equal values always serialise to the same bytes, on any machine; what JCS cannot spell
(NaN, infinities, integers beyond 2**53, lone surrogates) is refused rather than rounded.
"""

from __future__ import annotations

import hashlib
from typing import Any

import rfc8785


def canonical_json(value: Any) -> bytes:
    """Serialise `value` as RFC 8785 canonical JSON.

    Raises:
        ValueError: `value` holds something JSON cannot spell exactly (NaN, a huge integer …).

    Source: RFC 8785, JSON Canonicalization Scheme.
    """
    try:
        encoded: bytes = rfc8785.dumps(value)
    except RecursionError as error:
        raise ValueError("value is nested too deeply to be hashed") from error
    except (rfc8785.CanonicalizationError, UnicodeEncodeError) as error:
        raise ValueError(f"value cannot be hashed: {error}") from error
    return encoded


def sha256_digest(data: bytes) -> str:
    """Return ``sha256:<hex>`` of `data`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def sha256_of_json(value: Any) -> str:
    """Return ``sha256:<hex>`` of the canonical JSON of `value`; raises as `canonical_json`."""
    return sha256_digest(canonical_json(value))
