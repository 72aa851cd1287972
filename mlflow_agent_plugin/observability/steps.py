"""The steps of a request: one record per model call, tool call and retrieval.

Rules:
- The serving process keeps a request's steps as compact JSON beside its row, in the trace's
  tag `STEPS_KEY`; the table of steps is built from there, without reading a single span.
- A step says what happened and how long it took. It holds no text: no arguments, no outputs, no
  messages.
- A request with more steps than fit keeps the first ones, and says how many it had (`steps`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.errors import DataError
from mlflow_agent_plugin.observability.schema import MAX_SUMMARY_CHARS, Column, schema_of

if TYPE_CHECKING:
    import pyarrow as pa

STEPS_SCHEMA_VERSION = 1
STEPS_KEY = "agent.steps"
"""Trace tag that holds a request's steps."""

STEP_KINDS: tuple[str, ...] = ("model", "tool", "retrieval")

STEP_COLUMNS: tuple[Column, ...] = (
    Column("trace_id", "string", "trace of the request", required=True),
    Column("step", "int64", "number of the step in its request, from 1", required=True),
    Column("steps", "int64", "steps the request had, kept or not", required=True),
    Column("event_time", "timestamp", "when the request happened, UTC", required=True),
    Column("agent", "string", "agent name", required=True),
    Column("agent_digest", "string", "digest of the bundle that answered", required=True),
    Column("version", "string", "registered model version, if the server knew it"),
    Column("session_id", "string", "conversation the request belongs to", required=True),
    Column("tenant", "string", "tenant of the user", required=True),
    Column("kind", "string", f"one of {', '.join(STEP_KINDS)}", required=True),
    Column("name", "string", "tool or model", required=True),
    Column("status", "string", "what became of it (entities.CallStatus)", required=True),
    Column("decision", "string", "what the policies said (entities.DecisionValue); tools only"),
    Column("error", "string", "kind of failure: denied, failed, invalid, in_doubt …"),
    Column("call_id", "string", "id of the call, as in the audit"),
    Column("tries", "int64", "times the tool was called"),
    Column("started", "float64", "seconds after the request began"),
    Column("seconds", "float64", "wall-clock time of the step, seconds"),
    Column("input_tokens", "int64", "tokens into the model"),
    Column("output_tokens", "int64", "tokens out of the model"),
    Column("cost_usd", "float64", "cost in US dollars, as the tool's contract says"),
)
STEP_COLUMN_NAMES: tuple[str, ...] = tuple(column.name for column in STEP_COLUMNS)
_OF_REQUEST = ("event_time", "agent", "agent_digest", "version", "session_id", "tenant")
_SHORT = {
    "kind": "k", "name": "n", "status": "s", "decision": "d", "error": "e", "call_id": "c",
    "tries": "t", "started": "o", "seconds": "w", "input_tokens": "i", "output_tokens": "u",
    "cost_usd": "x",
}  # fmt: skip
_COUNTS = frozenset(column.name for column in STEP_COLUMNS if column.kind == "int64")
_NUMBERS = frozenset(column.name for column in STEP_COLUMNS if column.kind == "float64")


@dataclass
class Step:
    """One step while and after it runs; fields as in `STEP_COLUMNS`."""

    kind: str
    name: str
    status: str = "executed"
    decision: str | None = None
    error: str | None = None
    call_id: str | None = None
    tries: int | None = None
    started: float | None = None
    seconds: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None


def summary_from_steps(steps: Sequence[Step]) -> str:
    """Return steps as the compact JSON that goes into the trace's tag `STEPS_KEY`."""
    kept = [_shortened(step) for step in steps]
    while True:
        text = json.dumps(
            {"schema": STEPS_SCHEMA_VERSION, "steps": len(steps), "kept": kept},
            separators=(",", ":"),
        )
        if len(text) <= MAX_SUMMARY_CHARS or not kept:
            return text
        kept = kept[: len(kept) * MAX_SUMMARY_CHARS // (len(text) + 1)]


def rows_from_steps(summary: str, request: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a request's steps.

    Args:
        summary: What `summary_from_steps` gave.
        request: The request's monitoring row.

    Raises:
        DataError: The summary makes no sense, or comes from a newer version.
    """
    where = f"trace {request['trace_id']}, tag {STEPS_KEY}"
    try:
        document = json.loads(summary)
        if document["schema"] > STEPS_SCHEMA_VERSION:
            raise DataError(
                f"has schema {document['schema']!r}, this version reads up to "
                f"{STEPS_SCHEMA_VERSION}",
                where=where,
                hint="Upgrade mlflow-agent-plugin where the table is built.",
            )
        total = int(document["steps"])
        rows = []
        for number, short in enumerate(document["kept"], 1):
            row = {name: _value(name, short.get(key)) for name, key in _SHORT.items()}
            if row["kind"] not in STEP_KINDS or not row["name"] or not row["status"]:
                raise DataError(f"step {number} lacks kind, name or status", where=where)
            row |= {name: request[name] for name in _OF_REQUEST}
            row |= {"trace_id": request["trace_id"], "step": number, "steps": total}
            rows.append(row)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"has a value that makes no sense: {error}", where=where) from error
    return rows


def step_schema() -> pa.Schema:
    """Return the Arrow schema of the table of steps, its version in the metadata."""
    return schema_of(STEP_COLUMNS, STEPS_SCHEMA_VERSION)


def steps_to_arrow(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Return rows of steps as an Arrow table."""
    import pyarrow as pa

    return pa.Table.from_pylist(
        [{name: row.get(name) for name in STEP_COLUMN_NAMES} for row in rows], schema=step_schema()
    )


def _shortened(step: Step) -> dict[str, Any]:
    short = {}
    for name, key in _SHORT.items():
        value = getattr(step, name)
        if value is None:
            continue
        if isinstance(value, float):
            if not math.isfinite(value):
                continue
            value = round(value, 6)
        short[key] = value[:200] if isinstance(value, str) else value
    return short


def _value(name: str, value: Any) -> Any:
    if value is None:
        return None
    if name in _COUNTS:
        if isinstance(value, bool) or int(value) != value or value < 0:
            raise ValueError(f"{value!r} is not a count")
        return int(value)
    if name in _NUMBERS:
        number = float(value)
        return number if math.isfinite(number) else None
    return str(value)
