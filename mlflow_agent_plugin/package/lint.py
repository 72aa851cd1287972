"""What can be said about a bundle's Python code without running it.

Rules:
- Every ``.py`` file parses.
- The module of every entry point is a file of the bundle and defines the attribute at its top level
  (a star import or a module ``__getattr__`` leaves that open until import).
- A call ``prompts["name"].render(...)`` names a prompt of the manifest and, unless it unpacks
  ``**values``, passes every variable of it.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator, Mapping
from typing import Protocol

from mlflow_agent_plugin.errors import BundleError, GraphError, PromptError
from mlflow_agent_plugin.package.manifest import Manifest, module_files
from mlflow_agent_plugin.package.prompt import Prompt
from mlflow_agent_plugin.package.reading import YamlDocument
from mlflow_agent_plugin.package.yaml_values import Location


class Source(Protocol):
    """What is linted: the part of a bundle these checks need."""

    @property
    def manifest(self) -> Manifest:
        """What ``agent.yaml`` says."""

    @property
    def prompts(self) -> Mapping[str, Prompt]:
        """Prompts by name."""

    @property
    def locations(self) -> Mapping[str, object]:
        """All paths of the bundle."""

    def shown(self, path: str) -> str:
        """Return `path` as messages call it."""

    def read_text(self, path: str) -> str:
        """Return the text of a file."""


def check_code(source: Source, document: YamlDocument) -> None:
    """Apply the rules of this module.

    Raises:
        GraphError: The graph's entry point breaks one.
        PromptError: A prompt is rendered without one of its variables, or does not exist.
        BundleError: Any other file or entry point breaks one.
    """
    trees = {
        path: parse_python(source.read_text(path), shown=source.shown(path))
        for path in source.locations
        if path.endswith(".py")
    }
    for location, entry_point, error in _entry_points(source.manifest):
        _check_entry_point(entry_point, trees, document.where(*location), source, error)
    for path, tree in trees.items():
        for name, call in _rendered(tree):
            _check_render(source, name, call, f"{source.shown(path)}:{call.lineno}")


def parse_python(text: str, *, shown: str) -> ast.Module:
    """Parse Python source without running it.

    Raises:
        BundleError: It does not parse.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes are the author's linter's business
            return ast.parse(text)
    except SyntaxError as error:
        raise BundleError(
            f"is not valid Python: {error.msg}",
            where=f"{shown}:{error.lineno or 1}",
            hint="Correct the line.",
        ) from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise BundleError(
            f"is not valid Python: {error}", where=f"{shown}:1", hint="Correct the file."
        ) from None


def _entry_points(manifest: Manifest) -> Iterator[tuple[Location, str, type[BundleError]]]:
    yield ("graph", "entry_point"), manifest.graph.entry_point, GraphError
    for at, tool in enumerate(manifest.tools.python):
        yield ("tools", "python", at, "entry_point"), tool.entry_point, BundleError
    if manifest.tools.resources is not None:
        yield ("tools", "resources"), manifest.tools.resources, BundleError


def _check_entry_point(
    entry_point: str,
    trees: Mapping[str, ast.Module],
    where: str,
    source: Source,
    error: type[BundleError],
) -> None:
    module, package = module_files(entry_point)
    path = package if package in trees else module
    attribute = entry_point.partition(":")[2]
    if path not in trees:
        raise error(
            f"entry point {entry_point} needs the file {module}, which the bundle does not have",
            where=where,
            hint="Write the file or correct the entry point (module:attribute).",
        )
    names = set(_defined(trees[path].body))
    if attribute not in names and not names & {"*", "__getattr__"}:
        raise error(
            f"entry point {entry_point}: {path} defines no `{attribute}`",
            where=where,
            hint=f"Define it at the top level of {source.shown(path)}, or correct the name.",
        )


def _defined(body: list[ast.stmt]) -> Iterator[str]:
    """Yield the names a module's statements bind at its top level."""
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield statement.name
            continue
        if isinstance(statement, ast.Import | ast.ImportFrom):
            for alias in statement.names:
                yield alias.asname or alias.name.partition(".")[0]
            continue
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield node.name
            elif isinstance(node, ast.Import | ast.ImportFrom):
                for alias in node.names:
                    yield alias.asname or alias.name.partition(".")[0]


def _rendered(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    """Yield (prompt name, call) for each ``….prompts["name"].render(…)``."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "render"
            and isinstance(node.func.value, ast.Subscript)
            and isinstance(node.func.value.slice, ast.Constant)
            and isinstance(node.func.value.slice.value, str)
        ):
            owner = node.func.value.value
            called = getattr(owner, "attr", getattr(owner, "id", None))
            if called == "prompts":
                yield node.func.value.slice.value, node


def _check_render(source: Source, name: str, call: ast.Call, by: str) -> None:
    if name not in source.prompts:
        known = ", ".join(sorted(source.prompts)) or "none"
        raise PromptError(
            f"renders prompt `{name}`, which the manifest does not list",
            where=by,
            hint=f"Add it under prompts, or use one of: {known}.",
        )
    if all(keyword.arg is not None for keyword in call.keywords):
        provided = [keyword.arg for keyword in call.keywords if keyword.arg is not None]
        source.prompts[name].require(provided, by=by)
