"""Writes docs/reference/cli.md from the commands themselves.

    python -m mlflow_agent_plugin.interaction.cli.reference > docs/reference/cli.md

A test compares the page with what this module says.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator

import click

from mlflow_agent_plugin.interaction.cli import main
from mlflow_agent_plugin.interaction.cli.group import PROGRAM

_HEAD = f"""\
# The command line

`{PROGRAM}` does from a terminal what the Python API does in a notebook. This page is written from
the commands by `python -m mlflow_agent_plugin.interaction.cli.reference`.

- **Which MLflow?** `MLFLOW_TRACKING_URI` and `MLFLOW_REGISTRY_URI`, as everywhere in MLflow. A
  registry with a gate has a URI that starts with `agents+`, or is a server started with one.
- **`--json`** prints one JSON document on standard output and nothing else, errors included:
  `{{"error": {{"type": …, "code": …, "message": …}}}}`.
- **Exit codes**: 0 done; 1 refused, failed, or the answer is "no" (a gate that does not pass, a
  drift, a broken audit); 2 wrong usage.
- **Errors** are one message on standard error. A traceback is a defect of this package: please
  report it.
- **Tables** fit the terminal; a narrow one gets a record per row. Piped, each row is one line.
- **Completion**: `eval "$(_MLFLOW_AGENTS_COMPLETE=bash_source {PROGRAM})"` in `~/.bashrc`
  (`zsh_source` in `~/.zshrc`, `fish_source` for fish).

"""


def render() -> str:
    """Return the page."""
    parts = [_HEAD]
    for heading, names in main.sections.items():
        parts.append(f"## {heading}\n\n")
        for name in names:
            parts.extend(_entry(main.commands[name], (PROGRAM, name)))
    return "".join(parts).rstrip("\n") + "\n"


def _entry(command: click.Command, path: tuple[str, ...]) -> Iterator[str]:
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            yield from _entry(below, (*path, name))
        return
    arguments = [
        parameter.make_metavar(click.Context(command))
        for parameter in command.params
        if isinstance(parameter, click.Argument)
    ]
    yield f"### {' '.join(path[1:])}\n\n"
    yield f"`{' '.join([*path, *arguments])}`\n\n"
    yield f"{inspect.cleandoc(command.help or '')}\n\n"
    rows = [_option(item) for item in command.params if isinstance(item, click.Option)]
    rows = [row for row in rows if not row.startswith("| `--json`")]
    if rows:
        yield "| option | meaning |\n|---|---|\n"
        yield "\n".join(rows) + "\n\n"


def _option(option: click.Option) -> str:
    names = "`, `".join([*option.opts, *option.secondary_opts])
    value = ""
    if not option.is_flag:
        metavar = option.make_metavar(click.Context(main))
        value = " N" if metavar.startswith(("INTEGER", "FLOAT")) else f" {metavar}"
    text = option.help or ""
    notes = []
    if option.required:
        notes.append("required")
    if option.show_default and option.default is not None:
        notes.append(f"default: `{option.default}`")
    joined = " ".join([text, *([f"({'; '.join(notes)})"] if notes else [])]).strip()
    shown = f"`{names}{value}`".replace("|", "\\|")
    return f"| {shown} | {joined.replace('|', chr(92) + '|')} |"


if __name__ == "__main__":
    sys.stdout.write(render())
