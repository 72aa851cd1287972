"""Reviewers' answers on the traces of the requests they were about, on a real tracking store."""

from __future__ import annotations

import shutil
from datetime import datetime, timedelta, timezone

import mlflow
import pytest
from helpers.shelf_agent import call, write_bundle

from mlflow_agent_plugin.core import AgentRuntime
from mlflow_agent_plugin.entities import Actor, AgentRequest, utc_now
from mlflow_agent_plugin.errors import DataError
from mlflow_agent_plugin.lifecycle import ReviewFeedback, log_reviews
from mlflow_agent_plugin.package import load_bundle
from mlflow_agent_plugin.store.leases import LeaseTable

ANN = Actor("ann", tenant="shop")
WALT = Actor("walt", tenant="shop", roles=frozenset({"warden"}))


@pytest.fixture
def burner(tmp_path):
    """Open an agent that asks before it burns what it is told to."""
    opened = []

    def make(*items, **options):
        replies = [call("burn", item, call_id=f"c{n}") for n, item in enumerate(items)]
        root = write_bundle(tmp_path / "burner", replies, folder=tmp_path / "shelf")
        runtime = AgentRuntime.open(load_bundle(root), **options)
        opened.append(runtime)
        return runtime

    yield make
    for runtime in opened:
        runtime.close()


def ask(runtime, session, actor=ANN):
    """Return the waiting approval of a new conversation, and its request's trace id."""
    reply = runtime.invoke(AgentRequest(text="burn it", session_id=session, actor=actor))
    mlflow.flush_trace_async_logging()
    return reply.approvals[0], reply.trace_id


def reviews(trace_id):
    found = mlflow.get_trace(trace_id, flush=True).info.assessments
    return [item for item in found if item.name == "tool_call_review"]


def test_each_answer_is_feedback_by_a_person_on_the_request_that_asked(burner):
    runtime = burner("lamp", "house", "book")
    yes, no, other = (ask(runtime, name) for name in ("s1", "s2", "s3"))
    assert log_reviews(runtime.store) == ReviewFeedback()
    runtime.approvals.approve(yes[0].approval_id, WALT)
    runtime.approvals.reject(no[0].approval_id, WALT, "jo@example.org lives there")
    made = runtime.approvals.edit(other[0].approval_id, WALT, {"item": "paper"}, "not the book")
    assert made.votes
    assert log_reviews(runtime.store) == ReviewFeedback(logged=3)
    for (approval, trace_id), value, rationale in (
        (yes, "approved", None),
        (no, "rejected", "<EMAIL> lives there"),
        (other, "edited", "not the book"),
    ):
        (review,) = reviews(trace_id)
        assert (review.feedback.value, review.rationale) == (value, rationale)
        assert (review.source.source_type, review.source.source_id) == ("HUMAN", "walt")
        call_id = runtime.approvals.get(approval.approval_id).call_id
        assert review.metadata["approval_id"] == approval.approval_id
        assert (review.metadata["tool"], review.metadata["call_id"]) == ("burn", call_id)
        assert review.metadata["verified"] == "false"
        assert "paper" not in str(review.metadata)


def test_no_answer_is_written_twice_also_when_a_person_changed_it(burner):
    runtime = burner("lamp")
    approval, trace_id = ask(runtime, "s1")
    runtime.approvals.approve(approval.approval_id, WALT)
    assert log_reviews(runtime.store).logged == 1
    (review,) = reviews(trace_id)
    mlflow.override_feedback(
        trace_id=trace_id, assessment_id=review.assessment_id, value="rejected"
    )
    assert log_reviews(runtime.store) == ReviewFeedback(known=1)
    assert sum(item.valid is not False for item in reviews(trace_id)) == 1


def test_an_answer_about_a_request_that_was_not_traced_is_counted(burner):
    runtime = burner("lamp", tracing=False)
    approval, trace_id = ask(runtime, "s1")
    assert trace_id is None
    runtime.approvals.approve(approval.approval_id, WALT)
    assert log_reviews(runtime.store) == ReviewFeedback(without_trace=1)


def test_an_answer_whose_trace_has_not_arrived_is_written_when_it_has(burner, tmp_path):
    here = mlflow.get_tracking_uri()
    shutil.copy(tmp_path / "mlflow.db", tmp_path / "without.db")
    runtime = burner("lamp")
    approval, trace_id = ask(runtime, "s1")
    runtime.approvals.approve(approval.approval_id, WALT)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/without.db")
    assert log_reviews(runtime.store) == ReviewFeedback(without_trace=1)
    mlflow.set_tracking_uri(here)
    assert log_reviews(runtime.store) == ReviewFeedback(logged=1)
    assert len(reviews(trace_id)) == 1


def test_a_deleted_trace_stops_no_other_answer(burner):
    runtime = burner("lamp", "house")
    (gone, gone_trace), (kept, kept_trace) = ask(runtime, "s1"), ask(runtime, "s2")
    for approval in (gone, kept):
        runtime.approvals.approve(approval.approval_id, WALT)
    experiment = mlflow.get_trace(gone_trace, flush=True).info.experiment_id
    mlflow.MlflowClient().delete_traces(experiment, trace_ids=[gone_trace])
    assert log_reviews(runtime.store) == ReviewFeedback(logged=1, without_trace=1)
    assert len(reviews(kept_trace)) == 1


def test_only_answers_of_the_tenant_and_the_time_asked_for_are_written(burner):
    runtime = burner("lamp")
    approval, _ = ask(runtime, "s1")
    runtime.approvals.approve(approval.approval_id, WALT)
    assert log_reviews(runtime.store, tenant="bank") == ReviewFeedback()
    assert log_reviews(runtime.store, since=utc_now() + timedelta(hours=1)) == ReviewFeedback()
    with pytest.raises(DataError, match="time zone"):
        log_reviews(runtime.store, since=datetime(2026, 1, 1))  # noqa: DTZ001 - that is the point
    past = datetime(2026, 1, 1, tzinfo=timezone.utc)
    assert log_reviews(runtime.store, tenant="shop", since=past).logged == 1


def test_while_another_process_writes_nothing_is_done(burner):
    runtime = burner("lamp")
    approval, trace_id = ask(runtime, "s1")
    runtime.approvals.approve(approval.approval_id, WALT)
    leases = LeaseTable(runtime.store)
    assert leases.acquire("review-feedback", "somebody", 60)
    assert log_reviews(runtime.store) == ReviewFeedback(held_elsewhere=True)
    assert reviews(trace_id) == []
    leases.release("review-feedback", "somebody")
    assert log_reviews(runtime.store).logged == 1
