"""Two versions case by case: what was fixed, what was broken, what a case and an answer took.

Rules:
- Read from the tables the signed evidence names; what no longer verifies is left out.
- Cases are paired only where both versions ran the very same suite.
- A case counts for its first tag that not every case has, else for the outcome it expects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.errors import AgentError
from mlflow_agent_plugin.registry.overview.access import now, reading
from mlflow_agent_plugin.registry.overview.lists import get_version

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from mlflow_agent_plugin.registry.facts import LoadLevelFact
    from mlflow_agent_plugin.trust.evidence import CaseResult

MAX_CATEGORIES = 8
OTHERS = "all others"


@dataclass
class PairedOutcome:
    """What became of the cases of one category in both versions.

    Attributes:
        right: In both.
        fixed: In the candidate only.
        broken: In the incumbent only.
        wrong: In neither.
    """

    right: int = 0
    fixed: int = 0
    broken: int = 0
    wrong: int = 0

    @property
    def cases(self) -> int:
        """How many there are."""
        return self.right + self.fixed + self.broken + self.wrong


@dataclass(frozen=True)
class SuiteCases:
    """One suite's cases in both versions.

    Attributes:
        suite: Its name.
        paired: Category to outcome; empty unless both versions ran the same suite.
        tokens: Tokens of each case, the candidate's and the incumbent's, in rising order.
        costs: US dollars, likewise; empty where nothing cost anything.
    """

    suite: str
    paired: Mapping[str, PairedOutcome]
    tokens: tuple[Sequence[float], Sequence[float]]
    costs: tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True)
class CaseComparison:
    """All of it.

    Attributes:
        suites: Those the candidate has usable evidence on.
        loads: Load profile to the levels of candidate and incumbent.
    """

    suites: Sequence[SuiteCases] = ()
    loads: Mapping[str, tuple[Sequence[LoadLevelFact], Sequence[LoadLevelFact]]] = field(
        default_factory=dict
    )


def compare_cases(
    name: str, version: int, incumbent: int | None, *, client: MlflowClient | None = None
) -> CaseComparison:
    """Return a version's cases beside an incumbent's.

    Args:
        name: Registered model.
        version: The candidate.
        incumbent: The version beside it; None or the same one for nothing.
        client: MLflow client.

    Raises:
        RequestError: This process does not hold a gated registry.
        IntegrityError: A row was changed past the registry.
    """
    mine = _read(name, version, client)
    beside = None if incumbent in (None, version) else incumbent
    theirs = ({}, {}) if beside is None else _read(name, beside, client)
    suites = []
    for suite, (digest, rows) in sorted(mine[0].items()):
        other_digest, others = theirs[0].get(suite, ("", []))
        suites.append(
            SuiteCases(
                suite=suite,
                paired=pair(rows, others) if digest == other_digest else {},
                tokens=(_tokens(rows), _tokens(others)),
                costs=(_costs(rows), _costs(others)),
            )
        )
    loads = {
        profile: (levels, theirs[1].get(profile, ())) for profile, levels in sorted(mine[1].items())
    }
    return CaseComparison(suites, loads)


def pair(rows: Sequence[CaseResult], others: Sequence[CaseResult]) -> dict[str, PairedOutcome]:
    """Return the outcomes by category, those where most changed first, the rest as one."""
    before = {row.case_id: row.success for row in others}
    everywhere = set.intersection(*(set(row.tags) for row in rows)) if rows else set()
    found: dict[str, PairedOutcome] = {}
    for row in rows:
        if row.case_id not in before:
            continue
        outcome = found.setdefault(_category(row, everywhere), PairedOutcome())
        was = before[row.case_id]
        kind = ("wrong", "broken", "fixed", "right")[2 * row.success + was]
        setattr(outcome, kind, getattr(outcome, kind) + 1)
    ranked = sorted(
        found.items(), key=lambda item: (-(item[1].fixed + item[1].broken), -item[1].cases, item[0])
    )
    shown = dict(ranked[: MAX_CATEGORIES - (len(ranked) > MAX_CATEGORIES)])
    rest = [outcome for category, outcome in ranked if category not in shown]
    if rest:
        kinds = ("right", "fixed", "broken", "wrong")
        sums = {kind: sum(getattr(outcome, kind) for outcome in rest) for kind in kinds}
        shown[OTHERS] = PairedOutcome(**sums)
    return shown


def _category(row: CaseResult, everywhere: set[str]) -> str:
    own = [tag for tag in row.tags if tag not in everywhere]
    return own[0] if own else row.expected_outcome or "no expected outcome"


def _tokens(rows: Sequence[CaseResult]) -> list[float]:
    found = sorted(float(row.input_tokens + row.output_tokens) for row in rows)
    return found if found and found[-1] > 0 else []


def _costs(rows: Sequence[CaseResult]) -> list[float]:
    found = sorted(row.cost_usd for row in rows)
    return found if found and found[-1] > 0 else []


_Suites = dict[str, "tuple[str, Sequence[CaseResult]]"]


def _read(
    name: str, version: int, client: MlflowClient | None
) -> tuple[_Suites, dict[str, Sequence[LoadLevelFact]]]:
    """Return suite digest and cases by suite, and levels by load profile."""
    from mlflow_agent_plugin.registry.gathering import Keys
    from mlflow_agent_plugin.registry.records import LOAD_PREFIX, Records

    found = get_version(name, version, client=client)
    if found is None:
        return {}, {}
    keys, digest = Keys(), found.agent_digest
    suites: _Suites = {}
    loads: dict[str, Sequence[LoadLevelFact]] = {}
    with reading(client) as (connection, workspace):
        records = Records(connection, workspace, now=now())
        for item in records.evidence(name, digest):
            try:
                suites[item.suite] = item.suite_digest, _cases(item, keys, digest)
            except AgentError:
                continue  # the gate's report says what is wrong with it
        for item in records.loads(name, digest):
            try:
                loads[item.suite.removeprefix(LOAD_PREFIX)] = _levels(item, keys, digest)
            except AgentError:
                continue
    return suites, loads


def _cases(item: Any, keys: Any, agent_digest: str) -> Sequence[CaseResult]:
    from mlflow_agent_plugin.registry.gathering import check_revoked
    from mlflow_agent_plugin.registry.measures import unpack
    from mlflow_agent_plugin.trust.evidence import check_results, read_evidence, verify_evidence

    check_revoked(item)
    statement = verify_evidence(item.envelope, keys.trusted, agent_digest=agent_digest)
    return check_results(read_evidence(statement), unpack(item.packed))


def _levels(item: Any, keys: Any, agent_digest: str) -> Sequence[LoadLevelFact]:
    from mlflow_agent_plugin.registry.gathering import check_revoked
    from mlflow_agent_plugin.registry.measures import read_levels
    from mlflow_agent_plugin.trust.evidence import verify_load

    check_revoked(item)
    signed = verify_load(item.envelope, keys.trusted, agent_digest=agent_digest)
    return read_levels(item.packed, signed)
