"""A job an agent proposed: ``python -m mlflow_agent_plugin.lifecycle retrain|evaluate JSON``.

Started by `proposals.start_process`; people use ``mlflow-agents retrain`` and ``evaluate``.
"""

from __future__ import annotations

import json
import sys

import click

from mlflow_agent_plugin.errors import AgentError
from mlflow_agent_plugin.lifecycle.proposals import run_job


def main() -> int:
    """Do the job the arguments name; return the exit code."""
    try:
        job, text = sys.argv[1:]
        arguments = json.loads(text)
    except ValueError:
        click.echo(__doc__, err=True)
        return 2
    try:
        click.echo(run_job(job, arguments))
    except AgentError as error:
        click.echo(f"error: {error}", err=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
