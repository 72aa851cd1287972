"""key, db, doctor."""

from __future__ import annotations

import os
import stat
import sys

import pytest


def test_the_signing_key_is_made_once_and_shown(tmp_path, cli):
    first = cli("key", "show", "--json").json
    assert first == cli("key", "show", "--json").json
    assert first["trusted"] == {first["signing"]: ["everything"]}
    assert first["signing"] in cli("key", "show").out
    if os.name == "posix":
        mode = (tmp_path / "keys" / "signing-key.pem").stat().st_mode
        assert stat.S_IMODE(mode) == 0o600


def test_another_machine_s_key_is_trusted_for_its_purpose_and_revoked(tmp_path, cli, monkeypatch):
    monkeypatch.setenv("MLFLOW_AGENTS_KEY_DIR", str(tmp_path / "other"))
    exported = cli("key", "export", "--json").json
    (tmp_path / "other.pem").write_text(cli("key", "export").out)
    monkeypatch.setenv("MLFLOW_AGENTS_KEY_DIR", str(tmp_path / "keys"))
    said = cli("key", "trust", "other.pem", "--for", "evidence", "--json").json
    assert said == {"key_id": exported["key_id"], "purpose": "evidence"}
    assert cli("key", "show", "--json").json["trusted"][exported["key_id"]] == ["evidence"]
    cli("key", "revoke", exported["key_id"], "--reason", "laptop lost")
    shown = cli("key", "show", "--json").json
    assert exported["key_id"] not in shown["trusted"]
    assert shown["revoked"] == [exported["key_id"]]
    assert "is not a key id" in cli("key", "revoke", "him", "--reason", "x", code=1).err


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff\xfe", b"-----BEGIN PUBLIC KEY-----\n"])
def test_what_is_no_public_key_is_not_trusted(tmp_path, cli, content):
    (tmp_path / "key.pem").write_bytes(content)
    said = cli("key", "trust", "key.pem", code=1)
    assert "is not a PEM public key" in said.err
    assert not (tmp_path / "keys" / "trusted").exists()


def test_a_private_or_foreign_key_is_not_trusted(tmp_path, cli):
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    cli("key", "show")
    private = tmp_path / "keys" / "signing-key.pem"
    assert "is not a PEM public key" in cli("key", "trust", private, code=1).err
    curve = ec.generate_private_key(ec.SECP256R1()).public_key()
    (tmp_path / "curve.pem").write_bytes(
        curve.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    assert "is not an Ed25519 key" in cli("key", "trust", "curve.pem", code=1).err


def test_a_rotated_key_signs_and_the_old_one_is_trusted_or_revoked(cli):
    token = cli("key", "token", "eve").out.strip()
    first = cli("key", "show", "--json").json["signing"]
    made = cli("key", "rotate", "--json").json
    assert made == {"old": first, "new": made["new"], "revoked": False}
    shown = cli("key", "show", "--json").json
    assert (shown["signing"], set(shown["trusted"])) == (made["new"], {first, made["new"]})
    again = cli("key", "rotate", "--revoke", "--reason", "lost")
    assert f"revoked: {made['new']}" in again.out
    shown = cli("key", "show", "--json").json
    assert shown["revoked"] == [made["new"]]
    from mlflow_agent_plugin.trust import KeyPurpose, KeyStore, actor_from_token

    assert actor_from_token(token, KeyStore().trusted_keys(KeyPurpose.ACTORS)).user == "eve"


def test_a_token_names_its_actor_and_expires(cli):
    from mlflow_agent_plugin.trust import KeyPurpose, KeyStore, actor_from_token

    token = cli("key", "token", "eve@shop:customer,vip").out.strip()
    keys = KeyStore().trusted_keys(KeyPurpose.ACTORS)
    actor = actor_from_token(token, keys)
    assert (actor.user, actor.tenant, actor.roles, actor.verified) == (
        "eve",
        "shop",
        frozenset({"customer", "vip"}),
        True,
    )
    assert cli("key", "token", "eve", "--ttl-seconds", 5, "--json").json["ttl_seconds"] == 5
    assert cli("key", "token", "eve", "--ttl-seconds", 0, code=2).err
    assert "no usable user" in cli("key", "token", "@shop", code=1).err


def test_the_store_is_looked_at_without_being_made_then_made(tmp_path, cli):
    before = cli("db", "status", "--json", code=1).json
    assert before["revision"] is None
    assert not (tmp_path / "agents.db").exists()
    assert "not made yet" in cli("db", "status", code=1).out
    made = cli("db", "upgrade", "--json").json
    assert made["before"] is None
    assert made["revision"] == before["newest"]
    assert cli("db", "status", "--json").json["revision"] == before["newest"]
    assert "was" not in cli("db", "upgrade").out


def test_a_store_of_a_newer_version_is_left_alone(tmp_path, cli):
    import sqlite3

    cli("db", "upgrade")
    connection = sqlite3.connect(tmp_path / "agents.db")
    connection.execute("UPDATE agent_schema_version SET version_num = '9999'")
    connection.commit()
    connection.close()
    assert "9999" in cli("db", "upgrade", code=1).err
    assert cli("db", "status", "--json", code=1).json["revision"] == "9999"
    rows = {item["name"]: item for item in cli("doctor", "--json").json["checks"]}
    assert rows["runtime store"]["status"] == "warn"


# --- doctor --------------------------------------------------------------------------------------


def checks(cli, code=0):
    found = cli("doctor", "--json", code=code).json
    assert found["ok"] is (code == 0)
    for item in found["checks"]:
        assert item["status"] == "ok" or item["todo"], item
    return {item["name"]: item for item in found["checks"]}


def test_doctor_finds_a_fresh_machine_well_and_changes_nothing(tmp_path, cli, gated):
    before = sorted(tmp_path.rglob("*"))
    found = checks(cli)
    assert {item["status"] for item in found.values()} == {"ok"}
    assert found["Python"]["found"] == ".".join(map(str, sys.version_info[:3]))
    assert "gated" in found["registry"]["found"]
    assert sorted(tmp_path.rglob("*")) == before
    cli("key", "show")
    cli("db", "upgrade")
    again = checks(cli)
    assert "signs as" in again["keys"]["found"]
    assert "revision" in again["runtime store"]["found"]


def test_doctor_warns_of_a_registry_without_a_gate(cli):
    found = checks(cli)
    assert found["registry"]["status"] == "warn"
    assert "agents+sqlite" in found["registry"]["todo"]


def test_doctor_does_not_make_mlflow_s_database(tmp_path, cli, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/new.db")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", f"agents+sqlite:///{tmp_path}/new.db")
    assert "made on first use" in checks(cli)["tracking"]["found"]
    assert not (tmp_path / "new.db").exists()


@pytest.mark.parametrize(
    ("variable", "value", "row", "says"),
    [
        ("MLFLOW_TRACKING_URI", "http://127.0.0.1:9", "tracking", "no answer"),
        ("MLFLOW_TRACKING_URI", "nonsense://x", "tracking", "nonsense"),
        ("MLFLOW_TRACKING_URI", "http://ann:geheim@127.0.0.1:9", "tracking", "no answer"),
        ("MLFLOW_REGISTRY_URI", "http://127.0.0.1:9", "registry", "no answer"),
        ("MLFLOW_AGENTS_STORE_URI", "nonsense", "runtime store", "is not a database URL"),
        ("MLFLOW_AGENTS_STORE_URI", "postgresql://a:geheim@127.0.0.1:1/x", "runtime store", "***"),
        ("MLFLOW_AGENTS_STORE_URI", "sqlite:////no/such/agents.db", "runtime store", "/no/such"),
        ("MLFLOW_AGENTS_ACTOR", ":", "settings", "no usable user"),
        ("MLFLOW_AGENTS_TRACING", "perhaps", "settings", "MLFLOW_AGENTS_TRACING"),
    ],
)
def test_doctor_names_what_cannot_work(cli, monkeypatch, variable, value, row, says):
    monkeypatch.setenv(variable, value)
    found = checks(cli, code=1)
    assert found[row]["status"] == "fail"
    assert says in found[row]["found"]
    assert "geheim" not in str(found)


@pytest.mark.skipif(os.name != "posix", reason="file modes")
def test_doctor_sees_a_key_folder_others_can_write(tmp_path, cli):
    cli("key", "show")
    (tmp_path / "keys").chmod(0o777)
    said = cli("doctor", "--json", code=1).json
    rows = [item for item in said["checks"] if item["name"] == "keys"]
    assert [item["status"] for item in rows] == ["fail", "ok"]
    assert "chmod 700" in rows[0]["todo"]
    (tmp_path / "keys" / "signing-key.pem").chmod(0o644)
    assert "chmod 600" in str(cli("doctor", "--json", code=1).json)


def test_doctor_sees_packages_that_were_not_tested_or_are_missing(cli, monkeypatch):
    from importlib import metadata

    real = metadata.requires
    monkeypatch.setattr(
        metadata, "requires", lambda name: [*real(name), "click<1", "no-such-package>=1"]
    )
    said = cli("doctor", "--json", code=1).json
    rows = [item for item in said["checks"] if item["name"] == "packages"]
    assert [item["status"] for item in rows] == ["warn", "fail", "ok"]
    assert "click" in rows[0]["found"]
    assert "no-such-package is missing" in rows[1]["found"]
