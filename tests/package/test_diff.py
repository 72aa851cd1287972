"""A diff says what changed, by component, file and contract, and hides nothing."""

from __future__ import annotations

import json

import pytest

from mlflow_agent_plugin.errors import BundleError, IntegrityError
from mlflow_agent_plugin.package import ChangeKind, ContractStatus, diff, load_bundle


def kinds(result):
    """Return what became of each changed component."""
    return {
        name: kind.value for name, kind in result.components.items() if kind is not ChangeKind.SAME
    }


def test_a_folder_that_is_no_bundle_is_refused(write, tmp_path):
    with pytest.raises(BundleError):
        diff(write(), tmp_path / "none")


def test_two_copies_are_the_same(write):
    result = diff(write(), write(name="other"))
    assert result.same
    assert result.files == ()
    assert kinds(result) == {}
    assert "The bundles are the same." in result.to_text()
    assert "same" in result._repr_html_()


def test_a_changed_prompt_is_one_component_with_a_readable_diff(write):
    result = diff(
        write(),
        load_bundle(write({"prompts/system.md": "You help.\n\nGoal: {{ goal }}\n"}, name="b")),
    )
    assert kinds(result) == {"prompts": "changed"}
    (change,) = result.files
    assert (change.path, change.kind, change.component) == (
        "prompts/system.md",
        ChangeKind.CHANGED,
        "prompts",
    )
    assert "-You help customers.\n+You help.\n" in change.text
    assert change.text in result.to_text()
    assert "same" in {c.status.value for c in result.contracts.values()}


def test_added_removed_and_renamed_files_are_told_apart(write):
    result = diff(
        write({"old.md": "old\n", "moved.md": "long lost\n"}),
        write({"new.md": "new\n", "notes/moved.md": "long lost\n"}, name="b"),
    )
    found = {change.path: (change.kind.value, change.old_path) for change in result.files}
    assert found == {
        "new.md": ("added", None),
        "old.md": ("removed", None),
        "notes/moved.md": ("renamed", "moved.md"),
    }
    assert "+new" in result.to_text()
    assert "-old" in result.to_text()


def test_a_component_that_was_not_there_is_added(write, files, tmp_path):
    without = files["agent.yaml"].replace("retrieval:\n  path: knowledge\n", "")
    result = diff(write({"agent.yaml": without, "knowledge/returns.md": None}), write(name="b"))
    assert kinds(result) == {"retrieval": "added", "knowledge": "added"}
    back = diff(tmp_path / "b", str(tmp_path / "bundle"))
    assert kinds(back) == {"retrieval": "removed", "knowledge": "removed"}


def test_a_file_that_changed_its_component_is_shown(write, files):
    moved = files["agent.yaml"].replace("path: knowledge", "path: facts")
    result = diff(
        write({"facts/a.md": "x"}), write({"facts/a.md": "x", "agent.yaml": moved}, name="b")
    )
    notes = {change.path: change.note for change in result.files}
    assert notes["facts/a.md"] == "same content, was part of code"
    assert notes["knowledge/returns.md"] == "same content, was part of knowledge"


def test_contracts_are_new_removed_compatible_and_breaking(write, files):
    refund = files["contracts/refund.yaml"].replace("[order]", "[order, amount_minor]")
    fly = files["contracts/find_order.yaml"].replace("find_order", "fly")
    manifest = files["agent.yaml"].replace("find_order", "fly")
    code = files["tools.py"].replace("find_order", "fly")
    result = diff(
        write(),
        write(
            {
                "contracts/refund.yaml": refund,
                "contracts/find_order.yaml": None,
                "contracts/fly.yaml": fly,
                "agent.yaml": manifest,
                "tools.py": code,
            },
            name="b",
        ),
    )
    assert {tool: change.status for tool, change in result.contracts.items()} == {
        "find_order": ContractStatus.REMOVED,
        "fly": ContractStatus.NEW,
        "refund": ContractStatus.BREAKING,
    }
    assert result.needs_major == ["refund"]
    text = result.to_text()
    assert "refund: breaking, 1.0.0 -> 1.0.0, needs a new major version" in text
    assert "argument `amount_minor` became required" in text


def test_binary_files_show_digest_and_size_only(write):
    result = diff(write(), write({"model/weights.bin": b"\x00\x09"}, name="b"))
    (change,) = result.files
    assert change.text == ""
    assert change.note.startswith("binary; 3 bytes -> 2 bytes; sha256 ")


def test_latin_text_is_binary_and_no_error(write):
    result = diff(write({"a.dat": b"\xe9"}), write({"a.dat": b"\xe8"}, name="b"))
    assert result.files[0].note.startswith("binary")


def test_a_long_diff_is_cut_and_says_so(write):
    result = diff(
        write({"a.md": "".join(f"{i}\n" for i in range(1000))}),
        write({"a.md": "".join(f"{i}!\n" for i in range(1000))}, name="b"),
    )
    (change,) = result.files
    assert change.text.count("\n") == 399
    assert "more lines of the diff are not shown" in change.note


def test_long_lines_are_cut_and_say_so(write):
    result = diff(write({"a.md": "x" * 100_000}), write({"a.md": "y" * 100_000}, name="b"))
    assert "long lines are cut" in result.files[0].note
    assert len(result.to_text()) < 5_000


@pytest.mark.parametrize("unit", ["x\n" * 20_000, "x" * (2 * 1024 * 1024)])
def test_very_long_files_are_not_compared_line_by_line(write, unit):
    result = diff(write({"model/a.txt": unit}), write({"model/a.txt": unit + "y"}, name="b"))
    (change,) = result.files
    assert change.text == ""
    assert "too long" in change.note


@pytest.mark.parametrize(
    ("hidden", "shown"),
    [
        ("\x1b[2K\x1b[1A", "\\x1b[2K\\x1b[1A"),
        ("\u202eevil\u2066", "\\u202eevil\\u2066"),
        ("zero\u200bwidth", "zero\\u200bwidth"),
        ("\ufeff", "\\ufeff"),
        ("end\r", "end\\r"),
        ("a\u2028+forged", "a\\u2028+forged"),
        ("a\x0b-forged", "a\\x0b-forged"),
    ],
)
def test_what_cannot_be_seen_is_written_out(write, hidden, shown):
    result = diff(write({"a.md": "x\n"}), write({"a.md": f"x{hidden}\n"}, name="b"))
    assert f"+x{shown}" in result.to_text()
    assert hidden not in result.to_text()


def test_a_changed_line_ending_and_a_missing_last_line_feed_show(write):
    result = diff(write({"a.md": "a\nb\n"}), write({"a.md": "a\r\nb"}, name="b"))
    assert "+a\\r" in result.files[0].text
    assert "+b (no line feed at the end)" in result.files[0].text


def test_html_is_escaped(write):
    result = diff(write(), write({"<b>.md": "<script>alert(1)</script>\n"}, name="b"))
    page = result._repr_html_()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "<b>" not in page


def test_the_dictionary_is_plain_json(write, files):
    result = diff(write(), write({"README.md": "Other.\n"}, name="b"))
    data = json.loads(json.dumps(result.to_dict()))
    assert data["components"]["code"] == "changed"
    assert data["files"][0]["path"] == "README.md"
    assert data["contracts"]["refund"]["status"] == "same"
    assert str(result) == result.to_text()
    assert result.changed_components == ["code"]


def test_a_bundle_that_changed_after_loading_is_not_shown(write):
    one, two = load_bundle(write()), load_bundle(write({"README.md": "Other.\n"}, name="b"))
    (two.root / "README.md").write_text("Third.\n")
    with pytest.raises(IntegrityError):
        diff(one, two)
