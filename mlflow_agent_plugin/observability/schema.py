"""The monitoring table's row: one per request, the same for traffic and for reference data.

Rules:
- A row is made in one place, from the agent's reply (`row_from_reply`), when the turn ends; the
  serving process stores it as the trace's tag `SUMMARY_KEY` (`summary_from_row`), and the table
  reads it back (`row_from_summary`). Evaluation runs write the very same rows as reference.
- Text is masked and the user is hashed before the row exists: neither the trace's summary nor the
  table ever holds them in the clear.
- Unknown is null, never zero or an empty string.
- `SCHEMA_VERSION` goes up when a column's meaning changes; reading a newer table is refused.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.entities import Actor, AgentReply, CallStatus, Outcome, Violation
from mlflow_agent_plugin.entities.sensitive import mask_text
from mlflow_agent_plugin.errors import DataError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

SCHEMA_VERSION = 2
"""1 had no `violations`; a file or summary of it is read with nulls there."""

SUMMARY_KEY = "agent.summary"
"""Trace tag that holds a row as compact JSON.

A tag, because MLflow's REST API cuts metadata values after 250 characters, tags after 4,096.
"""

NO_TRAFFIC_TAG = "agent.no_traffic"
"""Trace tag of requests that nobody's users made; it says what they are."""

REFERENCE_ARTIFACT = "monitoring/reference.parquet"
"""Where an evaluation run keeps the reference rows of the version it evaluated."""

MAX_TEXT_CHARS = 2000
MAX_SUMMARY_CHARS = 4096
"""MLflow's REST API keeps at most this many characters of a tag."""


@dataclass(frozen=True)
class Column:
    """One column of the table.

    Attributes:
        kind: Arrow type, as `pyarrow.type_for_alias` spells it, or "timestamp" / "list<string>".
        meaning: What stands in it, with its unit.
    """

    name: str
    kind: str
    meaning: str
    required: bool = False


COLUMNS: tuple[Column, ...] = (
    Column("trace_id", "string", "MLflow trace id; unique in the table", required=True),
    Column("event_time", "timestamp", "when the request happened, UTC", required=True),
    Column("agent", "string", "agent name", required=True),
    Column("agent_digest", "string", "digest of the bundle that answered", required=True),
    Column("version", "string", "registered model version, if the server knew it"),
    Column("session_id", "string", "conversation the request belongs to", required=True),
    Column("tenant", "string", "tenant of the user", required=True),
    Column("user_hash", "string", "keyed or plain hash of tenant and user", required=True),
    Column("text", "string", f"masked user text, at most {MAX_TEXT_CHARS} characters"),
    Column("intent", "string", "the planner's top intent"),
    Column("confidence", "float64", "probability of `intent`, 0 to 1"),
    Column("outcome", "string", "how the turn ended (entities.Outcome)", required=True),
    Column("tools", "list<string>", "tools the agent wanted to call, in order", required=True),
    Column("calls", "int64", "tool calls the agent wanted to make", required=True),
    Column("executed", "int64", "tool calls that ran", required=True),
    Column("denied", "int64", "tool calls refused by policy", required=True),
    Column("rejected", "int64", "tool calls a human rejected", required=True),
    Column("failed", "int64", "tool calls invalid, failed or in doubt", required=True),
    Column("approvals", "int64", "tool calls left waiting for a human", required=True),
    Column("escalated", "bool", "handed over to a human", required=True),
    Column("clarified", "bool", "asked the user back", required=True),
    Column("model_calls", "int64", "chat-model invocations"),
    Column("input_tokens", "int64", "tokens into the model"),
    Column("output_tokens", "int64", "tokens out of the model"),
    Column("cost_usd", "float64", "model and tool cost in US dollars"),
    Column("seconds", "float64", "wall-clock time of the turn, seconds"),
    Column("violations", "list<string>", "safety violations by kind (entities.Violation)"),
)

COLUMN_NAMES: tuple[str, ...] = tuple(column.name for column in COLUMNS)
_REQUIRED = tuple(column.name for column in COLUMNS if column.required)
_COUNTS = frozenset(column.name for column in COLUMNS if column.kind == "int64")
_FLAGS = frozenset(column.name for column in COLUMNS if column.kind == "bool")
_NUMBERS = frozenset(column.name for column in COLUMNS if column.kind == "float64")
_SOURCE_MARK = b"mlflow_agents.source"
_VERSION_MARK = b"mlflow_agents.schema_version"
MAX_VIOLATIONS = 32
_OF_STATUS = {
    CallStatus.INVALID: Violation.INVALID_CALL,
    CallStatus.IN_DOUBT: Violation.IN_DOUBT,
}
_DENIED = (Violation.DENIED_CALL, Violation.UNTRUSTED_TARGET)
_FAILED = frozenset(
    {CallStatus.FAILED, CallStatus.INVALID, CallStatus.IN_DOUBT, CallStatus.LIMITED}
)


def hash_user(actor: Actor, *, key: bytes | None = None) -> str:
    """Return a stable pseudonym of `actor`.

    With a `key` nobody without it can test a guess; without one the hash only keeps names out of
    sight, and whoever knows the user ids can recognise them.
    """
    name = json.dumps([actor.tenant, actor.user]).encode()
    if key is None:
        return hashlib.sha256(b"mlflow-agents/user:" + name).hexdigest()[:24]
    return hmac.new(key, name, hashlib.sha256).hexdigest()[:24]


def row_from_reply(
    reply: AgentReply,
    *,
    text: str,
    event_time: datetime,
    actor: Actor,
    trace_id: str,
    version: str | None = None,
    user_key: bytes | None = None,
    mask: Callable[[str], str] = mask_text,
    violations: Sequence[Violation] = (),
) -> dict[str, Any]:
    """Return the table's row for one finished turn.

    Args:
        reply: What the agent answered.
        text: What the user said, as received; it is masked here.
        event_time: When the request happened; must carry its time zone.
        actor: Who asked.
        trace_id: The turn's trace, or for reference rows any id that is unique in the file.
        version: Registered model version, if known.
        user_key: Key of the user's pseudonym, see `hash_user`.
        mask: Masks the text; an agent's own rules may be stricter.
        violations: What was noted while it ran; those of the calls' outcomes are added here.

    Raises:
        DataError: `event_time` has no time zone.
    """
    statuses = [call.status for call in reply.calls]
    return {
        "trace_id": trace_id,
        "event_time": _utc(event_time),
        "agent": reply.agent,
        "agent_digest": reply.agent_digest,
        "version": version,
        "session_id": reply.session_id,
        "tenant": actor.tenant,
        "user_hash": hash_user(actor, key=user_key),
        "text": _clip(mask(text)),
        "intent": reply.intent,
        "confidence": _number(reply.confidence),
        "outcome": reply.outcome.value,
        "tools": [call.tool for call in reply.calls],
        "calls": len(statuses),
        "executed": statuses.count(CallStatus.EXECUTED),
        "denied": statuses.count(CallStatus.DENIED),
        "rejected": statuses.count(CallStatus.REJECTED),
        "failed": sum(status in _FAILED for status in statuses),
        "approvals": len(reply.approvals),
        "escalated": reply.outcome is Outcome.ESCALATED,
        "clarified": reply.outcome is Outcome.CLARIFIED,
        "model_calls": reply.usage.model_calls,
        "input_tokens": reply.usage.input_tokens,
        "output_tokens": reply.usage.output_tokens,
        "cost_usd": _number(reply.usage.cost_usd),
        "seconds": _number(reply.seconds),
        "violations": _violations(violations, statuses),
    }


def _violations(noted: Sequence[Violation], statuses: Sequence[CallStatus]) -> list[str]:
    of_calls = [_OF_STATUS[status] for status in statuses if status in _OF_STATUS]
    if not any(kind in _DENIED for kind in noted):
        of_calls += [Violation.DENIED_CALL] * statuses.count(CallStatus.DENIED)
    return [kind.value for kind in [*noted, *of_calls]][:MAX_VIOLATIONS]


def summary_from_row(row: Mapping[str, Any]) -> str:
    """Return `row` as the compact JSON that goes into the trace's tag `SUMMARY_KEY`.

    It always fits MLflow's limit: an over-long text, then an over-long tool list, is cut.
    """
    values: dict[str, Any] = {name: row.get(name) for name in COLUMN_NAMES if name != "trace_id"}
    values["event_time"] = _utc(row["event_time"]).isoformat()
    values["schema"] = SCHEMA_VERSION
    summary = _compact(values)
    text = str(values["text"] or "")
    if len(summary) > MAX_SUMMARY_CHARS and text:
        # JSON escapes can make one character six: cut by the length of what would be stored.
        room = max(0, MAX_SUMMARY_CHARS - len(_compact({**values, "text": ""})))
        values["text"] = text[: room // 6]
        summary = _compact(values)
    tools = list(values["tools"] or [])
    while len(summary) > MAX_SUMMARY_CHARS and tools:
        tools = tools[: len(tools) // 2]
        values["tools"] = tools
        summary = _compact(values)
    if len(summary) > MAX_SUMMARY_CHARS:
        raise DataError(f"a request's summary needs more than {MAX_SUMMARY_CHARS} characters")
    return summary


def row_from_summary(summary: str, *, trace_id: str) -> dict[str, Any]:
    """Return the table's row for a trace's summary; text is masked again to be sure.

    Raises:
        DataError: The summary is not one, or comes from a newer version of this package.
    """
    where = f"trace {trace_id}, tag {SUMMARY_KEY}"
    try:
        values = json.loads(summary)
    except ValueError as error:
        raise DataError("is not JSON", where=where) from error
    if not isinstance(values, dict):
        raise DataError("is not a JSON object", where=where)
    if not isinstance(values.get("schema", 1), int) or values.get("schema", 1) > SCHEMA_VERSION:
        raise DataError(
            f"has schema {values['schema']!r}, this version reads up to {SCHEMA_VERSION}",
            where=where,
            hint="Upgrade mlflow-agent-plugin where the table is built.",
        )
    row: dict[str, Any] = {name: values.get(name) for name in COLUMN_NAMES}
    row["trace_id"] = trace_id
    try:
        row["event_time"] = _utc(datetime.fromisoformat(str(values["event_time"])))
        row["text"] = None if row["text"] is None else _clip(mask_text(str(row["text"])))
        row["tools"] = [str(tool) for tool in row["tools"] or []]
        kinds = row["violations"]
        row["violations"] = None if kinds is None else [Violation(kind).value for kind in kinds]
        row["outcome"] = Outcome(row["outcome"]).value
        for name in _COUNTS:
            row[name] = _count(row[name])
        for name in _NUMBERS:
            row[name] = _number(row[name])
        for name in _FLAGS:
            row[name] = bool(row[name])
    except (KeyError, TypeError, ValueError, DataError) as error:
        raise DataError(f"has a value that makes no sense: {error}", where=where) from error
    if row["calls"] is None:
        row["calls"] = len(row["tools"])
    for name in ("executed", "denied", "rejected", "failed", "approvals"):
        row[name] = row[name] or 0
    for name in ("agent", "agent_digest", "version", "session_id", "tenant", "user_hash", "intent"):
        row[name] = None if row[name] is None else str(row[name])
    missing = [name for name in _REQUIRED if row[name] is None]
    if missing:
        raise DataError(f"lacks {', '.join(missing)}", where=where)
    return row


def summary_of(info: Any, key: str = SUMMARY_KEY) -> str | None:
    """Return what a trace's info holds under `key`: its tag, or metadata of an older version."""
    found = info.tags.get(key) or info.trace_metadata.get(key)
    return None if found is None else str(found)


def arrow_schema() -> pa.Schema:
    """Return the table's Arrow schema, its version in the metadata."""
    return schema_of(COLUMNS, SCHEMA_VERSION)


def schema_of(columns: Sequence[Column], version: int) -> pa.Schema:
    """Return the Arrow schema of `columns`, `version` in its metadata."""
    import pyarrow as pa

    special = {"timestamp": pa.timestamp("us", tz="UTC"), "list<string>": pa.list_(pa.string())}
    fields = [
        pa.field(
            column.name,
            special.get(column.kind) or pa.type_for_alias(column.kind),
            nullable=not column.required,
        )
        for column in columns
    ]
    return pa.schema(fields, metadata={_VERSION_MARK: str(version)})


def rows_to_arrow(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Return `rows` as an Arrow table in the table's schema.

    Raises:
        DataError: A row lacks a required column or holds a value of another type.
    """
    import pyarrow as pa

    listed = list(rows)
    for row in listed:
        missing = [name for name in _REQUIRED if row.get(name) is None]
        if missing:
            raise DataError(f"a row lacks {', '.join(missing)}", where=str(row.get("trace_id")))
    try:
        return pa.Table.from_pylist(
            [{name: row.get(name) for name in COLUMN_NAMES} for row in listed],
            schema=arrow_schema(),
        )
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise DataError(f"rows do not fit the monitoring schema: {error}") from error


def write_reference(rows: Iterable[Mapping[str, Any]], path: str | Path) -> Path:
    """Write reference rows (made by `row_from_reply`) as one parquet file and return its path."""
    import pyarrow.parquet as pq

    target = Path(path)
    table = rows_to_arrow(rows)
    marks = {**(table.schema.metadata or {}), _SOURCE_MARK: b"evaluation"}
    table = table.replace_schema_metadata(marks)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp")
    pq.write_table(table, temporary)
    temporary.replace(target)
    return target


def read_arrow(file: str | Path, *, names: Collection[str] | None = None) -> pa.Table:
    """Read one parquet file of the table's schema, whole or only the columns `names`.

    Raises:
        DataError: The file is missing, is no parquet file, or was written by a newer version, or
            the schema has no such column.
    """
    if names is None:
        return read_columns(file, COLUMNS, SCHEMA_VERSION)
    unknown = sorted(set(names) - set(COLUMN_NAMES))
    if unknown:
        raise DataError(f"has no column {unknown[0]!r}", where="the monitoring table")
    chosen = [column for column in COLUMNS if column.name in names]
    return read_columns(file, chosen, SCHEMA_VERSION)


def read_columns(file: str | Path, columns: Sequence[Column], version: int) -> pa.Table:
    """Read one parquet file with these columns, of at most this version of their schema.

    Raises:
        DataError: As `read_arrow`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as opened:
            there = set(opened.schema_arrow.names)
            table = opened.read([column.name for column in columns if column.name in there])
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"cannot be read as parquet: {error}", where=str(file)) from error
    marks = table.schema.metadata or {}
    written = marks.get(_VERSION_MARK, b"")
    if not written.isdigit():
        raise DataError("is not a monitoring table", where=str(file))
    if int(written) > version:
        raise DataError(
            f"has schema {int(written)}, this version reads up to {version}", where=str(file)
        )
    try:
        kept = {mark: marks[mark] for mark in (_VERSION_MARK, _SOURCE_MARK) if mark in marks}
        for column in columns:
            if not column.required and column.name not in table.column_names:
                # Written before there was such a column.
                table = table.append_column(
                    schema_of([column], version).field(0),
                    pa.nulls(table.num_rows, schema_of([column], version).field(0).type),
                )
        names = [column.name for column in columns]
        table = table.select(names).cast(schema_of(columns, version))
    except (KeyError, pa.ArrowException) as error:
        raise DataError(f"does not have the table's columns: {error}", where=str(file)) from error
    return table.replace_schema_metadata(kept)


def read_rows(
    paths: str | Path | Sequence[Path], *, names: Collection[str] | None = None
) -> pd.DataFrame:
    """Read one or more parquet files of the table's schema, whole or only the columns `names`.

    The frame's ``attrs["source"]`` says "evaluation" for reference rows, "traffic" for others.

    Raises:
        DataError: As `read_arrow`.
    """
    import pyarrow as pa

    files = [Path(paths)] if isinstance(paths, (str, Path)) else list(paths)
    tables = [read_arrow(file, names=names) for file in files]
    if not tables:
        empty = arrow_schema().empty_table()
        tables = [empty if names is None else empty.select([n for n in COLUMN_NAMES if n in names])]
    sources = {(table.schema.metadata or {}).get(_SOURCE_MARK, b"traffic") for table in tables}
    frame: pd.DataFrame = pa.concat_tables(
        [table.replace_schema_metadata(None) for table in tables]
    ).to_pandas()
    if len(sources) == 1:
        frame.attrs["source"] = sources.pop().decode()
    return frame


def _utc(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise DataError(f"event_time {moment.isoformat()} has no time zone")
    return moment.astimezone(timezone.utc)


def _clip(text: str) -> str:
    return text[:MAX_TEXT_CHARS]


def _compact(values: Mapping[str, Any]) -> str:
    return json.dumps(values, separators=(",", ":"), allow_nan=False)


def _number(value: Any) -> float | None:
    if value is None:
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def _count(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, (list, tuple)):
        return len(value)
    if isinstance(value, bool) or int(value) != value or value < 0:
        raise ValueError(f"{value!r} is not a count")
    return int(value)
