"""The review console, over HTTP, on a real server with login."""

from __future__ import annotations

import re

import mlflow
import pytest
from helpers.team import PASSWORD

from mlflow_agent_plugin.lifecycle import collect_feedback
from mlflow_agent_plugin.observability import monitoring_table, read_table

pytestmark = pytest.mark.integration

PAGES = (
    "/", "/requests", "/requests/rows", "/approvals", "/approvals/rows", "/audit", "/safety",
    "/signals", "/audit/export", "/audit/requests/r", "/audit/requests/r/export", "/trials/" + "0" * 16,
)  # fmt: skip


@pytest.mark.parametrize("page", PAGES)
def test_nobody_sees_a_page_without_logging_in(team, page):
    assert team.get(f"/agents{page}", None).status_code == 401
    assert "Basic" in team.get(f"/agents{page}", None).headers["WWW-Authenticate"]


def test_the_first_page_lists_agents_with_their_slots(team, desk):
    text = team.get("/agents/").text
    assert desk in text
    assert "Production" in text
    assert "empty" in text


def test_a_page_that_is_not_there_is_said_so(team, desk):
    for path in ("/nothing", "/models/nobody", f"/models/{desk}/versions/99",
                 f"/models/{desk}/versions/x", f"/models/{desk}/versions/1?to=@nothing",
                 "/approvals/apr-none", "/audit/requests/none", "/audit/requests/none/export",
                 "/trials/" + "0" * 16, "/trials/x"):  # fmt: skip
        answer = team.get(f"/agents{path}", "rita")
        assert answer.status_code == 404, path
        assert "There is nothing here" in answer.text
        assert "Traceback" not in answer.text


def test_odd_queries_are_refused_in_words(team, desk):
    for path in ("/?offset=-1", "/?offset=1e9", "/audit?before=x", "/audit?kind=nothing",
                 "/audit?since=yesterday", "/audit?source=all", "/requests?state=gone",
                 "/safety?show=all", "/safety?before=x", "/approvals?show=answered&state=gone",
                 f"/?q={'x' * 300}", "/?q=a%00b", f"/models/{desk}?past=x"):  # fmt: skip
        answer = team.get(f"/agents{path}", "rita")
        assert answer.status_code == 400, path


def test_a_version_is_promoted_through_the_console_by_two_people(team):
    suite = team.register("console_desk")
    here = "/models/console_desk/versions/1"
    page = f"{here}?to=Production"

    refused = team.form(page, f"{here}/promote", to="Production")
    assert refused.status_code == 403
    assert "no evidence" in refused.text
    assert "version 1" not in team.get("/agents/").text.split("console_desk", 1)[1][:600]

    team.evaluate("console_desk", 1, suite)
    asked = team.form(page, f"{here}/request", to="Production", comment="<b>first</b>", hold="1")
    assert "Asked to promote" in asked.text
    listed = team.get("/agents/requests", "rita").text
    assert "console_desk version 1 to Production" in listed
    assert "&lt;b&gt;first" in listed
    assert "<b>first" not in listed

    own = team.form(page, f"{here}/approve", to="Production")
    assert own.status_code == 403
    yes = team.form(page, f"{here}/approve", "rita", to="Production", comment="read")
    assert "Approved version 1" in yes.text
    assert "Production was not moved" in yes.text
    assert "asks to wait" in yes.text
    done = team.form(page, f"{here}/promote", "rita", to="Production")
    assert "Production is version 1 now" in done.text

    shown = team.get("/agents/models/console_desk", "rita").text
    assert "promoted" in shown
    from mlflow import MlflowClient

    with team.acting("rita"):
        found = MlflowClient().get_latest_versions("console_desk", ["Production"])
    assert [item.version for item in found] in (["1"], [1])
    events = team.get("/agents/audit?source=registry&kind=version_promoted", "rita").text
    assert "console_desk" in events


def test_an_evaluation_run_leads_to_the_versions_page(team):
    """By its note, its tag and its report."""
    import mlflow
    from mlflow import MlflowClient

    suite = team.register("linked_desk")
    team.evaluate("linked_desk", 1, suite)
    page = "/agents/models/linked_desk/versions/1"
    with team.acting("ann"):
        tags = MlflowClient().get_model_version("linked_desk", "1").tags
        (name,) = (key for key in tags if key.startswith("agent.evidence."))
        run = MlflowClient().get_run(tags[name])
        suite_name = name.removeprefix("agent.evidence.")
        report = mlflow.artifacts.load_text(
            f"{run.info.artifact_uri}/evaluation/{suite_name}/report.html"
        )
    assert run.data.tags["agent.console"] == page
    assert f"]({page})" in run.data.tags["mlflow.note.content"]
    assert f'href="{page}"' in report
    assert team.get(page, "rita").ok


def test_an_approval_the_gate_does_not_follow_says_why_beside_the_form(team):
    team.register("early_desk")
    here = "/models/early_desk/versions/1"
    page = f"{here}?to=Production"
    team.form(page, f"{here}/request", to="Production", comment="too early")
    shown = team.get(f"/agents{page}", "rita").text
    assert "points Production to this version at once" in shown
    assert 'class="wrong"' not in shown
    said = team.form(page, f"{here}/approve", "rita", to="Production").text
    assert "The last approval is on record; Production was not moved" in said
    assert "no evidence" in said.split('class="wrong"', 1)[1]


def test_what_stands_past_the_gate_is_said_in_red_on_every_page_about_it(team):
    team.register("burning_desk")
    here = "/models/burning_desk/versions/1"
    page = f"{here}?to=@champion"
    done = team.form(page, f"{here}/emergency", "admin", to="@champion", reason="outage <i>")
    assert "past the gate" in done.text
    for shown in (
        team.get("/agents/models/burning_desk", "rita").text,
        team.get("/agents/models/burning_desk/versions/1?to=@champion", "rita").text,
    ):
        alarm = shown.split('<p role="alert">', 1)[1][:400]
        assert 'class="mark emergency"' in alarm
        assert "outage &lt;i&gt;" in alarm
    rows = team.get("/agents/?q=burning_desk", "rita").text.split("<tbody>", 1)[1]
    assert rows.count('class="mark emergency"') == 1


def test_a_request_is_rejected_with_a_reason_its_author_reads(team, desk):
    here = f"/models/{desk}/versions/1"
    page = f"{here}?to=@champion"
    team.form(page, f"{here}/request", to="@champion", comment="please")
    silent = team.form(page, f"{here}/reject", "rita", to="@champion", reason=" ")
    assert silent.status_code == 400
    assert (
        "Rejected"
        in team.form(page, f"{here}/reject", "rita", to="@champion", reason="too early").text
    )
    assert "too early" in team.get(f"/agents{page}").text


def test_whoever_may_not_change_a_model_gets_no_forms_and_no_way(team, desk):
    page = f"/models/{desk}/versions/1?to=Production"
    text = team.get(f"/agents{page}", "nora").text
    assert "<h3>Ask for the promotion" not in text
    token = team.token(page, "ann")
    for who in ("nora",):
        answer = team.post(
            f"/agents/models/{desk}/versions/1/request", who,
            data={"token": token, "to": "Production"},
        )  # fmt: skip
        assert answer.status_code == 403


def test_a_form_needs_its_own_persons_fresh_token_from_this_site(team, desk):
    page, action = f"/models/{desk}/versions/1", f"/agents/models/{desk}/versions/1/request"
    theirs = team.token(page, "rita")
    good = team.token(page, "ann")
    for data, headers in (
        ({"to": "Production"}, {}),
        ({"to": "Production", "token": "x"}, {}),
        ({"to": "Production", "token": theirs}, {}),
        ({"to": "Production", "token": good}, {"Sec-Fetch-Site": "cross-site"}),
    ):
        assert team.post(action, "ann", data=data, headers=headers).status_code == 403
    long = team.post(action, "ann", data={"token": good, "comment": "x" * 300_000})
    assert long.status_code == 413
    kind = team.post(action, "ann", json={"token": good, "to": "Production"})
    assert kind.status_code == 415
    many = team.post(action, "ann", data={f"f{n}": "1" for n in range(200)})
    assert many.status_code == 400


def test_a_waiting_tool_call_is_answered_by_its_role_only(team):
    waiting = team.waiting_call(arguments={"account": "<script>1</script>"})
    here = f"/approvals/{waiting.approval_id}"
    assert "close_account" in team.get("/agents/approvals", "otto").text
    assert "close_account" in team.get("/agents/approvals/rows", "otto").text
    assert "No tool call waits" in team.get("/agents/approvals", "ann").text
    assert team.get(f"/agents{here}", "ann").status_code == 404

    shown = team.get(f"/agents{here}", "otto").text
    assert "closing an account cannot be undone" in shown
    assert "<script>1" not in shown
    assert "It takes the role operations" in team.get(f"/agents{here}", "rita").text
    token = team.token(here, "otto")
    refused = team.post(f"/agents{here}/approve", "rita", data={"token": token})
    assert refused.status_code == 403

    done = team.form(here, f"{here}/approve", "otto", reason="balance checked")
    assert "Approved close_account" in done.text
    again = team.post(f"/agents{here}/reject", "otto", data={"token": token, "reason": "no"})
    assert again.status_code == 409
    assert "already approved" in again.text
    assert "approved" in team.get("/agents/approvals?show=answered", "otto").text


def test_a_rejected_tool_call_carries_its_reason(team):
    waiting = team.waiting_call(tool="refund")
    here = f"/approvals/{waiting.approval_id}"
    assert team.form(here, f"{here}/reject", "otto", reason="").status_code == 400
    assert "Rejected refund" in team.form(here, f"{here}/reject", "otto", reason="no proof").text
    assert "no proof" in team.get(f"/agents{here}", "otto").text


def test_one_tenants_calls_and_events_are_not_shown_to_another(team):
    other = team.waiting_call(tenant="other-bank", tool="their_tool")
    for who in ("otto", "rita", "ann"):
        assert "their_tool" not in team.get("/agents/approvals", who).text
        assert team.get(f"/agents/approvals/{other.approval_id}", who).status_code == 404
        assert "their_tool" not in team.get("/agents/audit", who).text
    assert "their_tool" in team.get("/agents/approvals", "admin").text
    assert "their_tool" in team.get("/agents/audit", "admin").text


def test_the_audit_is_searched_followed_and_taken_along(team):
    from mlflow_agent_plugin.store import Store
    from mlflow_agent_plugin.trust import AuditKind, AuditLog

    with team.acting("ann"), Store.open(team.store_uri) as store, AuditLog(store) as audit:
        for number in range(130):
            audit.append(AuditKind.REQUEST_RECEIVED, request_id=f"req-{number}", session_id="s-1",
                         tenant="default", actor="customer-9", agent="desk")  # fmt: skip
        audit.append(AuditKind.TOOL_CALL_DECIDED, request_id="req-5", session_id="s-1",
                     tenant="default", actor="customer-9", tool="freeze_card",
                     decision={"value": "deny", "policy_ids": ["no-freeze"]})  # fmt: skip
    assert team.get("/agents/audit", "ann").status_code == 403
    first = team.get("/agents/audit?actor=customer-9&session_id=s-1", "rita").text
    assert "older" in first
    older = first.split('aria-label="More of this list"')[1].split('href="')[1].split('"')[0]
    second = team.get(older.replace("&amp;", "&"), "rita").text
    assert "req-0" in second
    chain = team.get("/agents/audit/requests/req-5", "rita").text
    assert "request received" in chain
    assert "freeze_card" in chain
    assert "no-freeze" in chain
    lines = team.get("/agents/audit/export?actor=customer-9", "rita").text.splitlines()
    assert len(lines) == 131


def test_signals_say_how_to_get_a_table_and_then_show_it(team, desk):
    assert team.get("/agents/signals", "ann").status_code == 403
    text = team.settled("/agents/signals", "rita")
    assert "mlflow-agents monitor" in text or "no monitoring table" in text.lower()


def test_what_went_wrong_is_counted_by_kind_and_by_tool_and_what_changed_outside_is_shown(
    team, desk
):
    from mlflow_agent_plugin.entities import (
        Actor,
        AgentReply,
        CallStatus,
        Outcome,
        ToolCallRecord,
        Violation,
        utc_now,
    )  # fmt: skip
    from mlflow_agent_plugin.observability.days import add_rows, add_steps
    from mlflow_agent_plugin.observability.environment.tracking import log_environment
    from mlflow_agent_plugin.observability.environment.verdict import (
        EnvironmentPart,
        EnvironmentVerdict,
        PartKind,
        PartStatus,
    )  # fmt: skip
    from mlflow_agent_plugin.observability.schema import row_from_reply
    from mlflow_agent_plugin.observability.steps import Step, rows_from_steps, summary_from_steps

    reply = AgentReply(
        text="no",
        outcome=Outcome.REFUSED,
        session_id="s",
        agent=desk,
        agent_digest="sha256:aa",
        calls=(ToolCallRecord("c1", "refund_<all>", {}, CallStatus.DENIED, "deny"),),
    )
    row = row_from_reply(
        reply,
        text="all of it",
        event_time=utc_now(),
        actor=Actor("eve"),
        trace_id="tr-x",
        violations=[Violation.PRIVACY_BLOCKED],
    )
    steps = [Step("tool", "refund_<all>", "denied", decision="deny", seconds=0.25)]
    with team.acting("ann"):
        add_rows(team.monitoring, [row], set())
        add_steps(team.monitoring, rows_from_steps(summary_from_steps(steps), row))
        part = EnvironmentPart(
            PartKind.TOOL, "refund", PartStatus.CHANGED, "https://bank/", ("asks for a pin",)
        )
        verdict = EnvironmentVerdict(desk, "sha256:aa", utc_now().isoformat(), (part,))
        log_environment(verdict, model_name=desk, version="1")
    safety = " ".join(team.settled("/agents/safety", "rita").split())
    for kind, count in (("privacy blocked", 1), ("denied call", 1), ("in doubt", 0)):
        assert f'<th scope="row">{kind}</th><td>{count}</td>' in safety
    signals = " ".join(team.settled("/agents/signals", "rita").split())
    cells = signals.split('<th scope="row">refund_&lt;all&gt;</th>', 1)[1].split("</tr>", 1)[0]
    assert re.findall(r"<td>(.*?)</td>", cells) == [
        "1",
        "100.0 %",
        "0.0 %",
        "0.0 %",
        "0.250",
        "0.250",
        "0",
    ]
    assert "changed" in signals
    assert "asks for a pin" in signals


def test_every_page_forbids_foreign_scripts_and_frames(team, desk):
    for page in ("/", f"/models/{desk}", "/nothing"):
        headers = team.get(f"/agents{page}").headers
        assert "script-src 'self'" in headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert "htmx" in team.get("/agents/htmx.js").text


def test_mlflows_own_pages_and_api_are_as_they_were(team):
    assert "MLflow" in team.get("/").text
    assert team.get("/api/2.0/mlflow/experiments/search?max_results=1").ok
    assert PASSWORD not in team.server.log.read_text("utf-8", "replace")


def test_a_reviewer_reserves_a_call_and_edits_its_arguments(team):
    waiting = team.waiting_call(tool="refund", arguments={"amount": 90})
    here = f"/approvals/{waiting.approval_id}"
    assert "Yours for 15 minutes" in team.form(here, f"{here}/claim", "otto").text
    assert "reserved by otto" in team.get("/agents/approvals", "otto").text
    for wrong in ("", "[1]", "{", '{"amount":' + "[" * 2000):
        answer = team.form(here, f"{here}/edit", "otto", arguments=wrong, reason="less")
        assert answer.status_code == 400
    made = team.form(here, f"{here}/edit", "otto", arguments='{"amount": 50}', reason="half is due")
    assert "Edited refund" in made.text
    assert "&#34;amount&#34;: 50" in made.text
    assert "Edited into" in team.get(f"/agents{here}", "otto").text


def test_mlflows_pages_lead_to_the_console(team, desk):
    from mlflow import MlflowClient

    with team.acting("ann"):
        found = MlflowClient().get_model_version(desk, "1")
    assert found.tags["agent.console"] == f"/agents/models/{desk}/versions/1"
    assert f"(/agents/models/{desk}/versions/1)" in found.description
    assert team.get(found.tags["agent.console"]).ok


def test_every_list_is_filtered(team, desk):
    team.waiting_call(tool="find_me", agent="desk")
    team.waiting_call(tool="leave_me")
    shown = team.get("/agents/approvals?tool=find_me", "otto").text
    assert "find_me" in shown
    assert "leave_me" not in shown
    assert "No tool call" in team.get("/agents/approvals?requested_by=nobody", "otto").text
    assert "No request that fits" in team.get("/agents/requests?q=no_such_model").text
    versions = team.get(f"/agents/models/{desk}?author=nobody").text
    assert f'/models/{desk}/versions/1"' not in versions.split("<h2>Versions</h2>")[1]
    assert f'/models/{desk}/versions/1"' in team.get(f"/agents/models/{desk}?author=ann").text


def test_safety_says_what_is_stopped_and_lists_what_was_denied(team):
    from mlflow_agent_plugin.entities import Actor
    from mlflow_agent_plugin.store import Store
    from mlflow_agent_plugin.trust import AuditKind, AuditLog, SwitchBoard

    assert team.get("/agents/safety", "ann").status_code == 403
    with team.acting("ann"), Store.open(team.store_uri) as store, AuditLog(store) as audit:
        board, otto = SwitchBoard(store, audit=audit), Actor("otto")
        board.stop("tool", "burning_tool", reason="it <b>burns</b>", by=otto)
        board.stop("tenant", "another-bank", reason="unpaid", by=otto)
        audit.append(AuditKind.TOOL_CALL_DECIDED, request_id="req-denied", tenant="default",
                     actor="customer-4", tool="wire_money",
                     decision={"value": "deny", "policy_ids": ["hard-limit"]})  # fmt: skip
        audit.append(AuditKind.TOOL_CALL_DECIDED, request_id="req-theirs", tenant="another-bank",
                     actor="customer-5", tool="their_tool",
                     decision={"value": "deny", "policy_ids": ["hard-limit"]})  # fmt: skip
        shown = team.get("/agents/safety", "rita").text
        board.start("tool", "burning_tool", reason="out", by=otto)
        board.start("tenant", "another-bank", reason="paid", by=otto)
    assert "burning_tool" in shown
    assert "it &lt;b&gt;burns" in shown
    for theirs in ("another-bank", "their_tool"):
        assert theirs not in shown
    assert "wire_money" in shown
    assert "hard-limit" in shown
    assert "/agents/audit/requests/req-denied" in shown
    assert "wire_money" not in team.get("/agents/safety?show=override", "rita").text
    assert "burning_tool" not in team.get("/agents/safety", "rita").text.split("On record")[0]


def test_a_requests_chain_is_told_and_taken_along(team):
    from mlflow_agent_plugin.entities import Actor
    from mlflow_agent_plugin.store import Store
    from mlflow_agent_plugin.trust import AuditKind, AuditLog

    facts = {"request_id": "req-chain", "session_id": "s-chain", "agent": "desk",
             "actor": Actor("kim", tenant="default", roles=frozenset({"customer"})),
             "agent_digest": "sha256:" + "7" * 64}  # fmt: skip
    with team.acting("ann"), Store.open(team.store_uri) as store, AuditLog(store) as audit:
        audit.append(AuditKind.REQUEST_RECEIVED, **facts, chars=3)
        audit.append(AuditKind.TOOL_CALL_DECIDED, **facts, call_id="c1", tool="freeze_card",
                     arguments={"card": "**** 4242"}, data_classes=["card"],
                     decision={"value": "allow", "policy_ids": ["permit-own"]},
                     starts={"effect": "write"})  # fmt: skip
        audit.append(AuditKind.TOOL_CALL_FINISHED, **facts, call_id="c1", tool="freeze_card",
                     status="executed")  # fmt: skip
        audit.append(AuditKind.REQUEST_ANSWERED, **facts, outcome="acted")
    shown = team.get("/agents/audit/requests/req-chain", "rita").text
    for part in ("kim", "customer", "permit-own", "card", "**** 4242", "executed", "acted"):
        assert part in shown, part
    taken = team.get("/agents/audit/requests/req-chain/export", "rita")
    assert taken.headers["Content-Disposition"] == 'attachment; filename="request-req-chain.json"'
    story = taken.json()
    assert story["outcome"] == "acted"
    assert [call["status"] for call in story["calls"]] == ["executed"]
    assert len(story["events"]) == 4
    listed = team.get("/agents/audit?request_id=req-chain", "rita").text
    assert listed.count('<span class="quiet">starts</span>') == 1
    assert team.get("/agents/audit/requests/req-chain/export", "ann").status_code == 403


def test_the_version_page_shows_the_graph_as_it_was_logged(team, desk):
    answer = team.get(f"/agents/models/{desk}/versions/1")
    assert "__start__ --&gt; model" in answer.text
    assert "mermaid.js" in answer.text
    assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
    script = team.get("/agents/mermaid.js")
    assert script.headers["Content-Type"].startswith("text/javascript")
    assert len(script.content) > 1_000_000


def test_a_version_is_tried_and_rated_by_whoever_may_change_it_and_by_nobody_else(
    team, desk, tmp_path
):
    page, here = f"/models/{desk}/versions/1", f"/agents/models/{desk}/versions/1/try"
    assert "Try this version" not in team.get(f"/agents{page}", "nora").text
    token = team.token(page, "ann")
    assert team.post(here, "nora", data={"token": token}).status_code == 403

    begun = team.form(page, f"/models/{desk}/versions/1/try")
    assert "Say something to it" in begun.text
    trial = begun.url.split("/agents")[1].split("?")[0]
    assert team.get(f"/agents{trial}", "rita").status_code == 404
    said = team.form(trial, f"{trial}/say", text="Where is my order A-1?", user="kim",
                     roles="customer")  # fmt: skip
    assert "Order A-1 is on its way" in said.text
    assert "tool find_order" in said.text
    assert "may-read-orders_read" in said.text
    for fields in ({"text": " "}, {"text": "x" * 5000}, {"text": "x", "user": "y" * 200}):
        assert team.form(trial, f"{trial}/say", **fields).status_code == 400
    assert team.post(f"/agents{trial}/rate", "rita", data={"turn": "1"}).status_code in (403, 404)
    for fields in ({}, {"turn": "1"}, {"turn": "x", "thumb": "up"}, {"turn": "9", "thumb": "up"},
                   {"turn": "1", "thumb": "sideways"}):  # fmt: skip
        assert team.form(trial, f"{trial}/rate", **fields).status_code == 400
    for _ in range(2):
        rated = team.form(trial, f"{trial}/rate", turn="1", thumb="down")
        assert "Kept as feedback" in rated.text
    team.form(trial, f"{trial}/rate", turn="1", thumb="", intent="order_status")
    with team.acting("admin"):
        mlflow.set_tracking_uri(team.url)
        (row,) = collect_feedback().to_dict("records")
        assert (row["thumbs_down"], row["label"], row["agent"]) == (1, "order_status", desk)
        monitoring_table(path=tmp_path / "table")
        assert row["trace_id"] not in set(read_table(tmp_path / "table")["trace_id"])
    assert "The trial is over" in team.form(trial, f"{trial}/end").text
    assert team.get(f"/agents{trial}").status_code == 404
