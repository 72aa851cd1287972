"""A statement in a signed DSSE envelope, and back; which statement it is, the caller says.

Rules:
- Nothing in an envelope is read before a trusted key's signature was found to fit.
- Opening gives the statement or raises; there is no third way and no boolean to forget.

Source: DSSE 1.0.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from mlflow_agent_plugin.entities import canonical_json
from mlflow_agent_plugin.errors import EvidenceError
from mlflow_agent_plugin.trust.evidence.format import Digest
from mlflow_agent_plugin.trust.keys import SigningKey

PAYLOAD_TYPE = "application/vnd.in-toto+json"
MAX_PAYLOAD_CHARS = 1_000_000
MAX_SIGNATURES = 16


def seal(statement: Mapping[str, Any], key: SigningKey) -> dict[str, Any]:
    """Return a checked statement in a signed DSSE envelope, JSON-ready."""
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import CryptoSigner, SSlibKey

    signer = CryptoSigner(key.private_key, SSlibKey.from_crypto(key.public_key, keyid=key.key_id))
    envelope = Envelope(canonical_json(dict(statement)), PAYLOAD_TYPE, {})
    envelope.sign(signer)
    return dict(envelope.to_dict())


def unseal(
    envelope: Mapping[str, Any], trusted_keys: Mapping[str, Ed25519PublicKey]
) -> dict[str, Any]:
    """Return the JSON object in an envelope a trusted key signed; its content is unchecked.

    Raises:
        EvidenceError: It is malformed, unsigned, altered, or signed by nobody trusted.
    """
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import Error as SigningError
    from securesystemslib.signer import SSlibKey

    check_envelope(envelope)
    try:
        # A copy: securesystemslib writes into what it reads.
        parsed = Envelope.from_dict(copy.deepcopy(dict(envelope)))
    except Exception as error:
        raise EvidenceError("the envelope's base64 or signatures are malformed") from error
    signers = sorted(parsed.signatures)
    keys = [
        SSlibKey.from_crypto(trusted_keys[key_id], keyid=key_id)
        for key_id in signers
        if key_id in trusted_keys
    ]
    if not keys:
        raise EvidenceError(
            f"signed by a key that is not trusted ({', '.join(signers)[:200]})",
            hint="Put the signer's public key into trusted/evidence, if you trust it.",
        )
    try:
        parsed.verify(keys, threshold=1)
    except SigningError as error:
        raise EvidenceError("the signature does not fit: the evidence was altered") from error
    try:
        statement = json.loads(parsed.payload, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise EvidenceError("the signed payload is not JSON") from error
    if not isinstance(statement, dict):
        raise EvidenceError("the signed payload is not a JSON object")
    return statement


def check_envelope(envelope: Mapping[str, Any]) -> None:
    """Check the shape of a DSSE envelope.

    Raises:
        EvidenceError: It has another one.
    """
    if not isinstance(envelope, Mapping) or set(envelope) != {
        "payload",
        "payloadType",
        "signatures",
    }:
        raise EvidenceError("is not a DSSE envelope")
    if envelope["payloadType"] != PAYLOAD_TYPE:
        raise EvidenceError(f"the payload's type is not {PAYLOAD_TYPE}")
    payload, signatures = envelope["payload"], envelope["signatures"]
    if not isinstance(payload, str) or len(payload) > MAX_PAYLOAD_CHARS:
        raise EvidenceError("the payload is no text, or too large")
    if not isinstance(signatures, list) or not 0 < len(signatures) <= MAX_SIGNATURES:
        raise EvidenceError(f"the envelope needs 1 to {MAX_SIGNATURES} signatures")
    for signature in signatures:
        if (
            not isinstance(signature, Mapping)
            or set(signature) != {"keyid", "sig"}
            or not all(isinstance(value, str) for value in signature.values())
        ):
            raise EvidenceError("a signature of the envelope is malformed")


def to_digest(value: str, where: str) -> dict[str, str]:
    """Return ``sha256:…`` as in-toto spells it.

    Raises:
        EvidenceError: It is something else; the error names `where`.
    """
    algorithm, _, digits = value.partition(":")
    if algorithm != "sha256" or len(digits) != 64:
        raise EvidenceError("is not sha256: and 64 hex digits", where=where)
    return {"sha256": digits}


def from_digest(digest: Digest) -> str:
    """Return an in-toto digest as ``sha256:…``."""
    return f"sha256:{digest.sha256}"


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a field stands twice")
    return found
