"""The command line, `mlflow-agents`.

Rules:
- Each command does one thing of the Python API; nothing can be done here that cannot be done there.
- Exit codes: 0 done; 1 refused, failed, or the answer is "no"; 2 wrong usage.
- `--json` prints one JSON document on standard output and nothing else, errors included.
- Heavy libraries load inside the commands: `mlflow-agents --help` answers at once.
"""

from __future__ import annotations

import click

from mlflow_agent_plugin import __version__
from mlflow_agent_plugin.interaction.cli import (
    approve,
    audit,
    author,
    feedback,
    mcp,
    notices,
    review,
    rollout,
    safety,
    serve,
    server,
    setup,
    stress,
    switches,
    telemetry,
    watch,
)
from mlflow_agent_plugin.interaction.cli.group import PROGRAM, AgentGroup


@click.group(
    PROGRAM,
    cls=AgentGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name=PROGRAM)
def main() -> None:
    """Log, evaluate, promote, serve, watch and roll back agents on MLflow.

    Every command takes --json. Exit codes: 0 done, 1 refused or failed, 2 wrong usage.
    """


SECTIONS = {
    "Author": author.COMMANDS,
    "Measure and watch": (*watch.COMMANDS, *safety.COMMANDS, *stress.COMMANDS, *feedback.COMMANDS),
    "Review": review.COMMANDS,
    "Running agents": (*approve.COMMANDS, *notices.COMMANDS, *audit.COMMANDS, *switches.COMMANDS),
    "Telemetry": telemetry.COMMANDS,
    "Server": (*server.COMMANDS, *serve.COMMANDS, *rollout.COMMANDS, *mcp.COMMANDS),
    "Set up": setup.COMMANDS,
}
"""Heading in the help, and in the reference, to the commands below it."""

for commands in SECTIONS.values():
    for command in commands:
        main.add_command(command)
main.sections = {
    heading: [str(command.name) for command in commands] for heading, commands in SECTIONS.items()
}
