"""From rows and content to the facts the gate decides on.

Rules:
- Evidence is verified again whenever it is used: signature against the keys trusted now, results
  against the signed digest, metrics recomputed from the results.
- An approval counts only for its subject: version, content, evidence, incumbent and rules as they
  were. When one of them changes, it is stale.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from mlflow_agent_plugin.entities import sha256_of_json
from mlflow_agent_plugin.errors import AgentError, EvidenceError, IntegrityError
from mlflow_agent_plugin.package.slots import Slot
from mlflow_agent_plugin.registry.facts import (
    ApprovalFact,
    ContractsFact,
    GateFacts,
    IncumbentFacts,
    LoadFact,
    SuiteEvidence,
)
from mlflow_agent_plugin.registry.measures import read_levels, read_measures
from mlflow_agent_plugin.registry.monitoring import drift_fact
from mlflow_agent_plugin.registry.records import (
    LOAD_PREFIX,
    EvidenceRecord,
    Gate,
    Records,
    RequestRecord,
    VersionRecord,
)
from mlflow_agent_plugin.registry.requirements import SoakRequirement
from mlflow_agent_plugin.registry.rules import combine
from mlflow_agent_plugin.registry.vault import Vault
from mlflow_agent_plugin.trust.keys import KeyPurpose, KeyStore


@dataclass(frozen=True)
class Candidate:
    """One version before one slot, with everything that is known about it.

    Attributes:
        requirements: The stored rules' and the candidate's own.
        subject: What an approval given now would be about.
        request: The latest promotion request, None if there is none.
    """

    facts: GateFacts
    requirements: Sequence[Any]
    subject: str
    request: RequestRecord | None
    record: VersionRecord | None


class Keys:
    """The keys of one transaction: read once, so that one decision sees one set."""

    def __init__(self) -> None:
        store = KeyStore()
        self.trusted = store.trusted_keys(KeyPurpose.EVIDENCE)
        self._store = store

    def is_local(self, envelope: Mapping[str, Any]) -> bool:
        """Say whether this machine's self-made key signed `envelope`."""
        own = self._store.signing_key()
        return own.local and any(
            signature.get("keyid") == own.key_id for signature in envelope.get("signatures", [])
        )


def gather(
    records: Records,
    gate: Gate,
    slot: Slot,
    *,
    version: int,
    incumbent: int | None,
    vault: Vault,
    keys: Keys,
) -> Candidate:
    """Collect the facts about `version` before `slot`.

    Args:
        records: The registry's rows.
        gate: The model's gate.
        slot: The slot.
        version: The candidate.
        incumbent: Version the slot points to now.
        vault: Where the registered content is kept.
        keys: Whose signatures count.

    Raises:
        IntegrityError: A row was changed past the registry.
    """
    record = records.version(gate, version)
    theirs = None if incumbent is None else records.version(gate, incumbent)
    if incumbent is not None and theirs is None:
        _check_no_agent(records, gate, slot, incumbent)
    evidence = () if record is None else _evidence(records, gate, record, keys)
    own = () if record is None or record.rules is None else record.rules.requirements(slot)
    requirements = combine(gate.rules.requirements(slot), own)
    loads = () if record is None else _loads(records, gate, record, keys)
    subject = _subject(
        gate, slot, version, record, evidence, loads, incumbent, theirs, requirements
    )
    request = records.request(gate, version, str(slot))
    approvals: list[ApprovalFact] = []
    stale = 0
    if request is not None and request.state == "open":
        for answer in records.answers(request.request_id):
            if answer.subject == subject:
                approvals.append(
                    ApprovalFact(answer.user, answer.roles, answer.verified, answer.at)
                )
            else:
                stale += 1
    facts = GateFacts(
        name=gate.name,
        version=version,
        slot=str(slot),
        now=records.now,
        content_digest=None if record is None else record.content_digest,
        content_problem=None if record is None else vault.problem(record.content_digest),
        author=None if record is None else record.author,
        evidence=evidence,
        loads=loads,
        drift_reports=()
        if record is None
        else tuple(
            drift_fact(item) for item in records.drift_reports(gate.name, record.agent_digest)
        ),
        incumbent=None
        if incumbent is None
        else IncumbentFacts(
            version=incumbent,
            content_digest=None if theirs is None else theirs.content_digest,
            evidence=() if theirs is None else _evidence(records, gate, theirs, keys),
            emergency=_emergency(records, gate, slot),
        ),
        policy_tests=None if record is None else record.policy_tests,
        contracts=_contracts(record, theirs),
        request_state=None if request is None else request.state,
        request_reason="" if request is None else request.reason,
        approvals=tuple(approvals),
        stale_approvals=stale,
        stood_hours=_stood(records, gate, record, requirements),
        allow_unverified=gate.rules.allow_unverified,
    )
    return Candidate(facts, requirements, subject, request, record)


def _emergency(records: Records, gate: Gate, slot: Slot) -> str | None:
    """Return who made `slot` point where it does past the gate and why, None if nobody did."""
    last = records.last_change(gate.name, str(slot))
    if last is None or last.kind != "emergency" or last.epoch != gate.epoch:
        return None
    return f"since {last.at:%Y-%m-%d %H:%M} UTC, by {last.actor}: {last.reason}"


def _check_no_agent(records: Records, gate: Gate, slot: Slot, version: int) -> None:
    """Check that an incumbent nothing is known about never was an agent."""
    last = records.last_change(gate.name, str(slot))
    if last is not None and last.version == version and last.content_digest is not None:
        raise IntegrityError(
            f"what is known about version {version} was removed past the registry",
            where=gate.name,
            hint="Restore it from a backup, and look at the audit.",
        )


def _evidence(
    records: Records, gate: Gate, record: VersionRecord, keys: Keys
) -> tuple[SuiteEvidence, ...]:
    return tuple(
        _verified(item, record, keys) for item in records.evidence(gate.name, record.agent_digest)
    )


def _verified(item: EvidenceRecord, record: VersionRecord, keys: Keys) -> SuiteEvidence:
    from mlflow_agent_plugin.trust.evidence import read_evidence, verify_evidence

    try:
        check_revoked(item)
        statement = verify_evidence(item.envelope, keys.trusted, agent_digest=record.agent_digest)
        signed = read_evidence(statement)
        measures = read_measures(item.packed, signed.results_digest)
    except AgentError as error:
        return SuiteEvidence(
            suite=item.suite,
            suite_digest=item.suite_digest,
            results_digest=item.results_digest,
            run_id=item.run_id,
            metrics={},
            passed={},
            cases=0,
            unsafe_calls=0,
            evaluated_at=item.evaluated_at,
            problem=error.problem,
        )
    return SuiteEvidence(
        suite=signed.suite,
        suite_digest=signed.suite_digest,
        results_digest=signed.results_digest,
        run_id=signed.run_id,
        metrics=measures.metrics,
        passed=measures.passed,
        cases=measures.cases,
        unsafe_calls=measures.unsafe_calls,
        evaluated_at=signed.evaluated_at,
        local_key=keys.is_local(item.envelope),
    )


def check_revoked(item: EvidenceRecord) -> None:
    """Refuse evidence somebody revoked.

    Raises:
        EvidenceError: It was revoked; says by whom and why.
    """
    if item.revoked is not None:
        raise EvidenceError(item.revoked)


def _loads(records: Records, gate: Gate, record: VersionRecord, keys: Keys) -> tuple[LoadFact, ...]:
    return tuple(
        _verified_load(item, record, keys) for item in records.loads(gate.name, record.agent_digest)
    )


def _verified_load(item: EvidenceRecord, record: VersionRecord, keys: Keys) -> LoadFact:
    from mlflow_agent_plugin.trust.evidence import verify_load

    try:
        check_revoked(item)
        signed = verify_load(item.envelope, keys.trusted, agent_digest=record.agent_digest)
        levels = read_levels(item.packed, signed)
        problem, local = None, keys.is_local(item.envelope)
    except AgentError as error:
        levels, problem, local = (), error.problem, False
    return LoadFact(
        profile=item.suite.removeprefix(LOAD_PREFIX),
        profile_digest=item.suite_digest,
        requests_digest=item.results_digest,
        run_id=item.run_id,
        levels=levels,
        measured_at=item.evaluated_at,
        local_key=local,
        problem=problem,
    )


def _subject(
    gate: Gate,
    slot: Slot,
    version: int,
    record: VersionRecord | None,
    evidence: Sequence[SuiteEvidence],
    loads: Sequence[LoadFact],
    incumbent: int | None,
    theirs: VersionRecord | None,
    requirements: Sequence[Any],
) -> str:
    return sha256_of_json(
        {
            "name": gate.name,
            "epoch": gate.epoch,
            "slot": str(slot),
            "version": version,
            "content": None if record is None else record.content_digest,
            "evidence": [
                *([item.suite, item.suite_digest, item.results_digest] for item in evidence),
                *([item.profile, item.profile_digest, item.requests_digest] for item in loads),
            ],
            "incumbent": [incumbent, None if theirs is None else theirs.content_digest],
            "rules": [item.model_dump(mode="json") for item in requirements],
        }
    )


def _contracts(record: VersionRecord | None, theirs: VersionRecord | None) -> ContractsFact | None:
    if record is None or theirs is None:
        return None
    return _compare_contracts(theirs.contracts, record.contracts)


@lru_cache(maxsize=64)
def _compare_contracts(old: str, new: str) -> ContractsFact:
    """Compare two sets of contracts, given as the JSON text they were recorded as."""
    from mlflow_agent_plugin.package.compatibility import ContractStatus, compare_all
    from mlflow_agent_plugin.package.contract import ToolContract

    try:
        before, after = (
            {name: ToolContract.model_validate(item) for name, item in json.loads(text).items()}
            for text in (old, new)
        )
    except ValueError as error:
        return ContractsFact(problem=f"a stored contract is malformed ({type(error).__name__})")
    changes = compare_all(before, after).values()
    return ContractsFact(
        breaking=tuple(
            f"{change.tool}: {change.reasons[0] if change.reasons else 'changed'}"
            for change in changes
            if change.needs_major
        ),
        changed=sum(change.status is not ContractStatus.SAME for change in changes),
    )


def _stood(
    records: Records, gate: Gate, record: VersionRecord | None, requirements: Sequence[Any]
) -> dict[str, float]:
    """Return for how long this content has stood in each slot, without a break, up to now."""
    if record is None or not any(isinstance(item, SoakRequirement) for item in requirements):
        return {}
    since: dict[str, Any] = {}
    for entry in records.history(gate.name):
        if entry.epoch == gate.epoch and entry.content_digest == record.content_digest:
            since.setdefault(entry.slot, entry.at)
        else:
            since.pop(entry.slot, None)
    return {slot: (records.now - at).total_seconds() / 3600 for slot, at in since.items()}
