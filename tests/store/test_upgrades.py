"""A store of any earlier revision comes to the newest with all its rows, and never goes back."""

# ruff: noqa: PT012 - what raises is a whole transaction

from __future__ import annotations

import json

import pytest
from sqlalchemy import text

from mlflow_agent_plugin.entities import Actor
from mlflow_agent_plugin.errors import StoreError
from mlflow_agent_plugin.store import Store, schema
from mlflow_agent_plugin.store.connections import make_engine
from mlflow_agent_plugin.store.tables import REVISIONS
from mlflow_agent_plugin.store.urls import parse_store_url
from mlflow_agent_plugin.trust import ApprovalQueue, ApprovalState, verify_audit
from mlflow_agent_plugin.trust.audit.chain import (
    CHECKPOINT_GENESIS,
    HEADER_FIELDS,
    checkpoint_hash,
    encode_signature,
    event_hash,
    genesis,
)
from mlflow_agent_plugin.trust.keys import KeyStore

BEGUN, LATER = "2026-01-01 00:00:00+00:00", "2030-01-01 00:00:00+00:00"
CLERK = Actor("ann", "bank", frozenset({"clerk"}), verified=True)


def make_first_revision(uri):
    """Make a store as revision 0001 left it, with rows as its code wrote them."""
    engine = make_engine(parse_store_url(uri))
    options = {"agents_begin": "BEGIN IMMEDIATE"}
    with engine.execution_options(**options).begin() as connection:
        schema.upgrade(connection, "0001")

        def insert(table, **values):
            names, marks = ", ".join(values), ", ".join(f":{name}" for name in values)
            connection.execute(text(f"INSERT INTO {table} ({names}) VALUES ({marks})"), values)  # noqa: S608

        insert(
            "agent_sessions", session_id="s1", tenant="bank", user_name="eve", verified=True,
            agent="support", agent_digest="sha256:g", created_at=BEGUN, last_at=BEGUN, turns=2,
        )  # fmt: skip
        for call, state, by in (
            ("c1", "waiting", None), ("c2", "approved", "bob"), ("c3", "rejected", "bob"),
            ("c4", "executed", "bob"),
        ):  # fmt: skip
            insert(
                "agent_approvals", approval_id=f"apr-{call}", action_digest=f"sha256:{call}",
                tool="close", arguments=json.dumps({"account": call}), agent="support",
                agent_digest="sha256:g", policy_digest="sha256:p", session_id="s1", call_id=call,
                tenant="bank", requested_by="eve", role="clerk", reason="final", state=state,
                created_at=BEGUN, expires_at=LATER, answered_by=by,
                answered_at=BEGUN if by else None, answer_reason="no" if state == "rejected" else None,
                executed_at=BEGUN if state == "executed" else None,
            )  # fmt: skip
        insert(
            "agent_effects", effect_key="s1:c4", tool="close", arguments_digest="sha256:a",
            owner="t", state="done", attempts=1, result='{"ok":true}', started_at=BEGUN,
            finished_at=BEGUN,
        )  # fmt: skip
        head = genesis("w")
        for seq in (1, 2):
            header = dict.fromkeys(HEADER_FIELDS) | {
                "writer": "w", "seq": seq, "ts": "2026-01-01T00:00:00.000000+00:00",
                "kind": "request_received", "session_id": "s1",
            }  # fmt: skip
            own = event_hash(header, "{}", head)
            insert("agent_audit_events", **header, body="{}", prev_hash=head, hash=own)
            head = own
        key = KeyStore().signing_key()
        fields = {
            "number": 1, "writer": "w", "seq": 2, "head_hash": head,
            "ts": "2026-01-01T00:00:00.000000+00:00", "key_id": key.key_id,
            "prev_hash": CHECKPOINT_GENESIS,
        }  # fmt: skip
        own = checkpoint_hash(**fields)
        signature = encode_signature(key.sign(own.encode("ascii")))
        insert("agent_audit_checkpoints", **fields, hash=own, signature=signature)
    engine.dispose()


def check(store):
    """What was there is there, and means what it meant."""
    queue = ApprovalQueue(store)
    found = {item.call_id: item for item in queue.list()}
    assert [found[name].state.value for name in ("c1", "c2", "c3", "c4")] == [
        "waiting", "approved", "rejected", "executed",
    ]  # fmt: skip
    assert {item.quorum for item in found.values()} == {1}
    assert [[(v.voter, v.yes, v.verified) for v in found[n].votes] for n in ("c1", "c2", "c3")] == [
        [], [("bob", True, False)], [("bob", False, False)],
    ]  # fmt: skip
    queue.mark_executed("apr-c2", action_digest="sha256:c2")
    assert queue.approve("apr-c1", CLERK).state is ApprovalState.APPROVED
    with store.read() as connection:
        assert connection.scalar(text("SELECT turns FROM agent_sessions")) == 2
        assert connection.scalar(text("SELECT result FROM agent_effects")) == '{"ok":true}'
    assert verify_audit(store).ok


@pytest.mark.parametrize("stop", REVISIONS[:-1])
def test_a_store_of_each_earlier_revision_keeps_its_rows_and_their_meaning(store_uri, stop):
    make_first_revision(store_uri)
    engine = make_engine(parse_store_url(store_uri))
    with engine.execution_options(agents_begin="BEGIN IMMEDIATE").begin() as connection:
        schema.upgrade(connection, stop)
    engine.dispose()
    with Store.open(store_uri) as store:
        check(store)


UPGRADE = """
import sys
from mlflow_agent_plugin.store import Store
import alembic.command
print("ready", flush=True)
sys.stdin.readline()
with Store.open(sys.argv[1]) as store:
    print(store.dialect, flush=True)
"""


def test_processes_that_upgrade_an_old_store_at_once_take_turns_and_lose_nothing(store_uri, spawn):
    make_first_revision(store_uri)
    processes = [spawn(UPGRADE, store_uri) for _ in range(3)]
    for process in processes:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
    with Store.open(store_uri) as store:
        check(store)


@pytest.mark.parametrize("target", ["0001", "base"])
def test_a_downgrade_is_refused_with_what_to_do_and_changes_nothing(store_uri, target):
    from pathlib import Path

    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(schema.__file__).with_name("migrations")))
    with Store.open(store_uri) as store:
        with (
            pytest.raises(StoreError, match=r"cannot be taken back.*Restore the backup"),
            store.begin() as connection,
        ):
            config.attributes["connection"] = connection
            command.downgrade(config, target)
        with store.read() as connection:
            assert schema.current_revision(connection) == REVISIONS[-1]
