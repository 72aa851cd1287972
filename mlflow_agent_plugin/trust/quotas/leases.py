"""What runs now: leases that end by themselves when their holder dies.

Rules:
- A lease counts from `acquire` until `release`, or until it expires: a worker that is killed gives
  back what it held.
- In memory only this process counts, and only a release or the expiry ends a lease. In Redis all
  workers count together, by Redis' own clock.
- A storage without leases of its own (`limits` has none) is no reason for a lock: the one script
  below runs atomically in Redis.
"""

from __future__ import annotations

import threading
from typing import Any, Protocol

from mlflow_agent_plugin.entities import Clock

_ACQUIRE = """
local now = redis.call('TIME')
local at = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', at)
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[1]) then
  return 0
end
local ttl = tonumber(ARGV[2])
redis.call('ZADD', KEYS[1], at + ttl, ARGV[3])
local last = redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')
redis.call('PEXPIREAT', KEYS[1], last[2])
return 1
"""


class Leases(Protocol):
    """Counts leases by key."""

    def acquire(self, key: str, lease: str, *, limit: int, ttl_seconds: float) -> bool:
        """Take the lease named `lease` unless `limit` of this key are held."""

    def release(self, key: str, lease: str) -> None:
        """Give a lease back; one that is not held is ignored."""


class MemoryLeases:
    """Leases of this process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._held: dict[str, dict[str, float]] = {}

    def acquire(self, key: str, lease: str, *, limit: int, ttl_seconds: float) -> bool:
        """See `Leases`."""
        now = self._clock().timestamp()
        with self._lock:
            held = self._held.setdefault(key, {})
            for name in [name for name, until in held.items() if until <= now]:
                del held[name]
            if len(held) >= limit:
                return False
            held[lease] = now + ttl_seconds
            return True

    def release(self, key: str, lease: str) -> None:
        """See `Leases`."""
        with self._lock:
            held = self._held.get(key, {})
            held.pop(lease, None)
            if not held:
                self._held.pop(key, None)


class RedisLeases:
    """Leases of all workers together, one sorted set per key: lease to its expiry.

    Args:
        client: A Redis client.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._acquire = client.register_script(_ACQUIRE)

    def acquire(self, key: str, lease: str, *, limit: int, ttl_seconds: float) -> bool:
        """See `Leases`."""
        arguments = [limit, max(1, int(ttl_seconds * 1000)), lease]
        return bool(self._acquire(keys=[f"agents:running:{key}"], args=arguments))

    def release(self, key: str, lease: str) -> None:
        """See `Leases`."""
        self._client.zrem(f"agents:running:{key}", lease)
