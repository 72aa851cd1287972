"""The approvals inbox and one request's chain, as a notebook shows and answers them."""

from __future__ import annotations

import pytest

import mlflow_agent_plugin as agents
from mlflow_agent_plugin.entities import Actor, ToolCall
from mlflow_agent_plugin.errors import ApprovalError, StoreError
from mlflow_agent_plugin.interaction.templates import write_agent
from mlflow_agent_plugin.store import Store
from mlflow_agent_plugin.trust import ApprovalQueue, AuditKind, AuditLog


@pytest.fixture
def uri(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_AGENTS_KEY_DIR", str(tmp_path / "keys"))
    return f"sqlite:///{tmp_path}/agents.db"


@pytest.fixture
def ask(uri):
    """Put a call into the queue."""

    def ask(tool, *, user="kim", tenant="a", **arguments):
        with Store.open(uri) as store:
            return ApprovalQueue(store).request(
                ToolCall(call_id=f"c-{tool}", tool=tool, arguments=arguments, session_id="s"),
                agent="desk", agent_digest="sha256:1", policy_digest="sha256:2",
                actor=Actor(user, tenant=tenant), role="operations",
                reason="it cannot be undone", ttl_seconds=600,
            )  # fmt: skip

    return ask


OTTO = "otto@a:operations"


def test_an_empty_inbox_says_so(uri):
    inbox = agents.approvals_inbox(by=OTTO, store_uri=uri)
    assert len(inbox) == 0
    assert "No tool call waits" in inbox._repr_html_()
    with pytest.raises(ApprovalError, match="no row 1"):
        inbox.approve(1)


def test_what_a_model_made_up_is_text_on_the_page(uri, ask):
    ask("<script>1</script>", note="</td><script>2</script>")
    shown = agents.approvals_inbox(store_uri=uri)._repr_html_()
    assert "<script" not in shown
    assert "&lt;script&gt;1" in shown


def test_a_row_names_the_call_that_was_shown_whatever_came_meanwhile(uri, ask):
    first = ask("close_account", account="ACC-1")
    inbox = agents.approvals_inbox(by=OTTO, store_uri=uri)
    assert "close_account" in inbox._repr_html_()
    inbox.approve(first.approval_id, "by its id")
    second = ask("refund", amount=5)
    # The table was not shown again: row 1 is still the first call, and that is answered already.
    with pytest.raises(ApprovalError, match="already"):
        inbox.reject(1, "no")
    assert "refund" in inbox._repr_html_()
    answered = inbox.reject(1, "no proof")
    assert answered.approval_id == second.approval_id
    assert (answered.state.value, answered.answered_by) == ("rejected", "otto")


def test_the_queues_rules_hold_in_a_notebook_too(uri, ask):
    ask("close_account", user="kim")
    for by in ("kim@a:operations", "nora@a:reviewer", "otto@b:operations"):
        with pytest.raises(ApprovalError):
            agents.approvals_inbox(by=by, store_uri=uri).approve(1)


def test_a_forged_token_answers_nothing(uri, ask, monkeypatch):
    from mlflow_agent_plugin.errors import IdentityError

    ask("close_account")
    monkeypatch.setenv("MLFLOW_AGENTS_ACTOR_TOKEN", "eyJhbGciOiJub25lIn0.e30.")
    with pytest.raises(IdentityError):
        agents.approvals_inbox(by=OTTO, store_uri=uri).approve(1)


def test_a_requests_chain_is_shown_with_every_value_as_text(uri):
    facts = {"request_id": "r1", "session_id": "s", "agent": "desk",
             "actor": Actor("<b>kim", tenant="a", roles=frozenset({"customer"}))}  # fmt: skip
    with Store.open(uri) as store, AuditLog(store) as audit:
        audit.append(AuditKind.REQUEST_RECEIVED, **facts)
        audit.append(AuditKind.TOOL_CALL_DECIDED, **facts, call_id="c", tool="pay",
                     arguments={"to": "<script>"}, decision={"value": "deny",
                                                             "policy_ids": ["hard-limit"]})  # fmt: skip
        audit.append(AuditKind.REQUEST_ANSWERED, **facts, outcome="refused")
    shown = agents.request_story("r1", store_uri=uri)._repr_html_()
    for part in ("&lt;b&gt;kim", "hard-limit", "deny", "refused", "3 events"):
        assert part in shown
    assert "<script>" not in shown
    with pytest.raises(StoreError):
        agents.request_story("r1", tenant="b", store_uri=uri)


def test_a_bundle_shows_what_the_agent_is(tmp_path):
    folder, _ = write_agent("desk", tmp_path)
    shown = agents.load_bundle(folder)._repr_html_()
    for part in ("find_order", "cancel_order", "irreversible", "policies", "sha256:"):
        assert part in shown
