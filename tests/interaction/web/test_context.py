"""What is read about a waiting call: nothing on the word of whoever named the session."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mlflow_agent_plugin.interaction.web.console.context import _line, read_conversation


@pytest.mark.parametrize("session_id", ["x' OR 'a' = 'a", "`", "a b", "x" * 201, "\u202e"])
def test_an_invented_session_is_not_searched_for(session_id):
    # Nothing is configured here: a search would fail.
    assert read_conversation(SimpleNamespace(session_id=session_id, tenant="a")) == []


def test_a_trace_of_another_tenant_or_without_a_summary_is_left_out():
    summary = '{"tenant": "a", "text": "hello", "outcome": "answered"}'
    info = SimpleNamespace(
        tags={"agent.summary": summary}, timestamp_ms=0, response_preview='{"text": "hi"}'
    )
    line = _line(info, "a")
    assert (line.user, line.agent, line.outcome) == ("hello", "hi", "answered")
    assert _line(info, "b") is None
    for tags in ({}, {"agent.summary": "{"}):
        assert _line(SimpleNamespace(tags=tags), "a") is None
    info.response_preview = "[1"
    assert _line(info, "a").agent == ""
