"""A room with lamps: a small agent with a scripted model, whose world can be looked at afterwards."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

CONTRACT = """
apiVersion: mlflow-agents/v1
name: {name}
version: 1.0.0
description: {name} a lamp
effect: {effect}
timeout_seconds: 60
input:
  type: object
  additionalProperties: false
  required: [lamp]
  properties: {{lamp: {{type: string}}, note: {{type: string}}}}
output:
  type: object
  additionalProperties: false
  required: [lamp]
  properties: {{lamp: {{type: string}}, state: {{type: string}}, times: {{type: integer}}}}
"""

TOOLS_PY = '''
"""Tools over a room of lamps."""
import os
import threading
import time


class Room:
    def __init__(self, settings):
        unknown = set(settings) - {"lamps", "broken"}
        if unknown:
            raise ValueError(f"unknown setting {sorted(unknown)}")
        if settings.get("broken"):
            raise ValueError("the room does not open")
        self.lamps = [{"lamp": n, "state": "off", "times": 0} for n in settings["lamps"]]
        self.keys = {}
        self.closed = False

    def find(self, name):
        if self.closed:
            raise RuntimeError("the room is closed")
        for lamp in self.lamps:
            if lamp["lamp"] == name:
                return lamp
        raise ValueError("no such lamp")

    def snapshot(self):
        return {"lamps": self.lamps}

    def close(self):
        self.closed = True


def open_room(settings):
    return Room(settings)


def look(context, *, lamp, note=""):
    return {"lamp": lamp, "state": context.resources.find(lamp)["state"]}


def switch(context, *, lamp, note=""):
    found = context.resources.find(lamp)
    found["state"] = "on"
    found["times"] += 1
    return {"lamp": lamp, "state": "on", "times": found["times"]}


def smash(context, *, lamp, note=""):
    context.resources.find(lamp)["state"] = "smashed"
    return {"lamp": lamp, "state": "smashed"}


def crash(context, *, lamp, note=""):
    os._exit(9)


def hang(context, *, lamp, note=""):
    threading.Event().wait()
'''

GRAPH_PY = """
from langgraph.graph import END, START, MessagesState, StateGraph


def build(context):
    model = context.model.bind_tools(context.tools)
    graph = StateGraph(MessagesState)
    graph.add_node("plan", lambda state: {"messages": [model.invoke(state["messages"])]})
    graph.add_node("tools", context.tool_node())
    graph.add_edge(START, "plan")
    graph.add_conditional_edges(
        "plan", lambda state: "tools" if state["messages"][-1].tool_calls else END
    )
    graph.add_edge("tools", "plan")
    return graph
"""

MANIFEST = """
apiVersion: mlflow-agents/v1
name: lamps
description: Looks after lamps.
owner: tests
workflow: {{goal: keep the lamps, risk_level: low}}
model: {{provider: scripted, name: script, settings: {settings}, budgets: {{max_steps: 12, max_tool_calls: 6}}}}
prompts: {{hello: prompts/hello.md}}
tools:
  resources: tools:open_room
  resource_settings: {{lamps: [desk, door]}}
  python:
    - {{name: look, entry_point: "tools:look"}}
    - {{name: switch, entry_point: "tools:switch"}}
    - {{name: smash, entry_point: "tools:smash"}}
    - {{name: crash, entry_point: "tools:crash"}}
    - {{name: hang, entry_point: "tools:hang"}}
"""

EFFECTS = {
    "look": "read",
    "switch": "write",
    "smash": "irreversible",
    "crash": "read",
    "hang": "read",
}

POLICIES = {
    "permit.cedar": """
        @id("everything")
        @unverified("allow")
        permit (principal, action, resource);
    """,
    "hard.cedar": """
        @id("no-door")
        forbid (principal, action == Agent::Action::"switch", resource)
        when { context.input.lamp == "door" };
    """,
    "approval.cedar": """
        @id("smashing-needs-a-warden")
        @approval("warden")
        forbid (principal, action == Agent::Action::"smash", resource)
        unless { context.session.approved };
    """,
    "roles.yaml": """
        apiVersion: mlflow-agents/v1
        roles: {warden: decides what may be smashed}
    """,
    "tests.yaml": """
        apiVersion: mlflow-agents/v1
        cases:
          - {name: anyone may look, tool: look, arguments: {lamp: desk}, expect: allow, policies: [everything]}
    """,
}


def call(tool, lamp, **more):
    return {
        "tool_calls": [{"name": tool, "args": {"lamp": lamp, **more}}],
        "intent": tool,
        "confidence": 0.9,
    }


def say(text, outcome=None):
    return {"text": text, **({"outcome": outcome} if outcome else {})}


SCRIPTS = [
    {"when": "^look", "replies": [call("look", "desk"), say("The desk lamp is off.")]},
    {"when": "^switch", "replies": [call("switch", "desk"), say("The desk lamp is on.")]},
    {"when": "^door", "replies": [call("switch", "door"), say("I may not touch the door lamp.")]},
    {"when": "^smash", "replies": [call("smash", "desk"), say("Smashed.")]},
    {"when": "^crash", "replies": [call("crash", "desk"), say("Survived?")]},
    {"when": "^hang", "replies": [call("hang", "desk"), say("Never.")]},
    {"when": "^loop", "replies": [call("look", "desk")] * 50},
    {
        "when": "^which",
        "replies": [say("Which lamp?", "clarified"), call("switch", "desk"), say("Done.")],
    },
    {"when": "^ask", "replies": [say("Which lamp?", "clarified")] * 60},
    {
        "when": "^twice",
        "replies": [call("look", "desk"), say("Off."), call("look", "door"), say("Off.")],
    },
]


def write_lamps(root: Path, scripts=SCRIPTS, *, settings=None) -> Path:
    files = {
        "agent.yaml": MANIFEST.format(settings=json.dumps(settings or {"scripts": scripts})),
        "tools.py": TOOLS_PY,
        "graph.py": GRAPH_PY,
        "prompts/hello.md": "Hello {{ name }}!",
    }
    for name, text in POLICIES.items():
        files[f"policies/{name}"] = text
    for name, effect in EFFECTS.items():
        files[f"contracts/{name}.yaml"] = CONTRACT.format(name=name, effect=effect)
    for path, text in files.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(textwrap.dedent(text))
    return root
