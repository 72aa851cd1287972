"""Same content, same digest; any other content, another digest."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_agent_plugin.errors import BundleError, IntegrityError
from mlflow_agent_plugin.package import COMPONENTS, BundleDigest, compute_digest, read_manifest


def changed(before, after):
    """Return the components that differ."""
    return {name for name in COMPONENTS if before.components[name] != after.components[name]}


def test_location_times_and_rights_do_not_enter(write, tmp_path):
    root = write()
    other = Path(shutil.copytree(root, tmp_path / "far" / "away"))
    for path in other.rglob("*"):
        os.utime(path, (1, 1))
        if path.is_file():
            path.chmod(0o755)
    assert compute_digest(root) == compute_digest(other)


def test_the_digest_of_a_known_bundle_is_what_it_was_on_every_machine(write):
    # A golden value: if it changes, every digest ever recorded becomes worthless.
    assert compute_digest(write()).value == (
        "sha256:8c808d85acef1b6d71fec1cbd14238921b1a8589dba9ff6103647e41597faaaf"
    )


def test_the_value_can_be_recomputed_with_the_standard_library_alone(write, files):
    listed = []
    for path in sorted(files):
        data = files[path] if isinstance(files[path], bytes) else files[path].encode()
        digest = hashlib.sha256(data).hexdigest()
        listed.append({"path": path, "sha256": digest, "size": len(data)})
    text = json.dumps(listed, separators=(",", ":"), sort_keys=True)
    expected = "sha256:" + hashlib.sha256(text.encode()).hexdigest()
    assert compute_digest(write()).value == expected


@pytest.mark.parametrize(
    "name",
    ["__pycache__/a.py", "a.pyc", ".git/config", ".git", ".DS_Store", ".ipynb_checkpoints/a.md"],
)
@pytest.mark.parametrize("folder", ["", "knowledge/"])
def test_by_products_of_tools_do_not_enter(write, name, folder):
    assert compute_digest(write()) == compute_digest(write({folder + name: b"x"}, name="other"))


@pytest.mark.parametrize(
    "name", [".env", ".hidden/a", "a.pyo", "a~", ".gitignore", "git", "pycache", ".venv/x", "x.so"]
)
def test_nothing_else_hides_from_the_digest(write, name):
    assert compute_digest(write()).value != compute_digest(write({name: b"x"}, name="other")).value


def test_empty_folders_do_not_enter(write):
    root = write()
    before = compute_digest(root)
    (root / "empty" / "deep").mkdir(parents=True)
    assert compute_digest(root) == before


@pytest.mark.parametrize(
    ("path", "component"),
    [
        ("prompts/system.md", "prompts"),
        ("graph.py", "graph"),
        ("tools.py", "tools"),
        ("shop.py", "tools"),
        ("contracts/refund.yaml", "tools"),
        ("policies/permit.cedar", "policies"),
        ("gate.yaml", "policies"),
        ("model/weights.bin", "model"),
        ("knowledge/returns.md", "knowledge"),
        ("README.md", "code"),
    ],
)
def test_a_changed_file_changes_its_own_component_only(write, files, path, component):
    content = files[path]
    more = content + (b"\n" if isinstance(content, bytes) else "\n")
    before = compute_digest(write())
    after = compute_digest(write({path: more}, name="other"))
    assert changed(before, after) == {component}
    assert after.value != before.value


@pytest.mark.parametrize(
    ("old", "new", "component"),
    [
        ("goal: Help customers of the shop", "goal: Sell", "policies"),
        ("window_turns: 5", "window_turns: 6", "memory"),
        ("path: knowledge", "path: knowledge\n  top_k: 7", "retrieval"),
        ("name: replies", "name: other", "model"),
        ("entry_point: graph:build", "entry_point: graph:build\n  settings: {a: 1}", "graph"),
        ("owner: shop-team", "owner: other-team", "code"),
        ("name: shop", "name: shop2", "code"),
        ("open_shop", "open_shop\n  resource_settings: {a: 1}", "tools"),
        ("  system: prompts", "  other: prompts", "prompts"),
    ],
)
def test_a_changed_manifest_section_changes_the_component_it_describes(
    write, files, edit, old, new, component
):
    before = compute_digest(write())
    after = compute_digest(write({"agent.yaml": edit(files["agent.yaml"], old, new)}, name="other"))
    assert changed(before, after) == {component}


def test_a_comment_in_the_manifest_changes_the_value_and_no_component(write, files):
    before = compute_digest(write())
    after = compute_digest(write({"agent.yaml": files["agent.yaml"] + "# more\n"}, name="other"))
    assert after.value != before.value
    assert changed(before, after) == set()


def test_a_renamed_file_changes_the_digest(write):
    before = compute_digest(write())
    renamed = {"README.md": None, "README.txt": "A shop agent.\n"}
    assert compute_digest(write(renamed, name="other")).value != before.value


def test_content_moved_between_two_files_changes_the_digest(write):
    one = compute_digest(write({"a": "ab", "b": "c"}))
    two = compute_digest(write({"a": "a", "b": "bc"}, name="other"))
    assert one.value != two.value


def test_a_name_counts_in_its_composed_form(write):
    composed = compute_digest(write({"caf\u00e9.md": "x"}))
    decomposed = compute_digest(write({"cafe\u0301.md": "x"}, name="other"))
    assert composed == decomposed


def test_a_file_larger_than_a_chunk_is_read_whole(write):
    data = bytearray(3 * 1024 * 1024 + 17)
    before = compute_digest(write({"model/big.bin": bytes(data)}))
    data[-1] = 1
    assert compute_digest(write({"model/big.bin": bytes(data)})).value != before.value


def test_a_number_json_cannot_spell_exactly_is_refused_not_rounded(write_edited):
    root = write_edited(
        "agent.yaml", "  name: replies", f"  name: replies\n  settings: {{a: {2**60}}}"
    )
    with pytest.raises(BundleError, match=r"agent\.yaml: model"):
        compute_digest(root)


def test_a_given_manifest_is_used(write):
    root = write()
    assert compute_digest(root, read_manifest(root)[0]) == compute_digest(root)


def test_a_digest_survives_its_dictionary(write):
    digest = compute_digest(write())
    assert BundleDigest.from_dict(digest.to_dict()) == digest


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data.pop("files"),
        lambda data: data.update(value="sha256:" + "0" * 64),
        lambda data: data["files"].pop(),
        lambda data: data["files"][0].update(size=-1),
        lambda data: data["files"][0].update(size=True),
        lambda data: data["files"][0].update(sha256="0" * 64),
        lambda data: data["files"][0].update(component="other"),
        lambda data: data["components"].pop("code"),
        lambda data: data.update(components=[]),
    ],
)
def test_a_spoiled_dictionary_is_refused(write, spoil):
    data = compute_digest(write()).to_dict()
    spoil(data)
    with pytest.raises(IntegrityError):
        BundleDigest.from_dict(data)


@pytest.mark.parametrize("data", [None, [], "x", 7, {}])
def test_a_dictionary_of_another_kind_is_refused(data):
    with pytest.raises(IntegrityError):
        BundleDigest.from_dict(data)


MANIFEST = """\
apiVersion: mlflow-agents/v1
name: a
description: d
owner: o
workflow: {goal: g}
model: {provider: scripted, name: x}
"""
names = st.text("abcdefgh", min_size=1, max_size=3)
contents = st.binary(max_size=40)
bundles = st.dictionaries(names, contents, min_size=1, max_size=5)


def written(files, *, order=lambda names: names):
    """Write `files` into a fresh folder in the given order and return the digest."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "agent.yaml").write_text(MANIFEST)
        for name in order(sorted(files)):
            (root / name).write_bytes(files[name])
        return compute_digest(root)


@settings(max_examples=40, deadline=None)
@given(bundles, st.randoms(use_true_random=False))
def test_order_and_place_of_writing_do_not_matter(files, random):
    def shuffled(names):
        random.shuffle(names)
        return names

    assert written(files, order=shuffled) == written(files)


@settings(max_examples=60, deadline=None)
@given(bundles, st.data())
def test_any_flipped_bit_changes_the_digest(files, data):
    filled = [name for name in files if files[name]]
    if not filled:
        return
    name = data.draw(st.sampled_from(filled))
    at = data.draw(st.integers(0, len(files[name]) - 1))
    bit = data.draw(st.integers(0, 7))
    flipped = bytearray(files[name])
    flipped[at] ^= 1 << bit
    before, after = written(files), written({**files, name: bytes(flipped)})
    assert before.value != after.value
    assert changed(before, after) == {"code"}


@settings(max_examples=40, deadline=None)
@given(bundles, bundles)
def test_two_bundles_share_a_digest_only_if_they_share_everything(one, two):
    assert (written(one).value == written(two).value) == (one == two)
