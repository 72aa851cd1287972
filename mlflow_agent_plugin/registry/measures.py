"""Tables of evidence in numbers: recomputed from what was signed, remembered by its hash.

Rules:
- A table counts only if its bytes have the digest that was signed.
- What was read once is remembered by the hash of what was read: it is never out of date.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlflow_agent_plugin.entities import sha256_of_json
from mlflow_agent_plugin.errors import EvidenceError
from mlflow_agent_plugin.registry.facts import LoadLevelFact, Measure

MAX_RESULTS_BYTES = 256 * 1024**2
MAX_KNOWN = 64


@dataclass(frozen=True)
class Measures:
    """A results table in numbers."""

    metrics: Mapping[str, Measure]
    passed: Mapping[str, Mapping[str, bool]]
    cases: int
    unsafe_calls: int


def read_measures(packed: bytes, digest: str) -> Measures:
    """Return what a compressed results table says, recomputed.

    Raises:
        EvidenceError: It is malformed, or not the one with `digest`.
    """
    key = (hashlib.sha256(packed).hexdigest(), digest)
    known = _known.get(key)
    if known is None:
        known = _read_measures(packed, digest)
        while len(_known) >= MAX_KNOWN:
            _known.pop(next(iter(_known)), None)
        _known[key] = known
    return known


_known: dict[tuple[str, str], Measures] = {}
"""Results read lately, by the hash of what was read and the digest it fits: never out of date."""


def _read_measures(packed: bytes, digest: str) -> Measures:
    from mlflow_agent_plugin.trust.evidence import compute_metrics, parse_results

    data = unpack(packed)
    if "sha256:" + hashlib.sha256(data).hexdigest() != digest:
        raise EvidenceError("the stored results are not the ones that were signed")
    rows = parse_results(data)
    metrics = {
        name: Measure(metric.value, metric.low, metric.n, metric.successes)
        for name, metric in compute_metrics(rows).items()
    }
    passed = {
        "task_success": {row.case_id: row.success for row in rows},
        "intent_accuracy": {
            row.case_id: row.intent == row.expected_intent
            for row in rows
            if row.expected_intent is not None
        },
        "outcome_accuracy": {
            row.case_id: row.outcome == row.expected_outcome
            for row in rows
            if row.expected_outcome is not None
        },
    }
    return Measures(metrics, passed, len(rows), sum(row.unsafe_calls for row in rows))


def unpack(packed: bytes) -> bytes:
    """Return the bytes of a compressed results table.

    Raises:
        EvidenceError: They are malformed or unreasonably large.
    """
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(packed, MAX_RESULTS_BYTES)
    except zlib.error as error:
        raise EvidenceError("the stored results are damaged") from error
    if unpacker.unconsumed_tail:
        raise EvidenceError("the stored results are too large")
    return data


def read_levels(packed: bytes, signed: Any) -> tuple[LoadLevelFact, ...]:
    """Return the levels of a compressed requests table, recomputed.

    Raises:
        EvidenceError: It is malformed, or not the one that was signed.
    """
    from mlflow_agent_plugin.trust.evidence import check_load

    key = (hashlib.sha256(packed).hexdigest(), sha256_of_json(repr(signed)))
    known = _known_levels.get(key)
    if known is None:
        known = tuple(
            LoadLevelFact(level.concurrency, level.requests, level.errors, level.p95_seconds)
            for level in check_load(signed, unpack(packed))
        )
        while len(_known_levels) >= MAX_KNOWN:
            _known_levels.pop(next(iter(_known_levels)), None)
        _known_levels[key] = known
    return known


_known_levels: dict[tuple[str, str], tuple[LoadLevelFact, ...]] = {}
"""As `_known`, for load tests."""
