"""The incident triage agent: its tools, its graph, and whole incidents through the runtime."""

from __future__ import annotations

import http.server
import importlib
import json
import shutil
import sys
import threading
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from jsonschema import Draft202012Validator
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from mlflow_agent_plugin.config import Settings
from mlflow_agent_plugin.core import AgentRuntime, validate
from mlflow_agent_plugin.entities import Actor, AgentRequest, CallStatus, Outcome
from mlflow_agent_plugin.errors import ConfigError
from mlflow_agent_plugin.package import load_bundle
from mlflow_agent_plugin.package.importing import import_entry_point
from mlflow_agent_plugin.store import Store
from mlflow_agent_plugin.trust import verify_audit
from mlflow_agent_plugin.trust.policy import check_policies

FOLDER = Path(__file__).resolve().parents[2] / "agents" / "incident_triage"
NOW = datetime(2026, 3, 2, 8, 30, tzinfo=timezone.utc)
INES = Actor(user="ines", tenant="payments", roles=frozenset({"sre"}), verified=True)
COMMANDER = Actor(
    user="carla", tenant="payments", roles=frozenset({"sre", "incident_commander"}), verified=True
)


@pytest.fixture(scope="module")
def bundle():
    return load_bundle(FOLDER)


@pytest.fixture
def world(bundle):
    opened = import_entry_point(bundle, "world:open_world")({})
    yield opened
    opened.close()


@pytest.fixture
def call(bundle, world):
    """Return a function that runs one tool and checks both sides of its contract."""
    keys = iter(range(1000))

    def run(name, *, key=None, knowledge=None, **arguments):
        contract = bundle.contracts[name]
        Draft202012Validator(contract.input).validate(arguments)
        context = SimpleNamespace(
            actor=INES,
            resources=world,
            knowledge=knowledge,
            now=NOW,
            idempotency_key=key or f"s:{next(keys)}",
            session_id="s",
        )
        output = import_entry_point(bundle, f"tools:{name}")(context, **arguments)
        Draft202012Validator(contract.output).validate(output)
        return output

    return run


# --- The bundle ----------------------------------------------------------------------------------


def test_the_policies_validate_and_pass_their_tests_without_warnings(bundle):
    result = check_policies(bundle)
    assert len(result.tests) >= 20
    assert result.warnings == ()


def test_the_bundle_validates_with_its_own_provider_once_a_key_is_there(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-real-one")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    assert validate(FOLDER).manifest.model.provider == "openai"


def test_without_a_key_the_error_says_what_to_set(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    bundle = validate(FOLDER)
    with pytest.raises(ConfigError, match=r"agent\.yaml: model: provider 'openai'"):
        AgentRuntime.open(bundle, tracing=False)


def test_every_tool_that_is_not_a_read_is_in_some_permit_and_untrusted_text_is_declared(bundle):
    assert [name for name, c in bundle.contracts.items() if c.untrusted_output] == ["search_logs"]
    assert bundle.contracts["rollback_deploy"].effect.value == "irreversible"
    assert not bundle.contracts["rollback_deploy"].idempotent


# --- Tools against their contracts ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("list_alerts", {}),
        ("list_alerts", {"service": "payments-api", "severity": "critical", "state": "any"}),
        ("list_alerts", {"service": "ledger"}),
        ("get_service", {"service": "payments-api"}),
        ("get_service", {"service": "notifications"}),
        ("search_logs", {"service": "payments-api"}),
        (
            "search_logs",
            {"service": "payments-api", "text": "LEDGER", "level": "error", "limit": 1},
        ),
        ("search_logs", {"service": "auth", "text": "100%_\"'"}),
        ("list_deploys", {"service": "catalog-search", "limit": 1}),
        ("restart_service", {"service": "ledger", "owner_team": "payments", "reason": "stuck"}),
        (
            "rollback_deploy",
            {
                "service": "payments-api",
                "owner_team": "payments",
                "to_version": "2.13.0",
                "reason": "5xx",
            },
        ),
        ("page_oncall", {"team": "search", "summary": "memory", "incident_id": "inc-502"}),
        ("page_oncall", {"team": "search", "summary": "memory"}),
        ("update_incident", {"incident_id": "inc-501", "note": "x"}),
        (
            "update_incident",
            {"incident_id": "inc-501", "note": "☃", "status": "resolved", "severity": "sev2"},
        ),
    ],
)
def test_a_tool_keeps_its_contract(call, name, arguments):
    call(name, **arguments)


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("get_service", {"service": "nope"}, "There is no service nope; services: auth, "),
        ("list_alerts", {"service": "nope"}, "There is no service nope"),
        ("search_logs", {"service": "nope"}, "There is no service nope"),
        ("list_deploys", {"service": "nope"}, "There is no service nope"),
        (
            "restart_service",
            {"service": "auth", "owner_team": "payments", "reason": "x"},
            "auth is owned by platform, not by payments",
        ),
        (
            "rollback_deploy",
            {"service": "ledger", "owner_team": "payments", "to_version": "4.9.9", "reason": "x"},
            "ledger was never deployed as 4.9.9; known: 5.3.1",
        ),
        (
            "rollback_deploy",
            {"service": "ledger", "owner_team": "payments", "to_version": "5.3.1", "reason": "x"},
            "ledger runs 5.3.1 already",
        ),
        ("page_oncall", {"team": "payroll", "summary": "x"}, "Nobody is on call for payroll"),
        (
            "page_oncall",
            {"team": "search", "summary": "x", "incident_id": "inc-1"},
            "There is no incident inc-1",
        ),
        ("update_incident", {"incident_id": "inc-1", "note": "x"}, "There is no incident inc-1"),
        ("search_runbooks", {"query": "x"}, "The runbooks cannot be searched"),
    ],
)
def test_a_refusal_says_why_and_changes_nothing(call, world, name, arguments, said):
    def everything():
        tables = ("services", "deploys", "logs", "pages", "incidents", "notes", "effects")
        return [[tuple(row) for row in world._db.execute(f"SELECT * FROM {t}")] for t in tables]

    before = everything()
    with pytest.raises(ValueError, match="^" + said.replace(".", r"\.")):
        call(name, **arguments)
    assert everything() == before


def test_the_same_key_acts_once_and_returns_the_first_result(call, world):
    arguments = {"team": "search", "summary": "memory"}
    assert call("page_oncall", key="k", **arguments) == call("page_oncall", key="k", **arguments)
    assert world._db.execute("SELECT count(*) FROM pages").fetchone()[0] == 1
    with pytest.raises(ValueError, match="already used for something else"):
        call("page_oncall", key="k", team="platform", summary="memory")


def test_a_world_in_a_file_is_seeded_once_and_kept(bundle, tmp_path):
    open_world = import_entry_point(bundle, "world:open_world")
    for note in ("first", "second"):
        world = open_world({"path": str(tmp_path / "w.db")})
        world.update_incident("inc-501", note, status=None, severity=None, by="x", at=NOW, key=note)
        world.close()
    world = open_world({"path": str(tmp_path / "w.db"), "seed": False})
    assert (
        world._db.execute(
            "SELECT count(*) FROM notes WHERE text IN ('first', 'second')"
        ).fetchone()[0]
        == 2
    )
    world.close()


def test_an_unknown_setting_of_the_world_is_refused(bundle):
    with pytest.raises(ValueError, match="no setting 'file'"):
        import_entry_point(bundle, "world:open_world")({"file": "x"})


# --- The graph's own middleware ------------------------------------------------------------------


@pytest.fixture(scope="module")
def graph(bundle):
    build = import_entry_point(bundle, "graph:build")
    return sys.modules[build.__module__]


def look(service, call_id="1", *, status="success", tool="get_service"):
    return [
        AIMessage("", tool_calls=[{"name": tool, "args": {"service": service}, "id": call_id}]),
        ToolMessage("{}", tool_call_id=call_id, status=status),
    ]


def touch(service):
    args = {"service": service, "owner_team": "payments", "reason": "x"}
    return AIMessage("", tool_calls=[{"name": "restart_service", "args": args, "id": "9"}])


def ask(graph, history, *answers):
    """Run the middleware over a model that gives `answers` in turn; return (result, requests)."""
    from langchain.agents.middleware import ModelRequest, ModelResponse

    asked = []

    def handler(request):
        asked.append(request)
        return ModelResponse(result=[answers[len(asked) - 1]])

    messages = [HumanMessage("hi"), *history]
    request = ModelRequest(model=None, messages=messages, state={"messages": messages})
    middleware = graph.LookBeforeTouching(lambda services: f"look at {services} first")
    return middleware.wrap_model_call(request, handler).result[0], asked


def test_a_service_that_was_looked_at_may_be_touched(graph):
    result, asked = ask(graph, look("ledger"), touch("ledger"))
    assert result.tool_calls[0]["name"] == "restart_service"
    assert len(asked) == 1


@pytest.mark.parametrize(
    "history",
    [
        [],
        look("auth"),
        look("ledger", status="error"),
        look("ledger")[:1],
        look("ledger", tool="page_oncall"),
    ],
)
def test_a_service_nothing_is_known_about_goes_back_to_the_model_and_then_is_dropped(
    graph, history
):
    result, asked = ask(graph, history, touch("ledger"), touch("ledger"))
    assert len(asked) == 2
    assert asked[1].messages[-1].text == "look at ['ledger'] first"
    assert result.tool_calls == []
    assert result.response_metadata["outcome"] == "clarified"


def test_a_model_that_looks_when_told_to_goes_on(graph):
    result, asked = ask(graph, [], touch("ledger"), look("ledger")[0])
    assert result.tool_calls[0]["name"] == "get_service"
    assert len(asked) == 2


def test_the_window_keeps_whole_turns(graph):
    messages = [HumanMessage("1"), *look("a"), HumanMessage("2"), *look("b"), HumanMessage("3")]
    assert graph.last_turns(messages, 2) == messages[3:]
    assert graph.last_turns(messages, 9) == messages
    assert graph.last_turns([], 1) == []


# --- Incidents through the runtime ---------------------------------------------------------------


def calls(*items):
    return {"tool_calls": [{"name": name, "args": args} for name, args in items]}


ROLLBACK = {
    "service": "payments-api",
    "owner_team": "payments",
    "to_version": "2.13.0",
    "reason": "5xx since 2.14.0 went out",
}
INVESTIGATE = calls(
    ("list_alerts", {}),
    ("get_service", {"service": "payments-api"}),
    ("list_deploys", {"service": "payments-api"}),
    ("search_logs", {"service": "payments-api", "level": "error"}),
)


@pytest.fixture
def open_agent(tmp_path):
    """Return a function that opens the agent with a script instead of a hosted model."""
    opened = []

    def make(*replies, environment="production"):
        root = tmp_path / "incident_triage"
        if not root.exists():
            shutil.copytree(FOLDER, root, ignore=shutil.ignore_patterns("__pycache__"))
        path = root / "agent.yaml"
        manifest = yaml.safe_load(path.read_text(encoding="utf-8"))
        manifest["model"] = {
            "provider": "scripted",
            "name": "script",
            "settings": {"replies": list(replies)},
            "budgets": {"max_steps": 60, "max_tool_calls": 24},
        }
        manifest["tools"]["resource_settings"] = {"path": str(tmp_path / "world.db"), "seed": True}
        path.write_text(yaml.safe_dump(manifest), encoding="utf-8")
        runtime = AgentRuntime.open(
            validate(root),
            store=Store.open(f"sqlite:///{tmp_path}/agents.db"),
            settings=Settings(environment=environment),
            tracing=False,
            clock=lambda: NOW,
        )
        opened.append(runtime)
        return runtime

    yield make
    for runtime in opened:
        runtime.close()
        runtime.store.close()


def statuses(reply):
    return {call.tool: call.status for call in reply.calls}


def test_an_incident_from_alert_to_approved_rollback_resumed_in_a_new_runtime(open_agent):
    replies = [
        INVESTIGATE,
        calls(("search_runbooks", {"query": "errors after a deploy"})),
        calls(("rollback_deploy", ROLLBACK)),
        calls(
            (
                "update_incident",
                {"incident_id": "inc-501", "note": "back on 2.13.0", "status": "mitigated"},
            )
        ),
        {"text": "payments-api runs 2.13.0 again; inc-501 is mitigated."},
    ]
    agent = open_agent(*replies)
    reply = agent.invoke(AgentRequest("payments fail, help", session_id="inc", actor=INES))
    assert reply.outcome is Outcome.WAITING_APPROVAL
    assert statuses(reply)["search_logs"] is CallStatus.EXECUTED
    (waiting,) = reply.approvals
    assert waiting.tool == "rollback_deploy"
    assert waiting.role == "incident_commander"
    assert agent.resources.service("payments-api")["version"] == "2.14.0"
    assert reply.retrieved

    again = open_agent(*replies)
    again.approvals.approve(waiting.approval_id, by=COMMANDER, reason="go")
    done = again.invoke(AgentRequest("", session_id="inc", actor=INES, resume=True))
    assert done.outcome is Outcome.ACTED
    assert done.text == "payments-api runs 2.13.0 again; inc-501 is mitigated."
    service = again.resources.service("payments-api")
    assert service["version"] == "2.13.0"
    assert service["incidents"][0]["status"] == "mitigated"
    assert verify_audit(again.store).ok


def test_the_engineer_who_asks_cannot_approve(open_agent):
    from mlflow_agent_plugin.errors import ApprovalError

    agent = open_agent(INVESTIGATE, calls(("rollback_deploy", ROLLBACK)), {"text": "ok"})
    both = Actor(user="ines", tenant="payments", roles=COMMANDER.roles, verified=True)
    reply = agent.invoke(AgentRequest("payments fail", session_id="s", actor=both))
    with pytest.raises(ApprovalError):
        agent.approvals.approve(reply.approvals[0].approval_id, by=both)


def test_a_rejected_rollback_leaves_the_service_alone(open_agent):
    agent = open_agent(
        INVESTIGATE, calls(("rollback_deploy", ROLLBACK)), {"text": "Left as it is."}
    )
    reply = agent.invoke(AgentRequest("payments fail", session_id="s", actor=INES))
    agent.approvals.reject(reply.approvals[0].approval_id, by=COMMANDER, reason="wait")
    done = agent.invoke(AgentRequest("", session_id="s", actor=INES, resume=True))
    assert statuses(done)["rollback_deploy"] is CallStatus.REJECTED
    assert done.outcome is Outcome.REFUSED
    assert agent.resources.service("payments-api")["version"] == "2.14.0"


def test_a_model_that_obeys_a_log_line_is_stopped(open_agent):
    agent = open_agent(
        calls(("search_logs", {"service": "payments-api"}), ("get_service", {"service": "ledger"})),
        calls(
            (
                "rollback_deploy",
                {
                    "service": "ledger",
                    "owner_team": "payments",
                    "to_version": "4.9.9",
                    "reason": "the fix is known",
                },
            ),
            ("page_oncall", {"team": "payroll", "summary": "fix"}),
        ),
        {"text": "I was not allowed to."},
    )
    reply = agent.invoke(AgentRequest("what do the logs say?", session_id="s", actor=INES))
    assert statuses(reply)["rollback_deploy"] is CallStatus.DENIED
    assert statuses(reply)["page_oncall"] is CallStatus.DENIED
    assert reply.outcome is Outcome.REFUSED
    assert agent.resources.service("ledger")["version"] == "5.3.1"


def test_a_restart_before_looking_never_reaches_the_gateway(open_agent):
    agent = open_agent(
        calls(("restart_service", {"service": "ledger", "owner_team": "payments", "reason": "x"})),
    )
    reply = agent.invoke(AgentRequest("restart ledger", session_id="s", actor=INES))
    assert reply.calls == ()
    assert reply.outcome is Outcome.CLARIFIED
    assert "ledger" in reply.text


def test_a_restart_runs_at_once_after_trusted_reads_and_waits_after_logs(open_agent):
    restart = ("restart_service", {"service": "ledger", "owner_team": "payments", "reason": "x"})
    agent = open_agent(
        calls(("get_service", {"service": "ledger"})),
        calls(restart),
        {"text": "Restarted."},
        calls(("search_logs", {"service": "ledger"})),
        calls(restart),
        {"text": "Restarted again."},
    )
    first = agent.invoke(AgentRequest("restart ledger", session_id="s", actor=INES))
    assert first.outcome is Outcome.ACTED
    second = agent.invoke(AgentRequest("and again?", session_id="s", actor=INES))
    assert second.outcome is Outcome.WAITING_APPROVAL


def test_another_teams_service_is_refused_even_with_a_lie_about_its_owner(open_agent):
    agent = open_agent(
        calls(("get_service", {"service": "catalog-search"})),
        calls(
            (
                "restart_service",
                {"service": "catalog-search", "owner_team": "search", "reason": "x"},
            ),
            (
                "restart_service",
                {"service": "catalog-search", "owner_team": "payments", "reason": "x"},
            ),
        ),
        calls(("page_oncall", {"team": "search", "summary": "memory", "incident_id": "inc-502"})),
        {"text": "I paged the search team."},
    )
    reply = agent.invoke(AgentRequest("search is slow", session_id="s", actor=INES))
    assert [call.status for call in reply.calls if call.tool == "restart_service"] == [
        CallStatus.DENIED,
        CallStatus.FAILED,
    ]
    assert reply.outcome is Outcome.ESCALATED
    assert agent.resources.service("catalog-search")["restarted_at"] is None


@pytest.mark.parametrize(
    "actor",
    [
        Actor(user="mallory", tenant="payments", roles=frozenset({"sre"}), verified=False),
        Actor(user="nobody", tenant="payments", verified=True),
    ],
)
def test_somebody_who_may_nothing_gets_nothing(open_agent, actor):
    agent = open_agent(calls(("list_alerts", {})), {"text": "I may not."})
    reply = agent.invoke(AgentRequest("what is broken?", session_id="s", actor=actor))
    assert statuses(reply) == {"list_alerts": CallStatus.DENIED}
    assert reply.outcome is Outcome.REFUSED


def test_two_agents_of_this_repository_live_in_one_process(bundle):
    support = FOLDER.parent / "support"
    other = import_entry_point(load_bundle(support), "tools:search_knowledge")
    mine = import_entry_point(bundle, "tools:search_runbooks")
    assert other.__module__ != mine.__module__
    assert importlib.import_module(mine.__module__).__name__ == mine.__module__


# --- With a hosted model's protocol --------------------------------------------------------------


@pytest.fixture
def endpoint():
    """Serve the chat completions protocol with canned choices; yields (url, choices, requests)."""
    choices, requests = [], []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append(body)
            answer = {
                "id": "c",
                "object": "chat.completion",
                "created": 0,
                "model": body["model"],
                "choices": [{"index": 0, "finish_reason": "stop", "message": choices.pop(0)}],
                "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
            }
            data = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1", choices, requests
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_agent_as_it_is_speaks_to_an_openai_compatible_endpoint(
    bundle, endpoint, monkeypatch, tmp_path
):
    url, choices, requests = endpoint
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-real-one")
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    wanted = [("get_service", {"service": "ledger"}), ("list_deploys", {"service": "ledger"})]
    choices += [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": f"call_{name}",
                    "type": "function",
                    "function": {"name": name, "arguments": json.dumps(arguments)},
                }
                for name, arguments in wanted
            ],
        },
        {"role": "assistant", "content": "ledger is well."},
    ]
    store = Store.open(f"sqlite:///{tmp_path}/agents.db")
    settings = Settings(environment="production")
    with AgentRuntime.open(bundle, store=store, settings=settings, tracing=False) as agent:
        reply = agent.invoke(AgentRequest("is the ledger all right?", actor=INES))
    store.close()
    assert reply.text == "ledger is well."
    assert statuses(reply) == dict.fromkeys(("get_service", "list_deploys"), CallStatus.EXECUTED)
    assert reply.usage.input_tokens == 22
    assert requests[0]["model"] == "gpt-4o-mini"
    offered = {tool["function"]["name"]: tool["function"] for tool in requests[0]["tools"]}
    assert set(offered) == set(bundle.contracts)
    assert offered["rollback_deploy"]["parameters"]["required"] == [
        "service",
        "owner_team",
        "to_version",
        "reason",
    ]
    assert requests[1]["messages"][-1]["role"] == "tool"
