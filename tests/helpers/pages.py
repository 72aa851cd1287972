"""Reads the examples of a documentation page, and runs them.

Rules:
- A fenced block in ``python`` is run as it stands. Comments right below a ``print`` promise what it
  prints.
- In a ``console`` block the lines that begin with ``$ `` are commands; one goes on while a quote is
  open or a line ends with a backslash.
- What stands below a command is compared with its standard output, or with its standard error if it
  fails; ``…`` and ``...`` stand for anything. A command with nothing below it has to succeed.
- A block is left out only if an HTML comment right before it says why: ``<!-- not run: needs a GPU -->``.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
LANGUAGES = ("python", "console")
NOT_RUN = re.compile(r"<!-- not run: (\S.*?) -->")
_FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One example of a page."""

    where: str
    language: str
    text: str
    reason: str | None

    @property
    def is_run(self) -> bool:
        return self.reason is None

    def commands(self) -> Iterator[tuple[str, str]]:
        """Yield each command of a console block with the output the page promises."""
        command: list[str] = []
        output: list[str] = []
        for line in self.text.splitlines():
            if command and not _is_whole("\n".join(command)):
                command.append(line)
            elif line.startswith("$ "):
                if command:
                    yield "\n".join(command), "\n".join(output)
                command, output = [line[2:]], []
            else:
                assert command, f"{self.where}: output before the first command"
                output.append(line)
        assert command, f"{self.where}: a console block without a command"
        yield "\n".join(command), "\n".join(output)


def _is_whole(command: str) -> bool:
    if command.endswith("\\"):
        return False
    try:
        shlex.split(command, comments=True)
    except ValueError:
        return False
    return True


def pages() -> list[Path]:
    """Return every page of the documentation."""
    return [
        ROOT / "README.md",
        ROOT / "agents" / "README.md",
        *sorted((ROOT / "docs").rglob("*.md")),
    ]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    """Return the examples of a page in order."""
    text = page.read_text("utf-8")
    found = []
    for match in _FENCE.finditer(text):
        if match[2] in LANGUAGES:
            before = text[: match.start()].rstrip().rsplit("\n", 1)[-1]
            reason = NOT_RUN.fullmatch(before)
            line = text.count("\n", 0, match.start()) + 1
            indent = match[1]
            body = re.sub(f"^{indent}", "", match[3], flags=re.MULTILINE)
            found.append(Block(f"{name_of(page)}:{line}", match[2], body, reason and reason[1]))
    return found


_PROMISE = re.compile(r"^# ?", re.MULTILINE)


def _promises(code: str) -> list[str]:
    return re.findall(r"^print\(.*\)\n((?:^#.*\n?)+)", code, re.MULTILINE)


@dataclass
class Reader:
    """Somebody who follows a page: commands and Python share a folder and an environment.

    Args:
        environment: Variables; ``export`` changes them.
        names: Names the page's Python begins with.
        replace: Texts of the page that stand for what differs every time.
    """

    environment: dict[str, str]
    names: dict = field(default_factory=dict)
    replace: dict[str, str] = field(default_factory=dict)
    output: str = ""

    def follow(self, block: Block) -> None:
        if block.language == "python":
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(compile(block.text, block.where, "exec"), self.names)
            promised = "\n".join(_PROMISE.sub("", each) for each in _promises(block.text))
            if promised:
                self.compare(promised, printed.getvalue(), block.where)
            return
        for command, promised in block.commands():
            code, printed = self.run(command)
            where = f"{block.where}: $ {command}"
            if promised.strip():
                self.compare(promised, printed, where)
            else:
                assert code == 0, f"{where}\nexit {code}\n{printed}"

    def run(self, command: str) -> tuple[int, str]:
        """Run a command; return its exit code and what it prints."""
        for text, value in self.replace.items():
            command = command.replace(text, value)
        if command.startswith("export "):
            for assignment in shlex.split(command)[1:]:
                name, _, value = assignment.partition("=")
                self.environment[name] = os.environ[name] = value
            return 0, ""
        code, printed = self.execute(self._filled(command))
        self.output += printed
        return code, printed

    def execute(self, command: str) -> tuple[int, str]:
        """Run a command as its reader's shell would."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{self.environment['PATH']}"
        ended = subprocess.run(
            ["bash", "-c", command],
            env={**self.environment, "PATH": path},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        return ended.returncode, ended.stderr if ended.returncode else ended.stdout

    def _filled(self, command: str) -> str:
        """Put what was printed last in place of ``apr-...`` and of ``eyJ...``."""
        for placeholder, pattern in (
            ("apr-...", r"apr-[0-9a-f]{32}"),
            ("eyJ...", r"eyJ[\w.-]{20,}"),
        ):
            if placeholder in command:
                command = command.replace(placeholder, re.findall(pattern, self.output)[-1])
        return command

    @staticmethod
    def compare(promised: str, printed: str, where: str) -> None:
        wanted = promised.replace("…", "...").strip() + "\n"
        flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        same = doctest.OutputChecker().check_output(wanted, printed.strip() + "\n", flags)
        assert same, f"{where}\npromised:\n{promised}\nprinted:\n{printed}"


class QuickReader(Reader):
    """Runs ``mlflow-agents`` in this process: MLflow is loaded once, not per command."""

    def execute(self, command: str) -> tuple[int, str]:
        from click.testing import CliRunner

        from mlflow_agent_plugin.interaction.cli import main

        words = shlex.split(command, comments=True)
        if words[0] != "mlflow-agents" or {">", "|", "&&", ";"} & {*words}:
            return super().execute(command)
        result = CliRunner().invoke(main, words[1:])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stderr if result.exit_code else result.stdout
