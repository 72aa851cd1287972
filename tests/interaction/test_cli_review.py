"""From a folder to Production and back by the command line, on a real gated registry."""

from __future__ import annotations

import json
import sqlite3

import pytest
from helpers.command_line import write_shelf


def test_the_whole_way_from_a_folder_to_production_and_back(
    tmp_path, cli, gated, shelf, suite, monkeypatch
):
    # Logged and registered.
    logged = cli("log", shelf, "--register", "shelf", "--json").json
    assert (logged["registered_model"], logged["version"]) == ("shelf", 1)
    assert logged["digest"].startswith("sha256:")
    assert logged["model_uri"].startswith("models:/m-")

    # The gate says no, why, and what to do; so does promoting anyway.
    said = cli("gate", "shelf", 1, "--to", "Production", code=1)
    assert "refused: 3 unmet" in said.out
    assert "unknown suite tiny" in said.words
    report = cli("gate", "shelf", 1, "--to", "Production", "--json", code=1).json
    assert report["passed"] is False
    assert {item["kind"] for item in report["results"]} >= {"suite", "safety", "approvals"}
    refused = cli("promote", "shelf", 1, "--to", "Production", code=1)
    assert refused.out == ""
    assert "approvals: 1 by role reviewer" in refused.err
    document = cli("promote", "shelf", 1, "--to", "Production", "--json", code=1).json
    assert document["error"]["code"] == "PERMISSION_DENIED"
    assert "3 of 4 requirements are not met" in document["error"]["message"]

    # Evaluated, requested, approved by somebody else, promoted.
    measured = cli("evaluate", "models:/shelf/1", "--suite", suite, "--workers", 0, "--json").json
    assert measured["suites"]["tiny"]["metrics"]["task_success"]["value"] == 1.0
    assert measured["submitted"] == "shelf/1"
    held = ("--hold", "--comment", "try it")
    assert cli("request", "shelf", 1, "--to", "Production", *held).out == (
        "requested: shelf version 1 to Production\n"
    )
    own = cli("approve", "shelf", 1, "--to", "Production", code=1)
    assert "bob" in own.err
    approved = cli("approve", "shelf", 1, "--to", "Production", "--as", "rita", "--json").json
    assert approved["result"] == "approved: shelf version 1 to Production"
    assert (approved["applied"], "asks to wait" in approved["why"]) == (False, True)
    assert "passed: 4 met" in cli("gate", "shelf", 1, "--to", "Production").out
    assert cli("promote", "shelf", 1, "--to", "production").code == 0

    # A second version takes the same way; its author withdraws, a reviewer rejects.
    cli("log", write_shelf(shelf, "a chair"), "--register", "shelf")
    words = ("--suite", suite, "--workers", 0, "--baseline", measured["run_id"], "--repeats", 2)
    shown = cli("evaluate", "models:/shelf/2", *words).out
    assert "tiny against run" in shown
    assert "p (McNemar)" in shown
    assert "detectable" in shown
    assert "variance between cases" in shown
    for how in (("withdraw",), ("reject", "--as", "rita")):
        cli("request", "shelf", 2, "--to", "Production")
        said = cli(how[0], "shelf", 2, "--to", "Production", "--reason", "not yet", *how[1:])
        assert said.out.startswith(("withdrawn: ", "rejected: "))
        assert "approvals" in cli("promote", "shelf", 2, "--to", "Production", code=1).err
    cli("request", "shelf", 2, "--to", "Production")
    assert cli("approve", "shelf", 2, "--to", "Production", "--as", "rita").out == (
        "approved: shelf version 2 to Production\npromoted: shelf Production is version 2\n"
    )

    # What changed between them.
    assert "a chair" in cli("diff", "models:/shelf/1", "models:/shelf/2").out

    # The registry signed what stands there, and the copy is what it signed.
    proof = cli("proof", "shelf", "--to", "Production", "--fetch", "copy", "--json").json
    assert (proof["version"], proof["kind"]) == (2, "promoted")
    assert "version 2: promoted by rita" in cli("proof", "shelf", "--to", "Production").out
    assert (tmp_path / "copy" / "MLmodel").exists()
    assert "no problems" in cli("verify").out

    # Back, and forward again; the history names who and why.
    back = cli("rollback", "shelf", "--to", "Production", "--reason", "too cosy", "--as", "rita")
    assert back.out == "rolled back: shelf Production is version 1\n"
    forward = cli(
        "rollback", "shelf", "--to", "Production", "--version", 2, "--reason", "it was not",
        "--json",
    )  # fmt: skip
    assert forward.json["version"] == 2
    entries = cli("history", "shelf", "--json").json
    assert [(item["kind"], item["version"]) for item in entries] == [
        ("promoted", 1),
        ("promoted", 2),
        ("rolled_back", 1),
        ("rolled_back", 2),
    ]
    shown = cli("history", "shelf", "--to", "Production").words
    assert "rolled_back 1 rita (unverified) too cosy" in shown

    # Tighter rules are taken, an emergency is loud, retiring empties the slot.
    tighter = tmp_path / "gate.yaml"
    tighter.write_text((shelf / "gate.yaml").read_text().replace("minimum: 0.9", "minimum: 0.95"))
    assert "protects Production, @champion" in cli("rules", "shelf", tighter).out
    emergency = cli("emergency", "shelf", 1, "--to", "Production", "--reason", "version 2 burns")
    assert "WARNING" in emergency.err
    assert "past the gate" in emergency.out
    retired = cli("retire", "shelf", "--to", "Production", "--reason", "shop closed", "--json")
    assert retired.json["version"] is None

    # Whoever changes the registry's rows past it is found out.
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        connection.execute("UPDATE agent_versions SET author = 'mallory' WHERE version = 2")
    broken = cli("verify", "--json", code=1).json
    assert broken["ok"] is False
    assert "agent_versions" in broken["problems"][0]

    # All of it is in the audit of the registry.
    store = ("--store", f"sqlite:///{tmp_path}/mlflow.db")
    assert "audit intact" in cli("audit", "verify", *store).out
    kinds = [event["kind"] for event in cli("audit", "show", *store, "--json").json]
    assert {"gate_decided", "version_promoted", "version_rolled_back", "unsafe_override"} <= {
        *kinds
    }
    overrides = cli("audit", "show", "--kind", "unsafe_override", *store, "--json").json
    assert json.dumps(overrides).count("version 2 burns") >= 1


def test_a_registry_without_a_gate_is_never_reported_as_having_done_something(tmp_path, cli, shelf):
    cli("log", shelf, "--register", "shelf")
    from mlflow import MlflowClient

    for command, *more in (
        ("request",),
        ("approve",),
        ("reject", "--reason", "bad"),
        ("withdraw", "--reason", "bad"),
        ("emergency", "--reason", "bad"),
    ):
        said = cli(command, "shelf", 1, "--to", "Production", *more, code=1)
        assert "not behind a gate; nothing was changed" in said.err
        assert said.out == ""
    for command in ("rollback", "retire"):
        said = cli(command, "shelf", "--to", "Production", "--reason", "bad", code=1)
        assert "not behind a gate" in said.err
    assert "not behind a gate" in cli("rules", "shelf", shelf / "gate.yaml", code=1).err
    assert "not behind a gate" in cli("promote", "shelf", 1, "--to", "Production", code=1).err
    assert "no slots behind a gate" in cli("history", "shelf", code=1).err
    assert "does not hold a gated registry" in cli("verify", code=1).err
    assert cli("proof", "shelf", "--to", "@champion", "--json", code=1).json["error"]["message"]
    assert cli("gate", "shelf", 1, "--to", "Production", code=1).out == ""
    client = MlflowClient()
    commands = ("agent.request", "agent.approve", "agent.rollback", "agent.rules")
    assert not set(commands) & set(client.get_model_version("shelf", "1").tags)
    assert not set(commands) & set(client.get_registered_model("shelf").tags)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["gate", "nobody", "1", "--to", "Production"], 1, "nobody"),
        (["gate", "nobody", "1", "--to", "production line"], 1, "is not a slot"),
        (["gate", "nobody", "1", "--to", "@latest"], 1, "is not an alias"),
        (["gate", "nobody", "one", "--to", "Production"], 2, "'one' is not a version number"),
        (["gate", "nobody", "0", "--to", "Production"], 2, "'0' is not a version number"),
        (["gate", "nobody", "٢", "--to", "Production"], 2, "is not a version number"),
        (["gate", "nobody", "9" * 400, "--to", "Production"], 2, "is not a version number"),
        (["gate", "nobody", "1"], 2, "--to"),
        (["promote", "nobody", "1", "--to", "Production"], 1, "nobody"),
        (["rollback", "nobody", "--to", "Production", "--reason", "because"], 1, "nobody"),
        (["reject", "nobody", "1", "--to", "Production"], 2, "--reason"),
        (["history", "nobody"], 1, "nobody"),
        (["diff", "models:/nobody/1", "models:/nobody/2"], 1, "nobody"),
        (["evaluate", "models:/nobody/1", "--suite", "nothing.yaml"], 1, "nobody"),
    ],
)
def test_wrong_names_are_one_line_and_a_json_document(cli, gated, words, code, says):
    said = cli(*words, code=code)
    assert said.out == ""
    assert says in said.err
    assert "Traceback" not in said.err
    document = cli(*words, "--json", code=code)
    assert document.err == ""
    assert says in document.json["error"]["message"]
