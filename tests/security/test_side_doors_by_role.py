"""The same attacks against a server with login: by the author, a reviewer, a reader and nobody."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers.registry_world import GATE, World
from helpers.servers import remote_world
from helpers.side_doors import ATTACKS, REFUSED
from helpers.team import PASSWORD
from mlflow.exceptions import MlflowException

from mlflow_agent_plugin.registry import approve, history, promote, request_promotion

pytestmark = pytest.mark.integration

TRIED = [
    "stage Production", "version '٢'", "archive the incumbent", "alias", "delete alias",
    "delete the incumbent", "delete the model", "become a prompt", "write the gate's tag",
    "delete the gate's tag", "evidence by an unknown key", "edited results",
    "roll back to what never stood there",
]  # fmt: skip
"""One of each kind: every call pays for checking a password. All of them, over REST and without
login, are in `test_side_doors_over_rest`."""

PEOPLE = ["ann", "rita", "nora", None]
"""Author, reviewer, somebody who may only look, and nobody."""


@pytest.fixture(scope="module")
def fort(team, tmp_path_factory):
    """Give a world of an agent in use: Production and @champion are version 1, 2 has shown nothing."""
    folder = tmp_path_factory.mktemp("fort")
    with pytest.MonkeyPatch.context() as patch, team.acting("ann"):
        world = remote_world(folder, team, patch)
        gate = GATE.replace("allow_unverified: true", "")
        world.register("one", gate)
        world.evaluate(1)
        for slot in ("Production", "@champion"):
            request_promotion("shelf", 1, to=slot, client=world.client)
            with team.acting("rita"):
                approve("shelf", 1, to=slot, client=world.client)
            promote("shelf", 1, to=slot, client=world.client)
        world.register("two", gate)
        yield world


@pytest.fixture
def inside(team, fort):
    """Give a world on the server's own database, to look at what happened."""
    return World(fort.folder, f"agents+sqlite:///{team.folder}/kept/mlflow.db")


@pytest.fixture
def as_person(team, fort, monkeypatch):
    """Give a way to be somebody, in this process."""
    import mlflow

    def become(who):
        for name, value in team.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", team.url)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        mlflow.set_tracking_uri(team.url)
        if who is None:
            monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)
            monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD", raising=False)
        else:
            monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", who)
            monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)

    return become


def pointers(world):
    return (
        [item.version for item in world.client.get_latest_versions("shelf", ["Production"])],
        world.client.get_model_version_by_alias("shelf", "champion").version,
        len(history("shelf", client=world.client)),
    )


@pytest.mark.parametrize("who", ["ann", "rita"])
def test_neither_the_author_nor_a_reviewer_moves_a_protected_name(fort, inside, as_person, who):
    as_person(who)
    before, through, noted = pointers(inside), [], {}
    for name in TRIED:
        attack, outcome = ATTACKS[name]
        assert outcome is REFUSED
        events = len(inside.events("gate_decided"))
        try:
            attack(fort)
        except MlflowException:
            noted[name] = inside.events("gate_decided")[events:]
        else:
            through.append(name)
    assert through == []
    assert pointers(inside) == before
    # MLflow itself refuses local paths, and to rita what only who manages the model may do.
    events = [event for found in noted.values() for event in found]
    assert all(len(found) <= 1 for found in noted.values())
    assert len(events) >= 8
    assert {event.body["actor"]["user"] for event in events} == {who}


def test_only_a_reviewer_who_is_not_the_author_approves_and_only_what_was_asked(fort, as_person):
    as_person("rita")
    with pytest.raises(MlflowException, match="no open request"):
        approve("shelf", 2, to="Production", client=fort.client)
    as_person("ann")
    request_promotion("shelf", 2, to="Production", client=fort.client)
    with pytest.raises(MlflowException, match="ann"):
        approve("shelf", 2, to="Production", by="rita", client=fort.client)
    as_person("nora")
    with pytest.raises(MlflowException, match="ermission"):
        approve("shelf", 2, to="Production", by="rita", client=fort.client)
    as_person("rita")
    approve("shelf", 2, to="Production", client=fort.client)
    with pytest.raises(MlflowException, match="not met"):  # an approval is no evidence
        promote("shelf", 2, to="Production", client=fort.client)


CALLS = [
    ("POST", "model-versions/transition-stage",
     {"name": "shelf", "version": "2", "stage": "Production", "archive_existing_versions": True}),
    ("POST", "model-versions/transition-stage",
     {"name": "shelf", "version": "1", "stage": "Archived", "archive_existing_versions": False}),
    ("POST", "registered-models/alias", {"name": "shelf", "alias": "champion", "version": "2"}),
    ("DELETE", "registered-models/alias", {"name": "shelf", "alias": "champion"}),
    ("DELETE", "model-versions/delete", {"name": "shelf", "version": "1"}),
    ("DELETE", "registered-models/delete", {"name": "shelf"}),
    ("POST", "registered-models/rename", {"name": "shelf", "new_name": "gone"}),
    ("POST", "registered-models/set-tag",
     {"name": "shelf", "key": "mlflow.prompt.is_prompt", "value": "true"}),
    ("POST", "model-versions/set-tag",
     {"name": "shelf", "version": "2", "key": "agent.gate.Production", "value": "passed"}),
    ("DELETE", "model-versions/delete-tag",
     {"name": "shelf", "version": "1", "key": "agent.promotion.Production"}),
]  # fmt: skip


def test_everybody_at_once_by_both_of_mlflows_roots_moves_nothing(team, fort, inside, as_person):
    """MLflow's pages call below ``ajax-api``, its clients below ``api``."""
    as_person("ann")
    before = pointers(inside)
    plan = [
        (who, method, f"/{root}/2.0/mlflow/{path}", body)
        for method, path, body in CALLS
        for root in ("api", "ajax-api")
        for who in PEOPLE
    ]
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda call: team._send(call[1], call[2], call[0], json=call[3]), plan)
        )
    refused = {
        "ann": {403, 400}, "rita": {403, 400}, "nora": {403}, None: {401},
    }  # fmt: skip
    odd = [
        (call[0], call[2], answer.status_code, answer.text[:200])
        for call, answer in zip(plan, answers, strict=True)
        if answer.status_code not in refused[call[0]]
    ]
    assert odd == []
    assert pointers(inside) == before
