"""A registry's signed word about its slots: what one points to, and which ones it protects.

Rules:
- A promotion statement binds model, workspace, slot, version, content and agent digest; it counts
  for exactly these.
- A slots statement says which slots of a model the registry protects: an alias it does not protect
  needs no promotion statement.
- Both are signed with the registry's key and checked with the keys trusted for audit.
- `verify_promotion` and `protected_slots` give what was signed or raise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Literal, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from mlflow_agent_plugin.errors import EvidenceError
from mlflow_agent_plugin.trust.evidence.envelope import from_digest, seal, to_digest, unseal
from mlflow_agent_plugin.trust.evidence.format import STATEMENT_TYPE, Digest
from mlflow_agent_plugin.trust.keys import SigningKey

PROMOTION_TYPE = "urn:mlflow-agent-plugin:promotion:v1"
SLOTS_TYPE = "urn:mlflow-agent-plugin:slots:v1"


@dataclass(frozen=True)
class Promotion:
    """What a registry says a slot points to.

    Attributes:
        name: Registered model.
        slot: Stage, or alias written ``@champion``.
        kind: promoted, rolled_back or emergency.
        number: Which change of the slot this was, from 1.
        content_digest: ``sha256:…`` of the whole model folder.
        agent_digest: ``sha256:…`` of the bundle in it.
        actor: Who moved the slot; `verified` if that person had logged in.
    """

    workspace: str
    name: str
    slot: str
    version: int
    kind: str
    number: int
    content_digest: str
    agent_digest: str
    actor: str
    verified: bool
    at: datetime


def sign_promotion(promotion: Promotion, key: SigningKey) -> dict[str, Any]:
    """Return the signed statement of a promotion, JSON-ready.

    Raises:
        EvidenceError: A field makes no sense.
    """
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [
            {
                "name": promotion.name,
                "digest": to_digest(promotion.content_digest, "content_digest"),
            }
        ],
        "predicateType": PROMOTION_TYPE,
        "predicate": {
            "workspace": promotion.workspace,
            "slot": promotion.slot,
            "version": promotion.version,
            "kind": promotion.kind,
            "number": promotion.number,
            "agentDigest": to_digest(promotion.agent_digest, "agent_digest"),
            "actor": promotion.actor,
            "verified": promotion.verified,
            "at": promotion.at.astimezone(timezone.utc).isoformat(timespec="seconds"),
        },
    }
    _checked(_PromotionStatement, statement)
    return seal(statement, key)


def verify_promotion(
    envelope: Mapping[str, Any],
    trusted_keys: Mapping[str, Ed25519PublicKey],
    *,
    name: str | None = None,
    slot: str | None = None,
    version: int | None = None,
) -> Promotion:
    """Return what a promotion statement says, if a trusted key signed it.

    Args:
        envelope: DSSE envelope as read from JSON.
        trusted_keys: `KeyStore.trusted_keys` for `KeyPurpose.AUDIT`.
        name: The model it has to be about, if given.
        slot: The slot it has to be about, if given.
        version: The version it has to be about, if given.

    Raises:
        EvidenceError: It is malformed, unsigned, altered, signed by nobody trusted, or about
            something else.
    """
    found = _checked(_PromotionStatement, _open(envelope, trusted_keys))
    predicate = found.predicate
    promotion = Promotion(
        workspace=predicate.workspace,
        name=found.subject[0].name,
        slot=predicate.slot,
        version=predicate.version,
        kind=predicate.kind,
        number=predicate.number,
        content_digest=from_digest(found.subject[0].digest),
        agent_digest=from_digest(predicate.agentDigest),
        actor=predicate.actor,
        verified=predicate.verified,
        at=predicate.at,
    )
    for what, wanted in (("name", name), ("slot", slot), ("version", version)):
        said = getattr(promotion, what)
        if wanted is not None and said != wanted:
            raise EvidenceError(
                f"the promotion statement is about something else: {what} {said}, not {wanted}"
            )
    return promotion


def sign_slots(
    *,
    workspace: str,
    name: str,
    revision: int,
    rules_digest: str,
    protected: Iterable[str],
    key: SigningKey,
) -> dict[str, Any]:
    """Return the signed statement which slots of a model are protected, JSON-ready."""
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": to_digest(rules_digest, "rules_digest")}],
        "predicateType": SLOTS_TYPE,
        "predicate": {
            "workspace": workspace,
            "revision": revision,
            "protected": sorted(protected),
        },
    }
    _checked(_SlotsStatement, statement)
    return seal(statement, key)


def protected_slots(
    envelope: Mapping[str, Any], trusted_keys: Mapping[str, Ed25519PublicKey], *, name: str
) -> frozenset[str]:
    """Return which slots of model `name` a registry protects, if a trusted key signed it.

    Raises:
        EvidenceError: As `verify_promotion`.
    """
    found = _checked(_SlotsStatement, _open(envelope, trusted_keys))
    if found.subject[0].name != name:
        raise EvidenceError(f"the slots statement is about {found.subject[0].name}, not {name}")
    return frozenset(found.predicate.protected)


def _open(
    envelope: Mapping[str, Any], trusted_keys: Mapping[str, Ed25519PublicKey]
) -> dict[str, Any]:
    try:
        return unseal(envelope, trusted_keys)
    except EvidenceError as error:
        if "not trusted" not in error.problem:
            raise
        raise EvidenceError(
            error.problem,
            hint="If it is your registry's: `mlflow-agents key export` there, and here "
            "`mlflow-agents key trust FILE --for audit`.",
        ) from error


# --- the shape of the statements -----------------------------------------------------------------


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Subject(_Row):
    name: str = Field(min_length=1)
    digest: Digest


class _Statement(_Row):
    type_: Literal["https://in-toto.io/Statement/v1"] = Field(alias="_type")
    subject: list[_Subject] = Field(min_length=1, max_length=1)


class _PromotionPredicate(_Row):
    workspace: str
    slot: str = Field(min_length=1)
    version: int = Field(ge=1)
    kind: Literal["promoted", "rolled_back", "emergency"]
    number: int = Field(ge=1)
    agentDigest: Digest  # noqa: N815 - in-toto spells fields so
    actor: str
    verified: bool
    at: AwareDatetime


class _PromotionStatement(_Statement):
    predicateType: Literal["urn:mlflow-agent-plugin:promotion:v1"]  # noqa: N815
    predicate: _PromotionPredicate


class _SlotsPredicate(_Row):
    workspace: str
    revision: int = Field(ge=1)
    protected: list[str]


class _SlotsStatement(_Statement):
    predicateType: Literal["urn:mlflow-agent-plugin:slots:v1"]  # noqa: N815
    predicate: _SlotsPredicate


_Kind = TypeVar("_Kind", bound=_Statement)


def _checked(model: type[_Kind], statement: object) -> _Kind:
    try:
        return model.model_validate(statement)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "statement"
        raise EvidenceError(f"{field}: {first['msg']}", where="registry statement") from error
