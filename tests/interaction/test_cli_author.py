"""init, validate, policy, diff, log: on folders."""

from __future__ import annotations

import shutil

import pytest
from helpers.command_line import write_shelf
from helpers.shelf_agent import call, say, write_bundle


@pytest.fixture
def desk(tmp_path, cli):
    """Give a new agent as `init` writes it."""
    cli("init", "desk")
    return tmp_path / "desk"


def test_a_new_agent_is_in_order_and_carries_its_own_name(cli, desk):
    assert cli("validate", desk, "--json").json["name"] == "desk"
    assert "desk is in order: sha256:" in cli("validate", desk).out
    results = cli("policy", "test", desk, "--json").json
    assert len(results) == 5
    assert all(item["passed"] for item in results)
    for path in [*desk.rglob("*"), desk.parent / "desk-suite.yaml"]:
        if path.is_file():
            assert "order_desk" not in path.read_text("utf-8"), path


def test_a_new_agent_passes_its_suite(cli, desk):
    measured = cli(
        "evaluate", desk, "--suite", "desk-suite.yaml", "--workers", 0, "--no-submit", "--json"
    ).json
    assert measured["suites"]["desk"]["metrics"]["task_success"]["value"] == 1.0
    assert measured["submitted"] is None


def test_a_new_agent_never_overwrites_anything(tmp_path, cli, desk):
    before = sorted(tmp_path.rglob("*"))
    said = cli("init", "desk", code=1)
    assert "is there already" in said.err
    shutil.rmtree(desk)
    assert "desk-suite.yaml" in cli("init", "desk", code=1).err
    assert not desk.exists()
    assert [path for path in sorted(tmp_path.rglob("*")) if path not in before] == []


@pytest.mark.parametrize("name", ["", "../up", "a/b", "1st", "a b", "ä", "x" * 200, "-x.y"])
def test_a_name_no_agent_can_have_writes_nothing(tmp_path, cli, name):
    before = sorted(tmp_path.iterdir())
    said = cli("init", "--", name, code=1)
    assert "is not an agent name" in said.err
    assert sorted(tmp_path.iterdir()) == before


def test_a_folder_that_cannot_be_written_is_one_line(cli):
    assert "cannot be written" in cli("init", "desk", "--dir", "/proc", code=1).err


def test_validate_names_file_line_and_what_to_do(cli, desk):
    path = desk / "agent.yaml"
    path.write_text(path.read_text().replace("description:", "descripton:", 1))
    said = cli("validate", desk, code=1)
    assert said.err.startswith("mlflow-agents: ")
    assert "agent.yaml" in said.err
    assert "descripton" in said.err
    document = cli("validate", desk, "--json", code=1).json["error"]
    assert document["type"] == "ManifestError"
    assert document["hint"]


def test_a_failing_policy_test_is_shown_with_why_and_exit_code_1(cli, desk):
    path = desk / "policies" / "tests.yaml"
    path.write_text(path.read_text().replace("expect: allow", "expect: deny"))
    said = cli("policy", "test", desk, code=1)
    assert "1 of 5 failed" in said.out
    assert "fail find_order with what the user said deny allow" in said.words
    assert [item["passed"] for item in cli("policy", "test", desk, "--json", code=1).json].count(
        False
    ) == 1


def test_explain_says_which_policy_decides_and_what_would_change_it(cli, desk):
    call_ = ("policy", "explain", desk, "cancel_order", "--arguments", '{"order_id": "A-2"}')
    said = cli(*call_)
    assert "cancel_order-high-risk" in said.out
    assert "if a supervisor approves this call -> allow" in said.out
    assert cli(*call_, "--json").json["decision"]["value"] == "needs_approval"
    denied = cli(*call_, "--provenance", "untrusted", "--json").json["decision"]
    assert denied["value"] == "deny"
    actor = cli(*call_, "--as", "eve@shop:supervisor", "--verified", "--json").json["actor"]
    assert actor == {"user": "eve", "tenant": "shop", "roles": ["supervisor"], "verified": True}


def test_scaffold_writes_policies_whose_tests_pass(cli, desk):
    shutil.rmtree(desk / "policies")
    said = cli("policy", "scaffold", desk, "--role", "boss")
    assert "6 policies, 5 policy tests passed" in said.words
    assert all(item["passed"] for item in cli("policy", "test", desk, "--json").json)
    assert "boss" in (desk / "policies" / "approval.cedar").read_text()


def test_scaffold_replaces_nothing_unasked(cli, desk):
    before = {path.name: path.read_bytes() for path in (desk / "policies").iterdir()}
    said = cli("policy", "scaffold", desk, code=1)
    assert "is there already" in said.err
    assert "--force" in said.err
    assert {path.name: path.read_bytes() for path in (desk / "policies").iterdir()} == before
    cli("policy", "scaffold", desk, "--force", "--role", "boss")
    assert "supervisor" in (desk / "policies" / "roles.yaml").read_text()


def test_scaffold_refuses_a_role_that_is_no_name(cli, desk):
    assert "is no role name" in cli("policy", "scaffold", desk, "--role", 'a"b', code=1).err


def test_a_new_agent_starts_with_the_scaffolded_policies(cli, desk):
    before = {path.name: path.read_text() for path in (desk / "policies").iterdir()}
    cli("policy", "scaffold", desk, "--force", "--role", "supervisor")
    assert {path.name: path.read_text() for path in (desk / "policies").iterdir()} == before


@pytest.mark.parametrize(
    ("more", "code", "says"),
    [
        (["--arguments", "{"], 2, "is not JSON"),
        (["--arguments", "[1]"], 2, "is not a JSON object"),
        (["--arguments", "[" * 100_000], 2, "is not JSON"),
        (["--provenance", "heaven"], 2, "heaven"),
        (["--as", ":"], 1, "no usable user"),
    ],
)
def test_explain_refuses_what_it_cannot_read(cli, desk, more, code, says):
    said = cli("policy", "explain", desk, "find_order", *more, code=code)
    assert says in said.err


def test_explain_denies_an_unknown_tool(cli, desk):
    said = cli("policy", "explain", desk, "drop_tables", "--json")
    assert said.json["decision"]["value"] == "deny"


def test_diff_shows_changed_text_and_nothing_between_twins(tmp_path, cli, shelf):
    other = write_shelf(tmp_path / "other" / "shelf", "a chair")
    assert "a chair" in cli("diff", shelf, other).out
    changed = cli("diff", shelf, other, "--json").json
    assert changed == cli("diff", shelf, other, "--json").json
    assert "@@" not in cli("diff", shelf, shelf).out


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["validate", "nowhere"], 2),
        (["validate", "file.txt"], 2),
        (["validate", "empty"], 1),
        (["log", "empty"], 1),
        (["policy", "test", "empty"], 1),
        (["diff", "nowhere", "empty"], 1),
        (["diff", "models:/", "empty"], 1),
        (["diff", "s3://", "empty"], 1),
        (["evaluate", "empty", "--suite", "nothing.yaml"], 1),
        (["evaluate", "empty"], 2),
    ],
)
def test_missing_and_empty_folders_are_one_message(tmp_path, cli, words, code):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("text")
    said = cli(*words, code=code)
    assert said.out == ""
    assert said.err.strip()
    assert "Traceback" not in said.err
    assert cli(*words, "--json", code=code).json["error"]["message"]


def test_a_refused_bundle_leaves_no_run_no_model_and_no_version(tmp_path, cli, gated):
    root = write_bundle(tmp_path / "bad", [call("look", "x"), say("y")], folder=tmp_path / "s")
    (root / "contracts" / "burn.yaml").unlink()
    said = cli("log", root, "--register", "bad", code=1)
    assert "burn" in said.err
    from mlflow import MlflowClient

    client = MlflowClient()
    assert client.search_registered_models() == []
    ids = [item.experiment_id for item in client.search_experiments()]
    assert client.search_runs(ids) == []
    assert list(client.search_logged_models(ids)) == []
