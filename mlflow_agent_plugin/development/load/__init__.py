"""Load tests against a served agent, with Locust as the engine, and signed evidence of them.

- `profile`: stages, messages, limits, from YAML.
- `generator`: the process that sends the requests (Locust); `retrying` and `answers` are its rules.
- `driver`: starts that process and reads what it measured.
- `recording`: run, artifacts and evidence in MLflow; `report`: plots and page.
"""

from __future__ import annotations

from mlflow_agent_plugin.development.load.driver import run_load
from mlflow_agent_plugin.development.load.profile import LoadProfile, load_profile
from mlflow_agent_plugin.development.load.recording import LoadResult

__all__ = ["LoadProfile", "LoadResult", "load_profile", "run_load"]
