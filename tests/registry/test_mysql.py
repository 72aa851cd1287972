"""The gate on MySQL's dialect, on a real MariaDB: names, texts, and many at once."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest
from helpers.promoters import attempt
from helpers.registry_world import GATE, World
from helpers.side_doors import ATTACKS, REFUSED
from mlflow.exceptions import MlflowException

from mlflow_agent_plugin.registry import (
    approve,
    history,
    promote,
    request_promotion,
    rollback,
    verify_registry,
)

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def server():
    from helpers.mariadb_server import MariaDB

    running = MariaDB()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def shelf(server, tmp_path_factory):
    """Give a world whose Production and @champion are version 1; version 2 has shown nothing."""
    folder = tmp_path_factory.mktemp("mysql")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(folder).items():
            patch.setenv(name, value)
        world = World(folder, f"agents+{server.database()}")
        world.promoted("one")
        request_promotion("shelf", 1, to="@champion", comment="日本語 🚀", client=world.client)
        approve("shelf", 1, to="@champion", by="Åsa 山田", client=world.client)
        promote("shelf", 1, to="@champion", client=world.client)
        world.register("two")
        yield world


def environment(folder):
    return {
        "MLFLOW_AGENTS_ACTOR": "bob",
        "MLFLOW_AGENTS_KEY_DIR": str(folder / "keys"),
        "MLFLOW_AGENTS_REGISTRY_CONTENT": (folder / "content").as_uri(),
        "MLFLOW_AGENTS_STORE_URI": f"sqlite:///{folder}/agents.db",
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
    }


@pytest.fixture
def here(shelf, monkeypatch):
    for name, value in environment(shelf.folder).items():
        monkeypatch.setenv(name, value)
    return shelf


def slots(world):
    return (
        [item.version for item in world.client.get_latest_versions("shelf", ["Production"])],
        world.client.get_model_version_by_alias("shelf", "champion").version,
    )


def refused(world, act):
    before, events = slots(world), len(world.events("gate_decided"))
    with pytest.raises(MlflowException):
        act(world)
    assert slots(world) == before
    return len(world.events("gate_decided")) - events


def test_every_way_around_is_refused_and_noted(here):
    """One world for all: what is refused changes nothing, so the next finds what this one found."""
    skipped = {
        "rename and replace",
        "take the name",
        "the author approves",
        "a candidate's weaker gate",
    }
    noted = {
        name: refused(here, act)
        for name, (act, outcome) in ATTACKS.items()
        if outcome is REFUSED and name not in skipped
    }
    assert set(noted.values()) == {1}, {name: count for name, count in noted.items() if count != 1}


@pytest.mark.parametrize("name", ["SHELF", "Shelf", "shelf ", "shélf"])
def test_another_spelling_of_the_model_is_no_way_in(here, name):
    """To this database it is the same name; what is signed and audited would be about another."""
    client = here.client
    for act in (
        lambda: client.transition_model_version_stage(name, "2", "Production"),
        lambda: client.set_registered_model_alias(name, "champion", "2"),
        lambda: client.delete_registered_model_alias(name, "champion"),
        lambda: client.delete_model_version(name, "1"),
        lambda: client.delete_registered_model(name),
        lambda: client.create_model_version(name, str(here.model("three"))),
        lambda: client.set_model_version_tag(name, "2", "agent.approve", '{"to": "Production"}'),
        lambda: client.create_registered_model(name),
        lambda: client.rename_registered_model(name, "elsewhere"),
    ):
        refused(here, lambda _, act=act: act())


@pytest.mark.parametrize("alias", ["CHAMPION", "chámpion", "ｃhampion", "champıon"])
def test_another_spelling_of_the_alias_is_no_way_in(here, alias):
    """The dotless i is an i to this database and to no rule of ours: what moved is looked at."""
    refused(here, lambda w: w.client.set_registered_model_alias("shelf", alias, "2"))
    refused(here, lambda w: w.client.delete_registered_model_alias("shelf", alias))


def test_what_people_write_is_kept_in_any_script(here):
    entries = history("shelf", "@champion", client=here.client)
    assert entries[-1].reason == "日本語 🚀"


def test_a_long_record_is_kept_whole(here):
    """MySQL's TEXT ends at 64 KB; a bundle with many tools has longer contracts."""
    from sqlalchemy import inspect

    columns = inspect(here.store.engine).get_columns("agent_versions")
    kinds = {column["name"]: type(column["type"]).__name__ for column in columns}
    assert kinds["contracts"] == kinds["rules"] == "LONGTEXT"


def test_promote_roll_back_and_verify(here):
    here.promoted("one", name="lamp")
    here.promoted("two", name="lamp")
    rollback("lamp", to="Production", reason="hm hm", by="alice", client=here.client)
    kinds = [entry.kind for entry in history("lamp", client=here.client)]
    assert kinds == ["promoted", "promoted", "rolled_back"]
    assert verify_registry(here.client).ok
    from sqlalchemy import text

    edit = "UPDATE agent_slot_history SET version = {} WHERE name = 'lamp' AND number = 3"
    with here.store.engine.begin() as connection:
        connection.execute(text(edit.format(2)))
    assert "changed past the registry" in str(verify_registry(here.client))
    with here.store.engine.begin() as connection:
        connection.execute(text(edit.format(1)))


def test_many_processes_make_one_line(here):
    """Of three versions approved against one incumbent one wins; nothing waits for ever."""
    versions = [here.register(f"v{number}", gate=GATE, name="crowd") for number in range(3)]
    for version in sorted(versions, reverse=True):
        here.ready(version, name="crowd")
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        start = manager.Barrier(3)
        with ProcessPoolExecutor(3, mp_context=context) as pool:
            common = (here.registry_uri, environment(here.folder), start)
            futures = [
                pool.submit(attempt, *common, [version] * 2, name="crowd") for version in versions
            ]
            outcomes = [outcome for future in futures for outcome in future.result(timeout=300)]
    won = {version for version, code, _ in outcomes if code == "OK"}
    assert len(won) == 1
    assert {code for _, code, _ in outcomes} == {"OK", "PERMISSION_DENIED"}, outcomes
    entries = history("crowd", "Production", client=here.client)
    assert [entry.version for entry in entries] == list(won)
