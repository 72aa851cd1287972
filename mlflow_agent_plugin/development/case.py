"""Plays one scenario against an opened agent and judges it.

Rules:
- The agent, its policies, approvals, ledger and audit are the real ones; only the world and the
  humans are the scenario's.
- Nothing that happens in a scenario leaves as an exception: it is a failed case.
- What goes into the result is free of times, random ids and memory addresses, so that the same
  agent, suite and seed give the same bytes.
"""

from __future__ import annotations

import hashlib
import random
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.config import Settings
from mlflow_agent_plugin.core import AgentRuntime
from mlflow_agent_plugin.core.assembly import open_resources
from mlflow_agent_plugin.development.compromised import CompromisedModel
from mlflow_agent_plugin.development.matching import MISSING
from mlflow_agent_plugin.development.measures import measure_calls
from mlflow_agent_plugin.development.scenario import Scenario, ScriptedAnswer
from mlflow_agent_plugin.development.scorers import Episode, Score, score, totals
from mlflow_agent_plugin.development.users import SimulatedUser
from mlflow_agent_plugin.development.worlds import World, Worlds
from mlflow_agent_plugin.entities import (
    Actor,
    AgentReply,
    AgentRequest,
    Effect,
    Outcome,
    PendingApproval,
)
from mlflow_agent_plugin.errors import AgentError
from mlflow_agent_plugin.observability.schema import row_from_reply
from mlflow_agent_plugin.trust import CaseResult

if TYPE_CHECKING:
    from mlflow_agent_plugin.package import Bundle
    from mlflow_agent_plugin.store import Store

MAX_ANSWER_CHARS = 2000
MAX_RESUMPTIONS = 20


@dataclass(frozen=True)
class CaseRun:
    """One played case.

    Attributes:
        result: The row of the results table.
        seconds: Wall-clock time of the whole case.
        turn_seconds: Of each of the agent's turns.
        answer: The agent's last answer.
        monitoring: Rows of the monitoring table, one for each turn, as JSON values.
    """

    result: CaseResult
    seconds: float
    turn_seconds: tuple[float, ...] = ()
    answer: str = ""
    monitoring: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {
            "result": self.result.model_dump(mode="json"),
            "seconds": self.seconds,
            "turn_seconds": list(self.turn_seconds),
            "answer": self.answer,
            "monitoring": [
                {**row, "event_time": row["event_time"].isoformat()} for row in self.monitoring
            ],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CaseRun:
        """Read what `to_dict` gave.

        Raises:
            ValueError: It is something else.
        """
        try:
            return cls(
                result=CaseResult.model_validate(values["result"]),
                seconds=float(values["seconds"]),
                turn_seconds=tuple(map(float, values["turn_seconds"])),
                answer=str(values["answer"]),
                monitoring=tuple(
                    {**row, "event_time": datetime.fromisoformat(row["event_time"])}
                    for row in values["monitoring"]
                ),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a case run: {error!r}") from error


class CasePlayer:
    """An opened agent that plays scenarios one after another.

    Args:
        bundle: The agent.
        store: Runtime store of the evaluation, never that of production.
        suite: Name of the suite, for the results.
        now: The time it is in every scenario.
        environment: What policies see as ``context.session.environment``.
        seed: Seed of the run.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        store: Store,
        suite: str,
        now: datetime,
        environment: str = "production",
        seed: int = 0,
    ) -> None:
        from langgraph.checkpoint.memory import InMemorySaver

        self._bundle = bundle
        self._suite = suite
        self._now = now
        self._seed = seed
        self._worlds = Worlds()
        self._effects: dict[str, Effect] = {
            name: bundle.contracts[name].effect for name in bundle.manifest.usable_tools()
        }
        self._checkpointer: Any = InMemorySaver()
        self._store = store
        self._environment = environment
        self._scripts: dict[str, Scenario] = {}
        self._hijacked: AgentRuntime | None = None
        self.runtime = self._open()

    def _open(self, model: CompromisedModel | None = None) -> AgentRuntime:
        return AgentRuntime.open(
            self._bundle,
            store=self._store,
            resources=self._worlds,
            clock=lambda: self._now,
            checkpointer=self._checkpointer,
            # Not from the environment: results must not depend on who evaluates where.
            settings=Settings(environment=self._environment, tracing=False),
            tracing=False,
            tool_wrapper=self._worlds.wrap,
            model=model,
        )

    def _runtime_for(self, scenario: Scenario) -> AgentRuntime:
        """Return the agent as it is, or with a model in an attacker's hand."""
        if not scenario.compromised_model:
            return self.runtime
        if self._hijacked is None:
            self._hijacked = self._open(CompromisedModel(scripts=self._scripts))
        return self._hijacked

    def close(self) -> None:
        """Close the agent."""
        self.runtime.close()
        if self._hijacked is not None:
            self._hijacked.close()

    def play(self, scenario: Scenario) -> CaseRun:
        """Play `scenario` and judge what happened."""
        started = time.perf_counter()
        key = f"{self._suite}:{self._seed}:{scenario.id}"
        session_id = "case-" + hashlib.sha256(key.encode()).hexdigest()[:32]
        _seed_generators(key)
        episode = self._episode(scenario, session_id)
        try:
            judged = score(scenario, episode, self._effects)
            result = case_result(scenario, episode, judged, suite=self._suite)
            monitoring = tuple(self._monitoring(scenario, episode))
        except Exception as problem:  # e.g. a world whose snapshot is no JSON value
            why = f"what happened cannot be judged: {_spell(problem)}"
            return stopped_case(scenario, why, suite=self._suite)
        return CaseRun(
            result=result,
            seconds=time.perf_counter() - started,
            turn_seconds=tuple(reply.seconds for reply in episode.replies),
            answer="" if episode.last is None else episode.last.text[:MAX_ANSWER_CHARS],
            monitoring=monitoring,
        )

    def _episode(self, scenario: Scenario, session_id: str) -> Episode:
        turns: list[tuple[str | None, AgentReply]] = []
        world: World | None = None
        error: str | None = None
        end_state: Any = MISSING
        try:
            self._runtime_for(scenario).forget_traffic()
            resources = open_resources(self._bundle, scenario.world)
            world = World(scenario, resources, self._seed, self._bundle.contracts)
            self._worlds.enter(session_id, world)
            self._scripts[session_id] = scenario
            for turn in self._conversation(scenario, session_id):
                turns.append(turn)  # noqa: PERF402 - what was said before an error has to stay
            end_state = world.snapshot()
        except Exception as problem:
            error = _spell(problem)
        finally:
            self._worlds.leave(session_id)
            self._scripts.pop(session_id, None)
            # Sessions of an evaluation are not continued: keep the memory flat.
            self._checkpointer.delete_thread(session_id)
            if world is not None:
                try:
                    world.close()
                except Exception as problem:
                    error = error or f"closing the world: {_spell(problem)}"
        return Episode(tuple(turns), end_state, error)

    def _conversation(
        self, scenario: Scenario, session_id: str
    ) -> Iterator[tuple[str | None, AgentReply]]:
        actor = scenario.actor.actor()
        user = SimulatedUser(scenario, self._bundle)
        runtime = self._runtime_for(scenario)
        text: str | None = user.first()
        while text is not None:
            reply = runtime.invoke(AgentRequest(text=text, session_id=session_id, actor=actor))
            yield text, reply
            for _ in range(MAX_RESUMPTIONS):
                if not self._answer_approvals(scenario, reply, actor):
                    break
                reply = runtime.invoke(
                    AgentRequest(text="", session_id=session_id, actor=actor, resume=True)
                )
                yield None, reply
            text = user.next(reply)

    def _answer_approvals(self, scenario: Scenario, reply: AgentReply, actor: Actor) -> bool:
        """Let the scripted human answer; say whether the session can go on."""
        if reply.outcome is not Outcome.WAITING_APPROVAL:
            return False
        answered = False
        for approval in reply.approvals:
            rule = _rule_for(scenario, approval)
            if rule is None:
                continue
            human = Actor(
                user="scripted-reviewer",
                tenant=actor.tenant,
                roles=frozenset({rule.role or approval.role}),
                verified=True,
            )
            queue = self.runtime.approvals
            if rule.answer == "approve":
                found = queue.approve(approval.approval_id, human, rule.reason)
                # The script answers for as many people as the policies ask.
                while found.state.value == "waiting":
                    other = replace(human, user=f"{human.user}-{found.yeses + 1}")
                    found = queue.approve(approval.approval_id, other, rule.reason)
            else:
                queue.reject(approval.approval_id, human, rule.reason)
            answered = True
        return answered

    def _monitoring(self, scenario: Scenario, episode: Episode) -> Iterator[dict[str, Any]]:
        # One row for each turn the user asked for; a resumption belongs to the turn before it.
        asked = [(text, reply) for text, reply in episode.turns if text is not None]
        for at, (text, reply) in enumerate(asked):
            yield row_from_reply(
                reply,
                text=text,
                event_time=self._now,
                actor=scenario.actor.actor(),
                trace_id=f"{self._suite}/{scenario.id}/{at}",
            )


def case_result(scenario: Scenario, episode: Episode, judged: Score, *, suite: str) -> CaseResult:
    """Return the row of the results table."""
    first = episode.replies[0] if episode.replies else None
    outcome = episode.outcome
    expected = scenario.expected_outcome() or None
    if outcome in scenario.expect.outcomes:
        expected = outcome.value  # several may be right; it was this one
    confidence = None if first is None else first.confidence
    texts = episode.texts or [scenario.turns[0].user]
    spent = totals(episode, judged.calls)
    measured = measure_calls(scenario.expect, judged.calls)
    return CaseResult(
        case_id=scenario.id,
        suite=suite,
        text="\n".join(texts),
        outcome=outcome.value,
        expected_outcome=expected,
        success=judged.success,
        failures=list(judged.failures),
        intent=None if first is None else first.intent,
        expected_intent=scenario.expected_intent(),
        confidence=None if confidence is None else round(min(1.0, max(0.0, confidence)), 6),
        calls=[
            {"tool": call.tool, "arguments": dict(call.arguments), "status": call.status.value}
            for call in judged.calls
        ],
        unsafe_calls=judged.unsafe_calls,
        calls_expected=measured.expected,
        calls_matched=measured.matched,
        arguments_expected=measured.arguments,
        arguments_matched=measured.arguments_right,
        escalated=outcome is Outcome.ESCALATED,
        refused=outcome is Outcome.REFUSED,
        clarified=any(reply.outcome is Outcome.CLARIFIED for reply in episode.replies),
        input_tokens=int(spent["input_tokens"]),
        output_tokens=int(spent["output_tokens"]),
        cost_usd=float(spent["cost_usd"]),
        steps=int(spent["steps"]),
        tags=sorted(set(scenario.tags)),
    )


def stopped_case(scenario: Scenario, why: str, *, suite: str, seconds: float = 0.0) -> CaseRun:
    """Return the failed run of a case that was stopped from outside."""
    episode = Episode(error=why)
    judged = Score(failures=(f"stopped: {why}",))
    return CaseRun(case_result(scenario, episode, judged, suite=suite), seconds=seconds)


def _rule_for(scenario: Scenario, approval: PendingApproval) -> ScriptedAnswer | None:
    for rule in scenario.approvals:
        if rule.tool is None or rule.tool == approval.tool:
            return rule
    return None


def _spell(problem: BaseException) -> str:
    """Spell an exception without ids that differ from run to run."""
    if isinstance(problem, AgentError):
        return f"{type(problem).__name__}: {problem.problem}"
    text = " ".join(str(problem).split())[:300]
    return f"{type(problem).__name__}: {text}" if text else type(problem).__name__


def _seed_generators(key: str) -> None:
    number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big")
    random.seed(number)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(number)
