"""A gated registry with two promoted versions, to roll one out beside the other."""

from __future__ import annotations

from pathlib import Path

from helpers.registry_world import World

GATE = """
apiVersion: mlflow-agents/v1
allow_unverified: true
protected:
  "@champion": [{kind: policy_tests}]
  "@canary": [{kind: policy_tests}]
"""
STRICT = GATE.replace(
    '"@champion": [{kind: policy_tests}]',
    '"@champion": [{kind: policy_tests}, {kind: approvals, count: 1, role: reviewer}]',
)


def failing(root: Path) -> None:
    """Make an agent that fails at every turn."""
    graph = root / "graph.py"
    graph.write_text(
        graph.read_text().replace(
            'lambda state: {"messages": [model.invoke(state["messages"])]}', "lambda state: 1 / 0"
        )
    )


def put(world: World, text: str, slot: str, *, edit=None, gate=GATE) -> int:
    """Register a version that says `text` and point a slot to it; return its number."""
    from mlflow_agent_plugin.registry import promote

    version = world.register(text, gate, edit=edit)
    promote(world.NAME, version, to=slot, client=world.client)
    return version


def standing(world: World, slot: str) -> int | None:
    """Return what a slot points to."""
    from mlflow_agent_plugin.lifecycle.rollout import slot_version

    return slot_version(world.NAME, slot, client=world.client)
