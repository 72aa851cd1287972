"""Signed load tests: "the agent with this digest answered so many users so fast".

Rules:
- The statement binds the agent's digest, the profile's digest and the digest of the requests table;
  every number of a level is computed from that table, here and again by whoever checks it.
- A level is one steady stage of the profile. While load ramps up nothing is claimed.
- A request that failed is an error and its time stays in the percentiles. A 429 whose retry, after
  the wait the server asked for, was answered is not an error; it is counted as limited.
- In an open model the time of a request counts from when it was due, not from when a late generator
  got round to sending it.
- The concurrency of an open level is the mean number of requests in flight.

Source: Little 1961, Oper. Res. 9:383-387 (requests in flight from arrivals and times).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from mlflow_agent_plugin.entities import canonical_json
from mlflow_agent_plugin.entities.statistics import percentile, wilson_interval
from mlflow_agent_plugin.errors import EvidenceError

LoadModel = Literal["closed", "open"]
"""``closed``: so many users, each waiting for its answer. ``open``: so many requests a second."""

RequestResult = Literal["ok", "limited", "timeout", "connection", "client", "server", "invalid"]
"""What became of a request: answered, refused by a rate limit to the end, no answer in time, no
connection, HTTP 4xx, HTTP 5xx, or an answer that is none."""


class Row(BaseModel):
    """One of the formats here: fields of its own only, finite numbers only."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class LoadRequest(Row):
    """One request of a load test.

    Attributes:
        stage: Number of the stage it was due in.
        number: Its number in the test.
        due: Seconds after the start of the test at which it was due.
        seconds: From then until its last answer.
        result: What became of it.
        status: HTTP status of its last answer, None without one.
        attempts: How often it was sent: once, and again after each 429 it waited for.
        limited: How many answers were 429.
        tool_calls: Tool calls of the agent in its answer.
        tool_limited: Those that a rate limit refused.
        input_tokens: Tokens in, as the agent reports them.
        output_tokens: Tokens out, likewise.
    """

    stage: int = Field(ge=0)
    number: int = Field(ge=0)
    due: float = Field(ge=0)
    seconds: float = Field(ge=0)
    result: RequestResult
    status: int | None = Field(default=None, ge=100, le=599)
    attempts: int = Field(default=1, ge=0)
    limited: int = Field(default=0, ge=0)
    tool_calls: int = Field(default=0, ge=0)
    tool_limited: int = Field(default=0, ge=0)
    input_tokens: int = Field(default=0, ge=0)
    output_tokens: int = Field(default=0, ge=0)


class LoadStage(Row):
    """One steady stage, as it was run.

    Attributes:
        stage: Its number in the profile.
        model: Closed or open.
        users: Users of a closed stage, else None.
        rate: Requests a second of an open stage, else None.
        seconds: How long it lasted.
    """

    stage: int = Field(ge=0)
    model: LoadModel
    users: int | None = Field(default=None, ge=1)
    rate: float | None = Field(default=None, gt=0)
    seconds: float = Field(gt=0)


@dataclass(frozen=True)
class LoadLevel:
    """What one steady stage measured; times in seconds, throughput in answers a second."""

    stage: int
    model: LoadModel
    concurrency: int
    rate: float | None
    seconds: float
    requests: int
    errors: int
    error_rate: float
    error_rate_high: float
    throughput: float
    p50_seconds: float
    p95_seconds: float
    p99_seconds: float
    max_seconds: float
    attempts: int
    limited: int
    tool_calls: int
    tool_limited: int
    input_tokens: int
    output_tokens: int

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return asdict(self)


@dataclass(frozen=True)
class LoadEvidence:
    """A verified statement, for programs.

    Attributes:
        agent_digest: ``sha256:…`` of the bundle it is about.
        profile: Name of the load profile.
        profile_digest: ``sha256:…`` of it.
        requests_digest: ``sha256:…`` of the requests table.
        requests: Rows of that table.
        stages: The steady stages, as they were run.
        levels: What they measured.
        run_id: The MLflow run.
        measured_at: When, says the signer.
    """

    agent: str
    agent_digest: str
    profile: str
    profile_digest: str
    requests_digest: str
    requests: int
    stages: tuple[LoadStage, ...]
    levels: tuple[LoadLevel, ...]
    run_id: str
    measured_at: datetime

    def at(self, concurrency: int) -> LoadLevel | None:
        """Return the lowest level measured at `concurrency` or more; None if there is none."""
        high = [level for level in self.levels if level.concurrency >= concurrency]
        return min(high, key=lambda level: (level.concurrency, level.stage)) if high else None


def compute_levels(
    stages: Iterable[LoadStage], requests: Iterable[LoadRequest]
) -> tuple[LoadLevel, ...]:
    """Return what each steady stage measured, in order."""
    by_stage: dict[int, list[LoadRequest]] = {}
    for request in requests:
        by_stage.setdefault(request.stage, []).append(request)
    return tuple(_level(stage, by_stage.get(stage.stage, [])) for stage in stages)


def _level(stage: LoadStage, requests: Sequence[LoadRequest]) -> LoadLevel:
    times = [request.seconds for request in requests]
    n = len(requests)
    errors = sum(request.result != "ok" for request in requests)
    in_flight = math.floor(math.fsum(times) / stage.seconds)
    return LoadLevel(
        stage=stage.stage,
        model=stage.model,
        concurrency=in_flight if stage.users is None else stage.users,
        rate=stage.rate,
        seconds=stage.seconds,
        requests=n,
        errors=errors,
        error_rate=errors / n if n else 1.0,
        error_rate_high=wilson_interval(errors, n)[1],
        throughput=(n - errors) / stage.seconds,
        p50_seconds=percentile(times, 0.50),
        p95_seconds=percentile(times, 0.95),
        p99_seconds=percentile(times, 0.99),
        max_seconds=percentile(times, 1.0),
        attempts=sum(request.attempts for request in requests),
        limited=sum(request.limited for request in requests),
        tool_calls=sum(request.tool_calls for request in requests),
        tool_limited=sum(request.tool_limited for request in requests),
        input_tokens=sum(request.input_tokens for request in requests),
        output_tokens=sum(request.output_tokens for request in requests),
    )


def requests_table(requests: Iterable[LoadRequest]) -> bytes:
    """Return the requests table: one canonical JSON line a request, by stage and number."""
    ordered = sorted(requests, key=lambda request: (request.stage, request.number))
    return b"".join(canonical_json(request.model_dump()) + b"\n" for request in ordered)


def parse_requests(table: bytes) -> list[LoadRequest]:
    """Read what `requests_table` wrote.

    Raises:
        EvidenceError: A line is malformed, out of order or there twice.
    """
    if table and not table.endswith(b"\n"):
        raise EvidenceError("the last line is cut off", where="requests.jsonl")
    requests = []
    for number, line in enumerate(table.split(b"\n")[:-1], 1):
        try:
            requests.append(LoadRequest.model_validate(json.loads(line)))
        except (ValueError, RecursionError) as error:
            raise EvidenceError(
                "is not a request of a load test", where=f"requests.jsonl:{number}"
            ) from error
    keys = [(request.stage, request.number) for request in requests]
    if keys != sorted(set(keys)):
        raise EvidenceError("requests are not sorted, or stand twice", where="requests.jsonl")
    return requests
