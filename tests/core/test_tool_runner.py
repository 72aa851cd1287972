"""What a tool is given, and what is made of what it gives."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mlflow_agent_plugin.core.tool_runner import ToolRunner
from mlflow_agent_plugin.entities import Spelled
from mlflow_agent_plugin.package.contract import ToolContract

CONTEXT = SimpleNamespace(credential=None)
CONTRACT = ToolContract.model_validate(
    {
        "apiVersion": "mlflow-agents/v1",
        "name": "look",
        "version": "1.0.0",
        "description": "Looks",
        "effect": "read",
        "input": {"type": "object", "properties": {"what": {}}},
        "output": {"type": "object"},
    }
)


@pytest.fixture
def run():
    """Run a function as a tool."""
    runners = []

    def run(function, arguments=b"{}"):
        runners.append(ToolRunner({"look": function}))
        return runners[-1].run(CONTRACT, CONTEXT, arguments)

    yield run
    for runner in runners:
        runner.close()


def test_a_tool_gets_what_was_spelled_and_keeps_its_changes_to_itself(run):
    def spoil(_context, what):
        what.append("more")
        return {"got": what}

    arguments = b'{"what":["one"]}'
    assert run(spoil, arguments).value == {"got": ["one", "more"]}
    assert run(spoil, arguments).value == {"got": ["one", "more"]}


@pytest.mark.parametrize("number", [1e16, -(2.0**60), 1e21, 2.0**53, 1.5, 2**53 - 1, -0.0])
def test_what_a_tool_gives_can_be_spelled_again_as_the_same_text(run, number):
    given = run(lambda _context: {"n": [number]})
    assert given.value == {"n": [number]}
    assert Spelled.of(given.value) == given


def test_an_output_that_is_no_json_object_says_of_what_kind_it_was(run):
    assert run(lambda _context: [1]) == Spelled.of({"unusable_output": "list"})
    assert run(lambda _context: {"n": 2**53}) == Spelled.of({"unusable_output": "dict"})
