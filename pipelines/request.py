"""Stage 7: ask that the candidate be promoted. The answer is a reviewer's; nothing is promoted."""

from __future__ import annotations

from pathlib import Path

from mlflow_agent_plugin.lifecycle.fencing import check_leases
from pipelines.evaluate import summary
from pipelines.stage import Params, read_json, stage, write_json


def request(params: Params) -> str:
    """Open a promotion request for the candidate, with what was measured."""
    from mlflow_agent_plugin.registry import request_promotion

    check_leases()
    made = read_json(params.result("version"))
    found = read_json(params.result("evaluation"))
    reason = params.request.reason
    comment = f"{reason}. {summary(found)}" if reason else summary(found)
    request_promotion(made["name"], made["version"], to=params.register_.to, comment=comment)
    result = {**made, "to": params.register_.to, "comment": comment, "run_id": found["run_id"]}
    write_json(Path(params.build) / "request.json", result)
    return f"{made['name']} version {made['version']} waits for approval to {params.register_.to}"


main = stage(request)

if __name__ == "__main__":
    main()
