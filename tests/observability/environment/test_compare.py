"""Live tools against pinned contracts: what counts as a change, without any I/O."""

import pytest

from mlflow_agent_plugin.errors import DataError, DriftInputError
from mlflow_agent_plugin.observability.environment.compare import (
    LiveTool,
    compare_knowledge,
    compare_tool,
)
from mlflow_agent_plugin.observability.environment.schemas import operations_of, tool_of
from mlflow_agent_plugin.observability.environment.verdict import (
    EnvironmentPart,
    EnvironmentVerdict,
    PartKind,
    PartStatus,
)


def described(document):
    operation, shared = operations_of(document)["getAccount"]
    return tool_of("get_account", operation, shared, document)


def look(contract, document):
    return compare_tool(contract, described(document), source="here")


def account(document):
    return document["components"]["schemas"]["Account"]


def test_an_api_that_keeps_the_contract_is_the_same_whatever_its_words(contract, openapi):
    part = look(contract, openapi)
    assert (part.status, part.reasons, part.notes) == (PartStatus.SAME, (), ())


def require_more(document):
    operation = document["paths"]["/accounts/{account_id}"]["get"]
    operation["parameters"].append(
        {"name": "branch", "in": "query", "required": True, "schema": {"type": "string"}}
    )


def narrow(document):
    document["components"]["schemas"]["Currency"]["enum"] = ["EUR"]


def retype(document):
    account(document)["properties"]["balance_minor"] = {"type": "string"}


def nullable(document):
    account(document)["properties"]["balance_minor"] = {"type": "integer", "nullable": True}


def drop(document):
    del account(document)["properties"]["owner"]


def add_a_field(document):
    account(document)["properties"]["iban"] = {"type": "string"}


def add_a_field_below(document):
    document["components"]["schemas"]["Owner"]["properties"]["tax_id"] = {"type": "string"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (require_more, "`branch` is new and required"),
        (narrow, "`currency` no longer accepts 'USD'"),
        (retype, "`balance_minor` widened"),
        (nullable, "`balance_minor` widened"),
        (drop, "`owner` was removed"),
        (add_a_field, "`iban` is new, and the contract forbids"),
        (add_a_field_below, "`owner.tax_id` is new, and the contract forbids"),
    ],
)
def test_what_breaks_the_contract_is_a_change_and_named(contract, openapi, change, says):
    change(openapi)
    part = look(contract, openapi)
    assert part.status is PartStatus.CHANGED
    assert any(says in reason for reason in part.reasons), part.reasons


def test_a_further_optional_argument_changes_nothing_that_was_promised(contract, openapi):
    operation = openapi["paths"]["/accounts/{account_id}"]["get"]
    operation["parameters"].append(
        {"name": "verbose", "in": "query", "schema": {"type": "boolean"}}
    )
    part = look(contract, openapi)
    assert part.status is PartStatus.COMPATIBLE
    assert part.notes == ("it takes further arguments: verbose",)


def test_a_tool_its_server_no_longer_has_is_a_change(contract):
    part = compare_tool(contract, None, source="here")
    assert part.status is PartStatus.CHANGED
    assert part.line() == "tool get_account changed: the server no longer has this tool"


def test_an_output_nobody_describes_is_said_and_no_change(contract):
    part = compare_tool(contract, LiveTool("get_account", contract.input), source="here")
    assert part.status is PartStatus.SAME
    assert part.notes == ("the server does not say what it returns",)


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("https://elsewhere.example/a.json#/A", "another document"),
        ("#/components/schemas/Nobody", "not there"),
        ("#/components/schemas/Account", "refers to itself"),
    ],
)
def test_schemas_that_cannot_be_written_out_are_refused(openapi, reference, says):
    account(openapi)["properties"]["next"] = {"$ref": reference}
    with pytest.raises(DataError, match=says):
        described(openapi)


@pytest.mark.parametrize("document", [{}, {"swagger": "2.0"}, {"openapi": "3.1.0", "paths": []}])
def test_what_is_no_openapi_3_is_refused(document):
    with pytest.raises(DataError):
        operations_of(document)


def test_knowledge_is_what_its_files_hold():
    pinned = {"fees.md": "a", "limits.md": "b", "old.md": "c"}
    same = compare_knowledge(pinned, dict(pinned), name="k", source="here")
    assert same.status is PartStatus.SAME
    part = compare_knowledge(
        pinned, {"fees.md": "x", "limits.md": "b", "new.md": "d"}, name="k", source="here"
    )
    assert part.status is PartStatus.CHANGED
    assert part.reasons == (
        "1 of 3 files changed: fees.md",
        "1 of 3 files are gone: old.md",
        "1 files are new: new.md",
    )


def verdict(*statuses, unwatched=()):
    parts = tuple(
        EnvironmentPart(PartKind.TOOL, f"<t{n}>", status, "here", ("<why>",))
        for n, status in enumerate(statuses)
    )
    return EnvironmentVerdict("a", "sha256:" + "0" * 64, "2026-01-01T00:00:00", parts, unwatched)


@pytest.mark.parametrize(
    ("statuses", "changed"),
    [
        ((), None),
        ((PartStatus.SAME, PartStatus.COMPATIBLE), False),
        ((PartStatus.SAME, PartStatus.UNKNOWN), None),
        ((PartStatus.UNKNOWN, PartStatus.CHANGED), True),
    ],
)
def test_unknown_is_never_unchanged(statuses, changed):
    assert verdict(*statuses).changed is changed


def test_a_verdict_survives_json_and_is_escaped_in_a_notebook():
    made = verdict(PartStatus.CHANGED, unwatched=("<u>",))
    assert EnvironmentVerdict.from_dict(made.to_dict()) == made
    page = made._repr_html_()
    assert "<t0>" not in page
    assert "<u>" not in page
    assert "&lt;why&gt;" in page
    with pytest.raises(DriftInputError):
        EnvironmentVerdict.from_dict({"parts": [{}]})
