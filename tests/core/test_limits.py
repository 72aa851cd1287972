"""Limits on a running agent: what they refuse has not happened, and says when to come back."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest
import yaml
from helpers.shelf_agent import call, say, write_bundle

from mlflow_agent_plugin.config import Settings
from mlflow_agent_plugin.core import AgentRuntime
from mlflow_agent_plugin.entities import Actor, AgentRequest, CallStatus, Outcome
from mlflow_agent_plugin.errors import (
    BudgetExceededError,
    ConfigError,
    LimitsUnavailableError,
    ManifestError,
    QuotaExceededError,
    StoppedError,
    StoreError,
)
from mlflow_agent_plugin.package import load_bundle
from mlflow_agent_plugin.trust import ApprovalQueue, EffectLedger, SwitchBoard, verify_audit

ANN = Actor(user="ann", tenant="acme")
OLGA = Actor(user="olga")
WARDEN = Actor(user="walt", tenant="acme", roles=frozenset({"warden"}))

MORE_TOOLS = """

import threading
from mlflow_agent_plugin.errors import ToolRateLimitedError, ToolUnavailableError

RELEASE = threading.Event()
ATTEMPTS = []


def read_mail(context, *, item, amount=0):
    ATTEMPTS.append(item)
    if item == "busy":
        raise ToolRateLimitedError("slow down", retry_after_seconds=40)
    if item == "hurry" and len(ATTEMPTS) == 1:
        raise ToolRateLimitedError("slow down", retry_after_seconds=0.05)
    if item == "down":
        raise ToolUnavailableError("the mail is down")
    if item == "broken":
        raise ConnectionResetError("gone")
    if item == "hang":
        RELEASE.wait()
    return {"ok": True, "item": item, "times": len(ATTEMPTS)}
"""


@pytest.fixture
def opened(tmp_path):
    """Open the shelf agent with a changed manifest and changed contracts."""
    runtimes = []

    def make(*replies, contract=None, settings=None, usage=None, **manifest):
        root = tmp_path / f"bundle{len(runtimes)}"
        write_bundle(root, list(replies), folder=tmp_path / "shelf")
        path = root / "agent.yaml"
        found = yaml.safe_load(path.read_text())
        found["model"]["budgets"] |= manifest.pop("budgets", {})
        if "price" in manifest:
            found["model"]["price"] = manifest.pop("price")
        path.write_text(yaml.safe_dump(found | manifest))
        with (root / "tools.py").open("a") as file:
            file.write(MORE_TOOLS)
        for name, changes in (contract or {}).items():
            path = root / f"contracts/{name}.yaml"
            path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))
        runtime = AgentRuntime.open(
            load_bundle(root), tracing=False, settings=settings or Settings.from_env()
        )
        runtimes.append(runtime)
        return runtime

    yield make
    for runtime in runtimes:
        runtime.close()


def ask(runtime, text="go", session="s1", actor=ANN, **more):
    return runtime.invoke(AgentRequest(text=text, session_id=session, actor=actor, **more))


def only(reply):
    (found,) = reply.calls
    return found


def quota(of, limit, per="tenant", **more):
    window = {} if of == "concurrency" else {"every_seconds": 86_400}
    return {"per": per, "of": of, "limit": limit, **window, **more}


def test_a_turn_beyond_the_quota_is_a_429_and_leaves_nothing_behind(opened):
    from mlflow_agent_plugin.errors import as_mlflow

    runtime = opened(*[say("hi")] * 9, quotas=[quota("requests", 2, per="user")])
    ask(runtime)
    ask(runtime, session="s2")
    with pytest.raises(QuotaExceededError, match="2 requests") as refusal:
        ask(runtime, session="s3")
    shown = as_mlflow(refusal.value)
    assert shown.get_http_status_code() == 429
    body = json.loads(shown.serialize_as_json())
    assert 0 < body["retry_after_seconds"] <= 86_400
    assert len(runtime._sessions.list(tenant="acme")) == 2
    ask(runtime, session="s3", actor=Actor("bob", "acme"))
    ask(runtime, session="s4", actor=Actor("ann", "beta"))


def test_forgotten_traffic_counts_no_more_so_that_evaluated_cases_do_not_use_up_each_other(opened):
    runtime = opened(*[say("hi")] * 9, quotas=[quota("requests", 1)])
    for _ in range(3):
        runtime.invoke(AgentRequest(text="hi", session_id=None, actor=Actor("ann")))
        with pytest.raises(QuotaExceededError):
            runtime.invoke(AgentRequest(text="hi", session_id=None, actor=Actor("ann")))
        runtime.forget_traffic()


def test_a_request_that_is_no_turn_does_not_count(opened):
    from mlflow_agent_plugin.errors import SessionNotFoundError

    runtime = opened(*[say("hi")] * 9, quotas=[quota("requests", 1)])
    for _ in range(3):
        with pytest.raises(SessionNotFoundError):
            ask(runtime, text="", resume=True, session="nobodys")
    ask(runtime)


def test_a_call_beyond_the_quota_does_not_run_and_the_reply_says_when(opened, effects):
    runtime = opened(
        call("put", "a"), say("1"), call("put", "b", "c2"), say("2"),
        quotas=[quota("calls", 1, tool="put", per="session")],
    )  # fmt: skip
    assert only(ask(runtime)).status is CallStatus.EXECUTED
    reply = ask(runtime)
    refused = only(reply)
    assert (refused.status, effects()) == (CallStatus.LIMITED, ["a"])
    assert refused.error.startswith("limited: no more for now")
    assert reply.retry_after_seconds == refused.retry_after_seconds > 0
    assert EffectLedger(runtime.store).get("s1:c2") is None
    assert verify_audit(runtime.store).ok


def test_a_contracts_rate_holds_per_tenant(opened):
    runtime = opened(
        *[call("look", "a"), say("1")] * 4,
        contract={"look": {"rate": {"calls": 1, "every_seconds": 86_400}}},
    )
    assert only(ask(runtime)).status is CallStatus.EXECUTED
    assert only(ask(runtime, session="s2")).status is CallStatus.LIMITED
    other = ask(runtime, session="s3", actor=Actor("ann", "beta"))
    assert only(other).status is CallStatus.EXECUTED


def test_an_approval_is_not_used_up_by_a_call_a_limit_refused(opened, effects):
    runtime = opened(call("burn", "x"), say("later"))
    reply = ask(runtime)
    (waiting,) = reply.approvals
    queue = ApprovalQueue(runtime.store)
    queue.approve(waiting.approval_id, WARDEN)
    SwitchBoard(runtime.store).stop("tool", "shelf/burn", reason="fire", by=OLGA)
    runtime._trust.guards[0]._switches._renew()
    reply = ask(runtime, text="", resume=True)
    assert only(reply).error.startswith("stopped: ")
    assert "fire" not in only(reply).error
    assert effects() == []
    assert queue.get(waiting.approval_id).state.value == "approved"


def test_a_429_of_the_service_is_passed_on_and_later_calls_are_kept_away(opened):
    runtime = opened(
        call("read_mail", "busy"), say("1"), call("read_mail", "busy", "c2"), say("2"),
        call("read_mail", "fine", "c3"), say("3"),
        contract={"read_mail": {"retry": {"attempts": 5}}},
    )  # fmt: skip
    first = only(ask(runtime))
    assert (first.status, first.retry_after_seconds) == (CallStatus.LIMITED, 40)
    second = only(ask(runtime))
    assert second.status is CallStatus.LIMITED
    assert 30 < second.retry_after_seconds <= 40
    other = only(ask(runtime, session="s2", actor=Actor("ann", "beta")))
    assert other.status is not CallStatus.EXECUTED or other.output["times"] == 2, (
        "two attempts in all: no storm"
    )


def test_a_short_wait_the_service_asks_for_is_waited_for(opened):
    runtime = opened(
        call("read_mail", "hurry"),
        say("1"),
        contract={"read_mail": {"retry": {"attempts": 3, "wait_seconds": 0.01}}},
    )
    found = only(ask(runtime))
    assert (found.status, found.output["times"]) == (CallStatus.EXECUTED, 2)


@pytest.mark.parametrize("item", ["down", "broken"])
def test_a_service_out_of_order_is_left_alone_for_this_tenant_and_no_other(opened, item):
    runtime = opened(
        *[call("read_mail", item), say("1")] * 5,
        contract={"read_mail": {"breaker": {"outages": 2, "open_seconds": 60}}},
    )
    found = [only(ask(runtime, session=f"s{number}")) for number in range(3)]
    assert [one.status for one in found] == [*[CallStatus.FAILED] * 2, CallStatus.LIMITED]
    assert 50 < found[2].retry_after_seconds <= 60
    other = only(ask(runtime, session="x", actor=Actor("ann", "beta")))
    assert other.status is CallStatus.FAILED, "it was tried"


def test_what_a_tool_says_no_to_opens_no_breaker(opened):
    runtime = opened(
        *[call("look", "broken"), say("1")] * 9, contract={"look": {"breaker": {"outages": 1}}}
    )
    found = [only(ask(runtime, session=f"s{number}")).status for number in range(4)]
    assert found == [CallStatus.FAILED] * 4


def test_hung_calls_keep_their_places_and_the_next_is_refused(opened):
    runtime = opened(
        *[call("read_mail", "hang"), say("1")] * 4,
        contract={"read_mail": {"concurrency": 2, "timeout_seconds": 0.05}},
    )
    release = runtime._gateway._runner._functions["read_mail"].__globals__["RELEASE"]
    try:
        found = [only(ask(runtime, session=f"s{number}")) for number in range(3)]
        assert [one.status for one in found] == [*[CallStatus.FAILED] * 2, CallStatus.LIMITED]
        assert "running already" in found[2].error
    finally:
        release.set()


@pytest.mark.parametrize(("kind", "name"), [("agent", "shelf"), ("tenant", "acme")])
def test_a_stopped_agent_or_tenant_begins_no_turn(opened, kind, name):
    from mlflow_agent_plugin.errors import as_mlflow

    runtime = opened(*[say("hi")] * 3)
    SwitchBoard(runtime.store).stop(kind, name, reason="secret reason", by=OLGA)
    with pytest.raises(StoppedError) as refusal:
        ask(runtime)
    assert as_mlflow(refusal.value).get_http_status_code() == 503
    assert "secret" not in str(refusal.value)
    SwitchBoard(runtime.store).start(kind, name, reason="ok", by=OLGA)
    deadline = time.monotonic() + 60
    while True:
        try:
            ask(runtime)
            break
        except StoppedError:
            assert time.monotonic() < deadline


def test_a_store_whose_switches_cannot_be_read_lets_nothing_begin(opened, monkeypatch):
    runtime = opened(say("hi"))

    def away(*_):
        raise StoreError("gone", where="store")

    monkeypatch.setattr(runtime.store, "read", away)
    with pytest.raises(StoppedError, match="cannot be known"):
        ask(runtime)


def test_a_turn_ends_when_its_tokens_do_not_reach_for_another_step(opened, effects):
    runtime = opened(
        call("put", "a") | {"text": "word " * 300}, say("next"),
        budgets={"max_tokens": 1800},
    )  # fmt: skip
    reply = ask(runtime)
    assert reply.outcome is Outcome.FAILED
    assert "a limit has been reached" in reply.text
    assert [one.status for one in reply.calls] == [CallStatus.EXECUTED]
    assert effects() == ["a"]
    assert ask(runtime).text == "next", "the session goes on, with a new turn's budget"


def test_a_budget_that_never_reaches_is_said_at_once_and_the_session_goes_on(opened):
    runtime = opened(say("hi"), say("again"), budgets={"max_tokens": 5})
    for _ in range(2):
        with pytest.raises(BudgetExceededError, match="5 tokens"):
            ask(runtime)


def test_a_sessions_budget_survives_a_restart(opened, tmp_path):
    big = "word " * 700
    runtime = opened(*[say(big)] * 3, budgets={"max_session_tokens": 2000})
    ask(runtime)
    spent = runtime._trust.turns._spent.get("s1")
    assert spent.tokens > 600
    runtime.close()
    again = opened(*[say(big)] * 3, budgets={"max_session_tokens": 2000})
    with pytest.raises(BudgetExceededError, match="session"):
        ask(again)
    ask(again, session="s2")


def test_tokens_of_a_tenant_are_settled_to_what_was_used(opened):
    runtime = opened(*[say("hi")] * 9, quotas=[quota("tokens", 2000)])
    for number in range(5):
        ask(runtime, session=f"s{number}")


def test_a_price_becomes_the_cost_of_the_turn_and_limits_it(opened):
    price = {"input_usd_per_million_tokens": 1000.0, "output_usd_per_million_tokens": 1000.0}
    runtime = opened(say("hi"), say("hi"), price=price, budgets={"max_session_cost_usd": 2.0})
    assert ask(runtime).usage.cost_usd > 0
    cheap = opened(say("hi"), price=price, budgets={"max_cost_usd": 0.5})
    with pytest.raises(BudgetExceededError, match=r"0\.5 dollars"):
        ask(cheap, session="s9")


def test_the_cost_of_tools_counts_in_the_turns_budget(opened, effects):
    runtime = opened(
        call("put", "a"), call("put", "b", "c2"), say("done"),
        contract={"put": {"cost_usd": 0.4}}, budgets={"max_cost_usd": 0.5},
    )  # fmt: skip
    reply = ask(runtime)
    assert [one.status for one in reply.calls] == [CallStatus.EXECUTED, CallStatus.LIMITED]
    assert effects() == ["a"]


def test_money_cannot_be_limited_where_nobody_knows_the_price(tmp_path):
    root = write_bundle(tmp_path / "b", [say("x")], folder=tmp_path / "shelf")
    path = root / "agent.yaml"
    found = yaml.safe_load(path.read_text())
    found["model"] = {"provider": "openai", "name": "gpt", "budgets": {"max_cost_usd": 1}}
    path.write_text(yaml.safe_dump(found))
    with pytest.raises(ManifestError, match="needs the price of gpt"):
        load_bundle(root)


def host(tmp_path, text):
    path = tmp_path / "quotas.yaml"
    path.write_text(text)
    return Settings(store_uri=f"sqlite:///{tmp_path}/agents.db", quotas=str(path))


def test_the_hosts_quotas_hold_beside_the_agents_own(opened, tmp_path):
    settings = host(
        tmp_path,
        "apiVersion: mlflow-agents/v1\n"
        "quotas: [{per: tenant, tenant: acme, of: requests, limit: 1, every_seconds: 86400}]\n",
    )
    runtime = opened(*[say("hi")] * 9, settings=settings, quotas=[quota("requests", 100)])
    ask(runtime)
    with pytest.raises(QuotaExceededError, match="the host's quotas"):
        ask(runtime)
    ask(runtime, session="s2", actor=Actor("ann", "beta"))


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("quotas: []", "apiVersion"),
        ("apiVersion: mlflow-agents/v1\nquotas: [{per: world, of: tokens, limit: 1}]", "per"),
        ("apiVersion: mlflow-agents/v1\nquotas: [{per: user, of: tokens, limit: 1}]", "window"),
        ("apiVersion: mlflow-agents/v1\nquotas: [{per: user, of: tokens, limit: -1, every_seconds: 1}]", "limit"),
        ("apiVersion: mlflow-agents/v1\nquotas: [{per: user, of: tokens, limit: .inf, every_seconds: 1}]", "quotas"),
        ("apiVersion: mlflow-agents/v1\nquotas: [{per: user, of: tokens, limit: 1.5, every_seconds: 1}]", "whole"),
        ("apiVersion: mlflow-agents/v1\nquotas: [{per: user, of: concurrency, limit: 1, every_seconds: 1}]", "window"),
        ("apiVersion: mlflow-agents/v1\nquotas: [{per: user, of: tokens, tool: put, limit: 1, every_seconds: 1}]", "tool"),
        ("\x00", "quotas.yaml"),
    ],
)  # fmt: skip
def test_a_wrong_file_of_the_host_names_file_and_field_and_nothing_opens(
    opened, tmp_path, text, word
):
    with pytest.raises(ConfigError, match=word) as refusal:
        opened(say("hi"), settings=host(tmp_path, text))
    assert "quotas.yaml" in str(refusal.value)
    open_files = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.exists()]
    assert not [name for name in open_files if str(tmp_path) in name and "agents.db" in name]


def test_a_file_of_the_host_that_is_missing_opens_nothing(opened, tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        opened(say("hi"), settings=Settings(quotas=str(tmp_path / "nowhere.yaml")))


def test_turns_at_once_are_limited_and_a_dropped_stream_gives_its_place_back(opened):
    runtime = opened(*[say("hi there")] * 9, quotas=[quota("concurrency", 1)])
    stream = runtime.stream(AgentRequest(text="go", session_id="s1", actor=ANN))
    next(stream)
    with pytest.raises(QuotaExceededError, match="at once") as refusal:
        ask(runtime, session="s2")
    assert refusal.value.retry_after_seconds == 1
    stream.close()
    ask(runtime, session="s2")


def test_a_redis_that_is_away_begins_no_turn_a_quota_fits(opened, tmp_path):
    settings = Settings(
        store_uri=f"sqlite:///{tmp_path}/agents.db", limits_uri="redis://:s3cret@127.0.0.1:1/0"
    )
    runtime = opened(say("hi"), settings=settings, quotas=[quota("requests", 9)])
    with pytest.raises(LimitsUnavailableError) as refusal:
        ask(runtime)
    assert "s3cret" not in str(refusal.value)


def test_calls_side_by_side_never_run_more_often_than_the_quota(opened, effects):
    runtime = opened(
        *[call("put", "a"), say("1")] * 30, quotas=[quota("calls", 5)], budgets={"max_steps": 12}
    )
    found = []

    def one(number):
        found.append(only(ask(runtime, session=f"s{number}")).status)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert found.count(CallStatus.EXECUTED) == len(effects()) <= 5
    assert found.count(CallStatus.EXECUTED) + found.count(CallStatus.LIMITED) == 12
