"""Every known way around a registry, tried: none changes what a protected name loads.

Each attack runs against a model whose Production and @champion were promoted by right. It has to be
refused with one audit event, or to have no effect on what the names load.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.registry_world import GATE
from helpers.side_doors import ATTACKS, REFUSED, weaker_rules
from mlflow.exceptions import MlflowException


def state(world):
    """Everything a refusal must leave as it was: MLflow's rows and ours, without the audit."""
    rows = {}
    with world.store.engine.connect() as connection:
        from sqlalchemy import inspect, text

        for table in sorted(inspect(world.store.engine).get_table_names()):
            if table.startswith(("model_version", "registered_model", "agent_")) and not (
                table.startswith(("agent_audit", "agent_schema"))
            ):
                found = connection.execute(text(f"SELECT * FROM {table}")).all()
                rows[table] = sorted(map(repr, found))
    return rows


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_side_door_changes_what_a_protected_name_loads(guarded, attack):
    act, outcome = ATTACKS[attack]
    names = ("Production", "@champion", "1")
    loaded = {name: guarded.loads(name) for name in names}
    assert all(isinstance(content, dict) for content in loaded.values())
    before, events = state(guarded), len(guarded.events("gate_decided"))
    if outcome is REFUSED:
        with pytest.raises(MlflowException) as caught:
            act(guarded)
        codes = {"PERMISSION_DENIED", "INVALID_PARAMETER_VALUE"}
        # MLflow's copy wraps whatever went wrong.
        assert caught.value.error_code in codes or "Failed to create model version copy" in str(
            caught.value
        )
        assert "Traceback" not in str(caught.value)
        after = state(guarded)
        if attack in {"rename and replace", "take the name", "copy an ordinary version in"}:
            after = {
                table: [row for row in rows if "other" not in row] for table, rows in after.items()
            }
        if attack not in {"a candidate's weaker gate", "the author approves"}:
            assert after == before
        assert len(guarded.events("gate_decided")) == events + 1
    else:
        act(guarded)
    assert {name: guarded.loads(name) for name in names} == loaded


def test_a_deleted_and_recreated_model_inherits_the_gate_and_no_approval(guarded):
    from mlflow_agent_plugin.registry import retire

    for slot in ("Production", "@champion"):
        retire("shelf", to=slot, reason="out of service", by="alice", client=guarded.client)
    guarded.client.delete_registered_model("shelf")
    guarded.register(
        "one", gate="apiVersion: mlflow-agents/v1\nprotected: {Staging: [{kind: policy_tests}]}\n"
    )
    with pytest.raises(MlflowException, match="not met"):
        guarded.client.transition_model_version_stage("shelf", "1", "Production")


def test_a_gate_is_tightened_by_anybody_and_loosened_by_a_reviewer_only(guarded):
    rules = GATE.replace("minimum: 0.7", "minimum: 0.9")
    guarded.client.set_registered_model_tag(
        "shelf", "agent.rules", rules.replace("allow_unverified: true", "")
    )
    with pytest.raises(MlflowException, match="loosen"):
        weaker_rules(guarded)
    with pytest.raises(MlflowException, match="loosen"):
        guarded.client.set_registered_model_tag("shelf", "agent.rules", rules)


@pytest.mark.parametrize(
    "changed", ["MLmodel", "agent/graph.py", "agent/agent.yaml", "requirements.txt", "new.py"]
)
def test_a_changed_byte_in_the_registrys_copy_refuses_to_be_handed_out(guarded, changed):
    uri = guarded.client.get_model_version_download_uri("shelf", "1")
    folder = Path(uri.removeprefix("file://"))
    path = folder / changed
    folder.chmod(0o755)
    if path.exists():
        path.chmod(0o644)
    with path.open("ab") as file:
        file.write(b"\n")
    with pytest.raises(MlflowException, match="changed"):
        guarded.client.get_model_version_download_uri("shelf", "1")
    assert not isinstance(guarded.loads("Production"), dict)


def test_no_file_of_a_promoted_version_changes_unnoticed(guarded):
    """One flipped bit in each file in turn: at the hand-out, at the gate, and when all is verified."""
    from mlflow_agent_plugin.registry import gate_report, verify_registry

    uri = guarded.client.get_model_version_download_uri("shelf", "1")
    folder = Path(uri.removeprefix("file://"))
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "registered_model_meta"  # MLflow's, no part of it
    ]
    assert len(files) > 10
    for path in files:
        data = path.read_bytes()
        path.chmod(0o644)
        path.write_bytes(bytes([data[0] ^ 1]) + data[1:] if data else b"x")
        with pytest.raises(MlflowException, match="changed"):
            guarded.client.get_model_version_download_uri("shelf", "1")
        assert "copy was changed" in str(
            gate_report("shelf", 1, to="Staging", client=guarded.client)
        )
        path.write_bytes(data)
        path.chmod(0o444)
    assert guarded.client.get_model_version_download_uri("shelf", "1") == uri
    assert verify_registry(guarded.client).ok


def _sql(world, statement):
    from sqlalchemy import text

    with world.store.engine.begin() as connection:
        connection.execute(text(statement))


DATABASE_EDITS = {
    "a deleted history": "DELETE FROM agent_slot_history",
    "rules": "UPDATE agent_gates SET rules = replace(rules, '0.7', '0.1')",
    "version": "UPDATE agent_versions SET content_digest = 'sha256:" + "0" * 64 + "'",
    "policy tests": 'UPDATE agent_versions SET policy_tests = \'{"passed": 9, "failed": [], "error": null}\'',
    "evidence": "UPDATE agent_evidence SET evaluated_at = '2030-01-01T00:00:00+00:00'",
    "request": "UPDATE agent_promotion_requests SET version = 2, state = 'open'",
    "stage": "UPDATE model_versions SET current_stage = 'Production' WHERE version = 2",
    "alias": "UPDATE registered_model_aliases SET version = 2",
    "history": "UPDATE agent_slot_history SET version = 2",
    "history and stage": (
        "UPDATE agent_slot_history SET version = 2; "
        "UPDATE model_versions SET current_stage = 'Production' WHERE version = 2; "
        "UPDATE registered_model_aliases SET version = 2"
    ),
}


def probe(world):
    """Everything that relies on the rows; stops at the first that notices."""
    from mlflow_agent_plugin.registry import request_promotion

    world.client.get_latest_versions("shelf", ["Production"])
    world.client.get_model_version_by_alias("shelf", "champion")
    world.client.get_model_version_download_uri("shelf", "1")
    request_promotion("shelf", 2, to="Production", client=world.client)
    world.client.transition_model_version_stage("shelf", "1", "Production")


@pytest.mark.parametrize("edit", DATABASE_EDITS)
def test_rows_edited_past_the_registry_are_detected(guarded, edit):
    for statement in DATABASE_EDITS[edit].split("; "):
        _sql(guarded, statement)
    with pytest.raises(MlflowException, match=r"past the registry|registry put"):
        probe(guarded)


def test_a_removed_gate_does_not_make_the_model_an_ordinary_one(guarded):
    _sql(guarded, "DELETE FROM agent_gates")
    with pytest.raises(MlflowException, match="removed past the registry"):
        guarded.client.transition_model_version_stage("shelf", "2", "Production")


def test_a_stock_server_on_the_same_database_does_not_fool_the_gated_one(guarded):
    from mlflow import MlflowClient

    stock = MlflowClient(
        registry_uri=guarded.registry_uri.removeprefix("agents+").replace(
            "postgresql://", "postgresql+psycopg://"
        )
    )
    stock.transition_model_version_stage("shelf", "2", "Production")
    with pytest.raises(MlflowException, match="registry put"):
        guarded.client.get_latest_versions("shelf", ["Production"])
