"""JSON Schemas of suites, for editors and the reference.

``python -m mlflow_agent_plugin.development.schemas docs/reference/schemas`` writes them; a test
fails when the committed files are not what it would write.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel

from mlflow_agent_plugin.development.scenario import Scenario
from mlflow_agent_plugin.development.suite import SuiteFile
from mlflow_agent_plugin.package.schemas import schema_text

SCHEMAS: Mapping[str, type[BaseModel]] = {
    "scenario.schema.json": Scenario,
    "suite.schema.json": SuiteFile,
}
"""File name in docs/reference/schemas to the format it describes."""


def write_schemas(folder: Path) -> None:
    """Write every schema into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, model in SCHEMAS.items():
        (folder / name).write_text(schema_text(model), encoding="utf-8")


if __name__ == "__main__":
    write_schemas(Path(sys.argv[1]))
