"""What every command does: help, JSON, exit codes, defects, width of the screen."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from mlflow_agent_plugin.errors import AgentError
from mlflow_agent_plugin.interaction.cli import main
from mlflow_agent_plugin.interaction.cli.answer import (
    Answer,
    Table,
    plain,
    print_answer,
    print_json,
    printable,
)
from mlflow_agent_plugin.interaction.cli.group import AgentGroup, answers

LIGHT = {"click", "mlflow_agent_plugin", "typing_extensions"}


def commands(group=main, path=()):
    """Yield every command with its words."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


EVERY = dict(commands())


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_every_command_has_help_takes_json_and_explains_its_options(words):
    command = EVERY[words]
    assert command.get_short_help_str(200).rstrip(".")
    assert any("--json" in parameter.opts for parameter in command.params)
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.opts
    result = CliRunner().invoke(main, [*words, "--help"])
    assert result.exit_code == 0
    assert len(max(result.stdout.splitlines(), key=len)) <= 100


def test_the_overview_lists_every_command_under_one_heading_with_whole_sentences():
    overview = CliRunner().invoke(main, ["--help"], terminal_width=80).stdout
    listed = [name for names in main.sections.values() for name in names]
    assert sorted(listed) == sorted(main.commands)
    for name in listed:
        assert f"\n  {name} " in overview
    assert not [line for line in overview.splitlines()[1:] if line.endswith("...")]


@pytest.mark.parametrize("words", [["--help"], ["gate", "--help"], ["--version"]], ids=" ".join)
def test_help_answers_at_once_without_mlflow(words):
    """Without a library beside click: what it does not load takes no time."""
    script = (
        "import json, sys\n"
        "bare = {name.partition('.')[0] for name in sys.modules}\n"
        "from mlflow_agent_plugin.interaction.cli import main\n"
        f"main({words!r}, standalone_mode=False)\n"
        "names = {name.partition('.')[0] for name in sys.modules} - bare\n"
        "print(json.dumps(sorted(names)))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    names = json.loads(ended.stdout.splitlines()[-1])
    assert {*names} - {*sys.stdlib_module_names} <= LIGHT


def test_without_a_command_the_overview_is_shown():
    assert "Commands" not in CliRunner().invoke(main, []).output
    assert "Review:" in CliRunner().invoke(main, []).output


@pytest.mark.parametrize("words", [["nonsense"], ["gate"], ["audit", "nonsense"], ["--nonsense"]])
def test_wrong_usage_is_exit_code_2_and_with_json_a_document(words):
    said = CliRunner().invoke(main, words)
    assert (said.exit_code, said.stdout) == (2, "")
    assert "Error: " in said.stderr
    document = CliRunner().invoke(main, [*words, "--json"])
    assert (document.exit_code, document.stderr) == (2, "")
    assert json.loads(document.stdout)["error"]["code"] == "INVALID_USAGE"


def group(function):
    """Return a command line with `function` as the command two groups down."""

    @click.group("top", cls=AgentGroup)
    def top():
        """Top."""

    @top.group("middle")
    def middle():
        """Middle."""

    middle.command("do")(answers(function))
    return top


def test_an_error_of_ours_comes_out_of_nested_groups_as_one_line_and_exit_code_1():
    def fail():
        raise AgentError("it broke", where="here", hint="Mend it.")

    said = CliRunner().invoke(group(fail), ["middle", "do"])
    assert (said.exit_code, said.stdout) == (1, "")
    assert said.stderr == "mlflow-agents: here: it broke. Mend it.\n"
    document = CliRunner().invoke(group(fail), ["middle", "do", "--json"])
    assert (document.exit_code, document.stderr) == (1, "")
    assert json.loads(document.stdout)["error"] == {
        "type": "AgentError",
        "code": "INTERNAL_ERROR",
        "message": "here: it broke. Mend it.",
        "problem": "it broke",
        "where": "here",
        "hint": "Mend it.",
    }


def test_a_defect_keeps_its_traceback_and_is_still_one_json_document():
    def defect():
        return {}["nothing"]

    for words in (["middle", "do"], ["middle", "do", "--json"]):
        said = CliRunner().invoke(group(defect), words)
        assert isinstance(said.exception, KeyError)
        assert said.exit_code == 1
    assert json.loads(said.stdout)["error"]["type"] == "KeyError"


def test_an_error_of_mlflow_or_a_database_is_one_message_without_statements():
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import OperationalError

    def mlflow_error():
        raise MlflowException("no such model\n[SQL: SELECT secret]\n[parameters: ('hash',)]")

    said = CliRunner().invoke(group(mlflow_error), ["middle", "do"])
    assert (said.exit_code, said.stderr) == (1, "mlflow-agents: no such model\n")

    def database_error():
        raise OperationalError("SELECT secret", {"password": "hash"}, OSError("disk is full"))

    said = CliRunner().invoke(group(database_error), ["middle", "do"])
    assert said.exit_code == 1
    assert "disk is full" in said.stderr
    assert "secret" not in said.stderr


def test_a_disk_or_network_error_is_one_line():
    def full():
        raise OSError(28, "No space left on device", "results.jsonl")

    said = CliRunner().invoke(group(full), ["middle", "do"])
    assert said.exit_code == 1
    assert said.stderr.count("\n") == 1
    assert "No space left on device" in said.stderr


def test_with_json_what_libraries_and_child_processes_print_stays_off_standard_output():
    script = (
        "import click, subprocess, sys\n"
        "from mlflow_agent_plugin.interaction.cli.answer import Answer\n"
        "from mlflow_agent_plugin.interaction.cli.group import AgentGroup, answers\n"
        "@click.group(cls=AgentGroup)\n"
        "def top(): pass\n"
        "@top.command()\n"
        "@answers\n"
        "def noisy():\n"
        "    print('a library')\n"
        "    subprocess.run(['echo', 'a child'], check=True)\n"
        "    return Answer({'fine': True}, ('fine',), failed=True)\n"
        "top()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, "noisy", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert json.loads(ended.stdout) == {"fine": True}
    assert {"a library", "a child"} <= {*ended.stderr.splitlines()}


def test_settings_and_log_levels_are_as_before_after_a_command(monkeypatch):
    import logging
    import os
    import warnings

    logging.getLogger("mlflow").setLevel(logging.INFO)
    before = (dict(os.environ), list(warnings.filters))
    CliRunner().invoke(group(lambda: Answer({})), ["middle", "do"])
    assert (dict(os.environ), list(warnings.filters)) == before
    assert logging.getLogger("mlflow").level == logging.INFO


# --- what is printed -----------------------------------------------------------------------------


@pytest.fixture
def screen(monkeypatch):
    """Return a function that prints an answer on a terminal of a width."""

    def show(answer, width):
        stream = io.StringIO()
        stream.isatty = lambda: True
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setenv("NO_COLOR", "1")
        monkeypatch.setattr(sys, "stdout", stream)
        print_answer(answer, as_json=False)
        return click.unstyle(stream.getvalue())

    return show


ROWS = Answer(
    None,
    (
        Table(
            "requirements",
            ("status", "requirement", "found", "what to do"),
            [
                ("met", "policy tests: all pass", "3 passed", ""),
                ("unmet", "approvals: 1 by role reviewer, not the author", "0 of 1", "Ask one."),
            ],
        ),
    ),
)


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_a_table_fits_every_screen_and_loses_no_word(screen, width):
    shown = screen(ROWS, width)
    assert max(map(len, shown.splitlines())) <= width
    wanted = "approvals: 1 by role reviewer, not the author unmet 0 of"
    assert set(wanted.split()) <= set(shown.split())


def test_where_a_table_does_not_fit_each_row_becomes_a_record(screen):
    assert "requirement: policy tests: all pass" in screen(ROWS, 40)
    assert "requirement: " not in screen(ROWS, 200)


def test_off_a_terminal_each_row_is_one_line(capsys):
    long = "x" * 500
    print_answer(Answer(None, (Table("t", ("a", "b"), [(long, "1"), ("y", "2")]),)), as_json=False)
    out = capsys.readouterr().out
    assert f"{long}  1" in out
    assert "\x1b" not in out
    assert not [line for line in out.splitlines() if line != line.rstrip()]


def test_markup_and_control_characters_are_shown_not_obeyed(capsys):
    table = Table("t", ("a",), [("[bold red]x[/]",), ("a\x1b[31mb",), ("line\r\x08over",)])
    print_answer(Answer(None, (table, "said\x07")), as_json=False)
    out = capsys.readouterr().out
    assert "[bold red]x[/]" in out
    assert "a\\x1b[31mb" in out
    assert "line\\r\\x08over" in out
    assert "said\\x07" in out


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ü 日本\n\ttab", "plain ü 日本\n\ttab"),
        ("\u202ereversed", "\\u202ereversed"),
        ("zero\u200bwidth", "zero\\u200bwidth"),
        ("\ud800", "\\ud800"),
        ("no\u00a0break", "no\\xa0break"),
    ],
)
def test_printable_writes_out_what_a_terminal_would_hide(text, shown):
    assert printable(text) == shown


def test_json_has_only_json_in_it(capsys):
    from datetime import datetime, timezone
    from enum import Enum
    from pathlib import Path

    class Colour(Enum):
        RED = "red"

    value = {
        1: float("nan"),
        "inf": float("-inf"),
        "tuple": (1, None, True),
        "set": {"a"},
        "when": datetime(2026, 1, 2, tzinfo=timezone.utc),
        "path": Path("a"),
        "colour": Colour.RED,
        "lone": "\ud800",
    }
    assert plain(value)["1"] is None
    print_json(value)
    assert json.loads(capsys.readouterr().out)["inf"] is None


def test_json_survives_a_stream_that_knows_only_ascii(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    print_json({"name": "Zoë"})
    stream.flush()
    assert json.loads(stream.buffer.getvalue()) == {"name": "Zoë"}


def test_completion_offers_commands_and_options():
    from click.shell_completion import ShellComplete

    complete = ShellComplete(main, {}, "mlflow-agents", "_MLFLOW_AGENTS_COMPLETE")
    assert {"gate"} == {item.value for item in complete.get_completions([], "gat")}
    assert "--to" in {item.value for item in complete.get_completions(["gate"], "--")}
    assert {"approve"} <= {item.value for item in complete.get_completions(["approvals"], "a")}
