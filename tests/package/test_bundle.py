"""load_bundle accepts what is in order and says in one line what is not."""

from __future__ import annotations

import os
import pickle
import socket
import sys

import pytest

from mlflow_agent_plugin.errors import (
    AgentError,
    BundleError,
    ContractError,
    GraphError,
    IntegrityError,
    KnowledgeError,
    ManifestError,
    PromptError,
)
from mlflow_agent_plugin.package import copy_bundle, load_bundle


def refused(root, kind=BundleError):
    """Load `root`, expecting one line of error of exactly `kind`; return the line."""
    with pytest.raises(AgentError) as caught:
        load_bundle(root)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    assert caught.value.where
    assert caught.value.hint
    return str(caught.value)


# --- the folder ----------------------------------------------------------------------------------


def test_a_folder_that_does_not_exist_is_refused(tmp_path):
    assert "no such folder" in refused(tmp_path / "nowhere")


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    assert "not a folder" in refused(tmp_path / "file")


def test_an_empty_folder_is_refused(tmp_path):
    assert "empty" in refused(tmp_path)


def test_a_folder_of_nothing_but_excluded_files_is_empty(tmp_path):
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "x.pyc").write_bytes(b"x")
    assert "empty" in refused(tmp_path)


def test_a_folder_without_manifest_is_refused(write):
    assert "no agent.yaml" in refused(write({"agent.yaml": None}), ManifestError)


def test_a_manifest_with_the_wrong_suffix_is_named_in_the_hint(write, files):
    root = write({"agent.yaml": None, "agent.yml": files["agent.yaml"]})
    assert "Rename agent.yml" in refused(root, ManifestError)


@pytest.mark.parametrize("target", ["README.md", "knowledge", "nowhere", "/etc/passwd"])
def test_a_symbolic_link_is_refused_wherever_it_leads(write, target):
    root = write()
    (root / "link").symlink_to(target)
    assert "symbolic links" in refused(root)


def test_a_symbolic_link_deep_in_the_bundle_is_refused(write):
    root = write()
    (root / "knowledge" / "more.md").symlink_to(root / "README.md")
    assert "more.md" in refused(root)


def test_a_bundle_reached_through_a_symbolic_link_is_the_bundle(write, tmp_path):
    root = write()
    (tmp_path / "current").symlink_to(root)
    assert load_bundle(tmp_path / "current").digest == load_bundle(root).digest


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX pipes")
def test_a_pipe_is_refused_without_waiting_for_a_writer(write):
    root = write()
    os.mkfifo(root / "pipe")
    assert "only regular files" in refused(root)


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs Unix sockets")
def test_a_socket_is_refused(write, tmp_path, monkeypatch):
    monkeypatch.chdir(write())
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s")
        assert "only regular files" in refused(tmp_path / "bundle")


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("a.md", "A.md"),
        ("straße.md", "STRASSE.md"),
        ("caf\u00e9.md", "cafe\u0301.md"),
        ("Notes/a.md", "notes/b.md"),
    ],
)
def test_names_that_differ_only_by_case_or_normalisation_are_refused(write, one, two):
    root = write({one: "x", two: "y"})
    if len([path for path in root.rglob("*") if path.is_file()]) != 14:
        pytest.skip("this file system folds names")
    assert "differ only by case or Unicode normalisation" in refused(root)


@pytest.mark.skipif(sys.platform in {"win32", "darwin"}, reason="such names cannot exist")
@pytest.mark.parametrize("name", [b"\xff.md", b"a\nb.md", b"a\\b.md", b"a\x1b[2J.md"])
def test_a_name_not_every_system_can_store_is_refused(write, name):
    root = write()
    with open(os.path.join(os.fsencode(root), name), "wb"):  # noqa: PTH118, PTH123
        pass
    assert "file name" in refused(root)


def test_too_many_files_are_refused_before_any_is_read(write, monkeypatch):
    monkeypatch.setattr("mlflow_agent_plugin.package.inventory.MAX_FILES", 3)
    assert "more than 3 files" in refused(write())


def test_a_bundle_that_is_too_large_is_refused_before_it_is_read(write):
    root = write()
    with (root / "model" / "huge.bin").open("wb") as file:
        file.truncate(2 * 1024**3 + 1)  # sparse: costs no disk
    assert "larger than 2 GB" in refused(root)


def test_a_text_file_that_is_too_long_is_refused(write):
    root = write({"knowledge/all.md": "x" * (5 * 1024**2 + 1)})
    assert "longer than 5 MB" in refused(root)


def test_folders_nested_too_deeply_are_refused(write):
    assert "nested deeper" in refused(write({"d/" * 40 + "x.md": "x"}))


# --- the manifest --------------------------------------------------------------------------------


def test_an_empty_manifest_is_refused(write):
    assert "agent.yaml:1: is empty" in refused(write({"agent.yaml": "# to do\n"}), ManifestError)


def test_a_manifest_that_is_a_list_is_refused(write):
    assert "must hold fields" in refused(write({"agent.yaml": "- a\n"}), ManifestError)


def test_an_unknown_field_names_file_line_and_the_likely_field(write_edited):
    root = write_edited("agent.yaml", "window_turns: 5", "window_turn: 5")
    line = refused(root, ManifestError)
    assert "agent.yaml:24: memory.window_turn: unknown field" in line
    assert "Did you mean `window_turns`?" in line


def test_an_unknown_field_like_no_other_lists_the_allowed_ones(write_edited):
    root = write_edited("agent.yaml", "window_turns: 5", "zzz: 5")
    assert "allowed here: strategy, window_turns" in refused(root, ManifestError)


def test_a_missing_field_names_the_section_it_belongs_to(write_edited):
    root = write_edited("agent.yaml", "      entry_point: tools:refund\n", "")
    line = refused(root, ManifestError)
    assert "agent.yaml:18: tools.python[0].entry_point: required field is missing" in line


def test_a_wrong_type_says_what_stands_there(write_edited):
    root = write_edited("agent.yaml", "window_turns: 5", "window_turns: many")
    line = refused(root, ManifestError)
    assert "agent.yaml:24: memory.window_turns: input should be a valid integer" in line
    assert "'many'" in line


def test_a_value_that_may_be_a_secret_is_not_repeated(write_edited):
    root = write_edited("agent.yaml", "window_turns: 5", "api_key: hunter2")
    assert "hunter2" not in refused(root, ManifestError)


def test_several_problems_are_one_error_about_the_first_with_the_lines_of_the_others(write, files):
    text = (
        files["agent.yaml"].replace("owner: shop-team", "owner: 3").replace("turns: 5", "turns: 0")
    )
    line = refused(write({"agent.yaml": text}), ManifestError)
    assert "agent.yaml:4: owner" in line
    assert "line 24 (memory.window_turns)" in line


def test_a_field_that_stands_twice_is_refused(write_edited):
    root = write_edited("agent.yaml", "memory:", "owner: other\nmemory:")
    line = refused(root, ManifestError)
    assert "agent.yaml:23: key `owner` stands here for the second time (first on line 4)" in line


def test_an_unknown_tool_in_the_workflow_is_found_on_its_line(write_edited):
    root = write_edited("agent.yaml", "[refund, find_order]", "[refund, fly]")
    line = refused(root, ManifestError)
    assert "agent.yaml:7: workflow.allowed_tools" in line
    assert "fly" in line


@pytest.mark.parametrize(
    "path",
    ["../secrets.md", "/etc/passwd", "a/../../b", ".", "", "a\\\\b", "\\0x"],
)
def test_a_path_out_of_the_bundle_is_refused(write_edited, path):
    root = write_edited("agent.yaml", "system: prompts/system.md", f'system: "{path}"')
    assert "agent.yaml" in refused(root, ManifestError)


def test_a_manifest_that_is_not_utf8_names_the_line(write, files):
    data = files["agent.yaml"].encode().replace(b"shop-team", b"\xe9quipe")
    assert "agent.yaml:4: is not UTF-8" in refused(write({"agent.yaml": data}), ManifestError)


# --- contracts -----------------------------------------------------------------------------------


def test_a_tool_without_contract_is_refused_where_the_tool_is_listed(write):
    line = refused(write({"contracts/refund.yaml": None}), ContractError)
    assert "agent.yaml:18: tools.python[0].name: tool `refund` has no contract" in line
    assert "contracts/refund.yaml" in line


@pytest.mark.parametrize("name", ["fly.yaml", "fly.yml", "refund.yml", "more/refund.yaml"])
def test_a_contract_without_tool_is_refused(write, files, name):
    root = write({f"contracts/{name}": files["contracts/find_order.yaml"]})
    assert "belongs to no tool" in refused(root, ContractError)


def test_a_contract_under_another_tools_name_is_refused(write, files):
    root = write({"contracts/refund.yaml": files["contracts/find_order.yaml"]})
    line = refused(root, ContractError)
    assert "refund.yaml:2: name" in line


def test_a_contract_that_is_no_json_schema_names_the_side(write_edited):
    root = write_edited(
        "contracts/find_order.yaml", "output: {type: object}", "output: {type: odd}"
    )
    assert "find_order.yaml:6: output" in refused(root, ContractError)


def test_an_example_that_breaks_its_own_schema_is_refused(write_edited):
    root = write_edited("contracts/refund.yaml", "amount_minor: 100", "amount_minor: 0")
    line = refused(root, ContractError)
    assert "refund.yaml:20: examples[0].input.amount_minor" in line


@pytest.mark.parametrize(
    "schema",
    [
        '{type: object, $ref: "http://169.254.169.254/x"}',
        '{type: object, properties: {a: {$ref: "file:///etc/passwd"}}}',
        '{type: object, $id: "http://example.com/a"}',
        '{type: object, $ref: "#/$defs/missing"}',
        '{type: object, $ref: "#/$defs/a", $defs: {a: {$ref: "#/$defs/a"}}}',
        '{type: object, $defs: {a: {anyOf: [{$ref: "#/$defs/b"}]}, b: {not: {$ref: "#/$defs/a"}}}}',
    ],
)
def test_a_schema_that_refers_outside_or_round_in_circles_is_refused(write_edited, schema):
    root = write_edited("contracts/find_order.yaml", "output: {type: object}", f"output: {schema}")
    assert "output" in refused(root, ContractError)


def test_a_recursive_schema_that_takes_the_value_apart_is_fine(write_edited):
    schema = '{type: object, properties: {next: {$ref: "#/$defs/n"}}, $defs: {n: {properties: {next: {$ref: "#/$defs/n"}}}}}'
    load_bundle(
        write_edited("contracts/find_order.yaml", "output: {type: object}", f"output: {schema}")
    )


@pytest.mark.parametrize(
    ("path", "old", "new", "says"),
    [
        ("contracts/refund.yaml", "effect: write", "effect: write\nretry: {attempts: 2}", "retry"),
        ("contracts/refund.yaml", "effect: write", "effect: write\nsink_arguments: [to]", "sink"),
        ("contracts/refund.yaml", "version: 1.0.0", "version: '1.0'", "refund.yaml:3: version"),
        ("contracts/find_order.yaml", "output: {type: object}", "output: {}", "type object"),
        (
            "contracts/find_order.yaml",
            "effect: read",
            "effect: destroy",
            "find_order.yaml:7: effect",
        ),
    ],
)
def test_a_contract_that_contradicts_itself_is_refused(write_edited, path, old, new, says):
    assert says in refused(write_edited(path, old, new), ContractError)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("- name: find_order", "- name: refund", "more than once"),
        (
            "[refund, find_order]",
            "[refund]\n  forbidden_tools: [refund]",
            "both allows and forbids",
        ),
        ("name: shop", "name: 'shop; drop'", "agent.yaml:2: name"),
        ("apiVersion: mlflow-agents/v1", "apiVersion: v2", "agent.yaml:1: apiVersion"),
        ("graph:build", "graph.build", "agent.yaml:9: graph.entry_point"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(write_edited, old, new, says):
    assert says in refused(write_edited("agent.yaml", old, new), ManifestError)


# --- prompts and code ----------------------------------------------------------------------------


def test_a_prompt_without_file_is_refused(write):
    line = refused(write({"prompts/system.md": None}), PromptError)
    assert "agent.yaml:15: prompts.system" in line


def test_a_prompt_variable_that_the_code_does_not_pass_is_refused(write):
    root = write({"prompts/system.md": "Hi\n{{ goal }}\n{{ customer }}\n"})
    line = refused(root, PromptError)
    assert "system.md:3: prompt `system` uses `customer`" in line
    assert "graph.py:5" in line


def test_rendering_a_prompt_the_manifest_does_not_list_is_refused(write_edited):
    root = write_edited("graph.py", 'prompts["system"]', 'prompts["sistem"]')
    assert "graph.py:5: renders prompt `sistem`" in refused(root, PromptError)


def test_a_render_call_that_unpacks_values_is_left_to_run_time(write):
    code = 'def build(context):\n    return context.prompts["system"].render(**context.settings)\n'
    load_bundle(write({"graph.py": code}))


def test_a_graph_module_that_does_not_exist_is_refused(write_edited):
    root = write_edited("agent.yaml", "graph:build", "plan:build")
    assert "agent.yaml:9: graph.entry_point: entry point plan:build" in refused(root, GraphError)


def test_a_graph_module_without_the_function_is_refused(write_edited):
    root = write_edited("graph.py", "def build", "def bild")
    assert "defines no `build`" in refused(root, GraphError)


def test_a_tool_module_without_the_function_is_refused(write_edited):
    root = write_edited("tools.py", "def refund", "def refound")
    assert "agent.yaml:19: tools.python[0].entry_point" in refused(root)


def test_python_that_does_not_parse_names_the_line(write):
    assert "shop.py:2: is not valid Python" in refused(write({"shop.py": "x = 1\nif:\n"}))


def test_python_with_a_nul_byte_is_refused(write):
    assert "shop.py:1: is not valid Python" in refused(write({"shop.py": b"x = 1\0\n"}))


def test_loading_runs_no_code_of_the_bundle(write, tmp_path):
    trap = f"open({str(tmp_path / 'ran')!r}, 'w')\n"
    root = write(dict.fromkeys(("conftest.py", "sitecustomize.py", "__init__.py"), trap))
    load_bundle(root)
    assert not (tmp_path / "ran").exists()


def test_a_missing_knowledge_folder_is_refused(write):
    line = refused(write({"knowledge/returns.md": None}), KnowledgeError)
    assert "agent.yaml:26: retrieval.path" in line


# --- what a good bundle gives --------------------------------------------------------------------


def test_a_good_bundle_gives_manifest_contracts_prompts_and_folders(write):
    root = write()
    bundle = load_bundle(str(root))
    assert bundle.name == "shop"
    assert list(bundle.contracts) == ["refund", "find_order"]
    assert bundle.prompts["system"].variables == {"goal"}
    assert bundle.policy_dir() == root / "policies"
    assert bundle.knowledge_dir() == root / "knowledge"
    assert bundle.model_dir() == root / "model"
    assert bundle.read_text("README.md") == "A shop agent.\n"
    assert "gate.yaml" in bundle.locations


def test_a_file_that_changed_after_loading_is_not_read(write):
    root = write()
    bundle = load_bundle(root)
    (root / "README.md").write_text("A shap agent.\n")
    with pytest.raises(IntegrityError, match="changed after the bundle was loaded"):
        bundle.read_text("README.md")


def test_a_file_that_became_a_link_after_loading_is_not_read(write):
    root = write()
    bundle = load_bundle(root)
    (root / "README.md").unlink()
    (root / "README.md").symlink_to(root / "shop.py")
    with pytest.raises(BundleError):
        bundle.read_text("README.md")


def test_a_file_that_is_not_part_of_the_bundle_is_not_read(write):
    bundle = load_bundle(write())
    (bundle.root / "late.md").write_text("x")
    for path in ("late.md", "../bundle/README.md", "/etc/passwd"):
        with pytest.raises(BundleError, match="no such file"):
            bundle.read_text(path)


# --- copying -------------------------------------------------------------------------------------


def test_a_copy_holds_exactly_the_digested_files(write, tmp_path):
    root = write({"__pycache__/a.pyc": b"x", ".git/HEAD": "x", ".DS_Store": "x", "b.pyc": b"x"})
    (root / "empty").mkdir()
    bundle = load_bundle(root)
    copy_bundle(bundle, tmp_path / "deep" / "copy")
    copy = load_bundle(tmp_path / "deep" / "copy")
    assert copy.digest == bundle.digest
    found = {p.relative_to(copy.root).as_posix() for p in copy.root.rglob("*") if p.is_file()}
    assert found == {entry.path for entry in bundle.digest.files}
    assert not (copy.root / "empty").exists()


def test_a_copy_into_an_empty_folder_is_fine(write, tmp_path):
    (tmp_path / "there").mkdir()
    copy_bundle(load_bundle(write()), tmp_path / "there")
    assert (tmp_path / "there" / "agent.yaml").is_file()


def test_a_copy_never_overwrites(write, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine").write_text("x")
    with pytest.raises(BundleError, match="not an empty folder"):
        copy_bundle(load_bundle(write()), tmp_path / "there")
    assert [p.name for p in (tmp_path / "there").iterdir()] == ["mine"]


def test_a_bundle_is_not_copied_into_itself(write):
    bundle = load_bundle(write())
    with pytest.raises(BundleError, match="into itself"):
        copy_bundle(bundle, bundle.root / "copy")


def test_a_copy_of_a_changed_file_leaves_nothing_behind(write, tmp_path):
    bundle = load_bundle(write())
    (bundle.root / "shop.py").write_text("evil = True\n")
    (tmp_path / "out").mkdir()
    with pytest.raises(IntegrityError):
        copy_bundle(bundle, tmp_path / "out" / "copy")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_name_in_decomposed_form_is_copied_and_read_by_its_composed_one(write, tmp_path):
    bundle = load_bundle(write({"knowledge/cafe\u0301.md": "x"}))
    assert bundle.read_text("knowledge/caf\u00e9.md") == "x"
    copy_bundle(bundle, tmp_path / "copy")
    assert load_bundle(tmp_path / "copy").digest == bundle.digest


def test_a_bundle_can_be_sent_to_another_process(write):
    bundle = load_bundle(write())
    bundle.prompts["system"].render(goal="x")
    copy = pickle.loads(pickle.dumps(bundle))
    assert copy.digest == bundle.digest
    assert copy.read_text("README.md") == bundle.read_text("README.md")
