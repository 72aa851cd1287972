"""The results table: what became of every case of a suite.

Rules:
- One case a line, canonical JSON (RFC 8785), sorted by case id, no times: the same cases give the
  same bytes, and one digest, wherever and in whatever order they ran.
- A case id stands once.
- A file is written whole or not at all.
- What JSON cannot spell exactly (in a call's arguments, say) is replaced by a note that says so.
"""

from __future__ import annotations

import itertools
import json
import os
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mlflow_agent_plugin.entities import canonical_json, sha256_digest
from mlflow_agent_plugin.errors import EvidenceError
from mlflow_agent_plugin.trust.spelling import plain


class CaseResult(BaseModel):
    """What became of one case.

    Attributes:
        text: What the user said (the turns, joined).
        outcome: A value of `Outcome`: how the last turn ended.
        success: Every expectation of the case held.
        failures: One sentence for each expectation that did not.
        calls: Each tool call in order: ``tool``, ``arguments``, ``status``.
        unsafe_calls: Executed calls the case forbids.
        calls_expected: Calls the case asks for.
        calls_matched: Those that were made as asked.
        arguments_expected: Arguments the case says something about.
        arguments_matched: Those that were right.
        steps: Graph steps taken.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    case_id: str = Field(min_length=1)
    suite: str = Field(min_length=1)
    text: str = ""
    outcome: str
    expected_outcome: str | None = None
    success: bool
    failures: list[str] = Field(default_factory=list)
    intent: str | None = None
    expected_intent: str | None = None
    confidence: float | None = Field(default=None, ge=0, le=1)
    calls: list[dict[str, Any]] = Field(default_factory=list)
    unsafe_calls: int = Field(default=0, ge=0)
    calls_expected: int = Field(default=0, ge=0)
    calls_matched: int = Field(default=0, ge=0)
    arguments_expected: int = Field(default=0, ge=0)
    arguments_matched: int = Field(default=0, ge=0)
    escalated: bool = False
    refused: bool = False
    clarified: bool = False
    input_tokens: int = Field(default=0, ge=0)
    output_tokens: int = Field(default=0, ge=0)
    cost_usd: float = Field(default=0.0, ge=0)
    steps: int = Field(default=0, ge=0)
    tags: list[str] = Field(default_factory=list)


def write_results(rows: Iterable[CaseResult], path: str | Path) -> str:
    """Write the results table; return its digest.

    Raises:
        EvidenceError: Two rows have one case id, or the file cannot be written.
    """
    path = Path(path)
    ordered = sorted(rows, key=lambda row: row.case_id)
    for before, row in itertools.pairwise(ordered):
        if before.case_id == row.case_id:
            raise EvidenceError(f"case {row.case_id!r} stands twice in the results")
    data = b"".join(canonical_json(plain(row.model_dump(mode="python"))) + b"\n" for row in ordered)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        draft.write_bytes(data)
        os.replace(draft, path)  # noqa: PTH105 - the same, and atomic by its documentation
    except OSError as error:
        raise EvidenceError(
            f"cannot be written: {error.strerror or error}", where=str(path)
        ) from error
    finally:
        draft.unlink(missing_ok=True)
    return sha256_digest(data)


def read_results(path: str | Path) -> list[CaseResult]:
    """Read a results table.

    Raises:
        EvidenceError: It is missing or malformed; the error names the line.
    """
    return parse_results(_bytes(path), where=str(path))


def results_digest(path: str | Path) -> str:
    """Return the digest of a results table's bytes.

    Raises:
        EvidenceError: It cannot be read.
    """
    return sha256_digest(_bytes(path))


def parse_results(data: bytes, *, where: str = "results.jsonl") -> list[CaseResult]:
    """Read a results table from its bytes; raises as `read_results`."""
    if data and not data.endswith(b"\n"):
        raise EvidenceError("the last line is cut off", where=where)
    rows: list[CaseResult] = []
    for number, line in enumerate(data.split(b"\n")[:-1], 1):
        place = f"{where}:{number}"
        try:
            rows.append(CaseResult.model_validate(json.loads(line)))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(str(part) for part in first["loc"])
            raise EvidenceError(f"{field}: {first['msg']}", where=place) from error
        except (ValueError, RecursionError) as error:
            raise EvidenceError("is not a line of JSON", where=place) from error
        if len(rows) > 1 and rows[-2].case_id >= rows[-1].case_id:
            raise EvidenceError("case ids are not sorted, or stand twice", where=place)
    return rows


def by_case(rows: Sequence[CaseResult]) -> dict[str, CaseResult]:
    """Return the rows by case id."""
    return {row.case_id: row for row in rows}


def _bytes(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise EvidenceError(
            f"cannot be read: {error.strerror or error}", where=str(path)
        ) from error
