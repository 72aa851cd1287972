"""The second version: labels, retraining, comparison, promotion, and the way back."""

from __future__ import annotations

from mlflow_agent_plugin.errors import AgentRunError
from mlflow_agent_plugin.interaction.demo.report import Step
from mlflow_agent_plugin.interaction.demo.story import (
    HELD_BACK,
    MODEL,
    REVIEWER,
    STAGE,
    WHOLE_CASES,
    Story,
    evaluated_line,
    rate,
    trained,
    where_is,
)
from mlflow_agent_plugin.interaction.demo.traffic import OUT_OF_SCOPE


def improve(story: Story) -> None:
    """Label, retrain, compare, promote version 2."""
    import mlflow_agent_plugin as agents

    with story.step("Colleagues label what the agent did not know") as step:
        step.result = _label(story)
    with story.step("Retrain: `mlflow run -e retrain`, which is `dvc repro`") as step:
        step.result = _retrain(story)
    with story.step("Version 1 and 2 on later queries about the new products") as step:
        results = {}
        for version in (1, 2):
            results[version] = agents.evaluate(
                f"models:/{MODEL}/{version}",
                suites=[story.suites["later"]],
                workers=story.workers,
                progress=False,
                submit=False,
            )
            evaluated_line(story, f"v{version}_later", results[version])
        step.result = "; ".join(
            f"version {v}: " + rate(story, f"v{v}_later", "task_success") for v in (1, 2)
        )
    with story.step(f"Approve version 2: that promotes it to {STAGE}") as step:
        agents.approve(MODEL, 2, to=STAGE, comment="better where it was weak", by=REVIEWER)
        step.result = where_is(STAGE)


def _label(story: Story) -> str:
    import mlflow
    from mlflow.entities import AssessmentSource, AssessmentSourceType

    from mlflow_agent_plugin.lifecycle.labels import LABEL_ASSESSMENT

    source = AssessmentSource(source_type=AssessmentSourceType.HUMAN, source_id="annotators")
    count = 0
    for item in story.answered:
        if item.query.intent in (*HELD_BACK, OUT_OF_SCOPE) and item.trace_id is not None:
            mlflow.log_expectation(
                trace_id=item.trace_id,
                name=LABEL_ASSESSMENT,
                value=item.query.intent,
                source=source,
            )
            count += 1
    return f"{count} requests labelled on their traces"


def _retrain(story: Story) -> str:
    import mlflow

    import mlflow_agent_plugin as agents
    from mlflow_agent_plugin.lifecycle import collect_remarks

    experiment = mlflow.get_experiment_by_name("support-traffic")
    assert experiment is not None
    with story.place.output("retrain.log"):
        done = agents.retrain(
            story.reason,
            project=story.place.project,
            workspace=story.place.folder / "retrain",
            model_name=MODEL,
            to=STAGE,
            labels=collect_remarks([experiment.experiment_id]),
            suites=[story.suites["whole"]],
            exclude_intents=HELD_BACK,
            parameters={
                "agent": story.place.folder / "bundle-1",
                "workers": story.workers,
                "holdout_share": 0,
                "limit": WHOLE_CASES,
            },
        )
    report = done.details["train"]
    story.result.numbers["planner_2"] = report
    story.result.numbers["retrain"] = done.to_dict()
    story.result.numbers["v2_whole"] = done.evaluation["suites"]["support-workflow"]
    sample = story.result.numbers["v2_whole"]["task_success"]["n"]
    return (
        f"{trained(report)}; version {done.version} waits for {done.to}: task success"
        f" {rate(story, 'v2_whole', 'task_success')} on {sample:,} scenarios of the whole suite"
    )


def back_and_forward(story: Story) -> None:
    """Roll back and forward, then verify the audit."""
    import mlflow_agent_plugin as agents

    with story.step("Roll back") as step:
        agents.rollback(MODEL, to=STAGE, reason="demonstration", by=REVIEWER)
        step.result = where_is(STAGE)
    with story.step("And forward again") as step:
        agents.rollback(MODEL, to=STAGE, version=2, reason="demonstration over", by=REVIEWER)
        step.result = where_is(STAGE)
    with story.step("Verify the audit") as step:
        step.result = _verify(step)


def _verify(_step: Step) -> str:
    from mlflow_agent_plugin.store import Store
    from mlflow_agent_plugin.trust import verify_audit

    with Store.open() as store:
        found = verify_audit(store)
    if not found.ok:
        raise AgentRunError(f"the audit does not verify: {found.problems[:3]}")
    return f"{found.events:,} events, every hash and signature fits"
