"""Which quotas fit a use, and under which key each one counts. Pure: no clock, no counters.

Rules:
- The key of a count names its scope in full: tenant, whether the actor was verified, then user or
  session. Two tenants never share a count, and who merely claims to be someone never takes from
  the one who proved it.
- The key does not hold the limit: a changed limit goes on with what was used.
- A bundle's rules, and the rate in a tool's contract, count for that agent alone; the host's for
  all agents together, unless they name one.
- Keys are digests: no text of a user becomes part of a command or of a key's structure.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from mlflow_agent_plugin.entities import Actor
from mlflow_agent_plugin.package.quotas import HostQuota, QuotaResource, QuotaRule, QuotaScope

if TYPE_CHECKING:
    from mlflow_agent_plugin.package import Manifest, ToolContract


@dataclass(frozen=True)
class QuotaUse:
    """Who is about to use something.

    Attributes:
        actor: On whose behalf.
        session_id: Conversation; None before there is one: rules per session do not fit then.
        agent: Name of the agent.
        tool: Tool to be called, or None for a turn or a call of the model.
    """

    actor: Actor
    session_id: str | None
    agent: str
    tool: str | None = None


@dataclass(frozen=True)
class BoundQuota:
    """A rule with where it holds.

    Attributes:
        source: Where it was written, for the error: ``agent.yaml``, a contract, the host's file.
        agent: Only for this agent, None: for all together.
        tenant: Only for this tenant, None: for each.
    """

    rule: QuotaRule
    source: str
    agent: str | None = None
    tenant: str | None = None

    def fits(self, use: QuotaUse, resource: QuotaResource) -> bool:
        """Return whether `use` of `resource` counts here."""
        rule = self.rule
        if rule.of is not resource or self.tenant not in (None, use.actor.tenant):
            return False
        if self.agent not in (None, use.agent):
            return False
        if rule.per is QuotaScope.SESSION and use.session_id is None:
            return False
        if resource is QuotaResource.CONCURRENCY:
            return rule.tool == use.tool  # turns at once, or calls of one tool at once
        return rule.tool in (None, use.tool)

    def key(self, use: QuotaUse) -> str:
        """Return the key `use` counts under."""
        rule, actor = self.rule, use.actor
        # The user stands in a session's key too: nobody else's requests for it count there.
        user = None if rule.per is QuotaScope.TENANT else actor.user
        session = use.session_id if rule.per is QuotaScope.SESSION else None
        about = (self.source, self.agent, rule.per.value, rule.of.value, rule.tool)
        return _key(*about, rule.every_seconds, actor.tenant, actor.verified, user, session)

    def __str__(self) -> str:
        return f"{self.rule} ({self.source})"


@lru_cache(maxsize=4096)
def _key(*parts: str | int | None) -> str:
    # ASCII JSON spells every text, lone surrogates too, and no two lists alike.
    return hashlib.sha256(json.dumps(parts).encode("ascii")).hexdigest()[:40]


def bind_quotas(
    manifest: Manifest, contracts: Mapping[str, ToolContract], host: Sequence[HostQuota] = ()
) -> tuple[BoundQuota, ...]:
    """Return every quota of an agent: its own, its tools' rates, the host's."""
    bound = [BoundQuota(rule, "agent.yaml", agent=manifest.name) for rule in manifest.quotas]
    for name in manifest.usable_tools():
        contract = contracts[name]
        where = f"contracts/{name}.yaml"
        if contract.rate is not None:
            rate = QuotaRule(
                per=QuotaScope.TENANT,
                of=QuotaResource.CALLS,
                limit=contract.rate.calls,
                every_seconds=contract.rate.every_seconds,
                tool=name,
            )
            bound.append(BoundQuota(rate, where, agent=manifest.name))
    bound.extend(
        BoundQuota(rule, "the host's quotas", agent=rule.agent, tenant=rule.tenant) for rule in host
    )
    return tuple(bound)
