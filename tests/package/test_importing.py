"""A bundle's code meets its own files, and nothing else meets them."""

from __future__ import annotations

import importlib
import inspect
import shutil
import subprocess
import sys
import threading
import traceback
import typing

import pytest

from mlflow_agent_plugin.errors import BundleError, GraphError, IntegrityError
from mlflow_agent_plugin.package import import_entry_point, load_bundle
from mlflow_agent_plugin.package.importing import PREFIX


@pytest.fixture(autouse=True)
def _forget_bundles():
    """Take the bundles of this test out of `sys.modules` again."""
    yield
    for name in [name for name in sys.modules if name.startswith(PREFIX)]:
        del sys.modules[name]


class Context:
    """What the graph of the small bundle wants to see."""

    def __init__(self, bundle):
        self.prompts = bundle.prompts


def test_a_sibling_import_finds_the_bundles_own_module(write):
    bundle = load_bundle(write())
    shop, text = import_entry_point(bundle, "graph:build")(Context(bundle))
    assert shop.__module__.startswith(PREFIX)
    assert "Goal: help" in text


def test_a_lazy_import_in_a_function_finds_the_same_module(write):
    bundle = load_bundle(write())
    shop, _ = import_entry_point(bundle, "graph:build")(Context(bundle))
    assert import_entry_point(bundle, "tools:refund")(None, order="1") is shop


def test_every_form_of_import_works(write):
    code = """\
import lib
import lib.deep.leaf
import lib.deep.leaf as leaf
import lib.deep as deep
from lib import deep as same_deep, top
from lib.deep import leaf as same_leaf
from lib.deep.leaf import VALUE
from . import shop
from .shop import Shop
from lib import *
import json, os.path
from importlib import import_module

def build(context):
    from lib.deep.leaf import VALUE as late
    import lib.deep.leaf
    assert lib.deep.leaf is leaf is same_leaf and deep is same_deep
    assert shop.Shop is Shop and import_module(".shop", __package__) is shop
    assert starred == 1 and os.path.join and json.dumps
    return VALUE, late, top.UP, leaf.TOP_AGAIN
"""
    root = write(
        {
            "graph.py": code,
            "lib/__init__.py": "starred = 1\n",
            "lib/top.py": "UP = 3\n",
            "lib/deep/leaf.py": "from ..top import UP as TOP_AGAIN\nVALUE = 2\n",
        }
    )
    assert import_entry_point(load_bundle(root), "graph:build")(None) == (2, 2, 3, 3)


def test_two_versions_in_one_process_do_not_meet(write):
    one = load_bundle(write({"shop.py": "class Shop: version = 1\ndef open_shop(s): ...\n"}))
    two = load_bundle(
        write({"shop.py": "class Shop: version = 2\ndef open_shop(s): ...\n"}, name="two")
    )
    first, second = (import_entry_point(bundle, "tools:refund") for bundle in (one, two))
    assert [first(None, order="").version, second(None, order="").version] == [1, 2]
    assert first(None, order="").version == 1


def test_the_same_content_elsewhere_is_the_same_code(write):
    one, two = load_bundle(write()), load_bundle(write(name="two"))
    assert import_entry_point(one, "graph:build") is import_entry_point(two, "graph:build")


def test_content_whose_first_folder_is_gone_is_loaded_from_where_it_is_now(write):
    code = "from pathlib import Path\ndef build(c):\n    return Path(__file__).read_text()\n"
    one = load_bundle(write({"graph.py": code}))
    old_build = import_entry_point(one, "graph:build")
    two = load_bundle(write({"graph.py": code}, name="two"))
    shutil.rmtree(one.root)
    assert import_entry_point(two, "graph:build")(None) == code
    assert old_build.__globals__["Path"]


def test_a_lazy_import_works_after_the_folder_is_gone(write):
    bundle = load_bundle(write())
    refund = import_entry_point(bundle, "tools:refund")
    shutil.rmtree(bundle.root)
    assert refund(None, order="1").__name__ == "Shop"


def test_other_code_sees_nothing_of_the_bundle(write):
    root = write(
        {
            "json.py": "def dumps(x):\n    return 'fake'\n",
            "graph.py": "import json\nbuild = json.dumps\n",
        }
    )
    path, names = list(sys.path), set(sys.modules)
    assert import_entry_point(load_bundle(root), "graph:build")(1) == "fake"
    assert sys.path == path
    assert all(name.startswith(PREFIX) for name in set(sys.modules) - names)
    assert sys.modules["json"].dumps(1) == "1"
    assert importlib.import_module("json").dumps(1) == "1"
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("shop")


def test_a_module_of_the_bundle_hides_no_standard_module_from_libraries_it_uses(write):
    # `csv` imports `io` and `re`: it must get the real ones, although the bundle has its own.
    root = write({"io.py": "raise RuntimeError\n", "graph.py": "import csv\nbuild = csv.reader\n"})
    sys.modules.pop("csv", None)
    assert list(import_entry_point(load_bundle(root), "graph:build")(["a,b"])) == [["a", "b"]]


def test_no_bytecode_is_written_and_none_is_read(write):
    root = write()
    (root / "__pycache__").mkdir()
    for module in ("graph", "shop"):
        (root / "__pycache__" / f"{module}.{sys.implementation.cache_tag}.pyc").write_bytes(b"evil")
    (root / "evil.pyc").write_bytes(b"evil")
    before = sorted(root.rglob("*"))
    import_entry_point(load_bundle(root), "graph:build")
    assert sorted(root.rglob("*")) == before


def test_a_source_that_changed_after_loading_does_not_run(write):
    bundle = load_bundle(write({"README.md": "never imported before"}))
    (bundle.root / "shop.py").write_text("raise SystemExit\n")
    with pytest.raises(IntegrityError, match=r"shop\.py"):
        import_entry_point(bundle, "graph:build")


@pytest.mark.parametrize(
    ("code", "line", "says"),
    [
        ("x = 1\n1 / 0\ndef build(c): ...\n", 2, "ZeroDivisionError"),
        ("import nothing_like_this\ndef build(c): ...\n", 1, "nothing_like_this"),
        ("raise SystemExit(3)\ndef build(c): ...\n", 1, "SystemExit"),
        ("from shop import Shap\ndef build(c): ...\n", 1, "Shap"),
        ("import os\nos.nothing\ndef build(c): ...\n", 2, "AttributeError"),
        ("raise BaseException('a\\nb')\ndef build(c): ...\n", 1, "a b"),
        ("import json\njson.loads('{')\ndef build(c): ...\n", 2, "JSONDecodeError"),
    ],
)
def test_a_graph_that_fails_to_import_is_one_error_with_file_and_line(write, code, line, says):
    bundle = load_bundle(write({"graph.py": code}))
    with pytest.raises(GraphError) as caught:
        import_entry_point(bundle, "graph:build")
    text = str(caught.value)
    assert f"graph.py:{line}: cannot be imported" in text
    assert says in text
    assert "\n" not in text


def test_a_sibling_that_fails_to_import_is_named_itself(write):
    bundle = load_bundle(write({"shop.py": "def open_shop(s): ...\n\nboom()\n"}))
    with pytest.raises(GraphError, match=r"shop\.py:3"):
        import_entry_point(bundle, "graph:build")
    # and again: a failed import leaves nothing half-made behind
    with pytest.raises(GraphError, match=r"shop\.py:3"):
        import_entry_point(bundle, "graph:build")


def test_a_tool_that_fails_to_import_is_a_bundle_error(write):
    bundle = load_bundle(write({"tools.py": "boom()\ndef refund(): ...\ndef find_order(): ...\n"}))
    with pytest.raises(BundleError) as caught:
        import_entry_point(bundle, "tools:refund")
    assert type(caught.value) is BundleError


@pytest.mark.parametrize(
    "entry_point",
    ["nothing:build", "graph:missing", "graph", "graph:", "", ":", "json:dumps", "..graph:build"],
)
def test_an_entry_point_that_is_not_in_the_bundle_is_refused(write, entry_point):
    with pytest.raises(BundleError):
        import_entry_point(load_bundle(write()), entry_point)


def test_an_attribute_that_a_star_import_promised_may_be_missing(write):
    bundle = load_bundle(write({"graph.py": "from shop import *\n"}))
    with pytest.raises(GraphError, match="defines no `build`"):
        import_entry_point(bundle, "graph:build")


def test_a_script_whose_name_is_no_identifier_is_content_and_no_module(write):
    bundle = load_bundle(write({"make-data.py": "raise SystemExit\n", "tools/x-y/z.py": "boom\n"}))
    assert import_entry_point(bundle, "graph:build")


def test_source_in_another_declared_encoding_is_read_as_python_reads_it(write):
    bundle = load_bundle(write({"graph.py": "# \u20ac\ndef build(c):\n    return '\u20ac'\n"}))
    build = import_entry_point(bundle, "graph:build")
    assert build(None) == "\u20ac"
    assert "\u20ac" in inspect.getsource(sys.modules[build.__module__])


def test_circular_imports_work_as_in_python(write):
    root = write(
        {
            "graph.py": "import left\ndef build(c):\n    return left.right.left is left\n",
            "left.py": "import right\n",
            "right.py": "import left\n",
        }
    )
    assert import_entry_point(load_bundle(root), "graph:build")(None)


def test_type_hints_and_dataclasses_resolve_in_the_bundles_module(write):
    code = """\
from __future__ import annotations
from dataclasses import dataclass
from typing import TypedDict
from shop import Shop

class State(TypedDict):
    shop: Shop

@dataclass
class Item:
    shop: Shop

def build(context):
    return State, Item
"""
    state, item = import_entry_point(load_bundle(write({"graph.py": code})), "graph:build")(None)
    assert typing.get_type_hints(state)["shop"].__name__ == "Shop"
    assert typing.get_type_hints(item)["shop"].__name__ == "Shop"


def test_a_traceback_shows_the_bundles_lines(write):
    bundle = load_bundle(write({"graph.py": "def build(context):\n    return context / 0\n"}))
    with pytest.raises(ZeroDivisionError) as caught:
        import_entry_point(bundle, "graph:build")(1)
    assert "return context / 0" in "".join(traceback.format_exception(caught.value))


def test_threads_that_import_at_once_get_one_module(write):
    code = "RAN = []\nRAN.append(1)\nimport slow\ndef build(c):\n    return RAN\n"
    slow = "import threading\nfor _ in range(20000): threading.get_ident()\n"
    bundle = load_bundle(write({"graph.py": code, "slow.py": slow}))
    barrier, results = threading.Barrier(8), []

    def work():
        barrier.wait()
        results.append(import_entry_point(bundle, "graph:build"))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    assert len({id(result) for result in results}) == 1
    assert results[0](None) == [1]


def test_a_finder_that_someone_removed_comes_back(write):
    bundle = load_bundle(write())
    refund = import_entry_point(bundle, "tools:find_order") and import_entry_point(
        bundle, "tools:refund"
    )
    sys.meta_path[:] = [f for f in sys.meta_path if type(f).__name__ != "_Finder"]
    assert refund(None, order="1").__name__ == "Shop"


def test_a_module_is_named_by_content_so_other_processes_agree(write):
    root = write()
    script = (
        "import sys; from mlflow_agent_plugin.package import *\n"
        "print(import_entry_point(load_bundle(sys.argv[1]), 'graph:build').__module__)"
    )
    out = subprocess.run(
        [sys.executable, "-c", script, str(root)], capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == import_entry_point(load_bundle(root), "graph:build").__module__
