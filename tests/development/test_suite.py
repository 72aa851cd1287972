"""Suites: what may stand in a file, and what every mistake is told."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_agent_plugin.development import (
    Scenario,
    Suite,
    check_suite,
    load_suite,
    write_scenarios,
    write_suite,
)
from mlflow_agent_plugin.errors import SuiteError

HEAD = "apiVersion: mlflow-agents/v1\nname: tiny\nscenarios:\n"
CASE = "  - id: a\n    turns: [{user: look}]\n    expect: {outcomes: [answered]}\n"


@pytest.fixture
def write(tmp_path):
    def write(text, name="suite.yaml"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


def line(case_id="a", **more):
    value = {"id": case_id, "turns": [{"user": "look"}], "expect": {"outcomes": ["answered"]}}
    return json.dumps({**value, **more}) + "\n"


# --- files that are no suite ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["missing.yaml", "missing.jsonl", "folder"])
def test_a_suite_that_is_not_there_is_an_error(tmp_path, name):
    (tmp_path / "folder").mkdir()
    with pytest.raises(SuiteError, match="there is no suite"):
        load_suite(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("suite.yaml", "", "suite.yaml:1: is empty"),
        ("suite.yaml", "# nothing\n", "suite.yaml:1: is empty"),
        ("suite.yaml", "[]\n", "must hold fields"),
        ("suite.yaml", HEAD.replace("scenarios:\n", ""), "the suite has no scenarios"),
        ("suite.yaml", HEAD + "  []\n", "the suite has no scenarios"),
        ("suite.yaml", "a: [", "is not valid YAML"),
        ("suite.txt", "a", "is neither YAML nor JSONL"),
        ("s.jsonl", "", "s.jsonl:1: is empty"),
        ("s.jsonl", "\n\n", "s.jsonl:1: is empty"),
        ("s.jsonl", "[1]\n", "s.jsonl:1: is not one JSON object"),
        ("s.jsonl", "{", "s.jsonl:1: is not one JSON object"),
        ("s.jsonl", '{"id": NaN}', "NaN is not a JSON number"),
        ("s.jsonl", '{"id": "a", "id": "b"}', "a key stands twice"),
        ("s.jsonl", line() + "\n" + line("b", typo=1), "s.jsonl:3: typo: unknown field"),
        ("s.jsonl", "[" * 100_000, "is not one JSON object"),
        ("s.jsonl", "x" * 1_000_001, "is longer than"),
    ],
)
def test_a_file_that_is_no_suite_is_one_clear_error(write, name, text, problem):
    with pytest.raises(SuiteError, match=problem) as error:
        load_suite(write(text, name))
    assert "\n" not in str(error.value)


def test_bytes_that_are_no_text_are_an_error(tmp_path):
    for name in ("s.jsonl", "s.yaml"):
        (tmp_path / name).write_bytes(b"\xff\xfe\x00")
        with pytest.raises(SuiteError, match=r"is not UTF-8|character YAML does not allow"):
            load_suite(tmp_path / name)


# --- mistakes in a scenario ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "field", "problem"),
    [
        ("expect: {outcome: [answered]}", "outcome", "Did you mean `outcomes`"),
        ("expect: {outcomes: [done]}", r"outcomes\[0\]", "'waiting_approval' or 'failed'"),
        ("expect: {}", "expect", "has no check"),
        ("expect: {outcomes: []}", "expect", "has no check"),
        ("expect: {in_order: true}", "expect", "has no check"),
        ("expect: {reply: {}}", "expect", "has no check"),
        ("expect: {reply: {matches: '('}}", "matches", "is not a regular expression"),
        ("expect: {end_state: [{path: a..b, equals: 1}]}", "path", "is not a path"),
        ("expect: {end_state: [{path: a}]}", r"end_state\[0\]", "needs one of the checks"),
        ("expect: {end_state: [{path: a, equal: 1}]}", "equal", "Did you mean `equals`"),
        ("expect: {calls_required: [{tool: x, arguments: {a: {is: 1}}}]}", "is", "unknown field"),
        ("expect: {calls_forbidden: [{}]}", "calls_forbidden", "either tool or effect"),
        ("expect: {calls_forbidden: [{effect: wrote}]}", "effect", "'read', 'write'"),
        ("turns: []", "turns", "at least 1 item"),
        ("faults: [{tool: x, kind: explode}]", "kind", "'rate_limit'"),
        ("faults: [{tool: x, kind: injection}]", "faults", "text is what an injection says"),
        ("replies: [{say: hi}]", "replies", "when_outcome or when_text_contains"),
        ("approvals: [{answer: maybe}]", "answer", "'approve' or 'reject'"),
        ("id: ' '", "id", "match"),
        ("max_seconds: 0", "max_seconds", "greater than 0"),
        ("max_turns: 0", "max_turns", "greater than or equal to 1"),
        ("seed: -1", "seed", "greater than or equal to 0"),
    ],
)
def test_each_mistake_names_file_line_and_field(write, text, field, problem):
    lines = {"id": "a", "turns": "[{user: look}]", "expect": "{outcomes: [answered]}"}
    key, _, value = text.partition(": ")
    lines[key] = value
    body = "".join(f"    {name}: {value}\n" for name, value in lines.items())
    with pytest.raises(SuiteError, match=rf"suite.yaml:\d+: scenarios\[0\].*{field}.*") as error:
        load_suite(write(HEAD + "  -\n" + body))
    assert problem in str(error.value)


def test_two_scenarios_of_one_id_are_an_error_that_names_both(write):
    with pytest.raises(SuiteError, match=r"suite.yaml:7.*'a'.*first: .*suite.yaml:4"):
        load_suite(write(HEAD + CASE + CASE))
    write(line(), "more.jsonl")
    with pytest.raises(SuiteError, match=r"more.jsonl:1.*first: .*suite.yaml"):
        load_suite(write(HEAD.replace("scen", "files: [more.jsonl]\nscen") + CASE))


@pytest.mark.parametrize("file", ["../x.yaml", "/etc/passwd", "none.yaml", "a.txt"])
def test_a_file_outside_or_missing_is_an_error(write, file):
    write("x", "a.txt")
    with pytest.raises(SuiteError, match=r"inside the bundle|no file|neither YAML"):
        load_suite(write(HEAD.replace("scen", f"files: ['{file}']\nscen") + CASE))


def test_a_number_json_cannot_spell_is_an_error(write):
    suite = load_suite(
        write(HEAD + CASE.replace("expect", "world: {n: 9007199254740993}\n    expect"))
    )
    with pytest.raises(SuiteError, match="cannot be hashed"):
        _ = suite.digest


# --- what fits together --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expect", "where", "hint"),
    [
        ({"calls_required": [{"tool": "smesh"}]}, r"calls_required\[0\].tool", "'smash'"),
        ({"calls_forbidden": [{"tool": "zzz"}]}, r"calls_forbidden\[0\].tool", "There are: look"),
        (
            {"calls_required": [{"tool": "look", "arguments": {"lamb": 1}}]},
            r"arguments.lamb",
            "Did you mean 'lamp'",
        ),
        ({"outcomes": ["answered"], "other_writes": ["swich"]}, r"other_writes\[0\]", "'switch'"),
    ],
)
def test_a_tool_or_argument_the_agent_does_not_have_is_an_error(lamps, expect, where, hint, write):
    suite = load_suite(write(line(expect=expect), "s.jsonl"))
    with pytest.raises(SuiteError, match=f"s.jsonl:1: .*{where}") as error:
        check_suite(suite, lamps)
    assert hint in str(error.value)


@pytest.mark.parametrize(
    "more",
    [
        {"faults": [{"tool": "lok", "kind": "error"}]},
        {"simulated": [{"tool": "lok", "output": {}}]},
        {"approvals": [{"tool": "lok", "answer": "approve"}]},
    ],
)
def test_a_world_of_tools_the_agent_does_not_have_is_an_error(lamps, more, write):
    suite = load_suite(write(line(**more), "s.jsonl"))
    with pytest.raises(SuiteError, match="Did you mean 'look'"):
        check_suite(suite, lamps)


def test_a_recorded_answer_that_breaks_the_contract_is_an_error(lamps, write):
    recorded = [{"tool": "look", "output": {"lamp": 5}}]
    suite = load_suite(write(line(simulated=recorded), "s.jsonl"))
    with pytest.raises(SuiteError, match="does not fit the tool's output contract"):
        check_suite(suite, lamps)


def test_a_suite_for_another_agent_is_an_error(lamps, write):
    text = HEAD.replace("name: tiny", "name: tiny\nagent: other") + CASE
    with pytest.raises(SuiteError, match="for agent 'other', not 'lamps'"):
        check_suite(load_suite(write(text)), lamps)


# --- what is read --------------------------------------------------------------------------------


def test_defaults_fill_what_scenarios_leave_out(write):
    text = """
apiVersion: mlflow-agents/v1
name: tiny
defaults:
  actor: {user: ana, roles: [customer]}
  world: {lamps: [desk], colour: red}
  max_seconds: 5
  tags: [all]
scenarios:
  - id: a
    turns: [{user: look}]
    expect: {outcomes: [answered]}
  - id: b
    actor: {user: bob}
    world: {colour: blue}
    tags: []
    turns: [{user: look}]
    expect: {outcomes: [answered]}
"""
    first, second = load_suite(write(text)).scenarios
    assert first.actor.user == "ana"
    assert first.world == {"lamps": ["desk"], "colour": "red"}
    assert (first.max_seconds, first.tags) == (5, ["all"])
    assert second.actor.user == "bob"
    assert second.actor.roles == []
    assert second.world == {"lamps": ["desk"], "colour": "blue"}
    assert second.tags == []


def test_a_folder_a_yaml_file_and_a_jsonl_file_say_the_same(write, tmp_path):
    one = load_suite(write(HEAD + CASE + CASE.replace("id: a", "id: b")))
    head = "apiVersion: mlflow-agents/v1\nname: tiny\nfiles: [parts/b.jsonl, parts/a.yaml]\n"
    write(head, "folder/suite.yaml")
    write(line("b"), "folder/parts/b.jsonl")
    write("scenarios:\n" + CASE, "folder/parts/a.yaml")
    split = load_suite(tmp_path / "folder")
    assert split.digest == one.digest
    named = load_suite(write(line("b") + line("a"), "tiny.jsonl"))
    assert named.name == "tiny"
    assert named.digest == one.digest


def test_a_jsonl_file_may_start_with_the_fields_of_a_suite(write):
    head = {"apiVersion": "mlflow-agents/v1", "name": "tiny", "agent": "lamps", "reference": False}
    suite = load_suite(write(json.dumps(head) + "\n" + line(), "other-name.jsonl"))
    assert (suite.name, suite.agent, suite.reference) == ("tiny", "lamps", False)
    with pytest.raises(SuiteError, match="must not hold scenarios or files"):
        load_suite(write(json.dumps({**head, "files": ["a.jsonl"]}) + "\n" + line(), "x.jsonl"))


def test_every_change_of_what_a_suite_says_changes_its_digest(write):
    base = HEAD + CASE
    digests = {load_suite(write(base)).digest}
    for old, new in [
        ("look", "Look"),
        ("id: a", "id: b"),
        ("name: tiny", "name: other"),
        ("name: tiny", "name: tiny\nagent: lamps"),
        ("name: tiny", 'name: tiny\nnow: "2026-02-01T00:00:00Z"'),
        ("name: tiny", "name: tiny\nenvironment: staging"),
        ("answered", "acted"),
        ("expect", "seed: 1\n    expect"),
        ("expect", "world: {a: 1}\n    expect"),
    ]:
        digests.add(load_suite(write(base.replace(old, new, 1))).digest)
    assert len(digests) == 10
    commented = base.replace("name: tiny", "name: tiny # a comment\ndescription: words")
    assert load_suite(write(commented)).digest in digests


def test_a_written_suite_reads_back_with_the_same_digest(write, tmp_path):
    text = HEAD.replace("name: tiny", "name: tiny\nagent: lamps\nreference: false")
    matcher = CASE.replace("{outcomes: [answered]}", "{end_state: [{path: a, equals: null}]}")
    suite = load_suite(write(text + matcher))
    write_suite(suite, tmp_path / "out.jsonl")
    again = load_suite(tmp_path / "out.jsonl")
    assert again.digest == suite.digest
    assert again.reference is False
    first = (tmp_path / "out.jsonl").read_bytes()
    write_suite(again, tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_bytes() == first
    write_scenarios(suite.scenarios, tmp_path / "cases.jsonl")
    assert load_suite(tmp_path / "cases.jsonl").scenarios == suite.scenarios
    with pytest.raises(SuiteError, match=r"has to end in .jsonl"):
        write_suite(suite, tmp_path / "out.yaml")


def test_a_sample_depends_on_the_seed_only():
    cases = [Scenario.model_validate(json.loads(line(f"c{n}"))) for n in range(50)]
    suite = Suite(name="tiny", scenarios=tuple(cases))
    again = Suite(name="tiny", scenarios=tuple(reversed(cases)))
    assert suite.sample(5, seed=1).digest == again.sample(5, seed=1).digest
    assert suite.sample(5, seed=1).digest != suite.sample(5, seed=2).digest
    assert len(suite.sample(5)) == 5
    assert suite.sample(500).digest == suite.digest


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text(min_size=1, max_size=50), min_size=1, max_size=3), st.text(min_size=1))
def test_any_text_a_user_may_type_survives_the_file(tmp_path_factory, texts, wanted):
    value = {
        "id": "a",
        "turns": [{"user": t} for t in texts],
        "expect": {"reply": {"contains": [wanted]}},
    }
    path = tmp_path_factory.mktemp("suite") / "s.jsonl"
    suite = Suite(name="s", scenarios=(Scenario.model_validate(value),))
    write_suite(suite, path)
    assert load_suite(path).scenarios == suite.scenarios


def test_importing_the_room_loads_nothing_heavy():
    import subprocess
    import sys

    code = (
        "import sys, mlflow_agent_plugin.development as d; assert 'evaluate' in dir(d);"
        "d.load_suite; heavy = {'mlflow','langchain','langgraph','sklearn','pandas','matplotlib'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
