"""Tool contracts: what a tool takes, gives and does.

One YAML file per tool. Both schemas are JSON Schema (draft 2020-12) of type object; arguments and
outputs are checked against them at every call.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from mlflow_agent_plugin.entities import Effect, Risk
from mlflow_agent_plugin.package.manifest import Name, StrictModel

Version = Annotated[str, StringConstraints(pattern=r"^\d+\.\d+\.\d+$")]


class RetryRule(StrictModel):
    """How often a failed call may be tried; only idempotent tools are ever retried."""

    attempts: int = Field(default=1, ge=1, le=10)
    wait_seconds: float = Field(default=0.1, ge=0, le=60)


class RateRule(StrictModel):
    """How often one tenant may call the tool."""

    calls: int = Field(ge=1, le=1_000_000)
    every_seconds: int = Field(default=1, ge=1, le=86_400)


class BreakerRule(StrictModel):
    """When the tool is left alone, per tenant: after so many outages in a row, for so long."""

    outages: int = Field(default=5, ge=1, le=1000)
    open_seconds: float = Field(default=30.0, gt=0, le=3600)


class ContractExample(StrictModel):
    """One call as it should look."""

    input: dict[str, Any]
    output: dict[str, Any]


class ToolContract(StrictModel):
    """What one tool promises and asks for.

    Attributes:
        version: Semantic version; a breaking change needs a new major version.
        scopes: What the tool's credential must be allowed to do.
        effect: read, write or irreversible.
        idempotent: Calling it twice with the same idempotency key has the effect of once.
        rate: Calls one tenant may make in a time; None: as many as quotas allow.
        concurrency: Calls of one tenant that may run at once.
        breaker: When calls stop because the tool is out of order.
        untrusted_output: Its output carries text of third parties.
        trusted_fields: Fields of an untrusted output, at any depth, that third parties cannot write
            (what the system of record sets itself: an account number, an amount, a time).
        sink_arguments: Arguments that direct the effect (recipient, account, URL …). None: nobody
            has said, so every argument of a write counts; an empty list: no argument does.
    """

    api_version: Literal["mlflow-agents/v1"] = Field(alias="apiVersion")
    name: Name
    version: Version
    description: str = Field(min_length=1)
    input: dict[str, Any]
    output: dict[str, Any]
    scopes: list[str] = Field(default_factory=list)
    effect: Effect
    idempotent: bool = False
    timeout_seconds: float = Field(default=10.0, gt=0, le=3600)
    retry: RetryRule = RetryRule()
    rate: RateRule | None = None
    concurrency: int = Field(default=16, ge=1, le=1000)
    breaker: BreakerRule = BreakerRule()
    cost_usd: float = Field(default=0.0, ge=0)
    risk: Risk = Risk.LOW
    untrusted_output: bool = False
    trusted_fields: list[str] = Field(default_factory=list)
    sink_arguments: list[str] | None = None
    examples: list[ContractExample] = Field(default_factory=list)

    @field_validator("input", "output")
    @classmethod
    def _is_object_schema(cls, schema: dict[str, Any]) -> dict[str, Any]:
        from jsonschema import Draft202012Validator  # noqa: PLC0415 - import cost
        from jsonschema.exceptions import SchemaError  # noqa: PLC0415

        if schema.get("type") != "object":
            raise ValueError("must be a JSON Schema of type object")
        try:
            Draft202012Validator.check_schema(schema)
        except SchemaError as error:
            raise ValueError(f"is not a valid JSON Schema: {error.message}") from error
        for name in _references(schema):
            if name not in schema.get("$defs", {}):
                raise ValueError(f"refers to #/$defs/{name}, which it does not define")
        _check_cycles(schema)
        return schema

    @model_validator(mode="after")
    def _is_consistent(self) -> ToolContract:
        known = set(self.input.get("properties", {}))
        missing = sorted(set(self.sink_arguments or ()) - known)
        if missing:
            raise ValueError(f"sink_arguments names unknown argument {', '.join(missing)}")
        if self.trusted_fields and not self.untrusted_output:
            raise ValueError("trusted_fields goes with untrusted_output: true only")
        if self.retry.attempts > 1 and not (self.effect is Effect.READ or self.idempotent):
            raise ValueError("retry.attempts above 1 needs effect read or idempotent: true")
        return self

    def sinks(self) -> tuple[str, ...]:
        """Return the arguments that direct the effect.

        Where nobody has said, a read has none, and of a write all count: what nobody has thought
        about is not waved through.
        """
        if self.sink_arguments is not None:
            return tuple(self.sink_arguments)
        return () if self.effect is Effect.READ else tuple(self.input.get("properties", {}))


_OUTWARD = ("$dynamicRef", "$recursiveRef", "$id", "$anchor", "$dynamicAnchor")
_VALUES = ("enum", "const", "default", "examples")
_SAME_VALUE = ("allOf", "anyOf", "oneOf", "not", "if", "then", "else")


def _references(schema: Any) -> Iterator[str]:
    """Yield the names in ``$defs`` that `schema` refers to.

    Raises:
        ValueError: It refers to anything else: it would mean what another place says today.
    """
    if isinstance(schema, list):
        for item in schema:
            yield from _references(item)
    if not isinstance(schema, dict):
        return
    for keyword in _OUTWARD:
        if isinstance(schema.get(keyword), str):
            raise ValueError(f"uses {keyword}; only $ref to #/$defs/<name> is supported")  # noqa: TRY004 - pydantic wants ValueError
    reference = schema.get("$ref")
    if isinstance(reference, str):
        if not reference.startswith("#/$defs/") or reference.count("/") != 2:
            raise ValueError(f"refers to {reference!r}; only #/$defs/<name> of its own is allowed")
        yield reference.removeprefix("#/$defs/")
    for key, value in schema.items():
        if key not in _VALUES:
            yield from _references(value)


def _check_cycles(schema: dict[str, Any]) -> None:
    """Refuse definitions that lead back to themselves without taking a part of the value.

    Raises:
        ValueError: Checking a value against such a schema would never end.
    """
    definitions = schema.get("$defs", {})
    done: set[str] = set()

    def follow(part: Any, trail: tuple[str, ...]) -> None:
        if isinstance(part, list):
            for item in part:
                follow(item, trail)
        if not isinstance(part, dict):
            return
        name = str(part.get("$ref", "")).removeprefix("#/$defs/")
        if name in trail:
            raise ValueError(f"#/$defs/{name} refers to itself without end")
        if name and name not in done:
            follow(definitions[name], (*trail, name))
            done.add(name)
        for keyword in _SAME_VALUE:
            follow(part.get(keyword), trail)

    follow(schema, ())
    for name in definitions:
        follow({"$ref": f"#/$defs/{name}"}, ())
