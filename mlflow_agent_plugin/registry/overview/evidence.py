"""What was measured about a version, and what changed in it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.errors import RequestError
from mlflow_agent_plugin.registry.overview.access import now, open_store, reading
from mlflow_agent_plugin.registry.overview.lists import get_version
from mlflow_agent_plugin.registry.overview.rows import SuiteComparison

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mlflow import MlflowClient

    from mlflow_agent_plugin.package import BundleDiff
    from mlflow_agent_plugin.registry.facts import Measure, SuiteEvidence


def compare_evidence(
    name: str, version: int, *, to: str, client: MlflowClient | None = None
) -> list[SuiteComparison]:
    """Return the candidate's metrics beside those of what `to` points to now.

    Every number is recomputed from the per-case results the signed evidence names.

    Raises:
        RequestError: This process does not hold a gated registry, or knows no such version.
    """
    from mlflow_agent_plugin.package.slots import Slot
    from mlflow_agent_plugin.registry.gathering import Keys, gather
    from mlflow_agent_plugin.registry.pointers import Pointers
    from mlflow_agent_plugin.registry.records import Records

    store = open_store(client)
    slot = Slot.parse(to)
    with reading(client) as (connection, workspace):
        records = Records(connection, workspace, now=now())
        gate = records.gate(name)
        if gate is None:
            raise RequestError(f"{name} is not behind a gate")
        candidate = gather(
            records,
            gate,
            slot,
            version=version,
            incumbent=Pointers(connection, workspace, name).of(slot),
            vault=store._vault,  # noqa: SLF001 - the registry's own
            keys=Keys(),
        )
    mine = _measures(candidate.facts.evidence)
    incumbent = candidate.facts.incumbent
    beside = None if incumbent is None or incumbent.version == version else incumbent
    theirs = {} if beside is None else _measures(beside.evidence)
    found = []
    for suite, metric in sorted({*mine, *theirs}):
        pair = mine.get((suite, metric)), theirs.get((suite, metric))
        is_rate = any(item is not None and item.successes is not None for item in pair)
        found.append(SuiteComparison(suite, metric, is_rate, *pair))
    return sorted(found, key=lambda row: (row.suite, _rank(row.metric), row.metric))


_FIRST = ("task_success", "unsafe_calls", "unsafe_case_rate", "outcome_accuracy", "intent_accuracy")


def _rank(metric: str) -> int:
    return _FIRST.index(metric) if metric in _FIRST else len(_FIRST)


@contextmanager
def open_model(name: str, version: int, *, client: MlflowClient | None = None) -> Iterator[Path]:
    """Give the model folder of a version as the registry keeps it, for the length of the block.

    Raises:
        RequestError: There is no such version.
        IntegrityError: The registry's copy is not what was registered.
    """
    found = get_version(name, version, client=client)
    if found is None:
        raise RequestError(f"{name} has no agent version {version}")
    vault = open_store(client)._vault  # noqa: SLF001 - the registry's own
    with vault.opened(found.content_digest) as folder:
        yield folder


@contextmanager
def open_bundle(name: str, version: int, *, client: MlflowClient | None = None) -> Iterator[Path]:
    """Give the folder of a version's bundle, as `open_model`."""
    from mlflow_agent_plugin.core.flavor import DATA_DIR

    with open_model(name, version, client=client) as folder:
        yield folder / DATA_DIR


def read_graph(name: str, version: int, *, client: MlflowClient | None = None) -> str:
    """Return the drawing of a version's graph, empty if it has none; raises as `open_model`."""
    from mlflow_agent_plugin.core.drawing import MAX_GRAPH_CHARS
    from mlflow_agent_plugin.core.flavor import FLAVOR, GRAPH_KEY
    from mlflow_agent_plugin.package.reading import read_yaml
    from mlflow_agent_plugin.registry.content import MLMODEL

    with open_model(name, version, client=client) as folder:
        data = read_yaml(folder / MLMODEL, name=MLMODEL).data
    flavors = data.get("flavors") if isinstance(data, dict) else None
    flavor = flavors.get(FLAVOR) if isinstance(flavors, dict) else None
    graph = flavor.get(GRAPH_KEY) if isinstance(flavor, dict) else None
    return graph if isinstance(graph, str) and len(graph) <= MAX_GRAPH_CHARS else ""


def compare_versions(
    name: str, old: int, new: int, *, client: MlflowClient | None = None
) -> BundleDiff:
    """Say what changed between two registered versions, component by component.

    Raises:
        AgentError: A version does not exist, or its copy is not what was registered.
    """
    from mlflow_agent_plugin.package import diff

    with (
        open_bundle(name, old, client=client) as before,
        open_bundle(name, new, client=client) as after,
    ):
        return diff(before, after)


def evidence_runs(
    name: str, version: int, *, client: MlflowClient | None = None
) -> list[dict[str, Any]]:
    """Return the latest evidence per suite about a version: suite, run, time, cases' digest."""
    from mlflow_agent_plugin.registry.records import Records

    found = get_version(name, version, client=client)
    if found is None:
        return []
    with reading(client) as (connection, workspace):
        records = Records(connection, workspace, now=now())
        return [
            {
                "suite": item.suite,
                "run_id": item.run_id,
                "evaluated_at": item.evaluated_at,
                "suite_digest": item.suite_digest,
                "results_digest": item.results_digest,
            }
            for item in records.evidence(name, found.agent_digest)
        ]


def _measures(evidence: Sequence[SuiteEvidence]) -> dict[tuple[str, str], Measure]:
    return {
        (item.suite, metric): measure
        for item in evidence
        if item.problem is None
        for metric, measure in item.metrics.items()
    }
