"""Evidence that turned out to be worth nothing, and what stands past the gate."""

from __future__ import annotations

import pytest
from helpers.registry_world import GATE
from mlflow.exceptions import MlflowException
from sqlalchemy import text

from mlflow_agent_plugin.registry import (
    approve,
    emergency_promote,
    gate_report,
    promote,
    request_promotion,
    retire,
    revoke_evidence,
    rollback,
    submit_evidence,
    verify_registry,
)


def tags(world, version):
    return world.client.get_model_version("shelf", str(version)).tags


def revoke(world, version, run_id, **kwargs):
    given = {"reason": "the suite leaked into training", "by": "alice", **kwargs}
    revoke_evidence("shelf", version, run_id, client=world.client, **given)


class TestRevokedEvidence:
    def test_it_counts_no_more_at_the_gate_until_something_new_is_shown(self, world):
        version = world.register("one")
        run_id = world.evaluate(version)
        request_promotion("shelf", version, to="Production", apply=False, client=world.client)
        approve("shelf", version, to="Production", by="alice", client=world.client)
        assert gate_report("shelf", version, to="Production", client=world.client).passed
        revoke(world, version, run_id)
        report = gate_report("shelf", version, to="Production", client=world.client)
        assert not report.passed
        assert "revoked by alice: the suite leaked" in str(report)
        assert run_id in tags(world, version)["agent.revoked"]
        with pytest.raises(MlflowException, match="not met"):
            promote("shelf", version, to="Production", client=world.client)
        with pytest.raises(MlflowException, match="revoked"):
            submit_evidence("shelf", version, run_id, client=world.client)
        world.evaluate(version, good=41)
        approve("shelf", version, to="Production", by="alice", client=world.client)
        promote("shelf", version, to="Production", client=world.client)

    def test_an_older_run_does_not_take_its_place(self, world):
        version = world.register("one")
        world.evaluate(version)
        revoke(world, version, world.evaluate(version, good=41))
        report = gate_report("shelf", version, to="Production", client=world.client)
        assert "revoked" in str(report)

    def test_what_it_proved_stays_in_its_slot_and_is_never_rolled_back_to(self, world):
        world.promoted("one")
        run_id = tags(world, 1)["agent.evidence.shelf"]
        world.promoted("two")
        revoke(world, 1, run_id)
        revoke(world, 2, tags(world, 2)["agent.evidence.shelf"])
        assert world.client.get_latest_versions("shelf", ["Production"])[0].version in {2, "2"}
        with pytest.raises(MlflowException, match="no longer counts"):
            rollback("shelf", to="Production", reason="back", by="alice", client=world.client)

    def test_only_a_reviewer_revokes_and_says_why(self, world):
        gate = GATE.replace("allow_unverified: true", "")
        version = world.register("one", gate)
        run_id = world.evaluate(version)
        with pytest.raises(MlflowException, match="reviewer"):
            revoke(world, version, run_id)
        assert "revoked" not in str(
            gate_report("shelf", version, to="Production", client=world.client)
        )

    @pytest.mark.parametrize(
        ("run_id", "reason", "match"),
        [
            ("f" * 32, "why not", "no evidence"),
            ("../x", "why not", "pattern"),
            ("r1", "", "reason"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, world, run_id, reason, match):
        version = world.register("one")
        world.evaluate(version)
        with pytest.raises(MlflowException, match=match):
            revoke(world, version, run_id, reason=reason)

    def test_it_is_revoked_once(self, world):
        version = world.register("one")
        run_id = world.evaluate(version)
        revoke(world, version, run_id)
        with pytest.raises(MlflowException, match="already"):
            revoke(world, version, run_id)
        assert len(world.events("evidence_revoked")) == 1

    @pytest.mark.parametrize(
        ("edit", "told"),
        [
            ("DELETE FROM agent_evidence_revocations", "its row is gone"),
            ("UPDATE agent_evidence_revocations SET run_id = 'other'", "seal"),
        ],
    )
    def test_whoever_takes_a_revocation_back_in_the_database_is_told_on(self, world, edit, told):
        version = world.register("one")
        revoke(world, version, world.evaluate(version))
        with world.store.engine.begin() as connection:
            connection.execute(text(edit))
        assert told in str(verify_registry(world.client))


class TestEmergency:
    def emergency(self, world, version, to):
        emergency_promote("shelf", version, to=to, reason="outage", by="eve", client=world.client)

    def model_tag(self, world):
        return world.client.get_registered_model("shelf").tags.get("agent.emergency")

    def test_the_mark_stays_until_that_very_slot_is_regular_again(self, world):
        world.promoted("one")
        version = world.register("two")
        self.emergency(world, version, "@champion")
        self.emergency(world, version, "Production")
        assert "@champion" in self.model_tag(world)
        assert "Production" in tags(world, version)["agent.emergency"]
        rollback("shelf", to="Production", reason="calm again", by="alice", client=world.client)
        assert "@champion" in self.model_tag(world)
        assert "Production" not in self.model_tag(world)
        assert "@champion" in tags(world, version)["agent.emergency"]
        retire("shelf", to="@champion", reason="calm again", by="alice", client=world.client)
        assert self.model_tag(world) is None
        assert "agent.emergency" not in tags(world, version)

    def test_every_report_about_the_slot_says_so_in_red(self, world):
        world.promoted("one")
        version = world.register("two")
        self.emergency(world, version, "Production")
        other = world.register("three")
        report = gate_report("shelf", other, to="Production", client=world.client)
        assert any(
            note.startswith("EMERGENCY: Production points to version 2") for note in report.notes
        )
        assert "eve: outage" in str(report)
        assert "<p style='color:#b42318'><b>EMERGENCY" in report._repr_html_()
        assert "EMERGENCY" not in str(
            gate_report("shelf", other, to="Staging", client=world.client)
        )
