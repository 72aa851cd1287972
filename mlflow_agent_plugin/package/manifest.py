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

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints, model_validator

from mlflow_agent_plugin.entities import PrivacyAction, PrivacyPlace, Risk
from mlflow_agent_plugin.entities.sensitive import PRESIDIO_NAMES, DataClass
from mlflow_agent_plugin.errors import ManifestError
from mlflow_agent_plugin.package.mcp import McpServer
from mlflow_agent_plugin.package.quotas import QuotaResource, QuotaRule
from mlflow_agent_plugin.package.reading import YamlDocument, read_yaml, validate_document
from mlflow_agent_plugin.package.strict import Name as Name  # noqa: PLC0414 - formats take both from here
from mlflow_agent_plugin.package.strict import StrictModel as StrictModel  # noqa: PLC0414

API_VERSION = "mlflow-agents/v1"
MANIFEST_FILE = "agent.yaml"


def _inside(path: str) -> str:
    pure = PurePosixPath(unicodedata.normalize("NFC", path))
    if not pure.parts or "\\" in path or pure.is_absolute() or ".." in pure.parts:
        raise ValueError("must be a relative path inside the bundle, with forward slashes")
    if any(unicodedata.category(letter) in {"Cc", "Cs"} for letter in path):
        raise ValueError("must not hold control characters")
    return str(pure)


BundlePath = Annotated[str, AfterValidator(_inside)]
EntryPoint = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*$")
]
"""``module:attribute``, the module being a Python file of the bundle."""


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
    max_seconds: float | None = Field(
        default=None, gt=0, le=86_400, description="No step of a turn begins later than this"
    )
    max_step_seconds: float | None = Field(
        default=None,
        gt=0,
        le=3600,
        description="One call of the model or of a tool, at most; a tool's own limit holds too",
    )
    max_tokens: int | None = Field(
        default=None, ge=1, le=10**12, description="Tokens of the model per turn, in and out"
    )
    max_cost_usd: float | None = Field(
        default=None, gt=0, le=1e6, allow_inf_nan=False, description="Model and tools, per turn"
    )
    max_session_tokens: int | None = Field(
        default=None, ge=1, le=10**12, description="As max_tokens, for a whole session"
    )
    max_session_cost_usd: float | None = Field(
        default=None, gt=0, le=1e6, allow_inf_nan=False, description="As max_cost_usd, likewise"
    )


class ModelPrice(StrictModel):
    """What a provider charges; the local planner and scripts cost nothing."""

    input_usd_per_million_tokens: float = Field(ge=0, le=1e6, allow_inf_nan=False)
    output_usd_per_million_tokens: float = Field(ge=0, le=1e6, allow_inf_nan=False)


FREE_PROVIDERS = ("local", "scripted")
"""Providers that run in this process and cost nothing."""


class ModelSpec(StrictModel):
    """Which chat model plans.

    `provider` "local" is the embedded planner, whose files lie below `path`; "scripted" replays
    answers from ``settings.replies`` (tests); "mlflow-gateway" is an endpoint of MLflow's AI
    Gateway; any other value goes to LangChain's `init_chat_model` with `name` and `settings` (e.g.
    provider "openai", settings {"base_url": …}).
    """

    provider: Name
    name: str = Field(min_length=1)
    path: BundlePath | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    fallbacks: list[ModelSpec] = Field(default_factory=list)
    price: ModelPrice | None = None
    budgets: Budgets = Budgets()

    @property
    def unpriced(self) -> str | None:
        """The first model of this one and its fallbacks whose calls cost nobody knows what."""
        for spec in (self, *self.fallbacks):
            if spec.price is None and spec.provider not in FREE_PROVIDERS:
                return spec.name
        return None

    @model_validator(mode="after")
    def _money_can_be_counted(self) -> ModelSpec:
        limits = (self.budgets.max_cost_usd, self.budgets.max_session_cost_usd)
        if any(limit is not None for limit in limits) and self.unpriced is not None:
            raise ValueError(f"a budget in dollars needs the price of {self.unpriced}")
        return self


class PythonTool(StrictModel):
    """A Python function of the bundle as a tool: ``function(context, **arguments) -> dict``."""

    name: Name
    entry_point: EntryPoint


class ToolsSpec(StrictModel):
    """The agent's tools; each has a contract ``<contracts>/<name>.yaml``."""

    contracts: BundlePath = "contracts"
    python: list[PythonTool] = Field(default_factory=list)
    mcp: list[McpServer] = Field(default_factory=list)
    resources: EntryPoint | None = Field(
        default=None,
        description="``open(settings: dict) -> object``: what tools reach the world through; "
        "given to every tool as ``context.resources``",
    )
    resource_settings: dict[str, Any] = Field(default_factory=dict)

    def names(self) -> list[str]:
        """Return the names of all tools: the Python ones, then those of each server, in order."""
        remote = [tool.name for server in self.mcp for tool in server.tools]
        return [*(tool.name for tool in self.python), *remote]


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


EntityType = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]{1,63}$")]
"""A Presidio entity type, e.g. PERSON."""

PrivacyRules = dict[str, PrivacyAction]


class PresidioSpec(StrictModel):
    """Further entity types, found by Microsoft Presidio (extra ``presidio``).

    `model` is an installed spaCy model, which types such as PERSON and LOCATION need; without one,
    only types with patterns and checksums are found. Nothing is ever downloaded.
    """

    entities: list[EntityType] = Field(min_length=1)
    model: str | None = None
    min_score: float = Field(default=0.5, ge=0, le=1)

    @model_validator(mode="after")
    def _leaves_our_classes(self) -> PresidioSpec:
        doubled = sorted(set(self.entities) & set(PRESIDIO_NAMES))
        if doubled:
            classes = ", ".join(PRESIDIO_NAMES[name].value for name in doubled)
            raise ValueError(f"{', '.join(doubled)} have classes of their own here: {classes}")
        return self


class PrivacySpec(StrictModel):
    """What happens to sensitive values on their way: data class to action, per place.

    A key is a data class (card, email, iban, ip, number, phone, secret, url, us_ssn), a Presidio
    entity type listed in `presidio.entities`, or ``default`` for all others. What is not named:
    secrets are masked in messages and tool outputs, everything but URLs in traces and audit, and
    the rest is allowed.
    """

    input: PrivacyRules = Field(default_factory=dict)
    retrieved: PrivacyRules = Field(default_factory=dict)
    tool_output: PrivacyRules = Field(default_factory=dict)
    answer: PrivacyRules = Field(default_factory=dict)
    trace: PrivacyRules = Field(default_factory=dict)
    audit: PrivacyRules = Field(default_factory=dict)
    presidio: PresidioSpec | None = None

    @model_validator(mode="after")
    def _classes_exist(self) -> PrivacySpec:
        entities = [] if self.presidio is None else self.presidio.entities
        known = {"default", *(kind.value for kind in DataClass), *entities}
        for place in PrivacyPlace:
            unknown = sorted(set(getattr(self, place.value)) - known)
            if unknown:
                raise ValueError(
                    f"{place.value} names unknown data class {', '.join(unknown)}; "
                    f"known: {', '.join(sorted(known))}"
                )
        return self


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
    privacy: PrivacySpec = PrivacySpec()
    quotas: list[QuotaRule] = Field(
        default_factory=list, description="The host's own quotas hold beside these"
    )

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    @model_validator(mode="after")
    def _tools_are_consistent(self) -> Manifest:
        names = self.tools.names()
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            place = "tools" if self.tools.mcp else "tools.python"
            raise ValueError(f"{place} names {', '.join(twice)} more than once")
        servers = [server.name for server in self.tools.mcp]
        if len(set(servers)) < len(servers):
            raise ValueError("tools.mcp names a server more than once")
        known = set(names)
        groups = {
            "workflow.allowed_tools": self.workflow.allowed_tools or [],
            "workflow.forbidden_tools": self.workflow.forbidden_tools,
            "workflow.escalation": [rule.tool for rule in self.workflow.escalation],
            "quotas": [rule.tool for rule in self.quotas if rule.tool is not None],
        }
        for field, wanted in groups.items():
            missing = sorted(set(wanted) - known)
            if missing:
                raise ValueError(f"{field} names unknown tool {', '.join(missing)}")
        both = sorted(set(self.workflow.forbidden_tools) & set(self.workflow.allowed_tools or []))
        if both:
            raise ValueError(f"workflow both allows and forbids {', '.join(both)}")
        return self

    @model_validator(mode="after")
    def _money_can_be_counted(self) -> Manifest:
        in_dollars = any(
            rule.of is QuotaResource.COST_USD and rule.tool is None for rule in self.quotas
        )
        if in_dollars and self.model.unpriced is not None:
            raise ValueError(
                f"quotas: a quota of cost_usd needs model.price of {self.model.unpriced}"
            )
        return self

    def usable_tools(self) -> list[str]:
        """Return the names of the tools the agent may call at all, in manifest order."""
        allowed = self.workflow.allowed_tools
        return [
            name
            for name in self.tools.names()
            if (allowed is None or name in allowed) and name not in self.workflow.forbidden_tools
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
