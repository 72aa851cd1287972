"""Seals: this registry's signature over a row that decides something.

Whoever edits the database past the registry does not hold its key: a changed row no longer fits its
seal and is refused by everything that would rely on it. A deleted row leaves a gap that the
history's numbers and the audit show.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from mlflow_agent_plugin.entities import canonical_json, sha256_digest
from mlflow_agent_plugin.errors import IntegrityError
from mlflow_agent_plugin.trust.keys import KeyPurpose, KeyStore, SigningKey, verify_signature

LONG_CHARS = 100


class Sealer:
    """Seals rows with this machine's key, and checks seals of every key trusted for audit."""

    def __init__(self, keys: KeyStore | None = None) -> None:
        self._keys = keys or KeyStore()
        self._signing: SigningKey | None = None
        self._trusted: Mapping[str, Any] | None = None

    @property
    def key(self) -> SigningKey:
        """The registry's own key."""
        if self._signing is None:
            self._signing = self._keys.signing_key()
        return self._signing

    def seal(self, table: str, row: Mapping[str, Any]) -> str:
        """Return the seal of `row`: key id and signature."""
        signature = self.key.sign(_bytes(table, row))
        return f"{self.key.key_id}:{base64.b64encode(signature).decode('ascii')}"

    def check(self, table: str, row: Mapping[str, Any]) -> None:
        """Check the seal of `row`.

        Raises:
            IntegrityError: The row is not what the registry wrote, or its key is not trusted (now).
        """
        problem = self._problem(table, row)
        if problem is not None:
            raise IntegrityError(
                problem,
                where=f"{table}: {row.get('name') or row.get('request_id')}",
                hint="Restore the row from a backup, and look at the audit.",
            )

    def _problem(self, table: str, row: Mapping[str, Any]) -> str | None:
        if self._trusted is None:
            self._trusted = self._keys.trusted_keys(KeyPurpose.AUDIT)
        key_id, _, encoded = str(row.get("seal") or "").partition(":")
        key = self._trusted.get(key_id)
        if key is None:
            return "a row was sealed by a key this registry does not trust"
        try:
            signature = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            return "a row's seal is malformed"
        if not verify_signature(key, signature, _bytes(table, row)):
            return "a row was changed past the registry: its seal does not fit"
        return None


def _bytes(table: str, row: Mapping[str, Any]) -> bytes:
    return canonical_json(
        {"table": table, "row": {name: _short(row[name]) for name in row if name != "seal"}}
    )


def _short(value: Any) -> Any:
    """Stand in for a long text by its digest: spelling it in canonical JSON takes far longer."""
    if isinstance(value, str) and len(value) > LONG_CHARS:
        return [sha256_digest(value.encode("utf-8"))]
    return value
