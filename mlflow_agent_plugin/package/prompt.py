"""Prompts: Jinja2 templates that cannot reach anything but their variables.

Rules:
- A template runs in Jinja2's sandbox, without includes, imports or inheritance.
- Every variable it mentions must be given when it is rendered, even on a branch that is not taken:
  a prompt never reaches a model with a hole in it. Give None for "nothing".
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.errors import PromptError

if TYPE_CHECKING:
    from jinja2 import Template
    from jinja2.sandbox import SandboxedEnvironment


class Prompt:
    """One prompt of an agent.

    Args:
        name: Name in the manifest.
        template: Jinja2 source.
        path: Where the source stands, as error messages say it.

    Attributes:
        variables: Names the template needs.

    Raises:
        PromptError: The template is empty, does not parse or loads other templates.
    """

    def __init__(self, name: str, template: str, *, path: str | None = None) -> None:
        from jinja2 import TemplateSyntaxError, nodes
        from jinja2.meta import find_undeclared_variables

        self.name = name
        self.template = template
        self.path = path or f"prompt {name}"
        if not template.strip():
            raise PromptError("the prompt is empty", where=self.path, hint="Write the prompt.")
        try:
            tree = _environment().parse(template)
            variables = find_undeclared_variables(tree)
        except (TemplateSyntaxError, RecursionError) as error:
            line = getattr(error, "lineno", 1)
            what = getattr(error, "message", None) or "nested too deeply"
            raise PromptError(
                f"is not a valid template: {what}",
                where=f"{self.path}:{line}",
                hint="See Jinja2's template syntax; write literal braces as {{ '{{' }}.",
            ) from None
        loads = (nodes.Include, nodes.Extends, nodes.Import, nodes.FromImport)
        for node in tree.find_all(loads):
            raise PromptError(
                "a prompt cannot load other templates",
                where=f"{self.path}:{node.lineno}",
                hint="Put the text here, or pass it as a variable.",
            )
        self.variables = frozenset(variables - set(_environment().globals))

    def require(self, provided: Iterable[str], *, by: str | None = None) -> None:
        """Check that `provided` names every variable of the template.

        Args:
            provided: Names that will be given to `render`.
            by: Who gives them, for the message.

        Raises:
            PromptError: A variable is missing; the message names its line.
        """
        missing = sorted(
            self.variables - set(provided), key=lambda name: (self._line_of(name), name)
        )
        if not missing:
            return
        names = ", ".join(f"`{name}`" for name in missing)
        source = "" if by is None else f" by {by}"
        raise PromptError(
            f"prompt `{self.name}` uses {names}, which {'is' if len(missing) == 1 else 'are'} "
            f"not provided{source}",
            where=f"{self.path}:{self._line_of(missing[0])}",
            hint=f"Pass {names} to render(), or take it out of the prompt.",
        )

    def render(self, **values: Any) -> str:
        """Fill in the template.

        Raises:
            PromptError: A variable is missing, or the template fails on the values.
        """
        self.require(values)
        try:
            return self._compiled.render(values)
        except Exception as error:
            raise PromptError(
                f"prompt `{self.name}` cannot be rendered: {error}",
                where=f"{self.path}:{self._failing_line(error)}",
                hint="Check the values given to render() against what the prompt does with them.",
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the source; the compiled template stays in its process."""
        return {name: value for name, value in vars(self).items() if name != "_compiled"}

    def __repr__(self) -> str:
        return f"Prompt({self.name!r}, variables={sorted(self.variables)})"

    @cached_property
    def _compiled(self) -> Template:
        from jinja2 import Template

        environment = _environment()
        code = environment.compile(self.template, name=self.name, filename=self.path)
        return Template.from_code(environment, code, environment.globals)

    def _line_of(self, variable: str) -> int:
        from jinja2 import nodes

        tree = _environment().parse(self.template)
        lines = [node.lineno for node in tree.find_all(nodes.Name) if node.name == variable]
        return min(lines, default=1)

    def _failing_line(self, error: BaseException) -> int:
        line, trace = 1, error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == self.path:
                line = trace.tb_lineno
            trace = trace.tb_next
        return line


@cache
def _environment() -> SandboxedEnvironment:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    return ImmutableSandboxedEnvironment(
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701 - the reader is a language model, not a browser
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
