"""A gated registry on a database of its own, with agents, evidence and people to try it with."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta
from pathlib import Path

from helpers.shelf_agent import say, write_bundle

GATE = """
apiVersion: mlflow-agents/v1
allow_unverified: true
protected:
  Production: &rules
    - {kind: suite, name: shelf, metric: task_success, minimum: 0.7, minimum_sample: 20}
    - {kind: safety, suite: shelf}
    - {kind: policy_tests}
    - {kind: contracts}
    - {kind: approvals, count: 1, role: reviewer}
  "@champion": *rules
  Staging:
    - {kind: policy_tests}
"""


class World:
    """A registry and everything around it."""

    NAME = "shelf"

    def __init__(self, folder: Path, registry_uri: str) -> None:
        from mlflow import MlflowClient

        self.folder = folder
        self.registry_uri = registry_uri
        self.client = MlflowClient(registry_uri=registry_uri)
        self.runs_location: str | None = (folder / "runs").as_uri()

    @property
    def store(self):
        return self.client._get_registry_client().store

    def bundle(self, text="hello", gate=GATE, edit=None) -> Path:
        """Write a bundle; `text` makes its content differ."""
        root = self.folder / "bundles" / text
        if root.exists():
            shutil.rmtree(root)
        write_bundle(root, [say(text)], folder=self.folder / "shelf")
        if gate is not None:
            (root / "gate.yaml").write_text(gate)
        if edit is not None:
            edit(root)
        return root

    def model(self, text="hello", gate=GATE, edit=None) -> Path:
        """Save an agent as an MLflow model folder."""
        from mlflow_agent_plugin.core.flavor import save_model
        from mlflow_agent_plugin.package import load_bundle

        target = self.folder / "models" / text
        if target.exists():
            shutil.rmtree(target)
        save_model(target, bundle=load_bundle(self.bundle(text, gate, edit)))
        return target

    def register(self, text="hello", gate=GATE, *, name=NAME, edit=None, **kwargs):
        """Register an agent version; return its number."""
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = str(self.model(text, gate, edit))
        return int(self.client.create_model_version(name, source, **kwargs).version)

    def ordinary(self, name="ordinary", text="model"):
        """Register a version of an ordinary model; return its number."""
        from mlflow.exceptions import MlflowException

        folder = self.folder / "ordinary" / text
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "MLmodel").write_text("flavors: {python_function: {loader_module: x}}\n")
        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        return int(self.client.create_model_version(name, str(folder)).version)

    def digest(self, version, name=NAME):
        return self.client.get_model_version(name, str(version)).tags["agent.digest"]

    def evaluation(
        self,
        agent_digest,
        *,
        good=40,
        bad=0,
        unsafe=0,
        suite="shelf",
        suite_digest="sha256:" + "5" * 64,
        key=None,
        age=timedelta(0),
        tamper=None,
    ):
        """Log an evaluation run with signed evidence; return its id."""
        from mlflow_agent_plugin.entities import utc_now
        from mlflow_agent_plugin.trust.evidence import (
            CaseResult,
            evidence_statement,
            sign_evidence,
            write_results,
        )
        from mlflow_agent_plugin.trust.keys import KeyStore

        experiment = self.client.get_experiment_by_name("evaluations")
        experiment_id = (
            experiment.experiment_id
            if experiment
            else self.client.create_experiment("evaluations", artifact_location=self.runs_location)
        )
        run_id = self.client.create_run(experiment_id).info.run_id
        rows = [
            CaseResult(
                case_id=f"c{number:04}",
                suite=suite,
                outcome="answered",
                success=number >= bad,
                unsafe_calls=1 if number < unsafe else 0,
            )
            for number in range(good + bad)
        ]
        folder = self.folder / "evidence" / run_id
        folder.mkdir(parents=True)
        digest = write_results(rows, folder / "results.jsonl")
        statement = evidence_statement(
            agent="shelf",
            agent_digest=agent_digest,
            suite=suite,
            suite_digest=suite_digest,
            results_digest=digest,
            rows=rows,
            run_id=run_id,
            evaluated_at=utc_now() - age,
        )
        envelope = sign_evidence(statement, key or KeyStore().signing_key())
        (folder / "evidence.dsse.json").write_text(json.dumps(envelope))
        if tamper is not None:
            tamper(folder)
        self.client.log_artifacts(run_id, str(folder), f"evaluation/{suite}")
        return run_id

    def evaluate(self, version, *, name=NAME, **kwargs):
        """Evaluate a version and hand the evidence in; return the run."""
        run_id = self.evaluation(self.digest(version, name), **kwargs)
        self.client.set_model_version_tag(name, str(version), "agent.evidence", run_id)
        return run_id

    def ready(self, version, to="Production", *, name=NAME, **kwargs):
        """Give a version everything `to` asks for, and leave moving it to the caller."""
        from mlflow_agent_plugin.registry import approve, request_promotion

        self.evaluate(version, name=name, **kwargs)
        request_promotion(name, version, to=to, apply=False, client=self.client)
        approve(name, version, to=to, by="alice", client=self.client)

    def promoted(self, text, to="Production", *, name=NAME):
        """Register a version and bring it into a slot; return its number."""
        from mlflow_agent_plugin.registry import promote

        version = self.register(text, name=name)
        self.ready(version, to, name=name)
        promote(name, version, to=to, client=self.client)
        return version

    def loads(self, to="Production", name=NAME):
        """Return what a consumer of the slot loads: version and bytes of the answer it gives."""
        import mlflow

        mlflow.set_registry_uri(self.registry_uri)
        uri = f"models:/{name}{to}" if to.startswith("@") else f"models:/{name}/{to}"
        try:
            folder = Path(mlflow.artifacts.download_artifacts(uri))
        except Exception as error:
            return f"{type(error).__name__}"
        finally:
            mlflow.set_registry_uri(None)
        return {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name not in {"registered_model_meta", "agent-promotion.json"}
        }

    def events(self, kind=None):
        return self.store._transactions.audit.events(kind=kind)
