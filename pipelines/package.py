"""Stage 4: the agent's bundle with the new planner in it, checked as if it were to be logged.

Rules:
- Everything but the planner comes from the agent's folder as it is; an old planner stays behind.
- The bundle takes the place of an earlier one only when it is in order.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from mlflow_agent_plugin.errors import PipelineError
from pipelines.stage import Params, stage, write_json
from pipelines.train import planner_dir

PLANNER = "planner"


def package(params: Params) -> str:
    """Put the trained planner into a copy of the agent's bundle."""
    from mlflow_agent_plugin.core import validate

    agent, out = Path(params.agent), params.bundle
    trained = Path(params.build) / PLANNER
    if not trained.is_dir():
        raise PipelineError("there is no trained planner", where=str(trained))
    place = planner_dir(agent).relative_to(agent)
    staging = out.with_name(f".{out.name}.new")
    shutil.rmtree(staging, ignore_errors=True)
    shutil.copytree(
        agent, staging, ignore=lambda folder, names: _left_out(agent / place, folder, names)
    )
    shutil.copytree(trained, staging / place)
    bundle = validate(staging)
    shutil.rmtree(out, ignore_errors=True)
    staging.replace(out)
    digest = bundle.digest
    write_json(
        Path(params.build) / "bundle.json",
        {"agent": bundle.manifest.name, "digest": digest.value, **digest.to_dict()},
    )
    return f"{bundle.manifest.name} {digest.value}"


def _left_out(planner: Path, folder: str, names: list[str]) -> set[str]:
    return {name for name in names if name == "__pycache__" or Path(folder) / name == planner}


main = stage(package)

if __name__ == "__main__":
    main()
