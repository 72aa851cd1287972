"""The committed JSON Schemas and the reference say what the formats are."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator
from pydantic import BaseModel

from mlflow_agent_plugin.package.schemas import SCHEMAS, schema_text, write_schemas

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_the_committed_schema_is_up_to_date(name):
    assert (REFERENCE / "schemas" / name).read_text("utf-8") == schema_text(SCHEMAS[name]), (
        "run: python -m mlflow_agent_plugin.package.schemas docs/reference/schemas"
    )


def test_writing_creates_the_folder_and_every_file(tmp_path):
    write_schemas(tmp_path / "new")
    assert {path.name for path in (tmp_path / "new").iterdir()} == set(SCHEMAS)


@pytest.mark.parametrize(
    ("name", "path"),
    [("agent.schema.json", "agent.yaml"), ("tool-contract.schema.json", "contracts/refund.yaml")],
)
def test_a_good_file_fits_its_schema(files, name, path):
    schema = SCHEMAS[name].model_json_schema(by_alias=True)
    Draft202012Validator.check_schema(schema)
    assert Draft202012Validator(schema).is_valid(yaml.safe_load(files[path]))


def _fields(model: type[BaseModel]) -> set[str]:
    definitions = model.model_json_schema(by_alias=True)
    sections = [definitions, *definitions.get("$defs", {}).values()]
    return {name for section in sections for name in section.get("properties", {})}


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_every_field_is_in_the_reference(name):
    text = (REFERENCE / "agent-yaml.md").read_text("utf-8")
    missing = {field for field in _fields(SCHEMAS[name]) if f"`{field}`" not in text}
    assert not missing
