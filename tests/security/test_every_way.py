"""Every method of MLflow's registry store is tried on a model in use: alone, and all at once."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from helpers.registry_world import World
from helpers.side_doors import ATTACKS, REFUSED
from mlflow.entities.model_registry import ModelVersionTag, RegisteredModelTag
from mlflow.entities.webhook import WebhookAction, WebhookEntity, WebhookEvent
from mlflow.exceptions import MlflowException

from mlflow_agent_plugin.registry import history, verify_registry
from mlflow_agent_plugin.registry.paths import PATHS

SLOTS = ("Production", "@champion")

REQUESTS = {"the author approves"}
"""Opens a request, which everybody may; after it, others may answer."""

HARMLESS = {
    "update_model_version": lambda s: s.update_model_version("shelf", "1", "new"),
    "get_model_version": lambda s: s.get_model_version("shelf", "1"),
    "get_model_version_download_uri": lambda s: s.get_model_version_download_uri("shelf", "1"),
    "get_model_version_by_alias": lambda s: s.get_model_version_by_alias("shelf", "champion"),
    "get_latest_versions": lambda s: s.get_latest_versions("shelf", ["production"]),
    "search_model_versions": lambda s: s.search_model_versions("name = 'shelf'"),
    "update_registered_model": lambda s: s.update_registered_model("shelf", "new"),
    "get_registered_model": lambda s: s.get_registered_model("shelf"),
    "search_registered_models": lambda s: s.search_registered_models(),
    "create_prompt": lambda s: s.create_prompt("shelf", tags={"x": "y"}),
    "delete_prompt_tag": lambda s: s.delete_prompt_tag("shelf", "agent.gated"),
    "set_prompt_version_tag": lambda s: s.set_prompt_version_tag("shelf", 2, "agent.digest", "x"),
    "delete_prompt_version_tag": lambda s: s.delete_prompt_version_tag("shelf", 2, "agent.digest"),
    "get_prompt": lambda s: s.get_prompt("shelf"),
    "get_prompt_version": lambda s: s.get_prompt_version("shelf", 1),
    "get_prompt_version_by_alias": lambda s: s.get_prompt_version_by_alias("shelf", "champion"),
    "search_prompts": lambda s: s.search_prompts(),
    "search_prompt_versions": lambda s: s.search_prompt_versions("shelf"),
    "link_prompt_version_to_model": lambda s: s.link_prompt_version_to_model("shelf", "1", "m-1"),
    "link_prompt_version_to_run": lambda s: s.link_prompt_version_to_run("shelf", "1", "r"),
    "link_prompts_to_trace": lambda s: s.link_prompts_to_trace([], "tr-1"),
    "create_webhook": lambda s: s.create_webhook(
        "tell", "https://example.com/hook", [WebhookEvent(WebhookEntity.MODEL_VERSION, WebhookAction.CREATED)]
    ),
    "update_webhook": lambda s: s.update_webhook("none", name="other"),
    "delete_webhook": lambda s: s.delete_webhook("none"),
    "get_webhook": lambda s: s.get_webhook("none"),
    "list_webhooks": lambda s: s.list_webhooks(),
    "list_webhooks_by_event": lambda s: s.list_webhooks_by_event(
        WebhookEvent(WebhookEntity.MODEL_VERSION, WebhookAction.CREATED)
    ),
    "test_webhook": lambda s: s.test_webhook("none"),
}  # fmt: skip
"""What no attack is made of, called on the model in use; some of it MLflow itself refuses."""


def record(monkeypatch, store):
    """Note which of the store's public methods are called from now on."""
    called = set()
    for name in PATHS:
        method = getattr(store, name)

        def noting(*args, _name=name, _method=method, **kwargs):
            called.add(_name)
            return _method(*args, **kwargs)

        monkeypatch.setattr(store, name, noting)
    return called


def test_every_method_is_tried_and_none_changes_what_a_protected_name_loads(guarded, monkeypatch):
    called = record(monkeypatch, guarded.store)
    loaded = {name: guarded.loads(name) for name in SLOTS}
    through = []
    for name in sorted(ATTACKS, key=lambda name: name in REQUESTS):
        act, outcome = ATTACKS[name]
        if outcome is REFUSED:
            try:
                act(guarded)
            except MlflowException:
                continue
            through.append(name)
    assert through == []
    for call in HARMLESS.values():
        with suppress(MlflowException, NotImplementedError, AttributeError):
            call(guarded.store)
    assert set(PATHS) - called == set()
    assert {name: guarded.loads(name) for name in SLOTS} == loaded
    assert all(isinstance(content, dict) for content in loaded.values())
    found = verify_registry(guarded.client)
    assert found.ok, found


def test_all_attacks_at_once_change_nothing_and_each_leaves_one_event(guarded):
    loaded = {name: guarded.loads(name) for name in SLOTS}
    entries = len(history("shelf", client=guarded.client))
    before = len(guarded.events("gate_decided"))
    acts = [
        (name, act)
        for name, (act, outcome) in ATTACKS.items()
        if outcome is REFUSED and name not in REQUESTS
    ]
    random.Random(4).shuffle(acts)
    threads = 6
    start = threading.Barrier(threads)
    through = []

    def run(share):
        start.wait()
        for number, (name, act) in share:
            folder = guarded.folder / f"attacker-{number}"
            folder.mkdir()
            try:
                act(World(folder, guarded.registry_uri))
            except MlflowException:
                continue
            through.append(name)

    with ThreadPoolExecutor(threads) as pool:
        shares = [list(enumerate(acts))[number::threads] for number in range(threads)]
        for done in [pool.submit(run, share) for share in shares]:
            done.result(timeout=300)
    assert through == []
    assert len(guarded.events("gate_decided")) - before == len(acts)
    assert len(history("shelf", client=guarded.client)) == entries
    assert {name: guarded.loads(name) for name in SLOTS} == loaded
    found = verify_registry(guarded.client)
    assert found.ok, found


def test_tags_a_version_or_model_is_created_with_are_no_way_in(guarded):
    store = guarded.store
    for act in (
        lambda: store.create_model_version(
            "shelf", str(guarded.model("three")), tags=[ModelVersionTag("AGENT.digest", "x")]
        ),
        lambda: store.create_registered_model("shelf", [RegisteredModelTag("agent.gated", "no")]),
    ):
        with pytest.raises(MlflowException):
            act()
