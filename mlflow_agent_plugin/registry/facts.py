"""What the gate is told: plain values, gathered and verified before it is asked.

Rules:
- Everything here was read from content, signed evidence or sealed rows by the registry itself; a
  number a client typed in is never among it.
- None means "not known". The gate treats what is not known as not met.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True)
class Measure:
    """One metric of one evaluation, recomputed from its cases.

    Attributes:
        value: The estimate.
        low: Lower limit of its 95% interval, None if it has none.
        n: Cases it was computed from.
        successes: For a rate, how many cases succeeded; None for other metrics.
    """

    value: float
    low: float | None
    n: int
    successes: int | None = None


@dataclass(frozen=True)
class SuiteEvidence:
    """The latest evidence about some content on one suite.

    Attributes:
        suite: Name of the suite.
        suite_digest: What the suite held.
        results_digest: What the results held.
        run_id: The evaluation run.
        metrics: Metric name to its recomputed measure.
        passed: Paired metric name to case id to whether that case succeeded.
        cases: Number of cases.
        unsafe_calls: Over all cases.
        evaluated_at: When, by the signed statement.
        local_key: Signed by a key made on this machine, not one an administrator gave.
        problem: Why the evidence cannot be used any more, None if it can.
    """

    suite: str
    suite_digest: str
    results_digest: str
    run_id: str
    metrics: Mapping[str, Measure]
    passed: Mapping[str, Mapping[str, bool]]
    cases: int
    unsafe_calls: int
    evaluated_at: datetime
    local_key: bool = False
    problem: str | None = None


@dataclass(frozen=True)
class LoadLevelFact:
    """One steady level of a load test, recomputed from its requests."""

    concurrency: int
    requests: int
    errors: int
    p95_seconds: float


@dataclass(frozen=True)
class LoadFact:
    """The latest load test of some content by one profile; `problem` as in `SuiteEvidence`."""

    profile: str
    profile_digest: str
    requests_digest: str
    run_id: str
    levels: tuple[LoadLevelFact, ...]
    measured_at: datetime
    local_key: bool = False
    problem: str | None = None


@dataclass(frozen=True)
class DriftFact:
    """One drift report about some content's traffic.

    Attributes:
        word: ``drift``, ``no drift``, ``drift suspected`` or ``unknown``.
        summary: Why, one line.
        at: When it was handed in.
        by: By whom; `verified` if that person had logged in.
        sessions: Sessions it looked at.
        since: When the first of them began, None if that is not known.
    """

    word: str
    summary: str
    at: datetime
    by: str
    verified: bool
    run_id: str
    sessions: int = 0
    since: datetime | None = None


@dataclass(frozen=True)
class ApprovalFact:
    """One person's yes to exactly this content, evidence and incumbent.

    Attributes:
        user: Who.
        roles: Roles the person held then.
        verified: The person had logged in.
        at: When.
    """

    user: str
    roles: frozenset[str]
    verified: bool
    at: datetime


@dataclass(frozen=True)
class IncumbentFacts:
    """What the slot points to now; `emergency`: since when and why past the gate, if it is so."""

    version: int
    content_digest: str | None
    evidence: tuple[SuiteEvidence, ...] = ()
    emergency: str | None = None


@dataclass(frozen=True)
class PolicyTestsFact:
    """Outcome of the bundle's own policy tests, run by the registry on the registered content."""

    passed: int
    failed: tuple[str, ...] = ()
    error: str | None = None


@dataclass(frozen=True)
class ContractsFact:
    """Comparison of tool contracts with the incumbent's.

    Attributes:
        breaking: Breaking changes without a new major version, one sentence each.
        changed: Number of contracts that changed at all.
        problem: Why they could not be compared, None if they could.
    """

    breaking: tuple[str, ...] = ()
    changed: int = 0
    problem: str | None = None


@dataclass(frozen=True)
class GateFacts:
    """Everything one decision may depend on.

    Attributes:
        name: Registered model.
        version: Candidate.
        slot: Protected slot, as people write it.
        now: Time of the decision.
        content_digest: The registered content, None if it was never read.
        content_problem: Why the content cannot be trusted, None if it can.
        author: Who registered the version, None if not known.
        evidence: Latest usable or unusable evidence per suite, about this very content.
        loads: Latest load test per profile, likewise.
        drift_reports: Those about this content, each window of traffic once.
        incumbent: What the slot points to, None if to nothing.
        policy_tests: None if not known.
        contracts: None if not known.
        request_state: State of the latest promotion request for this slot, None if there is none.
        request_reason: Why it was rejected, if it was.
        approvals: Those that are still about the same content, evidence, incumbent and rules.
        stale_approvals: How many there were about something that changed since.
        stood_hours: Slot to hours this content stood there without a break, up to now.
        allow_unverified: The rules believe names of people who did not log in.
    """

    name: str
    version: int
    slot: str
    now: datetime
    content_digest: str | None = None
    content_problem: str | None = None
    author: str | None = None
    evidence: tuple[SuiteEvidence, ...] = ()
    loads: tuple[LoadFact, ...] = ()
    drift_reports: tuple[DriftFact, ...] = ()
    incumbent: IncumbentFacts | None = None
    policy_tests: PolicyTestsFact | None = None
    contracts: ContractsFact | None = None
    request_state: str | None = None
    request_reason: str = ""
    approvals: tuple[ApprovalFact, ...] = ()
    stale_approvals: int = 0
    stood_hours: Mapping[str, float] = field(default_factory=dict)
    allow_unverified: bool = False
