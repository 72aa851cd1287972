"""The gate: may this slot point to that version?

Rules:
- Pure: no I/O, no mlflow; time comes with the facts. The same facts give the same report.
- A slot opens only when every requirement is met. Unknown is not met.
- An empty list of requirements is refused: where nothing is checked, nothing was shown.
- Every gate also asks, whatever the rules say, that the content is what was registered and that the
  latest request was not rejected.
- A requirement that cannot be evaluated, for whatever reason, is unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlflow_agent_plugin.registry.facts import GateFacts
from mlflow_agent_plugin.registry.judges import judge, judge_content, judge_request, unknown
from mlflow_agent_plugin.registry.report import EMERGENCY, GateReport


def evaluate(requirements: Sequence[Any], facts: GateFacts) -> GateReport:
    """Decide whether `facts` meet `requirements`.

    Args:
        requirements: The slot's requirements (members of `requirements.Requirement`).
        facts: What is known about the candidate.
    """
    results = [judge_content(facts), judge_request(facts)]
    results.extend(judge(requirement, facts, requirements) for requirement in requirements)
    if not requirements:
        results.append(
            unknown("rules", "rules", "the slot has no requirements", "Add some to gate.yaml.")
        )
    return GateReport(
        name=facts.name,
        version=facts.version,
        slot=facts.slot,
        at=facts.now,
        results=tuple(item for item in results if item is not None),
        notes=_notes(facts),
    )


def _notes(facts: GateFacts) -> tuple[str, ...]:
    notes = []
    if facts.incumbent is not None and facts.incumbent.emergency is not None:
        notes.append(
            f"{EMERGENCY}: {facts.slot} points to version {facts.incumbent.version} past the gate "
            f"{facts.incumbent.emergency}"
        )
    local = [item.local_key for item in facts.evidence] + [item.local_key for item in facts.loads]
    if any(local):
        notes.append("evidence is signed with a key made on this machine")
    if facts.allow_unverified:
        notes.append("names of people who did not log in are believed (allow_unverified)")
    return tuple(notes)
