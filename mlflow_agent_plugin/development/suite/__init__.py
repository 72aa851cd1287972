"""A suite: scenarios with a name and a digest, read from files and checked against an agent.

Rules:
- A suite is a YAML file, a JSONL file, or a folder with ``suite.yaml``. A suite file lists
  scenarios itself, names further files (`files`, YAML or JSONL, relative to it), or both.
- A JSONL file holds one scenario a line; its first line may be the fields of a suite file (it has
  ``apiVersion``), otherwise the suite is called as the file is. For thousands of scenarios it is
  the better format: it is read line by line.
- ``defaults`` of the suite file fill what a scenario leaves out; ``world`` is merged key by key.
- An empty suite and two scenarios of one id are errors; every error names file, line and field.
- The digest covers what the scenarios say, after defaults, not how the files spell it: splitting a
  file or reordering it keeps the digest, any other change does not.
"""

from __future__ import annotations

from mlflow_agent_plugin.development.suite.checks import check_suite
from mlflow_agent_plugin.development.suite.files import load_suite, write_scenarios, write_suite
from mlflow_agent_plugin.development.suite.format import (
    DEFAULT_NOW,
    SUITE_FILE,
    Suite,
    SuiteFile,
)

__all__ = [
    "DEFAULT_NOW",
    "SUITE_FILE",
    "Suite",
    "SuiteFile",
    "check_suite",
    "load_suite",
    "write_scenarios",
    "write_suite",
]
