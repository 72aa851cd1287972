"""A candidate that is shown traffic and changes nothing.

Rules:
- A shadow's tools that read run. One that writes does not: it answers what the incumbent's same
  call (same tool, same arguments) answered in the same turn, and fails if there was none.
- A call that would wait for a person is denied: nobody is asked on behalf of a shadow.
- A shadow that wanted to write what the incumbent did not, or to ask where it did not, counts as no
  success: a shadow is measured against what was done.
- Its sessions are its own, its quotas are counted in this process alone, and it leaves no traces;
  its decisions are audited like any other.
"""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.entities import (
    AgentReply,
    AgentRequest,
    Decision,
    DecisionValue,
    Effect,
    PolicyRequest,
    canonical_json,
)
from mlflow_agent_plugin.errors import ToolCallError
from mlflow_agent_plugin.lifecycle.rollout.judging import TurnVerdict, judge_error, judge_reply

if TYPE_CHECKING:
    from mlflow_agent_plugin.config import Settings
    from mlflow_agent_plugin.core import AgentRuntime
    from mlflow_agent_plugin.package import Bundle
    from mlflow_agent_plugin.trust import PolicyEngine

Answers = dict[tuple[str, bytes], Any]
"""Tool and arguments of an executed call to its output."""


class CallTape:
    """What the tools of one runtime answered, for the sessions somebody listens to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tapes: dict[str, Answers] = {}

    @contextmanager
    def record(self, session_id: str) -> Iterator[Answers]:
        """Give the calls of a session while the block runs."""
        tape: Answers = {}
        with self._lock:
            self._tapes[session_id] = tape
        try:
            yield tape
        finally:
            with self._lock:
                self._tapes.pop(session_id, None)

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the tool's function, recording where it is listened to."""

        @functools.wraps(function)
        def run(context: Any, **arguments: Any) -> Any:
            output = function(context, **arguments)
            tape = self._tapes.get(context.session_id)
            if tape is not None:
                tape[(name, _spelled(arguments))] = output
            return output

        return run


class Shadow:
    """A candidate opened as a shadow.

    Args:
        bundle: Its verified content.
        settings: Settings of this process.
        version: Registered version, for the records.
    """

    def __init__(self, bundle: Bundle, *, settings: Settings, version: str | None) -> None:
        from mlflow_agent_plugin.core import AgentRuntime
        from mlflow_agent_plugin.trust import CedarPolicyEngine

        self._effects = {name: contract.effect for name, contract in bundle.contracts.items()}
        self._answers: dict[str, Answers] = {}
        self._withheld: set[str] = set()
        self.runtime: AgentRuntime = AgentRuntime.open(
            bundle,
            settings=replace(settings, limits_uri="memory://", quotas=None),
            tracing=False,
            tool_wrapper=self._wrap,
            policies=_ShadowPolicies(CedarPolicyEngine.from_bundle(bundle)),
            version=version,
        )

    def judge(self, request: AgentRequest, answers: Answers) -> TurnVerdict:
        """Ask the candidate what the incumbent was asked; return what its answer says.

        Args:
            request: The incumbent's turn, with its session.
            answers: What the incumbent's tools answered in that turn.
        """
        session_id = shadow_session(request.session_id or "")
        self._answers[session_id] = answers
        self._withheld.discard(session_id)
        try:
            reply = self.runtime.invoke(replace(request, session_id=session_id))
        except Exception as error:
            return judge_error(error)
        finally:
            self._answers.pop(session_id, None)
        return self._verdict(reply, session_id)

    def close(self) -> None:
        """Close the runtime."""
        self.runtime.close()

    def _verdict(self, reply: AgentReply, session_id: str) -> TurnVerdict:
        verdict = judge_reply(reply)
        if session_id in self._withheld:
            self._withheld.discard(session_id)
            return replace(verdict, ended=True, success=False)
        asked = any(_SHADOW in call.policy_ids for call in reply.calls)
        return replace(verdict, ended=True, success=False) if asked else verdict

    def _wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        if self._effects[name] is Effect.READ:
            return function

        @functools.wraps(function)
        def withheld(context: Any, **arguments: Any) -> Any:
            answers: Mapping[tuple[str, bytes], Any] = self._answers.get(context.session_id, {})
            found = answers.get((name, _spelled(arguments)))
            if found is None:
                self._withheld.add(context.session_id)
                raise ToolCallError("a shadow does not write", where=name)
            return found

        return withheld


_SHADOW = "shadow-asks-nobody"


class _ShadowPolicies:
    """The candidate's policies; what would wait for a person is denied."""

    def __init__(self, policies: PolicyEngine) -> None:
        self._policies = policies
        self.digest = policies.digest

    def decide(self, request: PolicyRequest) -> Decision:
        """Decide as the policies do, but ask nobody."""
        decision = self._policies.decide(request)
        if decision.value is not DecisionValue.NEEDS_APPROVAL:
            return decision
        return Decision(
            DecisionValue.DENY,
            policy_ids=(*decision.policy_ids, _SHADOW),
            reason="a shadow asks nobody for approval",
        )

    def decide_approved(self, request: PolicyRequest, *, role: str, quorum: int = 1) -> Decision:
        """Deny: nobody approved anything for a shadow."""
        del role, quorum
        return self.decide(request)


def shadow_session(session_id: str) -> str:
    """Return the session a shadow of `session_id` has of its own."""
    digest = hashlib.sha256(session_id.encode("utf-8", "surrogatepass")).hexdigest()
    return f"shadow-{digest[:40]}"


def _spelled(arguments: Mapping[str, Any]) -> bytes:
    try:
        return canonical_json(dict(arguments))
    except ValueError:  # what JSON cannot spell is compared as it is written
        return repr(sorted(arguments.items())).encode("utf-8", "backslashreplace")
