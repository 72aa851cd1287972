"""Commands: what a client asks of the registry by setting a tag.

Every MLflow client, in any language, can set a tag; so the registry needs no interface of its own.
Tags below ``agent.`` belong to the registry. A command is not stored: the registry does what it
says, then writes tags of its own that show the outcome. Any other write below ``agent.`` is
refused.
"""

from __future__ import annotations

import json
from enum import Enum
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from mlflow_agent_plugin.errors import RequestError
from mlflow_agent_plugin.package.slots import Slot, fold

NAMESPACE = "agent."

APPLIED_TAG = "agent.applied"
"""Of a version and a slot: whether approving its latest request moved the slot, or why not."""

APPLIED = "yes"
"""How the tag starts where it did."""


class Command(str, Enum):
    """What can be asked; the value is the tag's key."""

    EVIDENCE = "agent.evidence"
    REVOKE_EVIDENCE = "agent.revoke_evidence"
    LOAD_EVIDENCE = "agent.load_evidence"
    REQUEST = "agent.request"
    APPROVE = "agent.approve"
    COMMENT = "agent.comment"
    REJECT = "agent.reject"
    WITHDRAW = "agent.withdraw"
    CHECK = "agent.check"
    ROLLBACK = "agent.rollback"
    EMERGENCY = "agent.emergency"
    RETIRE = "agent.retire"
    RULES = "agent.rules"
    HISTORY = "agent.history"


def _printable(text: str) -> str:
    if any(ord(letter) < 32 and letter not in "\n\t" for letter in text):
        raise ValueError("must not hold control characters")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("must be Unicode text") from None
    return text


Comment = Annotated[str, Field(max_length=4000), AfterValidator(_printable)]
Reason = Annotated[str, Field(min_length=3, max_length=4000), AfterValidator(_printable)]
Person = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_printable)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    to: str
    by: Person | None = None

    def slot(self) -> Slot:
        """Return the slot the command is about."""
        return Slot.parse(self.to)


class Agree(_Body):
    """Body of an approval."""

    comment: Comment = ""


class Ask(Agree):
    """Body of a request; `apply`: the approval that completes it moves the slot."""

    apply: bool = True


class Say(_Body):
    """Body of a comment."""

    comment: Annotated[str, Field(min_length=1, max_length=4000), AfterValidator(_printable)]


class Refuse(_Body):
    """Body of a rejection or a withdrawal."""

    reason: Reason


class Move(_Body):
    """Body of a rollback, an emergency or a retirement; `version` None: the one before."""

    reason: Reason
    version: int | None = Field(default=None, ge=1)


class Revoke(BaseModel):
    """Body of a revocation of a run's evidence."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    reason: Reason
    by: Person | None = None


class Look(_Body):
    """Body of a check."""


ON_VERSION = MappingProxyType(
    {
        Command.REQUEST: Ask,
        Command.APPROVE: Agree,
        Command.COMMENT: Say,
        Command.REJECT: Refuse,
        Command.WITHDRAW: Refuse,
        Command.CHECK: Look,
        Command.ROLLBACK: Move,
        Command.EMERGENCY: Move,
        Command.REVOKE_EVIDENCE: Revoke,
    }
)
"""Commands set as a tag of a version; those of `EVIDENCE_KEYS` take a run id instead of a body."""

EVIDENCE_KEYS = frozenset({Command.EVIDENCE.value, Command.LOAD_EVIDENCE.value})
"""Both hand in whatever evidence a run holds."""

ON_MODEL = MappingProxyType({Command.ROLLBACK: Move, Command.RETIRE: Move, Command.HISTORY: Look})
"""Commands set as a tag of a model; `Command.RULES` takes a gate.yaml instead of a body."""


def is_reserved(key: object) -> bool:
    """Return True if some database might take `key` for one of ours."""
    return isinstance(key, str) and fold(key).startswith(NAMESPACE)


def parse_body(command: Command, text: str, models: Any) -> Any:
    """Read the JSON body of a command.

    Raises:
        RequestError: It is not the command's JSON; names the field.
    """
    example = '{"to": "Production"}'
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise RequestError(
            "is not JSON", where=command.value, hint=f"Write e.g. {example}."
        ) from None
    try:
        return models[command].model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise RequestError(
            first["msg"], where=f"{command.value}: {field}" if field else command.value
        ) from None
