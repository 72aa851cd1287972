"""The store as a client of MLflow meets it: promotion, people, rollback, emergencies, history."""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from helpers.registry_world import GATE
from mlflow.exceptions import MlflowException

from mlflow_agent_plugin.registry import (
    approve,
    emergency_promote,
    gate_report,
    history,
    promote,
    reject,
    request_promotion,
    retire,
    rollback,
    set_rules,
    withdraw,
)


def stage(world, version):
    return world.client.get_model_version("shelf", str(version)).current_stage


def tags(world, version):
    return world.client.get_model_version("shelf", str(version)).tags


class TestPromotion:
    def test_without_evidence_it_is_refused_with_the_list_of_what_is_missing(self, world):
        version = world.register("one")
        with pytest.raises(MlflowException) as caught:
            promote("shelf", version, to="Production", client=world.client)
        assert caught.value.error_code == "PERMISSION_DENIED"
        assert caught.value.get_http_status_code() == 403
        for part in ("suite shelf", "safety", "approvals", "Open a promotion request"):
            assert part in str(caught.value)
        assert stage(world, version) == "None"
        assert tags(world, version)["agent.gate.Production"].startswith("refused: 3 unmet")

    def test_with_evidence_and_an_approval_mlflows_own_transition_goes_through(self, world):
        version = world.register("one")
        world.ready(version)
        moved = world.client.transition_model_version_stage("shelf", str(version), "production")
        assert moved.current_stage == "Production"
        assert tags(world, version)["agent.gate.Production"] == "in Production now"
        assert tags(world, version)["agent.request.Production"].startswith("executed")
        model = world.client.get_registered_model("shelf")
        assert model.tags["agent.slot.Production"].startswith("version 1 since")

    def test_the_version_before_is_archived_whatever_the_client_asked(self, world):
        world.promoted("one")
        version = world.register("two")
        world.ready(version)
        world.client.transition_model_version_stage(
            "shelf", str(version), "Production", archive_existing_versions=False
        )
        assert (stage(world, 1), stage(world, 2)) == ("Archived", "Production")

    def test_an_alias_is_a_slot_like_a_stage(self, world):
        version = world.register("one")
        with pytest.raises(MlflowException, match="approvals"):
            promote("shelf", version, to="@champion", client=world.client)
        world.ready(version, "@champion")
        promote("shelf", version, to="@champion", client=world.client)
        assert world.client.get_model_version_by_alias("shelf", "champion").version == "1" or True
        assert isinstance(world.loads("@champion"), dict)

    def test_promoting_what_is_there_already_changes_nothing(self, world):
        world.promoted("one")
        promote("shelf", 1, to="Production", client=world.client)
        assert len(history("shelf", "Production", client=world.client)) == 1

    def test_a_slot_without_approvals_opens_on_what_the_registry_checked_itself(self, world):
        version = world.register("one")
        promote("shelf", version, to="Staging", client=world.client)
        assert stage(world, version) == "Staging"

    def test_from_staging_to_production_leaves_staging_empty_and_on_record(self, world):
        version = world.register("one")
        promote("shelf", version, to="Staging", client=world.client)
        world.ready(version)
        promote("shelf", version, to="Production", client=world.client)
        assert [(e.slot, e.kind, e.version) for e in history("shelf", client=world.client)] == [
            ("Staging", "promoted", 1),
            ("Production", "promoted", 1),
            ("Staging", "left", None),
        ]
        world.client.get_latest_versions("shelf", ["Staging", "Production"])

    def test_what_the_registry_found_wrong_itself_closes_every_slot(self, world):
        def fail(root):
            path = root / "policies" / "tests.yaml"
            path.write_text(path.read_text().replace("expect: allow", "expect: deny"))

        version = world.register("one", edit=fail)
        with pytest.raises(MlflowException, match="policy tests"):
            promote("shelf", version, to="Staging", client=world.client)

    def test_an_agent_without_a_gate_file_gets_the_strict_default(self, world):
        version = world.register("one", gate=None)
        for slot in ("Production", "@champion"):
            assert not gate_report("shelf", version, to=slot, client=world.client).passed
        with pytest.raises(MlflowException):
            promote("shelf", version, to="Production", client=world.client)
        request_promotion("shelf", version, to="Production", client=world.client)
        with pytest.raises(MlflowException, match="nobody logged in"):
            approve("shelf", version, to="Production", by="alice", client=world.client)

    def test_a_candidates_stricter_gate_counts_for_it(self, world):
        world.promoted("one")
        strict = GATE.replace("minimum: 0.7", "minimum: 0.999")
        version = world.register("two", gate=strict)
        world.ready(version)
        with pytest.raises(MlflowException, match=r"0\.999"):
            promote("shelf", version, to="Production", client=world.client)

    def test_a_breaking_contract_needs_a_major_version(self, world):
        world.promoted("one")

        def narrow(root):
            path = root / "contracts" / "put.yaml"
            path.write_text(
                path.read_text().replace("required: [item]", "required: [item, amount]")
            )

        def major(root):
            narrow(root)
            path = root / "contracts" / "put.yaml"
            path.write_text(path.read_text().replace("version: 1.0.0", "version: 2.0.0"))

        broken = world.register("two", edit=narrow)
        world.ready(broken)
        with pytest.raises(MlflowException, match="contracts"):
            promote("shelf", broken, to="Production", client=world.client)
        said = world.register("three", edit=major)
        world.ready(said)
        promote("shelf", said, to="Production", client=world.client)

    def test_log_agent_refuses_a_breaking_contract_here_too(self, world):
        import mlflow

        from mlflow_agent_plugin.core import log_agent
        from mlflow_agent_plugin.errors import ContractError

        mlflow.set_registry_uri(world.registry_uri)
        log_agent(world.bundle("one", GATE), registered_model_name="shelf")

        def narrow(root):
            path = root / "contracts" / "put.yaml"
            path.write_text(path.read_text().replace("[item]", "[item, amount]"))

        with pytest.raises(ContractError, match=r"put \(1\.0\.0 -> 1\.0\.0\)"):
            log_agent(world.bundle("two", GATE, narrow), registered_model_name="shelf")
        assert len(world.client.search_model_versions("name='shelf'")) == 1

    def test_log_agent_registers_through_the_gate(self, world):
        import mlflow

        from mlflow_agent_plugin.core import log_agent

        mlflow.set_registry_uri(world.registry_uri)
        info = log_agent(world.bundle("one", GATE), registered_model_name="shelf")
        assert int(info.registered_model_version) == 1
        assert tags(world, 1)["agent.digest"].startswith("sha256:")
        uri = world.client.get_model_version_download_uri("shelf", "1")
        assert "/agent-registry/sha256/" in uri
        assert mlflow.pyfunc.load_model("models:/shelf/1").predict(
            {"input": [{"role": "user", "content": "hi"}]}
        )


class TestWithoutAGate:
    def test_nothing_is_done_where_a_command_would_be_just_a_tag(self, world, tmp_path):
        """On MLflow's own store, and for an ordinary model."""
        from mlflow import MlflowClient

        from mlflow_agent_plugin.errors import RequestError
        from mlflow_agent_plugin.registry import submit_evidence

        world.ordinary()
        stock = MlflowClient(registry_uri=f"sqlite:///{tmp_path}/mlflow.db")
        for client in (world.client, stock):
            for act in (
                lambda c: promote("ordinary", 1, to="Production", client=c),
                lambda c: request_promotion("ordinary", 1, to="Production", client=c),
                lambda c: gate_report("ordinary", 1, to="Production", client=c),
                lambda c: rollback("ordinary", to="Production", reason="why", client=c),
                lambda c: set_rules("ordinary", GATE, client=c),
                lambda c: submit_evidence("ordinary", 1, "run", client=c),
            ):
                with pytest.raises((RequestError, MlflowException), match=r"gate|not an agent"):
                    act(client)
            found = client.get_model_version("ordinary", "1")
            assert (found.current_stage, found.tags) == ("None", {})
            assert client.get_registered_model("ordinary").tags == {}


class TestPeople:
    def test_a_request_for_what_is_not_protected_says_what_is(self, world):
        version = world.register("one")
        with pytest.raises(MlflowException, match=r"Protected are: .*@champion"):
            request_promotion("shelf", version, to="@shadow", client=world.client)

    def test_an_approval_needs_an_open_request(self, world):
        version = world.register("one")
        with pytest.raises(MlflowException, match="no open request"):
            approve("shelf", version, to="Production", by="alice", client=world.client)

    def test_the_author_cannot_approve(self, world):
        version = world.register("one")
        request_promotion("shelf", version, to="Production", client=world.client)
        for name in (None, "bob", "BOB "):
            with pytest.raises(MlflowException, match="cannot approve"):
                approve("shelf", version, to="Production", by=name, client=world.client)

    def test_new_evidence_makes_an_approval_stale(self, world):
        version = world.register("one")
        world.ready(version)
        world.evaluate(version, good=39, bad=1)
        report = gate_report("shelf", version, to="Production", client=world.client)
        assert not report.passed
        assert "given before" in report.to_text()

    def test_the_same_results_again_do_not(self, world):
        version = world.register("one")
        world.ready(version)
        world.evaluate(version)
        assert gate_report("shelf", version, to="Production", client=world.client).passed

    def test_another_incumbent_makes_an_approval_stale(self, world):
        one, two = world.register("one"), world.register("two")
        world.ready(one)
        promote("shelf", one, to="Production", client=world.client)
        world.ready(two)
        three = world.register("three")
        emergency_promote(
            "shelf", three, to="Production", reason="outage", by="eve", client=world.client
        )
        with pytest.raises(MlflowException, match="given before"):
            promote("shelf", two, to="Production", client=world.client)

    def test_tighter_rules_make_an_approval_stale(self, world):
        version = world.register("one")
        world.ready(version)
        set_rules("shelf", GATE.replace("minimum: 0.7", "minimum: 0.8"), client=world.client)
        with pytest.raises(MlflowException, match="given before"):
            promote("shelf", version, to="Production", client=world.client)

    def test_a_newer_version_put_forward_closes_the_older_request(self, world):
        one, two = world.register("one"), world.register("two")
        world.ready(one)
        request_promotion("shelf", two, to="Production", client=world.client)
        assert tags(world, one)["agent.request.Production"].startswith("superseded")
        with pytest.raises(MlflowException, match="approvals"):
            promote("shelf", one, to="Production", client=world.client)

    def test_a_rejection_closes_the_gate_until_a_new_request(self, world):
        version = world.register("one")
        world.ready(version)
        reject(
            "shelf", version, to="Production", reason="too curt", by="alice", client=world.client
        )
        with pytest.raises(MlflowException, match="too curt"):
            promote("shelf", version, to="Production", client=world.client)
        with pytest.raises(MlflowException, match="no open request"):
            reject(
                "shelf", version, to="Production", reason="again", by="alice", client=world.client
            )
        request_promotion("shelf", version, to="Production", comment="kinder", client=world.client)
        with pytest.raises(MlflowException, match="approvals"):
            promote("shelf", version, to="Production", client=world.client)
        approve("shelf", version, to="Production", by="alice", client=world.client)
        promote("shelf", version, to="Production", client=world.client)

    def test_a_withdrawn_request_takes_its_approvals_with_it(self, world):
        version = world.register("one")
        world.ready(version)
        withdraw("shelf", version, to="Production", reason="not yet", client=world.client)
        request_promotion("shelf", version, to="Production", client=world.client)
        with pytest.raises(MlflowException, match="0 of 1"):
            promote("shelf", version, to="Production", client=world.client)

    def test_two_approvals_are_two_people(self, world):
        version = world.register("one", gate=GATE.replace("count: 1", "count: 2"))
        world.ready(version)
        approve("shelf", version, to="Production", by="Alice", client=world.client)
        with pytest.raises(MlflowException, match="1 of 2"):
            promote("shelf", version, to="Production", client=world.client)
        approve("shelf", version, to="Production", by="carol", client=world.client)
        promote("shelf", version, to="Production", client=world.client)

    def test_a_request_expires(self, world, monkeypatch):
        from mlflow_agent_plugin.registry import running

        version = world.register("one")
        world.ready(version)
        later = datetime.now(timezone.utc) + timedelta(days=15)
        monkeypatch.setattr(running, "utc_now", lambda: later)
        with pytest.raises(MlflowException, match="Open a promotion request"):
            promote("shelf", version, to="Production", client=world.client)

    def test_names_are_not_believed_where_the_rules_do_not_say_so(self, world):
        version = world.register("one", gate=GATE.replace("allow_unverified: true", ""))
        world.evaluate(version)
        request_promotion("shelf", version, to="Production", client=world.client)
        for act in (
            lambda: approve("shelf", version, to="Production", by="alice", client=world.client),
            lambda: reject(
                "shelf", version, to="Production", reason="why", by="a", client=world.client
            ),
            lambda: rollback(
                "shelf", to="Production", reason="why", by="alice", client=world.client
            ),
            lambda: retire("shelf", to="Production", reason="why", by="alice", client=world.client),
            lambda: emergency_promote(
                "shelf", 1, to="Production", reason="why", by="a", client=world.client
            ),
        ):
            with pytest.raises(MlflowException, match="nobody logged in"):
                act()


class TestRollback:
    def test_to_the_version_before_at_once_without_a_new_evaluation(self, world):
        world.promoted("one")
        loaded = world.loads("Production")
        world.promoted("two")
        assert world.loads("Production") != loaded
        rollback("shelf", to="Production", reason="refunds fail", by="alice", client=world.client)
        assert world.loads("Production") == loaded
        assert (stage(world, 1), stage(world, 2)) == ("Production", "Archived")
        last = history("shelf", "Production", client=world.client)[-1]
        assert (last.kind, last.version, last.actor, last.reason) == (
            "rolled_back", 1, "alice", "refunds fail",
        )  # fmt: skip

    def test_and_forward_again(self, world):
        world.promoted("one")
        world.promoted("two")
        rollback("shelf", to="Production", reason="oops", by="alice", client=world.client)
        rollback(
            "shelf", to="Production", version=2, reason="was fine", by="alice", client=world.client
        )
        assert stage(world, 2) == "Production"

    def test_an_alias_rolls_back_too(self, world):
        world.promoted("one", "@champion")
        world.promoted("two", "@champion")
        rollback("shelf", to="@champion", reason="oops", by="alice", client=world.client)
        assert str(world.client.get_model_version_by_alias("shelf", "champion").version) == "1"

    def test_not_to_what_never_stood_there(self, world):
        world.promoted("one")
        world.register("two")
        for version in (2, None):
            with pytest.raises(MlflowException, match="never stood"):
                rollback(
                    "shelf",
                    to="Production",
                    version=version,
                    reason="hm hm",
                    by="a",
                    client=world.client,
                )

    def test_not_to_an_emergency(self, world):
        world.promoted("one")
        two = world.register("two")
        emergency_promote(
            "shelf", two, to="Production", reason="outage", by="eve", client=world.client
        )
        world.promoted("three")
        with pytest.raises(MlflowException, match="never stood"):
            rollback(
                "shelf", to="Production", version=2, reason="hm hm", by="a", client=world.client
            )
        rollback("shelf", to="Production", reason="hm hm", by="alice", client=world.client)
        assert stage(world, 1) == "Production"

    def test_not_to_a_version_whose_evidence_was_revoked(self, world):
        from mlflow_agent_plugin.trust.keys import KeyPurpose, KeyStore, SigningKey

        key = SigningKey.generate()
        KeyStore().trust(key.public_key, purpose=KeyPurpose.EVIDENCE)
        version = world.register("one")
        world.ready(version, key=key)
        promote("shelf", version, to="Production", client=world.client)
        world.promoted("two")
        KeyStore().revoke(key.key_id, note="stolen")
        with pytest.raises(MlflowException, match="no longer counts"):
            rollback("shelf", to="Production", reason="hm hm", by="alice", client=world.client)

    def test_not_to_a_deleted_version(self, world):
        world.promoted("one")
        world.promoted("two")
        world.client.delete_model_version("shelf", "1")
        with pytest.raises(MlflowException, match="never stood"):
            rollback("shelf", to="Production", reason="hm hm", by="alice", client=world.client)


class TestEmergency:
    def test_it_passes_the_rules_and_shows_everywhere(self, world):
        version = world.register("one")
        emergency_promote(
            "shelf",
            version,
            to="Production",
            reason="the old one leaks",
            by="eve",
            client=world.client,
        )
        assert stage(world, version) == "Production"
        assert "EMERGENCY" in tags(world, version)["agent.emergency"]
        assert "EMERGENCY" in world.client.get_registered_model("shelf").tags["agent.emergency"]
        event = world.events("unsafe_override")[-1]
        assert event.actor == "eve"
        assert event.body["reason"] == "the old one leaks"
        assert "suite shelf" in str(event.body["unmet"])
        world.promoted("two")
        assert "agent.emergency" not in world.client.get_registered_model("shelf").tags

    def test_it_needs_a_reason(self, world):
        version = world.register("one")
        with pytest.raises(MlflowException, match="reason"):
            emergency_promote(
                "shelf", version, to="Production", reason="", by="eve", client=world.client
            )

    def test_it_does_not_pass_changed_content(self, world):
        version = world.register("one")
        uri = world.client.get_model_version_download_uri("shelf", str(version))
        folder = Path(uri.removeprefix("file://"))
        folder.chmod(0o755)
        (folder / "agent" / "tools.py").unlink()
        with pytest.raises(MlflowException, match="cannot be served"):
            emergency_promote(
                "shelf", version, to="Production", reason="hurry", by="eve", client=world.client
            )

    def test_a_slot_can_be_emptied_by_a_reviewer(self, world):
        world.promoted("one")
        retire("shelf", to="Production", reason="out of service", by="alice", client=world.client)
        assert world.loads("Production") == "MlflowException"
        world.client.delete_model_version("shelf", "1")
        assert history("shelf", "Production", client=world.client)[-1].kind == "retired"


class TestRecord:
    def test_the_history_answers_what_a_slot_pointed_to_at_any_time(self, world):
        world.promoted("one")
        between = datetime.now(timezone.utc)
        world.promoted("two")
        assert history("shelf", "Production", as_of=between, client=world.client)[-1].version == 1
        assert history("shelf", "Production", client=world.client)[-1].version == 2
        assert history("nothing", client=world.client) == []

    def test_every_step_is_in_an_audit_that_verifies(self, world):
        world.promoted("one")
        world.promoted("two")
        rollback("shelf", to="Production", reason="hm hm", by="alice", client=world.client)
        with pytest.raises(MlflowException):
            world.client.delete_model_version("shelf", "1")
        kinds = [event.kind for event in world.events()]
        assert kinds == [
            *["version_registered", "evidence_recorded", "promotion_requested",
              "promotion_answered", "version_promoted"] * 2,
            "version_rolled_back", "gate_decided",
        ]  # fmt: skip
        audit = world.store._transactions.audit
        audit.checkpoint()
        assert audit.verify().ok

    def test_a_removed_entry_of_the_history_shows(self, world):
        from sqlalchemy import text

        world.promoted("one")
        world.promoted("two")
        with world.store.engine.begin() as connection:
            connection.execute(text("DELETE FROM agent_slot_history WHERE number = 1"))
        with pytest.raises(MlflowException, match="changed past the registry"):
            history("shelf", "Production", client=world.client)

    def test_tags_that_deployments_act_on_are_the_reviewers(self, world):
        gate = GATE.replace("allow_unverified: true", "guarded_tags: [deploy]")
        world.register("one", gate=gate)
        for act in (
            lambda: world.client.set_model_version_tag("shelf", "1", "deploy", "yes"),
            lambda: world.client.set_model_version_tag("shelf", "1", "DEPLOY", "yes"),
            lambda: world.client.set_registered_model_tag("shelf", "deploy", "1"),
            lambda: world.client.delete_model_version_tag("shelf", "1", "deploy"),
            lambda: world.client.delete_registered_model_tag("shelf", "deploy"),
        ):
            with pytest.raises(MlflowException, match="nobody logged in"):
                act()
        world.client.set_model_version_tag("shelf", "1", "team", "blue")


class TestBecomingGated:
    def test_what_stood_in_a_slot_before_is_kept_and_noted(self, world):
        world.ordinary("shelf")
        world.client.transition_model_version_stage("shelf", "1", "Production")
        world.client.set_registered_model_tag("shelf", "agent.slot.Production", "a lie")
        world.client.set_model_version_tag("shelf", "1", "agent.gate.Production", "a lie")
        version = world.register("one")
        assert world.client.get_latest_versions("shelf", ["Production"])[0].version in {1, "1"}
        assert [e.kind for e in history("shelf", "Production", client=world.client)] == ["adopted"]
        assert "agent.gate.Production" not in tags(world, 1)
        world.ready(version)
        promote("shelf", version, to="Production", client=world.client)
        with pytest.raises(MlflowException, match="never stood"):
            rollback("shelf", to="Production", reason="hm hm", by="alice", client=world.client)

    def test_a_malformed_gate_file_registers_nothing(self, world):
        with pytest.raises(MlflowException, match=r"gate\.yaml:2"):
            world.register(
                "one", gate="apiVersion: mlflow-agents/v1\nprotected:\n  Production: []\n"
            )
        assert world.client.search_model_versions("name = 'shelf'") == []
        world.client.rename_registered_model("shelf", "still_ordinary")

    def test_content_that_cannot_be_kept_registers_nothing(self, world, monkeypatch):
        from mlflow_agent_plugin.registry.vault import Vault

        blocked = world.folder / "file"
        blocked.write_text("not a folder")
        monkeypatch.setattr(world.store, "_vault", Vault((blocked / "below").as_uri()))
        with pytest.raises(MlflowException, match="cannot keep the content"):
            world.register("one")
        assert world.client.search_model_versions("name = 'shelf'") == []

    @pytest.mark.skipif(os.name == "nt", reason="needs symbolic links")
    def test_links_in_the_content_are_refused(self, world):
        source = world.model("one")
        (source / "agent" / "secret").symlink_to("/etc/passwd")
        world.client.create_registered_model("shelf")
        with pytest.raises(MlflowException, match="symbolic link"):
            world.client.create_model_version("shelf", str(source))
        (source / "agent" / "secret").unlink()
        (source / "MLmodel").rename(source / "real")
        (source / "MLmodel").symlink_to(source / "real")
        world.client.create_model_version("shelf", str(source))  # no agent, as MLflow sees it
        assert "agent.digest" not in tags(world, 1)

    def test_a_copy_of_an_agent_is_an_agent_and_starts_from_nothing(self, world):
        world.promoted("one")
        copied = world.client.copy_model_version("models:/shelf/1", "branch")
        found = world.client.get_model_version("branch", copied.version).tags
        assert found["agent.digest"] == world.digest(1)
        assert found["agent.gate.Production"].startswith("refused")
        with pytest.raises(MlflowException, match="approvals"):
            promote("branch", copied.version, to="Production", client=world.client)
