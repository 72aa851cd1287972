"""Tool contracts of an AgentDojo suite: its own signatures, and a file for what they do not say.

``python -m evaluations.agentdojo.contracts docs/reference/schemas`` writes the JSON Schema of such
a file.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

from evaluations.agentdojo.tolerance import bring_into_shape
from mlflow_agent_plugin.entities import Effect, Risk
from mlflow_agent_plugin.errors import SuiteError
from mlflow_agent_plugin.package import StrictModel, ToolContract
from mlflow_agent_plugin.package.reading import read_yaml, validate_document
from mlflow_agent_plugin.package.schemas import schema_text

if TYPE_CHECKING:
    from agentdojo.functions_runtime import Function
    from agentdojo.task_suite.task_suite import TaskSuite


SCHEMA = "agentdojo-contracts.schema.json"
RESULT = "result"
"""The field that holds what a tool of the suite returns."""


class ToolFacts(StrictModel):
    """What a signature does not say about one tool.

    Attributes:
        effect: What a call does: nothing, something that can be undone, or what cannot.
        untrusted_output: Third parties can write into what it returns.
        trusted_fields: Fields of such an output, at any depth, that third parties cannot write;
            ``result`` is all of it: its whole values are trusted, sentences in them are not.
        sink_arguments: Arguments that direct the effect (who gets it, where it goes, what is
            deleted). Left out: all arguments of a write; ``[]``: none.
        scopes: Scopes the call needs; the pack only groups permissions by them.
        risk: ``high`` and ``critical`` writes always ask a human.
    """

    effect: Effect
    untrusted_output: bool = False
    trusted_fields: list[str] = Field(default_factory=list)
    sink_arguments: list[str] | None = None
    scopes: list[str] = Field(default_factory=list)
    risk: Risk = Risk.LOW


class ContractsFile(StrictModel):
    """A contracts file: what the signatures of a suite's tools do not say.

    Attributes:
        suite: Name of the suite; left out, the file is for whatever suite it is used with.
        tools: Facts by tool.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    suite: str | None = None
    tools: dict[str, ToolFacts]


def read_contracts(
    path: Path, suite: TaskSuite[Any], *, notes: list[str] | None = None
) -> dict[str, ToolContract]:
    """Read the contracts of `suite` from `path`.

    Args:
        path: A contracts file, in the format of the reference or a shape that can mean one thing
            only; see `tolerance`.
        suite: The suite.
        notes: Is told what was read in another way than it was written.

    Raises:
        SuiteError: The file cannot be read, is for another suite, or does not fit its tools.
    """
    functions = {function.name: function for function in suite.tools}
    document, found = bring_into_shape(
        read_yaml(path, error=SuiteError), functions, lambda name: _fields(functions[name])
    )
    if notes is not None:
        notes += found
    file = validate_document(document, ContractsFile, error=SuiteError)
    if file.suite not in (None, suite.name):
        raise SuiteError(
            f"is for the suite {file.suite!r}, not for {suite.name!r}",
            where=document.where("suite"),
            hint="Name another file with --contracts, or another suite with --suite.",
        )
    contracts = {}
    for name, facts in file.tools.items():
        where = document.where("tools", name)
        _check_fields(functions[name], facts, where)
        try:
            contracts[name] = _contract(functions[name], facts)
        except ValidationError as error:
            problem = error.errors()[0]["msg"].removeprefix("Value error, ")
            arguments = ", ".join(functions[name].parameters.model_fields) or "none"
            raise SuiteError(
                problem, where=where, hint=f"Correct the tool's entry; its arguments: {arguments}."
            ) from error
    return contracts


def write_schema(folder: Path) -> None:
    """Write the JSON Schema of a contracts file into `folder`."""
    (folder / SCHEMA).write_text(schema_text(ContractsFile), encoding="utf-8")


def _contract(function: Function[Any, Any], facts: ToolFacts) -> ToolContract:
    schema = function.parameters.model_json_schema()
    return ToolContract.model_validate(
        {
            "apiVersion": "mlflow-agents/v1",
            "name": function.name,
            "version": "1.0.0",
            "description": function.description,
            "input": {"properties": {}, **schema, "additionalProperties": False},
            "output": {"type": "object", "required": ["result"]},
            "timeout_seconds": 60,
            **facts.model_dump(),
        }
    )


def _check_fields(function: Function[Any, Any], facts: ToolFacts, where: str) -> None:
    """Refuse a trusted field that the tool's return type does not have."""
    if not facts.trusted_fields:
        return
    known = {RESULT, *_fields(function)}
    for name in facts.trusted_fields:
        if name not in known:
            raise SuiteError(
                f"trusted_fields names {name!r}, which the tool's return type does not have",
                where=where,
                hint=f"It has {', '.join(sorted(known))}.",
            )


def _fields(function: Function[Any, Any]) -> set[str]:
    """Return the fields of a tool's return type, at any depth."""
    try:
        schema = TypeAdapter(function.return_type).json_schema(mode="serialization")
    except (PydanticSchemaGenerationError, PydanticUserError):
        return set()
    return set(_names(schema))


def _names(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        yield from schema.get("properties", {})
        for part in schema.values():
            yield from _names(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _names(part)


if __name__ == "__main__":
    write_schema(Path(sys.argv[1]))
