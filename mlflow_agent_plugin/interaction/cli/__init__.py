"""The command line, `mlflow-agents`.

Rules:
- Each command does one call of the Python API; nothing can be done here that cannot be done there.
- Exit codes: 0 done; 1 refused or failed, with one line on standard error; 2 wrong usage.
- `--json` prints one JSON document on standard output and nothing else, errors included.
- Heavy libraries load inside the commands: `mlflow-agents --help` answers at once.
"""

from __future__ import annotations

import click

from mlflow_agent_plugin import __version__
from mlflow_agent_plugin.interaction.cli import bundle, lifecycle, registry, trust
from mlflow_agent_plugin.interaction.cli.output import AgentGroup


@click.group(cls=AgentGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mlflow-agents")
def main() -> None:
    """Log, evaluate, promote, serve, watch and roll back agents on MLflow."""


for module in (bundle, registry, trust, lifecycle):
    for command in module.COMMANDS:
        main.add_command(command)
