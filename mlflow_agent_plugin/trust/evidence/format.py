"""The shape of a statement, field by field: what is not listed here is refused."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from mlflow_agent_plugin.errors import EvidenceError

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:mlflow-agent-plugin:evidence:v1"

_Hex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Digest(_Strict):
    """A digest as in-toto spells it: the algorithm is the key."""

    sha256: _Hex


class _Subject(_Strict):
    name: str = Field(min_length=1)
    digest: Digest


class _Suite(_Strict):
    name: str = Field(min_length=1)
    digest: Digest


class _Results(_Strict):
    cases: int = Field(ge=0)
    digest: Digest


class _Evaluator(_Strict):
    name: str
    version: str


class _Metric(BaseModel):
    # Not strict: canonical JSON spells the float 1.0 as 1.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    value: float
    low: float | None
    high: float | None
    n: int = Field(ge=0)
    kind: Literal["rate", "mean", "count"]
    successes: int | None


class _Predicate(_Strict):
    suite: _Suite
    results: _Results
    metrics: dict[str, _Metric]
    runId: str  # noqa: N815 - in-toto spells fields so
    evaluatedAt: str  # noqa: N815
    evaluator: _Evaluator


class Statement(_Strict):
    """An in-toto statement (v1) with the one predicate this project signs."""

    type_: Literal["https://in-toto.io/Statement/v1"] = Field(alias="_type")
    subject: list[_Subject] = Field(min_length=1, max_length=1)
    predicateType: Literal["urn:mlflow-agent-plugin:evidence:v1"]  # noqa: N815
    predicate: _Predicate


def validate_statement(statement: object) -> Statement:
    """Return `statement`, checked.

    Raises:
        EvidenceError: It is malformed; the error names the first bad field.
    """
    try:
        return Statement.model_validate(statement)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "statement"
        raise EvidenceError(f"{field}: {first['msg']}", where="evidence statement") from error
