"""Approvals and audit of running agents, the monitoring table, drift, retraining."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path

import mlflow
import pytest
from helpers.command_line import write_shelf
from helpers.shelf_agent import call, say, write_bundle

from mlflow_agent_plugin.entities import Actor, AgentRequest


@pytest.fixture
def agent(tmp_path):
    """Give a running shelf agent that wants to burn a lamp, and then says so."""
    from mlflow_agent_plugin.core import AgentRuntime
    from mlflow_agent_plugin.package import load_bundle

    root = write_bundle(
        tmp_path / "burner", [call("burn", "lamp"), say("done")], folder=tmp_path / "shelf"
    )
    runtime = AgentRuntime.open(load_bundle(root))
    yield runtime
    runtime.close()


def ask(agent, session, *, resume=False):
    return agent.invoke(
        AgentRequest(
            text="" if resume else "burn it",
            session_id=session,
            actor=Actor("eve", tenant="shop"),
            resume=resume,
        )
    )


def test_nothing_waits_at_first(cli):
    assert cli("approvals", "list").out == "approvals: none\n"
    assert cli("approvals", "list", "--json").json == []


def test_a_waiting_call_is_shown_approved_and_then_runs(tmp_path, cli, agent):
    (waiting,) = ask(agent, "s1").approvals
    listed = cli("approvals", "list").words
    assert f'{waiting.approval_id} waiting burn {{"item": "lamp"}} eve 0/1 warden' in listed
    shown = cli("approvals", "show", waiting.approval_id, "--json").json
    assert (shown["tool"], shown["arguments"]) == ("burn", {"item": "lamp"})
    own = cli("approvals", "approve", waiting.approval_id, "--as", "eve@shop:warden", code=1)
    assert own.out == ""
    stranger = cli("approvals", "approve", waiting.approval_id, "--as", "wim@shop", code=1)
    assert "warden" in stranger.err
    said = cli("approvals", "approve", waiting.approval_id, "--as", "wim@shop:warden")
    assert said.out == 'approved: burn({"item": "lamp"}) in session s1\n'
    again = cli("approvals", "reject", waiting.approval_id, "--reason", "no", code=1)
    assert again.err.startswith("mlflow-agents: ")
    assert ask(agent, "s1", resume=True).outcome.value == "acted"
    mlflow.flush_trace_async_logging()  # traces leave the process on a thread of their own
    assert cli("approvals", "feedback").out.startswith("1 answers written to their traces, 0 were")
    again = cli("approvals", "feedback", "--days", "1", "--json").json
    assert again == {"logged": 0, "known": 1, "without_trace": 0, "held_elsewhere": False}
    assert (tmp_path / "shelf" / "effects.txt").read_text().count("lamp") == 1
    assert cli("approvals", "list").out == "approvals: none\n"
    assert "executed" in cli("approvals", "list", "--all").out
    assert cli("approvals", "list", "--all", "--tenant", "other", "--json").json == []


def test_a_rejected_call_never_runs(tmp_path, cli, agent):
    (waiting,) = ask(agent, "s2").approvals
    words = ("approvals", "reject", waiting.approval_id, "--as", "wim@shop:warden")
    assert "--reason" in cli(*words, code=2).err
    rejected = cli(*words, "--reason", "too hot", "--json").json
    assert (rejected["state"], rejected["answer_reason"]) == ("rejected", "too hot")
    ask(agent, "s2", resume=True)
    assert not (tmp_path / "shelf" / "effects.txt").exists()


def test_a_call_is_claimed_and_edited_after_the_agent_was_asked_whether_it_would_run(
    tmp_path, cli, agent
):
    (waiting,) = ask(agent, "s4").approvals
    me, other = ("--as", "wim@shop:warden"), ("--as", "ann@shop:warden")
    claimed = cli("approvals", "claim", waiting.approval_id, *me)
    assert "claimed by wim until" in claimed.out
    edit = ("approvals", "edit", waiting.approval_id, "--reason", "the lamp is needed")
    paper = ("--arguments", '{"item": "paper"}')
    assert "wim is looking at it" in cli(*edit, *paper, *other, code=1).err
    cli("approvals", "release", waiting.approval_id, *me)
    bundle = ("--agent", str(tmp_path / "burner"))
    misfit = cli(*edit, "--arguments", '{"item": 5}', *bundle, *other, code=1)
    assert "does not fit the contract of 'burn'" in misfit.err
    assert "same call" in cli(*edit, "--arguments", '{"item": "lamp"}', *other, code=1).err
    made = cli(*edit, *paper, *bundle, *other, "--json").json
    assert (made["state"], made["edited_from"]) == ("approved", waiting.approval_id)
    assert ask(agent, "s4", resume=True).outcome.value == "acted"
    assert (tmp_path / "shelf" / "effects.txt").read_text().split()[1:] == ["paper"]
    edited = cli("approvals", "show", waiting.approval_id, "--json").json
    assert (edited["state"], edited["replaced_by"]) == ("edited", made["approval_id"])


def test_a_token_makes_the_reviewer_a_verified_person(cli, agent, monkeypatch):
    asked = AgentRequest(
        text="burn it", session_id="s5", actor=Actor("eve", tenant="shop", verified=True)
    )
    (waiting,) = agent.invoke(asked).approvals
    words = ("approvals", "approve", waiting.approval_id)
    unverified = cli(*words, "--as", "wim@shop:warden", code=1)
    assert "wim has not logged in" in unverified.err
    token = cli("key", "token", "wim@shop:warden").out.strip()
    monkeypatch.setenv("MLFLOW_AGENTS_ACTOR_TOKEN", token + "x")
    assert "token" in cli(*words, code=1).err
    monkeypatch.setenv("MLFLOW_AGENTS_ACTOR_TOKEN", token)
    assert "give one" in cli(*words, "--as", "wim@shop:warden", code=2).err
    (vote,) = cli(*words, "--json").json["votes"]
    assert (vote["voter"], vote["verified"], vote["yes"]) == ("wim", True, True)


def test_an_unknown_approval_is_one_line(cli):
    for command in (("show",), ("approve",), ("reject", "--reason", "no")):
        said = cli("approvals", command[0], "apr-nothing", *command[1:], code=1)
        assert said.err.count("\n") == 1


def test_what_an_agent_wants_is_shown_to_the_letter(tmp_path, cli):
    """An argument cannot hide behind terminal escapes, or read from right to left."""
    from mlflow_agent_plugin.core import AgentRuntime
    from mlflow_agent_plugin.package import load_bundle

    tricky = "lamp\x1b[2K\x1b[1A\u202epmal\u200b\x9b31m"
    root = write_bundle(
        tmp_path / "tricky", [call("burn", tricky), say("x")], folder=tmp_path / "shelf"
    )
    with_runtime = AgentRuntime.open(load_bundle(root))
    try:
        (waiting,) = ask(with_runtime, "s3").approvals
    finally:
        with_runtime.close()
    for words in (("list",), ("show", waiting.approval_id)):
        out = cli("approvals", *words).out
        assert not {letter for letter in out if not letter.isprintable()} - {"\n"}
        assert "\\u202e" in out
    assert cli("approvals", "show", waiting.approval_id, "--json").json["arguments"] == {
        "item": tricky
    }


def test_the_audit_is_shown_filtered_verified_anchored_and_exported(tmp_path, cli, agent):
    assert "none" in cli("audit", "show").out
    assert cli("audit", "anchor", "--json", code=1).json == {"anchor": None}
    ask(agent, "s1")
    ask(agent, "s2")
    agent.close()
    events = cli("audit", "show", "--json").json
    assert events[0]["kind"] == "request_received"
    only = cli("audit", "show", "--session", "s1", "--json").json
    assert {event["session_id"] for event in only} == {"s1"}
    decided = cli("audit", "show", "--kind", "tool_call_decided").words
    assert "burn; needs_approval by burning-needs-a-warden" in decided
    assert "starts" not in decided
    assert len(cli("audit", "show", "--limit", 1, "--json").json) == 1
    assert cli("audit", "show", "--tenant", "other", "--json").json == []
    assert "--kind" in cli("audit", "show", "--kind", "nonsense", code=2).err

    assert "audit intact" in cli("audit", "verify").out
    anchor = cli("audit", "anchor").out.strip()
    assert cli("audit", "verify", "--anchor", anchor, "--json").json["ok"] is True
    forged = anchor.partition(":")[0] + ":sha256:" + "0" * 64
    assert cli("audit", "verify", "--anchor", forged, "--json", code=1).json["ok"] is False
    assert "NUMBER:HASH" in cli("audit", "verify", "--anchor", "newest", code=2).err

    said = cli("audit", "export", "audit.jsonl", "--json").json
    lines = (tmp_path / "audit.jsonl").read_text("utf-8").splitlines()
    assert len(lines) == said["events"] == len(events)
    assert [json.loads(line)["hash"] for line in lines] == [event["hash"] for event in events]
    assert "No such file" in cli("audit", "export", "no/such/folder.jsonl", code=1).err


def test_a_changed_audit_row_is_found_and_named(tmp_path, cli, agent):
    import sqlite3

    ask(agent, "s1")
    agent.close()
    connection = sqlite3.connect(tmp_path / "agents.db")
    triggers = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")
    for (name,) in triggers.fetchall():
        connection.execute(f"DROP TRIGGER {name}")
    connection.execute("UPDATE agent_audit_events SET actor = 'mallory' WHERE seq = 2")
    connection.commit()
    connection.close()
    said = cli("audit", "verify", code=1)
    assert "audit BROKEN" in said.out
    found = cli("audit", "verify", "--json", code=1).json
    assert found["ok"] is False
    assert found["first_bad"].endswith("-2")


@pytest.mark.parametrize(
    ("store", "code"),
    [
        ("nonsense", 1),
        ("mysql://root@localhost/agents", 1),
        ("sqlite:////no/such/folder/agents.db", 1),
        ("postgresql://user:geheim@127.0.0.1:1/agents", 1),
    ],
)
def test_a_store_that_cannot_be_used_is_one_line_without_its_password(cli, store, code):
    for words in (
        ("approvals", "list"),
        ("audit", "show"),
        ("audit", "verify"),
        ("db", "upgrade"),
        ("db", "status"),
    ):
        said = cli(*words, "--store", store, code=None)
        assert said.code == code
        assert "geheim" not in said.err + said.out
        assert "Traceback" not in said.err


def test_a_file_that_is_no_database_is_one_line(tmp_path, cli):
    (tmp_path / "notes.txt").write_text("not a database, though long enough for a header " * 9)
    said = cli("audit", "verify", "--store", f"sqlite:///{tmp_path}/notes.txt", code=1)
    assert "not a database" in said.err
    assert said.err.count("\n") == 1


# --- monitoring ----------------------------------------------------------------------------------


def test_served_traffic_becomes_the_monitoring_table(tmp_path, cli, monkeypatch):
    import mlflow

    from mlflow_agent_plugin.core import AgentRuntime
    from mlflow_agent_plugin.package import load_bundle

    mlflow.create_experiment("traffic")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "traffic")
    runtime = AgentRuntime.open(load_bundle(write_shelf(tmp_path / "shelf-agent")))
    for number in range(3):
        runtime.invoke(
            AgentRequest(text="what is there?", session_id=f"s{number}", actor=Actor("eve"))
        )
    runtime.close()
    mlflow.flush_trace_async_logging()
    table = cli("monitor", "--experiment", "traffic", "--path", "monitoring", "--json").json
    assert (table["added"], table["skipped"]) == (3, 0)
    again = cli("monitor", "--path", "monitoring").out
    assert "0 rows added" in again


def test_drift_without_traffic_is_refused_never_a_no(tmp_path, cli):
    (tmp_path / "monitoring").mkdir()
    said = cli("drift", "reference.parquet", "monitoring", code=1)
    assert "there is no traffic" in said.err
    assert cli("drift", "reference.parquet", "nowhere", code=2).err


def test_drift_tells_quiet_from_shifted_traffic(tmp_path, cli):
    from mlflow import MlflowClient

    from mlflow_agent_plugin.observability import write_reference

    write_reference(_rows(400, seed=1), tmp_path / "reference.parquet")
    for name, shift in (("quiet", 0.0), ("shifted", 0.5)):
        day = tmp_path / name / "day=2026-03-01"
        day.mkdir(parents=True)
        write_reference(_rows(600, seed=2, shift=shift), day / "part.parquet")
    words = ("drift", "reference.parquet")
    assert cli(*words, "quiet", "--sessions", 300).out.count("no drift") == 2
    said = cli(*words, "shifted", "--sessions", 300, code=1)
    assert "window 2: drift confirmed" in said.out
    found = cli(*words, "shifted", "--hours", 24, "--json", code=1).json
    assert found["windows"] == [None]  # one window alone confirms nothing
    logged = cli(*words, "shifted", "--sessions", 300, "--log", _version(), "--json", code=1).json
    tags = MlflowClient().get_model_version("shelf", "1").tags
    assert tags["monitoring.drift"] == logged["run_id"]
    assert cli(*words, "quiet", "--sessions", 1, "--hours", 2, code=2).err
    assert "MODEL/VERSION" in cli(*words, "quiet", "--log", "shelf", code=2).err


def _version():
    """Register version 1 of a model and return its name."""
    from mlflow import MlflowClient

    MlflowClient().create_registered_model("shelf")
    MlflowClient().create_model_version("shelf", str(Path.cwd()))
    return "shelf/1"


def _rows(count, *, seed, shift=0.0):
    import random

    from mlflow_agent_plugin.entities import AgentReply, Outcome, Usage
    from mlflow_agent_plugin.observability.schema import row_from_reply

    draw = random.Random(seed)
    start = datetime(2026, 3, 1, tzinfo=timezone.utc)
    rows = []
    for number in range(count):
        new = draw.random() < shift
        reply = AgentReply(
            text="ok",
            outcome=Outcome.CLARIFIED if new else Outcome.ANSWERED,
            session_id=f"s{seed}-{number}",
            agent="shelf",
            agent_digest="sha256:aa",
            calls=(),
            intent="mortgage" if new else draw.choice(["card", "top_up", "transfer"]),
            confidence=draw.gauss(0.3 if new else 0.9, 0.05),
            usage=Usage(input_tokens=draw.randint(10, 30), output_tokens=5, model_calls=1),
            seconds=draw.random(),
        )
        row = row_from_reply(
            reply,
            text="a mortgage" if new else "my card is lost",
            event_time=start + timedelta(seconds=number),
            actor=Actor("eve"),
            trace_id=f"tr-{seed}-{number}",
        )
        rows.append(row)
    return rows


# --- what needs a checkout -----------------------------------------------------------------------


def test_retraining_needs_a_checkout_and_well_formed_parameters(tmp_path, cli):
    assert "there is no MLproject" in cli("retrain", "--reason", "drift", code=1).err
    assert "NAME=VALUE" in cli("retrain", "--reason", "x", "--param", "seed", code=2).err
    assert "--reason" in cli("retrain", code=2).err


def test_the_demo_empties_no_folder_it_did_not_make(tmp_path, cli, monkeypatch):

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    monkeypatch.chdir(Path(__file__).parents[2])
    said = cli("demo", "--dir", tmp_path / "mine", "--json", code=1)
    assert "no demo made" in said.json["error"]["message"]
    assert (tmp_path / "mine" / "thesis.txt").exists()
