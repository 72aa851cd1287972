"""Reading a gated registry for pages and reports: agents, versions, requests, evidence.

    from mlflow_agent_plugin.registry.overview import list_agents

    for agent in list_agents().rows:
        print(agent.name, agent.slots)

Rules:
- Reads only, in a process that holds the registry (an ``agents+`` URI).
- Every list is paged; a page costs what is on it, however much there is.
- A list shows what the rows say; whoever acts on it goes through the gate, which checks them.
"""

from __future__ import annotations

from mlflow_agent_plugin.registry.overview.cases import (
    CaseComparison,
    PairedOutcome,
    compare_cases,
)
from mlflow_agent_plugin.registry.overview.evidence import (
    compare_evidence,
    compare_versions,
    evidence_runs,
    open_bundle,
    open_model,
    read_graph,
)
from mlflow_agent_plugin.registry.overview.lists import (
    find_digests,
    get_version,
    list_agents,
    list_history,
    list_requests,
    list_versions,
    protected_slots,
)
from mlflow_agent_plugin.registry.overview.rows import (
    MAX_PAGE,
    PAGE,
    AgentSummary,
    HistorySummary,
    Page,
    RequestSummary,
    SuiteComparison,
    VersionSummary,
)

__all__ = [
    "MAX_PAGE",
    "PAGE",
    "AgentSummary",
    "CaseComparison",
    "HistorySummary",
    "Page",
    "PairedOutcome",
    "RequestSummary",
    "SuiteComparison",
    "VersionSummary",
    "compare_cases",
    "compare_evidence",
    "compare_versions",
    "evidence_runs",
    "find_digests",
    "get_version",
    "list_agents",
    "list_history",
    "list_requests",
    "list_versions",
    "open_bundle",
    "open_model",
    "protected_slots",
    "read_graph",
]
