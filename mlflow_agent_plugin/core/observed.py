"""The parts of a turn, wrapped so that what they do becomes spans and events.

Rules:
- A wrapper changes nothing: same arguments, same results, same errors.
- None of them is there when nothing is traced.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache, wraps
from typing import TYPE_CHECKING, Any, cast

from mlflow_agent_plugin.core.tracing import Span, Tracer, keep_step
from mlflow_agent_plugin.core.turn import CURRENT_TURN
from mlflow_agent_plugin.entities import DecisionValue, Provenance, Violation
from mlflow_agent_plugin.errors import RequestError
from mlflow_agent_plugin.observability.steps import Step
from mlflow_agent_plugin.trust.privacy.filter import WITHHELD

if TYPE_CHECKING:
    from langchain_core.callbacks import BaseCallbackHandler

    from mlflow_agent_plugin.core.gateway import Governance
    from mlflow_agent_plugin.entities import Decision, PolicyRequest
    from mlflow_agent_plugin.information import KnowledgeIndex


def observe_governance(governance: Governance, tracer: Tracer) -> Governance:
    """Return `governance` whose decisions, approvals and privacy actions leave their traces."""
    if not tracer.measuring:
        return governance
    return replace(
        governance,
        policies=cast("Any", _Policies(governance.policies, tracer)),
        approvals=cast("Any", _Approvals(governance.approvals, tracer)),
        privacy=cast("Any", _Privacy(governance.privacy, tracer)),
    )


def observe_functions(
    functions: Mapping[str, Callable[..., Any]], tracer: Tracer
) -> dict[str, Callable[..., Any]]:
    """Return tool functions each try of which is an event of the call's span."""
    if not tracer.measuring:
        return dict(functions)
    return {name: _observe_tool(function, tracer) for name, function in functions.items()}


def observe_knowledge(index: KnowledgeIndex | None, tracer: Tracer) -> KnowledgeIndex | None:
    """Return an index whose searches are spans with the chunks' ids and scores."""
    if index is None or not tracer.measuring:
        return index
    return cast("KnowledgeIndex", _Knowledge(index, tracer))


_WITHHELD_ANSWER = WITHHELD.partition("{")[0]


class _Wrapped:
    """Everything not named here is the wrapped object's own."""

    def __init__(self, inner: Any, tracer: Tracer) -> None:
        self._inner = inner
        self._tracer = tracer

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("_inner", "_tracer"):
            raise AttributeError(name)
        return getattr(self._inner, name)


class _Policies(_Wrapped):
    def decide(self, request: PolicyRequest) -> Decision:
        with self._tracer.span(f"policy {request.tool}", "GUARDRAIL") as span:
            decision: Decision = self._inner.decide(request)
            span.set_attribute("agent.decision", decision.value.value)
            span.set_attribute("agent.policy_ids", list(decision.policy_ids))
            span.set_attribute("agent.policy_digest", str(self._inner.digest))
        turn = CURRENT_TURN.get()
        if turn is not None and decision.value is DecisionValue.DENY:
            untrusted = Provenance.UNTRUSTED.value in request.provenance.values()
            turn.note_violation(Violation.UNTRUSTED_TARGET if untrusted else Violation.DENIED_CALL)
        return decision


class _Approvals(_Wrapped):
    def request(self, *arguments: Any, **named: Any) -> Any:
        approval = self._inner.request(*arguments, **named)
        _note(self._tracer, "approval requested", approval)
        return approval

    def find(self, *arguments: Any, **named: Any) -> Any:
        approval = self._inner.find(*arguments, **named)
        answered = None if approval is None else getattr(approval, "answered_at", None)
        if approval is not None and answered is not None:
            with self._tracer.span("approval wait", "GUARDRAIL") as span:
                span.set_attribute("agent.approval_id", approval.approval_id)
                span.set_attribute("agent.approval_state", approval.state.value)
                waited = (answered - approval.created_at).total_seconds()
                span.set_attribute("agent.waited_seconds", waited)
            turn = CURRENT_TURN.get()
            if turn is not None:
                turn.note_answer(approval.approval_id, approval.state.value, waited)
        return approval


class _Privacy(_Wrapped):
    """Notes that the filter changed something, or held it back, never what."""

    def user_text(self, text: str, **named: Any) -> Any:
        try:
            found = self._inner.user_text(text, **named)
        except RequestError:
            _violated(Violation.PRIVACY_BLOCKED)
            raise
        return self._noted("user_text", text, found)

    def answer(self, text: str, **named: Any) -> Any:
        found = self._inner.answer(text, **named)
        if found != text and str(found).startswith(_WITHHELD_ANSWER):
            _violated(Violation.PRIVACY_BLOCKED)
        return self._noted("answer", text, found)

    def arguments(self, governed: Any) -> Any:
        found = self._inner.arguments(governed)
        return self._noted("arguments", governed.call.arguments, found)

    def output(self, governed: Any, output: Any) -> Any:
        found = self._inner.output(governed, output)
        if found is not output and found != output and list(found) == ["withheld"]:
            _violated(Violation.PRIVACY_BLOCKED)
        return self._noted("output", output, found)

    def _noted(self, where: str, before: Any, after: Any) -> Any:
        if after is not before and after != before:
            span = self._tracer.current()
            if span is not None:
                span.add_event("privacy", {"where": where, "action": "replaced"})
        return after


class _Knowledge(_Wrapped):
    def search(self, query: str, top_k: int | None = None, **named: Any) -> Any:
        with self._tracer.span("retrieval knowledge", "RETRIEVER", {"query": query}) as span:
            found = self._inner.search(query, top_k, **named)
            span.set_outputs(
                [
                    {"id": p.chunk_id, "metadata": {"score": p.score, "source": p.source}}
                    for p in found
                ]
            )
            span.set_attribute("agent.chunks", len(found))
        return found

    def __len__(self) -> int:
        return len(self._inner)


def _violated(kind: Violation) -> None:
    turn = CURRENT_TURN.get()
    if turn is not None:
        turn.note_violation(kind)


def _note(tracer: Tracer, name: str, approval: Any) -> None:
    span = tracer.current()
    if span is not None:
        span.add_event(name, {"approval_id": approval.approval_id, "role": approval.role})


def _observe_tool(function: Callable[..., Any], tracer: Tracer) -> Callable[..., Any]:
    @wraps(function)
    def tried(context: Any, *arguments: Any, **named: Any) -> Any:
        turn = CURRENT_TURN.get()
        number = 1 if turn is None else turn.count_try(context.idempotency_key)
        begun = time.perf_counter()
        error: str | None = None
        try:
            return function(context, *arguments, **named)
        except BaseException as raised:
            error = type(raised).__name__
            raise
        finally:
            span = tracer.current()
            if span is not None:
                seconds = round(time.perf_counter() - begun, 6)
                facts = {"number": number, "seconds": seconds, "error": error or ""}
                span.add_event("tool try", facts)

    return tried


def model_spans(tracer: Tracer) -> BaseCallbackHandler:
    """Return a LangChain callback handler that makes each model call a span."""
    return cast("BaseCallbackHandler", _handler_class()(tracer))


@lru_cache(maxsize=1)
def _handler_class() -> type[Any]:
    from langchain_core.callbacks import BaseCallbackHandler

    class ModelSpans(BaseCallbackHandler):
        """A span named "plan" per model call: model, tokens, what was planned."""

        # The rest of a graph's events is not looked at: LangChain then does not even send it.
        ignore_chain = True
        ignore_agent = True
        ignore_retriever = True
        ignore_retry = True
        ignore_custom_event = True

        def __init__(self, tracer: Tracer) -> None:
            self._tracer = tracer
            self._open: dict[Any, tuple[Span, float]] = {}

        def on_chat_model_start(
            self, serialized: Any, messages: Any, *, run_id: Any, **named: Any
        ) -> None:
            del serialized
            name = str((named.get("metadata") or {}).get("ls_model_name") or "model")
            live = None
            if self._tracer.enabled:
                live = _child_span("plan", "CHAT_MODEL")
                live.set_inputs({"messages": sum(len(batch) for batch in messages)})
            self._open[run_id] = (Span(live, Step(kind="model", name=name)), time.perf_counter())

        def on_llm_end(self, response: Any, *, run_id: Any, **_named: Any) -> None:
            span, begun = self._open.pop(run_id, (None, 0.0))
            if span is None:
                return
            message = getattr(response.generations[0][0], "message", None)
            _describe(span, message, self._tracer)
            _close(span, begun)

        def on_llm_error(self, error: BaseException, *, run_id: Any, **_named: Any) -> None:
            span, begun = self._open.pop(run_id, (None, 0.0))
            if span is not None:
                span.fail(error)
                _close(span, begun)

    return ModelSpans


def _child_span(name: str, span_type: str) -> Any:
    import mlflow

    from mlflow_agent_plugin.observability.spool import OWN_SPAN_KEY

    return mlflow.start_span_no_context(
        name,
        span_type=span_type,
        parent_span=mlflow.get_current_active_span(),
        attributes={OWN_SPAN_KEY: True},
    )


def _describe(span: Span, message: Any, tracer: Tracer) -> None:
    if message is None:
        return
    facts = getattr(message, "response_metadata", None) or {}
    usage = getattr(message, "usage_metadata", None) or {}
    model = facts.get("model_name") or facts.get("model")
    if model:
        span.set_attribute("mlflow.llm.model", str(model))
        if span.step is not None:
            span.step.name = str(model)
    if usage:
        tokens = {name: int(usage.get(name, 0)) for name in ("input_tokens", "output_tokens")}
        for name, count in tokens.items():
            span.set_attribute(f"agent.{name}", count)
        total = sum(tokens.values())
        span.set_attribute("mlflow.chat.tokenUsage", {**tokens, "total_tokens": total})
    for name in ("intent", "confidence"):
        if facts.get(name) is not None:
            span.set_attribute(f"agent.{name}", facts[name])
    calls = [call["name"] for call in getattr(message, "tool_calls", None) or []]
    answer = "" if calls else str(getattr(message, "text", ""))
    span.set_outputs(tracer.mask({"tool_calls": calls, "text": answer[:2000]}))


def _close(span: Span, begun: float) -> None:
    if span.step is not None:
        keep_step(span.step, begun)
    span.end()
