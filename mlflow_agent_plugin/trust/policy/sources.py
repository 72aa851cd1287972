"""The policies of one agent as text, and where each policy stands in it.

Rules:
- A policy folder holds ``permit.cedar``, ``hard.cedar``, ``approval.cedar``, ``roles.yaml`` and
  ``tests.yaml``; another ``.cedar`` file is an error, because nobody would know when it applies.
- Everything is read once, as text. Whoever needs the policies again (another process, an
  unpickled engine) rebuilds them from that text, never from a folder that may have changed.
- Cedar reports no positions, so files are split into statements here; each statement is parsed
  on its own, and must be exactly one policy.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import Field, StringConstraints

from mlflow_agent_plugin.entities import MAX_QUORUM
from mlflow_agent_plugin.errors import PolicyError
from mlflow_agent_plugin.package.contract import ToolContract
from mlflow_agent_plugin.package.manifest import StrictModel
from mlflow_agent_plugin.package.reading import (
    YamlDocument,
    decode_text,
    parse_yaml,
    validate_document,
)
from mlflow_agent_plugin.trust.policy.conditions import attribute_path, walk

if TYPE_CHECKING:
    from mlflow_agent_plugin.package.bundle import Bundle

PERMIT_FILE = "permit.cedar"
HARD_FILE = "hard.cedar"
APPROVAL_FILE = "approval.cedar"
ROLES_FILE = "roles.yaml"
TESTS_FILE = "tests.yaml"
CEDAR_FILES = (PERMIT_FILE, HARD_FILE, APPROVAL_FILE)

VERIFIED = frozenset({("principal", "verified"), ("context", "session", "verified")})
"""Where a policy reads whether the actor is verified."""

M = TypeVar("M", bound=StrictModel)

RoleName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,127}$")]


class RolesFile(StrictModel):
    """The whole of ``roles.yaml``: every role a policy may name, and what it stands for."""

    api_version: Literal["mlflow-agents/v1"] = Field(alias="apiVersion")
    roles: dict[RoleName, str] = Field(default_factory=dict)


@dataclass(frozen=True)
class PolicySources:
    """Everything a policy engine is built from.

    Attributes:
        agent: Name of the agent; the only resource there is.
        contracts: Tool contracts by tool name.
        usable_tools: Tools the manifest lets the agent call at all.
        files: File name to text, for the files of `CEDAR_FILES` that exist.
        roles: Role name to what it stands for.
        folder: The policy folder as messages call it.
        content_digest: Digest of the bundle's policies component.
        tests: Text of ``tests.yaml``, None if there is none.
    """

    agent: str
    contracts: Mapping[str, ToolContract]
    usable_tools: tuple[str, ...]
    files: Mapping[str, str]
    roles: Mapping[str, str] = field(default_factory=dict)
    folder: str = "policies"
    content_digest: str = ""
    tests: str | None = None

    @classmethod
    def from_bundle(cls, bundle: Bundle) -> PolicySources:
        """Read the policy folder of `bundle`.

        Raises:
            PolicyError: The folder or ``permit.cedar`` is missing, a file cannot be read, or
                ``roles.yaml`` does not follow its format.
            IntegrityError: A file changed after the bundle's digest was computed.
        """
        folder = bundle.manifest.policies.path
        usable = tuple(bundle.manifest.usable_tools())
        names = _cedar_names(bundle, folder)
        if PERMIT_FILE not in names and usable:
            raise PolicyError(
                "is missing, so no tool of this agent could ever run",
                where=bundle.shown(f"{folder}/{PERMIT_FILE}"),
                hint="Write at least one `permit` policy: see docs/how-to/write-a-policy.md.",
            )

        def read(name: str) -> str:
            path = f"{folder}/{name}"
            return decode_text(bundle.read_bytes(path), name=bundle.shown(path), error=PolicyError)

        roles, tests = f"{folder}/{ROLES_FILE}", f"{folder}/{TESTS_FILE}"
        declared = {}
        if roles in bundle.locations:
            file, _ = read_document(read(ROLES_FILE), RolesFile, name=bundle.shown(roles))
            declared = dict(file.roles)
        return cls(
            agent=bundle.manifest.name,
            contracts=dict(bundle.contracts),
            usable_tools=usable,
            files={name: read(name) for name in names},
            roles=declared,
            folder=bundle.shown(folder),
            content_digest=bundle.digest.components["policies"],
            tests=read(TESTS_FILE) if tests in bundle.locations else None,
        )

    def where(self, name: str, line: int | None = None) -> str:
        """Return ``folder/name:line`` for a message."""
        place = f"{self.folder}/{name}"
        return place if line is None else f"{place}:{line}"


@dataclass(frozen=True)
class Policy:
    """One Cedar policy and where it stands.

    Attributes:
        policy_id: Its ``@id``, "" if it has none.
        effect: ``permit`` or ``forbid``.
        file: File name in the policy folder.
        line: First line of the policy in that file, from 1.
        text: The policy as written.
        ast: The policy in Cedar's JSON form.
    """

    policy_id: str
    effect: str
    file: str
    line: int
    text: str
    ast: Mapping[str, Any]

    @property
    def annotations(self) -> Mapping[str, str]:
        """All annotations but their ``@``; an annotation without value is ""."""
        found = self.ast.get("annotations", {})
        return {name: value or "" for name, value in found.items()}

    @property
    def approver_role(self) -> str | None:
        """Role of ``@approval("<role>")``, None if the policy has none."""
        return self.annotations.get("approval")

    @property
    def quorum(self) -> int:
        """How many people ``@quorum("<n>")`` asks for; 1 without it.

        Raises:
            ValueError: It is not a number from 1 to `MAX_QUORUM`; the linter refuses such a policy.
        """
        text = self.annotations.get("quorum", "1")
        if not re.fullmatch(r"[1-9][0-9]?", text) or int(text) > MAX_QUORUM:
            raise ValueError(f"@quorum({text!r}) is not a number from 1 to {MAX_QUORUM}")
        return int(text)

    @property
    def names_unverified(self) -> bool:
        """Whether the policy counts for an actor nobody verified; see the engine's rules.

        A forbid always does. A permit does if it says so (``@unverified("allow")``), names the one
        user it is for, or looks at whether the actor is verified: Cedar answers then.
        """
        if self.effect != "permit" or self.annotations.get("unverified") == "allow":
            return True
        return self.ast["principal"]["op"] == "==" or any(
            attribute_path(node) in VERIFIED for node in walk(self.ast["conditions"])
        )

    def covers(self, tool: str, groups: frozenset[str]) -> bool:
        """Tell whether the action scope covers `tool`, which is in the action groups `groups`.

        An unknown form of scope covers every tool: Cedar decides then, and a slice of policies is
        never too small.
        """
        scope = self.ast["action"]
        if "entity" in scope:
            named = {scope["entity"]["id"]}
        elif "entities" in scope:
            named = {entity["id"] for entity in scope["entities"]}
        else:
            return True
        return bool(named & {tool, *groups})


def parse_policies(sources: PolicySources) -> list[Policy]:
    """Parse every policy, in file order.

    Raises:
        PolicyError: A policy does not parse, or is a template; the file and line are named.
    """
    return [
        _parse_statement(sources, name, line, text)
        for name in CEDAR_FILES
        if name in sources.files
        for line, text in split_statements(sources.files[name])
    ]


def split_statements(text: str) -> Iterator[tuple[int, str]]:
    """Yield (first line, text) of every Cedar statement in `text`.

    A statement ends at a ``;`` outside strings and ``//`` comments. What follows the last one is
    yielded too, so that an unfinished policy is parsed, and refused, instead of skipped.
    """
    line = 1
    start: int | None = None
    start_line = 1
    position = 0
    while position < len(text):
        character = text[position]
        if text.startswith("//", position):
            end = text.find("\n", position)
            position = len(text) if end < 0 else end
            continue
        if start is None and not character.isspace():
            start, start_line = position, line
        if character == '"':
            end = _end_of_string(text, position)
            line += text.count("\n", position, end)
            position = end
            continue
        if character == "\n":
            line += 1
        position += 1
        if character == ";" and start is not None:
            yield start_line, text[start:position]
            start = None
    if start is not None:
        yield start_line, text[start:]


def read_document(text: str, model: type[M], *, name: str) -> tuple[M, YamlDocument]:
    """Parse the text of a YAML file of the policy folder into `model`.

    Raises:
        PolicyError: It is no YAML or does not follow the format; file, line and field are named.
    """
    document = parse_yaml(text, name=name, error=PolicyError)
    return validate_document(document, model, error=PolicyError), document


def _end_of_string(text: str, start: int) -> int:
    position = start + 1
    while position < len(text):
        if text[position] == "\\":
            position += 2
        elif text[position] == '"':
            return position + 1
        else:
            position += 1
    return len(text)


def _parse_statement(sources: PolicySources, name: str, line: int, text: str) -> Policy:
    import cedarpy  # noqa: PLC0415 - import cost

    where = sources.where(name, line)
    try:
        parsed = json.loads(cedarpy.policies_to_json_str(text))
    except (ValueError, RecursionError) as error:
        raise PolicyError(
            f"does not parse: {error}",
            where=where,
            hint='Every policy is `@id("…") permit|forbid (principal, action, resource) …;`.',
        ) from error
    if parsed.get("templates") or len(parsed["staticPolicies"]) != 1:
        raise PolicyError(
            "is a template (?principal or ?resource)",
            where=where,
            hint='Name a role instead, as in `principal in Agent::Role::"…"`.',
        )
    (ast,) = parsed["staticPolicies"].values()
    annotations = ast.get("annotations", {})
    return Policy(annotations.get("id") or "", ast["effect"], name, line, text, ast)


def _cedar_names(bundle: Bundle, folder: str) -> list[str]:
    names = []
    for path in bundle.files_below(folder):
        name = path.removeprefix(f"{folder}/")
        if not name.endswith(".cedar"):
            continue
        if name not in CEDAR_FILES:
            raise PolicyError(
                "is not a policy file, so nobody would know when it applies",
                where=bundle.shown(path),
                hint=f"Move its policies to {PERMIT_FILE}, {HARD_FILE} or {APPROVAL_FILE}.",
            )
        names.append(name)
    return names
