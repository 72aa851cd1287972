"""The API, by hand and fuzzed from its own OpenAPI document."""

from __future__ import annotations

from pathlib import Path

import pytest
import schemathesis
from helpers.team import PASSWORD
from hypothesis import HealthCheck, given, settings

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[3]


def test_nobody_gets_an_answer_without_a_credential(team):
    schema = team.api("GET", "/openapi.json").json()
    for path, methods in schema["paths"].items():
        for method in methods:
            filled = path.replace("{name}", "desk").replace("{version}", "1")
            answer = team.api(method.upper(), filled.replace("{approval_id}", "apr-1"), None)
            assert answer.status_code == 401, (method, path)
            assert answer.json()["error_code"] == "UNAUTHENTICATED"
    assert team.api("GET", "/openapi.json", None).status_code == 401


def test_every_call_of_the_document_is_in_the_reference(team):
    text = (ROOT / "docs" / "reference" / "api.md").read_text("utf-8")
    for path, methods in team.api("GET", "/openapi.json").json()["paths"].items():
        for method in methods:
            assert f"`{method.upper()} {path}" in text, f"{method} {path}"


def test_me_is_who_mlflow_knows(team):
    assert team.api("GET", "/me", "rita").json() == {
        "user": "rita", "tenant": "default", "roles": ["author", "reviewer"], "verified": True
    }  # fmt: skip
    assert team.api("GET", "/me", "admin").json()["roles"] == ["admin"]


def test_two_people_promote_by_the_api(team):
    suite = team.register("api_desk")
    here = "/agents/api_desk/versions/1"
    refused = team.api("POST", f"{here}/promote", to="Production")
    assert refused.status_code == 403
    assert refused.json()["error_code"] == "PERMISSION_DENIED"
    assert "no evidence" in refused.json()["message"]
    team.evaluate("api_desk", 1, suite)
    assert team.api("POST", f"{here}/request", to="Production", comment="first").ok
    assert team.api("POST", f"{here}/approve", to="Production").status_code == 403
    listed = team.api("GET", "/requests", "rita").json()["rows"]
    assert [row["applies"] for row in listed if row["name"] == "api_desk"] == [True]
    approved = team.api("POST", f"{here}/approve", "rita", to="Production")
    assert approved.json()["applied"] is True, approved.text
    asked = {"to": "@champion", "apply": False}
    assert team.api("POST", f"{here}/request", **asked).ok
    held = team.api("POST", f"{here}/approve", "rita", to="@champion").json()
    assert (held["applied"], "asks to wait" in held["why"]) == (False, True)
    gate = team.api("GET", f"{here}/gate", to="@champion").json()
    assert gate["passed"] is True
    assert team.api("POST", f"{here}/promote", "rita", to="@champion").ok
    agents = team.api("GET", "/agents", contains="api_desk").json()["rows"]
    assert agents[0]["slots"]["Production"] == 1
    told = team.api("GET", "/agents/api_desk/history", to="Production").json()
    assert [(entry["kind"], entry["version"]) for entry in told] == [("promoted", 1)]


def test_one_tenants_calls_are_not_told_to_another(team):
    other = team.waiting_call(tenant="third-bank", tool="secret_tool")
    for who in ("otto", "rita", "ann", "nora"):
        listed = team.api("GET", "/approvals", who, limit=200).json()["rows"]
        assert other.approval_id not in {row["approval_id"] for row in listed}
        for method, path, body in (
            ("GET", "", {}),
            ("POST", "/approve", {}),
            ("POST", "/reject", {"reason": "x"}),
            ("POST", "/edit", {"arguments": {}, "reason": "x"}),
            ("POST", "/claim", {}),
        ):
            answer = team.api(method, f"/approvals/{other.approval_id}{path}", who, **body)
            assert answer.status_code == 404
    assert team.api("GET", "/audit", "ann").status_code == 403
    told = team.api("GET", "/audit", "rita", limit=500).json()["rows"]
    assert {row["tenant"] for row in told} <= {"default"}


def test_a_call_from_another_site_is_refused(team, desk):
    answer = team.post(
        f"/api/agents/v1/agents/{desk}/versions/1/request", "ann",
        json={"to": "Production"}, headers={"Sec-Fetch-Site": "cross-site"},
    )  # fmt: skip
    assert answer.status_code == 403
    answer = team.post(
        f"/api/agents/v1/agents/{desk}/versions/1/request", "ann",
        data='{"to": "Production"}', headers={"Content-Type": "text/plain"},
    )  # fmt: skip
    assert answer.status_code == 422


def test_whatever_the_document_allows_and_forbids_the_api_stays_up_and_keeps_secrets(team, desk):
    """Calls made from the OpenAPI document: no 5xx, nothing without login, no other tenant's."""
    secret = "secret-of-the-fourth-bank"
    theirs = team.waiting_call(tenant="fourth-bank", tool=secret, reason=secret)
    schema = schemathesis.openapi.from_dict(team.api("GET", "/openapi.json").json())
    base = f"{team.url}/api/agents/v1"
    for operation in schema.get_all_operations():
        strategy = operation.ok().as_strategy()

        @settings(
            max_examples=6, deadline=None, database=None,
            suppress_health_check=list(HealthCheck), derandomize=True,
        )  # fmt: skip
        @given(case=strategy)
        def fuzz(case):
            unknown = case.call(base_url=base, timeout=60)
            assert unknown.status_code == 401, (case.method, case.path, unknown.text)
            if "approval_id" in (case.path_parameters or {}):
                case.path_parameters["approval_id"] = theirs.approval_id
            answer = case.call(base_url=base, auth=("rita", PASSWORD), timeout=60)
            assert answer.status_code < 500, (case.method, case.path, answer.text)
            assert "Traceback" not in answer.text
            asked = f"{answer.request.url}{answer.request.body}"
            assert secret not in answer.text.replace(asked, ""), (case.method, case.path)

        fuzz()
    assert team.api("GET", f"/approvals/{theirs.approval_id}", "admin").json()["state"] == "waiting"
