"""Scenarios from production traces: what was handled once has to be handled so again.

Rules:
- One session is one scenario: its messages in order, the answers its tools gave (recorded, so that
  nothing real is touched), and what came of it: last outcome, writes that ran, calls refused.
- A person looks at the result before it becomes a suite: a trace shows what the agent did, not
  whether that was right. Sessions that failed are left out.
- Personal data is masked in the trace already, and masked again here. An argument that holds masked
  text is only asked to be there.
- Sessions with the same messages and the same outcome and calls are one scenario, however often
  they happened; its description says how often. The recorded answers are those of the first.
- A trace names neither the user (only a pseudonym) nor their roles: the caller gives the roles.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.core.tracing import mask_value
from mlflow_agent_plugin.development.scenario import Scenario
from mlflow_agent_plugin.development.scorers import RAN, Episode
from mlflow_agent_plugin.development.suite import Suite, check_suite
from mlflow_agent_plugin.development.traces import (
    read_episode,
    read_summary,
    read_turns,
    session_actor,
)
from mlflow_agent_plugin.entities import CallStatus, Effect, Outcome, canonical_json
from mlflow_agent_plugin.errors import DataError, SuiteError

if TYPE_CHECKING:
    from mlflow.entities import Trace

    from mlflow_agent_plugin.package import Bundle

MAX_TRACES = 10_000
MAX_TURNS = 100
_SESSION_KEY = "mlflow.trace.session"
_MASKED = re.compile(r"<[A-Z][A-Z_]*>|\[[A-Z][A-Z_]*\]")
_CALL_OF_ITS_OWN = frozenset({Effect.WRITE, Effect.IRREVERSIBLE})


@dataclass(frozen=True)
class TraceSuite:
    """A suite made from traces, and what was left out.

    Attributes:
        suite: The suite.
        sessions: Sessions that were looked at.
        merged: Sessions that say what another one says.
        skipped: Session to why it became no scenario.
    """

    suite: Suite
    sessions: int
    merged: int
    skipped: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary, without the scenarios."""
        return {
            "suite": self.suite.name,
            "digest": self.suite.digest,
            "scenarios": len(self.suite),
            "sessions": self.sessions,
            "merged": self.merged,
            "skipped": dict(self.skipped),
        }

    def summary(self) -> str:
        """Return one line for a log."""
        return (
            f"{len(self.suite)} scenarios from {self.sessions} sessions "
            f"({self.merged} merged, {len(self.skipped)} left out)"
        )


def find_traces(
    *,
    trace_ids: Sequence[str] = (),
    filter_string: str | None = None,
    experiment_ids: Sequence[str] = (),
    limit: int = 100,
) -> list[Trace]:
    """Return traces by id or by MLflow's search, each with the others of its session.

    Args:
        trace_ids: Traces by id.
        filter_string: A filter as for `mlflow.search_traces`.
        experiment_ids: Where to search; default: the current experiment.
        limit: At most so many found traces, newest first.

    Raises:
        DataError: Nothing was asked for, or nothing found.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    if bool(trace_ids) == (filter_string is not None):
        raise DataError("give either trace ids or a filter", where="traces")
    if not 1 <= limit <= MAX_TRACES:
        raise DataError(f"must be 1 to {MAX_TRACES}, not {limit}", where="limit")
    client = mlflow.MlflowClient()
    found: dict[str, Trace] = {}
    try:
        if trace_ids:
            for trace_id in trace_ids:
                found[trace_id] = client.get_trace(trace_id)
        else:
            for trace in mlflow.search_traces(
                locations=list(experiment_ids) or None,
                filter_string=filter_string,
                max_results=limit,
                return_type="list",
            ):
                found[trace.info.trace_id] = trace
        for place, session in sorted({_place(trace) for trace in found.values()}):
            quoted = session.replace("'", "''")
            for trace in mlflow.search_traces(
                locations=[place],
                filter_string=f"metadata.`{_SESSION_KEY}` = '{quoted}'",
                max_results=MAX_TURNS,
                return_type="list",
            ):
                found.setdefault(trace.info.trace_id, trace)
    except MlflowException as error:
        raise DataError(f"the traces cannot be read: {error.message}", where="traces") from error
    if not found:
        raise DataError("no trace was found", where="traces", hint="Widen the filter.")
    return list(found.values())


def suite_from_traces(
    traces: Iterable[Trace],
    bundle: Bundle,
    *,
    name: str,
    roles: Sequence[str] = (),
    world: Mapping[str, Any] | None = None,
) -> TraceSuite:
    """Make a suite of what the traces show.

    Args:
        traces: Traces of the agent, best with whole sessions (`find_traces`).
        bundle: The agent the suite is for; its contracts check what was recorded.
        name: Name of the suite.
        roles: Roles of the users; a trace does not keep them.
        world: World settings for tools nothing was recorded of.

    Raises:
        SuiteError: No trace became a scenario.
    """
    sessions: dict[str, list[Trace]] = {}
    for trace in traces:
        sessions.setdefault(_session_of(trace), []).append(trace)
    scenarios: dict[str, dict[str, Any]] = {}
    counted: Counter[str] = Counter()
    skipped: dict[str, str] = {}
    for session, several in sorted(sessions.items()):
        try:
            values = _scenario_values(several, bundle, roles, world or {})
            key = hashlib.sha256(canonical_json(_told(values))).hexdigest()[:16]
            candidate = _checked({**values, "id": f"trace/{key}"}, bundle, name)
        except (SuiteError, ValueError) as error:
            skipped[session] = str(error).splitlines()[0][:300]
            continue
        scenarios.setdefault(key, {"scenario": candidate, "trace": _first(several)})
        counted[key] += 1
    if not scenarios:
        why = next(iter(skipped.values()), "there was none")
        raise SuiteError(f"no session became a scenario: {why}", where=name)
    made = [
        found["scenario"].model_copy(
            update={"description": f"From trace {found['trace']}; seen {counted[key]} times."}
        )
        for key, found in scenarios.items()
    ]
    suite = Suite(
        name=name,
        scenarios=tuple(made),
        agent=bundle.manifest.name,
        description="Made from production traces; look at each before you rely on it.",
        reference=False,
    )
    return TraceSuite(
        suite=suite,
        sessions=len(sessions),
        merged=sum(counted.values()) - len(counted),
        skipped=skipped,
    )


def _scenario_values(
    traces: Sequence[Trace], bundle: Bundle, roles: Sequence[str], world: Mapping[str, Any]
) -> dict[str, Any]:
    episode = read_episode(traces)
    last = episode.last
    if last is None or not episode.texts:
        raise SuiteError("holds no turn of an agent")
    strangers = {reply.agent for reply in episode.replies} - {bundle.manifest.name}
    if strangers:
        raise SuiteError(f"is of another agent, {min(strangers)!r}")
    if any(reply.outcome is Outcome.FAILED for reply in episode.replies):
        raise SuiteError("the agent failed in it")
    if len(episode.texts) > MAX_TURNS:
        raise SuiteError(f"has more than {MAX_TURNS} messages")
    actor = session_actor(read_summary(max(traces, key=lambda trace: trace.info.request_time)))
    values: dict[str, Any] = {
        "actor": {"user": actor.user, "tenant": actor.tenant, "roles": sorted(roles)},
        "turns": [{"user": mask_value(text)} for text in episode.texts],
        "max_turns": max(20, len(episode.texts)),
        "approvals": list(_approvals(episode)),
        "simulated": list(_recorded(episode)),
        "expect": _expect(episode, bundle),
        "tags": ["from-traces"],
    }
    if world:
        values["world"] = dict(world)
    return {key: value for key, value in values.items() if value != []}


def _recorded(episode: Episode) -> Iterator[dict[str, Any]]:
    seen = set()
    for call in episode.calls():
        if call.status is not CallStatus.EXECUTED or not isinstance(call.output, dict):
            continue
        arguments = _matchers(call.arguments)
        key = canonical_json([call.tool, arguments])
        # The first answer counts: the same question again, later, may have another one.
        if key not in seen:
            seen.add(key)
            output = mask_value(call.output)
            yield {"tool": call.tool, "arguments": arguments, "output": output}


def _approvals(episode: Episode) -> Iterator[dict[str, Any]]:
    waited = {
        call.tool
        for reply in episode.replies
        for call in reply.calls
        if call.status is CallStatus.WAITING_APPROVAL
    }
    for tool in sorted(waited):
        # A paused call goes on in a later turn under the same tool.
        became = {
            call.status
            for reply in episode.replies
            for call in reply.calls
            if call.tool == tool and call.status is not CallStatus.WAITING_APPROVAL
        }
        if CallStatus.REJECTED in became:
            yield {"tool": tool, "answer": "reject"}
        elif became & RAN:
            yield {"tool": tool, "answer": "approve"}


def _expect(episode: Episode, bundle: Bundle) -> dict[str, Any]:
    effects = {name: bundle.contracts[name].effect for name in bundle.manifest.usable_tools()}
    counted: Counter[bytes] = Counter()
    wanted: dict[bytes, dict[str, Any]] = {}
    refused: dict[bytes, dict[str, Any]] = {}
    for call in episode.calls():
        rule = {"tool": call.tool, "arguments": _matchers(call.arguments)}
        key = canonical_json(rule)
        if call.status is CallStatus.EXECUTED and effects.get(call.tool) in _CALL_OF_ITS_OWN:
            counted[key] += 1
            wanted[key] = rule
        elif call.status in (CallStatus.DENIED, CallStatus.REJECTED) and call.tool in effects:
            refused[key] = rule
    expect: dict[str, Any] = {"outcomes": [episode.outcome.value]}
    if wanted:
        expect["calls_required"] = [{**rule, "count": counted[key]} for key, rule in wanted.items()]
    forbidden = [rule for key, rule in refused.items() if key not in wanted]
    if forbidden:
        expect["calls_forbidden"] = forbidden
    return expect


def _matchers(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: {"exists": True} if _is_masked(value) else {"equals": value}
        for name, value in sorted(arguments.items())
    }


def _is_masked(value: Any) -> bool:
    return mask_value(value) != value or _MASKED.search(canonical_json(value).decode()) is not None


def _checked(values: Mapping[str, Any], bundle: Bundle, name: str) -> Scenario:
    scenario = Scenario.model_validate(values)
    check_suite(Suite(name=name, scenarios=(scenario,)), bundle)
    return scenario


def _told(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what makes two scenarios the same: not who asked, nor the numbers tools answered."""
    told = {key: value for key, value in values.items() if key not in ("actor", "simulated")}
    told["turns"] = [" ".join(turn["user"].split()).casefold() for turn in values["turns"]]
    return told


def _session_of(trace: Trace) -> str:
    turns = read_turns(trace)
    return turns[0].reply.session_id if turns else str(trace.info.trace_id)


def _place(trace: Trace) -> tuple[str, str]:
    return str(trace.info.experiment_id), _session_of(trace)


def _first(traces: Sequence[Trace]) -> str:
    return str(min(traces, key=lambda trace: trace.info.request_time).info.trace_id)
