"""Says what people think of an answer, as MLflow assessments on the request's trace.

Rules:
- A thumb is the feedback `THUMB_ASSESSMENT` (true or false); a correction is the expectation
  `intent` (what the request really was, the label the retraining learns from) or
  `ANSWER_EXPECTATION` (what the answer should have been, MLflow's own name for it). Reviewers'
  answers to tool calls are `reviews`; `labels` collects all of them.
- One thumb and one correction per person and request: a later one of the same person takes the
  earlier one's place, and the same one again changes nothing.
- Texts are masked before they leave; only requests to an agent can be commented on.
- Who speaks for a tenant reaches that tenant's requests only; another's trace is like none.
"""

from __future__ import annotations

from typing import Any

from mlflow_agent_plugin.entities.sensitive import mask_text
from mlflow_agent_plugin.errors import DataError, NotFoundError
from mlflow_agent_plugin.lifecycle.labels import (
    ANSWER_EXPECTATION,
    LABEL_ASSESSMENT,
    THUMB_ASSESSMENT,
    is_human,
    said_at,
    value_of,
)
from mlflow_agent_plugin.observability.schema import row_from_summary, summary_of

MAX_COMMENT_CHARS = 2000
MAX_ANSWER_CHARS = 8000
MAX_INTENT_CHARS = 200


def give_thumb(
    trace_id: str,
    *,
    up: bool,
    by: str,
    comment: str | None = None,
    tenant: str | None = None,
    tracking_uri: str | None = None,
) -> None:
    """Say that an answer was good or not.

    Args:
        trace_id: The request's trace.
        up: Good.
        by: Who says so.
        comment: Why.
        tenant: The tenant he speaks for; None: of any.
        tracking_uri: Where the trace is; None: MLflow's own setting.

    Raises:
        NotFoundError: There is no such trace, or it is another tenant's.
        DataError: It is not of an agent, or `by` is empty.
        MlflowException: The tracking server refused, or is away.
    """
    client, info = _agent_trace(trace_id, by, tenant, tracking_uri)
    _put(client, info, THUMB_ASSESSMENT, up, by=by, comment=comment)


def correct_request(
    trace_id: str,
    *,
    by: str,
    intent: str | None = None,
    answer: str | None = None,
    comment: str | None = None,
    tenant: str | None = None,
    tracking_uri: str | None = None,
) -> None:
    """Say what a request really was, or what its answer should have been.

    Args:
        trace_id: The request's trace.
        by: Who says so.
        intent: The right intent; it becomes a label for the retraining.
        answer: The right answer.
        comment: Why.
        tenant: As `give_thumb`.
        tracking_uri: As `give_thumb`.

    Raises:
        NotFoundError: As `give_thumb`.
        DataError: As `give_thumb`, or nothing is corrected.
        MlflowException: The tracking server refused, or is away.
    """
    given = {
        LABEL_ASSESSMENT: (intent or "").strip()[:MAX_INTENT_CHARS],
        ANSWER_EXPECTATION: (answer or "").strip()[:MAX_ANSWER_CHARS],
    }
    wanted = {name: text for name, text in given.items() if text}
    if not wanted:
        raise DataError("nothing is corrected", hint="Give an intent or an answer.")
    client, info = _agent_trace(trace_id, by, tenant, tracking_uri)
    for name, text in wanted.items():
        _put(client, info, name, mask_text(text), by=by, comment=comment)


def _agent_trace(
    trace_id: str, by: str, tenant: str | None, tracking_uri: str | None
) -> tuple[Any, Any]:
    from mlflow.exceptions import MlflowException
    from mlflow.tracing.client import TracingClient

    if not by.strip():
        raise DataError("nobody says so", where="by", hint="Say who gives the feedback.")
    unknown = NotFoundError(
        "there is no such trace",
        where=trace_id[:80],
        hint="A new one takes a moment to arrive, longer while the tracking server is away.",
    )
    client = TracingClient(tracking_uri)
    try:
        info = client.get_trace_info(trace_id)
    except MlflowException as error:
        if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND", "INVALID_PARAMETER_VALUE"}:
            raise unknown from error
        raise
    summary = summary_of(info)
    if tenant is not None and (
        summary is None or row_from_summary(summary, trace_id=info.trace_id)["tenant"] != tenant
    ):
        raise unknown
    if summary is None:
        raise DataError("is no request to an agent", where=f"trace {trace_id}")
    return client, info


def _put(client: Any, info: Any, name: str, value: Any, *, by: str, comment: str | None) -> None:
    from mlflow.entities import AssessmentSource, Expectation, Feedback

    source = AssessmentSource(source_type="HUMAN", source_id=by)
    why = mask_text(comment)[:MAX_COMMENT_CHARS] if comment else None
    earlier = sorted(
        (
            a
            for a in info.assessments or ()
            if a.name == name and a.valid is not False and a.source.source_id == by and is_human(a)
        ),
        key=said_at,
    )
    thumb = name == THUMB_ASSESSMENT
    last = earlier[-1] if earlier else None
    if last is not None and value_of(last) == value:
        before = last.rationale if thumb else (last.metadata or {}).get("comment")
        if before == why:
            return
    if thumb:
        said = Feedback(
            name=name,
            value=value,
            source=source,
            rationale=why,
            overrides=None if last is None else last.assessment_id,
        )
        client.log_assessment(info.trace_id, said)
        return
    # MLflow overrides feedback only: an expectation of the same person is taken back.
    metadata = None if why is None else {"comment": why}
    client.log_assessment(
        info.trace_id, Expectation(name=name, value=value, source=source, metadata=metadata)
    )
    for each in earlier:
        client.delete_assessment(info.trace_id, each.assessment_id)
