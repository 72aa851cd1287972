"""What docs/deploy/ tells a cluster is valid, belongs together, and names what exists."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from helpers.pages import ROOT

from mlflow_agent_plugin.config import ENVIRONMENT_VARIABLES
from mlflow_agent_plugin.interaction.cli.serve import serve

DEPLOY = ROOT / "docs" / "deploy"
MANIFESTS = [
    (path.name, document)
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text("utf-8"))
]
NAMES = [
    f"{name}:{document['kind']}/{document['metadata']['name']}" for name, document in MANIFESTS
]
NOT_KUBERNETES = {"SecretProviderClass"}  # of the Secrets Store CSI driver
KUBERNETES = "1.31"


def of_kind(*kinds):
    return [document for _, document in MANIFESTS if document["kind"] in kinds]


def pods():
    return {
        each["metadata"]["name"]: each["spec"]["template"] for each in of_kind("Deployment", "Job")
    }


def containers():
    return [
        (name, container)
        for name, pod in pods().items()
        for container in (*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"])
    ]


@pytest.mark.parametrize("document", [each for _, each in MANIFESTS], ids=NAMES)
def test_a_manifest_fits_the_schema_of_kubernetes(document):
    if document["kind"] in NOT_KUBERNETES:
        assert document["apiVersion"] == "secrets-store.csi.x-k8s.io/v1"
        assert document["spec"]["provider"]
        return
    kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_a_manifest_that_does_not_fit_would_be_noticed():
    document = {**of_kind("HorizontalPodAutoscaler")[0], "spec": {"maxReplica": 3}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_everything_a_design_asks_of_a_deployment_is_there():
    found = {document["kind"] for _, document in MANIFESTS}
    assert {"Deployment", "HorizontalPodAutoscaler", "PodDisruptionBudget", "NetworkPolicy", "Job",
            "SecretProviderClass", "Service"} <= found  # fmt: skip
    assert "Secret" not in found, "secrets belong into the secrets store"


def test_what_a_manifest_refers_to_is_there():
    labels = [pod["metadata"]["labels"] for pod in pods().values()]
    for document in of_kind("Service"):
        assert document["spec"]["selector"] in labels
    for document in of_kind("PodDisruptionBudget", "Deployment"):
        assert document["spec"]["selector"]["matchLabels"] in labels
    for document in of_kind("HorizontalPodAutoscaler"):
        assert document["spec"]["scaleTargetRef"]["name"] in pods()
    for document in of_kind("NetworkPolicy"):
        chosen = document["spec"]["podSelector"].get("matchLabels")
        assert chosen is None or chosen in labels
    made = {
        secret["secretName"]: {item["objectName"] for item in secret["data"]}
        for secret in of_kind("SecretProviderClass")[0]["spec"]["secretObjects"]
    }
    stored = of_kind("SecretProviderClass")[0]["spec"]["parameters"]["objects"]
    aliases = {
        entry["objectAlias"] for item in yaml.safe_load(stored) for entry in item["jmesPath"]
    }
    assert set().union(*made.values()) <= aliases
    configs = {document["metadata"]["name"] for document in of_kind("ConfigMap")}
    for _, container in containers():
        for source in container.get("envFrom", ()):
            assert source.get("configMapRef", {}).get("name", "agents") in configs
            assert source.get("secretRef", {}).get("name", "agents") in made
        for mount in container["volumeMounts"]:
            assert mount["name"] in {"secrets", "state"}
        for argument in map(str, container.get("args", ())):
            for word in argument.replace("=", " ").split():
                if word.startswith("/run/secrets/agents/"):
                    assert Path(word).name in aliases


def test_variables_options_and_modules_exist():
    for document in of_kind("ConfigMap"):
        for name in document["data"]:
            assert name in ENVIRONMENT_VARIABLES.values() or not name.startswith("MLFLOW_AGENTS_")
    known = {option for parameter in serve.params for option in parameter.opts}
    (front,) = (
        container for name, container in containers()
        if name == "front-end" and container["name"] == "front-end"
    )  # fmt: skip
    assert {a.partition("=")[0] for a in front["args"] if a.startswith("--")} <= known
    assert (
        "mlflow_agent_plugin.core.prepare"
        in pods()["migrate-0-1-0"]["spec"]["containers"][0]["args"][0]
    )


@pytest.mark.parametrize(("name", "container"), containers(), ids=str)
def test_no_container_may_become_more_than_it_is(name, container):
    pod = pods()[name]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["resources"]["limits"]["memory"]
    assert container["image"].rpartition(":")[2] not in ("", "latest")


def test_whatever_no_policy_names_is_closed():
    closed = [d for d in of_kind("NetworkPolicy") if d["spec"]["podSelector"] == {}]
    (nothing,) = (d for d in closed if "egress" not in d["spec"] and "ingress" not in d["spec"])
    assert set(nothing["spec"]["policyTypes"]) == {"Ingress", "Egress"}


def test_the_dockerfile_has_no_finding():
    hadolint = Path(sys.executable).parent / "hadolint"
    found = str(hadolint) if hadolint.exists() else shutil.which("hadolint")
    if found is None:
        pytest.skip("hadolint is not installed")
    run = subprocess.run([found, str(DEPLOY / "Dockerfile")], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
    stages = (DEPLOY / "Dockerfile").read_text("utf-8")
    for copied in ("setup.cfg", "pyproject.toml", "constraints.txt", "mlflow_agent_plugin"):
        assert copied in stages
        assert (ROOT / copied).exists()


@pytest.mark.integration
def test_the_migration_prepares_a_database_that_serving_then_only_uses(postgres_uri):
    """A user without the right to make tables opens store and sessions afterwards."""
    import psycopg

    from mlflow_agent_plugin.core.checkpoints import open_checkpointer
    from mlflow_agent_plugin.store import Store

    command = [sys.executable, "-m", "mlflow_agent_plugin.core.prepare"]
    for _ in range(2):
        run = subprocess.run(
            command, capture_output=True, text=True,
            env={**os.environ, "MLFLOW_AGENTS_STORE_URI": postgres_uri},
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
        assert "is up to date" in run.stdout
        assert ":***@" in run.stdout
    database = postgres_uri.rpartition("/")[2]
    with psycopg.connect(postgres_uri, autocommit=True) as admin:
        admin.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        admin.execute(f"CREATE ROLE \"worker_{database}\" LOGIN PASSWORD 'w'")
        admin.execute(
            f'GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO "worker_{database}"'
        )
        admin.execute(f'GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO "worker_{database}"')
    worker = postgres_uri.replace(
        postgres_uri.partition("//")[2].partition("@")[0], f"worker_{database}:w"
    )
    try:
        with Store.open(worker) as store:
            saver = open_checkpointer(store)
            assert saver.get_tuple({"configurable": {"thread_id": "t"}}) is None
    finally:
        with psycopg.connect(postgres_uri, autocommit=True) as admin:
            admin.execute(f'DROP OWNED BY "worker_{database}"')
            admin.execute(f'DROP ROLE "worker_{database}"')


def test_a_migration_of_a_database_that_is_away_fails_in_one_line(tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "mlflow_agent_plugin.core.prepare"], capture_output=True, text=True,
        env={**os.environ, "MLFLOW_AGENTS_STORE_URI": f"sqlite:///{tmp_path}/no/such.db"},
    )  # fmt: skip
    assert run.returncode == 1
    assert "unable to open" in run.stderr
    assert "Traceback" not in run.stderr
