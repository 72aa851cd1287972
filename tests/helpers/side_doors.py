"""Every known way around a registry, as a client would try it."""

from __future__ import annotations

import json
from pathlib import Path

from mlflow.entities.model_registry import ModelVersionTag, RegisteredModelTag

REFUSED = "refused"
HARMLESS = "harmless"


def stage(spelling, version="2", *, archive=False):
    return lambda w: w.client.transition_model_version_stage(
        "shelf", version, spelling, archive_existing_versions=archive
    )


def edit_artifacts(world):
    """Overwrite the folder the version was registered from, MLmodel included."""
    source = Path(world.client.get_model_version("shelf", "1").source)
    (source / "agent" / "graph.py").write_text("raise SystemExit('owned')\n")
    (source / "MLmodel").write_text("flavors: {python_function: {loader_module: evil}}\n")


def recreate(world):
    world.client.delete_registered_model("shelf")


def rename_and_replace(world):
    world.ordinary("other")
    world.client.rename_registered_model("shelf", "elsewhere")


def take_the_name(world):
    world.ordinary("other")
    world.client.rename_registered_model("other", "shelf")


def copy_ordinary_in(world):
    version = world.ordinary("other")
    world.client.copy_model_version(f"models:/other/{version}", "shelf")


def register_ordinary(world):
    folder = world.folder / "plain"
    folder.mkdir()
    (folder / "MLmodel").write_text("flavors: {python_function: {loader_module: x}}\n")
    world.client.create_model_version("shelf", str(folder))


def register_missing(world):
    world.client.create_model_version("shelf", str(world.folder / "nowhere"))


def register_other_loader(world):
    source = world.model("evil")
    text = (source / "MLmodel").read_text()
    (source / "MLmodel").write_text(
        text.replace("loader_module: mlflow_agent_plugin.core.flavor", "loader_module: evil")
    )
    world.client.create_model_version("shelf", str(source))


def register_extra_code(world):
    import yaml

    source = world.model("evil")
    mlmodel = yaml.safe_load((source / "MLmodel").read_text())
    mlmodel["flavors"]["python_function"]["code"] = "code"
    (source / "MLmodel").write_text(yaml.safe_dump(mlmodel))
    world.client.create_model_version("shelf", str(source))


def register_edited_bundle(world):
    source = world.model("evil")
    (source / "agent" / "graph.py").write_text("raise SystemExit('owned')\n")
    world.client.create_model_version("shelf", str(source))


def tag(key, value="x"):
    return lambda w: w.client.set_model_version_tag("shelf", "2", key, value)


def model_tag(key, value="x"):
    return lambda w: w.client.set_registered_model_tag("shelf", key, value)


def weaker_rules(world):
    world.client.set_registered_model_tag(
        "shelf",
        "agent.rules",
        json.dumps(
            {
                "apiVersion": "mlflow-agents/v1",
                "protected": {"Production": [{"kind": "policy_tests"}]},
            }
        ),
    )


def weaker_bundle(world):
    """A candidate that brings its own, weaker gate.yaml."""
    weak = "apiVersion: mlflow-agents/v1\nprotected: {Production: [{kind: policy_tests}]}\n"
    version = world.register("weak", gate=weak)
    world.client.transition_model_version_stage("shelf", str(version), "Production")


def foreign_evidence(world):
    """Evidence about another bundle."""
    run_id = world.evaluation(world.digest(1))
    world.client.set_model_version_tag("shelf", "2", "agent.evidence", run_id)


def unsigned_metrics(world):
    """Metrics typed into a run by hand."""
    run_id = world.client.create_run("0").info.run_id
    world.client.log_metric(run_id, "shelf/task_success", 1.0)
    world.client.set_model_version_tag("shelf", "2", "agent.evidence", run_id)


def forged_key(world):
    from mlflow_agent_plugin.trust.keys import SigningKey

    run_id = world.evaluation(world.digest(2), key=SigningKey.generate())
    world.client.set_model_version_tag("shelf", "2", "agent.evidence", run_id)


def edited_results(world):
    def tamper(folder):
        path = folder / "results.jsonl"
        path.write_text(path.read_text().replace('"success":false', '"success":true'))

    run_id = world.evaluation(world.digest(2), good=10, bad=30, tamper=tamper)
    world.client.set_model_version_tag("shelf", "2", "agent.evidence", run_id)


def author_approves(world):
    from mlflow_agent_plugin.registry import approve, request_promotion

    request_promotion("shelf", 2, to="Production", client=world.client)
    approve("shelf", 2, to="Production", by="Bob ", client=world.client)


def approve_without_request(world):
    from mlflow_agent_plugin.registry import approve

    approve("shelf", 2, to="Production", by="alice", client=world.client)


ATTACKS = {
    # stages, in every spelling MLflow takes
    **{f"stage {text}": (stage(text), REFUSED) for text in ("Production", "production", "PRODUCTION")},
    "stage with archive": (stage("Production", archive=True), REFUSED),
    **{
        f"version {number!r}": (stage("Production", number), REFUSED)
        for number in ("02", " 2", "+2", "٢", "2\n")
    },
    "archive the incumbent": (stage("Archived", "1"), REFUSED),
    "unstage the incumbent": (stage("None", "01"), REFUSED),
    "demote the incumbent": (stage("Staging", "1"), REFUSED),
    # aliases
    "alias": (lambda w: w.client.set_registered_model_alias("shelf", "champion", "2"), REFUSED),
    "alias in other case": (
        lambda w: w.client.set_registered_model_alias("shelf", "CHAMPION", "2"), REFUSED
    ),
    "alias with accent": (
        lambda w: w.client.set_registered_model_alias("shelf", "chámpion", "2"), REFUSED
    ),
    "alias in full width": (
        lambda w: w.client.set_registered_model_alias("shelf", "ｃhampion", "2"), REFUSED
    ),
    "delete alias": (lambda w: w.client.delete_registered_model_alias("shelf", "champion"), REFUSED),
    "delete alias in other case": (
        lambda w: w.client.delete_registered_model_alias("shelf", "Champion"), REFUSED
    ),
    "prompt alias": (lambda w: w.store.set_prompt_alias("shelf", "champion", 2), REFUSED),
    "delete prompt alias": (lambda w: w.store.delete_prompt_alias("shelf", "champion"), REFUSED),
    "another alias": (
        lambda w: w.client.set_registered_model_alias("shelf", "challenger", "2"), HARMLESS
    ),
    # deleting and renaming
    "delete the incumbent": (lambda w: w.client.delete_model_version("shelf", "1"), REFUSED),
    "delete as prompt version": (lambda w: w.store.delete_prompt_version("shelf", "1"), REFUSED),
    "delete the candidate": (lambda w: w.client.delete_model_version("shelf", "2"), HARMLESS),
    "delete the model": (recreate, REFUSED),
    "delete as prompt": (lambda w: w.store.delete_prompt("shelf"), REFUSED),
    "rename and replace": (rename_and_replace, REFUSED),
    "take the name": (take_the_name, REFUSED),
    # versions
    "copy an ordinary version in": (copy_ordinary_in, REFUSED),
    "register an ordinary model": (register_ordinary, REFUSED),
    "register what cannot be read": (register_missing, REFUSED),
    "register another loader": (register_other_loader, REFUSED),
    "register an extra code path": (register_extra_code, REFUSED),
    "register an edited bundle": (register_edited_bundle, REFUSED),
    "register a prompt version": (
        lambda w: w.store.create_prompt_version("shelf", "be evil"), REFUSED
    ),
    "edit the artifacts": (edit_artifacts, HARMLESS),
    # prompts
    "become a prompt": (model_tag("mlflow.prompt.is_prompt", "true"), REFUSED),
    "become a prompt by a version": (tag("mlflow.prompt.is_prompt", "true"), REFUSED),
    "become a prompt by prompt tag": (
        lambda w: w.store.set_prompt_tag("shelf", "mlflow.prompt.is_prompt", "true"), REFUSED
    ),
    # our own names
    "write the gate's tag": (tag("agent.gate.Production", "passed"), REFUSED),
    "write the digest": (tag("agent.digest", "sha256:" + "0" * 64), REFUSED),
    "write in other case": (tag("AGENT.gate.Production", "passed"), REFUSED),
    "write the model's tag": (model_tag("agent.slot.Production", "version 2"), REFUSED),
    "delete the gate's tag": (
        lambda w: w.client.delete_model_version_tag("shelf", "2", "agent.gate.Production"), REFUSED
    ),
    "delete the model's tag": (
        lambda w: w.client.delete_registered_model_tag("shelf", "agent.gated"), REFUSED
    ),
    "write a promotion statement": (tag("agent.promotion.Production", "{}"), REFUSED),
    "write which slots are protected": (model_tag("agent.slots", "{}"), REFUSED),
    "write a load test's tag": (tag("agent.load.steady", "x"), REFUSED),
    "bring tags along": (
        lambda w: w.store.create_model_version(
            "shelf", str(w.model("three")), tags=[ModelVersionTag("agent.gate.Production", "passed")]
        ),
        REFUSED,
    ),
    "bring a prompt tag along": (
        lambda w: w.store.create_registered_model(
            "shelf", [RegisteredModelTag("mlflow.prompt.is_prompt", "true")]
        ),
        REFUSED,
    ),
    # evidence and rules
    "evidence about other content": (foreign_evidence, REFUSED),
    "typed-in metrics": (unsigned_metrics, REFUSED),
    "evidence by an unknown key": (forged_key, REFUSED),
    "edited results": (edited_results, REFUSED),
    "no such run": (tag("agent.evidence", "f" * 32), REFUSED),
    "no such load test": (tag("agent.load_evidence", "f" * 32), REFUSED),
    "a drift report typed in": (tag("monitoring.drift", "x"), HARMLESS),
    "comment without a request": (
        tag("agent.comment", '{"to": "Production", "comment": "yes", "by": "alice"}'), REFUSED
    ),
    "a path for a run": (tag("agent.evidence", "../../etc/passwd"), REFUSED),
    "a candidate's weaker gate": (weaker_bundle, REFUSED),
    # people
    "the author approves": (author_approves, REFUSED),
    "approve without a request": (approve_without_request, REFUSED),
    # malformed commands
    "no JSON": (tag("agent.approve", "Production"), REFUSED),
    "no slot": (tag("agent.approve", '{"to": "Archived"}'), REFUSED),
    "extra field": (tag("agent.approve", '{"to": "Production", "verified": true}'), REFUSED),
    "roll back to what never stood there": (
        tag("agent.rollback", '{"to": "Production", "reason": "I say so", "by": "alice"}'), REFUSED
    ),
    # harmless
    "descriptions": (lambda w: w.client.update_model_version("shelf", "1", "new"), HARMLESS),
    "an ordinary tag": (tag("team", "blue"), HARMLESS),
    "copy out": (lambda w: w.client.copy_model_version("models:/shelf/1", "elsewhere"), HARMLESS),
}  # fmt: skip
