"""A small, complete bundle that tests bend in one place each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

AGENT = """\
apiVersion: mlflow-agents/v1
name: shop
description: Answers questions about a shop.
owner: shop-team
workflow:
  goal: Help customers of the shop
  allowed_tools: [refund, find_order]
graph:
  entry_point: graph:build
model:
  provider: scripted
  name: replies
  path: model
prompts:
  system: prompts/system.md
tools:
  python:
    - name: refund
      entry_point: tools:refund
    - name: find_order
      entry_point: tools:find_order
  resources: shop:open_shop
memory:
  window_turns: 5
retrieval:
  path: knowledge
"""

REFUND = """\
apiVersion: mlflow-agents/v1
name: refund
version: 1.0.0
description: Pay an order back.
input:
  type: object
  properties:
    order: {type: string}
    amount_minor: {type: integer, minimum: 1}
  required: [order]
  additionalProperties: false
output:
  type: object
  properties:
    status: {enum: [done, refused]}
  required: [status]
effect: write
scopes: [orders.write]
examples:
  - input: {order: A1, amount_minor: 100}
    output: {status: done}
"""

FIND_ORDER = """\
apiVersion: mlflow-agents/v1
name: find_order
version: 1.2.0
description: Look an order up.
input: {type: object, properties: {order: {type: string}}, required: [order]}
output: {type: object}
effect: read
"""

FILES: dict[str, str | bytes] = {
    "agent.yaml": AGENT,
    "contracts/refund.yaml": REFUND,
    "contracts/find_order.yaml": FIND_ORDER,
    "prompts/system.md": "You help customers.\n\nGoal: {{ goal }}\n",
    "graph.py": (
        "from shop import Shop\n\n\ndef build(context):\n"
        '    return Shop, context.prompts["system"].render(goal="help")\n'
    ),
    "tools.py": (
        "def refund(context, *, order):\n    from shop import Shop\n\n    return Shop\n\n\n"
        "def find_order(context, *, order):\n    return {}\n"
    ),
    "shop.py": "class Shop:\n    pass\n\n\ndef open_shop(settings):\n    return Shop()\n",
    "policies/permit.cedar": "// nothing\n",
    "gate.yaml": "stages: {}\n",
    "knowledge/returns.md": "# Returns\n\nWithin 30 days.\n",
    "model/weights.bin": b"\x00\x01\x02",
    "README.md": "A shop agent.\n",
}


@pytest.fixture
def write(tmp_path) -> Callable[..., Path]:
    """Return a function that writes the small bundle with some files replaced (None: left out)."""

    def _write(
        changes: Mapping[str, str | bytes | None] | None = None, *, name: str = "bundle"
    ) -> Path:
        root = tmp_path / name
        for path, content in {**FILES, **(changes or {})}.items():
            if content is None:
                continue
            target = root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            data = content.encode() if isinstance(content, str) else content
            target.write_bytes(data)
        return root

    return _write


@pytest.fixture
def edit():
    """Return a function that replaces one part of a text and insists that it was there."""

    def _edit(text: str, old: str, new: str) -> str:
        assert text.count(old) == 1, (old, text.count(old))
        return text.replace(old, new)

    return _edit


@pytest.fixture
def files() -> dict[str, str]:
    """Return the small bundle's files by path."""
    return dict(FILES)


@pytest.fixture
def write_edited(write, edit):
    """Return a function that writes the bundle with one part of one file replaced."""

    def _write_edited(path: str, old: str, new: str, *, name: str = "bundle") -> Path:
        return write({path: edit(FILES[path], old, new)}, name=name)

    return _write_edited
