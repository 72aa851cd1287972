"""Quotas: what one tenant, user or session may take, counted in memory or in Redis.

- `rules`: which rules fit a use, and under which key each counts (pure).
- `windows`: what was used within windows of the clock.
- `leases`: what runs now.
- `book`: reserving before, settling after.
"""

from __future__ import annotations

from mlflow_agent_plugin.trust.quotas.book import QuotaBook, Reservation, open_quota_book
from mlflow_agent_plugin.trust.quotas.rules import BoundQuota, QuotaUse, bind_quotas

__all__ = [
    "BoundQuota",
    "QuotaBook",
    "QuotaUse",
    "Reservation",
    "bind_quotas",
    "open_quota_book",
]
