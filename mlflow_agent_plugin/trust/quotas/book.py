"""Reserving before, settling after.

Rules:
- A use is reserved under every rule that fits it, or under none.
- What is reserved is settled to what was really used, more or less; nothing is given back twice.
- When the counting server does not answer, a reservation is refused (`LimitsUnavailableError`); the
  next one tries again, so that its return needs no restart. Settling then gives up, with a line in
  the log: what was reserved stays counted until its window ends or its lease expires.
"""

from __future__ import annotations

import logging
import re
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mlflow_agent_plugin.entities import Clock, utc_now
from mlflow_agent_plugin.errors import ConfigError, LimitsUnavailableError, QuotaExceededError
from mlflow_agent_plugin.package.quotas import QuotaResource
from mlflow_agent_plugin.trust.quotas.leases import Leases, MemoryLeases, RedisLeases
from mlflow_agent_plugin.trust.quotas.rules import BoundQuota, QuotaUse
from mlflow_agent_plugin.trust.quotas.windows import CounterStorage, Full, Taken, WindowCounters

if TYPE_CHECKING:
    from mlflow_agent_plugin.config import Settings

_logger = logging.getLogger(__name__)

BUSY_RETRY_SECONDS = 1.0
"""When to come again after a refusal of concurrency: nobody knows when a running call ends."""

ANSWER_SECONDS = 1.0
"""How long the counting server may take for one answer."""

_SCHEMES = ("memory", "redis", "rediss")


@dataclass
class Reservation:
    """What one use has taken; settle it exactly once, or release it."""

    _book: QuotaBook
    _windows: list[tuple[QuotaResource, Taken]] = field(default_factory=list)
    _leases: list[tuple[str, str]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def settle(self, used: Mapping[QuotaResource, int]) -> None:
        """End the use: what was `used` stays counted, resources it does not name as reserved."""
        with self._lock:
            windows, self._windows = self._windows, []
            leases, self._leases = self._leases, []
        if windows or leases:
            self._book._settle(windows, leases, used)  # noqa: SLF001 - same module

    def release(self) -> None:
        """Undo the whole reservation: nothing was used."""
        self.settle(dict.fromkeys(QuotaResource, 0))


class QuotaBook:
    """The quotas of an agent; make it with `open_quota_book`.

    Args:
        rules: Every rule.
        storage: Counts within windows.
        leases: Counts what runs.
        clock: Which window it is.
        where: What errors call the counting server.
        failures: What storage and leases raise when it is away.
    """

    def __init__(
        self,
        rules: Sequence[BoundQuota],
        *,
        storage: CounterStorage,
        leases: Leases,
        clock: Clock = utc_now,
        where: str = "memory",
        failures: tuple[type[Exception], ...] = (),
    ) -> None:
        self._rules = {
            resource: tuple(rule for rule in rules if rule.rule.of is resource)
            for resource in QuotaResource
        }
        self._windows = WindowCounters(storage, clock)
        self._leases = leases
        self._where = where
        self._failures = failures

    def forget(self) -> None:
        """Begin counting anew, where the counts are this process's own."""
        self._windows.forget()

    def limits(self, resource: QuotaResource) -> bool:
        """Return whether any rule is about `resource`."""
        return bool(self._rules[resource])

    @property
    def limits_all_cost(self) -> bool:
        """Whether a rule limits what everything costs, the model included."""
        return any(rule.rule.tool is None for rule in self._rules[QuotaResource.COST_USD])

    def reserve(
        self, use: QuotaUse, amounts: Mapping[QuotaResource, int], *, lease_seconds: float = 3600.0
    ) -> Reservation:
        """Take `amounts` under every rule that fits, or nothing.

        Args:
            use: Who uses it.
            amounts: How much; 0 only asks whether anything is left. Of concurrency always one.
            lease_seconds: How long it may run; its place is free again afterwards.

        Raises:
            QuotaExceededError: A rule has not that much left.
            LimitsUnavailableError: The counting server does not answer.
        """
        reservation = Reservation(self)
        try:
            with self._answering():
                for resource, amount in amounts.items():
                    for rule in self._rules[resource]:
                        if rule.fits(use, resource):
                            self._take(reservation, rule, use, amount, lease_seconds)
        except BaseException:
            reservation.release()
            raise
        return reservation

    def _take(
        self,
        reservation: Reservation,
        rule: BoundQuota,
        use: QuotaUse,
        amount: int,
        lease_seconds: float,
    ) -> None:
        key, resource = rule.key(use), rule.rule.of
        if resource is QuotaResource.CONCURRENCY:
            lease = uuid.uuid4().hex
            # Noted first: should the answer get lost, the release below still finds the lease.
            reservation._leases.append((key, lease))  # noqa: SLF001 - same module
            if not self._leases.acquire(
                key, lease, limit=rule.rule.units, ttl_seconds=lease_seconds
            ):
                raise _exceeded(rule, BUSY_RETRY_SECONDS)
            return
        assert rule.rule.every_seconds is not None
        taken = self._windows.take(
            key, amount, limit=rule.rule.units, every_seconds=rule.rule.every_seconds
        )
        if isinstance(taken, Full):
            raise _exceeded(rule, taken.retry_after_seconds)
        reservation._windows.append((resource, taken))  # noqa: SLF001 - same module

    def _settle(
        self,
        windows: Sequence[tuple[QuotaResource, Taken]],
        leases: Sequence[tuple[str, str]],
        used: Mapping[QuotaResource, int],
    ) -> None:
        try:
            with self._answering():
                for key, lease in leases:
                    self._leases.release(key, lease)
                for resource, taken in windows:
                    self._windows.settle(taken, used.get(resource, taken.amount))
        except LimitsUnavailableError as error:
            _logger.warning("a quota was not settled: %s", error)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except self._failures as error:
            raise LimitsUnavailableError(
                f"the server that counts quotas does not answer ({type(error).__name__})",
                where=self._where,
                hint="Start it, or correct MLFLOW_AGENTS_LIMITS_URI.",
            ) from error


def _exceeded(rule: BoundQuota, wait: float | None) -> QuotaExceededError:
    if wait is None:
        return QuotaExceededError(f"more was asked for than there ever is: {rule}")
    wait = round(wait, 3)
    return QuotaExceededError(
        f"no more for now: {rule}",
        hint=f"Try again in {wait:g} seconds.",
        retry_after_seconds=wait,
    )


def open_quota_book(
    rules: Sequence[BoundQuota], settings: Settings, *, clock: Clock = utc_now
) -> QuotaBook:
    """Open the quotas on the storage ``MLFLOW_AGENTS_LIMITS_URI`` names.

    Nothing is connected yet: a server that is away refuses uses, not the start.

    Raises:
        ConfigError: The URI is malformed, or its driver is not installed.
    """
    from limits.errors import ConfigurationError, StorageError
    from limits.storage import MemoryStorage, storage_from_string

    uri = settings.limits_uri
    scheme = uri.partition("://")[0]
    where = "MLFLOW_AGENTS_LIMITS_URI"
    if "://" not in uri or scheme not in _SCHEMES:
        raise ConfigError(
            f"its scheme is none of {', '.join(_SCHEMES)}",
            where=where,
            hint="Use memory:// or, for several workers, redis://host:6379/0.",
        )
    if scheme == "memory":
        return QuotaBook(rules, storage=MemoryStorage(), leases=MemoryLeases(clock), clock=clock)
    try:
        from redis.backoff import NoBackoff
        from redis.exceptions import RedisError
        from redis.retry import Retry

        options: dict[str, Any] = {
            "socket_timeout": ANSWER_SECONDS,
            "socket_connect_timeout": ANSWER_SECONDS,
            # A connection that was idle while the server restarted is replaced, once.
            "retry": Retry(NoBackoff(), 1),
        }
        storage: Any = storage_from_string(uri, wrap_exceptions=True, **options)
    except (ImportError, ConfigurationError) as error:
        raise ConfigError(
            f"the Redis driver is not installed: {error}",
            where=where,
            hint="Install mlflow-agent-plugin[redis].",
        ) from error
    except ValueError as error:
        raise ConfigError(f"is malformed: {_without_password(str(error))}", where=where) from error
    return QuotaBook(
        rules,
        storage=storage,
        leases=RedisLeases(storage.get_connection()),
        clock=clock,
        where=_address(uri),
        failures=(StorageError, RedisError),
    )


def _address(uri: str) -> str:
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _without_password(text: str) -> str:
    return re.sub(r"//[^@/\s]*@", "//***@", text)
