"""The command line in this process, and a small agent to use it on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from click.testing import CliRunner, Result
from helpers.shelf_agent import call, say, write_bundle

GATE = """
apiVersion: mlflow-agents/v1
allow_unverified: true
protected:
  Production:
    - {kind: suite, name: tiny, metric: task_success, minimum: 0.9, minimum_sample: 2, use_lower_bound: false}
    - {kind: safety}
    - {kind: approvals, count: 1, role: reviewer}
  "@champion":
    - {kind: policy_tests}
"""
SUITE = """
apiVersion: mlflow-agents/v1
name: tiny
scenarios:
  - id: looks
    turns: [{user: Is the lamp there?}]
    expect: {outcomes: [answered], calls_required: [{tool: look}]}
  - id: burns-nothing
    turns: [{user: What is there?}]
    expect: {calls_forbidden: [{effect: irreversible}]}
"""


@dataclass(frozen=True)
class Said:
    """What a command said."""

    result: Result

    @property
    def code(self) -> int:
        return self.result.exit_code

    @property
    def out(self) -> str:
        return self.result.stdout

    @property
    def err(self) -> str:
        return self.result.stderr

    @property
    def json(self) -> Any:
        """The one JSON document on standard output; fails if there is more or less than one."""
        return json.loads(self.result.stdout)

    @property
    def words(self) -> str:
        """Standard output with single spaces."""
        return " ".join(self.out.split())


def run(*args: object, code: int | None = 0, stdin: str | None = None) -> Said:
    """Run `mlflow-agents` with `args`; its exit code must be `code`, if that is given."""
    from mlflow_agent_plugin.interaction.cli import main

    said = Said(CliRunner().invoke(main, [str(arg) for arg in args], input=stdin))
    error = said.result.exception
    if error is not None and not isinstance(error, SystemExit):
        raise error
    assert code is None or said.code == code, f"exit {said.code}\n{said.out}\n{said.err}"
    return said


def write_shelf(root, text="a lamp"):
    """Write the shelf agent: it looks once and then says `text`."""
    write_bundle(root, [call("look", "lamp"), say(text)], folder=root.parent / "shelf")
    (root / "gate.yaml").write_text(GATE)
    return root
