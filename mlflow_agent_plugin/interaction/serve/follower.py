"""What a front end does beside answering: follow slots, load candidates, look after rollouts.

One thread per process. Nothing that fails here stops it, or an answer.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow_agent_plugin.interaction.serve.agents import ServedAgents
    from mlflow_agent_plugin.interaction.serve.deployed import Deployed
    from mlflow_agent_plugin.interaction.serve.meters import Meters
    from mlflow_agent_plugin.interaction.serve.traffic import Traffic
    from mlflow_agent_plugin.lifecycle.rollout import RolloutSteward

_logger = logging.getLogger(__name__)


class Follower:
    """Keeps a front end at what registry and store say.

    Args:
        agents: What is served.
        traffic: Its rollouts.
        steward: What rollouts ask of the registry.
        meters: Counts what could not be followed.
        deployed: What operators deployed over the API, if this front end serves that.
        seconds: Between two looks; 0: none is taken by itself.
    """

    def __init__(
        self,
        agents: ServedAgents,
        traffic: Traffic,
        steward: RolloutSteward,
        meters: Meters,
        *,
        deployed: Deployed | None,
        seconds: float,
    ) -> None:
        self._agents = agents
        self._traffic = traffic
        self._steward = steward
        self._meters = meters
        self._deployed = deployed
        self._seconds = seconds
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Look again and again, in a thread."""
        if self._seconds > 0:
            self._thread = threading.Thread(target=self._run, name="follower", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Look no more; a look that is being taken is finished."""
        self._end.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(self._seconds):
            self.look()

    def look(self) -> None:
        """Take one look at everything."""
        self._try("versions", self._agents.sweep)
        if self._deployed is not None:
            self._try("deployments", self._deployed.follow)
        for served in self._agents.served():
            if served.slot is None:
                continue
            self._try(served.name, partial(self._agents.follow, served))
        self._try("rollouts", self._candidates)
        self._try("rollouts", self._steward.step)

    def _candidates(self) -> None:
        self._traffic.refresh()
        for served in self._agents.served():
            rollout = self._traffic.rollout_of(served)
            if rollout is not None and not self._traffic.has_candidate(rollout):
                self._traffic.load(rollout, served)

    def _try(self, name: str, look: Callable[[], object]) -> None:
        try:
            look()
        except Exception as error:
            self._meters.not_followed(name)
            _logger.warning("%s: not followed: %s", name, error)
