"""A front end splits, shadows, counts, stops and follows: in this process, on a real gated registry."""

from __future__ import annotations

import json

import pytest
from helpers.registry_world import World
from helpers.rollout_world import GATE, failing, put, standing
from helpers.shelf_agent import call, say, write_bundle
from starlette.testclient import TestClient

from mlflow_agent_plugin.interaction.serve.app import make_app
from mlflow_agent_plugin.interaction.serve.people import make_key
from mlflow_agent_plugin.interaction.serve.settings import ServeSettings
from mlflow_agent_plugin.store import Store
from mlflow_agent_plugin.trust import ApprovalQueue, AuditLog

ALWAYS = [say("one")] * 9, [say("two")] * 9
QUICK = {"model": "shelf", "share": 0.5, "success_margin": 0.4, "error_margin": 0.4,
         "min_sessions": 5}  # fmt: skip


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_AGENTS_ACTOR", "bob")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", f"agents+sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("MLFLOW_AGENTS_TRACING", "false")
    return World(tmp_path, f"agents+sqlite:///{tmp_path}/mlflow.db")


class Front:
    """A front end in this process; it follows when a test says so."""

    def __init__(self, tmp_path, **settings):
        made, entries = {}, []
        for actor in ("ann@home", "olga@home:operator", "eve@elsewhere"):
            key, digest = make_key()
            made[actor.partition("@")[0]] = key
            entries.append({"sha256": digest, "actor": actor})
        path = tmp_path / "keys.yaml"
        path.write_text(json.dumps({"keys": entries}))
        self.keys = made
        app = make_app(
            ServeSettings(
                **{"agents": {"shelf": "models:/shelf@champion"}, **settings},
                keys=str(path),
                follow_seconds=0,
            )
        )
        self.client = TestClient(app)
        self.client.__enter__()
        self.front = app.state.front_end

    def look(self):
        self.front._follower.look()

    def close(self):
        self.client.__exit__(None, None, None)

    def call(self, method, path, who="olga", **json_body):
        return self.client.request(
            method, path, headers={"Authorization": f"Bearer {self.keys[who]}"},
            json=json_body or None,
        )  # fmt: skip

    def ask(self, session, text="hi", who="ann", **more):
        return self.call(
            "POST", "/v1/responses", who, input=text, custom_inputs={"session_id": session}, **more
        )

    def begin(self, **changes):
        answer = self.call("POST", "/v1/rollouts", **{**QUICK, **changes})
        assert answer.status_code == 201, answer.text
        self.look()
        return answer.json()["rollout_id"]

    def shown(self, rollout_id):
        return self.call("GET", f"/v1/rollouts/{rollout_id}").json()


@pytest.fixture
def fronts(tmp_path):
    opened = []

    def make(**settings):
        opened.append(Front(tmp_path, **settings))
        return opened[-1]

    yield make
    for front in opened:
        front.close()


def test_only_operators_may_roll_out(world, fronts):
    put(world, "one", "@champion")
    front = fronts()
    for method, path in (
        ("GET", "/v1/rollouts"), ("POST", "/v1/rollouts"), ("GET", "/v1/rollouts/x"),
        ("POST", "/v1/rollouts/x/stop"), ("POST", "/v1/rollouts/x/incidents"),
        ("GET", "/v1/deployments"), ("POST", "/v1/deployments"),
        ("PATCH", "/v1/deployments/x"), ("DELETE", "/v1/deployments/x"),
    ):  # fmt: skip
        assert front.call(method, path, "ann").status_code == 403, path
        assert front.client.request(method, path).status_code == 401, path
    assert front.call("GET", "/v1/rollouts/x").status_code == 404
    assert front.call("POST", "/v1/rollouts", model="shelf", share=2).status_code == 400
    assert front.call("POST", "/v1/rollouts", model="shelf", odd=2).status_code == 400
    assert front.call("POST", "/v1/rollouts").status_code == 400
    assert front.call("POST", "/v1/rollouts", model="nobody").status_code == 404
    assert front.call("GET", "/v1/deployments").status_code == 404  # not switched on


def test_a_canary_that_fails_is_stopped_and_everything_goes_back(world, fronts):
    put(world, "one", "@champion", edit=scripted(ALWAYS[0]))
    front = fronts()
    assert front.ask("before").headers["X-Agent-Version"] == "1"
    put(world, "two", "@canary", edit=failing)
    rollout_id = front.begin()
    assert front.ask("before").status_code == 200  # began before: stays
    taken = {}
    for number in range(150):
        answer = front.ask(f"s{number}")
        taken[f"s{number}"] = answer.status_code
        if front.shown(rollout_id)["state"] != "running":
            break
    assert set(taken.values()) == {200, 500}
    shown = front.shown(rollout_id)
    assert shown["state"] == "stopped"
    assert "errors worse" in shown["reason"] or "success worse" in shown["reason"]
    # Everything goes back at once, conversations that the candidate had begun too.
    for session in taken:
        assert front.ask(session).status_code == 200, session
    for number in range(20):
        answer = front.ask(f"after{number}")
        assert (answer.status_code, answer.headers["X-Agent-Version"]) == (200, "1")
    front.look()
    assert standing(world, "@canary") is None
    assert not front.front._traffic._candidates


def test_a_canary_that_does_as_well_is_promoted_and_followed(world, fronts):
    put(world, "one", "@champion", edit=scripted(ALWAYS[0]))
    put(world, "two", "@canary", edit=scripted(ALWAYS[1]))
    front = fronts()
    rollout_id = front.begin()
    said = set()
    for number in range(200):
        first = front.ask(f"s{number}")
        assert first.status_code == 200
        version = first.headers["X-Agent-Version"]
        said.add(version)
        again = front.ask(f"s{number}")
        assert again.headers["X-Agent-Version"] == version  # sticky
        if front.shown(rollout_id)["state"] == "ready":
            break
    assert said == {"1", "2"}
    front.look()
    assert standing(world, "@champion") == 2
    front.look()
    assert front.shown(rollout_id)["state"] == "promoted"
    answer = front.ask("late").json()
    assert answer["output"][0]["content"][0]["text"] == "two"

    from mlflow_agent_plugin.registry import rollback

    rollback("shelf", to="@champion", reason="customers complain", by="rita", client=world.client)
    front.look()
    answer = front.ask("later").json()
    assert answer["output"][0]["content"][0]["text"] == "one"


def test_streams_are_split_and_counted_too(world, fronts):
    put(world, "one", "@champion")
    put(world, "two", "@canary")
    front = fronts()
    rollout_id = front.begin(share=1.0)
    text = front.ask("s", stream=True).text
    assert '"two"' in text
    assert front.shown(rollout_id)["sessions"] == {"candidate": 1, "incumbent": 0}


def test_a_reported_incident_stops_at_once(world, fronts):
    put(world, "one", "@champion")
    put(world, "two", "@canary")
    front = fronts()
    rollout_id = front.begin(share=1.0)
    assert front.ask("s").headers["X-Agent-Version"] == "2"
    front.call("POST", f"/v1/rollouts/{rollout_id}/incidents", kind="told a secret")
    assert front.ask("t").headers["X-Agent-Version"] == "1"
    with Store.open() as store:
        events = AuditLog(store).events(kind="rollout_incident")
    assert [(event.actor, event.body["incident"]) for event in events] == [
        ("olga", "told a secret")
    ]


def test_a_candidate_that_is_another_agent_stops_the_rollout(world, fronts):
    def rename(root):
        path = root / "agent.yaml"
        path.write_text(path.read_text().replace("name: shelf", "name: another"))

    put(world, "one", "@champion")
    put(world, "two", "@canary", edit=rename)
    front = fronts()
    rollout_id = front.begin(share=1.0)
    assert "it is the agent another" in front.shown(rollout_id)["reason"]
    assert front.ask("s").headers["X-Agent-Version"] == "1"


# --- shadows -------------------------------------------------------------------------------------


def scripted(replies):
    """Return an edit that gives the agent other replies."""

    def edit(root):
        write_bundle(root, replies, folder=root.parents[1] / "things")
        (root / "gate.yaml").write_text(GATE)

    return edit


def finish(front):
    """Wait until every shadow was shown."""
    import concurrent.futures

    shadows = front.front._traffic.shadows
    concurrent.futures.wait(list(shadows._last.values()), 60)


def effects(world):
    path = world.folder / "things" / "effects.txt"
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize(
    ("candidate", "success"),
    [
        ([call("put", "lamp"), say("done")], True),  # the same write: answered from the tape
        ([call("put", "gold-free lamp"), say("done")], False),  # another write
        ([call("burn", "lamp"), say("done")], False),  # would have asked a person
        ([call("look", "lamp"), say("there")], True),  # a read really runs
    ],
)
def test_a_shadow_is_measured_and_changes_nothing(world, fronts, candidate, success):
    put(world, "one", "@champion", edit=scripted([call("put", "lamp"), say("done")]))
    put(world, "two", "@canary", edit=scripted(candidate))
    front = fronts()
    rollout_id = front.begin(mode="shadow", share=1.0)
    answer = front.ask("s", "put the lamp")
    assert answer.headers["X-Agent-Version"] == "1"
    finish(front)
    assert len(effects(world)) == 1
    shown = front.shown(rollout_id)
    assert shown["sessions"] == {"candidate": 1, "incumbent": 1}
    numbers = front.front._traffic.book.get(rollout_id).numbers
    lost = numbers["worse"]["success"]["sum"] > 0
    assert lost is not success
    with Store.open() as store:
        assert ApprovalQueue(store).list() == []
    assert "shadow_turns" in front.client.get("/metrics").text


def test_a_shadow_that_fails_stops_its_rollout_and_no_user_notices(world, fronts):
    put(world, "one", "@champion")
    put(world, "two", "@canary", edit=failing)
    front = fronts()
    rollout_id = front.begin(mode="shadow", share=1.0)
    for number in range(60):
        assert front.ask(f"s{number}").status_code == 200
        finish(front)
        if front.shown(rollout_id)["state"] == "stopped":
            break
    assert front.shown(rollout_id)["state"] == "stopped"
    front.look()
    assert standing(world, "@canary") is None


def _document(front):
    """Describe the operators' calls as OpenAPI: every route there is, bodies as their formats say."""
    from mlflow_agent_plugin.lifecycle.rollout import RolloutPlan

    text = {"type": "string"}
    plan = RolloutPlan.model_json_schema()
    kinds = plan.pop("$defs")
    model = {"enum": ["shelf", "nobody", "\x00"]}
    bodies = {
        ("POST", "/v1/rollouts"): {
            **plan, "properties": {**plan["properties"], "model": model}, "required": ["model"],
        },
        ("POST", "/v1/rollouts/{rollout_id}/stop"): {"properties": {"reason": text}},
        ("POST", "/v1/rollouts/{rollout_id}/incidents"): {"properties": {"kind": text}},
        ("POST", "/v1/deployments"): {
            "properties": {"name": text, "model_uri": text, "config": {"type": "object"}},
        },
        ("PATCH", "/v1/deployments/{name}"): {
            "properties": {"model_uri": text, "config": {"type": "object"}},
        },
    }  # fmt: skip
    paths = {}
    for method, path, _ in front.front._operations.routes():
        names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
        operation = {
            "parameters": [
                {"name": name, "in": "path", "required": True, "schema": text} for name in names
            ],
            "responses": {"200": {"description": "done"}},
        }
        if (body := bodies.pop((method, path), None)) is not None:
            schema = {"type": "object", **body}
            operation["requestBody"] = {"content": {"application/json": {"schema": schema}}}
        paths.setdefault(path, {})[method.lower()] = operation
    assert not bodies, "a call went away"
    about = {"openapi": "3.1.0", "info": {"title": "operators", "version": "1"}, "$defs": kinds}
    return {**about, "paths": paths}


def test_whatever_is_sent_to_the_operators_calls_the_front_end_stays_up_and_unmoved(world, fronts):
    """Calls made from the formats: no 5xx, nothing without a key or the role, nothing moved."""
    import schemathesis
    from hypothesis import HealthCheck, given, settings

    put(world, "one", "@champion")
    put(world, "two", "@canary")
    front = fronts(deployments=True)
    keys = {who: {"Authorization": f"Bearer {key}"} for who, key in front.keys.items()}
    schema = schemathesis.openapi.from_dict(_document(front))
    for operation in schema.get_all_operations():

        @settings(
            max_examples=12, deadline=None, database=None,
            suppress_health_check=list(HealthCheck), derandomize=True,
        )  # fmt: skip
        @given(case=operation.ok().as_strategy())
        def fuzz(case):
            sent = case.as_transport_kwargs(base_url="http://testserver")
            sent = {name: sent.get(name) for name in ("method", "url", "json", "data", "params")}
            for who, wanted in ((None, 401), ("ann", 403)):
                refused = front.client.request(**sent, headers=keys.get(who))
                assert refused.status_code in {wanted, 404, 405}, (sent, refused.text)
            answer = front.client.request(**sent, headers=keys["olga"])
            assert answer.status_code < 500, (sent, answer.text)
            assert "Traceback" not in answer.text

        fuzz()
    assert front.ask("s-after").status_code == 200
    assert standing(world, "@champion") == 1
