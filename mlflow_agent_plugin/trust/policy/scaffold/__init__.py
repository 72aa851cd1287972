"""A policy pack to start from, written from the tool contracts alone.

Rules:
- Every usable tool is permitted by name, in groups of one effect and one set of scopes, so that a
  new tool is denied until somebody permits it.
- A **target** is a sink argument of the contract (see `ToolContract.sinks`). A call runs by itself
  if every target is the user's or trusted. It needs an approval
  (a) if only third parties' text names a target,
  (b) if nobody names a target and third parties' text has been seen: the model made it up, perhaps
      on somebody's word,
  (c) of a write: if another argument stands only in third parties' text, unless the user named the
      targets. A trusted list of targets says where one may write, not what. An argument whose
      schema lists its values says nothing of anybody's, and a write that can be undone and has no
      targets by its contract's own word (``sink_arguments: []``) says it to nobody,
  (d) of a write of risk ``high`` or ``critical``: always.
- Never, whoever approves: (e) an irreversible call for a user who is not verified, on a target that
  only third parties' text names.
- Nothing depends on the name of a tool or argument, on a value or on how a text is worded.
- The tests are written from these rules, not from the policies' answers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mlflow_agent_plugin.trust.policy.scaffold.cases import pack_tests
from mlflow_agent_plugin.trust.policy.scaffold.cedar import approvals, hard, permits
from mlflow_agent_plugin.trust.policy.scaffold.rules import rules_of
from mlflow_agent_plugin.trust.policy.sources import (
    APPROVAL_FILE,
    HARD_FILE,
    PERMIT_FILE,
    ROLES_FILE,
    TESTS_FILE,
)

if TYPE_CHECKING:
    from mlflow_agent_plugin.package.contract import ToolContract

__all__ = ["DEFAULT_ROLE", "scaffold_policies"]

DEFAULT_ROLE = "approver"


def scaffold_policies(
    contracts: Mapping[str, ToolContract],
    *,
    tools: Sequence[str] | None = None,
    role: str = DEFAULT_ROLE,
    roles: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Write the default policy pack.

    Args:
        contracts: Tool contracts by name.
        tools: Usable tools; default: every contract.
        role: Who answers approvals.
        roles: Roles declared so far; `role` is added if it is new.

    Returns:
        File name to text, for all five files of a policy folder.

    Raises:
        PolicyError: No arguments for a policy test can be made up; the contract needs an example.
    """
    rules = rules_of({name: contracts[name] for name in tools or contracts})
    declared = dict(roles or {})
    declared.setdefault(role, "Answers approvals")
    return {
        PERMIT_FILE: "\n".join(permits(rules)),
        HARD_FILE: "\n".join(hard(rules)),
        APPROVAL_FILE: "\n".join(approvals(rules, role)),
        ROLES_FILE: _roles(declared),
        TESTS_FILE: pack_tests(rules, role),
    }


def _roles(roles: Mapping[str, str]) -> str:
    lines = ["apiVersion: mlflow-agents/v1", "roles:"]
    lines += [f"  {name}: {json.dumps(text, ensure_ascii=False)}" for name, text in roles.items()]
    return "\n".join(lines) + "\n"
