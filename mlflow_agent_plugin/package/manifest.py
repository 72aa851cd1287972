"""The manifest: what `agent.yaml` may say.

Rules:
- Unknown fields are errors, here and in every nested object.
- Paths are relative to the bundle, with forward slashes, and stay inside it.
- Every name is an identifier (letters, digits, underscore, hyphen), so that it can stand in a
  policy, a file name and a URL.
"""

from __future__ import annotations

import unicodedata
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from mlflow_agent_plugin.entities import Risk
from mlflow_agent_plugin.errors import ManifestError
from mlflow_agent_plugin.package.reading import YamlDocument, read_yaml, validate_document

API_VERSION = "mlflow-agents/v1"
MANIFEST_FILE = "agent.yaml"


def _inside(path: str) -> str:
    pure = PurePosixPath(unicodedata.normalize("NFC", path))
    if not pure.parts or "\\" in path or pure.is_absolute() or ".." in pure.parts:
        raise ValueError("must be a relative path inside the bundle, with forward slashes")
    if any(unicodedata.category(letter) in {"Cc", "Cs"} for letter in path):
        raise ValueError("must not hold control characters")
    return str(pure)


Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,127}$")]
BundlePath = Annotated[str, AfterValidator(_inside)]
EntryPoint = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*$")
]
"""``module:attribute``, the module being a Python file of the bundle."""


class StrictModel(BaseModel):
    """Base of every format: unknown fields are errors, values do not change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ServiceLevel(StrictModel):
    """What the workflow owner promises to users."""

    latency_p95_ms: float | None = Field(default=None, gt=0, description="95th percentile, ms")
    cost_per_task_usd: float | None = Field(default=None, ge=0)
    success_rate: float | None = Field(default=None, ge=0, le=1)


class EscalationRule(StrictModel):
    """When a human takes over, and through which tool."""

    when: Literal["low_confidence", "tool_failure", "user_asks", "policy_denied"]
    tool: Name = Field(description="Tool that hands the conversation over")


class Workflow(StrictModel):
    """What the agent is for and within which bounds."""

    goal: str = Field(min_length=1)
    acceptance_criteria: list[str] = Field(default_factory=list)
    allowed_tools: list[Name] | None = Field(
        default=None, description="None: every tool of the bundle"
    )
    forbidden_tools: list[Name] = Field(default_factory=list)
    sla: ServiceLevel = ServiceLevel()
    escalation: list[EscalationRule] = Field(default_factory=list)
    risk_level: Risk = Risk.MEDIUM
    data_classes: list[Name] = Field(default_factory=list)


class GraphSpec(StrictModel):
    """Where the graph comes from: ``build(context) -> StateGraph | CompiledStateGraph``."""

    entry_point: EntryPoint = "graph:build"
    settings: dict[str, Any] = Field(default_factory=dict)


class Budgets(StrictModel):
    """Limits of one turn; the turn ends with a clear error when one is reached."""

    max_steps: int = Field(default=12, ge=1, le=1000, description="Graph supersteps per turn")
    max_tool_calls: int = Field(default=16, ge=1, le=1000, description="Tool calls per turn")


class ModelSpec(StrictModel):
    """Which chat model plans.

    `provider` "local" is the embedded planner, whose files lie below `path`; "scripted" replays
    answers from ``settings.replies`` (tests); any other value goes to LangChain's `init_chat_model`
    with `name` and `settings` (e.g. provider "openai", settings {"base_url": …}).
    """

    provider: Name
    name: str = Field(min_length=1)
    path: BundlePath | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    fallbacks: list[ModelSpec] = Field(default_factory=list)
    budgets: Budgets = Budgets()


class PythonTool(StrictModel):
    """A Python function of the bundle as a tool: ``function(context, **arguments) -> dict``."""

    name: Name
    entry_point: EntryPoint


class ToolsSpec(StrictModel):
    """The agent's tools; each has a contract ``<contracts>/<name>.yaml``."""

    contracts: BundlePath = "contracts"
    python: list[PythonTool] = Field(default_factory=list)
    resources: EntryPoint | None = Field(
        default=None,
        description="``open(settings: dict) -> object``: what tools reach the world through; "
        "given to every tool as ``context.resources``",
    )
    resource_settings: dict[str, Any] = Field(default_factory=dict)


class PoliciesSpec(StrictModel):
    """Folder with permit.cedar, hard.cedar, approval.cedar and tests.yaml."""

    path: BundlePath = "policies"


class MemorySpec(StrictModel):
    """What the agent remembers: the last `window_turns` turns of a session, or nothing."""

    strategy: Literal["none", "window"] = "window"
    window_turns: int = Field(default=20, ge=1, le=1000)


class RetrievalSpec(StrictModel):
    """The knowledge base (Markdown files) and how it is searched."""

    path: BundlePath = "knowledge"
    chunk_chars: int = Field(
        default=800, ge=100, le=20_000, description="Longest chunk, in characters"
    )
    top_k: int = Field(default=3, ge=1, le=100)
    min_score: float = Field(default=0.05, ge=0, le=1, description="Cosine similarity floor")


class Manifest(StrictModel):
    """The whole of ``agent.yaml``."""

    api_version: Literal["mlflow-agents/v1"] = Field(alias="apiVersion")
    name: Name
    description: str = Field(min_length=1)
    owner: str = Field(min_length=1, description="Team or person who answers for the agent")
    workflow: Workflow
    graph: GraphSpec = GraphSpec()
    model: ModelSpec
    prompts: dict[Name, BundlePath] = Field(default_factory=dict)
    tools: ToolsSpec = ToolsSpec()
    policies: PoliciesSpec = PoliciesSpec()
    memory: MemorySpec = MemorySpec()
    retrieval: RetrievalSpec | None = None

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    @model_validator(mode="after")
    def _tools_are_consistent(self) -> Manifest:
        names = [tool.name for tool in self.tools.python]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"tools.python names {', '.join(twice)} more than once")
        known = set(names)
        groups = {
            "workflow.allowed_tools": self.workflow.allowed_tools or [],
            "workflow.forbidden_tools": self.workflow.forbidden_tools,
            "workflow.escalation": [rule.tool for rule in self.workflow.escalation],
        }
        for field, wanted in groups.items():
            missing = sorted(set(wanted) - known)
            if missing:
                raise ValueError(f"{field} names unknown tool {', '.join(missing)}")
        both = sorted(set(self.workflow.forbidden_tools) & set(self.workflow.allowed_tools or []))
        if both:
            raise ValueError(f"workflow both allows and forbids {', '.join(both)}")
        return self

    def usable_tools(self) -> list[str]:
        """Return the names of the tools the agent may call at all, in manifest order."""
        allowed = self.workflow.allowed_tools
        return [
            tool.name
            for tool in self.tools.python
            if (allowed is None or tool.name in allowed)
            and tool.name not in self.workflow.forbidden_tools
        ]


def read_manifest(root: str | Path) -> tuple[Manifest, YamlDocument]:
    """Read ``agent.yaml`` of the bundle at `root`; the document knows the line of each field.

    Raises:
        ManifestError: The file is missing, is not YAML or does not follow the format.
    """
    path = Path(root) / MANIFEST_FILE
    document = read_yaml(path, error=ManifestError)
    return validate_document(document, Manifest, error=ManifestError), document


def module_files(entry_point: str) -> tuple[str, str]:
    """Return the two files an entry point's module may be: ``a/b.py`` or ``a/b/__init__.py``."""
    stem = entry_point.partition(":")[0].replace(".", "/")
    return f"{stem}.py", f"{stem}/__init__.py"
