"""How every command behaves: errors, exit codes, `--json`, and quiet libraries.

Rules:
- Exit codes: 0 done; 1 refused or failed; 2 wrong usage.
- An error people can do something about is one message on standard error (with ``--json`` a
  document on standard output). Anything else is a defect: its traceback is shown, never swallowed.
- While a command runs with ``--json``, what libraries and child processes print goes to standard
  error.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import click

from mlflow_agent_plugin.errors import AgentError
from mlflow_agent_plugin.interaction.cli.answer import (
    Answer,
    print_answer,
    print_json,
    printable,
)

Command = TypeVar("Command", bound=Callable[..., Any])

PROGRAM = "mlflow-agents"
JSON_FLAG = "--json"


class AgentGroup(click.Group):
    """The top-level group; it reports the errors of all commands below it.

    Attributes:
        sections: Heading to the names of the commands below it, for the help.
    """

    sections: Mapping[str, Sequence[str]] = {}

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,  # noqa: FBT001, FBT002 - click's signature
        windows_expand_args: bool = True,  # noqa: FBT001, FBT002
        **extra: Any,
    ) -> Any:
        """Run the command line and end the process."""
        words = list(sys.argv[1:] if args is None else args)

        def run() -> Any:
            return super(AgentGroup, self).main(
                words,
                prog_name,
                complete_var,
                standalone_mode=False,
                windows_expand_args=windows_expand_args,
                **extra,
            )

        if not standalone_mode:
            return run()
        try:
            code = run()
        except Exception as error:
            _report(error, as_json=_wants_json(words))
        sys.exit(code if isinstance(code, int) else 0)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands by section; a sentence that does not fit goes on in the next line."""
        if not self.sections:
            super().format_commands(ctx, formatter)
            return
        width = max(len(name) for name in self.commands)
        for heading, names in self.sections.items():
            rows = [
                (name.ljust(width), self.commands[name].get_short_help_str(200)) for name in names
            ]
            with formatter.section(heading):
                formatter.write_dl(rows)


def answers(function: Command) -> Command:
    """Make a command of a function that returns an `Answer`: adds ``--json`` and exit code 1."""

    @click.option(JSON_FLAG, "as_json", is_flag=True, help="Print one JSON document.")
    @functools.wraps(function)
    def run(*args: Any, as_json: bool, **kwargs: Any) -> None:
        with _quiet_libraries(), _stdout_to_stderr() if as_json else contextlib.nullcontext():
            answer: Answer = function(*args, **kwargs)
        print_answer(answer, as_json=as_json)
        if answer.failed:
            raise click.exceptions.Exit(1)

    return run  # type: ignore[return-value]


def wants_json() -> bool:
    """Return True while a command runs with ``--json``."""
    context = click.get_current_context(silent=True)
    return bool(context is not None and context.params.get("as_json"))


_NO_ANSWER = re.compile(
    r"API request to (https?://[^/\s]+)\S* failed with exception .*retries exceeded"
)
_STATEMENT = ("[SQL:", "[parameters:", "(Background on this error at:")


# --- errors --------------------------------------------------------------------------------------


def _wants_json(words: Sequence[str]) -> bool:
    # Parsing may be what failed, so the words are all there is to go by.
    before = words[: words.index("--")] if "--" in words else words
    return JSON_FLAG in before


def _report(error: Exception, *, as_json: bool) -> NoReturn:
    if isinstance(error, click.Abort):
        click.echo("aborted", err=True)
        sys.exit(1)
    code = error.exit_code if isinstance(error, click.ClickException) else 1
    if as_json:
        print_json({"error": _document(error)})
    if not _is_expected(error):
        raise error
    if not as_json and isinstance(error, click.ClickException):
        error.show()
    elif not as_json:
        click.echo(f"{PROGRAM}: {printable(_message(error))}", err=True)
    sys.exit(code)


def _document(error: Exception) -> dict[str, Any]:
    if isinstance(error, click.ClickException):
        return {
            "type": type(error).__name__,
            "code": "INVALID_USAGE",
            "message": error.format_message(),
        }
    code = getattr(error, "error_code", "INTERNAL_ERROR")
    found: dict[str, Any] = {
        "type": type(error).__name__,
        "code": str(code),
        "message": _message(error),
    }
    if isinstance(error, AgentError):
        found |= {"problem": error.problem, "where": error.where, "hint": error.hint}
    return found


def _message(error: Exception) -> str:
    # SQLAlchemy's messages, which MLflow repeats, hold the statement and its values.
    lines = [line for line in str(error).strip().splitlines() if not line.startswith(_STATEMENT)]
    unreachable = _NO_ANSWER.match(lines[0]) if lines else None
    if unreachable is not None:
        return f"{unreachable[1]} does not answer. Check the address and that the server runs."
    if _is_database(error):
        lines = [f"the database cannot be used: {lines[0] if lines else ''}"]
    return "\n".join(lines) or type(error).__name__


def _is_expected(error: Exception) -> bool:
    return (
        isinstance(error, (AgentError, click.ClickException, OSError))
        or _is_a(error, "mlflow.exceptions", "MlflowException")
        or _is_a(error, "botocore.exceptions", "BotoCoreError")
        or _is_a(error, "botocore.exceptions", "ClientError")
        or _is_database(error)
    )


def _is_database(error: Exception) -> bool:
    return _is_a(error, "sqlalchemy.exc", "SQLAlchemyError")


def _is_a(error: Exception, module: str, name: str) -> bool:
    # Without importing the library: if the error is one of its own, it is loaded already.
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(error, getattr(loaded, name))


# --- libraries -----------------------------------------------------------------------------------

_DEFAULTS = {
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    # A mistyped server address answers in seconds, not after MLflow's minutes of retries.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}


@contextlib.contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Keep chatter of libraries out of what the command prints; the user's own settings win."""
    import logging
    import warnings

    added = [name for name in _DEFAULTS if name not in os.environ]
    os.environ.update({name: _DEFAULTS[name] for name in added})
    loggers = {name: logging.getLogger(name) for name in ("mlflow", "alembic")}
    levels = {name: logger.level for name, logger in loggers.items()}
    for logger in loggers.values():
        logger.setLevel(os.environ["MLFLOW_LOGGING_LEVEL"])
    try:
        with warnings.catch_warnings():
            for kind in (FutureWarning, DeprecationWarning, UserWarning):
                warnings.simplefilter("ignore", kind)
            yield
    finally:
        for name, logger in loggers.items():
            logger.setLevel(levels[name])
        for name in added:
            os.environ.pop(name, None)


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        if sys.stdout is sys.__stdout__ and sys.stdout is not None:
            # Child processes inherit the descriptor, not `sys.stdout`.
            sys.stdout.flush()
            kept = os.dup(1)
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, 1)
            os.dup2(2, 1)
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield
