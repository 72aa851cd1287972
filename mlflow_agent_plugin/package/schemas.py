"""JSON Schemas of the formats, for editors and the reference.

``python -m mlflow_agent_plugin.package.schemas docs/reference/schemas`` writes them; a test fails
when the committed files are not what it would write.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel

from mlflow_agent_plugin.package.contract import ToolContract
from mlflow_agent_plugin.package.manifest import Manifest

SCHEMAS: Mapping[str, type[BaseModel]] = {
    "agent.schema.json": Manifest,
    "tool-contract.schema.json": ToolContract,
}
"""File name in docs/reference/schemas to the format it describes."""


def schema_text(model: type[BaseModel]) -> str:
    """Return the JSON Schema of `model` as it stands in its file."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **model.model_json_schema(by_alias=True),
    }
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def write_schemas(folder: Path) -> None:
    """Write every schema into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, model in SCHEMAS.items():
        (folder / name).write_text(schema_text(model), encoding="utf-8")


if __name__ == "__main__":
    write_schemas(Path(sys.argv[1]))
