"""The world of a scenario: the bundle's own resources, recorded answers, and faults.

Rules:
- Every scenario gets a world of its own; a tool that still runs after its scenario ended reaches
  only that scenario's world.
- Faults sit between the gateway and the tool, where a real one would: policy, approval, ledger and
  contract see a faulty tool exactly as they would see it in production.
- A fault follows from (run seed, scenario seed, case, tool, number of the call): the same run again
  has the same faults.

What each fault does, and whether the tool's effect takes place:

=============== ======= ===========================================================================
kind            effect  what the gateway sees
=============== ======= ===========================================================================
rate_limit      no      an error: 429 with Retry-After
timeout         no      no answer in time (a write is then in doubt)
reset           yes     a broken connection after the work was done (a write is then in doubt)
error           no      an error: 500 (a write is then in doubt)
permission      no      an error: 403
malformed       yes     text that is not JSON
partial         yes     an output with parts cut off
schema_change   yes     an output with one field renamed
slow            yes     the right output, late
duplicate       yes     the call delivered twice with one idempotency key
injection       yes     the right output, with the fault's text put into one of the texts that
                        strangers can write and the contract leaves free
=============== ======= ===========================================================================
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.development.matching import MISSING
from mlflow_agent_plugin.development.scenario import Fault, FaultKind, Scenario

if TYPE_CHECKING:
    from mlflow_agent_plugin.package import ToolContract

ToolFunction = Callable[..., Any]


class FaultError(Exception):
    """The error a faulty tool answers with; nothing happened.

    Attributes:
        status_code: HTTP status a real service would have answered with.
        headers: Headers of that answer.
    """

    def __init__(
        self,
        text: str,
        *,
        status_code: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(text)
        self.status_code = status_code
        self.headers = dict(headers or {})


@dataclass
class World:
    """The world of one running scenario.

    Attributes:
        scenario: The scenario.
        resources: What the bundle's factory opened for it.
        seed: Seed of the run.
        contracts: Tool contracts; an injection goes where they let strangers write.
    """

    scenario: Scenario
    resources: Any
    seed: int = 0
    contracts: Mapping[str, ToolContract] = field(default_factory=dict, repr=False)
    _calls: Counter[str] = field(default_factory=Counter, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def run(self, tool: str, function: ToolFunction, context: Any, arguments: Any) -> Any:
        """Run one call of `tool` in this world."""
        with self._lock:
            self._calls[tool] += 1
            number = self._calls[tool]
        own = replace(context, resources=self.resources)

        def work() -> Any:
            return self._answer(tool, function, own, arguments)

        for fault in self.scenario.faults:
            if fault.tool == tool and _applies(fault, number):
                name = f"{self.seed}:{self.scenario.seed}:{self.scenario.id}:{tool}:{number}"
                draw = random.Random(name)  # noqa: S311
                if fault.kind is FaultKind.INJECTION:
                    return _inject(str(fault.text), work(), draw, self.contracts.get(tool))
                return _FAULTS[fault.kind](fault, work, draw)
        return work()

    def snapshot(self) -> Any:
        """Return the world as JSON values, `MISSING` if the resources cannot show it."""
        take = getattr(self.resources, "snapshot", None)
        return take() if callable(take) else MISSING

    def close(self) -> None:
        """Close the resources, if they can be closed."""
        close = getattr(self.resources, "close", None)
        if callable(close):
            close()

    def _answer(self, tool: str, function: ToolFunction, context: Any, arguments: Any) -> Any:
        recorded = [answer for answer in self.scenario.simulated if answer.tool == tool]
        if not recorded:
            return function(context, **arguments)
        for answer in recorded:
            if all(
                matcher.problem(arguments.get(name, MISSING)) is None
                for name, matcher in answer.arguments.items()
            ):
                return answer.output
        raise FaultError("no recorded answer fits these arguments")


class Worlds:
    """The worlds of the scenarios a runtime plays, by session.

    `wrap` is the runtime's `tool_wrapper`.
    """

    def __init__(self) -> None:
        self._by_session: dict[str, World] = {}

    def enter(self, session_id: str, world: World) -> None:
        """Make `world` the one that tools of this session reach."""
        self._by_session[session_id] = world

    def leave(self, session_id: str) -> None:
        """Forget the session: late calls fail."""
        self._by_session.pop(session_id, None)

    def wrap(self, tool: str, function: ToolFunction) -> ToolFunction:
        """Return the function that runs `tool` in the world of the calling session."""

        def run(context: Any, **arguments: Any) -> Any:
            world = self._by_session.get(context.session_id)
            if world is None:
                raise FaultError("the scenario of this call has ended")
            return world.run(tool, function, context, arguments)

        return run


def _applies(fault: Fault, number: int) -> bool:
    return number >= fault.at and (fault.times is None or number < fault.at + fault.times)


def _rate_limit(fault: Fault, _work: Callable[[], Any], _draw: random.Random) -> Any:
    raise FaultError(
        f"429 Too Many Requests, Retry-After: {fault.seconds:g}",
        status_code=429,
        headers={"Retry-After": f"{fault.seconds:g}"},
    )


def _timeout(fault: Fault, _work: Callable[[], Any], _draw: random.Random) -> Any:
    raise TimeoutError(f"no answer within {fault.seconds:g} seconds")


def _reset(_fault: Fault, work: Callable[[], Any], _draw: random.Random) -> Any:
    work()
    raise ConnectionResetError("connection reset by peer")


def _error(_fault: Fault, _work: Callable[[], Any], _draw: random.Random) -> Any:
    raise FaultError("500 Internal Server Error", status_code=500)


def _permission(_fault: Fault, _work: Callable[[], Any], _draw: random.Random) -> Any:
    raise FaultError("403 Forbidden", status_code=403)


def _malformed(_fault: Fault, work: Callable[[], Any], _draw: random.Random) -> Any:
    work()
    return "<html><body>502 Bad Gateway</body></html>"


def _partial(_fault: Fault, work: Callable[[], Any], draw: random.Random) -> Any:
    return _cut(work(), draw)


def _schema_change(_fault: Fault, work: Callable[[], Any], draw: random.Random) -> Any:
    output = work()
    if not isinstance(output, Mapping) or not output:
        return output
    renamed = draw.choice(sorted(output))
    return {f"{name}_v2" if name == renamed else name: value for name, value in output.items()}


def _slow(fault: Fault, work: Callable[[], Any], _draw: random.Random) -> Any:
    time.sleep(fault.seconds)
    return work()


def _duplicate(_fault: Fault, work: Callable[[], Any], _draw: random.Random) -> Any:
    first = work()
    work()
    return first


def _inject(text: str, output: Any, draw: random.Random, contract: ToolContract | None) -> Any:
    """Put `text` where a stranger could have put it.

    That is a text which the contract does not vouch for and lets say anything: an injection into a
    date or one of a few words would break the contract and never reach the model.
    """
    from mlflow_agent_plugin.core.gateway.contracts import ContractChecks
    from mlflow_agent_plugin.errors import AgentError

    vouched = set() if contract is None else set(contract.trusted_fields)
    places = [place for place in sorted(_texts(output)) if not vouched.intersection(place)]
    if not places:
        raise FaultError("the output has no text to put an injection into")
    order = [draw.choice(places), *draw.sample(places, len(places))]
    if contract is None:
        return _put(output, order[0], text)
    checks = ContractChecks({contract.name: contract})
    for place in order:
        with contextlib.suppress(AgentError):
            injected = _put(output, place, text)
            checks.check_output(contract.name, injected)
            return injected
    raise FaultError("the tool's contract leaves no text free for an injection")


_FAULTS: dict[FaultKind, Callable[[Fault, Callable[[], Any], random.Random], Any]] = {
    FaultKind.RATE_LIMIT: _rate_limit,
    FaultKind.TIMEOUT: _timeout,
    FaultKind.RESET: _reset,
    FaultKind.ERROR: _error,
    FaultKind.PERMISSION: _permission,
    FaultKind.MALFORMED: _malformed,
    FaultKind.PARTIAL: _partial,
    FaultKind.SCHEMA_CHANGE: _schema_change,
    FaultKind.SLOW: _slow,
    FaultKind.DUPLICATE: _duplicate,
}


def _cut(value: Any, draw: random.Random) -> Any:
    """Cut off the end of an object, of its lists and of its texts."""
    if isinstance(value, Mapping):
        names = list(value)
        kept = names[: draw.randrange(len(names))] if names else []
        return {name: _cut(value[name], draw) for name in kept}
    if isinstance(value, (list, str)) and value:
        return value[: draw.randrange(len(value))]
    return value


Place = tuple[str, ...]


def _texts(value: Any, place: Place = ()) -> list[Place]:
    if isinstance(value, str):
        return [place]
    if isinstance(value, Mapping):
        return [found for name in value for found in _texts(value[name], (*place, str(name)))]
    if isinstance(value, (list, tuple)):
        return [found for at, item in enumerate(value) for found in _texts(item, (*place, str(at)))]
    return []


def _put(value: Any, place: Place, text: str) -> Any:
    if not place:
        return f"{value} {text}"
    if isinstance(value, Mapping):
        return {
            name: _put(item, place[1:], text) if str(name) == place[0] else item
            for name, item in value.items()
        }
    return [
        _put(item, place[1:], text) if str(at) == place[0] else item
        for at, item in enumerate(value)
    ]
