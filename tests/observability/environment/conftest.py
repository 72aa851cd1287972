"""A contract, and the OpenAPI document of the API that keeps it."""

import copy

import pytest

from mlflow_agent_plugin.package import ToolContract

CONTRACT = {
    "apiVersion": "mlflow-agents/v1",
    "name": "get_account",
    "version": "1.0.0",
    "description": "Show one account.",
    "effect": "read",
    "input": {
        "type": "object",
        "additionalProperties": False,
        "required": ["account_id"],
        "properties": {
            "account_id": {"type": "string", "maxLength": 20},
            "currency": {"type": "string", "enum": ["EUR", "USD"]},
        },
    },
    "output": {
        "type": "object",
        "additionalProperties": False,
        "required": ["balance_minor"],
        "properties": {
            "balance_minor": {"type": "integer"},
            "owner": {"type": "object", "additionalProperties": False,
                      "properties": {"name": {"type": "string"}}},
        },
    },
}  # fmt: skip

OPENAPI = {
    "openapi": "3.0.3",
    "info": {"title": "bank", "version": "1"},
    "paths": {
        "/accounts/{account_id}": {
            "parameters": [
                {"name": "account_id", "in": "path", "required": True,
                 "schema": {"type": "string", "maxLength": 20}},
            ],
            "get": {
                "operationId": "getAccount",
                "parameters": [
                    {"name": "currency", "in": "query", "schema": {"$ref": "#/components/schemas/Currency"}},
                    {"name": "X-Trace", "in": "header", "schema": {"type": "string"}},
                ],
                "responses": {"200": {"description": "ok", "content": {"application/json": {
                    "schema": {"$ref": "#/components/schemas/Account"}}}}},
            },
        }
    },
    "components": {"schemas": {
        "Currency": {"type": "string", "enum": ["EUR", "USD"], "description": "ISO 4217"},
        "Owner": {"type": "object", "additionalProperties": False,
                  "properties": {"name": {"type": "string"}}},
        "Account": {"type": "object", "additionalProperties": False, "required": ["balance_minor"],
                    "properties": {"balance_minor": {"type": "integer"},
                                   "owner": {"$ref": "#/components/schemas/Owner"}}},
    }},
}  # fmt: skip


@pytest.fixture
def contract():
    """What the agent pinned."""
    return ToolContract.model_validate(CONTRACT)


@pytest.fixture
def openapi():
    """A copy of the document, to change."""
    return copy.deepcopy(OPENAPI)
