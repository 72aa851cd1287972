"""How commands answer: a table for people, JSON for machines, one line for errors."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import click

from mlflow_agent_plugin.errors import AgentError

Command = TypeVar("Command", bound=Callable[..., Any])


class AgentGroup(click.Group):
    """A group whose commands report the package's and MLflow's errors in one line."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an `AgentError` or `MlflowException` ends the process with 1."""
        try:
            return super().invoke(ctx)
        except AgentError as error:
            _fail(str(error), type(error).__name__, error.error_code)
        except (click.exceptions.Exit, click.ClickException, click.Abort):
            raise
        except Exception as error:
            if not _is_mlflow(error):
                raise
            _fail(str(error), type(error).__name__, str(getattr(error, "error_code", "")))


def _is_mlflow(error: Exception) -> bool:
    # Without importing mlflow: if the error is one of its own, it is loaded already.
    loaded = sys.modules.get("mlflow.exceptions")
    return loaded is not None and isinstance(error, loaded.MlflowException)


def _fail(message: str, kind: str, code: str) -> None:
    if "--json" in sys.argv:
        click.echo(json.dumps({"error": {"type": kind, "code": code, "message": message}}))
    else:
        click.echo(f"mlflow-agents: {message}", err=True)
    raise click.exceptions.Exit(1)


def json_option(function: Command) -> Command:
    """Add ``--json`` as the keyword argument `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")(
        function
    )


def quiet_mlflow(function: Command) -> Command:
    """Keep MLflow's own chatter out of what the command prints."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        import logging
        import os
        import warnings

        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        warnings.filterwarnings("ignore", category=FutureWarning, module="mlflow")
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        return function(*args, **kwargs)

    return wrapped  # type: ignore[return-value]


def print_json(value: Any) -> None:
    """Print `value` as one JSON document."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table; an empty one says so."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, overflow="fold")
    count = 0
    for row in rows:
        # Text, not markup: what users and models wrote is shown, never interpreted.
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
        count += 1
    console = Console()
    if count:
        console.print(table)
    else:
        console.print(f"{title}: none")
