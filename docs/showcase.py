"""A small company's server for pictures: people, two versions, a week of traffic, waiting calls.

``python docs/showcase.py FOLDER`` makes it in an empty folder, on the project's own small data set,
and serves it until it is interrupted. Everything on the pages is what the system itself made of it.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
MODEL = "support"
PEOPLE = {"ann": ("author",), "rita": ("author", "reviewer"), "otto": ("author", "operations")}
DAYS, PER_DAY = 7, 30
CASES = 80
UNUSUAL = {
    4: "I found my card again, how do I put it back into the app?",
    9: "let me talk to a person please",
    13: "please change my phone number to +49 170 1234567",
    21: "I found my card again, how do I put it back into the app?",
}
"""What the customer at this place of each day says."""

START_SECONDS = 300


class Showcase:
    """The running server.

    Attributes:
        url: Its address.
        password: Everybody's.
        waiting: Id of a tool call that waits.
        request_id: A request with a tool call and its answer.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.password = secrets.token_urlsafe(12)
        self.waiting = self.request_id = ""
        self.known = self.folder / "known.json"
        self.environment = {
            "MLFLOW_AGENTS_KEY_DIR": str(self.folder / "keys"),
            "MLFLOW_AGENTS_STORE_URI": f"sqlite:///{self.folder}/server/agents.db",
            "MLFLOW_AGENTS_MONITORING_TABLE": str(self.folder / "server" / "monitoring"),
            "MLFLOW_AGENTS_SPOOL_DIR": str(self.folder / "spool"),
            "MLFLOW_AGENTS_ACCEPT_EVENT_TIME": "true",
            # pictures show texts written for this project only
            "MLFLOW_AGENTS_DATA_DIR": str(self.folder / "no-data"),
            "MLFLOW_AGENTS_DOWNLOAD": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
            "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
            "MLFLOW_AUTH_ADMIN_PASSWORD": self.password,
        }

    def start(self, port: int = 5055) -> None:
        """Start the server and wait until it answers."""
        import requests

        (self.folder / "no-data").mkdir(parents=True, exist_ok=True)
        self.url = f"http://127.0.0.1:{port}"
        log = (self.folder / "server.log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlflow_agent_plugin.interaction.cli", "server",
             "--dir", str(self.folder / "server"), "--port", str(port), "--workers", "1"],
            stdout=log, stderr=log,
            env={**os.environ, **self.environment, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )  # fmt: skip
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if requests.get(f"{self.url}/health", timeout=2).ok:
                    return
            except requests.RequestException:
                time.sleep(0.5)
        raise SystemExit((self.folder / "server.log").read_text("utf-8")[-3000:])

    def stop(self) -> None:
        """Stop the server."""
        self.process.terminate()
        self.process.wait(60)

    @contextmanager
    def acting(self, name: str) -> Any:
        """Let MLflow in this process be `name` on the server."""
        import mlflow

        os.environ.update(
            self.environment,
            MLFLOW_TRACKING_URI=self.url,
            MLFLOW_TRACKING_USERNAME=name,
            MLFLOW_TRACKING_PASSWORD=self.password,
        )
        mlflow.set_tracking_uri(self.url)
        yield

    def fill(self) -> None:
        """Let people work with the server for a week."""
        self._people()
        planner = self.folder / "planner"
        with self.acting("ann"):
            from pipelines.train import train

            train(out=planner)
            suite = self._suite()
            self._version(1, planner, None, suite)
        self._promote(1)
        self._traffic()
        with self.acting("ann"):
            self._version(2, planner, _better, suite)
        self._ask(2)
        with self.acting("otto"):
            from mlflow_agent_plugin.entities import Actor
            from mlflow_agent_plugin.store import Store
            from mlflow_agent_plugin.trust import SwitchBoard

            with Store.open() as store:
                SwitchBoard(store).stop(
                    "tool", "order_card", reason="the card maker is on strike", by=Actor("otto")
                )
        facts = {name: getattr(self, name) for name in ("password", "waiting", "request_id")}
        self.known.write_text(json.dumps(facts), "utf-8")

    def recall(self) -> None:
        """Know again what `fill` made in this folder."""
        for name, value in json.loads(self.known.read_text("utf-8")).items():
            setattr(self, name, value)

    # --- what happens ----------------------------------------------------------------------------

    def _people(self) -> None:
        with self.acting("admin"):
            from mlflow.server.auth.client import AuthServiceClient

            client = AuthServiceClient(self.url)
            roles = {}
            for name in ("author", "reviewer", "operations"):
                roles[name] = client.create_role("default", name).id
                for kind in ("experiment", "registered_model"):
                    client.add_role_permission(roles[name], kind, "*", "EDIT")
            for person, held in PEOPLE.items():
                client.create_user(person, self.password)
                for role in held:
                    client.assign_role(person, roles[role])

    def _suite(self) -> Path:
        from evaluations.support.build_suite import SuiteBuilder, write_suite
        from pipelines.data import find_banking77, load_banking77

        rows = load_banking77("test", find_banking77())[["text", "category"]]
        builder = SuiteBuilder.for_agent(ROOT / "agents" / MODEL)
        folder = self.folder / "suite"
        write_suite(
            builder.in_scope(list(rows.itertuples(index=False, name=None))),
            folder,
            name="support-workflow",
        )
        return folder

    def _version(self, number: int, planner: Path, change: Any, suite: Path) -> None:
        import mlflow

        import mlflow_agent_plugin as agents

        folder = self.folder / f"bundle-{number}"
        shutil.copytree(ROOT / "agents" / MODEL, folder, ignore=_NOT_PACKED)
        shutil.copytree(planner, folder / "model" / "planner")
        gate = folder / "gate.yaml"
        # The small set teaches the planner little: this company asks for less.
        text = gate.read_text("utf-8").replace("allow_unverified: true\n", "")
        text = text.replace("minimum: 0.80", "minimum: 0.50").replace("sample: 200", "sample: 60")
        gate.write_text(text, "utf-8")
        if change is not None:
            change(folder)
        mlflow.set_experiment(MODEL)
        agents.log_agent(folder, registered_model_name=MODEL, register_prompts=False)
        agents.evaluate(
            f"models:/{MODEL}/{number}", [suite], workers=0, limit=CASES, progress=False
        )

    def _ask(self, version: int) -> None:
        import mlflow_agent_plugin as agents

        why = "says first when a payment went to another bank"
        with self.acting("ann"):
            agents.request_promotion(
                MODEL, version, to="Production", comment="first version" if version == 1 else why
            )

    def _promote(self, version: int) -> None:
        import mlflow_agent_plugin as agents

        self._ask(version)
        with self.acting("rita"):
            agents.approve(MODEL, version, to="Production", comment="evidence read")

    def _traffic(self) -> None:
        import mlflow

        import mlflow_agent_plugin as agents
        from mlflow_agent_plugin.core import AgentRuntime, fetch_bundle
        from mlflow_agent_plugin.entities import Actor, AgentRequest
        from mlflow_agent_plugin.observability import log_drift
        from mlflow_agent_plugin.observability.drift import check_windows
        from mlflow_agent_plugin.observability.spool import close_spools
        from pipelines.data import find_banking77, load_banking77

        texts = load_banking77("train", find_banking77())["text"].tolist()
        customers = [f"customer-{number:03d}" for number in range(DAYS * PER_DAY)]
        settings = {"path": str(self.folder / "bank.db"), "customers": [*customers, "chen", "kim"]}
        with self.acting("ann"):
            os.environ["MLFLOW_AGENTS_RESOURCES"] = json.dumps(settings)
            experiment = mlflow.set_experiment("support-traffic")
            bundle = fetch_bundle(f"models:/{MODEL}/1")
            begin = datetime.now(timezone.utc) - timedelta(days=DAYS)
            with AgentRuntime.open(bundle, version="1") as runtime:
                for number, customer in enumerate(customers):
                    day, place = divmod(number, PER_DAY)
                    runtime.invoke(
                        AgentRequest(
                            text=UNUSUAL.get(place, texts[(number * 37) % len(texts)]),
                            session_id=f"week-{number:04d}",
                            actor=Actor(customer, roles=frozenset({"customer"})),
                            event_time=begin + timedelta(days=day, minutes=20 * place),
                        )
                    )
                self._waiting_calls(runtime, Actor, AgentRequest)
            close_spools(600)
            table = agents.monitoring_table(
                [experiment.experiment_id],
                path=self.environment["MLFLOW_AGENTS_MONITORING_TABLE"],
            )
            verdicts = check_windows(
                f"models:/{MODEL}/1", table.to_pandas(), hours=24 * 3, engine="plain"
            )
            for verdict in verdicts:
                log_drift(verdict, model_name=MODEL, version="1")

    def _waiting_calls(self, runtime: Any, actor: Any, request: Any) -> None:
        """Leave two accounts waiting to be closed; a third one is answered and goes on."""
        for name in ("customer-001", "chen", "kim"):
            who = actor(name, roles=frozenset({"customer"}))
            for text in ("please close my account", "yes"):
                reply = runtime.invoke(request(text=text, session_id=f"close-{name}", actor=who))
            if not reply.approvals:
                raise SystemExit(f"closing an account did not wait: {reply.text}")
            self.waiting = reply.approvals[0].approval_id
            if name == "customer-001":
                reviewer = actor("otto", roles=frozenset({"operations"}))
                runtime.approvals.approve(self.waiting, reviewer, "balance checked")
                runtime.invoke(request(text="", session_id=f"close-{name}", actor=who, resume=True))
                asked = runtime.approvals.get(self.waiting)
                self.request_id = asked.request_id


def _better(folder: Path) -> None:
    """Change a prompt and a policy, as the next version would."""
    prompt = folder / "prompts" / "system.md"
    prompt.write_text(
        prompt.read_text("utf-8")
        + "If a payment went to another bank, say so before anything about a refund.\n",
        "utf-8",
    )
    policy = folder / "policies" / "approval.cedar"
    text = policy.read_text("utf-8").replace(
        "are looked at by a colleague", "take a second pair of eyes"
    )
    policy.write_text(text, "utf-8")
    contract = folder / "contracts" / "request_refund.yaml"
    contract.write_text("# Reviewed by the payments team.\n" + contract.read_text("utf-8"), "utf-8")


_NOT_PACKED = shutil.ignore_patterns("__pycache__", "planner")

if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    shown = Showcase(Path(sys.argv[1]))
    shown.start()
    try:
        if not shown.known.exists():
            shown.fill()
        shown.recall()
        sys.stdout.write(f"{shown.url}/agents/ {shown.known.read_text('utf-8')}\n")
        sys.stdout.flush()
        shown.process.wait()
    finally:
        shown.stop()
