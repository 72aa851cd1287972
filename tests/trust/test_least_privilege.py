"""On PostgreSQL the agents' own user needs no more rights than the reference says."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from mlflow_agent_plugin.entities import Actor, ToolCall
from mlflow_agent_plugin.errors import StoreError
from mlflow_agent_plugin.store import SessionSpend, SessionTable, SpendTable, Store
from mlflow_agent_plugin.trust import (
    ApprovalQueue,
    AuditKind,
    AuditLog,
    EffectLedger,
    SwitchBoard,
    verify_audit,
)

EVE = Actor("eve", "bank", verified=True)
CLERK = Actor("bob", "bank", frozenset({"clerk"}), verified=True)


@pytest.mark.integration
def test_a_user_who_may_only_read_insert_and_update_can_do_everything_but_touch_the_audit(
    postgres_uri,
):
    import psycopg

    Store.open(postgres_uri).close()
    with psycopg.connect(postgres_uri, autocommit=True) as admin:
        admin.execute("DROP ROLE IF EXISTS worker")
        admin.execute("CREATE ROLE worker LOGIN PASSWORD 'worker'")
        admin.execute("GRANT SELECT, INSERT, UPDATE ON agent_sessions, agent_approvals TO worker")
        admin.execute("GRANT SELECT, INSERT, UPDATE ON agent_effects TO worker")
        admin.execute("GRANT SELECT, INSERT, UPDATE ON agent_session_spend TO worker")
        admin.execute("GRANT SELECT ON agent_schema_version, agent_switches TO worker")
        admin.execute("GRANT SELECT, INSERT ON agent_approval_votes TO worker")
        admin.execute("GRANT SELECT, INSERT ON agent_audit_events TO worker")
        admin.execute("GRANT SELECT, INSERT ON agent_audit_checkpoints TO worker")
        admin.execute("GRANT USAGE ON SEQUENCE agent_audit_events_position_seq TO worker")
    host = postgres_uri.split("@")[1]
    try:
        with Store.open(f"postgresql://worker:worker@{host}") as store:
            sessions = SessionTable(store)
            sessions.open("s", EVE, "support", "d")
            sessions.acquire_lease("s", "turn", 60)
            sessions.release("s", "turn")
            with AuditLog(store) as audit:
                audit.append(AuditKind.REQUEST_RECEIVED)
                audit.append(AuditKind.REQUEST_ANSWERED)
                queue = ApprovalQueue(store, audit=audit)
                made = queue.request(
                    ToolCall("c", "t", {}, "s"), agent="a", agent_digest="d", policy_digest="p",
                    actor=EVE, role="clerk", reason="r", ttl_seconds=60,
                )  # fmt: skip
                queue.approve(made.approval_id, CLERK)
                queue.mark_executed(made.approval_id, action_digest=made.action_digest)
            ledger = EffectLedger(store)
            ledger.claim("s:c", tool="t", arguments_digest="d", owner="turn")
            ledger.finish("s:c", {"ok": True})
            SpendTable(store).add("s", SessionSpend(3, 4))
            SpendTable(store).add("s", SessionSpend(1, 0))
            assert SpendTable(store).get("s") == SessionSpend(4, 4)
            SwitchBoard(store).check(agent="a", tenant="bank", tool="t")
            assert verify_audit(store).ok
            for statement in (
                "DELETE FROM agent_audit_events",
                "UPDATE agent_audit_events SET body = '{}'",
                "TRUNCATE agent_audit_events",
                "ALTER TABLE agent_audit_events DISABLE TRIGGER ALL",
                "DELETE FROM agent_effects",
                "UPDATE agent_approval_votes SET yes = true",
                "DELETE FROM agent_approval_votes",
            ):
                with pytest.raises(StoreError, match=r"denied|owner"), store.begin() as connection:  # noqa: PT012
                    connection.execute(text(statement))
    finally:
        with psycopg.connect(postgres_uri, autocommit=True) as admin:
            admin.execute("DROP OWNED BY worker")
            admin.execute("DROP ROLE worker")
